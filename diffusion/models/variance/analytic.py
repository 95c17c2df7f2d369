"""The variance of x_0 given x_t, estimated from a denoiser and data; see `diffusion.models.variance`."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.numerics import (
    as_key,
    as_pytree,
    at_least,
    finite,
    on_host,
    one_of,
    per_example,
    require,
    row_keys,
)
from diffusion.numerics.programs import Programs
from diffusion.numerics.shapes import bare, checked
from diffusion.processes import AffineProcess, GaussianProcess
from diffusion.processes.base import require_process
from diffusion.registry import takes_names
from diffusion.types import Cond, Data, Key, KeyLike, Time


@runtime_checkable
class StatesVariance(Protocol):
    """A denoiser with sbar^2, the variance of x_0 given x_t."""

    def posterior_variance(self, x_t: Array, t: Any) -> Array:
        """Return sbar^2 per dimension, an array that broadcasts against x_t."""
        ...


def stated_variance(model: Any) -> StatesVariance:
    """Return the model if it has `posterior_variance`, the variance of x_0 given x_t.

    Raises:
        TypeError: the model has none; the message says how to add one.
    """
    model = bare(model)
    if isinstance(model, StatesVariance):
        return model
    raise TypeError(
        f"variance='analytic' needs a model with `posterior_variance(x_t, t)`; {type(model).__name__} has none. "
        "Make it by with_variance and estimate_variance, or run `demolish estimate_variance`."
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class WithVariance:
    """A denoiser with a table of log sbar^2, linear in the log-SNR between levels; made by `with_variance`."""

    denoise: Any
    log_snr: Any  # increasing, (levels,)
    log_variance: Any  # (levels,) or (levels, ...data)
    process: AffineProcess = dataclasses.field(metadata={"static": True})

    def __call__(self, x_t: Data, t: Time) -> Data:
        """Return the posterior mean."""
        return self.denoise(x_t, t)

    def posterior_variance(self, x_t: Data, t: Time) -> Array:
        """Return sbar^2 at t, constant beyond the ends of the table."""
        knots, values = (jnp.asarray(a, x_t.dtype) for a in (self.log_snr, self.log_variance))
        level = self.process.log_snr(jnp.asarray(t, x_t.dtype))
        if len(knots) == 1:
            return jnp.exp(values[0])
        i = jnp.clip(jnp.searchsorted(knots, level) - 1, 0, len(knots) - 2)
        fraction = jnp.clip((level - knots[i]) / (knots[i + 1] - knots[i]), 0, 1)
        low, high = values[i], values[i + 1]
        if values.ndim > 1:  # one number per dimension of the data
            fraction = fraction.reshape(fraction.shape + (1,) * (values.ndim - 1))
            return jnp.exp(low + fraction * (high - low))
        return per_example(jnp.exp(low + fraction * (high - low)), x_t)


@takes_names
def with_variance(denoise: Any, process: AffineProcess, times: Any, values: Any) -> WithVariance:
    """Attach a table of posterior variances to a denoiser.

    Args:
        denoise: (x_t, t) -> E[x_0 | x_t].
        process: the process to which the times refer.
        times: (levels,), in any order.
        values: sbar^2 at the times, (levels,) or (levels, ...data), from `estimate_variance`.

    Raises:
        ValueError: the shapes do not match, a value is negative, or a time has no finite log-SNR.
    """
    require_process(process, AffineProcess, "a table of posterior variances")
    times, values = np.asarray(times, np.float64), np.asarray(values, np.float64)
    require(
        times.ndim == 1 and len(times) > 0 and values.shape[:1] == times.shape,
        f"`values` needs one row per time; got shapes {values.shape} and {times.shape}.",
    )
    finite(values=values)
    at_least(0, values=values.min(), hint="They are variances.")
    log_snr = on_host(process.log_snr, times)
    finite(log_snr=log_snr, hint="Leave out `times` without a log-SNR: alpha or sigma vanishes.")
    order = np.argsort(log_snr)
    floor = np.finfo(np.float32).tiny  # the variance of a data set of one point is 0
    return WithVariance(
        denoise=as_pytree(denoise), log_snr=log_snr[order],
        log_variance=np.log(np.maximum(values[order], floor)), process=process,
    )  # fmt: skip


KINDS = ("noise", "data", "residual")


@takes_names
def estimate_variance(
    process: GaussianProcess,
    model: Any,
    batches: Iterable[Any],
    times: Any,
    key: KeyLike,
    *,
    kind: str = "residual",
    diagonal: bool = False,
) -> np.ndarray:
    """Estimate sbar^2, the variance of x_0 given x_t per dimension, from a denoiser and data.

        noise     sigma^2 / alpha^2 (1 - E[z_hat^2])   (Bao et al., 2022a)
        data      Var[x_0] - E[(x_0_hat - mean)^2]      (Su, kexue.fm 9245)
        residual  E[(x_0 - x_0_hat)^2]                  (Bao et al., 2022b)

    All agree for an exact denoiser; for an inexact one the last is the maximum-likelihood value. At high noise the
    errors of `noise` are multiplied by sigma^2 / alpha^2; near the data `data` is a small difference of large
    numbers. These two are clipped to bounds that hold for every distribution, sigma^2 / alpha^2 and Var[x_0].

    Args:
        process: the process of the model.
        model: (x_t, t) -> E[x_0 | x_t]; if it has `with_cond`, the condition of each batch is set.
        batches: arrays (batch, ...), or mappings with "data" and perhaps "cond".
        times: (levels,), each with sigma > 0.
        key: draws the noise; the noise of example i at time k depends on (key, k, i) alone.
        kind: the estimate: noise, data or residual.
        diagonal: whether to return one variance per dimension of the data instead of their mean.

    Returns:
        float64, (levels,) or (levels, ...data).

    Raises:
        ValueError: the kind is unknown, there is no data, or sigma = 0 at a time.
        TypeError: the noise of the process is not normal.
    """
    require_process(process, GaussianProcess, "the estimate of the posterior variance")
    one_of(KINDS, kind=kind)
    key, times = as_key(key), np.asarray(times, np.float64).reshape(-1)
    alpha, sigma = on_host(process.alpha, times), on_host(process.sigma, times)
    require(
        bool(np.all(alpha > 0) and np.all(sigma > 0)),
        "`times` must lie where alpha and sigma are positive.",
    )
    sums, count = None, 0
    for batch in batches:
        x_0, cond = (
            (batch["data"], batch.get("cond")) if isinstance(batch, Mapping) else (batch, None)
        )
        row = jnp.arange(count, count + len(x_0))
        denoise = as_pytree(_under(model, cond))
        found = _moments(process, denoise, key, jnp.asarray(x_0), row, times)
        found = jax.tree.map(lambda a: np.asarray(a, np.float64), found)
        sums = found if sums is None else jax.tree.map(np.add, sums, found)
        count += len(x_0)
    require(count > 0, "`batches` is empty: there is nothing to estimate from.")
    assert sums is not None
    mean, second, error, x_gap, z_gap, error2 = (s / count for s in sums)
    ratio = (sigma / alpha).reshape(-1, *(1,) * (mean.ndim - 1)) ** 2
    variance = second - mean**2
    table, bound = {
        "noise": lambda: (ratio * z_gap, np.minimum(ratio, variance)),
        "data": lambda: (x_gap - 2 * mean * error, np.minimum(ratio, variance)),
        "residual": lambda: (error2, error2),
    }[kind]()
    if not diagonal:
        table, bound = (a.reshape(len(times), -1).mean(axis=1) for a in (table, bound))
    return np.clip(table, 0.0, bound)


def _under(model: Any, cond: Cond) -> Any:
    return model.with_cond(cond) if cond is not None and hasattr(model, "with_cond") else model


def _sums(
    process: GaussianProcess, model: Any, key: Key, x_0: Array, row: Array, times: Array
) -> tuple[Array, ...]:
    """Return, for each time, the sums over the batch from which all estimates are computed."""

    def at(inputs: tuple[Array, Array]) -> tuple[Array, ...]:
        k, t = inputs
        z = process.sample_noise(row_keys(jax.random.fold_in(key, k), row), x_0.shape)
        z = z.astype(x_0.dtype)
        t = jnp.full(len(x_0), t, x_0.dtype)
        x_t = process.interpolate(x_0, z, t)
        error = x_0 - checked(model)(x_t, t)
        c = process.coefficients(t, x_0)
        gap = c.alpha / c.sigma * error  # z_hat - z
        # differences of squares of the same draws, with z^2 as a control variate for its expectation 1
        parts = (x_0, x_0**2, error, error * (2 * x_0 - error), -gap * (2 * z + gap), error**2)
        return tuple(p.sum(axis=0) for p in parts)

    return jax.lax.map(at, (jnp.arange(len(times)), times.astype(x_0.dtype)))


_moments = Programs(_sums, 1)
