"""The functions that users call to sample: take states from noise to data."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import as_key, as_pytree, is_many, is_static
from diffusion.numerics.programs import Programs
from diffusion.numerics.shapes import checked
from diffusion.processes import Process
from diffusion.registry import takes_names
from diffusion.samplers.base import Callback, Sampler, Solution
from diffusion.samplers.levels import noise_left
from diffusion.types import Data, Key, KeyLike, Time


@takes_names
def solve(
    sampler: Sampler,
    process: Process,
    model: Any,
    key: KeyLike | None,
    x: Array,
    times: Any,
    *,
    denoise_last: bool = True,
    save: bool = False,
    callback: Callback | None = None,
) -> Solution:
    """Take x from times[0] to times[-1], and return the cost, and optionally all states, with it.

    Args:
        sampler: an object of kind `sampler`, or its name, such as "heun".
        process: the process that the model was trained for, or its name.
        model: a denoiser (x_t, t) -> E[x_0 | x_t], or a velocity for a plain `Process`. A callable pytree
            (`make_denoiser`) is compiled once for all parameters; a plain function is compiled once per
            function object.
        key: a random key, or its seed, a whole number; or one key per example, so that example i does not depend
            on the batch size. May be None for deterministic samplers.
        x: the state at times[0], (batch, ...).
        times: decreasing times, (num_steps + 1,).
        denoise_last: replace the final state by its posterior mean, with one more evaluation, unless
            sigma = 0 at times[-1].
        save: whether to return the states at all times.
        callback: called as callback(steps done, time reached, state) after every step; the loop then runs
            on the host, with one dispatch per step. An adaptive method calls it for all states at the end.

    Raises:
        ValueError: the times do not decrease or leave the domain of the process, x has no batch axis, or
            the number of keys is neither one nor one per example.
        TypeError: the process is not of the class that the sampler requires, or a stochastic sampler has no key.
    """
    x = jnp.asarray(x)
    if x.ndim < 1 or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"`x` must be floating with a batch axis; got {x.dtype}{list(x.shape)}.")
    key = _checked_key(sampler, key, len(x))
    solution = sampler.solve(process, model, key, x, times, save, callback)
    if not (denoise_last and noise_left(process, times)):
        return solution
    # the buffer has not escaped to the caller or a callback: donate it
    ours = solution.x is not x and callback is None
    compiled = _finish_in_place if ours else _compiled_finish
    run = compiled if is_static(process) else _finish
    end = run(process, as_pytree(model), solution.x, jnp.asarray(times[-1], x.dtype))
    return Solution(end, solution.trajectory, solution.nfe + process.denoise_final_evaluations)


def _checked_key(sampler: Sampler, key: Any, batch_size: int) -> Key | None:
    """Return the key that the sampler needs, one or one per example, or raise TypeError or ValueError."""
    if not sampler.stochastic:
        return None if key is None else as_key(key)
    if key is None:
        raise TypeError(f"{type(sampler).__name__} is stochastic and needs a key; got None.")
    key = as_key(key)
    if is_many(key) and len(key) != batch_size:
        raise ValueError(f"`key` must be one, or {batch_size}, one per example; got {len(key)}.")
    return key


def _finish(process: Process, model: Any, x: Data, t: Time) -> Data:
    return process.denoise_final(checked(model), x, t).astype(x.dtype)


_compiled_finish = Programs(_finish, 1, keep=6)
_finish_in_place = Programs(_finish, 1, keep=6, donate_argnums=[2])


@takes_names
def sample(
    sampler: Sampler,
    process: Process,
    model: Any,
    key: KeyLike | None,
    x: Array,
    times: Any,
    *,
    denoise_last: bool = True,
) -> Array:
    """Take x from times[0] to times[-1], from noise to data; the arguments are those of `solve`."""
    return solve(sampler, process, model, key, x, times, denoise_last=denoise_last).x


@takes_names
def trajectory(
    sampler: Sampler, process: Process, model: Any, key: KeyLike | None, x: Array, times: Any
) -> Array:
    """Return the states at all times, (num_steps + 1, batch, ...), starting with x."""
    states = solve(sampler, process, model, key, x, times, denoise_last=False, save=True).trajectory
    assert states is not None
    return states


@takes_names
def preview(process: Process, model: Any, states: Array, times: Any) -> Array:
    """Return the prediction E[x_0 | x_t] for each state of a trajectory, shaped like the states.

    One evaluation per state. For a plain `Process` there is no such prediction, and the states are returned.

    Args:
        process: the process that was sampled.
        model: its model.
        states: (num_times, batch, ...), as `trajectory` returns them.
        times: (num_times,).

    Raises:
        ValueError: the numbers of times and states differ.
    """
    if len(states) != len(times):
        raise ValueError(f"`times` must match the {len(states)} states; got {len(times)} times.")
    run = _compiled_preview if is_static(process) else _preview
    clean = not noise_left(process, times)
    end = states[len(states) - clean :]  # if sigma = 0 at the last time, its state is already x_0
    inner = states[: len(states) - clean]
    seen = run(process, as_pytree(model), inner, jnp.asarray(times, states.dtype)[: len(inner)])
    return jnp.concatenate([seen, end])


def _preview(process: Process, model: Any, states: Array, times: Array) -> Array:
    return jax.lax.map(lambda pair: process.denoise_final(checked(model), *pair), (states, times))


_compiled_preview = Programs(_preview, 1)
