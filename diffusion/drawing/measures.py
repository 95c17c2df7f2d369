"""Numbers and words about a scene: estimates from draws, mismatch of the prior, shares, the definition."""

import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.drawing.scene import Scene, compiled, follow, noise
from diffusion.processes import Process

MANY = 12  # up to so many different values, points on a line are drawn and counted one by one


def _states(process: Process, x_0: Any, z: Any, t: Any) -> tuple[Any, Any]:
    return process.interpolate(x_0, z, t), process.velocity(x_0, z, t)


def estimate(
    scene: Scene, t: float, edges: list[np.ndarray], num_draws: int = 50_000
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate density and velocity at a time from draws: counts and means per cell of a grid.

    The mean of `velocity(x_0, z, t)` given x_t is the field that flow matching learns.

    Returns:
        Counts per cell over the greatest, (cells...,), and mean velocities, (cells..., d), NaN in cells of fewer
        than ten draws.
    """
    key = jax.random.fold_in(jax.random.key(scene.seed), 7)
    rows = np.random.default_rng(scene.seed).integers(0, len(scene.points), num_draws)
    x_0 = scene.points[rows]
    process = scene.process

    z = noise(process, key, x_0)
    x, v = (
        np.asarray(a)
        for a in compiled(
            _states, process, jnp.asarray(x_0), z, jnp.full(num_draws, t, jnp.float32)
        )
    )
    counts = np.histogramdd(x, edges)[0]
    sums = [np.histogramdd(x, edges, weights=v[:, k])[0] for k in range(scene.dims)]
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.stack(sums, axis=-1) / counts[..., None]
    means[counts < 10] = np.nan
    return counts / max(counts.max(), 1), means


def prior_mismatch(scene: Scene, count: int = 4096) -> tuple[float, float] | None:
    """Return KL(p_T || prior) in nats with its standard error, by draws of p_T, or None if unknown.

    Each draw counts r - 1 - log r with r = prior / p_T, whose mean is that of -log r, and which is never negative.
    """
    process = scene.process
    if process.exact_prior:
        return 0.0, 0.0
    if scene.log_density is None:
        return None
    key = jax.random.fold_in(jax.random.key(scene.seed), 8)
    rows = np.random.default_rng(scene.seed).integers(0, len(scene.points), count)
    x_0 = scene.points[rows]
    x = follow(process, x_0, noise(process, key, x_0), scene.times[:1])[0]
    try:
        log_q = np.asarray(process.prior_log_prob(jnp.asarray(x)))
    except TypeError:
        return None
    log_r = (log_q - scene.log_density(x, float(scene.times[0]))).astype(np.float64)
    terms = np.expm1(log_r) - log_r
    return float(terms.mean()), float(terms.std() / np.sqrt(count))


def landed(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the different values of data on a line, their shares, and the shares of paths that end nearest."""
    values, counts = np.unique(scene.points[:, 0], return_counts=True)
    if scene.dims != 1 or len(values) > MANY or scene.ends is None:
        return None
    nearest = np.abs(scene.ends[:, :1] - values).argmin(axis=1)
    shares = np.bincount(nearest, minlength=len(values)) / len(nearest)
    return values, counts / counts.sum(), shares


def definition(process: Process, spec: Mapping[str, Any] | None = None) -> str:
    """Return a definition in two lines: the first line of its class's docstring; its name and fields."""
    kind = type(process)
    first = (inspect.getdoc(kind) or "").partition("\n")[0].replace("`", "")
    if not first or first.startswith(f"{kind.__name__}("):  # what a dataclass writes by itself
        first = kind.__name__
    values = {f.name: getattr(process, f.name) for f in dataclasses.fields(process)}
    if spec is not None:  # it writes out nested objects, but no functions
        functions = {k: v for k, v in values.items() if k not in spec and callable(v)}
        values = {k: v for k, v in spec.items() if k != "name"} | functions
    values = {k: getattr(process, k, v) if v is None else v for k, v in values.items()}
    return f"{first}\n{call(kind.__name__ if spec is None else spec['name'], values)}"


def call(name: Any, values: Mapping[str, Any]) -> str:
    """Return name(field=value, ...), nested specs likewise."""
    return f"{name}({', '.join(f'{k}={_word(v)}' for k, v in values.items())})"


def _word(value: Any) -> str:
    if isinstance(value, Mapping):
        return call(value.get("name", ""), {k: v for k, v in value.items() if k != "name"})
    if isinstance(value, float):
        return f"{value:g}"
    if callable(value) and hasattr(value, "__name__"):
        return str(value.__name__)
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
