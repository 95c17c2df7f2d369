"""Special forms of convolutions are the plain ones: values, gradients, weights; and they save multiplications."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.flops import product_flops
from diffusion.networks.convolutions import conv
from diffusion.networks.layers import Resample

SHAPES = [(2, 6, 3), (2, 4, 6, 3), (1, 1, 1, 3)]
KEYS = jax.random.split(jax.random.key(0), 4)


def plain(x, params, *, repeat):
    """Return the convolution as it is defined."""
    kernel, dims = params["kernel"], x.ndim - 2
    for axis in range(1, 1 + dims * repeat):
        x = jnp.repeat(x, 2, axis)
    numbers = ("NWC", "WIO", "NWC") if dims == 1 else ("NHWC", "HWIO", "NHWC")
    return params["bias"] + jax.lax.conv_general_dilated(
        x, kernel, (1,) * dims, "SAME", dimension_numbers=numbers
    )


def case(shape, dtype, **options):
    """Return a layer, its parameters, an input, and a direction for gradients."""
    dims, wide = len(shape) - 2, jnp.promote_types(dtype, "float32")
    layer, size = conv(5, dims, dtype, **options), (options.get("size", 3),)
    x = jax.random.normal(KEYS[0], shape, dtype)
    kernel = jax.random.normal(KEYS[1], (*size * dims, shape[-1], 5), wide)
    params = {"kernel": kernel, "bias": jax.random.normal(KEYS[2], (5,), wide)}
    return lambda x, params: layer.apply({"params": params}, x), params, x


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [{"repeat": True}, {"size": 1}, {}], ids=["repeat", "one", "plain"])  # fmt: skip
def test_values_and_gradients(shape, options, x64):
    layer, params, x = case(shape, "float64", **options)
    expected = lambda x, params: plain(x, params, repeat="repeat" in options)
    y, back = jax.vjp(layer, x, params)
    z, true_back = jax.vjp(expected, x, params)
    np.testing.assert_allclose(y, z, atol=1e-12)
    dy = jax.random.normal(KEYS[3], y.shape, y.dtype)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-11), back(dy), true_back(dy))


@pytest.mark.parametrize("options", [{"repeat": True}, {"size": 1}])
def test_small_floats_stay_small_and_close(options):
    """A sum of weights is rounded once more, at 2^-9 of itself, and so is every result."""
    layer, params, x = case((2, 4, 6, 3), "bfloat16", **options)
    rounded = jax.tree.map(lambda p: p.astype("bfloat16").astype("float32"), params)
    y, exact = layer(x, params), plain(x.astype("float32"), rounded, repeat="repeat" in options)
    assert y.dtype == jnp.bfloat16
    size = plain(
        jnp.abs(x).astype("float32"), jax.tree.map(jnp.abs, rounded), repeat="repeat" in options
    )
    assert np.all(np.abs(np.asarray(y, np.float32) - exact) <= 2**-7 * size)


@pytest.mark.parametrize(("shape", "share"), [((2, 8, 3), 2 / 3), ((2, 8, 8, 3), 4 / 9)])
def test_repeated_input_saves_multiplications(shape, share):
    layer, params, x = case(shape, "float32", repeat=True)
    count = lambda fn: product_flops(jax.make_jaxpr(fn)(x, params).jaxpr)
    assert count(layer) <= share * count(lambda x, p: plain(x, p, repeat=True))


@pytest.mark.parametrize("shape", [(2, 8, 4), (2, 8, 8, 4)])
def test_learned_resampling_doubles_and_halves(shape):
    x = jnp.ones(shape)
    for up, size in ((True, 16), (False, 4)):
        params = {"kernel": jnp.ones((*(3,) * (len(shape) - 2), 4, 4)), "bias": jnp.zeros(4)}
        y = Resample(up, "conv").apply({"params": {"conv": params}}, x)
        assert y.shape == (2, *(size,) * (len(shape) - 2), 4)
