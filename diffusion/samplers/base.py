"""The sampler protocol, and the loop that runs every fixed-grid sampler.

A sampler is a frozen record of hyperparameters. Its coefficients are computed once, on the host, in
float64, as a table with one row per step (`prepare`); `step` advances a state from time t to s < t with one
row. The loop is compiled once per (sampler, process, shape, number of steps) across calls: times,
coefficients, parameters, conditions and keys are arguments of the compiled function, not constants.
"""

import abc
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.numerics import (
    as_pytree,
    fold_in,
    is_static,
)
from diffusion.numerics.programs import Programs
from diffusion.numerics.shapes import checked
from diffusion.processes import Process
from diffusion.processes.base import require_process
from diffusion.registry import adopt_earlier_names
from diffusion.types import Data, Key

Callback = Callable[[int, float, Array], None]  # (steps done, time reached, state)


class Solution(NamedTuple):
    """Result of a solve: the final state, the states at all times if saved, and the number of evaluations."""

    x: Array
    trajectory: Array | None  # (num_steps + 1, batch, ...)
    nfe: Array | int  # evaluations of the model per example


class Row(NamedTuple):
    """The times of one step."""

    t: Any
    s: Any


class State(NamedTuple):
    """The state of a single-step method."""

    x: Array


@dataclass(frozen=True, kw_only=True)
class Sampler(abc.ABC):
    """Base class of the samplers, methods that take a state from noise to data."""

    order: ClassVar[int] = 1
    gains: ClassVar[int] = 0  # measured order of convergence minus `order`
    stochastic: ClassVar[bool] = False
    # the most general class of process that it works for
    requires: ClassVar[type[Process]] = Process

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        adopt_earlier_names(cls, {"rung": "requires"})

    @property
    def coupled(self) -> bool:
        """Whether the examples of a batch share step sizes, so that each depends on the others."""
        return False

    @abc.abstractmethod
    def solve(
        self,
        process: Process,
        model: Any,
        key: Key | None,
        x: Data,
        times: Any,
        save: bool,
        callback: Callback | None = None,
    ) -> Solution:
        """Take x from times[0] to times[-1].

        Args:
            process: the process of the model.
            model: a denoiser, or a velocity for a plain `Process`.
            key: a random key, or one per example; None for a deterministic method.
            x: the state at times[0].
            times: decreasing, (num_steps + 1,).
            save: whether to return the states at all times.
            callback: called as callback(steps done, time reached, state) at every time of the grid.
        """


def replayed(solution: Solution, times: Any, save: bool, callback: Callback) -> Solution:
    """Run the callback on all saved states, for a method that returns them only at the end."""
    assert solution.trajectory is not None
    for index in range(1, len(solution.trajectory)):
        callback(index, float(times[index]), solution.trajectory[index])
    return solution if save else solution._replace(trajectory=None)


