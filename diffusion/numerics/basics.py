"""Small numerical tools: shapes, derivatives in time, quadrature, inversion, per-example randomness.

Two conventions hold throughout. Tables are computed once, on the host, in float64 (`on_host`); and random
numbers are a function of a key and an example's index, never of a batch size or a device layout.
"""

import dataclasses
import functools
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Shaped

from diffusion.numerics.programs import Programs
from diffusion.numerics.tracing import made_of_jax
from diffusion.types import Key, KeyLike, Scalar, Time

NODES, WEIGHTS = np.polynomial.legendre.leggauss(48)

# Part of the key of JAX's caches: a function traced under one value is traced again under the other.
_FORWARD_DERIVATIVES = jax.make_user_context(False)


def is_traced(*things: Any) -> bool:
    """Return whether any value in these pytrees or dataclasses, however nested, is traced by JAX."""
    for leaf in jax.tree.leaves(things):
        if isinstance(leaf, Tracer):
            return True
        if dataclasses.is_dataclass(leaf) and is_traced(*vars(leaf).values()):
            return True
    return False


def is_hashable(*things: Any) -> bool:
    """Return whether all of these can be hashed."""
    try:
        hash(things)
    except TypeError:
        return False
    return True


def is_static(*things: Any) -> bool:
    """Return whether all of these can be static arguments: hashable, without traced values."""
    return not is_traced(*things) and is_hashable(*things)


def require(condition: Any, message: str) -> None:
    """Raise ValueError unless the condition holds; a traced condition is not checked.

    Hence a process can be constructed from traced values, as a learned schedule requires.
    """
    if not isinstance(condition, Tracer) and not bool(condition):
        raise ValueError(message)


def forward_derivatives() -> AbstractContextManager[Any]:
    """Return a context in which networks use only operations that can be differentiated any number of times.

    Some fast kernels define a single reverse derivative only. Enter this context before applying `jax.jvp`,
    `jax.linearize`, or a second derivative to a network; it affects functions traced within it.

    Example:
        >>> with forward_derivatives():
        ...     y, derivative = jax.linearize(jnp.sin, 0.0)
    """
    return _FORWARD_DERIVATIVES(True)


def forward_derivatives_wanted() -> bool:
    """Return whether the current trace is within `forward_derivatives`."""
    return bool(_FORWARD_DERIVATIVES.value)


def per_example(c: Scalar, x: Shaped[Array, "..."]) -> Shaped[Array, "..."]:
    """Shape a coefficient of shape () or (batch,) so that it multiplies x of shape (batch, ...)."""
    c = jnp.asarray(c, x.dtype)
    return c.reshape(c.shape + (1,) * (x.ndim - c.ndim)) if c.ndim else c


def as_time(t: Time) -> Array:
    """Return t as a floating array; an integer becomes one of the default float type."""
    t = jnp.asarray(t)
    return t if jnp.issubdtype(t.dtype, jnp.floating) else t.astype(jnp.result_type(float))


def value_and_ddt(fn: Callable[[Array], Any], t: Time) -> tuple[Array, Array]:
    """Return fn(t) and its derivative, elementwise in t, by forward differentiation."""
    t = as_time(t)

    def shaped(u: Array) -> Array:  # fn may return a constant, such as alpha = 1, as a plain number
        value = jnp.asarray(fn(u))
        return jnp.broadcast_to(value, jnp.broadcast_shapes(value.shape, u.shape))

    return jax.jvp(shaped, (t,), (jnp.ones_like(t),))


def _evaluate(fn: Callable, owner: Any, *args: Array) -> Any:
    return fn(owner, *args)


_compiled_evaluate = Programs(_evaluate, 2, keep=12)


