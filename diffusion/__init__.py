"""demolish: generative diffusion in JAX and Flax, from the definition of how data is demolished.

Write two functions alpha(t), sigma(t); or a drift and a diffusion; or a path. Score, reverse SDE,
probability-flow ODE, samplers, guidance, likelihood and training follow, are checked by laws, and are
selected by name in a config. Time runs up from data to noise everywhere.

Importing this package is cheap: its names are loaded when they are first used.
"""

import importlib
import warnings
from importlib import metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diffusion import (
        data,
        editing,
        evaluation,
        guidance,
        inverse_problems,
        networks,
        objectives,
        testing,
        training,
    )
    from diffusion.guidance import ConditionalModel, classifier_free, clipped, null_cond
    from diffusion.likelihood import Dequantization, elbo, integrate_flow, log_prob
    from diffusion.models import (
        estimate_variance,
        exact_field,
        make_denoiser,
        make_velocity,
        with_variance,
    )
    from diffusion.objectives import flow_matching_loss, regression_loss
    from diffusion.processes import (
        AffineProcess,
        Characteristics,
        GaussianProcess,
        LinearSDE,
        NonlinearSDE,
        Process,
        Radial,
        forward_sde,
        probability_flow,
        reverse_sde,
        score,
        score_to_denoiser,
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

# Public name -> the subpackage that defines it; "" for a subpackage itself.
_HOMES = {
    **dict.fromkeys(("data", "editing", "evaluation", "guidance", "inverse_problems", "networks", "objectives",
                     "testing", "training"), ""),
    **dict.fromkeys(("ConditionalModel", "classifier_free", "clipped", "null_cond"), "guidance"),
    **dict.fromkeys(("Dequantization", "integrate_flow", "elbo", "log_prob"), "likelihood"),
    **dict.fromkeys(("estimate_variance", "exact_field", "make_denoiser", "make_velocity", "with_variance"), "models"),
    **dict.fromkeys(("flow_matching_loss", "regression_loss"), "objectives"),
    **dict.fromkeys(("AffineProcess", "Characteristics", "GaussianProcess", "LinearSDE", "NonlinearSDE", "Process",
                     "Radial", "forward_sde", "probability_flow", "reverse_sde", "score", "score_to_denoiser",
                     "shift"), "processes"),
    **dict.fromkeys(("build", "register", "registered"), "registry"),
    **dict.fromkeys(("Sampler", "Solution", "StepSampler", "preview", "sample", "solve", "trajectory"), "samplers"),
    **dict.fromkeys(("check_process", "check_sampler"), "testing"),
    **dict.fromkeys(("ODE", "SDE", "Denoiser", "Score", "Velocity"), "types"),
}  # fmt: skip

# Earlier public names, still accepted with a warning -> current names.
_RENAMED = {
    "Dequantisation": "Dequantization",
    "carry": "integrate_flow",
    "coupling": "objectives.coupling",
    "operators": "inverse_problems.operators",
    "posterior": "inverse_problems",
}

__all__ = [
    "ODE",
    "SDE",
    "AffineProcess",
    "Characteristics",
    "ConditionalModel",
    "Denoiser",
    "Dequantization",
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
    "check_process",
    "check_sampler",
    "classifier_free",
    "clipped",
    "data",
    "editing",
    "elbo",
    "estimate_variance",
    "evaluation",
    "exact_field",
    "flow_matching_loss",
    "forward_sde",
    "guidance",
    "integrate_flow",
    "inverse_problems",
    "log_prob",
    "make_denoiser",
    "make_velocity",
    "networks",
    "null_cond",
    "objectives",
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


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("demolish")
    if name in _RENAMED:
        return _renamed(name)
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    module = importlib.import_module(f"{__name__}.{home or name}")
    found = getattr(module, name) if home else module
    globals()[name] = found
    return found


def _renamed(name: str) -> Any:
    """Return the object of an earlier name, with a DeprecationWarning at the caller."""
    package, _, inner = _RENAMED[name].partition(".")
    warnings.warn(
        f"diffusion.{name} is now called diffusion.{_RENAMED[name]}.",
        DeprecationWarning,
        stacklevel=3,
    )
    found = __getattr__(package)
    return importlib.import_module(f"{__name__}.{package}.{inner}") if inner else found


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES, "__version__"])
