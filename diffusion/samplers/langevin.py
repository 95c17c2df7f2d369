"""Langevin correction: stochastic steps along the score at a fixed time, after each step of another sampler."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import at_least, fold_in, is_traced, normal_like, positive, split
from diffusion.processes import GaussianProcess, Process
from diffusion.processes.dynamics import score
from diffusion.registry import register
from diffusion.samplers.base import StepSampler
from diffusion.samplers.integrators import EulerMaruyama
from diffusion.samplers.levels import levels
from diffusion.samplers.renoise import require_inner
from diffusion.types import Key, Scalar


class CorrectedRow(NamedTuple):
    """A row of the inner sampler, the time at which it ends, and the size of the Langevin step there, or 0."""

    inner: Any
    s: Any
    epsilon: Any


class Inside(NamedTuple):
    """The solution and the state of the inner sampler."""

    x: Array
    inner: Any


@register("sampler", "langevin")
@final
@dataclass(frozen=True, kw_only=True)
class Langevin(StepSampler):
    """x <- x + epsilon score(x, s) + sqrt(2 epsilon) z, num_corrections times after each step to s.

    epsilon = 2 (snr sigma_s)^2: the rule of Song et al. (2021, algorithm 4) with the expected ratio, sigma_s,
    of the norms of z and score, so that an example does not depend on its batch. On N(0, v) the stationary variance
    is v / (1 - epsilon / (2 v)). For any `GaussianProcess`; there is no correction where sigma_s = 0.
    """

    order: ClassVar[int] = 1  # weak
    stochastic: ClassVar[bool] = True
    memory: ClassVar[bool] = True
    requires: ClassVar[type[Process]] = GaussianProcess

    inner: Any = dataclasses.field(default=EulerMaruyama(), metadata={"kind": "sampler"})
    snr: Scalar = 0.16
    num_corrections: int = 1

    def __post_init__(self) -> None:
        require_inner(self.inner, "langevin", memory=True)
        positive(snr=self.snr, of="langevin")
        at_least(1, num_corrections=self.num_corrections, of="langevin")

    def init(self, x: Array) -> Inside:
        return Inside(x, self.inner.init(x))

    def prepare(self, process: Process, times: Any) -> CorrectedRow:
        at = levels(process, times, "the sampler Langevin")
        epsilon = 2 * (self.snr * at.sigma[1:]) ** 2
        return CorrectedRow(self.inner.prepare(process, times), at.t[1:], epsilon)

    @property
    def evaluations(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Evaluations of the model per step, including those of the corrections."""
        return self.inner.evaluations + self.num_corrections

    def nfe(self, table: CorrectedRow) -> Any:
        if is_traced(table.epsilon):
            return self.inner.nfe(table.inner) + self.num_corrections * len(table.s)
        corrected = int((table.epsilon > 0).sum())
        return self.inner.nfe(table.inner) + self.num_corrections * corrected

    def step(
        self, process: Any, model: Any, key: Key | None, state: Inside, row: CorrectedRow
    ) -> Inside:
        assert key is not None
        key_inner, key_up = split(key)
        inner_key = key_inner if self.inner.stochastic else None
        inner = self.inner.step(process, model, inner_key, state.inner, row.inner)
        grad = score(process, model)

        def corrected(x: Array) -> Array:
            for i in range(self.num_corrections):
                z = normal_like(fold_in(key_up, i), x)
                x = x + row.epsilon * grad(x, row.s) + jnp.sqrt(2 * row.epsilon) * z
            return x

        x = jax.lax.cond(row.epsilon > 0, corrected, lambda x: x, inner.x)
        return Inside(x, inner._replace(x=x))
