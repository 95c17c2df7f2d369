"""Models of a process: E[x_0 | x_t] or dx_t/dt, from a network, or exact for a finite data set."""

from diffusion.models.denoiser import (
    NetworkDenoiser,
    NetworkVelocity,
    RegressedVariance,
    VarianceDenoiser,
    make_denoiser,
    make_velocity,
)
from diffusion.models.exact_field import ExactField, exact_field
from diffusion.models.prediction import Prediction
from diffusion.models.variance import estimate_variance, with_variance

__all__ = [
    "ExactField",
    "NetworkDenoiser",
    "NetworkVelocity",
    "Prediction",
    "RegressedVariance",
    "VarianceDenoiser",
    "estimate_variance",
    "exact_field",
    "make_denoiser",
    "make_velocity",
    "with_variance",
]
