"""Derivatives, determinants and inverses of maps that act on each example of a batch separately.

A map is a function of x, (batch, ...), whose row i depends on row i of x alone, so that one forward derivative
per coordinate gives the Jacobians of all examples. If it acts elementwise (`diagonal=True`), a single
forward derivative suffices, and images of any size are cheap.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.numerics import is_static, sum_features
from diffusion.numerics.programs import Programs
from diffusion.types import Data, Time

Map = Callable[[Array], Array]

_DAMPING = (1.0, 0.5, 0.2, 0.05, 1e-2, 1e-3, 1e-5, 1e-7)


def compiled(method: Callable[..., Array]) -> Callable[..., Array]:
    """Compile a method that takes arrays, once per process and shapes.

    Otherwise every eager call would compile its iterative solvers again. For a process that holds traced
    values the method is called directly.
    """
    run = Programs(method, 1)

    @functools.wraps(method)
    def call(process: Any, *arrays: Any) -> Array:
        return run(process, *arrays) if is_static(process) else method(process, *arrays)

    return call


def along_time(fn: Map, t: Time, x: Data) -> tuple[Data, Data]:
    """Return fn(t), shaped like x, and its time derivative, with one time per example."""
    t = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
    return jax.jvp(fn, (t,), (jnp.ones_like(t),))


def slopes(fn: Map, x: Data) -> Data:
    """Return the diagonal of the Jacobian of an elementwise map."""
    return jax.jvp(fn, (x,), (jnp.ones_like(x),))[1]


def jacobian(fn: Map, x: Data) -> Float[Array, "batch d d"]:
    """Return the Jacobian of each example, features flattened."""
    d = x[0].size
    eye = jnp.eye(d, dtype=x.dtype).reshape(d, *x.shape[1:])

    def column(e: Array) -> Array:
        return jax.jvp(fn, (x,), (jnp.broadcast_to(e, x.shape),))[1].reshape(len(x), d)

    return jnp.moveaxis(jax.vmap(column)(eye), 0, 2)


def log_abs_det(fn: Map, x: Data, *, diagonal: bool = False) -> Float[Array, " batch"]:
    """Return log |det d fn / dx| per example."""
    if diagonal:
        return sum_features(jnp.log(jnp.abs(slopes(fn, x))))
    return jnp.linalg.slogdet(jacobian(fn, x))[1]


def solve_linear(fn: Map, x: Data, y: Data, *, diagonal: bool = False) -> Data:
    """Solve J v = y for v per example, with J the Jacobian of fn at x."""
    if diagonal:
        return y / slopes(fn, x)
    flat = jnp.linalg.solve(jacobian(fn, x), y.reshape(len(y), -1, 1))
    return flat.reshape(y.shape)


def invert(fn: Map, y: Data, start: Data, *, diagonal: bool = False, num_steps: int = 50) -> Data:
    """Solve fn(x) = y for each example by damped Newton steps, differentiable to third order.

    Each step tries several lengths and keeps the one with the smallest residual, until no example
    improves. The search itself is not differentiated: two full Newton steps from its result give exact
    derivatives, because each of them doubles the order to which the solution is correct.
    """
    # derivatives also pass through the values that fn closes over
    pure, held = jax.closure_convert(fn, start)
    frozen, target, held = jax.lax.stop_gradient((start, y, held))
    still = lambda x: pure(x, *held)
    size_of = jnp.abs if diagonal else _norms

    def error(x: Array) -> Array:
        return jnp.nan_to_num(size_of(still(x) - target), nan=jnp.inf, posinf=jnp.inf)

    def improve(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        count, x, before, _ = state
        residual = still(x) - target
        step = solve_linear(still, x, residual, diagonal=diagonal)
        # if the Jacobian is singular, step along the residual
        step = jnp.where(jnp.isfinite(step), step, residual)
        tried = x - jnp.asarray(_DAMPING, x.dtype).reshape(-1, *(1,) * x.ndim) * step
        errors = jax.lax.map(error, tried)
        chosen = jnp.argmin(errors, axis=0)[None]
        best = jnp.take_along_axis(tried, jnp.broadcast_to(chosen, (1, *x.shape)), axis=0)[0]
        after = jnp.take_along_axis(errors, chosen, axis=0)[0]
        better = after < before
        x, error_x = jnp.where(better, best, x), jnp.where(better, after, before)
        return count + 1, x, error_x, better.any()

    def gaining(state: tuple[Array, Array, Array, Array]) -> Array:
        return state[3] & (state[0] < num_steps)

    first = jnp.asarray(0), frozen, error(frozen), jnp.asarray(True)
    x = jax.lax.while_loop(gaining, improve, first)[1]
    for _ in range(2):
        x = x - solve_linear(fn, x, fn(x) - y, diagonal=diagonal)
    return x


def _norms(r: Data) -> Array:
    """Return the norm of each example, shaped to broadcast against the examples."""
    return jnp.sqrt(sum_features(r**2)).reshape((-1,) + (1,) * (r.ndim - 1))
