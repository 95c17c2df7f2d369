"""U-Net for images (batch, height, width, channels) and signals (batch, length, channels).

Sizes that the levels do not divide are padded by repeating the border, and the output is cropped. A block is

    h = conv(silu(norm(x)));  h = conv(dropout(silu((1 + scale) norm(h) + shift)));  x <- c (x + h)

with scale and shift linear in the embedding of noise level and condition. Second convolutions, the
outputs of attention and the head are initially zero, so the network is initially the constant 0.

References: Ronneberger et al. 2015; Ho et al. 2020; Song et al. 2021 (DDPM++, FIR); Dhariwal and Nichol
2021 (ADM); Karras et al. 2022 (their common form); Ma et al. 2024 (skip-tuning).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.networks.base import (
    FlaxNetwork,
    LogSNR,
    check_axes,
    precision,
    takes_fields_of,
    wide,
)
from diffusion.networks.convolutions import Features, NewFeatures, conv
from diffusion.networks.embeddings import Embedder, concat_image
from diffusion.networks.layers import (
    Attention,
    GroupNorm,
    Resample,
    crop,
    dense,
    fold_space,
    pad_to_multiple,
    unfold_space,
)
from diffusion.networks.remat import rematerialized
from diffusion.networks.unet_config import UNetConfig, unet_config
from diffusion.registry import register
from diffusion.types import Cond, DataLike

Embedding = Float[Array, "batch k"]


class ResBlock(nn.Module):
    """One residual block, followed by spatial attention at the resolutions of `config.attention`."""

    config: UNetConfig
    features: int
    attend: bool | None = None  # None: according to config.attention
    up: bool | None = None  # True upsamples, False downsamples, None keeps the size

    @nn.compact
    def __call__(self, x: Features, emb: Embedding) -> NewFeatures:
        """Return the output features, of the block's width and size."""
        c, dims = self.config, x.ndim - 2
        h = nn.silu(GroupNorm(c.dtype, name="norm_in")(x))
        repeat = bool(self.up) and c.resample == "pool"  # the next convolution also upsamples
        if self.up is not None:
            h = h if repeat else Resample(self.up, c.resample, c.dtype, name="resample")(h)
            x = Resample(self.up, c.resample, c.dtype, name="resample_skip")(x)
        h = conv(self.features, dims, c.dtype, repeat=repeat, name="conv_in")(h)
        h = nn.silu(self._modulate(h, emb))
        h = nn.Dropout(c.dropout, deterministic=not self.has_rng("dropout"))(h)
        h = conv(self.features, dims, c.dtype, zero=True, name="conv_out")(h)
        if x.shape[-1] != self.features:
            x = conv(self.features, dims, c.dtype, size=1, name="project")(x)
        x = (x + h) * c.residual_scale
        attend = max(x.shape[1:-1]) in c.attention if self.attend is None else self.attend
        return self._attend(x) if attend else x

    def _modulate(self, h: Array, emb: Array) -> Array:
        c = self.config
        norm = GroupNorm(c.dtype, name="norm_out")
        outputs = self.features * (1 + c.adaptive_scale)
        m = dense(outputs, c.dtype, name="modulation")(emb)
        m = m.reshape(len(h), *(1,) * (h.ndim - 2), outputs)
        if not c.adaptive_scale:
            return norm(h + m)
        scale, shift = jnp.split(m, 2, axis=-1)
        return (1 + scale) * norm(h) + shift

    def _attend(self, x: Array) -> Array:
        c = self.config
        tokens = GroupNorm(c.dtype, name="norm_attention")(x).reshape(len(x), -1, self.features)
        heads = c.num_heads(self.features)
        y = Attention(heads, zero=True, dtype=c.dtype, name="attention")(tokens)
        return (x + y.reshape(x.shape)) * c.residual_scale


def block(config: UNetConfig, features: int, **fields: Any) -> ResBlock:
    """Return a residual block with the rematerialization of `config.remat`."""
    return rematerialized(ResBlock, config.remat)(config, features, **fields)


def resample(config: UNetConfig, x: Array, emb: Array, *, up: bool, name: str) -> Array:
    """Halve or double the resolution, by a residual block or by resampling alone (inside a compact call)."""
    if config.resample_in_block:
        return block(config, x.shape[-1], attend=False, up=up, name=name)(x, emb)
    return Resample(up, config.resample, config.dtype, name=name)(x)


