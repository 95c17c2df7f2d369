"""Single-step DPM-Solver: intermediate evaluations between t and s, no use of earlier steps.

With lambda = log(alpha / sigma), h = lambda_s - lambda_t and e = (x - alpha x_0) / sigma, the exact step is

    x_s = alpha_s/alpha_t x_t - alpha_s integral from lambda_t to lambda_s of e^-lambda e(lambda) d lambda

and e is expanded around lambda_t with evaluations at lambda_t + r h (Lu et al., 2022a). The ++ variant expands
x_0 instead (2022b). A step that ends where sigma = 0 is of first order, which is exact in that case.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import is_traced, on_host
from diffusion.processes import AffineProcess, Process
from diffusion.registry import register
from diffusion.samplers.base import State, StepSampler
from diffusion.samplers.exponential import linear_part, noise_part, places
from diffusion.samplers.levels import Levels, levels, namespace
from diffusion.types import Key


class Inner(NamedTuple):
    """One intermediate point per step, its scales, and r h; if a step ends at sigma = 0, the point is its start."""

    t: Any
    alpha: Any
    sigma: Any
    rh: Any


def _inner(process: AffineProcess, at: Levels, r: float) -> Inner:
    """Return the points at the fraction r of each step in lambda.

    A step of infinite length is of first order: its point is its start, and r h is 0.
    """
    xp = namespace(at.t)
    start, h, endless = places(at)
    rh = xp.where(endless, 0.0, r * h)
    if is_traced(at, process):
        t = jnp.asarray(process.time_of_log_snr(2 * (start + rh)))
        scales = process.alpha(t), process.sigma(t)
    else:
        t = on_host(process.time_of_log_snr, 2 * (start + rh))
        scales = on_host(process.alpha, t), on_host(process.sigma, t)
    at_start = (at.t[:-1], at.alpha[:-1], at.sigma[:-1])
    t, alpha, sigma = (xp.where(endless, a, b) for a, b in zip(at_start, (t, *scales), strict=True))
    return Inner(t, alpha, sigma, rh)


class NoiseRow(NamedTuple):
    """Times, scales and coefficients of one step; see the docstrings of the samplers."""

    t: Any
    alpha: Any
    sigma: Any
    inner: tuple[Any, ...]  # (t, alpha, sigma, keep, first, second) per intermediate point
    keep: Any
    first: Any
    last: Any


def _noise(x: Array, x_0: Array, alpha: Any, sigma: Any) -> Array:
    return (x - alpha * x_0) / sigma


@register("sampler", "dpm_solver_2")
@final
@dataclass(frozen=True, kw_only=True)
class DPMSolver2(StepSampler):
    """u = alpha_m/alpha_t x - sigma_m (e^(h/2) - 1) e_t;  x_s = alpha_s/alpha_t x - sigma_s (e^h - 1) e_m.

    m is the midpoint in lambda. Two evaluations, order 2 (Lu et al., 2022a, algorithm 1, r = 1/2).
    """

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2
    requires: ClassVar[type[Process]] = AffineProcess

    def prepare(self, process: Any, times: Any) -> NoiseRow:
        at = levels(process, times, "the sampler DPMSolver2")
        keep, first = noise_part(at)
        m = _inner(process, at, 0.5)
        to_m = m.alpha / at.alpha[:-1]
        inner = (m.t, m.alpha, m.sigma, to_m, m.sigma - to_m * at.sigma[:-1])
        return NoiseRow(at.t[:-1], at.alpha[:-1], at.sigma[:-1], inner, keep, first, first)

    def step(self, process: Any, model: Any, key: Key | None, state: Any, row: NoiseRow) -> State:
        x, (m, alpha_m, sigma_m, to_m, pull_m) = state.x, row.inner
        e_t = _noise(x, model(x, row.t), row.alpha, row.sigma)
        u = to_m * x + pull_m * e_t
        e_m = _noise(u, model(u, m), alpha_m, sigma_m)
        return State(row.keep * x + row.last * e_m)


@register("sampler", "dpm_solver_3")
@final
@dataclass(frozen=True, kw_only=True)
class DPMSolver3(StepSampler):
    """Points at a third and two thirds of the step in lambda; three evaluations, order 3.

    u_1 = alpha_1/alpha_t x - sigma_1 (e^(h/3) - 1) e_t
    u_2 = alpha_2/alpha_t x - sigma_2 (e^(2h/3) - 1) e_t - 2 sigma_2 ((e^(2h/3) - 1)/(2h/3) - 1) (e_1 - e_t)
    x_s = alpha_s/alpha_t x - sigma_s (e^h - 1) e_t - 3/2 sigma_s ((e^h - 1)/h - 1) (e_2 - e_t)

    Lu et al. (2022a), algorithm 2, r_1 = 1/3, r_2 = 2/3.
    """

    order: ClassVar[int] = 3
    evaluations: ClassVar[int] = 3
    requires: ClassVar[type[Process]] = AffineProcess

    def prepare(self, process: Any, times: Any) -> NoiseRow:
        at = levels(process, times, "the sampler DPMSolver3")
        xp = namespace(at.t)
        keep, first = noise_part(at)
        one, two = _inner(process, at, 1 / 3), _inner(process, at, 2 / 3)
        inner = ()
        for m, factor in ((one, 0.0), (two, 2.0)):
            to_m = m.alpha / at.alpha[:-1]
            bend = -factor * m.sigma * _phi(xp, m.rh)
            inner += ((m.t, m.alpha, m.sigma, to_m, m.sigma - to_m * at.sigma[:-1], bend),)
        last = -1.5 * at.sigma[1:] * _phi(xp, places(at)[1])
        return NoiseRow(at.t[:-1], at.alpha[:-1], at.sigma[:-1], inner, keep, first, last)

    def step(self, process: Any, model: Any, key: Key | None, state: Any, row: NoiseRow) -> State:
        x = state.x
        (t_1, alpha_1, sigma_1, to_1, pull_1, _), (t_2, alpha_2, sigma_2, to_2, pull_2, bend) = (
            row.inner
        )
        e_t = _noise(x, model(x, row.t), row.alpha, row.sigma)
        u_1 = to_1 * x + pull_1 * e_t
        e_1 = _noise(u_1, model(u_1, t_1), alpha_1, sigma_1)
        u_2 = to_2 * x + pull_2 * e_t + bend * (e_1 - e_t)
        e_2 = _noise(u_2, model(u_2, t_2), alpha_2, sigma_2)
        return State(row.keep * x + row.first * e_t + row.last * (e_2 - e_t))


def _phi(xp: Any, h: Any) -> Any:
    """Return (e^h - 1)/h - 1, by its series if h is tiny."""
    safe = xp.where(abs(h) < 1e-5, 1.0, h)
    return xp.where(abs(h) < 1e-5, h / 2 + h**2 / 6, xp.expm1(safe) / safe - 1)


class DataRow(NamedTuple):
    """Coefficients of a step that expands x_0."""

    t: Any
    m: Any
    to_m: Any
    pull_m: Any
    keep: Any
    pull: Any


@register("sampler", "dpm_solver_pp_2s")
@final
@dataclass(frozen=True, kw_only=True)
class DPMSolverPP2S(StepSampler):
    """u = sigma_m/sigma_t x - alpha_m (e^(-h/2) - 1) x_0(x, t), then the step with x_0(u, m).

    x_s = sigma_s/sigma_t x - alpha_s (e^-h - 1) x_0(u, m), where m is the midpoint in lambda. Two
    evaluations, order 2 (Lu et al., 2022b, algorithm 1, r = 1/2).
    """

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2
    requires: ClassVar[type[Process]] = AffineProcess

    def prepare(self, process: Any, times: Any) -> DataRow:
        at = levels(process, times, "the sampler DPMSolverPP2S")
        m = _inner(process, at, 0.5)
        to_m = m.sigma / at.sigma[:-1]
        return DataRow(at.t[:-1], m.t, to_m, m.alpha - at.alpha[:-1] * to_m, *linear_part(at))

    def step(self, process: Any, model: Any, key: Key | None, state: Any, row: DataRow) -> State:
        u = row.to_m * state.x + row.pull_m * model(state.x, row.t)
        return State(row.keep * state.x + row.pull * model(u, row.m))
