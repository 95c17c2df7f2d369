"""What guidance costs: the operations of the compiled program, its evaluations, its compilations."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion
from diffusion import build
from diffusion.guidance.model import ConditionalModel
from diffusion.models.denoiser import make_denoiser
from diffusion.samplers import base

VP = build("process", "vp")
SAMPLER = build("sampler", "ddim")
TIMES = VP.default_times(6)
NETWORK = build(
    "network",
    dict(name="unet", channels=8, multipliers=(1, 2), blocks=1, num_classes=10, middle_attention=False),
)  # fmt: skip


@pytest.fixture(scope="module")
def params():
    x = jnp.zeros((1, 8, 8, 1), jnp.float32)
    return NETWORK.init(jax.random.key(0), x, jnp.zeros(1), {"label": jnp.zeros(1, jnp.int32)})


def model_of(params, labels, guidance=()):
    cond = {"label": jnp.asarray(labels, jnp.int32)}
    denoise = base_model = make_denoiser(NETWORK, params, VP, build("prediction", "v"), cond)
    for entry in guidance:
        denoise = build("guidance", entry)(ConditionalModel(base_model, denoise))
    return denoise


def operations(denoise, x):
    """Floating-point operations of one evaluation, as the compiler counts them."""
    compiled = jax.jit(lambda d, x, t: d(x, t)).lower(denoise, x, jnp.float32(0.5)).compile()
    cost = compiled.cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"]


@pytest.mark.slow
def test_classifier_free_guidance_costs_two_evaluations(params):
    x, labels = jnp.zeros((4, 8, 8, 1), jnp.float32), np.arange(4)
    plain = operations(model_of(params, [-1] * 4), x)
    count = lambda *entries: operations(model_of(params, labels, entries), x) / plain
    free = dict(name="classifier_free", scale=3.0)
    assert 1.9 < count(free) <= 2.1
    assert count(free, "rescale", "dynamic_threshold") <= 2.15  # nothing is evaluated a third time
    assert count(dict(name="classifier_free", scale=1.0)) <= 1.01
    assert count(dict(name="classifier_free", scale=0.0)) <= 1.01
    assert count(dict(name="upsample", scale=1.2)) <= 1.4  # 1 + 1 / 2^2, and the pooling


def test_one_call_of_the_network_on_a_doubled_batch(params):
    """Not two calls, which a small device would run one after the other."""
    sizes = []

    @dataclasses.dataclass(frozen=True)
    class Counting:
        init = NETWORK.init

        def apply(self, params, x, log_snr, cond=None, key=None):
            sizes.append(len(x))
            return NETWORK.apply(params, x, log_snr, cond)

    cond = {"label": jnp.arange(4)}
    model = make_denoiser(Counting(), params, VP, build("prediction", "v"), cond)
    x = jnp.zeros((4, 8, 8, 1), jnp.float32)
    for entry in ("classifier_free", "negative", "cfg_pp"):
        given = {"negative": {"label": jnp.asarray(3)}, "times": TIMES}
        guided = build("guidance", entry)(ConditionalModel(model, None, given))
        sizes.clear()
        jax.eval_shape(guided, x, jnp.float32(0.5))
        assert sizes == [8], entry


@pytest.mark.slow
def test_a_sampler_is_compiled_once_for_all_scales_labels_and_weights(params):
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1), jnp.float32)
    free = lambda scale: dict(name="classifier_free", scale=scale)
    inside = lambda low: dict(name="interval", low=low, inner=free(2.0))
    base._compiled_loop.clear_cache()
    run = lambda model: diffusion.sample(SAMPLER, VP, model, None, x, TIMES, denoise_last=False)
    for scale, labels in ((2.0, [0, 1, 2, 3]), (3.5, [9, 9, 1, 1])):
        run(model_of(params, labels, [free(scale)]))
    run(model_of(jax.tree.map(lambda p: 1.1 * p, params), [0, 0, 0, 0], [free(2.0)]))
    assert base._compiled_loop._cache_size() == 1
    for low in (-2.0, -1.0):
        run(model_of(params, [0, 1, 2, 3], [inside(low)]))
    assert base._compiled_loop._cache_size() == 2


@pytest.mark.slow
def test_outside_its_interval_guidance_costs_one_evaluation(params):
    """Measured where it counts, at run time: the network is called on 4 images outside, on 8 inside."""
    sizes = []

    @dataclasses.dataclass(frozen=True)
    class Watched:
        init = NETWORK.init

        def apply(self, params, x, log_snr, cond=None, key=None):
            count = len(x)
            jax.debug.callback(lambda: sizes.append(count))
            return NETWORK.apply(params, x, log_snr, cond)

    cond = {"label": jnp.arange(4)}
    model = ConditionalModel(make_denoiser(Watched(), params, VP, build("prediction", "v"), cond))
    low, high = (float(VP.log_snr(t)) for t in (TIMES[3], TIMES[1]))
    low, high = min(low, high) - 1e-3, max(low, high) + 1e-3
    guided = build("guidance", dict(name="interval", low=low, high=high))(model)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1), jnp.float32)
    jax.block_until_ready(diffusion.sample(SAMPLER, VP, guided, None, x, TIMES, denoise_last=False))
    jax.effects_barrier()
    assert sorted(sizes) == [4, 4, 4, 8, 8, 8]  # six steps, three inside
