"""Samplers that split x_t into alpha x_0 + sigma z and combine the parts anew: DDIM and ancestral sampling."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import jax.numpy as jnp
import numpy as np

from diffusion.models.variance import learned_variance, stated_variance
from diffusion.numerics import in_interval, is_traced, normal_like, one_of, require
from diffusion.processes import AffineProcess, GaussianProcess, Process
from diffusion.registry import register
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

    The estimates of x_0 and z are combined with the coefficients at s. Deterministic, order 1, exact if the
    predicted x_0 is constant (Song et al., 2021a, eq. 12 with eta = 0; Su, kexue.fm 9181). Equal to DPM-Solver-1.
    """

    requires: ClassVar[type[Process]] = AffineProcess

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
    noisy: Any  # whether sigma_s > 0: no noise is added to clean data
    widen: Any  # log of the ratio of the standard deviations of the forward step and the posterior


def _given(model: Any, x: Any, row: AncestralRow) -> tuple[Any, Any]:
    return model(x, row.t), row.spread


def _analytic(model: Any, x: Any, row: AncestralRow) -> tuple[Any, Any]:
    variance = stated_variance(model).posterior_variance(x, row.t)
    return model(x, row.t), row.noisy * jnp.sqrt(row.spread**2 + row.pull**2 * variance)


def _learned(model: Any, x: Any, row: AncestralRow) -> tuple[Any, Any]:
    x_0, variance_output = learned_variance(model).mean_and_variance_output(x, row.t)
    return x_0, row.spread * jnp.exp(variance_output * row.widen)


# (model, x_t, row) -> the posterior mean and the standard deviation of the noise
_SPREADS: dict[str, Callable[[Any, Any, AncestralRow], tuple[Any, Any]]] = {
    "posterior": _given,
    "beta": _given,
    "analytic": _analytic,
    "learned": _learned,
}


@register("sampler", "ancestral")
@final
@dataclass(frozen=True, kw_only=True)
class Ancestral(StepSampler):
    """x_s = alpha_s x_0 + sigma_s z_s, where z_s mixes predicted and fresh normal noise.

    The fresh part has variance eta^2 (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2) of z_s: eta = 1 draws from
    the posterior q(x_s | x_t, x_0) of Ho et al. (2020), eta = 0 is DDIM (Su, kexue.fm 9164, 9181). For eta above 1
    the fresh part is larger. It cannot exceed all of z_s, so eta^2 (1 - (alpha_t sigma_s / (alpha_s sigma_t))^2) <= 1
    in every step with sigma_s > 0: the grid bounds eta, and longer steps lower the bound.
    The mean does not depend on `variance`, the variance of the noise, which eta scales:

        posterior   that of q(x_s | x_t, x_0), too small because it assumes that x_0 is known
        beta        that of the forward step, sigma_t^2 - (alpha_t / alpha_s)^2 sigma_s^2
        analytic    posterior + pull^2 sbar^2, with sbar^2 the model's variance of x_0 given x_t
                    (`diffusion.models.variance.with_variance`; Bao et al., 2022): exact on N(0, s^2) for every eta
        learned     interpolated between the logarithms of posterior and beta by the network
                    (Nichol and Dhariwal, 2021)
    """

    order: ClassVar[int] = 1  # weak
    stochastic: ClassVar[bool] = True
    requires: ClassVar[type[Process]] = GaussianProcess

    eta: Scalar = 1.0
    variance: str = "posterior"

    def __post_init__(self) -> None:
        in_interval("[0, inf)", eta=self.eta, hint="The grid sets an upper bound.")
        one_of(_SPREADS, variance=self.variance)

    def prepare(self, process: Process, times: Any) -> AncestralRow:
        t, alpha, sigma = levels(process, times, "the sampler Ancestral")
        xp = namespace(t)
        alpha_t, alpha_s, sigma_t, sigma_s = alpha[:-1], alpha[1:], sigma[:-1], sigma[1:]
        # the coefficient of z_t in the posterior mean of z_s
        shared = alpha_t * sigma_s / (alpha_s * sigma_t)
        fresh = self._fresh(1 - shared**2, sigma_s > 0)
        keep = xp.sqrt(1 - fresh) * sigma_s / sigma_t
        spread, noisy = xp.sqrt(fresh) * sigma_s, sigma_s > 0
        if self.variance == "beta":
            spread = self.eta * xp.sqrt(sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2)
            spread = xp.where(noisy, spread, 0.0)
        with np.errstate(divide="ignore"):
            widen = xp.where(noisy, xp.log(sigma_t) - xp.log(sigma_s), 0.0)
        return AncestralRow(t[:-1], keep, alpha_s - alpha_t * keep, spread, noisy, widen)

    def _fresh(self, lost: Any, noisy: Any) -> Any:
        """Return the fresh fraction of the variance of z_s: eta^2 times that of the posterior.

        Raises:
            ValueError: the fraction exceeds 1 in a step with sigma_s > 0.
        """
        xp = namespace(lost)
        fresh = self.eta**2 * lost
        if not is_traced(fresh, noisy):
            most = np.sqrt(1 / np.max(lost, where=noisy, initial=1e-300))
            require(
                bool(np.all((fresh <= 1) | ~noisy)),
                f"`eta` may be {np.floor(1e4 * most) / 1e4:g} at most; got {self.eta}. Shorter steps allow more.",
            )
        return xp.minimum(fresh, 1.0)

    def step(
        self, process: Process, model: Any, key: Key | None, state: Any, row: AncestralRow
    ) -> State:
        assert key is not None
        x_0, spread = _SPREADS[self.variance](model, state.x, row)
        x_s = row.keep * state.x + row.pull * x_0
        return State(x_s + spread * normal_like(key, state.x))
