"""Guidance that keeps the posterior mean in the range of the data: clipping, thresholds, rescaling.

All of it is about x_0, so it needs a process with alpha(t) and sigma(t).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.guidance.base import Guidable, Guidance
from diffusion.numerics import as_pytree, require
from diffusion.processes import AffineProcess, Process
from diffusion.registry import register
from diffusion.types import Denoiser, Scalar, Time


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clipped:
    """A denoiser whose posterior mean is clipped to the range of the data."""

    denoise: Denoiser
    low: Scalar = -1.0
    high: Scalar = 1.0

    def __call__(self, x_t: Array, t: Time) -> Array:
        """Return the clipped posterior mean."""
        return jnp.clip(self.denoise(x_t, t), self.low, self.high)


def clipped(denoise: Denoiser, low: Scalar = -1.0, high: Scalar = 1.0) -> Clipped:
    """Clip a denoiser to [low, high], before the sampler sees it."""
    return Clipped(as_pytree(denoise), low, high)


@register("guidance", "clip")
@final
@dataclass(frozen=True, kw_only=True)
class Clip(Guidance):
    """x_0 clipped to [low, high]: the last entry of a list of guidance for images."""

    rung: ClassVar[type[Process]] = AffineProcess
    neutral: ClassVar[Mapping[str, Any]] = {"low": -1e6, "high": 1e6}

    low: Scalar = -1.0
    high: Scalar = 1.0

    def __post_init__(self) -> None:
        require(
            self.low < self.high,
            f"`low` must lie below `high`; got low={self.low}, high={self.high}.",
        )

    def guide(self, model: Guidable) -> Denoiser:
        return clipped(model.conditional, self.low, self.high)
