"""Guidance: functions from denoisers to a denoiser.

A sampler, an ODE, a likelihood never learn that guidance exists. The scale has one convention
everywhere: 0 is the unconditional model, 1 the conditional one, above 1 extrapolates (so the `w` of some
papers is scale - 1; Su, kexue.fm 9257).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, final, runtime_checkable

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array

from diffusion.numerics import as_pytree, require
from diffusion.registry import register
from diffusion.types import Denoiser, Scalar, Time

Both = Callable[[Array, Any], tuple[Array, Array]]  # (x_t, t) -> both posterior means


@runtime_checkable
class Guidable(Protocol):
    """The denoisers of one model: what a guidance entry of a config gets to work with."""

    @property
    def conditional(self) -> Denoiser:
        """E[x_0 | x_t, cond]."""
        ...

    @property
    def unconditional(self) -> Denoiser:
        """E[x_0 | x_t]."""
        ...

    @property
    def both(self) -> Both:
        """The two at once, at the cost of one call on a doubled batch where that is possible."""
        ...


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pair:
    """Two denoisers called one after the other."""

    conditional: Denoiser
    unconditional: Denoiser

    def __call__(self, x_t: Array, t: Time) -> tuple[Array, Array]:
        """Return both posterior means."""
        return self.conditional(x_t, t), self.unconditional(x_t, t)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Extrapolated:
    """x_0 = reference + scale (guided - reference)."""

    both: Both
    scale: Scalar

    def __call__(self, x_t: Array, t: Time) -> Array:
        """Return the guided posterior mean."""
        guided, reference = self.both(x_t, t)
        scale = jnp.asarray(self.scale, x_t.dtype)
        x_0 = reference + scale * (guided - reference)
        return jnp.where(scale == 1, guided, x_0)  # at 1 to the last bit, as at 0


def classifier_free(
    conditional: Denoiser, unconditional: Denoiser, scale: Scalar, both: Both | None = None
) -> Denoiser:
    """Extrapolate from the second denoiser through the first (Ho and Salimans, 2022).

    Args:
        conditional: the better-informed denoiser.
        unconditional: the reference; a weaker model here is autoguidance, another condition a
            negative prompt.
        scale: 0 reference, 1 conditional, above 1 extrapolated.
        both: evaluates the two together, when that is cheaper than one after the other.
    """
    pair = Pair(as_pytree(conditional), as_pytree(unconditional))
    return Extrapolated(as_pytree(both) if both is not None else pair, scale)


@register("guidance", "classifier_free")
@final
@dataclass(frozen=True, kw_only=True)
class ClassifierFree:
    """x_0 = uncond + scale (cond - uncond), both from one network in one batched call."""

    scale: Scalar = 2.0

    def __post_init__(self) -> None:
        require(self.scale >= 0, f"`scale` must not be negative; got {self.scale}.")

    def __call__(self, model: Guidable) -> Denoiser:
        """Return the guided denoiser."""
        if not isinstance(self.scale, Tracer):
            if self.scale == 1:
                return model.conditional  # half the cost
            if self.scale == 0:
                return model.unconditional
        return classifier_free(model.conditional, model.unconditional, self.scale, model.both)


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
class Clip:
    """x_0 clipped to [low, high]: the last entry of a list of guidance for images."""

    low: Scalar = -1.0
    high: Scalar = 1.0

    def __post_init__(self) -> None:
        require(
            self.low < self.high,
            f"`low` must lie below `high`; got low={self.low}, high={self.high}.",
        )

    def __call__(self, model: Guidable) -> Denoiser:
        """Return the clipped denoiser."""
        return clipped(model.conditional, self.low, self.high)
