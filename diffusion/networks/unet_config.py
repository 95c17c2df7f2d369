"""Hyperparameters of U-Nets, and families of published architectures.

References: Song et al. 2021 (DDPM++), Dhariwal and Nichol 2021 (ADM), Karras et al. 2022 (their common
form), Ma et al. 2024 (skip-tuning).
"""

import math
from dataclasses import dataclass
from typing import Any

from diffusion.networks.base import Number
from diffusion.networks.layers import RESAMPLINGS
from diffusion.networks.remat import remat_name
from diffusion.numerics import at_least, multiple_of, one_of, require

SKIPS = ("concat", "add")

# Fields in which the published architectures differ from the plain one, for the sizes of their main experiments.
FAMILIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ddpmpp": {  # as Karras et al. 2022 train it on CIFAR-10
        "channels": 128,
        "multipliers": (2, 2, 2),
        "blocks": 4,
        "attention": (16,),
        "dropout": 0.13,
        "resample_in_block": True,
        "adaptive_scale": False,
        "residual_scale": math.sqrt(0.5),
    },
    "adm": {  # ImageNet at 64 x 64
        "channels": 192,
        "multipliers": (1, 2, 3, 4),
        "blocks": 3,
        "attention": (32, 16, 8),
        "head_channels": 64,
        "dropout": 0.1,
        "resample_in_block": True,
    },
}


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """Hyperparameters of a U-Net.

    Attributes:
        channels: base width, multiplied by the multipliers.
        multipliers: one per level; each further level halves the resolution.
        blocks: residual blocks per level, one number or one per level.
        patch: side of the pixel squares that are folded into channels at the input and unfolded at the output;
            all levels are smaller by this factor (Hoogeboom et al., 2023).
        attention: longest sides of the feature maps with attention, such as (16, 8).
        middle_attention: attend on the lowest level, between its two middle blocks.
        heads: attention heads, unless `head_channels` is given.
        head_channels: channels per head; 0 uses `heads`.
        dropout: rate before second convolutions, in training only.
        resample: "pool" (average, repeat), "fir" (smoothed) or "conv" (learned).
        resample_in_block: resample inside residual blocks instead of between them.
        adaptive_scale: True scales and shifts by the embedding after the norm; False adds it before the norm.
        residual_scale: the factor c of a block (see `diffusion.networks.unet`); sqrt(1/2) preserves the variance.
        skip: how the decoder combines its features with the encoder's, "concat" or "add".
        skip_scale: factor on the encoder's features, one or one per level, finest first; for tuning at sampling time.
        embedding: features of the noise level, "sinusoidal" or "fourier".
        num_classes: classes of the label, one number per attribute; 0 ignores labels.
        vector_dim: length of cond["vector"]; 0 ignores it.
        multi_hot_dim: entries of cond["multi_hot"]; 0 ignores it.
        image_channels: channels of cond["image"]; 0 ignores it.
        outputs: number of output channels per input channel: 2 for a learned variance.
        remat: which values residual blocks recompute in the backward pass instead of storing them: "none", "dots"
            or "full"; see `diffusion.networks.remat`.
        dtype: dtype of the computation.
    """

    channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)
    blocks: int | tuple[int, ...] = 2
    patch: int = 1
    attention: tuple[int, ...] = ()
    middle_attention: bool = True
    heads: int = 1
    head_channels: int = 0
    dropout: Number = 0.0
    resample: str = "pool"
    resample_in_block: bool = False
    adaptive_scale: bool = True
    residual_scale: Number = 1.0
    skip: str = "concat"
    skip_scale: Number | tuple[Number, ...] = 1.0
    embedding: str = "sinusoidal"
    num_classes: int | tuple[int, ...] = 0
    vector_dim: int = 0
    multi_hot_dim: int = 0
    image_channels: int = 0
    outputs: int = 1
    remat: bool | str = False
    dtype: str = "float32"

    def __post_init__(self):
        levels = len(self.multipliers)
        at_least(1, levels=levels, hint="`multipliers` names them.")
        multiple_of(2, channels=self.channels)
        at_least(1, patch=self.patch, outputs=self.outputs)
        for name in ("blocks", "skip_scale"):
            value = getattr(self, name)
            require(
                not isinstance(value, tuple) or len(value) == levels,
                f"`{name}` must be one number or {levels}, as many as `multipliers`; got {value}.",
            )
        remat_name(self.remat)
        one_of(RESAMPLINGS, resample=self.resample)
        one_of(SKIPS, skip=self.skip)

    @property
    def levels(self) -> int:
        """Number of resolutions."""
        return len(self.multipliers)

    def width(self, level: int) -> int:
        """Return the channels of a level."""
        return self.channels * self.multipliers[level]

    def num_blocks(self, level: int) -> int:
        """Return the number of the encoder's residual blocks of a level."""
        return self.blocks[level] if isinstance(self.blocks, tuple) else self.blocks

    def scale_of_skip(self, level: int) -> Number:
        """Return the factor on the encoder's features of a level."""
        return self.skip_scale[level] if isinstance(self.skip_scale, tuple) else self.skip_scale

    def num_heads(self, channels: int) -> int:
        """Return the number of attention heads for this many channels."""
        return max(1, channels // self.head_channels) if self.head_channels else self.heads

    def check_sizes(self, longest: int) -> None:
        """Raise ValueError if `attention` names a size that no level has."""
        sizes = tuple(longest // 2**level for level in range(self.levels))
        for size in self.attention:
            one_of(sizes, attention=size, hint="The feature maps have these, by `multipliers`.")


def unet_config(family: str, fields: dict[str, Any]) -> UNetConfig:
    """Return the hyperparameters of a family with some fields replaced."""
    one_of(FAMILIES, family=family)
    return UNetConfig(**(FAMILIES[family] | fields))
