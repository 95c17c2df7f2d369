"""demolish: generative diffusion in JAX and Flax, from the definition of how data is demolished.

Write two functions alpha(t), sigma(t); or a drift and a diffusion; or a path. Score, reverse SDE,
probability-flow ODE, samplers, guidance, likelihood and training follow, are checked by laws, and are
swapped by name in a config. Time runs up from data to noise everywhere.
"""

from diffusion import (  # their imports fill the registry
    data,
    evaluation,
    networks,
    testing,
    training,
)
from diffusion.denoiser import ConditionalModel, make_denoiser, make_velocity, null_cond
from diffusion.dynamics import (
    forward_sde,
    probability_flow,
    reverse_sde,
    score,
    score_to_denoiser,
)
from diffusion.guidance import classifier_free, clipped
from diffusion.likelihood import Dequantisation, carry, log_prob
from diffusion.losses import flow_matching_loss, regression_loss
from diffusion.processes import AffineProcess, GaussianProcess, LinearSDE, Process
from diffusion.registry import build, register, registered
from diffusion.samplers import (
    Sampler,
    Solution,
    StepSampler,
    preview,
    sample,
    solve,
    trajectory,
)
from diffusion.testing import check_process
from diffusion.types import ODE, SDE, Denoiser, Score, Velocity
from diffusion.variance import estimate_variance, with_variance

__version__ = "0.1.0"

__all__ = [
    "ODE",
    "SDE",
    "AffineProcess",
    "ConditionalModel",
    "Denoiser",
    "Dequantisation",
    "GaussianProcess",
    "LinearSDE",
    "Process",
    "Sampler",
    "Score",
    "Solution",
    "StepSampler",
    "Velocity",
    "build",
    "carry",
    "check_process",
    "classifier_free",
    "clipped",
    "data",
    "estimate_variance",
    "evaluation",
    "flow_matching_loss",
    "forward_sde",
    "log_prob",
    "make_denoiser",
    "make_velocity",
    "networks",
    "null_cond",
    "preview",
    "probability_flow",
    "register",
    "registered",
    "regression_loss",
    "reverse_sde",
    "sample",
    "score",
    "score_to_denoiser",
    "solve",
    "testing",
    "training",
    "trajectory",
    "with_variance",
]
