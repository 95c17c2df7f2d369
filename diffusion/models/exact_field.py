"""The exact field of a finite data set, for any process with a known p(x_t | x_0).

By superposition of Green's functions (Su, kexue.fm 9370 and 9379), for points x_i of weight w_i,

    p_t(x) = sum_i w_i p_t(x | x_i)
    f_t(x) = sum_i w_i p_t(x | x_i) f_t(x | x_i) / p_t(x)

so a definition can be drawn, sampled and evaluated before anything is trained. For an `AffineProcess` the same
posterior weights give E[x_0 | x_t], the model of that class. Sums run over chunks of points with a running
log-sum-exp: memory is bounded by the chunk, and nothing under- or overflows.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.numerics import at_least, is_traced, per_example, positive, require, shaped
from diffusion.processes import AffineProcess, GaussianProcess, Process
from diffusion.registry import takes_names
from diffusion.types import Data, PerExample, Time

# (posterior weights (batch, chunk), points) -> (batch, ...)
Summand = Callable[[Array, Array], Array]

_SMALL = 16  # largest dimension for which squared distances are computed directly
_REFINED = 4  # in more dimensions: nearest points of a chunk whose distances are computed directly


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class ExactField:
    """The model of a process for a finite data set: E[x_0 | x_t], or the velocity for a plain `Process`.

    Where x is outside the support of p(x_t | x_0) for every point (a solver's error may carry it just outside the
    support of a bounded prior), the log-density is -inf, the log-posterior NaN, and the nearest point is used as x_0.
    """

    points: Array  # (chunks, chunk, ...), relative to the center; 0 for padding
    log_weights: Array  # (chunks, chunk), normalized; -inf for padding
    center: Array  # the mean of the points
    num_points: int = dataclasses.field(metadata={"static": True})
    process: Process = dataclasses.field(metadata={"static": True})

    def __call__(self, x: Data, t: Time) -> Data:
        """Return E[x_0 | x_t = x], or the velocity for a plain `Process`, shaped like x."""
        if isinstance(self.process, AffineProcess):
            return self.posterior_mean(x, t)
        return self.velocity(x, t)

    def posterior_mean(self, x: Data, t: Time) -> Data:
        """Return E[x_0 | x_t = x], the mean of the points with posterior weights."""
        mean = lambda w, points: jnp.tensordot(w, points, axes=1, precision="highest")
        log_p, found = self._average(x, t, mean)
        found = found + self.center.astype(x.dtype)
        if isinstance(self.process, AffineProcess) and self.process.isotropic:
            return found  # the support of such noise is the whole space
        return jnp.where(per_example(log_p > -jnp.inf, x) > 0, found, self._nearest(x))

    def velocity(self, x: Data, t: Time) -> Data:
        """Return f_t(x), the velocity of the generative ODE."""
        t = jnp.asarray(t, x.dtype)
        if isinstance(self.process, AffineProcess):
            return self.process.flow(self.posterior_mean).velocity(x, t)
        log_p, mean = self._average(x, t, self._over_pairs(x, t, self.process.conditional_velocity))
        alone = self.process.conditional_velocity(x, self._nearest(x), t)
        return jnp.where(per_example(log_p > -jnp.inf, x) > 0, mean, alone)

    def log_density(self, x: Data, t: Time) -> PerExample:
        """Return log p_t(x) in nats."""
        return self._average(x, t, lambda w, points: jnp.zeros(len(w), w.dtype))[0]

    def log_posterior(self, x: Data, t: Time) -> Float[Array, "batch n"]:
        """Return log p(x_0 = point | x_t = x); the memory is that of the result, not bounded by the chunk."""
        part = lambda chunk: self._log_joint(x, t, *chunk)
        found = jnp.moveaxis(jax.lax.map(part, (self.points, self.log_weights)), 0, 1)
        return jax.nn.log_softmax(found.reshape(len(x), -1)[:, : self.num_points], axis=-1)

    def score(self, x: Data, t: Time) -> Data:
        """Return grad log p_t(x), by Tweedie's formula for normal noise, else as an average of gradients."""
        if isinstance(self.process, GaussianProcess):
            c = self.process.coefficients(t, x)
            return (c.alpha * self.posterior_mean(x, t) - x) / c.sigma**2
        own = lambda rows, origins, t: jax.grad(
            lambda y: self.process.log_density(y, origins, t).sum()
        )(rows)
        return self._average(x, t, self._over_pairs(x, t, own))[1]

    def _nearest(self, x: Data) -> Data:
        """Return the point nearest to each x."""
        center = self.center.astype(x.dtype)
        flat, one = (x - center).reshape(len(x), -1), jnp.ones((len(x), 1), x.dtype)

        def nearer(best: tuple, chunk: tuple) -> tuple[tuple, None]:
            points = chunk[0].astype(x.dtype)
            distances = squared_distances(flat, points.reshape(len(points), -1), one)
            distances = jnp.where(chunk[1] > -jnp.inf, distances, jnp.inf)
            i, d = distances.argmin(axis=1), distances.min(axis=1)
            closer = per_example(d < best[0], x) > 0
            return (jnp.minimum(d, best[0]), jnp.where(closer, points[i], best[1])), None

        start = (jnp.full(len(x), jnp.inf, x.dtype), jnp.zeros_like(x))
        chunks = (self.points, self.log_weights)
        return jax.lax.stop_gradient(jax.lax.scan(nearer, start, chunks)[0][1] + center)

    # ---- sums over the points -------------------------------------------------------------------

    def _pairs(self, x: Data, points: Array, t: Time) -> tuple[Array, Array, Array]:
        """Return all pairs of an x and a point, flattened to a batch, with their times."""
        n, (batch, *shape) = len(points), x.shape
        rows = jnp.repeat(x, n, axis=0)
        origins = jnp.tile(points + self.center.astype(x.dtype), (batch, *(1,) * len(shape)))
        times = jnp.broadcast_to(jnp.asarray(t, x.dtype), (batch,))
        return rows, origins, jnp.repeat(times, n)

    def _over_pairs(self, x: Data, t: Time, fn: Callable[..., Array]) -> Summand:
        """Return the summand sum_i w_i fn(x, x_i, t)."""

        def summand(w: Array, points: Array) -> Array:
            values = fn(*self._pairs(x, points, t)).reshape(len(x), len(points), *x.shape[1:])
            w = w.reshape(w.shape + (1,) * (values.ndim - w.ndim))
            # the value of a far point may not be finite
            return jnp.where(w > 0, w * values, 0.0).sum(axis=1)

        return summand

    def _log_joint(self, x: Data, t: Time, points: Array, log_weights: Array) -> Array:
        """Return log(w_i p_t(x | x_i)) of a chunk, (batch, chunk)."""
        points, log_weights = points.astype(x.dtype), log_weights.astype(x.dtype)
        if isinstance(self.process, AffineProcess) and self.process.isotropic:
            found = self._isotropic(self.process, x, t, points)
        else:
            pairs = self._pairs(x, points, t)
            found = self.process.log_density(*pairs).reshape(len(x), len(points))
        reached = (found > -jnp.inf) & (log_weights > -jnp.inf)
        return jnp.where(reached, found + log_weights, -jnp.inf)

    def _isotropic(self, process: AffineProcess, x: Data, t: Time, points: Array) -> Array:
        t = jnp.broadcast_to(jnp.asarray(t, x.dtype), x.shape[:1])
        alpha, sigma = (
            jnp.broadcast_to(jnp.asarray(c, x.dtype), t.shape)[:, None]
            for c in (process.alpha(t), process.sigma(t))
        )
        y = x.reshape(len(x), -1) - alpha * self.center.astype(x.dtype).reshape(1, -1)
        d = y.shape[1]
        square = squared_distances(y, points.reshape(len(points), d), alpha)
        return process.radial_log_prob(square / sigma**2, d) - d * jnp.log(sigma)

    def _average(self, x: Data, t: Time, summand: Summand) -> tuple[PerExample, Array]:
        """Return log p_t(x) and the posterior average of a summand, 0 where p_t(x) = 0."""
        one = jnp.zeros((len(x), self.points.shape[1]), x.dtype)
        zero = jax.eval_shape(summand, one, self.points[0].astype(x.dtype))

        @jax.checkpoint  # derivatives also hold one chunk at a time in memory
        def add(state: tuple, chunk: tuple) -> tuple[tuple, None]:
            top, total, average = state
            log_p = self._log_joint(x, t, *chunk)
            new = jnp.maximum(top, jax.lax.stop_gradient(log_p.max(axis=1)))
            level = jnp.where(new > -jnp.inf, new, 0.0)
            fade, w = jnp.exp(top - level), jnp.exp(log_p - level[:, None])
            average = per_example(fade, average) * average + summand(w, chunk[0].astype(x.dtype))
            return (new, fade * total + w.sum(axis=1), average), None

        start = (
            jnp.full(len(x), -jnp.inf, x.dtype),
            jnp.zeros(len(x), x.dtype),
            jnp.zeros(zero.shape, zero.dtype),
        )
        (top, total, average), _ = jax.lax.scan(add, start, (self.points, self.log_weights))
        safe = jnp.where(total > 0, total, 1.0)
        log_p = jnp.where(total > 0, top + jnp.log(safe), -jnp.inf)
        return log_p, average / per_example(safe, average)


