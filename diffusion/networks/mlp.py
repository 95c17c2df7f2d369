"""Residual multilayer perceptron for points of any dimension.

Block: h + W_2 dropout(silu(W_1 ((1 + scale) norm(h) + shift))), where scale and shift are linear in the
embedding of noise level and condition (FiLM, Perez et al. 2018). W_2 and the head are initially zero, so
that the blocks are initially the identity and the network is the constant 0.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.networks.base import (
    FlaxNetwork,
    LogSNR,
    Number,
    precision,
    takes_fields_of,
    wide,
)
from diffusion.networks.embeddings import Embedder
from diffusion.networks.layers import dense
from diffusion.numerics import at_least, multiple_of
from diffusion.registry import register
from diffusion.types import Cond, DataLike


class ModulatedNorm(nn.Module):
    """(1 + scale) norm(h) + shift over the last axis; scale and shift are initially zero."""

    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch *tokens features"], emb: Float[Array, "batch k"]
    ) -> Float[Array, "batch *tokens features"]:
        """Normalize h and modulate it by the embedding."""
        policy = precision(self.dtype)
        modulation = dense(2 * h.shape[-1], self.dtype, zero=True, name="modulation")(emb)
        modulation = modulation.reshape(len(h), *(1,) * (h.ndim - 2), -1)
        scale, shift = jnp.split(modulation, 2, axis=-1)
        normed = nn.LayerNorm(use_bias=False, use_scale=False, **policy)(h)
        return (1 + scale) * normed + shift


class MLPBlock(nn.Module):
    """One residual block of the formula above."""

    dropout: Number = 0.0
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, h: Float[Array, "batch width"], emb: Float[Array, "batch k"]
    ) -> Float[Array, "batch width"]:
        """Return the next hidden state."""
        width = h.shape[-1]
        y = ModulatedNorm(self.dtype, name="norm")(h, emb)
        y = nn.silu(dense(width, self.dtype, name="in")(y))
        y = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(y)
        return h + dense(width, self.dtype, zero=True, name="out")(y)


class MLPTrunk(nn.Module):
    """The network without its head: (batch, ...) to (batch, width)."""

    width: int
    depth: int
    dropout: Number
    dtype: str

    @nn.compact
    def __call__(self, x: DataLike, emb: Float[Array, "batch k"]) -> Float[Array, "batch width"]:
        """Flatten x and apply the blocks."""
        flat = jnp.asarray(x, precision(self.dtype)["dtype"]).reshape(len(x), -1)
        h = dense(self.width, self.dtype, name="in")(flat)
        for i in range(self.depth):
            h = MLPBlock(self.dropout, self.dtype, name=f"block_{i}")(h, emb)
            self.sow("intermediates", f"features_{i}", h)
        return ModulatedNorm(self.dtype, name="norm")(h, emb)


class MLP(nn.Module):
    """Network for points: x of any shape (batch, ...) is flattened, and the output reshaped like x.

    Attributes:
        width: features of the hidden state and of the embedding.
        depth: number of residual blocks.
        dropout: rate inside the blocks, in training only.
        num_classes: classes of the label, one number per attribute; 0 ignores labels.
        vector_dim: length of cond["vector"]; 0 ignores it.
        multi_hot_dim: entries of cond["multi_hot"]; 0 ignores it.
        embedding: features of the noise level, "sinusoidal" or "fourier".
        outputs: length of the output's last axis relative to the input's: 2 for a learned variance.
        linear_skip: add g(embedding) x to the output, with one number g per example. For noise with heavy tails:
            far from the data fields are nearly linear in x, but the trunk, which normalizes, is not.
        dtype: dtype of the computation.
    """

    width: int = 256
    depth: int = 4
    dropout: Number = 0.0
    num_classes: int | tuple[int, ...] = 0
    vector_dim: int = 0
    multi_hot_dim: int = 0
    embedding: str = "sinusoidal"
    outputs: int = 1
    linear_skip: bool = False
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, x: DataLike, log_snr: LogSNR, cond: Cond = None
    ) -> Float[Array, "batch ..."]:
        """Return an array shaped like x, with a last axis `outputs` times as long."""
        check_mlp(self.width, self.depth)
        at_least(1, outputs=self.outputs)
        embed = Embedder(
            self.width, self.embedding, self.num_classes, self.vector_dim, self.dtype,
            self.multi_hot_dim, name="embed",
        )  # fmt: skip
        emb = embed(log_snr, cond, len(x))
        h = MLPTrunk(self.width, self.depth, self.dropout, self.dtype, name="trunk")(x, emb)
        y = head(self.outputs * math.prod(x.shape[1:]), self.dtype)(h)
        y = y.reshape(*x.shape[:-1], self.outputs * x.shape[-1])
        if self.linear_skip:
            gain = dense(1, wide(self.dtype), zero=True, name="linear_skip")(emb)
            y = y.at[..., : x.shape[-1]].add(gain.reshape(-1, *(1,) * (x.ndim - 1)) * x)
        return y


def head(features: int, dtype: str) -> nn.Dense:
    """Return the last layer, which is initially zero and computes in the dtype of the parameters."""
    return dense(features, wide(dtype), zero=True, name="head")


def check_mlp(width: int, depth: int) -> None:
    """Raise ValueError unless width and depth are valid."""
    multiple_of(2, width=width)
    at_least(0, depth=depth)


@register("network", "mlp")
@takes_fields_of(MLP)
def mlp(**fields: Any) -> FlaxNetwork:
    """Build a network for points from the fields of `MLP`."""
    return FlaxNetwork(MLP(**fields))
