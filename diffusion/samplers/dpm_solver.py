"""DPM-Solver++ as multistep methods, deterministic and stochastic: x_0 is a polynomial in lambda.

The exact step is in `exponential`; lambda = log(alpha / sigma), and h is its increase over a step.

Reference: Lu et al. 2022b (DPM-Solver++).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import normal_like
from diffusion.processes import AffineProcess, GaussianProcess, Process
from diffusion.registry import register
from diffusion.samplers.base import StepSampler
from diffusion.samplers.exponential import (
    Past,
    PastRow,
    combine,
    linear_part,
    places,
    polynomial_weights,
    previous,
)
from diffusion.samplers.levels import Levels, levels, namespace
from diffusion.types import Key


class TwoStep(NamedTuple):
    """The state and the previous posterior mean."""

    x: Array
    x_0: Array


class TwoStepRow(NamedTuple):
    """x_s = keep x_t + pull (x_0 + slope (x_0 - previous x_0)) + spread z."""

    t: Any
    keep: Any
    pull: Any
    slope: Any
    spread: Any


def _half_slope(at: Levels) -> Any:
    """Return 1 / (2 r), r = h_before / h; 0 for the first step and next to steps of infinite length."""
    xp = namespace(at.t)
    _, h, endless = places(at)
    alone = endless | previous(endless, 1) | (xp.arange(len(h)) == 0)
    return xp.where(alone, 0.0, h / (2 * previous(h, 1)))


@register("sampler", "dpm_solver_pp_2m")
@final
@dataclass(frozen=True, kw_only=True)
class DPMSolverPP2M(StepSampler):
    """x_s = sigma_s/sigma_t x_t + alpha_s (1 - e^-h) (x_0 + (x_0 - x_0_before) / (2 r)), r = h_before / h.

    Lu et al. (2022b), algorithm 2. One evaluation, order 2. The first step, and a step
    that ends where sigma = 0, are of first order.
    """

    order: ClassVar[int] = 2
    memory: ClassVar[bool] = True
    requires: ClassVar[type[Process]] = AffineProcess

    def init(self, x: Array) -> TwoStep:
        return TwoStep(x, jnp.zeros_like(x))

    def prepare(self, process: Process, times: Any) -> TwoStepRow:
        at = levels(process, times, "the sampler DPMSolverPP2M")
        keep, pull = linear_part(at)
        return TwoStepRow(at.t[:-1], keep, pull, _half_slope(at), 0 * keep)

    def step(
        self, process: Process, model: Any, key: Key | None, state: TwoStep, row: TwoStepRow
    ) -> TwoStep:
        x_0 = model(state.x, row.t)
        x_s = row.keep * state.x + row.pull * (x_0 + row.slope * (x_0 - state.x_0))
        return TwoStep(x_s, x_0)


@register("sampler", "sde_dpm_solver_pp_2m")
@final
@dataclass(frozen=True, kw_only=True)
class SDEDPMSolverPP2M(StepSampler):
    """x_s = sigma_s/sigma_t e^-h x_t + alpha_s (1 - e^-2h) (x_0 + D / 2) + sigma_s sqrt(1 - e^-2h) z.

    D = (x_0 - x_0_before) / r, r = h_before / h: the reverse SDE with its linear part and its noise exact (Lu et al.,
    2022b, SDE-DPM-Solver++(2M)). One evaluation, weak order 1 (it approaches 2 as the noise vanishes). The first
    step is ancestral sampling.
    """

    order: ClassVar[int] = 1  # weak
    stochastic: ClassVar[bool] = True
    memory: ClassVar[bool] = True
    requires: ClassVar[type[Process]] = GaussianProcess

    def init(self, x: Array) -> TwoStep:
        return TwoStep(x, jnp.zeros_like(x))

    def prepare(self, process: Process, times: Any) -> TwoStepRow:
        at = levels(process, times, "the sampler SDEDPMSolverPP2M")
        xp = namespace(at.t)
        alpha_t, alpha_s, sigma_t, sigma_s = (
            at.alpha[:-1],
            at.alpha[1:],
            at.sigma[:-1],
            at.sigma[1:],
        )
        decay = alpha_t * sigma_s / (alpha_s * sigma_t)  # e^-h
        keep, pull = sigma_s / sigma_t * decay, alpha_s * (1 - decay**2)
        spread = sigma_s * xp.sqrt(1 - decay**2)
        return TwoStepRow(at.t[:-1], keep, pull, _half_slope(at), spread)

    def step(
        self, process: Process, model: Any, key: Key | None, state: TwoStep, row: TwoStepRow
    ) -> TwoStep:
        assert key is not None
        x_0 = model(state.x, row.t)
        mean = row.keep * state.x + row.pull * (x_0 + row.slope * (x_0 - state.x_0))
        return TwoStep(mean + row.spread * normal_like(key, state.x), x_0)


@register("sampler", "dpm_solver_pp_3m")
@final
@dataclass(frozen=True, kw_only=True)
class DPMSolverPP3M(StepSampler):
    """x_s = sigma_s/sigma_t x_t + alpha_s [(1 - e^-h) x_0 + phi_2 D_1 - 2 phi_3 D_2].

    phi_2 = (e^-h - 1)/h + 1, phi_3 = phi_2/h - 1/2; D_1 = h x_0' and D_2 = h^2 x_0''/2 of the parabola through the
    last three evaluations. One evaluation, order 3. The published update (Lu et al., 2022b, third-order
    multistep) has phi_3 D_2, half of the integral of the parabola, and converges with order 2. The first step
    is DDIM, the second that of 2M.
    """

    order: ClassVar[int] = 3
    memory: ClassVar[bool] = True
    requires: ClassVar[type[Process]] = AffineProcess

    def init(self, x: Array) -> Past:
        return Past(x, (jnp.zeros_like(x),) * 2)

    def prepare(self, process: Process, times: Any) -> PastRow:
        at = levels(process, times, "the sampler DPMSolverPP3M")
        xp = namespace(at.t)
        keep, pull = linear_part(at)
        slope = _half_slope(at)
        two = xp.stack([pull * (1 + slope), -pull * slope, 0 * slope], axis=-1)
        three = at.alpha[1:, None] * polynomial_weights(at, 3, 1.0)
        _, _, endless = places(at)
        short = endless | previous(endless, 1) | previous(endless, 2) | (xp.arange(len(keep)) < 2)
        weights = xp.where(short[:, None], two, three)
        return PastRow(at.t[:-1], keep, weights, (at.alpha[:-1], at.sigma[:-1]))

    def step(
        self, process: Process, model: Any, key: Key | None, state: Past, row: PastRow
    ) -> Past:
        return combine(state.x, row, (model(state.x, row.t), *state.past))