def squared_distances(
    x: Float[Array, "batch d"], points: Float[Array, "n d"], alpha: Float[Array, "batch 1"]
) -> Float[Array, "batch n"]:
    """Return |x - alpha p|^2 of all pairs.

    In many dimensions this is one matrix product, |x|^2 - 2 alpha x . p + alpha^2 |p|^2. Cancellation makes it
    inaccurate for small distances, which matter most where the noise is small, so the distances of the nearest
    points are computed again directly.
    """
    if x.shape[1] <= _SMALL:
        return ((x[:, None] - alpha[..., None] * points) ** 2).sum(axis=-1)
    product = jnp.matmul(x, points.T, precision="highest")
    rough = (x**2).sum(axis=1)[:, None] - 2 * alpha * product + alpha**2 * (points**2).sum(axis=1)
    rough = jnp.maximum(rough, 0.0)
    nearest = jax.lax.top_k(-jax.lax.stop_gradient(rough), min(_REFINED, len(points)))[1]
    exact = ((x[:, None] - alpha[..., None] * points[nearest]) ** 2).sum(axis=-1)
    return rough.at[jnp.arange(len(x))[:, None], nearest].set(exact)


@takes_names
def exact_field(
    process: Process, points: Any, weights: Any = None, *, chunk: int = 1024
) -> ExactField:
    """Return the exact field of weighted points, usable as the `model` of the process.

    Args:
        process: any process with a known density p(x_t | x_0): it needs `noise_log_prob` and invertible paths.
        points: (n, ...), the data set.
        weights: (n,), positive, normalized here if necessary; equal by default.
        chunk: number of points summed at a time. The memory is batch * chunk numbers for an `AffineProcess` with
            isotropic noise, in general batch * chunk * size of an example.

    Returns:
        A callable pytree: E[x_0 | x_t] for an `AffineProcess`, the velocity for a plain `Process`; with the methods
        `velocity`, `posterior_mean`, `log_density`, `log_posterior` and `score`.

    Raises:
        TypeError: the process has no known density.
        ValueError: the shapes of points and weights do not match.
    """
    points = jnp.asarray(points)
    points = points if jnp.issubdtype(points.dtype, jnp.floating) else points.astype(float)
    require(
        points.ndim >= 2 and len(points) > 0,
        f"`points` must have the shape (n, ...) with n > 0, one row per example; got {points.shape}.",
    )
    at_least(1, chunk=chunk)
    n, chunk = len(points), min(chunk, len(points))
    w = jnp.ones(n, points.dtype) if weights is None else jnp.asarray(weights, points.dtype)
    shaped("`weights`", w, (n,), "one for each point")
    if not is_traced(w):
        positive(weights=w.min())
    t = jnp.full(1, process.t_max, points.dtype)
    # raises if the density is not known
    jax.eval_shape(process.log_density, points[:1], points[:1], t)
    w = w / w.sum()
    center = jnp.tensordot(w, points, axes=1, precision="highest")
    padding = -n % chunk
    padded = jnp.concatenate(
        [points - center, jnp.zeros((padding, *points.shape[1:]), points.dtype)]
    )
    log_w = jnp.concatenate([jnp.log(w), jnp.full(padding, -jnp.inf, w.dtype)])
    return ExactField(
        points=padded.reshape(-1, chunk, *points.shape[1:]),
        log_weights=log_w.reshape(-1, chunk),
        center=center,
        num_points=n,
        process=process,
    )
