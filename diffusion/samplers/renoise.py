"""Wrappers that add noise between the steps of another sampler: EDM's churn, and Restart.

A step from t to s first adds noise, from t to u >= t, and then takes the inner sampler's step from u to s.

    x_u = alpha_u/alpha_t x_t + alpha_u sqrt((sigma_u/alpha_u)^2 - (sigma_t/alpha_t)^2) z

The first part is the forward process itself, so that a state with the marginal of t gets the marginal of u.
"""

import abc
import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.numerics import at_least, host_only, is_traced, normal_like, of_type, on_host, split
from diffusion.processes import GaussianProcess, Process
from diffusion.registry import register
from diffusion.samplers.base import State, StepSampler
from diffusion.samplers.integrators import Heun
from diffusion.samplers.levels import Levels, levels, namespace
from diffusion.types import Key, Scalar


class RenoisedRow(NamedTuple):
    """x_u = grow x_t + spread z, then a row of the inner sampler."""

    grow: Any
    spread: Any
    inner: Any


def require_inner(inner: Any, who: str, *, memory: bool) -> None:
    """Raise TypeError unless `inner` is a fixed-grid sampler and, unless `memory` is allowed, a single-step one."""
    of_type(StepSampler, "heun or ddim", inner=inner, of=who)
    if inner.memory and not memory:
        raise TypeError(
            f"`inner` of {who} must be single-step, as heun, ddim, dpm_solver_2 or ancestral; {type(inner).__name__} "
            "remembers earlier steps, which noise makes stale."
        )


def inner_table(inner: StepSampler, process: Process, starts: Any, ends: Any) -> Any:
    """Return the rows of the inner sampler for steps that are not consecutive."""
    xp = namespace(starts)
    tables = [inner.prepare(process, xp.stack([t, s])) for t, s in zip(starts, ends, strict=True)]
    return jax.tree.map(lambda *rows: namespace(rows[0]).concatenate(rows), *tables)


def noised(at: Levels, to: Levels) -> tuple[Any, Any]:
    """Return (grow, spread) from each time of `at` to the later time of `to`."""
    xp = namespace(at.t)
    ratio = lambda c: (c.sigma / c.alpha) ** 2
    more = xp.maximum(ratio(to) - ratio(at), 0.0)
    still = to.t == at.t  # then add exactly no noise, not round-off
    grow = xp.where(still, 1.0, to.alpha / at.alpha)
    return grow, xp.where(still, 0.0, to.alpha * xp.sqrt(more))


def at_times(process: GaussianProcess, t: Any) -> Levels:
    """Return times in any order with alpha and sigma at these times."""
    if is_traced(t, process):
        return Levels(t, process.alpha(t), process.sigma(t))
    return Levels(t, on_host(process.alpha, t), on_host(process.sigma, t))


def time_of_ratio(process: GaussianProcess, ratio: Any) -> Any:
    """Return the time in [t_min, t_max] at which sigma / alpha equals `ratio`."""
    if is_traced(ratio, process):
        return process.time_of_log_snr(-2 * jnp.log(ratio))
    return on_host(process.time_of_log_snr, -2 * np.log(ratio))