class Encoder(nn.Module):
    """The downsampling half of a U-Net, and its middle blocks."""

    config: UNetConfig

    @nn.compact
    def __call__(self, x: Features, emb: Embedding) -> tuple[NewFeatures, list[Array]]:
        """Return the features of the middle, and the skip features of every step for the decoder."""
        c = self.config
        c.check_sizes(max(x.shape[1:-1]))
        h = conv(c.channels, x.ndim - 2, c.dtype, name="conv_in")(x)
        skips = [h]
        for level in range(c.levels):
            for i in range(c.num_blocks(level)):
                h = block(c, c.width(level), name=f"down_{level}_{i}")(h, emb)
                skips.append(h)
            self.sow("intermediates", f"features_{level}", h)
            if level + 1 < c.levels:
                h = resample(c, h, emb, up=False, name=f"down_{level}")
                skips.append(h)
        h = block(c, h.shape[-1], attend=c.middle_attention, name="middle_0")(h, emb)
        h = block(c, h.shape[-1], attend=False, name="middle_1")(h, emb)
        self.sow("intermediates", "features_middle", h)
        return h, skips


class Decoder(nn.Module):
    """The upsampling half of a U-Net; each block takes one of the encoder's skip features, latest first."""

    config: UNetConfig

    @nn.compact
    def __call__(self, h: Features, skips: list[Array], emb: Embedding) -> NewFeatures:
        """Return features of the size of the network's input."""
        c = self.config
        skips = list(skips)
        for level in reversed(range(c.levels)):
            for i in range(c.num_blocks(level) + 1):
                h = self._join(h, skips.pop(), level, i)
                h = block(c, c.width(level), name=f"up_{level}_{i}")(h, emb)
            self.sow("intermediates", f"features_{level}", h)
            if level:
                h = resample(c, h, emb, up=True, name=f"up_{level}")
        return h

    def _join(self, h: Array, skip: Array, level: int, i: int) -> Array:
        c = self.config
        skip = skip * c.scale_of_skip(level)
        if c.skip == "concat":
            return jnp.concatenate([h, skip], axis=-1)
        if h.shape[-1] != skip.shape[-1]:
            width, dims = skip.shape[-1], h.ndim - 2
            h = conv(width, dims, c.dtype, size=1, name=f"join_{level}_{i}")(h)
        return h + skip


def prepare(
    x: DataLike, cond: Cond, levels: int, dtype: str, image_channels: int = 0, patch: int = 1
) -> Features:
    """Append the conditioning image, pad to the levels, fold patches and cast to the compute dtype."""
    check_axes("A U-Net", x)
    x = pad_to_multiple(concat_image(x, cond, image_channels), patch * 2 ** (levels - 1))
    return fold_space(x.astype(precision(dtype)["dtype"]), patch)


class UNet(nn.Module):
    """Encoder, decoder and a head that is initially zero."""

    config: UNetConfig = UNetConfig()

    @nn.compact
    def __call__(
        self, x: DataLike, log_snr: LogSNR, cond: Cond = None
    ) -> Float[Array, "batch ..."]:
        """Return an array shaped like x, with `outputs` times its channels."""
        c = self.config
        embed = Embedder(
            4 * c.channels, c.embedding, c.num_classes, c.vector_dim, c.dtype,
            c.multi_hot_dim, name="embed",
        )  # fmt: skip
        emb = embed(log_snr, cond, len(x))
        h = prepare(x, cond, c.levels, c.dtype, c.image_channels, c.patch)
        h, skips = Encoder(c, name="encoder")(h, emb)
        h = Decoder(c, name="decoder")(h, skips, emb)
        # float32 from here on: the sampler divides and subtracts the output
        dtype, dims = wide(c.dtype), x.ndim - 2
        h = nn.silu(GroupNorm(dtype, name="norm")(h))
        channels = c.outputs * x.shape[-1] * c.patch**dims
        y = conv(channels, dims, dtype, zero=True, name="head")(h)
        return crop(unfold_space(y, c.patch), x.shape[1:-1])


@register("network", "unet")
@takes_fields_of(UNetConfig)
def unet(family: str = "plain", **fields: Any) -> FlaxNetwork:
    """Build a U-Net from a family, with fields of `UNetConfig` that override those of the family.

    Families: "plain", "ddpmpp", "adm"; see `unet_config.FAMILIES`.
    """
    return FlaxNetwork(UNet(unet_config(family, fields)))
