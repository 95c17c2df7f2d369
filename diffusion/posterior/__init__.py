"""Sampling from p(x_0 | y) for linear measurements y = A x_0 + std n, with a model that never saw A."""

from diffusion.posterior.base import Measured, measured
from diffusion.posterior.moment_matching import MomentMatching, moment_matching
from diffusion.posterior.repaint import Repaint
from diffusion.posterior.replacement import Replacement, consistent, replacement
from diffusion.posterior.tilted import DPS, PiGDM, dps, pigdm

__all__ = [
    "DPS",
    "Measured",
    "MomentMatching",
    "PiGDM",
    "Repaint",
    "Replacement",
    "consistent",
    "dps",
    "measured",
    "moment_matching",
    "pigdm",
    "replacement",
]
