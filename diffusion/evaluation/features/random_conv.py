"""Features of convolutional networks with fixed random weights: no training, for any images.

They represent edges and textures at three scales and their coarse position. They detect gross failures, such as
noise, blur, or unrelated images, but not the semantic content of an image.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.data import DataSpec
from diffusion.evaluation.features.base import Extractor, Features, in_blocks
from diffusion.evaluation.features.convolution import (
    BLOCK,
    convolve,
    fixed_normal,
    halve,
    require_images,
)
from diffusion.numerics import require
from diffusion.registry import register

VERSION = 1
WIDTHS = (32, 32, 16)  # channels of the three layers
CORNERS = 2  # the last map is averaged to CORNERS x CORNERS


def weights_of(seed: int, channels: int) -> tuple[np.ndarray, ...]:
    """Return three kernels, normal with variance 2 / fan-in (He et al., 2015)."""
    kernels, inputs = [], channels
    for layer, width in enumerate(WIDTHS):
        z = fixed_normal(f"random_conv/{VERSION}/{seed}/{layer}", (3, 3, inputs, width))
        kernels.append(z * np.float32(np.sqrt(2 / (9 * inputs))))
        inputs = width
    return tuple(kernels)


def _quarters(x: Any) -> Any:
    """Average maps over CORNERS x CORNERS parts; parts differ by a pixel where the size is odd."""
    rows = jnp.array_split(x, CORNERS, axis=1)
    return jnp.stack(
        [part.mean(axis=(1, 2)) for row in rows for part in jnp.array_split(row, CORNERS, axis=2)],
        axis=1,
    )


@jax.jit
def _apply(networks: tuple[tuple[Any, ...], ...], x: Any) -> Any:
    found = []
    for kernels in networks:
        h = x
        for layer, kernel in enumerate(kernels):
            if layer and min(h.shape[1:3]) >= 2 * CORNERS:
                h = halve(h)
            h = jax.nn.relu(convolve(h, kernel))
        found.append(_quarters(h).reshape(len(x), -1))
    return jnp.concatenate(found, axis=1)


@final
class RandomConvExtractor(Extractor):
    """Extractor with the concatenated features of several random networks."""

    version = VERSION

    def __init__(self, spec: DataSpec, seeds: Sequence[int]):
        self.spec = spec
        self.name = f"random_conv[{len(seeds)} seeds]"
        self._networks = tuple(weights_of(seed, spec.shape[-1]) for seed in seeds)
        self.dim = len(seeds) * CORNERS**2 * WIDTHS[-1]
        found = hashlib.sha256(
            f"random_conv {VERSION} {tuple(seeds)} {WIDTHS} {CORNERS} {spec.shape}".encode()
        )
        for kernels in self._networks:
            for kernel in kernels:
                found.update(kernel.tobytes())
        self.sha256 = found.hexdigest()

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Run the networks in blocks of equal size."""
        return in_blocks(lambda block: _apply(self._networks, block), x, BLOCK, self.dim)


@register("features", "random_conv")
@final
@dataclass(frozen=True, kw_only=True)
class RandomConv(Features):
    """Random convolutional networks, fixed by their seeds.

    Args:
        seeds: seeds of the networks, whose features are concatenated.
    """

    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self):
        require(
            len(self.seeds) >= 1 and len(set(self.seeds)) == len(self.seeds),
            f"`seeds` must be different numbers, at least one; got {self.seeds}.",
        )

    def open(self, spec: DataSpec, data_dir: str | None = None) -> Extractor:
        """Return the extractor; generating its weights takes milliseconds."""
        del data_dir
        require_images(spec, "random_conv")
        return RandomConvExtractor(spec, self.seeds)
