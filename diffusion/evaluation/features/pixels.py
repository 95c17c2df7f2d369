"""The values of examples as features: cheap and without parameters, but insensitive to the content of images."""

import hashlib
from dataclasses import dataclass
from typing import final

import numpy as np

from diffusion.data import DataSpec
from diffusion.evaluation.features.base import Extractor, Features
from diffusion.registry import register


@final
class PixelsExtractor(Extractor):
    """Extractor that returns examples as rows of their values."""

    name = "pixels"
    version = 1

    def __init__(self, spec: DataSpec):
        self.spec = spec
        self.dim = int(np.prod(spec.shape))
        rule = "8-bit levels in [-1, 1]" if spec.kind == "image" else "as they are"
        definition = f"values of shape {tuple(spec.shape)}, {rule}; version {self.version}"
        self.sha256 = hashlib.sha256(definition.encode()).hexdigest()

    def rows(self, x: np.ndarray) -> np.ndarray:
        """Flatten."""
        return x.reshape(len(x), -1).astype(np.float64)


@register("features", "pixels")
@final
@dataclass(frozen=True, kw_only=True)
class Pixels(Features):
    """The values themselves: pixels of images, coordinates of points."""

    def open(self, spec: DataSpec, data_dir: str | None = None) -> Extractor:
        """Return the values of examples as rows."""
        del data_dir
        return PixelsExtractor(spec)
