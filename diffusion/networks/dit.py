"""Diffusion transformer for images (batch, height, width, channels) and signals (batch, length, channels).

The input is divided into patches, one token each; sizes that are not multiples of the patch are padded by
repeating the border, and the output is cropped. A block is (AdaLN-zero)

    h <- h + gate_1 attention((1 + scale_1) norm(h) + shift_1)
    h <- h + gate_2 mlp((1 + scale_2) norm(h) + shift_2)

with gates, scales and shifts that are linear in the embedding of noise level and condition and initially zero. So
blocks are initially the identity, and the network is the constant 0, since its head is zero too. Other forms of the
residual connection are in `diffusion.networks.residuals`.

References: Peebles and Xie 2023 (DiT), Darcet et al. 2024 (registers), Dehghani et al. 2023 (norms of
queries and keys).
"""

import functools
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.networks.base import (
    FlaxNetwork,
    LogSNR,
    Number,
    check_axes,
    precision,
    takes_fields_of,
)
from diffusion.networks.embeddings import Embedder, concat_image
from diffusion.networks.initializers import normal
from diffusion.networks.layers import (
    Attention,
    check_heads,
    crop,
    dense,
    fold_space,
    log_length_scale,
    pad_to_multiple,
    unfold_space,
)
from diffusion.networks.mlp import ModulatedNorm, head
from diffusion.networks.positions import (
    POSITIONS,
    LearnedPositions,
    rotary_angles,
    sincos_positions,
)
from diffusion.networks.remat import remat_name, rematerialized
from diffusion.networks.residuals import depth_factors
from diffusion.numerics import at_least, one_of, positive
from diffusion.registry import register
from diffusion.types import Cond, DataLike

Tokens = Float[Array, "batch tokens features"]
Angles = Float[Array, "tokens pairs"] | None


def patchify(x: Float[Array, "batch *space channels"], patch: int) -> Tokens:
    """Divide x into tokens of patch^dims * channels values, in row-major order."""
    folded = fold_space(x, patch)
    return folded.reshape(len(x), -1, folded.shape[-1])


def unpatchify(
    tokens: Tokens, patch: int, grid: tuple[int, ...]
) -> Float[Array, "batch *space channels"]:
    """Undo `patchify` for a grid of tokens."""
    return unfold_space(tokens.reshape(len(tokens), *grid, -1), patch)


class DiTBlock(nn.Module):
    """One block of the formula above.

    Returns (h, h) or (h, None): the carry of a scan, and its collected output.
    """

    heads: int
    mlp_ratio: Number = 4.0
    qk_norm: bool = False
    dropout: Number = 0.0
    scale: float = 1.0  # factor on the attention's logits
    keep: bool = False  # whether to collect h
    residual: str = "adaptive"
    stream: float = 1.0  # factor on h in "deep_norm"
    gain: float = 1.0  # factor on the initial weights
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, h: Tokens, emb: Float[Array, "batch k"], angles: Angles
    ) -> tuple[Tokens, Tokens | None]:
        """Update all tokens."""
        policy, width = precision(self.dtype), h.shape[-1]
        m = dense(6 * width, self.dtype, zero=True, name="modulation")(emb)
        scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = jnp.split(m[:, None], 6, axis=-1)
        norm = nn.LayerNorm(use_bias=False, use_scale=False, **policy)
        drop = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))
        attend = Attention(
            self.heads, self.qk_norm, dtype=self.dtype, gain=self.gain, name="attention"
        )
        after = self.residual in ("post_norm", "deep_norm")  # position of the norm
        before = (lambda h: h) if after else norm
        y = attend((1 + scale_1) * before(h) + shift_1, angles, self.scale)
        h = self._join(norm, h, gate_1, drop(y))
        y = (1 + scale_2) * before(h) + shift_2
        layer = functools.partial(dense, dtype=self.dtype, gain=self.gain)
        y = nn.gelu(layer(int(width * self.mlp_ratio), name="mlp_in")(y))
        h = self._join(norm, h, gate_2, drop(layer(width, name="mlp_out")(y)))
        return h, h if self.keep else None

    def _join(self, norm: nn.LayerNorm, h: Tokens, gate: Array, y: Tokens) -> Tokens:
        """Return the residual stream h with the update y added."""
        if self.residual == "adaptive":
            return h + gate * y
        if self.residual in ("pre_norm", "deep_pre"):
            return h + (1 + gate) * y
        return norm(self.stream * h + (1 + gate) * y)


