"""Data of the pictures of a process in one or two dimensions.

A `Scene` holds the data of all pictures of one process and one finite data set. The model is the exact velocity field
of the points, or a trained one. Times decrease, as in sampling.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from diffusion.models.exact_field import exact_field
from diffusion.numerics import as_pytree, is_static
from diffusion.numerics.programs import Programs
from diffusion.processes import Process
from diffusion.samplers import Sampler, solve

Points = Float[np.ndarray, "n d"]
States = Float[np.ndarray, "times paths d"]

_BATCH = 1024  # rows per evaluation of a field on a grid: bounds memory at rows x points of data
# Measured on two cores, jaxlib 0.10.2: paths that are inverted by Newton steps inside a solver's loop hang
# from about 25,000 pairs of a row and a point at a time, and finish with 16,000.
_PAIRS = 16_000
_DRAWS = 2000  # draws of x_0 and z, for the noising, the limits of axes and histograms
_NEAR = 0.05  # noise below this fraction of the size of the data is not shown


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The data of all pictures.

    Args:
        process: the process.
        points: the data, (n, d) with d = 1 or 2.
        times: (num_steps + 1,), decreasing from t_max to t_min.
        demolished: data points on their conditional paths, z fixed, at these times.
        starts: a few points of the data, far apart, (k, d).
        fans: conditional paths from them, (times, k, paths, d).
        states: paths of the generative ODE at these times, or None if there is no field.
        ends: end points of these paths, without the noise that is left at t_min.
        velocity: (x, t) -> f_t(x) for arrays of any length, or None.
        log_density: (x, t) -> log p_t(x), or None, which shows histograms instead.
        trained: whether the model comes from a run, so that its own density is unknown.
        seed: seed of all draws.
        title: the definition as text.
        footer: the settings of the pictures.
        notes: further remarks for the reader.
    """

    process: Process
    points: np.ndarray
    times: np.ndarray
    demolished: np.ndarray
    starts: np.ndarray
    fans: np.ndarray
    states: np.ndarray | None
    ends: np.ndarray | None
    velocity: Callable[[np.ndarray, float], np.ndarray] | None
    log_density: Callable[[np.ndarray, float], np.ndarray] | None
    trained: bool
    seed: int
    title: str = ""
    footer: str = ""
    notes: tuple[str, ...] = ()

    @property
    def dims(self) -> int:
        """Number of dimensions, 1 or 2."""
        return self.points.shape[1]

    @property
    def center(self) -> np.ndarray:
        """The center of the data, (d,)."""
        return (self.points.min(axis=0) + self.points.max(axis=0)) / 2

    @property
    def data_half(self) -> float:
        """Half the width of the window that shows the data."""
        return 1.3 * float(np.abs(self.points - self.center).max()) or 1.0

    @property
    def cloud(self) -> np.ndarray:
        """States whose histogram shows p_t; for a trained model, the states of its paths."""
        return self.states if self.trained and self.states is not None else self.demolished

    def half(self, index: int) -> float:
        """Return half the width of the window that shows p_t at a time, at least that of the data."""
        far = np.abs(self.cloud[index] - self.center)
        typical, most = np.quantile(far, (0.9, 0.997))
        # For a normal law, `most` is 1.8 times `typical`; heavy tails would enlarge the window too much.
        return max(self.data_half, 1.1 * float(min(most, 2 * typical)))

    @property
    def wide(self) -> bool:
        """Whether the prior is so much wider than the data that one window cannot show both."""
        return self.half(0) > 3 * self.data_half

    @property
    def last_moment(self) -> float:
        """The time below which no change is visible."""
        return float(self.times[self.moments(2, last=0.02)[-1]])

    @functools.cached_property
    def log_time(self) -> bool:
        """Whether the time axis is logarithmic: t_max is large, or paths change mostly at small times."""
        decided = float(self.times[self.moments(2, last=0.5)[-1]])
        return float(self.process.t_max) >= 5 or 0 < decided < 0.05 * float(self.process.t_max)

    def moments(self, count: int, last: float = _NEAR, first: float = float("inf")) -> list[int]:
        """Return indices of times: t_max, then times at which the noise decreases geometrically.

        The noise is measured as the median distance from x_t_min on a path, as a fraction of the size of the data, so
        that no noise schedule is needed.

        Args:
            count: largest number of indices.
            last: noise at the last time.
            first: largest noise after t_max; larger noise looks much the same at all scales.
        """
        way = np.linalg.norm(self.demolished - self.demolished[-1], axis=-1)
        level = np.log(_NEAR + np.median(way, axis=1) / self.data_half)
        level = np.minimum.accumulate(level)  # the distance may not be monotone
        high, low = np.log(_NEAR + first), max(np.log(_NEAR + last), level[-1])
        if level[0] > high:
            wanted = np.append(level[0], np.linspace(high, low, count - 1))
        else:
            wanted = np.linspace(level[0], low, count)
        return np.unique(np.abs(level[:, None] - wanted).argmin(axis=0)).tolist()


