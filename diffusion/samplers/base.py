"""The sampler protocol, and the one loop that runs every fixed-grid sampler.

A sampler is a frozen record of hyperparameters. Its coefficients are computed once, on the host, in
float64, as a table with one row per step (`prepare`); `step` carries a state from time t to s < t with one
row. The loop is compiled once per (sampler, process, shape, number of steps) across calls: times,
coefficients, parameters, conditions and keys are arguments of the compiled function, not constants.
"""

import abc
import functools
from dataclasses import dataclass
from types import MethodType
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.numerics import as_pytree, fold_in, is_static, is_traced, on_host, value_and_ddt
from diffusion.processes import AffineProcess, Process
from diffusion.processes.base import require_rung
from diffusion.time_grids import check_times
from diffusion.types import Key, Time

Data = Float[Array, "batch *data"]


class Solution(NamedTuple):
    """What solving gives: the end, the states on the way if asked for, and the price."""

    x: Array
    trajectory: Array | None  # (num_steps + 1, batch, ...)
    nfe: Array | int  # evaluations of the model per example


class Levels(NamedTuple):
    """The times of a grid with the scales there, each of shape (num_steps + 1,)."""

    t: Any
    alpha: Any
    sigma: Any

    @property
    def log_ratio(self) -> Any:
        """log(alpha / sigma), which increases from step to step; infinite where sigma = 0."""
        xp = namespace(self.t)
        with np.errstate(divide="ignore"):
            return xp.log(self.alpha) - xp.log(self.sigma)


class Row(NamedTuple):
    """The times of one step."""

    t: Any
    s: Any


class State(NamedTuple):
    """The state of a single-step method."""

    x: Array


def namespace(x: Any) -> Any:
    """Return NumPy for tables on the host, jax.numpy for tables of traced times."""
    return jnp if isinstance(x, jax.Array) else np


def _scales(process: AffineProcess, t: Time) -> tuple[Array, Array]:
    """Return alpha and sigma, each shaped like t."""
    return value_and_ddt(process.alpha, t)[0], value_and_ddt(process.sigma, t)[0]


def host_times(process: Process, times: Any) -> Any:
    """Return times as checked float64 on the host, or as they are while they are traced."""
    if is_traced(times):
        return jnp.asarray(times)
    times = check_times(times)
    low, high = process.reach
    slack = 1e-9 * abs(float(times[0]))
    if not is_traced(low, high) and (times[0] > high + slack or times[-1] < low - slack):
        raise ValueError(
            f"`times` must lie within the reach of {type(process).__name__}, {float(low):.6g} to "
            f"{float(high):.6g}; got {times[0]:.6g} ... {times[-1]:.6g}."
        )
    return times


def levels(process: Process, times: Any, who: str) -> Levels:
    """Return times, alpha and sigma in float64 on the host, or traced where they depend on tracers."""
    require_rung(process, AffineProcess, who)
    assert isinstance(process, AffineProcess)
    times = host_times(process, times)
    if is_traced(times, process):
        t = jnp.asarray(times)
        return Levels(t, *_scales(process, t))
    return Levels(times, *on_host(MethodType(_scales, process), times))


@dataclass(frozen=True, kw_only=True)
class Sampler(abc.ABC):
    """A way to carry a state from noise to data."""

    order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False
    rung: ClassVar[type[Process]] = Process  # the lowest rung that it needs

    @abc.abstractmethod
    def solve(
        self, process: Process, model: Any, key: Key | None, x: Data, times: Any, save: bool
    ) -> Solution:
        """Carry x from times[0] to times[-1]."""


@dataclass(frozen=True, kw_only=True)
class StepSampler(Sampler):
    """A method that steps through a fixed grid."""

    evaluations: ClassVar[int] = 1  # of the model, per step
    memory: ClassVar[bool] = False  # whether a step uses evaluations of earlier steps

    @abc.abstractmethod
    def prepare(self, process: Process, times: Any) -> Any:
        """Return the table: a pytree of arrays with leading axis num_steps, float64 on the host."""

    @abc.abstractmethod
    def step(self, process: Process, model: Any, key: Key | None, state: Any, row: Any) -> Any:
        """Advance the state by one step. `key` is None for a deterministic method."""

    def init(self, x: Data) -> Any:
        """Return the state to start from; its field `x` is the solution."""
        return State(x)

    def nfe(self, table: Any) -> Any:
        """Return the number of evaluations of the model for this table."""
        return self.evaluations * len(jax.tree.leaves(table)[0])

    def solve(
        self, process: Process, model: Any, key: Key | None, x: Data, times: Any, save: bool
    ) -> Solution:
        """Carry x through the grid in one compiled loop."""
        require_rung(process, self.rung, f"the sampler {type(self).__name__}")
        table = self.prepare(process, times)
        nfe = self.nfe(table)
        dtype = x.dtype
        table = jax.tree.map(lambda c: _cast(c, dtype), table)
        key = key if self.stochastic else None  # a deterministic method never touches the key
        run = _compiled_loop if is_static(self, process) else _loop
        x, trajectory = run(self, process, save, as_pytree(model), key, x, table)
        return Solution(x, trajectory, nfe)


