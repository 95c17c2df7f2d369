"""Sampling from p(x_0 | y) for linear measurements y = A x_0 + std n, with a model trained without knowledge of A."""

from diffusion.inverse_problems.base import Measured, measured
from diffusion.inverse_problems.likelihood_guidance import DPS, PiGDM, dps, pigdm
from diffusion.inverse_problems.moment_matching import MomentMatching, moment_matching
from diffusion.inverse_problems.repaint import Repaint
from diffusion.inverse_problems.replacement import Replacement, consistent, replacement

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
