"""DEIS: exponential Adams-Bashforth methods in the noise (Zhang and Chen, 2023)."""

from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import is_traced, on_host, one_of
from diffusion.processes import AffineProcess, Process
from diffusion.registry import register
from diffusion.samplers.base import StepSampler
from diffusion.samplers.exponential import (
    Past,
    PastRow,
    combine,
    noise_part,
    padded,
    places,
    polynomial_weights,
    previous,
)
from diffusion.samplers.levels import Levels, levels, namespace
from diffusion.types import Key

_CLOCKS = ("log_snr", "time", "rho")


@register("sampler", "deis")
@final
@dataclass(frozen=True, kw_only=True)
class DEIS(StepSampler):
    """x_s = alpha_s/alpha_t x_t - sigma_s sum over j of e_j integral of e^(lambda_s - lambda) L_j d lambda.

    The noise e is a polynomial through the last `order` evaluations (Zhang and Chen, 2023, eq. 15). `clock` is
    the variable of the polynomial: "log_snr" (lambda), "time" (t, the tAB of the paper) or "rho" (sigma / alpha).
    One evaluation; order 1 is DDIM. The first steps have fewer previous evaluations, hence a lower degree.
    """

    memory: ClassVar[bool] = True
    requires: ClassVar[type[Process]] = AffineProcess

    order: int = 3  # pyright: ignore[reportIncompatibleVariableOverride]
    clock: str = "log_snr"

    def __post_init__(self) -> None:
        one_of((1, 2, 3, 4), order=self.order, of="deis")
        one_of(_CLOCKS, clock=self.clock)

    def init(self, x: Array) -> Past:
        return Past(x, (jnp.zeros_like(x),) * (self.order - 1))

    def _clock(self, process: AffineProcess, at: Levels) -> Any:
        """Return the function of lambda that maps it to the variable of the polynomial."""
        if self.clock == "log_snr":
            return None
        if self.clock == "rho":
            return lambda u: namespace(u).exp(-u)
        if is_traced(at, process):
            return lambda u: process.time_of_log_snr(2 * u)
        return lambda u: on_host(process.time_of_log_snr, 2 * u)

    def prepare(self, process: Any, times: Any) -> PastRow:
        at = levels(process, times, "the sampler DEIS")
        xp = namespace(at.t)
        keep, push = noise_part(at)
        many = -at.sigma[1:, None] * polynomial_weights(
            at, self.order, -1.0, self._clock(process, at)
        )
        _, _, endless = places(at)
        alone = xp.arange(len(keep)) == 0
        for back in range(self.order):
            alone = alone | previous(endless, back)
        weights = xp.where(alone[:, None], padded(push, self.order), many)
        return PastRow(at.t[:-1], keep, weights, (at.alpha[:-1], at.sigma[:-1]))

    def step(self, process: Any, model: Any, key: Key | None, state: Past, row: PastRow) -> Past:
        alpha, sigma = row.scale
        noise = (state.x - alpha * model(state.x, row.t)) / sigma
        return combine(state.x, row, (noise, *state.past))
