"""Closed-form targets and laws: public tools to test definitions, samplers and models with."""

from diffusion.testing.laws import Finding, Report, check_process
from diffusion.testing.targets import FinitePoints, GaussianMixture, gaussian, gaussian_flow

__all__ = [
    "Finding",
    "FinitePoints",
    "GaussianMixture",
    "Report",
    "check_process",
    "gaussian",
    "gaussian_flow",
]
