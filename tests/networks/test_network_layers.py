"""Layers against their definitions: resampling, padding, attention, groups."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.networks.base import wide
from diffusion.networks.dit import patchify, unpatchify
from diffusion.networks.layers import (
    Attention,
    GroupNorm,
    Resample,
    crop,
    log_length_scale,
    num_groups,
    pad_to_multiple,
)


def test_log_length_scale():
    assert log_length_scale(16, None) == 1.0
    assert log_length_scale(16, 16) == 1.0
    assert math.isclose(log_length_scale(64, 16), 1.5)  # log 64 / log 16 = 6 / 4
    with pytest.raises(ValueError, match="at least 2"):
        log_length_scale(4, 1)


def test_attention_is_softmax_attention():
    x = jax.random.normal(jax.random.key(0), (2, 5, 6))
    module = Attention(2)
    variables = module.init(jax.random.key(1), x)
    p = nn.unbox(variables["params"])
    q, k, v = np.split(np.asarray(x @ p["qkv"]["kernel"]).reshape(2, 5, 6, 3), 3, axis=2)
    logits = np.einsum("bnhd,bmhd->bhnm", q, k) * 0.7 / np.sqrt(3)
    mixed = np.einsum("bhnm,bmhd->bnhd", jax.nn.softmax(logits), v).reshape(2, 5, 6)
    expected = mixed @ p["out"]["kernel"] + p["out"]["bias"]
    np.testing.assert_allclose(module.apply(variables, x, None, 0.7), expected, atol=2e-6)


@pytest.mark.parametrize("shape", [(1, 6, 3), (1, 6, 4, 3)])
def test_patches_and_padding_are_undone(shape):
    x = jnp.arange(math.prod(shape), dtype=jnp.float32).reshape(shape)
    grid = tuple(n // 2 for n in shape[1:-1])
    np.testing.assert_array_equal(unpatchify(patchify(x, 2), 2, grid), x)
    padded = pad_to_multiple(x, 5)
    assert all(n % 5 == 0 for n in padded.shape[1:-1])
    np.testing.assert_array_equal(crop(padded, shape[1:-1]), x)


@pytest.mark.parametrize("shape", [(2, 6, 3), (2, 6, 4, 3)])
@pytest.mark.parametrize("method", ["pool", "fir", "conv"])
def test_resampling_sizes_constants_and_means(shape, method):
    x = jax.random.normal(jax.random.key(0), shape)
    for up, factor in ((True, 2.0), (False, 0.5)):
        module = Resample(up, method)
        variables = module.init(jax.random.key(1), x)
        y = module.apply(variables, x)
        assert y.shape == (shape[0], *(int(n * factor) for n in shape[1:-1]), shape[-1])
        if method != "conv":
            constant = module.apply(variables, jnp.ones(shape))
            np.testing.assert_allclose(constant, 1.0, rtol=1e-6)
            space = tuple(range(1, x.ndim - 1))
            if method == "pool" or up:  # columns of these filters have equal sums
                np.testing.assert_allclose(y.mean(space), x.mean(space), atol=1e-6)


def test_fir_is_the_kernel_1_3_3_1():
    """Away from the border: down is correlation with (1, 3, 3, 1) / 8, up is its transpose times two."""
    x = jax.random.normal(jax.random.key(0), (1, 8, 1))
    padded = np.pad(np.asarray(x[0, :, 0]), 1, mode="edge")
    down = np.correlate(padded, [1, 3, 3, 1], "valid")[::2] / 8
    np.testing.assert_allclose(Resample(False, "fir").apply({}, x)[0, :, 0], down, atol=1e-6)
    stuffed = np.zeros(16)
    stuffed[::2] = x[0, :, 0]
    up = np.convolve(stuffed, [1, 3, 3, 1])[1:-2] / 4
    y = Resample(True, "fir").apply({}, x)[0, :, 0]
    np.testing.assert_allclose(y[1:-1], up[1:-1], atol=1e-6)


@pytest.mark.parametrize("channels", [1, 2, 7, 8, 16, 48, 128, 192, 36])
def test_groups_divide_channels(channels):
    groups = num_groups(channels)
    assert channels % groups == 0
    assert groups <= 32
    assert channels < 8 or channels // groups >= 4


def normed(x, dtype):
    """Return our normalization of x, Linen's with the same weights, and the definition in float64."""
    groups, channels = num_groups(x.shape[-1]), x.shape[-1]
    weights = {
        "scale": jnp.linspace(0.5, 2, channels, dtype=wide(dtype)),
        "bias": jnp.linspace(-1, 1, channels, dtype=wide(dtype)),
    }
    variables = {"params": {"GroupNorm_0": weights}}
    ours = GroupNorm(dtype).apply(variables, x)
    theirs = nn.GroupNorm(groups, epsilon=1e-5, dtype=dtype).apply({"params": weights}, x)
    parts = np.asarray(x, np.float64).reshape(len(x), -1, groups, channels // groups)
    centered = parts - parts.mean((1, 3), keepdims=True)
    y = centered / np.sqrt((centered**2).mean((1, 3), keepdims=True) + 1e-5)
    return (
        ours,
        theirs,
        y.reshape(x.shape) * np.asarray(weights["scale"]) + np.asarray(weights["bias"]),
    )


@pytest.mark.parametrize("shape", [(2, 6, 12), (2, 4, 5, 16), (3, 7)])
def test_group_norm_is_its_definition(shape, x64):
    x = jax.random.normal(jax.random.key(0), shape, "float64") + 2
    ours, _, exact = normed(x, "float64")
    np.testing.assert_allclose(ours, exact, atol=1e-12)


def test_group_norm_loses_no_more_digits_than_linens():
    """E[x^2] - mean^2 cancels where a mean is large, and long sums in float32 add to that."""
    x = 3 + jax.random.normal(jax.random.key(0), (8, 32, 32, 32), "float32")
    ours, theirs, exact = normed(x, "float32")
    worst = lambda y: np.abs(np.asarray(y, np.float64) - exact).max()
    assert worst(ours) <= worst(theirs) < 1e-3


def test_group_norm_of_small_floats_is_computed_in_float32():
    x = (100 + jax.random.normal(jax.random.key(0), (2, 8, 8, 8))).astype("bfloat16")
    y = normed(x, "bfloat16")[0]
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        np.asarray(y, np.float32), normed(x, "bfloat16")[2], rtol=2**-8, atol=2e-3
    )