def _cast(c: Any, dtype: Any) -> Any:
    """Give floating coefficients the dtype of the state; flags and counters keep their own."""
    return c.astype(dtype) if np.issubdtype(c.dtype, np.floating) else c


def _loop(
    sampler: StepSampler,
    process: Process,
    save: bool,
    model: Any,
    key: Key | None,
    x: Data,
    table: Any,
) -> tuple[Array, Array | None]:
    """Scan the step over the rows of the table."""
    num_steps = len(jax.tree.leaves(table)[0])

    def body(state: Any, inputs: tuple[Array, Any]) -> tuple[Any, Array | None]:
        index, row = inputs
        step_key = None if key is None else fold_in(key, index)
        state = sampler.step(process, model, step_key, state, row)
        return state, state.x if save else None

    state, path = jax.lax.scan(body, sampler.init(x), (jnp.arange(num_steps), table))
    return state.x, None if path is None else jnp.concatenate([x[None], path])


_compiled_loop = functools.partial(jax.jit, static_argnums=(0, 1, 2))(_loop)


def solve(
    sampler: Sampler,
    process: Process,
    model: Any,
    key: Key | None,
    x: Data,
    times: Any,
    *,
    denoise_last: bool = True,
    save: bool = False,
) -> Solution:
    """Carry x from times[0] to times[-1] and report the states and the cost as well.

    Args:
        sampler: an object of kind `sampler`.
        process: the process that the model was trained for.
        model: what the process's rung asks for, (x_t, t) -> E[x_0 | x_t], or a velocity on the lowest
            rung. A callable pytree (`make_denoiser`) is compiled once and for all; a plain function is
            compiled once per function object.
        key: a random key, or one per example, then example i does not depend on the batch size. May be
            None for deterministic samplers.
        x: the state at times[0], (batch, ...).
        times: decreasing times, (num_steps + 1,).
        denoise_last: replace the final state by its posterior mean, one more evaluation, unless no
            noise is left at times[-1].
        save: keep the states at all times.

    Raises:
        ValueError: the times do not decrease, leave the reach of the process, or x has no batch axis.
        TypeError: the process lacks what the sampler needs, or a stochastic sampler gets no key.
    """
    x = jnp.asarray(x)
    if x.ndim < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(
            f"`x` must be floating and have a batch axis; got {x.dtype}{list(x.shape)}."
        )
    if sampler.stochastic and key is None:
        raise TypeError(f"{type(sampler).__name__} is stochastic and needs a key; got None.")
    solution = sampler.solve(process, model, key, x, times, save)
    if not (denoise_last and noise_left(process, times)):
        return solution
    run = _compiled_finish if is_static(process) else _finish
    end = run(process, as_pytree(model), solution.x, jnp.asarray(times[-1], x.dtype))
    return Solution(end, solution.trajectory, solution.nfe + process.finish_evaluations)


def noise_left(process: Process, times: Any) -> bool:
    """Say whether the state at the last time still carries noise; a traced time is assumed to."""
    if not isinstance(process, AffineProcess) or is_traced(times, process):
        return True
    return bool(on_host(process.sigma, np.asarray(times, np.float64)[-1]) > 0)


def _finish(process: Process, model: Any, x: Data, t: Time) -> Data:
    return process.finish(model, x, t)


_compiled_finish = functools.partial(jax.jit, static_argnums=0)(_finish)


def sample(
    sampler: Sampler,
    process: Process,
    model: Any,
    key: Key | None,
    x: Data,
    times: Any,
    *,
    denoise_last: bool = True,
) -> Array:
    """Carry x from times[0] to times[-1], noise to data; see `solve` for the arguments."""
    return solve(sampler, process, model, key, x, times, denoise_last=denoise_last).x


def trajectory(
    sampler: Sampler, process: Process, model: Any, key: Key | None, x: Data, times: Any
) -> Array:
    """Return the states at all times, (num_steps + 1, batch, ...), the given one first."""
    states = solve(sampler, process, model, key, x, times, denoise_last=False, save=True).trajectory
    assert states is not None
    return states
