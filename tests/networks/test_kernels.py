"""Which implementation computes attention, and that derivatives of every kind can be taken."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.likelihood import exact_divergence, hutchinson_divergence
from diffusion.networks import kernels, layers
from diffusion.networks.kernels import attention_implementation, choose_attention
from diffusion.numerics import forward_derivatives, forward_derivatives_wanted

FAST = dict(platform="gpu", capability="9.0", dtype=jnp.bfloat16, head=64, forward=False)


@pytest.mark.parametrize(
    "change",
    [
        {}, {"dtype": jnp.float16}, {"capability": "8.0"}, {"capability": "12.0"}, {"head": 8}, {"head": 128},
        {"platform": "cuda"},
    ],
)  # fmt: skip
def test_cudnn_where_it_can_be_used(change):
    assert choose_attention(**FAST | change) == "cudnn"


@pytest.mark.parametrize(
    "change",
    [
        {"platform": "cpu", "capability": ""}, {"platform": "tpu", "capability": ""}, {"capability": "7.5"},
        {"capability": "gfx90a"}, {"dtype": jnp.float32}, {"dtype": jnp.float64}, {"head": 136}, {"head": 12},
        {"head": 4}, {"forward": True},
    ],
)  # fmt: skip
def test_xla_elsewhere(change):
    assert choose_attention(**FAST | change) == "xla"


def test_the_decision_looks_at_the_device(monkeypatch):
    assert attention_implementation(jnp.bfloat16, 64) == "xla"
    with jax.default_device("cpu"):
        assert attention_implementation(jnp.bfloat16, 64) == "xla"
    with jax.default_device(jax.devices()[0]):
        assert attention_implementation(jnp.bfloat16, 64) == "xla"
    pretend_a_gpu(monkeypatch)
    assert attention_implementation(jnp.bfloat16, 64) == "cudnn"
    with forward_derivatives():
        assert attention_implementation(jnp.bfloat16, 64) == "xla"
    assert attention_implementation(jnp.bfloat16, 64) == "cudnn"


def pretend_a_gpu(monkeypatch):
    device = SimpleNamespace(platform="gpu", compute_capability="9.0")
    monkeypatch.setattr(kernels, "current_device", lambda: device)


@pytest.fixture
def asked(monkeypatch):
    """The implementations that attention asks for on what it takes for a GPU; XLA computes them all."""
    names, attend = [], jax.nn.dot_product_attention

    def record(*args, implementation, **options):
        names.append(implementation)
        return attend(*args, implementation="xla", **options)

    pretend_a_gpu(monkeypatch)
    monkeypatch.setattr(layers.jax.nn, "dot_product_attention", record)
    return names


def attention_velocity():
    """A velocity with attention, compiled, as a model of somebody may be."""
    module = layers.Attention(1, dtype="bfloat16")
    params = module.init(jax.random.key(0), jnp.zeros((1, 3, 8)))
    return jax.jit(lambda x, t: t * module.apply(params, x).astype(x.dtype))


@pytest.mark.slow
def test_likelihoods_ask_for_what_has_forward_derivatives(asked):
    """Also of a function that was traced before, without them."""
    velocity = attention_velocity()
    x = jax.random.normal(jax.random.key(1), (2, 3, 8))
    asked.clear()
    velocity(x, 0.5)
    assert asked == ["cudnn"]
    _, divergence = exact_divergence(velocity, x, 0.5)
    assert asked[1:]
    assert set(asked[1:]) == {"xla"}
    _, estimate = hutchinson_divergence(velocity, x, 0.5, jnp.ones((1, *x.shape)))
    assert set(asked[1:]) == {"xla"}
    assert divergence.shape == estimate.shape == (2,)
    asked.clear()
    velocity(x, 0.5)  # and is not forgotten
    assert asked == []
    assert not forward_derivatives_wanted()


def test_reverse_derivatives_may_be_fast(asked):
    velocity = attention_velocity()
    asked.clear()
    jax.grad(lambda x: velocity(x, 0.5).sum())(jnp.ones((2, 3, 8)))
    assert asked == ["cudnn"]


@pytest.mark.slow
def test_nothing_changes_on_this_device(monkeypatch):
    """The implementation that is asked for is the one that JAX takes by itself."""
    x = jax.random.normal(jax.random.key(0), (2, 5, 16))
    module = layers.Attention(2)
    params = module.init(jax.random.key(1), x)
    found = module.apply(params, x)
    attend = jax.nn.dot_product_attention
    monkeypatch.setattr(
        layers.jax.nn,
        "dot_product_attention",
        lambda *args, implementation, **options: attend(*args, **options),
    )
    np.testing.assert_array_equal(found, module.apply(params, x))


@pytest.mark.gpu
@pytest.mark.skipif(
    attention_implementation(jnp.bfloat16, 64) == "xla", reason="needs a GPU with cuDNN's attention"
)
def test_both_implementations_agree():
    """To the roundings of bfloat16, 2^-8 each, of inputs and outputs of order one."""
    x = jax.random.normal(jax.random.key(0), (4, 64, 256))
    module = layers.Attention(4, dtype="bfloat16")
    params = module.init(jax.random.key(1), x)

    def value_and_gradient(x):
        return jax.value_and_grad(lambda x: (module.apply(params, x).astype(x.dtype) ** 2).mean())(
            x
        )

    fast = value_and_gradient(x)
    with forward_derivatives():
        plain = value_and_gradient(x)
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=0.05 * float(jnp.abs(b).max()))
