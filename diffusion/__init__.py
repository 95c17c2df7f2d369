"""demolish: generative diffusion in JAX and Flax, from the definition of how data is demolished.

Write two functions alpha(t), sigma(t); or a drift and a diffusion; or a path. Score, reverse SDE,
probability-flow ODE, samplers, guidance, likelihood and training follow, are checked by laws, and are
swapped by name in a config. Time runs up from data to noise everywhere.
"""

from diffusion import (  # their imports fill the registry
    coupling,
    data,
    editing,
    evaluation,
    kinds,
    networks,
    operators,
    posterior,
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
from diffusion.exact_field import exact_field
from diffusion.guidance import classifier_free, clipped
from diffusion.likelihood import Dequantisation, carry, elbo, log_prob
from diffusion.losses import flow_matching_loss, regression_loss
from diffusion.processes import (
    AffineProcess,
    Characteristics,
    GaussianProcess,
    LinearSDE,
    NonlinearSDE,
    Process,
    Radial,
    shift,
)
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
from diffusion.testing import check_process, check_sampler
from diffusion.types import ODE, SDE, Denoiser, Score, Velocity
from diffusion.variance import estimate_variance, with_variance

__version__ = "0.1.0"

__all__ = [
    "ODE",
    "SDE",
    "AffineProcess",
    "Characteristics",
    "ConditionalModel",
    "Denoiser",
    "Dequantisation",
    "GaussianProcess",
    "LinearSDE",
    "NonlinearSDE",
    "Process",
    "Radial",
    "Sampler",
    "Score",
    "Solution",
    "StepSampler",
    "Velocity",
    "build",
    "carry",
    "check_process",
    "check_sampler",
    "classifier_free",
    "clipped",
    "coupling",
    "data",
    "editing",
    "elbo",
    "estimate_variance",
    "evaluation",
    "exact_field",
    "flow_matching_loss",
    "forward_sde",
    "kinds",
    "log_prob",
    "make_denoiser",
    "make_velocity",
    "networks",
    "null_cond",
    "operators",
    "posterior",
    "preview",
    "probability_flow",
    "register",
    "registered",
    "regression_loss",
    "reverse_sde",
    "sample",
    "score",
    "score_to_denoiser",
    "shift",
    "solve",
    "testing",
    "training",
    "trajectory",
    "with_variance",
]
