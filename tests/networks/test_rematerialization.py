"""Memory for computation: the same values, gradients and parameters, with less stored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.config.experiment import Experiment
from diffusion.config.identity import differences
from diffusion.config.sections import ConfigError
from diffusion.networks.remat import REMATS, remat_name
from diffusion.registry import build
from diffusion.run import runner
from diffusion.run.workdir import Workdir

CASES = {
    "dit": dict(name="dit", patch=2, width=32, depth=3, heads=2, qk_norm=True),
    "dit_scanned": dict(name="dit", patch=2, width=32, depth=3, heads=2, scan_blocks=True),
    "unet": dict(name="unet", channels=8, multipliers=(1, 2), blocks=1, attention=(4,)),
    "unet_resampling_in_blocks": dict(
        name="unet", channels=8, multipliers=(1, 2), blocks=1, resample_in_block=True
    ),
}
X = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
LOG_SNR = jnp.linspace(-6.0, 6.0, 4)


def perturb(params):
    """Move every parameter: at the start the blocks are the identity, and most gradients 0."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: p + jnp.asarray(0.2 * random.standard_normal(p.shape), p.dtype), params
    )


def loss_of(network, key=None):
    return lambda p, x: (network.apply(p, x, LOG_SNR[: len(x)], None, key) ** 2).sum()


def stored(network, params):
    """Bytes that the backward pass finds, without the parameters, which are there in any case."""
    batch = lambda n: jax.ShapeDtypeStruct((n, 8, 8, 1), jnp.float32)

    def bytes_of(n):
        backward = lambda p, x: jax.vjp(lambda q: loss_of(network)(q, x), p)[1]
        leaves = jax.tree.leaves(jax.eval_shape(backward, params, batch(n)))
        return sum(x.size * x.dtype.itemsize for x in leaves)

    return bytes_of(2) - bytes_of(1)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_less_is_stored(case):
    """And parameters keep names and values, so that a checkpoint of one opens in the other."""
    networks = {name: build("network", CASES[case] | {"remat": name}) for name in REMATS}
    drawn = {k: n.init(jax.random.key(1), X, LOG_SNR) for k, n in networks.items()}
    for name in ("dots", "full"):
        assert jax.tree.structure(drawn[name]) == jax.tree.structure(drawn["none"])
        jax.tree.map(np.testing.assert_array_equal, drawn[name], drawn["none"])
    sizes = {name: stored(n, drawn["none"]) for name, n in networks.items()}
    assert sizes["full"] < 0.8 * sizes["dots"]
    assert sizes["dots"] < 0.8 * sizes["none"]


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_stay(case):
    """Drop-out included: the same is dropped when it is computed again."""
    key = jax.random.key(2)
    found = {}
    for name in REMATS:
        network = build("network", CASES[case] | {"remat": name, "dropout": 0.3})
        params = perturb(network.init(jax.random.key(1), X, LOG_SNR))
        found[name] = jax.jit(jax.value_and_grad(loss_of(network, key)))(params, X)
    # the same operations, fused in another way: some tens of roundings of the largest entry
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5 * float(jnp.abs(a).max()))
    for name in ("dots", "full"):
        jax.tree.map(close, found["none"], found[name])


@pytest.mark.slow
def test_a_loop_over_blocks_may_be_written_out():
    found = []
    for unroll in (1, 2, 3):  # of three blocks: one that does not divide them as well
        network = build("network", CASES["dit_scanned"] | {"unroll": unroll})
        params = perturb(network.init(jax.random.key(1), X, LOG_SNR))
        found.append(jax.jit(jax.value_and_grad(loss_of(network)))(params, X))
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5 * float(jnp.abs(a).max()))
    jax.tree.map(close, found[0], found[1])
    jax.tree.map(close, found[0], found[2])
    with pytest.raises(ValueError, match="unroll"):
        build("network", CASES["dit_scanned"] | {"unroll": 0}).init(jax.random.key(1), X, LOG_SNR)


def test_truth_values_of_earlier_configs_are_read():
    assert [remat_name(x) for x in (False, True, "False", "True", "dots")] == [
        "none", "full", "none", "full", "dots",
    ]  # fmt: skip
    for name in ("unet", "dit"):
        for value in (False, True, "none", "dots", "full"):
            assert build("network", CASES[name] | {"remat": value}) is not None
        with pytest.raises(TypeError, match="remat"):
            build("network", CASES[name] | {"remat": 3})


@pytest.mark.parametrize("name", ["unet", "dit"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match=r"`remat` must be one of.*dots"):
        build("network", CASES[name] | {"remat": "dot"}).init(jax.random.key(1), X, LOG_SNR)


CONFIG = {
    "process": "vp",
    "network": CASES["unet"] | {"attention": (), "channels": 4},
    "data": {"name": "digits", "batch_size": 8},
    "parallel": {"name": "mesh", "num_devices": 1},
    "train": {"num_steps": 2, "sample_every": 0, "log_every": 2, "checkpoint_every": 2},
}


def changed(**fields):
    return CONFIG | {"network": CONFIG["network"] | fields}


def test_a_run_may_go_on_with_another_choice_and_with_nothing_else():
    assert differences(CONFIG, changed(remat="dots", unroll=2)) == []
    assert differences(CONFIG, changed(remat="dots", channels=8)) == [
        "network.channels: 4 -> 8",
    ]


@pytest.mark.slow
def test_a_checkpoint_opens_under_another_choice(tmp_path):
    workdir = Workdir.of(tmp_path)
    runner.run(Experiment.from_config(CONFIG), workdir)
    config = changed(remat="full") | {"train": CONFIG["train"] | {"num_steps": 3}}
    assert int(runner.run(Experiment.from_config(config), workdir).step) == 3
    with pytest.raises(ConfigError, match="channels"):
        runner.run(Experiment.from_config(changed(channels=8)), workdir)
