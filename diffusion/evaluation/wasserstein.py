"""The exact Wasserstein-2 distance of examples in one dimension, and its mean over projections in more (sliced).

    W_2^2 = int_0^1 (F^-1(u) - G^-1(u))^2 du,    SW_2^2 = E_theta W_2^2(theta.X, theta.Y),  |theta| = 1

(Rabin et al., 2012). A shift by delta in d dimensions has SW_2^2 = |delta|^2 / d.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffusion.evaluation.kernel import checked_pair
from diffusion.numerics import at_least


class SlicedDistance(NamedTuple):
    """SW_2, its standard error over the projections, and their number."""

    value: float
    standard_error: float
    num_projections: int


def squared_on_lines(
    x: Float[np.ndarray, "n lines"], y: Float[np.ndarray, "m lines"]
) -> Float[np.ndarray, " lines"]:
    """Return W_2^2 of the columns of x and y, which may have different lengths."""
    x, y = np.sort(x, axis=0), np.sort(y, axis=0)
    n, m = len(x), len(y)
    if n == m:
        return ((x - y) ** 2).mean(axis=0)
    # the quantile functions are constant between the multiples of 1/n and of 1/m; in units of 1/(n m)
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    lengths = np.diff(ends, prepend=0)
    at_x, at_y = (ends - 1) // m, (ends - 1) // n
    return lengths @ (x[at_x] - y[at_y]) ** 2 / (n * m)


def sliced_wasserstein(
    x: Float[np.ndarray, " n *data"],
    y: Float[np.ndarray, " m *same"],
    *,
    num_projections: int = 512,
    seed: int = 0,
) -> SlicedDistance:
    """Estimate SW_2 of two sets over random projections; in one dimension it is exact.

    It is a distance of the two sets, and therefore biased upward as a distance of their distributions: two samples of
    one distribution have a positive distance.

    Args:
        x: (n, ...), at least 2 examples.
        y: (m, ...), at least 2 examples of the same shape.
        num_projections: number of projections.
        seed: seed of the projections.

    Raises:
        ValueError: there are too few examples, their shapes differ, or a number is not finite.
    """
    x, y = checked_pair(x, y)
    at_least(2, num_projections=num_projections)
    dim = x.shape[1]
    if dim == 1:
        return SlicedDistance(float(np.sqrt(squared_on_lines(x, y)[0])), 0.0, 1)
    lines = np.random.default_rng(seed).standard_normal((dim, num_projections))
    lines /= np.linalg.norm(lines, axis=0)
    size = max(1, 2**21 // (len(x) + len(y)))
    parts = [lines[:, i : i + size] for i in range(0, num_projections, size)]
    squares = np.concatenate([squared_on_lines(x @ part, y @ part) for part in parts])
    value = float(np.sqrt(squares.mean()))
    error = float(squares.std(ddof=1) / np.sqrt(num_projections))
    return SlicedDistance(value, error / (2 * value) if value else 0.0, num_projections)
