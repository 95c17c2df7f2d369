"""Features of DINOv2, the class token of a vision transformer, from weights provided by the user.

Images are rounded to 8 bits, gray is repeated to three channels, and PIL resizes them to 224 x 224 by cubic
interpolation. `resize="8bit"` resizes 8-bit color pictures, whose levels PIL rounds again, as dgm-eval does by
default, and EDM2 with PIL. `resize="float"` resizes each channel in floating point and clips it to
0 ... 255, as dgm-eval's option `clean_resize` and clean-fid. Distances of the two are not comparable, so their names
differ: "dinov2", "dinov2_float". Reference: Oquab et al. 2024; Stein et al. 2023 (the distance).
"""

import hashlib
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from diffusion.data import DataSpec
from diffusion.evaluation.features.base import Extractor, Features, in_blocks
from diffusion.evaluation.features.published import (
    Architecture,
    Published,
    check_images,
    color_levels,
    find_weights,
    read_published,
)
from diffusion.networks.dinov2 import SIZE, SIZES, DINOv2, dinov2_input
from diffusion.numerics import at_least, one_of
from diffusion.registry import register

RESIZINGS = ("8bit", "float")


@cache
def architecture(size: str = "large") -> Architecture:
    """Return the architecture of a size: "small", "base" or "large"."""
    one_of(SIZES, size=size)
    width, depth, heads = SIZES[size]
    module = DINOv2(width=width, depth=depth, heads=heads)
    return Architecture(title=f"DINOv2 {size}", module=module, size=SIZE, passed="mask_token")


def resize_bicubic(
    levels: UInt8[np.ndarray, "batch height width 3"], size: int, how: str
) -> Float[np.ndarray, "batch {size} {size} 3"]:
    """Resize images to size x size with PIL; levels of 0 to 255, rounded if `how` is "8bit"."""
    from PIL import Image

    cubic, shape = Image.Resampling.BICUBIC, (size, size)
    if how == "8bit":
        done = [np.asarray(Image.fromarray(x).resize(shape, cubic)) for x in levels]
        return np.stack(done).astype(np.float32)
    channel = lambda x: np.asarray(Image.fromarray(x.astype(np.float32)).resize(shape, cubic))
    done = [np.stack([channel(x[..., c]) for c in range(3)], axis=-1) for x in levels]
    return np.stack(done).clip(0, 255)


@partial(jax.jit, static_argnames="module")
def _features(params: Any, levels: Any, module: DINOv2) -> Any:
    outputs: Any = module.apply({"params": params}, dinov2_input(levels))
    return outputs.class_token


@final
class DINOv2Extractor(Extractor):
    """DINOv2 features of images."""

    version = 1

    def __init__(
        self,
        spec: DataSpec,
        weights: Published,
        size: str = "large",
        resize: str = "8bit",
        block: int = 16,
    ):
        check_images(spec, "dinov2")
        self.spec, self.block, self.resize = spec, block, resize
        parts = ("dinov2", "" if size == "large" else size, "" if resize == "8bit" else resize)
        self.name = "_".join(p for p in parts if p)
        self.dim = SIZES[size][0]
        self.source = weights.source
        definition = f"{self.name} version {self.version} {weights.digest}"
        self.sha256 = hashlib.sha256(definition.encode()).hexdigest()
        self._module = architecture(size).module
        self._params = jax.tree.map(jnp.asarray, weights.params)

    @property
    def card(self) -> dict[str, Any]:
        """Return the card entry, with the origin of the weights."""
        return super().card | {"resize": self.resize} | self.source

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Resize and apply the network, a block of images at a time."""
        run = lambda levels: _features(
            self._params, resize_bicubic(levels, SIZE, self.resize), self._module
        )
        return in_blocks(run, color_levels(x), self.block, self.dim)


@register("features", "dinov2")
@final
@dataclass(frozen=True, kw_only=True)
class DINOv2Features(Features):
    """Features of DINOv2, a network trained without labels.

    Args:
        weights: a .safetensors file from `demolish convert_features`; a bare name is also looked for in
            the subfolder `features` of the data folder.
        size: "large", used for published distances; features of "base" and "small" have other names.
        resize: "8bit" or "float"; see the module docstring.
        block: number of images computed at once.
    """

    weights: str = "dinov2.safetensors"
    size: str = "large"
    resize: str = "8bit"
    block: int = 16

    def __post_init__(self):
        architecture(self.size)
        one_of(RESIZINGS, resize=self.resize)
        at_least(1, block=self.block)

    def open(self, spec: DataSpec, data_dir: str | None = None) -> DINOv2Extractor:
        """Read the weights.

        Raises:
            ValueError: the data are not images, or the file does not exist or holds other weights.
        """
        check_images(spec, "dinov2")
        chosen = architecture(self.size)
        found = read_published(find_weights(self.weights, data_dir, chosen.title), chosen)
        return DINOv2Extractor(spec, found, self.size, self.resize, self.block)
