"""Exponential integrators in lambda = log(alpha / sigma): the linear part exact, x_0 a polynomial.

    x_s = sigma_s / sigma_t x_t + sigma_s integral_(lambda_t)^(lambda_s) e^lambda x_0(lambda) d lambda

With h = lambda_s - lambda_t, a constant x_0 enters with the factor alpha_s (1 - e^-h), that is alpha_s -
alpha_t sigma_s / sigma_t, which stays finite where sigma_s = 0.

References: Lu et al. 2022a (DPM-Solver), 2022b (DPM-Solver++).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.processes import AffineProcess, Process
from diffusion.registry import register
from diffusion.samplers.base import Levels, StepSampler, levels, namespace
from diffusion.types import Key


class TwoStep(NamedTuple):
    """The state and the previous posterior mean."""

    x: Array
    x_0: Array


class TwoStepRow(NamedTuple):
    """x_s = keep x_t + pull (x_0 + slope (x_0 - previous x_0))."""

    t: Any
    keep: Any
    pull: Any
    slope: Any


def linear_part(at: Levels) -> tuple[Any, Any]:
    """Return (keep, pull) of every step: x_s = keep x_t + pull x_0 for a constant x_0."""
    keep = at.sigma[1:] / at.sigma[:-1]
    return keep, at.alpha[1:] - at.alpha[:-1] * keep


@register("sampler", "dpm_solver_pp_2m")
@final
@dataclass(frozen=True, kw_only=True)
class DPMSolverPP2M(StepSampler):
    """x_s = sigma_s/sigma_t x_t + alpha_s (1 - e^-h) (x_0 + (x_0 - x_0_before) / (2 r)), r = h_before / h.

    DPM-Solver++(2M), Lu et al. (2022b), algorithm 2. One evaluation, order 2. The first step, and a step
    that ends where sigma = 0, are of first order.
    """

    order: ClassVar[int] = 2
    rung: ClassVar[type[Process]] = AffineProcess

    def init(self, x: Array) -> TwoStep:
        return TwoStep(x, jnp.zeros_like(x))

    def prepare(self, process: Process, times: Any) -> TwoStepRow:
        at = levels(process, times, "the sampler DPMSolverPP2M")
        xp = namespace(at.t)
        keep, pull = linear_part(at)
        with np.errstate(invalid="ignore"):
            h = xp.diff(at.log_ratio)
        slope = xp.concatenate([xp.zeros(1), h[1:] / (2 * h[:-1])])
        return TwoStepRow(at.t[:-1], keep, pull, xp.where(xp.isfinite(slope), slope, 0.0))

    def step(
        self, process: Process, model: Any, key: Key | None, state: TwoStep, row: TwoStepRow
    ) -> TwoStep:
        x_0 = model(state.x, row.t)
        x_s = row.keep * state.x + row.pull * (x_0 + row.slope * (x_0 - state.x_0))
        return TwoStep(x_s, x_0)
