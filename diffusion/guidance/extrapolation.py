"""Guidance that combines two denoisers: reference + scale (guided - reference).

It does not use Tweedie's formula, so it works for velocities as well. One convention: scale 0 is the
reference, 1 the guided denoiser itself, above 1 extrapolates (the `w` of some papers is omega = scale - 1;
Su, kexue.fm 9257).
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.guidance.base import Guidance, given
from diffusion.guidance.model import Both, CallablePytree, ConditionalModel, Pair
from diffusion.guidance.scales import (
    Scale,
    as_scale,
    check_scale,
    is_number,
    scale_at,
    scale_of,
)
from diffusion.numerics import require
from diffusion.registry import register
from diffusion.types import Cond, Denoiser, Scalar, Time


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Extrapolated(CallablePytree):
    """x_0 = reference + scale (guided - reference)."""

    both: Both
    scale: Any  # a number, (batch,), or a callable of t

    def __call__(self, x_t: Array, t: Time) -> Array:
        """Return the guided posterior mean."""
        return self.with_plain(x_t, t)[0]

    def with_plain(self, x_t: Array, t: Time) -> tuple[Array, Array]:
        """Return the extrapolated posterior mean, and the posterior mean at scale 1."""
        guided, reference = self.both(x_t, t)
        scale = scale_at(self.scale, t, x_t)
        x_0 = reference + scale * (guided - reference)
        return jnp.where(scale == 1, guided, x_0), guided  # bit-exact at scale 1, as at scale 0


def classifier_free(
    conditional: Denoiser,
    unconditional: Denoiser,
    scale: Scale | None = None,
    both: Both | None = None,
    *,
    omega: Scale | None = None,
) -> Denoiser:
    """Extrapolate from the second denoiser through the first (Ho and Salimans, 2022).

    Args:
        conditional: the conditional denoiser, or velocity.
        unconditional: the reference; a weaker model here is autoguidance, another condition a
            negative prompt.
        scale: 0 reference, 1 conditional, above 1 extrapolated: a number, one per example, or t -> scale.
        both: evaluates the two together, if that is cheaper than one after the other.
        omega: scale - 1, as an alternative to `scale`.

    Raises:
        TypeError: neither or both of `scale` and `omega` were passed.
    """
    if (scale is None) == (omega is None):
        raise TypeError("`classifier_free` takes either `scale`, or `omega`, which is scale - 1.")
    scale = scale if omega is None else above_one(omega)
    return Extrapolated(both or Pair(conditional, unconditional), as_scale(scale))


def above_one(omega: Any) -> Any:
    """Return the scale 1 + omega; a callable of t if omega is one."""
    if not callable(omega):
        return 1 + omega
    of_time: Any = omega
    return lambda t: 1 + of_time(t)


@dataclass(frozen=True, kw_only=True)
class Extrapolation(Guidance):
    """Fields of entries with a scale, which `omega` sets as scale - 1."""

    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0}

    scale: Any = dataclasses.field(default=2.0, metadata={"kind": "scale"})
    omega: InitVar[Scalar | None] = None

    def __post_init__(self, omega: Any) -> None:
        if omega is not None:
            default = type(self).__dataclass_fields__["scale"].default
            unset = is_number(self.scale) and self.scale == default
            require(unset, f"give `scale` or `omega`, scale - 1; got {self.scale} and {omega}.")
            object.__setattr__(self, "scale", above_one(omega))
        check_scale(self.scale)

    def at(self, model: ConditionalModel) -> Any:
        """Return the scale as an array or a callable of t, bound to the model's process."""
        return as_scale(scale_of(self.scale, model.process))

    def whole(self) -> float | None:
        """Return the scale if it is exactly 0 or 1, so that one denoiser suffices, else None."""
        known = is_number(self.scale) and float(self.scale) in (0.0, 1.0)
        return float(self.scale) if known else None


@register("guidance", "classifier_free")
@final
@dataclass(frozen=True, kw_only=True)
class ClassifierFree(Extrapolation):
    """x_0 = uncond + scale (cond - uncond), both from one network in one batched call.

    Ho and Salimans, 2022. `omega` sets scale - 1; `scale` may be an entry of the kind `scale`.
    """

    needs_cond: ClassVar[bool] = True
    needs_null: ClassVar[bool] = True

    def guide(self, model: ConditionalModel) -> Denoiser:
        if self.whole() == 1:
            return model.conditional  # half the cost
        if self.whole() == 0:
            return model.unconditional
        return Extrapolated(model.both(), self.at(model))


@register("guidance", "negative")
@final
@dataclass(frozen=True, kw_only=True)
class Negative(Extrapolation):
    """x_0 = avoided + scale (cond - avoided): extrapolate away from another condition (a negative prompt).

    The avoided condition is `label`, or given["negative"], a condition like the model's, with or without a batch axis.
    """

    needs_cond: ClassVar[bool] = True
    neutral: ClassVar[Mapping[str, Any]] = {"scale": 1.0, "label": -1}

    label: int | tuple[int, ...] | None = None

    def guide(self, model: ConditionalModel) -> Denoiser:
        avoided = self._avoided(model)
        if self.whole() == 1:
            return model.conditional
        if self.whole() == 0:
            return model.with_cond(avoided)
        return Extrapolated(model.against(avoided), self.at(model))

    def _avoided(self, model: ConditionalModel) -> Cond:
        if self.label is None:
            return _like(given(model, "negative", self), model.cond)
        known = sorted(model.cond) if isinstance(model.cond, Mapping) else []
        if "label" not in known:
            raise ValueError(f"'negative' with `label` needs a condition 'label'; got {known}.")
        label = jnp.asarray(self.label, model.cond["label"].dtype)
        return {**model.cond, "label": jnp.broadcast_to(label, model.cond["label"].shape)}


def _like(cond: Cond, other: Cond) -> Cond:
    """Repeat a condition without a batch axis, or with one of length 1, for the batch of another."""
    if jax.tree.structure(cond) != jax.tree.structure(other):
        raise ValueError(
            f"given['negative'] must be like the model's {jax.tree.structure(other)}; got {jax.tree.structure(cond)}."
        )
    fit = lambda a, b: jnp.broadcast_to(jnp.asarray(a, jnp.asarray(b).dtype), jnp.shape(b))
    return jax.tree.map(fit, cond, other)


@register("guidance", "autoguidance")
@final
@dataclass(frozen=True, kw_only=True)
class Autoguidance(Extrapolation):
    """x_0 = weaker + scale (model - weaker): extrapolate away from a smaller, or less trained, model.

    The weaker model is given["guide"], a callable from a condition to its denoiser (Karras et al., 2024).
    """

    def guide(self, model: ConditionalModel) -> Denoiser:
        guide = given(model, "guide", self)
        if self.whole() == 1:
            return model.conditional
        return classifier_free(model.conditional, guide(model.cond), self.at(model))
