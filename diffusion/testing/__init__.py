"""Closed-form targets and laws: public tools to test processes, samplers, operators and models."""

from diffusion.testing.correlated import CorrelatedGaussian
from diffusion.testing.laws import check_process, prior_mismatch
from diffusion.testing.linear_posteriors import CorrelatedMixture, linear_posterior, matrix_of
from diffusion.testing.operator_laws import check_operator
from diffusion.testing.report import Finding, Report
from diffusion.testing.sampler_laws import check_sampler
from diffusion.testing.targets import FinitePoints, GaussianMixture, gaussian, gaussian_flow

__all__ = [
    "CorrelatedGaussian",
    "CorrelatedMixture",
    "Finding",
    "FinitePoints",
    "GaussianMixture",
    "Report",
    "check_operator",
    "check_process",
    "check_sampler",
    "gaussian",
    "gaussian_flow",
    "linear_posterior",
    "matrix_of",
    "prior_mismatch",
]
