"""The energy distance between two sets of examples in few dimensions.

    D = 2 E|X - Y| - E|X - X'| - E|Y - Y'|

It is 0 for equal distributions and positive for all others (Szekely and Rizzo, 2013). The estimate leaves out the
pairs of an example with itself, so it is unbiased, and may be negative. Its variance is that of Hoeffding's
decomposition: what one example says alone, and what only pairs say, which is all that is left where the two
distributions agree. In many dimensions all distances are nearly equal: use features and `frechet`.
"""

from dataclasses import dataclass
from typing import NamedTuple, final

import numpy as np
from jaxtyping import Float

from diffusion.data import Dataset
from diffusion.evaluation.metrics import Metric, Results, Subject
from diffusion.numerics import require
from diffusion.registry import register

_CHUNK = 2**22  # distances held at a time


class EnergyDistance(NamedTuple):
    """An estimate of D, its standard error, and how many examples of each kind it is made of."""

    value: float
    standard_error: float
    num_x: int
    num_y: int


class _Sums(NamedTuple):
    """What a matrix of distances is needed for."""

    rows: np.ndarray
    columns: np.ndarray
    square: float


def _sums(x: np.ndarray, y: np.ndarray) -> _Sums:
    """Return the sums of |x_i - y_j| over rows, over columns, and that of their squares."""
    rows, columns, square = np.empty(len(x)), np.zeros(len(y)), 0.0
    size = max(1, _CHUNK // len(y))
    for start in range(0, len(x), size):
        part = np.zeros((len(x[start : start + size]), len(y)))
        for a, b in zip(x[start : start + size].T, y.T, strict=True):
            part += (a[:, None] - b[None]) ** 2
        square += float(part.sum())
        np.sqrt(part, out=part)
        rows[start : start + size] = part.sum(axis=1)
        columns += part.sum(axis=0)
    return _Sums(rows, columns, square)


def _within(x: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the mean distance of each example from the others, and the variance of what pairs add."""
    n, sums = len(x), _sums(x, x)
    means = sums.rows / (n - 1)
    pairs = sums.square / (n * (n - 1)) - means.mean() ** 2 - 2 * means.var()
    return means, max(0.0, pairs)


def energy_distance(
    x: Float[np.ndarray, "n *data"], y: Float[np.ndarray, "m *same"]
) -> EnergyDistance:
    """Estimate the energy distance of two distributions from independent examples of each.

    Args:
        x: (n, ...), at least 2 examples.
        y: (m, ...), at least 2 examples of the same shape.

    Returns:
        The unbiased estimate with its standard error, which is up to 1.4 times too large where the distributions
        agree: what single examples say is 0 there, and its estimate is cut off at 0.

    Raises:
        ValueError: there are too few examples, they differ in shape, or some number is not finite.
    """
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    require(
        x.shape[1:] == y.shape[1:] and min(len(x), len(y)) >= 2,
        f"both sets need at least 2 examples of one shape; got {x.shape} and {y.shape}.",
    )
    require(
        bool(np.isfinite(x).all() and np.isfinite(y).all()),
        "examples must be finite; some are NaN or infinite.",
    )
    n, m = len(x), len(y)
    x, y = x.reshape(n, -1), y.reshape(m, -1)
    (own_x, pairs_x), (own_y, pairs_y), between = _within(x), _within(y), _sums(x, y)
    to_y, to_x = between.rows / m, between.columns / n
    across = between.square / (n * m) - to_y.mean() ** 2 - to_y.var() - to_x.var()
    across = max(0.0, across)
    # the variance over single examples, less what the noise of their own averages adds to it
    alone_x = np.var(2 * (to_y - own_x), ddof=1) - 4 * across / m - 4 * pairs_x / (n - 1)
    alone_y = np.var(2 * (to_x - own_y), ddof=1) - 4 * across / n - 4 * pairs_y / (m - 1)
    pairs = 4 * across / (n * m) + 2 * pairs_x / (n * (n - 1)) + 2 * pairs_y / (m * (m - 1))
    variance = pairs + max(0.0, alone_x / n + alone_y / m)
    value = 2 * to_y.mean() - own_x.mean() - own_y.mean()
    return EnergyDistance(float(value), float(np.sqrt(variance)), n, m)


@register("metric", "energy_distance")
@final
@dataclass(frozen=True, kw_only=True)
class EnergyDistanceMetric(Metric):
    """The energy distance between generated and held-out examples, for data of few dimensions.

    Beside it stands that of training data from the held-out data: 0, but for the sampling noise.

    Args:
        num_held_out: how many held-out examples; None: as many as are generated, or all there are.
    """

    num_held_out: int | None = None

    def __call__(self, subject: Subject) -> Results:
        count = self.num_held_out or subject.num_samples
        held_out = _first(subject.held_out, count)
        generated = np.concatenate(list(subject.generate(subject.num_samples)))
        name = f"energy_distance@{len(generated)}_against_{len(held_out)}"
        results: Results = {name: energy_distance(generated, held_out)._asdict()}
        if subject.has_training_data:
            real = _first(subject.train, subject.num_samples)
            name = f"energy_distance_of_training_data@{len(real)}_against_{len(held_out)}"
            results[name] = energy_distance(real, held_out)._asdict()
        return results


def _first(dataset: Dataset, count: int) -> np.ndarray:
    size = dataset.spec.size
    return dataset.examples(0, count if size is None else min(count, size))["data"]