def make_scene(
    process: Process,
    points: Points,
    *,
    sampler: Sampler,
    num_steps: int = 64,
    num_paths: int = 400,
    seed: int = 0,
    model_of: Callable[[int], Any] | None = None,
    **words: Any,
) -> Scene:
    """Compute the data of the pictures of a process and a finite data set.

    Args:
        process: any process.
        points: the data, (n, 1) or (n, 2).
        sampler: sampler that solves the generative ODE, on the process's `default_times`.
        num_steps: number of steps of the sampler.
        num_paths: number of solved paths.
        seed: seed of all draws.
        model_of: the trained model for a number of rows; None: the exact field of the points.
        **words: title, footer and notes of the scene.

    Raises:
        ValueError: the points are not in one or two dimensions, or no path stays finite.
    """
    points = np.asarray(points, np.float32)
    if points.ndim != 2 or points.shape[1] not in (1, 2) or not len(points):
        raise ValueError(f"`points` to be drawn must be (n, 1) or (n, 2); got {points.shape}.")
    times = process.default_times(num_steps)
    key_demolish, key_fan, key_prior, key_solve = jax.random.split(jax.random.key(seed), 4)
    rows = np.resize(np.random.default_rng(seed).permutation(len(points)), _DRAWS)
    notes = list(words.pop("notes", ()))
    starts = _apart(points, 4 if points.shape[1] == 1 else 3)
    scene = Scene(
        process=process, points=points, times=times, trained=model_of is not None, seed=seed,
        demolished=follow(process, points[rows], noise(process, key_demolish, points[rows]), times),
        starts=starts, fans=_fans(process, starts, times, key_fan),
        states=None, ends=None, velocity=None, log_density=None, **words,
    )  # fmt: skip
    try:
        field = (
            None if model_of else exact_field(process, points, chunk=max(1, _PAIRS // num_paths))
        )
    except TypeError as error:
        notes.append(f"no exact field, so estimates from draws: {error}")
        return dataclasses.replace(scene, notes=tuple(notes))
    x_T = _prior_states(process, key_prior, num_paths, scene.dims)
    model = model_of(num_paths) if model_of else field
    solution = solve(sampler, process, model, key_solve, x_T, times, save=True)
    states, ends = np.asarray(solution.trajectory), np.asarray(solution.x)
    finite = np.isfinite(states).all(axis=(0, 2)) & np.isfinite(ends).all(axis=1)
    if not finite.any():
        raise ValueError(f"none of {num_paths} paths stayed finite; try more steps.")
    if not finite.all():
        notes.append(f"{int((~finite).sum())} of {num_paths} paths did not stay finite")
    model = model_of(_BATCH) if model_of else field
    return dataclasses.replace(
        scene, states=states[:, finite], ends=ends[finite], notes=tuple(notes),
        velocity=functools.partial(_in_batches, _velocity, process, model),
        log_density=None if model_of else functools.partial(_in_batches, _log_density, process, field),
    )  # fmt: skip


# ---- conditional paths --------------------------------------------------------------------------


def noise(process: Process, key: Any, x_0: Points) -> Any:
    """Draw the noise z of the conditional path of every row of x_0."""
    return process.sample_noise(key, x_0.shape)


def compiled(fn: Callable[..., Any], process: Process, *args: Any) -> Any:
    """Call fn(process, *args), compiled once per function, process and shapes."""
    return (_call if is_static(process) else _called)(fn, process, *args)


def _called(fn: Callable[..., Any], process: Process, *args: Any) -> Any:
    return fn(process, *args)


_call = Programs(_called, 2)


def _follow(process: Process, x_0: Any, z: Any, times: Any) -> Any:
    rows = lambda t: process.interpolate(x_0, z, jnp.full(len(x_0), t))
    return jax.lax.map(rows, times)


def follow(process: Process, x_0: Points, z: Any, times: np.ndarray) -> States:
    """Return interpolate(x_0, z, t) at every time, (times, rows, d)."""
    start, moments = jnp.asarray(x_0, jnp.float32), jnp.asarray(times, jnp.float32)
    return np.asarray(compiled(_follow, process, start, z, moments))


def _quantiles(x: np.ndarray, count: int) -> np.ndarray:
    """Return the indices of `count` evenly spaced quantiles of many numbers, (n,)."""
    return np.argsort(x)[((np.arange(count) + 0.5) / count * len(x)).astype(int)]


def _prior_states(process: Process, key: Any, count: int, dims: int) -> Any:
    """Draw from the prior; on a line, quantiles of many draws, so that fractions of paths do not fluctuate."""
    if dims == 2:
        return process.sample_prior(key, (count, 2))
    x = process.sample_prior(key, (40 * count, 1))
    return x[_quantiles(np.asarray(x[:, 0]), count)]


def _apart(points: np.ndarray, count: int) -> np.ndarray:
    """Return up to `count` different points that are far apart."""
    distinct = np.unique(points, axis=0)
    chosen = [int(np.linalg.norm(distinct - distinct.mean(axis=0), axis=1).argmax())]
    for _ in range(min(count, len(distinct)) - 1):
        gaps = np.linalg.norm(distinct[:, None] - distinct[chosen], axis=-1).min(axis=1)
        chosen.append(int(gaps.argmax()))
    return distinct[chosen]


def _fans(process: Process, starts: np.ndarray, times: np.ndarray, key: Any) -> np.ndarray:
    """Return conditional paths from each of these points, (times, points, paths, d)."""
    fans = []
    for k, start in enumerate(starts):
        x_0 = np.tile(start, (640, 1))
        z = noise(process, jax.random.fold_in(key, k), x_0)
        pick = np.arange(10)
        if len(start) == 1:  # evenly spaced end points instead of random ones
            pick = _quantiles(follow(process, x_0, z, times[:1])[0, :, 0], 16)
        fans.append(follow(process, x_0[pick], z[pick], times))
    return np.stack(fans, axis=1)


# ---- fields on grids ----------------------------------------------------------------------------


def _velocity(process: Process, model: Any, x: Any, t: Any) -> Any:
    return process.flow(model).velocity(x, t)


def _log_density(process: Process, field: Any, x: Any, t: Any) -> Any:
    del process
    return field.log_density(x, t)


def _in_batches(fn: Callable, process: Process, model: Any, x: np.ndarray, t: float) -> np.ndarray:
    """Evaluate a function at any number of points, in batches of equal shape, so that it is compiled once."""
    x = np.asarray(x, np.float32)
    padded = np.concatenate([x, np.zeros((-len(x) % _BATCH, x.shape[1]), np.float32)])
    model, t = as_pytree(model), jnp.float32(t)
    parts = [
        np.asarray(compiled(fn, process, model, jnp.asarray(part), t))
        for part in padded.reshape(-1, _BATCH, x.shape[1])
    ]
    return np.concatenate(parts)[: len(x)]