class DiT(nn.Module):
    """Transformer over patches.

    Attributes:
        patch: side of a patch.
        width: features of a token and of the embedding.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the blocks' perceptrons, in units of `width`.
        positions: "rotary" (axial), "learned", "sincos" or "none".
        registers: number of learned extra tokens; they have no position and are dropped at the output.
        qk_norm: normalize queries and keys, for stability in low precision.
        dropout: rate on the blocks' updates, in training only.
        train_tokens: number of patches in training; attention at n patches is then scaled by
            log n / log train_tokens. None: not scaled.
        scan_blocks: one compiled block in a loop over stacked parameters: faster to trace if deep.
        unroll: number of blocks per iteration of that loop; `depth` removes the loop.
        remat: which values blocks recompute in the backward pass instead of storing them: "none", "dots" or
            "full"; see `diffusion.networks.remat`.
        residual: form of the residual connection: "adaptive" (AdaLN-zero), "pre_norm", "post_norm", "deep_norm"
            or "deep_pre"; see `diffusion.networks.residuals`.
        depth_for: the optimizer that "deep_norm" and "deep_pre" scale for, "sgd", "adam" or "lamb".
        embedding: features of the noise level, "sinusoidal" or "fourier".
        num_classes: classes of the label, one number per attribute; 0 ignores labels.
        vector_dim: length of cond["vector"]; 0 ignores it.
        multi_hot_dim: entries of cond["multi_hot"]; 0 ignores it.
        image_channels: channels of cond["image"]; 0 ignores it.
        outputs: number of output channels per input channel: 2 for a learned variance.
        dtype: dtype of the computation.
    """

    patch: int = 2
    width: int = 384
    depth: int = 12
    heads: int = 6
    mlp_ratio: Number = 4.0
    positions: str = "rotary"
    registers: int = 0
    qk_norm: bool = False
    dropout: Number = 0.0
    train_tokens: int | None = None
    scan_blocks: bool = False
    unroll: int = 1
    remat: bool | str = False
    residual: str = "adaptive"
    depth_for: str = "adam"
    embedding: str = "sinusoidal"
    num_classes: int | tuple[int, ...] = 0
    vector_dim: int = 0
    multi_hot_dim: int = 0
    image_channels: int = 0
    outputs: int = 1
    dtype: str = "float32"

    @property
    def stacked(self) -> tuple[str, ...]:
        """Names of the parts of the parameters whose arrays stack all blocks along their first axis."""
        return ("blocks",) if self.scan_blocks else ()

    @nn.compact
    def __call__(
        self, x: DataLike, log_snr: LogSNR, cond: Cond = None
    ) -> Float[Array, "batch ..."]:
        """Return an array shaped like x, with `outputs` times its channels."""
        self._check(x)
        embed = Embedder(
            self.width, self.embedding, self.num_classes, self.vector_dim, self.dtype,
            self.multi_hot_dim, name="embed",
        )  # fmt: skip
        emb = embed(log_snr, cond, len(x))
        padded = pad_to_multiple(concat_image(x, cond, self.image_channels), self.patch)
        grid = tuple(n // self.patch for n in padded.shape[1:-1])
        h, angles = self._tokens(patchify(padded, self.patch), grid)
        h = self._blocks(h, emb, angles, log_length_scale(math.prod(grid), self.train_tokens))
        h = h[:, self.registers :]
        h = ModulatedNorm(self.dtype, name="norm")(h, emb)
        y = head(self.patch ** len(grid) * self.outputs * x.shape[-1], self.dtype)(h)
        return crop(unpatchify(y, self.patch, grid), x.shape[1:-1])

    def _check(self, x: DataLike) -> None:
        check_axes("A DiT", x)
        one_of(POSITIONS, positions=self.positions)
        positive(patch=self.patch)
        check_heads(self.width, self.heads)
        depth_factors(self.residual, self.depth, self.depth_for)
        remat_name(self.remat)
        at_least(1, unroll=self.unroll, outputs=self.outputs)

    def _tokens(self, patches: Array, grid: tuple[int, ...]) -> tuple[Array, Angles]:
        """Embed patches, add positions and prepend registers; return the tokens and the rotary angles."""
        policy = precision(self.dtype)
        h = dense(self.width, self.dtype, name="patches")(patches)
        angles = None
        if self.positions == "learned":
            table = LearnedPositions(self.width, self.dtype, name="positions")(grid)
            h += table.astype(h.dtype)
        elif self.positions == "sincos":
            h += jnp.asarray(sincos_positions(grid, self.width), h.dtype)
        elif self.positions == "rotary":
            table = rotary_angles(grid, self.width // self.heads)
            table = np.pad(table, [(self.registers, 0), (0, 0)])  # registers are not rotated
            angles = jnp.asarray(table, policy["param_dtype"])
        if self.registers:
            shape = (self.registers, self.width)
            # of the same scale as embedded patches of unit variance
            tokens = self.param("registers", normal(1.0), shape, policy["param_dtype"])
            tokens = jnp.broadcast_to(tokens.astype(h.dtype), (len(h), *shape))
            h = jnp.concatenate([tokens, h], axis=1)
        return h, angles

    def _blocks(self, h: Array, emb: Array, angles: Angles, scale: float) -> Array:
        keep = self.is_mutable_collection("intermediates")
        factors = depth_factors(self.residual, self.depth, self.depth_for)
        fields = {
            "heads": self.heads,
            "mlp_ratio": self.mlp_ratio,
            "qk_norm": self.qk_norm,
            "dropout": self.dropout,
            "scale": scale,
            "keep": keep,
            "residual": self.residual,
            "stream": factors.stream,
            "gain": factors.weights,
            "dtype": self.dtype,
        }
        block = rematerialized(DiTBlock, self.remat, in_loop=self.scan_blocks)
        features = []
        if self.scan_blocks:
            broadcast: Any = (nn.broadcast, nn.broadcast)  # emb and angles, the same for all blocks
            block = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=broadcast,
                length=self.depth,
                unroll=self.unroll,
            )
            h, stacked = block(**fields, name="blocks")(h, emb, angles)
            features = list(stacked) if keep else []
        else:
            for i in range(self.depth):
                h, feature = block(**fields, name=f"block_{i}")(h, emb, angles)
                features.append(feature)
        for i, feature in enumerate(features if keep else []):
            self.sow("intermediates", f"features_{i}", feature[:, self.registers :])
        return h


@register("network", "dit")
@takes_fields_of(DiT)
def dit(**fields: Any) -> FlaxNetwork:
    """Build a diffusion transformer from the fields of `DiT`."""
    return FlaxNetwork(DiT(**fields))