@functools.cache
def _host() -> Any:
    """Return a CPU device, since TPUs only emulate float64; None, JAX's default, if CPUs are excluded."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def on_host(method: Callable[..., Any], *args: Any) -> Any:
    """Evaluate a method on concrete numbers in float64 on the host, also while JAX is tracing.

    Args:
        method: a bound method; it is compiled once per shape for equal owners.
        *args: concrete arrays or numbers.

    Returns:
        The method's result, as float64 NumPy arrays.
    """
    fn, owner = getattr(method, "__func__", None), getattr(method, "__self__", None)
    assert fn is not None, "on_host takes a bound method"
    evaluate = _compiled_evaluate if is_hashable(fn, owner) else _evaluate
    host = jax.default_device(_host())
    with (
        made_of_jax(type(owner).__name__),
        jax.ensure_compile_time_eval(),
        jax.enable_x64(True),
        host,
    ):
        values = evaluate(fn, owner, *(jnp.asarray(np.asarray(a, np.float64)) for a in args))
        return jax.tree.map(np.array, values)


def integral(fn: Callable[[Array], Array], t: Time, start: float = 0.0) -> Array:
    """Integrate fn from start to t, elementwise in t, by Gauss-Legendre quadrature of 48 nodes."""
    t = as_time(t)
    half = jnp.asarray((t - start) / 2)
    nodes = jnp.asarray(NODES + 1, t.dtype)
    values = fn(start + half[..., None] * nodes)
    return jnp.asarray(half * (values * jnp.asarray(WEIGHTS, t.dtype)).sum(axis=-1))


def invert_decreasing(
    fn: Callable[[Array], Array], y: Time, low: Scalar, high: Scalar, num_steps: int = 64
) -> Array:
    """Solve fn(t) = y for a decreasing fn on [low, high] by bisection, elementwise in y.

    Values outside the range of fn give the nearer end. After 64 halvings the error is below float64 resolution.
    """
    y = as_time(y)

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low + high) / 2
        above = fn(middle) > y  # `middle` is below the solution
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    ends = jnp.full_like(y, low), jnp.full_like(y, high)
    low, high = jax.lax.fori_loop(0, num_steps, halve, ends)
    return jnp.asarray((low + high) / 2)


def as_key(key: Any) -> Key:
    """Return a random key, made from its seed if a whole number is passed.

    Raises:
        TypeError: `key` is neither a key nor a whole number.
    """
    if hasattr(key, "dtype") and not isinstance(key, np.generic):
        return key
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        require(key >= 0, f"a `key` given as a number is its seed, not negative; got {key}.")
        return jax.random.key(int(key))
    raise TypeError(
        f"`key` must be a random key, as jax.random.key(0), or a whole number, its seed; got {type(key).__name__}."
    )


def fold_in(key: KeyLike, data: Any) -> Key:
    """Fold an integer into one key, or into each key of an array of shape (batch,)."""
    key = as_key(key)
    return (
        jax.vmap(lambda k: jax.random.fold_in(k, data))(key)
        if is_many(key)
        else (jax.random.fold_in(key, data))
    )


def is_many(key: Key) -> bool:
    """Return whether this is an array of keys, one per example, rather than a single key."""
    typed = jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    return key.ndim > (0 if typed else 1)


def split(key: KeyLike, num: int = 2) -> tuple[Key, ...]:
    """Split one key, or each key of an array, into `num` keys."""
    key = as_key(key)
    if not is_many(key):
        return tuple(jax.random.split(key, num))
    return tuple(jnp.moveaxis(jax.vmap(lambda k: jax.random.split(k, num))(key), 1, 0))


def draw(sampler: Callable[..., Array], key: KeyLike, shape: tuple[int, ...]) -> Array:
    """Draw an array of shape (batch, ...) from one key, or row i from key i of an array of keys.

    Args:
        sampler: `sampler(key, shape)`, where the first axis of the shape is the batch.
        key: one key, or keys of shape (batch,), in which case row i does not depend on the batch size.
        shape: the full shape, batch first.
    """
    key = as_key(key)
    if not is_many(key):
        return sampler(key, shape)
    return jax.vmap(lambda k: sampler(k, (1, *shape[1:]))[0])(key)


def normal_like(key: KeyLike, x: Float[Array, " batch *data"]) -> Float[Array, " batch *data"]:
    """Draw standard normal noise shaped like x, from one key or from one key per example."""
    return draw(lambda k, s: jax.random.normal(k, s, x.dtype), key, x.shape)


def row_keys(key: KeyLike, row: Int[Array, " batch"]) -> Key:
    """Return one key per row, a function of the key and of the row's global index."""
    key = as_key(key)
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(row)


def sum_features(x: Float[Array, " batch *data"]) -> Float[Array, " batch"]:
    """Sum over all axes but the first."""
    return x.reshape(x.shape[0], -1).sum(axis=-1)


_STAGES = ((0.0, 1 / 6), (0.5, 1 / 3), (0.5, 1 / 3), (1.0, 1 / 6))  # (node, weight) of each stage


def runge_kutta(rate: Callable[[Any, Any], Any], state: Any, t: Time, s: Time) -> Any:
    """Advance a pytree from time t to time s by one classical Runge-Kutta step of order 4.

    The four stages are a loop, so that `rate`, which may contain a network, is compiled once and not four times.
    """
    stages = jnp.asarray(_STAGES, jax.tree.leaves(state)[0].dtype)

    def stage(carry: tuple[Any, Any], row: Array) -> tuple[Any, None]:
        k, total = carry
        place, weight = row
        move = lambda y, d: y + (place * (s - t) * d).astype(y.dtype)
        k = rate(jax.tree.map(move, state, k), (1 - place) * t + place * s)
        return (k, jax.tree.map(lambda a, d: a + (weight * d).astype(a.dtype), total, k)), None

    zero = jax.tree.map(jnp.zeros_like, state)
    total = jax.lax.scan(stage, (zero, zero), stages)[0][1]
    return jax.tree.map(lambda y, d: y + ((s - t) * d).astype(y.dtype), state, total)
