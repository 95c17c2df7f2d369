"""The divergence of a velocity field: exact, or estimated with random probes.

The exact trace takes one forward derivative per dimension; Hutchinson's estimate, the mean of
e . (dv/dx e) over probes e of unit covariance, is unbiased and costs one derivative per probe.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.numerics import draw, forward_derivatives, normal_like, sum_features
from diffusion.types import Data, Key, PerExample, Time, Velocity

PROBES: dict[str, Callable[[Key, Array], Array]] = {
    "rademacher": lambda key, x: draw(
        lambda k, s: jax.random.rademacher(k, s, x.dtype), key, x.shape
    ),
    "normal": normal_like,
}

# Numbers in the tangents of one chunk. Two CPU cores are fastest if a chunk fits in their cache; an
# accelerator is fastest with chunks as large as its memory allows besides the activations of a network.
_CPU_CHUNK, _ACCELERATOR_CHUNK = 2**14, 2**22


def chunk_size(x: Data) -> int:
    """Return the number of directions to differentiate at once, for a batch of this size."""
    budget = _CPU_CHUNK if jax.default_backend() == "cpu" else _ACCELERATOR_CHUNK
    return min(x[0].size, max(1, budget // x.size))


def _linearized(velocity: Velocity, x: Data, t: Time) -> tuple[Data, Callable[[Array], Array]]:
    """Return v(x, t) and its derivative in x as a linear function."""
    with forward_derivatives():
        return jax.linearize(lambda y: velocity(y, t), x)


def exact_divergence(
    velocity: Velocity, x: Data, t: Time, chunk: int | None = None
) -> tuple[Data, PerExample]:
    """Return v(x, t) and its divergence: one forward derivative per dimension.

    Args:
        velocity: (x, t) -> v, with independent rows.
        x: states, (batch, ...).
        t: one time, or one per example.
        chunk: number of directions differentiated at once, by which the memory is multiplied; the default
            depends on the device.
    """
    d = x[0].size
    eye = jnp.eye(d, dtype=x.dtype).reshape(d, *x.shape[1:])
    v, derivative = _linearized(velocity, x, t)

    def diagonal(i: Array) -> Array:
        column = derivative(jnp.broadcast_to(eye[i], x.shape))
        return column.reshape(len(x), d)[:, i]

    entries = jax.lax.map(diagonal, jnp.arange(d), batch_size=chunk or chunk_size(x))
    return v, entries.sum(axis=0)


def probe_divergences(
    velocity: Velocity, x: Data, t: Time, probes: Float[Array, "probes batch *data"]
) -> tuple[Data, Float[Array, "probes batch"]]:
    """Return v(x, t) and e . (dv/dx e) for every probe."""
    v, derivative = _linearized(velocity, x, t)
    return v, jax.vmap(lambda e: sum_features(e * derivative(e)))(probes)


def hutchinson_divergence(
    velocity: Velocity, x: Data, t: Time, probes: Float[Array, "probes batch *data"]
) -> tuple[Data, PerExample]:
    """Return v(x, t) and the mean over the probes of e . (dv/dx e), unbiased for unit covariance."""
    v, estimates = probe_divergences(velocity, x, t, probes)
    return v, estimates.mean(axis=0)
