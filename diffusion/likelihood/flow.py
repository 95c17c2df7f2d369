"""Exact likelihood by the probability-flow ODE, and integration along it in both directions.

Along dx/dt = v(x, t) the log-density changes by -div v, so that

    log p(x at t_min) = log prior(x at t_max) + integral from t_min to t_max of div v dt

(Chen et al., 2018; Song et al., 2021, section 4.3; Su, kexue.fm 9228, 9280). It holds for every process
with a known prior density, Gaussian or not. The integral is computed by fixed Runge-Kutta steps, or by an
adaptive solver of diffrax.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.likelihood.adaptive import Adaptive, integrate
from diffusion.likelihood.checks import (
    check_batch,
    check_monotone,
    check_rising,
    rising_times,
)
from diffusion.likelihood.divergence import PROBES, exact_divergence, probe_divergences
from diffusion.numerics import (
    as_key,
    as_pytree,
    fold_in,
    is_static,
    is_traced,
    one_of,
    runge_kutta,
    whole,
)
from diffusion.numerics.programs import Programs
from diffusion.numerics.shapes import checked
from diffusion.processes import Process
from diffusion.registry import takes_names
from diffusion.types import AnyArray, Data, KeyLike, PerExample, Time, Velocity

Change = Float[Array, "estimates batch"]


class LogProb(NamedTuple):
    """A log-density with its standard error and cost.

    Attributes:
        value: in nats, (batch,).
        standard_error: of the mean over the probes, (batch,); 0 for the exact trace, NaN for one probe.
        nfe: evaluations of the velocity per example, each with d or `num_probes` directional derivatives.
    """

    value: Array
    standard_error: Array
    nfe: Array | int


def _flow(process: Process, model: Any, x: Data, times: Array) -> Data:
    velocity = process.flow(checked(model)).velocity

    def body(x: Data, ends: tuple[Array, Array]) -> tuple[Data, None]:
        return runge_kutta(velocity, x, *ends), None

    return jax.lax.scan(body, x, (times[:-1], times[1:]))[0]


def _field(velocity: Velocity, probes: Array | None) -> Any:
    """Return the time derivative of (x, change of log p), with one row of changes for every probe."""

    def field(state: tuple[Data, Change], t: Time) -> tuple[Data, Change]:
        if probes is not None:
            return probe_divergences(velocity, state[0], t, probes)
        v, divergence = exact_divergence(velocity, state[0], t)
        return v, divergence[None]

    return field


def _changes(
    process: Process,
    adaptive: Adaptive | None,
    model: Any,
    probes: Array | None,
    x: Data,
    times: Array,
) -> tuple[Change, Array | int, Array | bool]:
    """Return log p for each estimate of the divergence, the evaluations, and whether the end was reached."""
    field = _field(process.flow(checked(model)).velocity, probes)
    state = (x, jnp.zeros((1 if probes is None else len(probes), len(x)), x.dtype))
    if adaptive is not None:
        (x_T, change), nfe, good = integrate(adaptive, field, state, times)
    else:

        def body(state: Any, ends: tuple[Array, Array]) -> tuple[Any, None]:
            return runge_kutta(field, state, *ends), None

        (x_T, change), _ = jax.lax.scan(body, state, (times[:-1], times[1:]))
        nfe, good = 0, True  # with fixed steps nothing can fail
    return process.prior_log_prob(x_T) + change, nfe, good


_compiled_flow = Programs(_flow, 1)
_compiled_changes = Programs(_changes, 2)


def _probes(key: KeyLike | None, x: Data, num_probes: int, probe: str) -> Array | None:
    whole(1, num_probes=num_probes)
    one_of(sorted(PROBES), probe=probe)
    if key is None:
        return None
    key = as_key(key)
    return jax.vmap(lambda i: PROBES[probe](fold_in(key, i), x))(jnp.arange(num_probes))


@takes_names
def log_prob_estimate(
    process: Process,
    model: Any,
    x: AnyArray,
    times: Any = None,
    *,
    key: KeyLike | None = None,
    num_probes: int = 1,
    probe: str = "rademacher",
    num_steps: int = 128,
    solver: str | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
) -> LogProb:
    """Return log p(x) in nats per example, its standard error over the probes, and its number of evaluations.

    Args:
        process: any process with a known prior density; its fields may be traced.
        model: a denoiser, or a velocity for a plain `Process`.
        x: examples at times[0], (batch, ...features).
        times: increasing times from t_min to t_max for the Runge-Kutta steps; by default those of the process
            with `num_steps` steps.
        key: None for the exact trace, with d derivatives per evaluation; a key for Hutchinson's estimate, or
            one per example, so that the probes of example i do not depend on the batch.
        num_probes: number of probes to average, with a key.
        probe: "rademacher" or "normal".
        num_steps: number of steps if `times` is None.
        solver: name of an explicit Runge-Kutta method of diffrax, such as "Tsit5", with adaptive steps
            between the first and the last time; None takes fourth-order steps between `times`.
        rtol: relative tolerance of the adaptive solver, for the batch as one state.
        atol: absolute tolerance.
        max_steps: largest number of steps of the adaptive solver.

    Raises:
        TypeError: the prior of the process has no known density, or x holds integers.
        ValueError: x has no batch axis, the times leave [t_min, t_max] or do not rise to t_max, the probe or
            solver is unknown, or a number is invalid.
        RuntimeError: the adaptive solver did not reach t_max.
    """
    x = check_batch(x)
    adaptive = None
    if solver is not None:
        adaptive = Adaptive(solver=solver, rtol=rtol, atol=atol, max_steps=max_steps)
    probes = _probes(key, x, num_probes, probe)
    times = rising_times(process, num_steps) if times is None else check_rising(process, times)
    run = _compiled_changes if is_static(process) else _changes
    changes, nfe, good = run(
        process, adaptive, as_pytree(model), probes, x, jnp.asarray(times, x.dtype)
    )
    if adaptive is not None and not is_traced(good):
        adaptive.complain(bool(good))
    if adaptive is None:
        nfe = 4 * (len(times) - 1)
    return LogProb(changes.mean(axis=0), _standard_error(changes, probes), nfe)


def _standard_error(changes: Change, probes: Array | None) -> Array:
    if probes is None:
        return jnp.zeros_like(changes[0])
    n = len(changes)
    return changes.std(axis=0, ddof=1) / n**0.5 if n > 1 else jnp.full_like(changes[0], jnp.nan)


@takes_names
def log_prob(
    process: Process,
    model: Any,
    x: AnyArray,
    times: Any = None,
    *,
    key: KeyLike | None = None,
    num_probes: int = 1,
    probe: str = "rademacher",
    num_steps: int = 128,
    solver: str | None = None,
    rtol: float = 1e-5,
    atol: float = 1e-5,
    max_steps: int = 4096,
) -> PerExample:
    """Return log p(x) in nats per example, for x at time t_min: the value of `log_prob_estimate`.

    The result is differentiable in x, in the arrays of the model and in the fields of the process. Arguments and
    errors are those of `log_prob_estimate`.
    """
    return log_prob_estimate(
        process, model, x, times, key=key, num_probes=num_probes, probe=probe, num_steps=num_steps,
        solver=solver, rtol=rtol, atol=atol, max_steps=max_steps,
    ).value  # fmt: skip


@takes_names
def integrate_flow(process: Process, model: Any, x: AnyArray, times: Any) -> Data:
    """Integrate the generative ODE from x at times[0] to times[-1], through monotone times in either direction.

    Increasing times encode data into latents, the same times reversed decode them; the two are inverse up to
    the error of the fourth-order steps.

    Raises:
        TypeError: x holds integers.
        ValueError: x has no batch axis, or the times are not strictly monotone or leave [t_min, t_max].
    """
    x = check_batch(x)
    times = check_monotone(process, times)
    run = _compiled_flow if is_static(process) else _flow
    return run(process, as_pytree(model), x, jnp.asarray(times, x.dtype))
