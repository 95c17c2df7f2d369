"""How updates join the stream of a transformer: factors by depth, and what they keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.networks import dit
from diffusion.networks.residuals import OPTIMIZERS, RESIDUALS, depth_factors


def build(**fields):
    return dit(**({"patch": 2, "width": 16, "depth": 3, "heads": 2} | fields))


def drawn(network):
    return network.init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), jnp.zeros(1))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_factors_keep_the_update_apart_from_depth(optimizer):
    # deep_norm: 2N (c / a)^2 is 1 for SGD; 2N c / a is 1 for Adam; one block of 2N = 1 would be plain
    for depth in (1, 8, 100):
        stream, weights = depth_factors("deep_norm", depth, optimizer)
        power = {"sgd": 2, "adam": 1, "lamb": 2}[optimizer]
        assert 2 * depth * (weights / stream) ** power == pytest.approx(1)
        alone = depth_factors("deep_pre", depth, optimizer)
        assert alone.stream == 1
        assert 2 * depth * alone.weights**power == pytest.approx(1)


@pytest.mark.parametrize("residual", [r for r in RESIDUALS if not r.startswith("deep")])
def test_other_residuals_have_no_factors(residual):
    assert depth_factors(residual, 7) == (1.0, 1.0)


@pytest.mark.slow
def test_only_values_outputs_and_perceptrons_begin_smaller():
    plain, deep = drawn(build(residual="post_norm")), drawn(build(residual="deep_norm"))
    gain = depth_factors("deep_norm", 3).weights
    spread = lambda params, layer: float(np.std(params["block_1"][layer]["kernel"]))
    ratio = lambda layer: spread(deep, layer) / spread(plain, layer)
    for layer in ("mlp_in", "mlp_out"):
        assert ratio(layer) == pytest.approx(gain, rel=0.15)  # 1,024 numbers: 3 % each
    attention = deep["block_1"]["attention"]
    assert np.std(attention["out"]["kernel"]) == pytest.approx(gain / 4, rel=0.2)
    queries, keys, values = np.split(np.asarray(attention["qkv"]["kernel"]), 3, axis=1)
    for part, expected in ((queries, 1 / 4), (keys, 1 / 4), (values, gain / 4)):
        assert np.std(part) == pytest.approx(expected, rel=0.2)


@pytest.mark.parametrize("residual", RESIDUALS[1:])
def test_an_unconditioned_stream_is_moved_by_every_block(residual):
    network, x = build(residual=residual), jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
    features = jax.jit(network.hidden)(drawn(network), x, jnp.zeros(2))
    change = jnp.abs(features["features_2"] - features["features_0"]).max()
    assert change > 1e-3
    assert bool(jnp.isfinite(change))


def test_normalized_streams_have_unit_variance():
    network, x = build(residual="deep_norm"), jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
    h = jax.jit(network.hidden)(drawn(network), x, jnp.zeros(2))["features_2"]
    np.testing.assert_allclose(h.mean(axis=-1), 0, atol=1e-5)
    np.testing.assert_allclose(h.std(axis=-1), 1, atol=1e-3)


def test_unknown_names_say_what_there_is():
    with pytest.raises(ValueError, match="deep_norm"):
        depth_factors("deepnorm", 3)
    with pytest.raises(ValueError, match="adam"):
        drawn(build(residual="deep_norm", depth_for="adamw"))
