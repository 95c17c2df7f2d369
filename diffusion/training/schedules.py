"""Learning-rate schedules: factors of the peak learning rate, as functions of the number of the update.

The warm-up is not part of a schedule: it multiplies any schedule by (step + 1) / warmup until that is 1.
Schedules that end (cosine, linear) run from the end of the warm-up to the last step.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffusion.numerics import at_least, in_interval, monotone, positive
from diffusion.registry import register
from diffusion.types import Scalar

Step = Int[Array, "..."] | Float[Array, "..."] | int
Factor = Float[Array, "..."]


def _number(step: Step) -> Array:
    return jnp.asarray(step, jnp.result_type(float))


@register("schedule", "constant")
@dataclass(frozen=True, kw_only=True)
class Constant:
    """factor = 1."""

    def __call__(self, step: Step) -> Factor:
        """Return ones shaped like step."""
        return jnp.ones_like(_number(step))


@dataclass(frozen=True, kw_only=True)
class _Ending:
    """A schedule that ends.

    Attributes:
        total_steps: number of updates of the run.
        warmup: number of updates before the schedule begins.
        final: factor at the end.
    """

    total_steps: int
    warmup: int = 0
    final: Scalar = 0.0

    def __post_init__(self):
        positive(total_steps=self.total_steps, of="a schedule")
        in_interval("[0, 1]", final=self.final)

    def _elapsed(self, step: Step) -> Array:
        length = max(self.total_steps - self.warmup, 1)
        return jnp.clip((_number(step) - self.warmup) / length, 0, 1)


@register("schedule", "cosine")
@dataclass(frozen=True, kw_only=True)
class Cosine(_Ending):
    """factor = final + (1 - final) (1 + cos(pi u)) / 2, with u from 0 to 1 (Loshchilov, Hutter 2017)."""

    def __call__(self, step: Step) -> Factor:
        """Return the factor at this update."""
        return self.final + (1 - self.final) * (1 + jnp.cos(jnp.pi * self._elapsed(step))) / 2


@register("schedule", "linear")
@dataclass(frozen=True, kw_only=True)
class Linear(_Ending):
    """factor = 1 - (1 - final) u, with u from 0 to 1."""

    def __call__(self, step: Step) -> Factor:
        """Return the factor at this update."""
        return 1 - (1 - self.final) * self._elapsed(step)


@register("schedule", "rsqrt")
@dataclass(frozen=True, kw_only=True)
class InverseSquareRoot:
    """factor = 1 / sqrt(max(step / reference, 1)) (Karras et al., 2024).

    Attributes:
        reference: updates before the decay begins.
    """

    reference: Scalar = 70_000

    def __post_init__(self):
        positive(reference=self.reference, of="rsqrt")

    def __call__(self, step: Step) -> Factor:
        """Return the factor at this update."""
        return 1 / jnp.sqrt(jnp.maximum(_number(step) / self.reference, 1))


@register("schedule", "piecewise")
@dataclass(frozen=True, kw_only=True)
class Piecewise:
    """Linear between knots (step, factor), constant after the last.

    The default is the schedule of J. Su's DDPM examples, trained with LAMB: up to 1 at 4000,
    down to 0.5 at 20000 and 0.1 at 40000 (kexue.fm 9152).
    """

    knots: tuple[tuple[Scalar, Scalar], ...] = (
        (0, 0.0),
        (4_000, 1.0),
        (20_000, 0.5),
        (40_000, 0.1),
    )

    def __post_init__(self):
        steps = [step for step, _ in self.knots]
        at_least(1, knots=len(steps), of="a piecewise schedule")
        monotone("the steps of `knots`", steps, "increase")

    def __call__(self, step: Step) -> Factor:
        """Return the factor at this update."""
        steps, factors = (
            jnp.asarray(v, jnp.result_type(float)) for v in zip(*self.knots, strict=True)
        )
        return jnp.interp(_number(step), steps, factors)
