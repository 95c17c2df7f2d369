"""Linear measurements y = A x_0 + std n of images and other arrays, by name (kind `operator`)."""

from diffusion.inverse_problems.operators.base import Operator
from diffusion.inverse_problems.operators.dense import CompressedSensing, Matrix
from diffusion.inverse_problems.operators.filters import Blur, Colorize, Superres
from diffusion.inverse_problems.operators.masks import BoxMask, Identity, Mask, RandomMask

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
