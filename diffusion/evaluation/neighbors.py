"""Comparison of two sets by nearest neighbors: precision and recall, density and coverage, memorization.

The radius of the ball around an example is the distance to its k-th nearest neighbor in its own set, without itself.
The ball is closed (distance <= radius; some implementations use <, which differs if examples are equal).

    precision   the fraction of generated examples inside the ball of a real one          (Kynkaanniemi et al., 2019)
    recall      the fraction of real examples inside the ball of a generated one
    density     the number of real balls that hold a generated example, over k, on average  (Naeem et al., 2020)
    coverage    the fraction of real balls that hold a generated example

Distances are Euclidean, computed in blocks: memory grows with the number of examples, not with its square.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffusion.evaluation.kernel import checked_pair, squared_distances
from diffusion.numerics import at_least, require

_CHUNK = 2**21  # distances held at a time


def _chunks(count: int, width: int) -> list[slice]:
    size = max(1, _CHUNK // max(1, width))
    return [slice(i, i + size) for i in range(0, count, size)]


def squared_radii(x: Float[np.ndarray, "n dim"], k: int) -> Float[np.ndarray, " n"]:
    """Return the squared distance of each example to its k-th nearest neighbor in its own set."""
    at_least(1, k=k)
    require(len(x) > k, f"the {k}-th nearest neighbor needs more than {k} examples; got {len(x)}.")
    found = np.empty(len(x))
    for part in _chunks(len(x), len(x)):
        squares = squared_distances(x[part], x)
        own = np.arange(len(squares))
        squares[
            own, own + part.start
        ] = -1.0  # the example itself comes first, also among equal ones
        found[part] = np.partition(squares, k, axis=1)[:, k]
    return found


class Overlap(NamedTuple):
    """Overlap of two sets; the k-th nearest neighbor defines the radii."""

    precision: float
    recall: float
    density: float
    coverage: float
    k: int


def overlap(
    real: Float[np.ndarray, "n dim"], generated: Float[np.ndarray, "m dim"], k: int
) -> Overlap:
    """Return precision, recall, density and coverage of generated among real examples.

    Raises:
        ValueError: a set has no more than k examples, their sizes differ, or they are not finite.
    """
    real, generated = checked_pair(real, generated)
    of_real, of_generated = squared_radii(real, k), squared_radii(generated, k)
    inside_real, balls = np.zeros(len(generated), bool), 0
    covered, recalled = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for part in _chunks(len(generated), len(real)):
        squares = squared_distances(generated[part], real)
        inside = squares <= of_real
        inside_real[part] = inside.any(axis=1)
        balls += int(inside.sum())
        covered |= inside.any(axis=0)
        recalled |= (squares <= of_generated[part][:, None]).any(axis=0)
    return Overlap(
        float(inside_real.mean()), float(recalled.mean()), balls / (k * len(generated)),
        float(covered.mean()), k,
    )  # fmt: skip


# ---- memorization ------------------------------------------------------------------------------------------


class Nearest(NamedTuple):
    """Distances (n, k), increasing, to the nearest rows of a set that is read in batches, and their indices."""

    distances: np.ndarray
    index: np.ndarray


def nearest(
    queries: Float[np.ndarray, "n dim"], batches: Iterable[np.ndarray], k: int = 1
) -> Nearest:
    """Return the k nearest rows of all batches for each query; ties go to the first.

    Args:
        queries: rows.
        batches: batches (m, dim) of rows to search.
        k: number of neighbors.

    Raises:
        ValueError: the batches hold fewer than k rows.
    """
    best = np.full((len(queries), k), np.inf)
    index = np.full((len(queries), k), -1, np.int64)
    start = 0
    for rows in batches:
        for part in _chunks(len(queries), len(rows)):
            squares = squared_distances(queries[part], rows)
            both = np.concatenate([best[part], squares], axis=1)
            names = np.broadcast_to(np.arange(start, start + len(rows)), squares.shape)
            known = np.concatenate([index[part], names], axis=1)
            order = np.argsort(both, axis=1, kind="stable")[:, :k] if k > 1 else None
            order = both.argmin(axis=1)[:, None] if order is None else order
            best[part] = np.take_along_axis(both, order, axis=1)
            index[part] = np.take_along_axis(known, order, axis=1)
        start += len(rows)
    require(start >= k, f"the {k} nearest of {start} examples were asked for.")
    return Nearest(np.sqrt(best), index)


def chance_of_as_many(num_below: int, num_x: int, rank: int, num_y: int) -> float:
    """Return the probability that `num_below` of x are below the `rank`-th smallest of y, for equal distributions.

    It is P(B >= num_below) for the beta-binomial distribution with parameters rank and num_y - rank + 1.
    """
    a, b = rank, num_y - rank + 1

    def log_beta(p: int, q: int) -> float:
        return math.lgamma(p) + math.lgamma(q) - math.lgamma(p + q)

    total = 0.0
    for j in range(num_below, num_x + 1):
        choose = math.lgamma(num_x + 1) - math.lgamma(j + 1) - math.lgamma(num_x - j + 1)
        total += math.exp(choose + log_beta(j + a, num_x - j + b) - log_beta(a, b))
    return min(1.0, total)