@dataclass(frozen=True, kw_only=True)
class StepSampler(Sampler):
    """A method that steps through a fixed grid."""

    evaluations: ClassVar[int] = 1  # evaluations of the model per step
    memory: ClassVar[bool] = False  # whether a step uses evaluations of earlier steps

    @abc.abstractmethod
    def prepare(self, process: Process, times: Any) -> Any:
        """Return the table of coefficients: a pytree of arrays with leading axis num_steps, float64 on the host."""

    @abc.abstractmethod
    def step(self, process: Process, model: Any, key: Key | None, state: Any, row: Any) -> Any:
        """Advance the state by one step. `key` is None for a deterministic method."""

    def init(self, x: Data) -> Any:
        """Return the initial state, whose field `x` is the solution."""
        return State(x)

    def nfe(self, table: Any) -> Any:
        """Return the number of evaluations of the model for this table."""
        return self.evaluations * len(jax.tree.leaves(table)[0])

    def marks(self, process: Process, times: Any) -> list[int] | None:
        """Return the indices of the rows that end at a time of the grid; None for all rows."""
        del process, times
        return None

    def _start(self, process: Process, key: Key | None, x: Data, times: Any) -> tuple[Any, ...]:
        """Return the table in the dtype of x, the number of evaluations, and the key if one is needed."""
        require_process(process, self.requires, f"the sampler {type(self).__name__}")
        table = _table(self, process, times)
        nfe = self.nfe(table)
        table = jax.tree.map(lambda c: _cast(c, x.dtype), table)
        return table, nfe, key if self.stochastic else None  # deterministic methods ignore the key

    def solve(
        self,
        process: Process,
        model: Any,
        key: Key | None,
        x: Data,
        times: Any,
        save: bool,
        callback: Callback | None = None,
    ) -> Solution:
        """Take x through the grid in one compiled loop; with a callback, dispatch each step separately."""
        table, nfe, key = self._start(process, key, x, times)
        if callback is not None:
            x, path = self._step_by_step(process, model, key, x, times, table, save, callback)
            return Solution(x, path, nfe)
        run = _compiled_loop if is_static(self, process) else _loop
        x, path = run(self, process, save, as_pytree(model), key, x, table)
        marks = self.marks(process, times) if save else None
        if path is not None and marks is not None:
            path = path[jnp.asarray([0, *(m + 1 for m in marks)])]
        return Solution(x, path, nfe)

    def _step_by_step(
        self,
        process: Process,
        model: Any,
        key: Key | None,
        x: Data,
        times: Any,
        table: Any,
        save: bool,
        callback: Callback,
    ) -> tuple[Array, Array | None]:
        marks = self.marks(process, times) or range(len(times) - 1)
        state, path, done = self.init(x), [x], 0
        run = _compiled_step if is_static(self, process) else _step
        for index in range(len(jax.tree.leaves(table)[0])):
            row = jax.tree.map(lambda c, i=index: c[i], table)
            state = run(self, process, as_pytree(model), key, state, jnp.asarray(index), row)
            if index in marks:
                done += 1
                path += [state.x] if save else []
                callback(done, float(times[done]), state.x)
        return state.x, jnp.stack(path) if save else None


def _table(sampler: StepSampler, process: Process, times: Any) -> Any:
    """Return the sampler's table, cached for later batches on the same grid unless an argument is traced.

    Computing a table fetches numbers from a device, which blocks until its queue is empty; with the cached table
    later batches only dispatch their loop.
    """
    if not isinstance(times, np.ndarray) or not is_static(sampler, process):
        return sampler.prepare(process, times)
    grid = (times.tobytes(), times.shape, times.dtype.str, bool(jax.config.read("jax_enable_x64")))
    return _kept_table(sampler, process, *grid)


@functools.lru_cache(maxsize=32)
def _kept_table(
    sampler: StepSampler, process: Process, times: bytes, shape: Any, dtype: str, x64: bool
) -> Any:
    del x64  # part of the cache key: values computed without `on_host` depend on it
    with jax.ensure_compile_time_eval():  # do not trace the table as part of the first caller
        return sampler.prepare(process, np.frombuffer(times, dtype).reshape(shape))


def _cast(c: Any, dtype: Any) -> Any:
    """Cast floating coefficients to the dtype of the state; flags and counters keep their dtype."""
    return c.astype(dtype) if np.issubdtype(c.dtype, np.floating) else c


def _step(
    sampler: StepSampler,
    process: Process,
    model: Any,
    key: Key | None,
    state: Any,
    index: Array,
    row: Any,
) -> Any:
    """Take step number `index`."""
    step_key = None if key is None else fold_in(key, index)
    new = sampler.step(process, checked(model), step_key, state, row)
    # the carry of a scan must keep its dtype, also if a model or an operator computes in float64
    return jax.tree.map(lambda after, before: jnp.asarray(after, before.dtype), new, state)


_compiled_step = Programs(_step, 2)


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
        state = _step(sampler, process, model, key, state, *inputs)
        return state, state.x if save else None

    state, path = jax.lax.scan(body, sampler.init(x), (jnp.arange(num_steps), table))
    return state.x, None if path is None else jnp.concatenate([x[None], path])


_compiled_loop = Programs(_loop, 3, keep=12)
