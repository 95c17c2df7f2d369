"""Exact likelihood through the probability-flow ODE, and the way there and back.

Along dx/dt = v(x, t) the log-density changes by -div v, so that

    log p(x at t_min) = log prior(x at t_max) + integral from t_min to t_max of div v dt

(Chen et al., 2018; Song et al., 2021, section 4.3; Su, kexue.fm 9228, 9280). It holds for every process
that can state its prior density, Gaussian or not. The divergence is the exact trace, one forward
derivative per dimension, or Hutchinson's estimate from random probes.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.numerics import as_pytree, is_static, is_traced, normal_like, require, sum_features
from diffusion.processes import Process
from diffusion.types import Key, Time, Velocity

Data = Float[Array, "batch *data"]
PerExample = Float[Array, " batch"]
Divergence = Callable[[Velocity, Array, Array], tuple[Array, Array]]


def exact_divergence(velocity: Velocity, x: Data, t: Time) -> tuple[Data, PerExample]:
    """Return v(x, t) and its divergence: one forward derivative per dimension."""
    d = x[0].size
    eye = jnp.eye(d, dtype=x.dtype).reshape(d, *x.shape[1:])

    def diagonal(i: Array) -> Array:
        tangent = jnp.broadcast_to(eye[i], x.shape)
        column = jax.jvp(lambda y: velocity(y, t), (x,), (tangent,))[1]
        return column.reshape(len(x), d)[:, i]

    return velocity(x, t), jax.lax.map(diagonal, jnp.arange(d)).sum(axis=0)


def hutchinson_divergence(
    velocity: Velocity, x: Data, t: Time, probes: Float[Array, "probes batch *data"]
) -> tuple[Data, PerExample]:
    """Return v(x, t) and the mean over the probes of e . (dv/dx e), unbiased for unit covariance."""
    v, derivative = jax.linearize(lambda y: velocity(y, t), x)
    estimates = jax.vmap(lambda e: sum_features(e * derivative(e)))(probes)
    return v, estimates.mean(axis=0)


_PROBES: dict[str, Callable[[Key, Array], Array]] = {
    "rademacher": lambda key, x: jax.random.rademacher(key, x.shape, x.dtype),
    "normal": normal_like,
}


def _rk4(field: Callable, state: Any, t: Time, s: Time) -> Any:
    """Advance a pytree by one classical Runge-Kutta step."""
    h = s - t
    move = lambda k, c: jax.tree.map(lambda a, b: a + c * h * b, state, k)
    k_1 = field(state, t)
    k_2 = field(move(k_1, 0.5), t + h / 2)
    k_3 = field(move(k_2, 0.5), t + h / 2)
    k_4 = field(move(k_3, 1.0), s)
    return jax.tree.map(
        lambda y, a, b, c, d: y + h / 6 * (a + 2 * b + 2 * c + d), state, k_1, k_2, k_3, k_4
    )


def _flow(process: Process, model: Any, x: Data, times: Array) -> Data:
    velocity = process.flow(model).velocity

    def body(x: Data, ends: tuple[Array, Array]) -> tuple[Data, None]:
        return _rk4(velocity, x, *ends), None

    return jax.lax.scan(body, x, (times[:-1], times[1:]))[0]


def _log_prob(
    process: Process, model: Any, probes: Array | None, x: Data, times: Array
) -> PerExample:
    velocity = process.flow(model).velocity

    def field(state: tuple[Data, PerExample], t: Time) -> tuple[Data, PerExample]:
        if probes is None:
            return exact_divergence(velocity, state[0], t)
        return hutchinson_divergence(velocity, state[0], t, probes)

    def body(state: Any, ends: tuple[Array, Array]) -> tuple[Any, None]:
        return _rk4(field, state, *ends), None

    start = (x, jnp.zeros(len(x), x.dtype))
    (x_T, change), _ = jax.lax.scan(body, start, (times[:-1], times[1:]))
    return process.prior_log_prob(x_T) + change


_compiled_flow = functools.partial(jax.jit, static_argnums=0)(_flow)
_compiled_log_prob = functools.partial(jax.jit, static_argnums=0)(_log_prob)


def _upward(process: Process, times: Any, num_steps: int, dtype: Any) -> Array:
    if times is None:
        times = process.natural_times(num_steps)[::-1]
    if not is_traced(times):
        times = np.asarray(times, np.float64)
        require(
            times.ndim == 1 and len(times) >= 2 and bool(np.all(np.diff(times) > 0)),
            "`times` of a likelihood must increase from data to noise, with at least one step; got "
            f"{times[:1]} ... {times[-1:]} of shape {times.shape}.",
        )
    return jnp.asarray(times, dtype)


def log_prob(
    process: Process,
    model: Any,
    x: Data,
    times: Any = None,
    *,
    key: Key | None = None,
    num_probes: int = 1,
    probe: str = "rademacher",
    num_steps: int = 128,
) -> PerExample:
    """Return log p(x) in nats per example, for x at time t_min.

    Args:
        process: any process that states its prior density.
        model: a denoiser, or a velocity on the lowest rung.
        x: examples, (batch, ...).
        times: increasing times from t_min to t_max for the Runge-Kutta steps; by default `num_steps` of
            them that suit the process.
        key: None for the exact trace, d derivatives per evaluation; a key for Hutchinson's estimate.
        num_probes: how many probes are averaged, with a key.
        probe: "rademacher" or "normal".
        num_steps: used when no times are given.

    Raises:
        TypeError: the process states no density for its prior.
        ValueError: the times do not increase, or the probe is unknown.
    """
    require(probe in _PROBES, f"`probe` must be one of {', '.join(_PROBES)}; got {probe!r}.")
    x = jnp.asarray(x)
    times = _upward(process, times, num_steps, x.dtype)
    probes = None
    if key is not None:
        probes = jnp.stack([_PROBES[probe](k, x) for k in jax.random.split(key, num_probes)])
    run = _compiled_log_prob if is_static(process) else _log_prob
    return run(process, as_pytree(model), probes, x, times)


def carry(process: Process, model: Any, x: Data, times: Any) -> Data:
    """Carry x along the generative ODE through any monotone times, up or down: encode or decode.

    Increasing times encode data into latents, the same times reversed decode them; the two invert each
    other to the error of the fourth-order steps.
    """
    run = _compiled_flow if is_static(process) else _flow
    x = jnp.asarray(x)
    return run(process, as_pytree(model), x, jnp.asarray(times, x.dtype))


@dataclass(frozen=True, kw_only=True)
class Dequantisation:
    """Uniform noise that turns integers v = 0 .. levels - 1 into a density, with its log-Jacobian.

    The data is scaled as x = 2 v / (levels - 1) - 1, so that neighbours lie 2 / (levels - 1) apart, and the
    noise fills that distance (Theis et al., 2016).
    """

    levels: int = 256

    @property
    def log_jacobian(self) -> float:
        """The log of |dv / dx| per dimension, in nats."""
        return float(np.log((self.levels - 1) / 2))

    def __call__(self, key: Key, x: Data) -> Data:
        """Add uniform noise of one quantisation step, centred."""
        u = jax.random.uniform(key, x.shape, x.dtype) - 0.5
        return x + u * (2 / (self.levels - 1))

    def bits_per_dim(self, log_p: PerExample, num_dims: int) -> PerExample:
        """Return -log2 of the probability of the integers, per dimension, from a log-density of x."""
        return (-log_p / num_dims + self.log_jacobian) / np.log(2)
