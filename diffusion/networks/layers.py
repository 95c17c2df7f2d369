"""Layers for images and signals: normalization, resampling, attention, padding.

Arrays are (batch, *space, channels) with one or two spatial axes. Every layer acts on each example
separately, so no output depends on other examples of the batch.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from diffusion.networks.base import precision, wide
from diffusion.networks.convolutions import Features, NewFeatures, conv, interleave
from diffusion.networks.initializers import kernel
from diffusion.networks.kernels import attention_implementation
from diffusion.networks.positions import rotate
from diffusion.numerics import at_least, multiple_of


def num_groups(channels: int) -> int:
    """Return the number of groups: at most 32, with at least 4 channels each if there are that many."""
    most = min(32, max(1, channels // 4))
    return next(g for g in range(most, 0, -1) if channels % g == 0)


class Affine(nn.Module):
    """A learned scale and shift per channel, in float32."""

    features: int
    dtype: str = "float32"

    @nn.compact
    def __call__(self) -> tuple[Array, Array]:
        """Return (scale, shift)."""
        make = lambda name, init: self.param(name, init, (self.features,), wide(self.dtype))
        return make("scale", nn.initializers.ones), make("bias", nn.initializers.zeros)


class GroupNorm(nn.Module):
    """Normalization over space and groups of channels, computed in float32 (Wu and He, 2018).

    y = scale (x - mean) / sqrt(var + 1e-5) + bias. Sums run over space first and then over the channels of a group:
    on CPUs this is faster than one sum over both (docs/performance.md), and more accurate.
    """

    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Features) -> Features:
        """Normalize x and apply a learned scale and shift per channel."""
        scale, bias = Affine(x.shape[-1], self.dtype, name="GroupNorm_0")()  # Linen's own name
        x = x.astype(wide(self.dtype))
        flat = x.reshape(len(x), -1, x.shape[-1])  # a single spatial axis
        size = x.shape[-1] // num_groups(x.shape[-1])
        spread = lambda a: jnp.repeat(a, size, axis=-1).reshape(len(x), *(1,) * (x.ndim - 2), -1)
        mean, square = (
            rearrange(a.mean(1), "b (g c) -> b g c", c=size).mean(-1) for a in (flat, flat**2)
        )
        factor = jax.lax.rsqrt(jnp.maximum(square - mean**2, 0) + 1e-5)
        slope = spread(factor) * scale
        # in this form gradients need x only, not x - mean in addition
        y = slope * x + (bias - spread(mean) * slope)
        return y.astype(self.dtype)


def dense(
    features: int,
    dtype: str,
    *,
    zero: bool = False,
    bias: bool = True,
    gain: float = 1.0,
    last: float = 1.0,
    name: str | None = None,
) -> nn.Dense:
    """Return a linear layer over the last axis; `zero`, `gain` and `last` are those of `kernel`."""
    init = kernel(zero, gain, last)
    return nn.Dense(features, use_bias=bias, kernel_init=init, **precision(dtype), name=name)


def _split(x: Array, axis: int) -> Array:
    """Reshape an axis of even length n into axes (n / 2, 2)."""
    return x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])


def _neighbors(x: Array, axis: int) -> tuple[Array, Array]:
    """Return x[i - 1] and x[i + 1], with the values at the ends repeated."""
    n = x.shape[axis]
    take = lambda start, stop: jax.lax.slice_in_dim(x, start, stop, axis=axis)
    before = jnp.concatenate([take(0, 1), take(0, n - 1)], axis=axis)
    after = jnp.concatenate([take(1, n), take(n - 1, n)], axis=axis)
    return before, after


def _pool_down(x: Array, axis: int) -> Array:
    return _split(x, axis).mean(axis=axis + 1)


def _pool_up(x: Array, axis: int) -> Array:
    return interleave(x, x, axis)


def _fir_down(x: Array, axis: int) -> Array:
    """y_i = (x_{2i-1} + 3 x_{2i} + 3 x_{2i+1} + x_{2i+2}) / 8."""
    before, after = (_split(a, axis) for a in _neighbors(x, axis))
    even, odd = (_split(x, axis).take(i, axis=axis + 1) for i in range(2))
    return (before.take(0, axis + 1) + 3 * even + 3 * odd + after.take(1, axis + 1)) / 8


def _fir_up(x: Array, axis: int) -> Array:
    """y_{2i} = (x_{i-1} + 3 x_i) / 4, y_{2i+1} = (3 x_i + x_{i+1}) / 4."""
    before, after = _neighbors(x, axis)
    return interleave((before + 3 * x) / 4, (3 * x + after) / 4, axis)


# name: (halve, double) along one axis. FIR is the kernel [1, 3, 3, 1] of StyleGAN 2 and NCSN++.
FILTERS: dict[str, tuple[Callable[[Array, int], Array], Callable[[Array, int], Array]]] = {
    "pool": (_pool_down, _pool_up),
    "fir": (_fir_down, _fir_up),
}
RESAMPLINGS = (*FILTERS, "conv")


class Resample(nn.Module):
    """Halve (`up` False) or double the spatial axes; the number of channels is unchanged.

    "pool" averages or repeats; "fir" also smooths; "conv" is learned: a convolution with stride 2 to
    downsample, repetition and a convolution to upsample.
    """

    up: bool
    method: str = "pool"
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Features) -> NewFeatures:
        """Resample x, whose spatial axes must be even for downsampling."""
        dims, channels = x.ndim - 2, x.shape[-1]
        if self.method == "conv":
            stride = 1 if self.up else 2
            return conv(channels, dims, self.dtype, stride=stride, repeat=self.up, name="conv")(x)
        for axis in range(1, 1 + dims):
            x = FILTERS[self.method][self.up](x, axis)
        return x


def pad_to_multiple(x: Features, multiple: int) -> NewFeatures:
    """Pad all spatial axes to multiples by repeating the border of x, half at each end."""
    gaps = [-n % multiple for n in x.shape[1:-1]]
    widths = [(0, 0), *((gap // 2, gap - gap // 2) for gap in gaps), (0, 0)]
    return jnp.pad(x, widths, mode="edge") if any(gaps) else x


def fold_space(x: Features, patch: int) -> NewFeatures:
    """Fold spatial patches into channels: (batch, height, width, c) becomes (batch, h, w, patch^2 c)."""
    if patch == 1:
        return x
    if x.ndim == 3:
        return rearrange(x, "b (l p) c -> b l (p c)", p=patch)
    return rearrange(x, "b (h p) (w q) c -> b h w (p q c)", p=patch, q=patch)


def unfold_space(x: Features, patch: int) -> NewFeatures:
    """Undo `fold_space`."""
    if patch == 1:
        return x
    if x.ndim == 3:
        return rearrange(x, "b l (p c) -> b (l p) c", p=patch)
    return rearrange(x, "b h w (p q c) -> b (h p) (w q) c", p=patch, q=patch)


def crop(x: Features, space: tuple[int, ...]) -> NewFeatures:
    """Undo `pad_to_multiple`: keep the center, of the given size."""
    starts = [(n - wanted) // 2 for n, wanted in zip(x.shape[1:-1], space, strict=True)]
    window = [slice(s, s + n) for s, n in zip(starts, space, strict=True)]
    return x[(slice(None), *window)]


class Attention(nn.Module):
    """Softmax attention of all tokens to all tokens, (batch, tokens, features).

    Queries, keys and values have no bias; that of the keys would have no effect. `scale` multiplies
    the usual 1 / sqrt(features of a head). Softmax is computed in at least float32. `gain` multiplies the standard
    deviation of the initial weights of values and outputs.
    """

    heads: int
    qk_norm: bool = False
    zero: bool = False  # initialize as the constant 0
    dtype: str = "float32"
    gain: float = 1.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch tokens features"],
        angles: Float[Array, "tokens pairs"] | Float[np.ndarray, "tokens pairs"] | None = None,
        scale: float = 1.0,
    ) -> Float[Array, "batch tokens features"]:
        """Apply attention; queries and keys are rotated by `angles` (rotary positions)."""
        batch, tokens, features = x.shape
        check_heads(features, self.heads)
        policy = precision(self.dtype)
        head = features // self.heads
        layer = dense(3 * features, self.dtype, bias=False, gain=self.gain, last=1 / 3, name="qkv")
        qkv = layer(x)
        qkv = qkv.reshape(batch, tokens, 3, self.heads, head)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.qk_norm:  # bounds the logits (Henry et al. 2020)
            q = nn.RMSNorm(**policy, name="q_norm")(q)
            k = nn.RMSNorm(**policy, name="k_norm")(k)
        if angles is not None:
            q, k = rotate(q, angles), rotate(k, angles)
        mixed = jax.nn.dot_product_attention(
            q, k, v, scale=scale / math.sqrt(head),
            implementation=attention_implementation(q.dtype, head),
        )  # fmt: skip
        out = dense(features, self.dtype, zero=self.zero, gain=self.gain, name="out")
        return out(mixed.reshape(batch, tokens, features))


def check_heads(features: int, heads: int) -> None:
    """Raise ValueError unless the number of features is a multiple of the number of heads."""
    multiple_of(heads, width=features, hint=f"Its {heads} `heads` divide it: change one of them.")


def log_length_scale(tokens: int, train_tokens: int | None) -> float:
    """Return log n / log n_train, which preserves the entropy of attention at other lengths.

    It is 1 for n_train = None or n = n_train (Su, kexue.fm 8823; Chiang and Cholak, 2022).
    """
    if train_tokens is None:
        return 1.0
    at_least(2, train_tokens=train_tokens)
    return math.log(max(tokens, 2)) / math.log(train_tokens)
