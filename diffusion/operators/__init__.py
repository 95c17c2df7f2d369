"""Linear measurements y = A x_0 + std n of images and other arrays, by name (kind `operator`)."""

from diffusion.operators.base import Operator
from diffusion.operators.dense import CompressedSensing, Matrix
from diffusion.operators.filters import Blur, Colorize, Superres
from diffusion.operators.masks import BoxMask, Identity, Mask, RandomMask

__all__ = [
    "Blur",
    "BoxMask",
    "Colorize",
    "CompressedSensing",
    "Identity",
    "Mask",
    "Matrix",
    "Operator",
    "RandomMask",
    "Superres",
]
