"""Guidance that keeps the posterior mean in the range of the data: clipping, thresholding, rescaling.

These entries act on x_0, so they need an `AffineProcess`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.guidance.base import Guidance
from diffusion.guidance.extrapolation import Extrapolated
from diffusion.guidance.model import CallablePytree, ConditionalModel, Pair
from diffusion.numerics import in_interval, ordered, positive
from diffusion.processes import AffineProcess, Process
from diffusion.registry import register
from diffusion.types import Denoiser, Scalar, Time


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clipped(CallablePytree):
    """A denoiser whose posterior mean is clipped to [low, high], the range of the data."""

    denoise: Denoiser
    low: Any = -1.0
    high: Any = 1.0

    def __call__(self, x_t: Array, t: Time) -> Array:
        """Return the clipped posterior mean."""
        return jnp.clip(self.denoise(x_t, t), self.low, self.high)


clipped = Clipped


@register("guidance", "clip")
@final
@dataclass(frozen=True, kw_only=True)
class Clip(Guidance):
    """x_0 clipped to [low, high]; for images, the last entry of a list of guidance."""

    requires: ClassVar[type[Process]] = AffineProcess
    neutral: ClassVar[Mapping[str, Any]] = {"low": -1e6, "high": 1e6}

    low: Scalar = -1.0
    high: Scalar = 1.0

    def __post_init__(self) -> None:
        ordered(low=self.low, high=self.high)

    def guide(self, model: ConditionalModel) -> Denoiser:
        return clipped(model.conditional, self.low, self.high)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Thresholded(CallablePytree):
    """x_0 clipped to [-s, s] and scaled by limit / s, s a quantile of |x_0| (Saharia et al., 2022, sec. 2.3).

    Args:
        denoise: E[x_0 | x_t], data within [-limit, limit].
        percentile: the quantile of each example, as a fraction of 1.
        limit: the largest |x_0| of the data, and the smallest s; an example within it is not changed.
    """

    denoise: Denoiser
    percentile: Any = 0.995
    limit: Any = 1.0

    def __call__(self, x_t: Array, t: Time) -> Array:
        """Return the thresholded posterior mean."""
        x_0 = self.denoise(x_t, t)
        axes = tuple(range(1, x_0.ndim))
        quantile, limit = (jnp.asarray(c, x_0.dtype) for c in (self.percentile, self.limit))
        s = jnp.maximum(jnp.quantile(jnp.abs(x_0), quantile, axis=axes, keepdims=True), limit)
        return jnp.clip(x_0, -s, s) * (limit / s)


dynamic_threshold = Thresholded


@register("guidance", "dynamic_threshold")
@final
@dataclass(frozen=True, kw_only=True)
class DynamicThreshold(Guidance):
    """x_0 = clip(x_0, -s, s) limit / s, s = max(limit, quantile of |x_0| per example).

    Saharia et al., 2022. It prevents saturated pixels at large scales; use it instead of `clip`.
    """

    requires: ClassVar[type[Process]] = AffineProcess
    neutral: ClassVar[Mapping[str, Any]] = {"limit": 1e6}

    percentile: Scalar = 0.995
    limit: Scalar = 1.0

    def __post_init__(self) -> None:
        in_interval("(0, 1]", percentile=self.percentile)
        positive(limit=self.limit)

    def guide(self, model: ConditionalModel) -> Denoiser:
        return dynamic_threshold(model.conditional, self.percentile, self.limit)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Rescaled(CallablePytree):
    """x_0 (1 + phi (std(plain) / std(x_0) - 1)), standard deviations over each example (Lin et al., 2024).

    Args:
        guided: the denoiser after guidance; that of `classifier_free` also returns the plain mean in one evaluation.
        plain: the denoiser before guidance.
        phi: 0 leaves the guided mean unchanged, 1 gives it the standard deviation of the plain mean.
    """

    guided: Denoiser
    plain: Denoiser
    phi: Any = 0.7

    def __call__(self, x_t: Array, t: Time) -> Array:
        """Return the rescaled posterior mean."""
        guided = self.guided  # an extrapolation already computes the plain mean
        both = guided.with_plain if isinstance(guided, Extrapolated) else Pair(guided, self.plain)
        x_0, plain = both(x_t, t)
        std = lambda x: jnp.std(x, axis=tuple(range(1, x.ndim)), keepdims=True)
        spread = std(x_0)
        ratio = jnp.where(spread > 0, std(plain) / jnp.where(spread > 0, spread, 1), 1)
        return x_0 * (1 + jnp.asarray(self.phi, x_0.dtype) * (ratio - 1))


rescale = Rescaled


@register("guidance", "rescale")
@final
@dataclass(frozen=True, kw_only=True)
class Rescale(Guidance):
    """x_0 (1 + phi (std(cond) / std(x_0) - 1)): scale the guided mean toward the conditional mean's deviation.

    Lin et al., 2024, eq. 15, 16 (`phi`). In a list, put it after the guidance that it rescales.
    """

    requires: ClassVar[type[Process]] = AffineProcess
    neutral: ClassVar[Mapping[str, Any]] = {"phi": 0.0}

    phi: Scalar = dataclasses.field(default=0.7, metadata={"renamed_from": "share"})

    def __post_init__(self) -> None:
        in_interval("[0, 1]", phi=self.phi)

    def guide(self, model: ConditionalModel) -> Denoiser:
        return rescale(model.conditional, model.plain, self.phi)
