"""Closed-form targets and laws: public tools to test definitions, samplers and models with."""

from diffusion.testing.correlated import CorrelatedGaussian
from diffusion.testing.laws import check_process, prior_mismatch
from diffusion.testing.report import Finding, Report
from diffusion.testing.sampler_laws import check_sampler
from diffusion.testing.targets import FinitePoints, GaussianMixture, gaussian, gaussian_flow

__all__ = [
    "CorrelatedGaussian",
    "Finding",
    "FinitePoints",
    "GaussianMixture",
    "Report",
    "check_process",
    "check_sampler",
    "gaussian",
    "gaussian_flow",
    "prior_mismatch",
]