@dataclass(frozen=True, kw_only=True)
class _Renoise(StepSampler):
    """Base class of the wrappers that add noise before the steps of an inner sampler."""

    stochastic: ClassVar[bool] = True
    requires: ClassVar[type[Process]] = GaussianProcess

    inner: Any = dataclasses.field(default=Heun(), metadata={"kind": "sampler"})

    def __post_init__(self) -> None:
        require_inner(self.inner, type(self).__name__, memory=False)

    @abc.abstractmethod
    def plan(self, process: Any, times: Any) -> tuple[Any, Any, Any]:
        """Return (t, u, s) of every step: noise is added from t to u, then the inner step goes from u to s."""

    def prepare(self, process: Any, times: Any) -> RenoisedRow:
        t, u, s = self.plan(process, times)
        rows = inner_table(self.inner, process, u, s)
        return RenoisedRow(*noised(at_times(process, t), at_times(process, u)), rows)

    @property
    def evaluations(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Evaluations of the model per step of the inner sampler."""
        return self.inner.evaluations

    def nfe(self, table: RenoisedRow) -> Any:
        return self.inner.nfe(table.inner)

    def step(
        self, process: Process, model: Any, key: Key | None, state: Any, row: RenoisedRow
    ) -> State:
        assert key is not None
        key_up, key_inner = split(key)
        x_u = row.grow * state.x + row.spread * normal_like(key_up, state.x)
        inner_key = key_inner if self.inner.stochastic else None
        return State(self.inner.step(process, model, inner_key, self.inner.init(x_u), row.inner).x)


@register("sampler", "churn")
@final
@dataclass(frozen=True, kw_only=True)
class Churn(_Renoise):
    """sigma_u/alpha_u = (1 + gamma) sigma_t/alpha_t with gamma = min(s_churn / N, sqrt(2) - 1) before each step.

    Karras et al. (2022), algorithm 2, for any `GaussianProcess`: noise is added where s_min <= sigma/alpha <= s_max,
    is scaled by s_noise, and never raises the time beyond the domain of the process. N is the number of steps,
    including a last step to sigma = 0, as in the paper. With `inner=heun` and the grid `karras` it is EDM's sampler.
    """

    order: ClassVar[int] = 1  # weak

    s_churn: Scalar = 40.0
    s_min: Scalar = 0.05
    s_max: Scalar = 50.0
    s_noise: Scalar = 1.003

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, s_churn=self.s_churn, s_min=self.s_min, s_noise=self.s_noise, of="churn")
        at_least(self.s_min, s_max=self.s_max, of="churn")

    def plan(self, process: Any, times: Any) -> tuple[Any, Any, Any]:
        at = levels(process, times, "the sampler Churn")
        xp = namespace(at.t)
        t, ratio = at.t[:-1], at.sigma[:-1] / at.alpha[:-1]
        gamma = xp.minimum(self.s_churn / len(t), np.sqrt(2) - 1)
        inside = (ratio >= self.s_min) & (ratio <= self.s_max) & (gamma > 0)
        u = time_of_ratio(process, xp.where(inside, (1 + gamma) * ratio, ratio))
        u = xp.minimum(xp.maximum(u, t), process.t_domain[1])
        return t, xp.where(inside, u, t), at.t[1:]

    def prepare(self, process: Any, times: Any) -> RenoisedRow:
        row = super().prepare(process, times)
        return row._replace(spread=self.s_noise * row.spread)


@register("sampler", "restart")
@final
@dataclass(frozen=True, kw_only=True)
class Restart(_Renoise):
    """Sample along the grid; at the end of each interval, add noise up to its start and sample it again, K times.

    An interval is (num_steps, K, low, high) in sigma/alpha: at the grid point nearest to `low`, noise is added up to
    `high`, followed by num_steps steps down again, uniform in sigma^(1/7) like EDM's (Xu et al., 2023, algorithm 1).
    A trajectory reports the states at the times of the grid.
    """

    order: ClassVar[int] = 1  # weak

    intervals: tuple[tuple[int | float, ...], ...] = ((3, 2, 0.06, 0.2),)

    def __post_init__(self) -> None:
        super().__post_init__()
        for interval in self.intervals:
            fits = len(interval) == 4 and all(
                n >= 1 and float(n).is_integer() for n in interval[:2]
            )
            if not fits or not 0 < interval[2] < interval[3]:
                raise ValueError(
                    f"`intervals` are (num_steps, repeats, low, high): whole numbers, 0 < low < high; got {interval}."
                )

    def plan(self, process: Any, times: Any) -> tuple[Any, Any, Any]:
        t, u, s, _ = self._walk(process, times)
        return t, u, s

    def _walk(self, process: Any, times: Any) -> tuple[Any, Any, Any, list[int]]:
        """Return (t, u, s), and the indices of the rows that end at a time of the grid."""
        at = levels(process, times, "the sampler Restart")
        host_only("restart", at)
        noisy = at.sigma[:-1] / at.alpha[:-1]  # without the last time, after which no step follows
        jumps: dict[int, list[np.ndarray]] = {}
        for num_steps, repeats, low, high in self.intervals:
            i = int(np.argmin(np.abs(np.log(noisy[1:] / low)))) + 1 if len(noisy) > 1 else 0
            if i == 0 or noisy[i] >= high:
                continue  # the grid is too coarse to have a point in this interval
            ladder = np.linspace(high ** (1 / 7), noisy[i] ** (1 / 7), int(num_steps) + 1) ** 7
            down = np.append(time_of_ratio(process, ladder[:-1]), at.t[i])
            jumps.setdefault(i, []).extend([down] * int(repeats))
        triples, marks = [], []
        for i in range(len(at.t) - 1):
            triples.append((at.t[i], at.t[i], at.t[i + 1]))
            for down in jumps.get(i + 1, []):
                for k in range(len(down) - 1):
                    triples.append((at.t[i + 1] if k == 0 else down[k], down[k], down[k + 1]))
            marks.append(len(triples) - 1)
        t, u, s = np.array(triples).T
        return t, u, s, marks

    def marks(self, process: Any, times: Any) -> list[int]:
        """Return the indices of the rows that end at a time of the grid."""
        return self._walk(process, times)[-1]
