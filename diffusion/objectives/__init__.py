"""Objectives: losses, loss weights, distributions of training times, and couplings of data with noise."""

from diffusion.objectives import coupling
from diffusion.objectives.losses import (
    Loss,
    Record,
    flow_matching_loss,
    regression_loss,
    variance_loss,
)
from diffusion.objectives.time_sampling import TimeDistribution
from diffusion.objectives.weighting import Weight

__all__ = [
    "Loss",
    "Record",
    "TimeDistribution",
    "Weight",
    "coupling",
    "flow_matching_loss",
    "regression_loss",
    "variance_loss",
]
