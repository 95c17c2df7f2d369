"""Samplers that keep x_t = alpha x_0 + sigma z and change its weights: DDIM and ancestral sampling."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

from diffusion.numerics import normal_like, require
from diffusion.processes import AffineProcess, GaussianProcess, Process
from diffusion.registry import nearest, register
from diffusion.samplers.base import State, StepSampler
from diffusion.samplers.levels import levels, namespace
from diffusion.types import Key, Scalar


class DDIMRow(NamedTuple):
    """x_s = keep x_t + pull x_0."""

    t: Any
    keep: Any
    pull: Any


@register("sampler", "dpm_solver_1")
@register("sampler", "ddim")
@final
@dataclass(frozen=True, kw_only=True)
class DDIM(StepSampler):
    """x_s = alpha_s x_0 + sigma_s z_t with z_t = (x_t - alpha_t x_0) / sigma_t.

    Both estimates are kept and weighted anew. Deterministic, order 1, exact when x_0 does not move (Song
    et al., 2021a, eq. 12 with eta = 0; Su, kexue.fm 9181). It is DPM-Solver-1 as well.
    """

    rung: ClassVar[type[Process]] = AffineProcess

    def prepare(self, process: Process, times: Any) -> DDIMRow:
        t, alpha, sigma = levels(process, times, "the sampler DDIM")
        keep = sigma[1:] / sigma[:-1]
        return DDIMRow(t[:-1], keep, alpha[1:] - alpha[:-1] * keep)

    def step(
        self, process: Process, model: Any, key: Key | None, state: Any, row: DDIMRow
    ) -> State:
        return State(row.keep * state.x + row.pull * model(state.x, row.t))


class AncestralRow(NamedTuple):
    """x_s = keep x_t + pull x_0 + spread z."""

    t: Any
    keep: Any
    pull: Any
    spread: Any


_VARIANCES = ("posterior", "beta")


@register("sampler", "ancestral")
@final
@dataclass(frozen=True, kw_only=True)
class Ancestral(StepSampler):
    """x_s = alpha_s x_0 + sigma_s z_s, where z_s mixes predicted and fresh normal noise.

    The fresh part has variance eta^2 (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2) of z_s: eta = 1 draws from
    the posterior q(x_s | x_t, x_0) of Ho et al. (2020), eta = 0 is DDIM (Su, kexue.fm 9164, 9181).
    `variance="beta"` keeps that mean and adds noise of the variance of the forward step instead, eta^2
    (sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2), the larger of the two classical choices.
    """

    order: ClassVar[int] = 1  # weak
    stochastic: ClassVar[bool] = True
    rung: ClassVar[type[Process]] = GaussianProcess

    eta: Scalar = 1.0
    variance: str = "posterior"

    def __post_init__(self) -> None:
        require(
            (self.eta >= 0) & (self.eta <= 1),
            f"`eta` mixes fresh noise in, between 0 and 1; got {self.eta}.",
        )
        require(
            self.variance in _VARIANCES,
            f"`variance` must be one of {', '.join(_VARIANCES)}; got {self.variance!r}."
            f"{nearest(self.variance, _VARIANCES)}",
        )

    def prepare(self, process: Process, times: Any) -> AncestralRow:
        t, alpha, sigma = levels(process, times, "the sampler Ancestral")
        xp = namespace(t)
        alpha_t, alpha_s, sigma_t, sigma_s = alpha[:-1], alpha[1:], sigma[:-1], sigma[1:]
        shared = (
            alpha_t * sigma_s / (alpha_s * sigma_t)
        )  # what of z_t survives in the posterior of z_s
        fresh = self.eta**2 * (1 - shared**2)
        keep = xp.sqrt(1 - fresh) * sigma_s / sigma_t
        if self.variance == "posterior":
            spread = xp.sqrt(fresh) * sigma_s
        else:
            spread = self.eta * xp.sqrt(sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2)
            spread = xp.where(sigma_s == 0, 0.0, spread)  # nothing is added to clean data
        return AncestralRow(t[:-1], keep, alpha_s - alpha_t * keep, spread)

    def step(
        self, process: Process, model: Any, key: Key | None, state: Any, row: AncestralRow
    ) -> State:
        assert key is not None
        x_s = row.keep * state.x + row.pull * model(state.x, row.t)
        return State(x_s + row.spread * normal_like(key, state.x))
