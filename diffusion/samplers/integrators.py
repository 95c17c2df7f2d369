"""Explicit integrators of the generative ODE or SDE of any process, on a fixed grid.

v(x, t) is the velocity of `process.flow(model)`. Steps run from t to s < t. If sigma = 0 at s, the
velocity there is 0/0: methods that would evaluate it take an Euler step instead, as in Karras et al.
(2022, algorithm 1).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.numerics import at_least, is_traced, normal_like, per_example
from diffusion.processes import AffineProcess, GaussianProcess, Process
from diffusion.processes.dynamics import reverse_sde
from diffusion.registry import register
from diffusion.samplers.base import Row, State, StepSampler
from diffusion.samplers.levels import host_times, levels, namespace
from diffusion.types import Key, Scalar, Velocity


class EndRow(NamedTuple):
    """The times of one step, their difference, and whether sigma = 0 at s."""

    t: Any
    s: Any
    h: Any  # s - t, computed in float64
    clean: Any


def _rows(process: Process, times: Any, who: str) -> EndRow:
    times = host_times(process, times)
    t, s = times[:-1], times[1:]
    if isinstance(process, AffineProcess):
        clean = levels(process, times, who).sigma[1:] == 0
    else:
        clean = namespace(times).zeros(len(s), bool)
    return EndRow(t, s, s - t, clean)


@dataclass(frozen=True, kw_only=True)
class _ODESampler(StepSampler):
    """Base class of the integrators of dx/dt = v(x, t)."""

    def prepare(self, process: Process, times: Any) -> EndRow:
        return _rows(process, times, f"the sampler {type(self).__name__}")


@dataclass(frozen=True, kw_only=True)
class _ClosedODESampler(_ODESampler):
    """Base class of methods that also evaluate v at s, or take an Euler step if v is 0/0 there."""

    def nfe(self, table: EndRow) -> Any:
        if is_traced(table):
            return self.evaluations * len(table.t)
        clean = int(np.sum(table.clean))
        return self.evaluations * (len(table.t) - clean) + clean

    def _unless_clean(self, velocity: Velocity, x: Array, v_t: Array, row: EndRow) -> Array:
        euler = lambda: x + row.h * v_t
        return jax.lax.cond(row.clean, euler, lambda: self.advance(velocity, x, v_t, row))

    def advance(self, velocity: Velocity, x: Array, v_t: Array, row: EndRow) -> Array:
        """Return x_s from x_t and the velocity v_t at x_t."""
        raise TypeError(f"{type(self).__name__} does not say how it advances.")

    def step(self, process: Process, model: Any, key: Key | None, state: Any, row: EndRow) -> State:
        velocity = process.flow(model).velocity
        return State(self._unless_clean(velocity, state.x, velocity(state.x, row.t), row))


@register("sampler", "euler")
@final
@dataclass(frozen=True, kw_only=True)
class Euler(_ODESampler):
    """x_s = x_t + (s - t) v(x_t, t). One evaluation, order 1."""

    def step(self, process: Process, model: Any, key: Key | None, state: Any, row: EndRow) -> State:
        return State(state.x + row.h * process.flow(model).velocity(state.x, row.t))


@register("sampler", "heun")
@final
@dataclass(frozen=True, kw_only=True)
class Heun(_ClosedODESampler):
    """x_s = x_t + (s - t) (v(x_t, t) + v(x_t + (s - t) v(x_t, t), s)) / 2. Two evaluations, order 2.

    Karras et al. (2022), algorithm 1.
    """

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2

    def advance(self, velocity: Velocity, x: Array, v_t: Array, row: EndRow) -> Array:
        v_s = velocity(x + row.h * v_t, row.s)
        return x + row.h * (v_t + v_s) / 2


@register("sampler", "midpoint")
@final
@dataclass(frozen=True, kw_only=True)
class Midpoint(_ODESampler):
    """x_s = x_t + (s - t) v(x_t + (s - t)/2 v(x_t, t), (s + t)/2). Two evaluations, order 2."""

    order: ClassVar[int] = 2
    evaluations: ClassVar[int] = 2

    def step(self, process: Process, model: Any, key: Key | None, state: Any, row: EndRow) -> State:
        velocity = process.flow(model).velocity
        middle = state.x + row.h / 2 * velocity(state.x, row.t)
        return State(state.x + row.h * velocity(middle, row.t + row.h / 2))


@register("sampler", "rk4")
@final
@dataclass(frozen=True, kw_only=True)
class RK4(_ClosedODESampler):
    """The classical method of Runge and Kutta. Four evaluations, order 4."""

    order: ClassVar[int] = 4
    evaluations: ClassVar[int] = 4

    def advance(self, velocity: Velocity, x: Array, v_t: Array, row: EndRow) -> Array:
        h, middle = row.h, row.t + row.h / 2
        k_2 = velocity(x + h / 2 * v_t, middle)
        k_3 = velocity(x + h / 2 * k_2, middle)
        k_4 = velocity(x + h * k_3, row.s)
        return x + h / 6 * (v_t + 2 * k_2 + 2 * k_3 + k_4)


@dataclass(frozen=True, kw_only=True)
class _SDESampler(StepSampler):
    """x_s = x_t + (s - t) drift(x_t, t) + diffusion(t) sqrt(t - s) z."""

    stochastic: ClassVar[bool] = True
    requires: ClassVar[type[Process]] = GaussianProcess

    def prepare(self, process: Process, times: Any) -> Row:
        times = host_times(process, times)
        return Row(times[:-1], times[1:])

    def maruyama(
        self, process: Any, model: Any, key: Key | None, state: Any, row: Row, lam: Scalar
    ) -> State:
        """Take one step of the reverse SDE with noise lam g."""
        assert key is not None
        sde = reverse_sde(process, model, lam)
        z = normal_like(key, state.x)
        spread = per_example(sde.diffusion(row.t) * jnp.sqrt(row.t - row.s), state.x)
        return State(state.x + (row.s - row.t) * sde.drift(state.x, row.t) + spread * z)


@register("sampler", "euler_maruyama")
@final
@dataclass(frozen=True, kw_only=True)
class EulerMaruyama(_SDESampler):
    """x_s = x_t + (s - t) (f x_t - g^2 score) + g sqrt(t - s) z. Weak order 1 (Song et al., 2021)."""

    def step(self, process: Process, model: Any, key: Key | None, state: Any, row: Row) -> State:
        return self.maruyama(process, model, key, state, row, 1.0)


@register("sampler", "reverse_sde")
@final
@dataclass(frozen=True, kw_only=True)
class ReverseSDE(_SDESampler):
    """Euler-Maruyama on the member lam of the family with equal marginals (Su, kexue.fm 9228).

    x_s = x_t + (s - t) (f x_t - (1 + lam^2)/2 g^2 score) + lam g sqrt(t - s) z: lam = 0 is Euler's method
    for the ODE, 1 Anderson's reverse SDE. Weak order 1.
    """

    lam: Scalar = 1.0

    def __post_init__(self) -> None:
        at_least(0, lam=self.lam)

    def step(self, process: Process, model: Any, key: Key | None, state: Any, row: Row) -> State:
        return self.maruyama(process, model, key, state, row, self.lam)
