"""Distances between two distributions by the mean of a function h of pairs of examples.

    D = 2 E h(X, Y) - E h(X, X') - E h(Y, Y')

With h = |x - y| it is the energy distance; with h = -k, for a kernel k, the squared maximum mean discrepancy
(Gretton et al., 2012). It is 0 for equal distributions. The estimates omit the pairs of an example with
itself, so they are unbiased and may be negative: they are never clipped at 0.

There are two estimators. `discrepancy` uses all pairs; its variance follows from Hoeffding's decomposition into terms
of single examples and terms of pairs; only the latter remain if the two distributions agree.
`kernel_distance` is the mean over subsets, for many examples, with the kernel (x.y / d + 1)^3 (Binkowski et al.,
2018: KID, if the features are Inception's).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffusion.numerics import at_least, finite, positive, require

PairFn = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (n, d), (m, d) -> (n, m)
_CHUNK = 2**22  # pairs held at a time


class Discrepancy(NamedTuple):
    """An estimate of D, its standard error, and the number of examples of each distribution."""

    value: float
    standard_error: float
    num_x: int
    num_y: int


class _Sums(NamedTuple):
    """Sums over a matrix of pairs."""

    rows: np.ndarray
    columns: np.ndarray
    square: float


def checked_pair(x: np.ndarray, y: np.ndarray, least: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Return both sets as rows of float64; raise ValueError if they cannot be compared."""
    x, y = (np.asarray(a, np.float64) for a in (x, y))
    require(
        x.shape[1:] == y.shape[1:] and min(len(x), len(y)) >= least,
        f"both sets need at least {least} examples of one shape; got {x.shape} and {y.shape}.",
    )
    finite(x=x, y=y)
    return x.reshape(len(x), -1), y.reshape(len(y), -1)


def squared_distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return |x_i - y_j|^2; in few dimensions computed per coordinate, which is more accurate."""
    if x.shape[1] <= 8:
        found = np.zeros((len(x), len(y)))
        for a, b in zip(x.T, y.T, strict=True):
            found += (a[:, None] - b[None]) ** 2
        return found
    norms = (x**2).sum(axis=1)[:, None] + (y**2).sum(axis=1)
    found = norms - 2 * (x @ y.T)
    found[found < 1e-12 * norms] = 0.0  # equal rows, whose difference is only roundoff
    return found


def _sums(x: np.ndarray, y: np.ndarray, h: PairFn, same: bool) -> _Sums:
    """Return the sums of h(x_i, y_j) over rows, over columns, and of squares; without the diagonal if same."""
    rows, columns, square = np.empty(len(x)), np.zeros(len(y)), 0.0
    size = max(1, _CHUNK // len(y))
    for start in range(0, len(x), size):
        part = h(x[start : start + size], y)
        if same:
            at = np.arange(len(part))
            part[at, at + start] = 0.0
        square += float((part**2).sum())
        rows[start : start + size] = part.sum(axis=1)
        columns += part.sum(axis=0)
    return _Sums(rows, columns, square)


def _within(x: np.ndarray, h: PairFn) -> tuple[np.ndarray, float]:
    """Return the mean of h of each example with the others, and the variance of the pair terms."""
    n, sums = len(x), _sums(x, x, h, same=True)
    means = sums.rows / (n - 1)
    pairs = sums.square / (n * (n - 1)) - means.mean() ** 2 - 2 * means.var()
    return means, max(0.0, pairs)


def discrepancy(x: np.ndarray, y: np.ndarray, h: PairFn) -> Discrepancy:
    """Estimate D from all pairs of independent examples.

    Args:
        x: (n, ...), at least 2 examples.
        y: (m, ...), at least 2 examples of the same shape.
        h: a symmetric function of pairs of rows.

    Returns:
        The unbiased estimate with its standard error, which is up to 1.4 times too large if the distributions
        agree: the variance of the terms of single examples is then 0, and its estimate is clipped at 0.

    Raises:
        ValueError: there are too few examples, their shapes differ, or a number is not finite.
    """
    x, y = checked_pair(x, y)
    n, m = len(x), len(y)
    (own_x, pairs_x), (own_y, pairs_y) = _within(x, h), _within(y, h)
    between = _sums(x, y, h, same=False)
    to_y, to_x = between.rows / m, between.columns / n
    across = between.square / (n * m) - to_y.mean() ** 2 - to_y.var() - to_x.var()
    across = max(0.0, across)
    # the variance over single examples, minus the contribution of the noise of their averages
    alone_x = np.var(2 * (to_y - own_x), ddof=1) - 4 * across / m - 4 * pairs_x / (n - 1)
    alone_y = np.var(2 * (to_x - own_y), ddof=1) - 4 * across / n - 4 * pairs_y / (m - 1)
    pairs = 4 * across / (n * m) + 2 * pairs_x / (n * (n - 1)) + 2 * pairs_y / (m * (m - 1))
    variance = pairs + max(0.0, alone_x / n + alone_y / m)
    value = 2 * to_y.mean() - own_x.mean() - own_y.mean()
    return Discrepancy(float(value), float(np.sqrt(variance)), n, m)


# ---- kernels -----------------------------------------------------------------------------------------------


def cubic_kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """k(x, y) = (x.y / d + 1)^3, the kernel of KID."""
    return (x @ y.T / x.shape[1] + 1) ** 3


def gaussian_kernel(bandwidth: float) -> PairFn:
    """Return k(x, y) = exp(-|x - y|^2 / (2 s^2)) with the bandwidth s."""
    return lambda x, y: np.exp(squared_distances(x, y) / (-2 * bandwidth**2))


def median_distance(x: Float[np.ndarray, " n *data"], limit: int = 1000) -> float:
    """Return the median distance between two different examples among the first `limit`, a common bandwidth."""
    rows = np.asarray(x[:limit], np.float64).reshape(min(len(x), limit), -1)
    upper = np.triu_indices(len(rows), 1)
    found = float(np.sqrt(np.median(squared_distances(rows, rows)[upper])))
    require(found > 0, "the median distance between these examples is 0: most of them are equal.")
    return found


def mmd(
    x: Float[np.ndarray, " n *data"], y: Float[np.ndarray, " m *same"], bandwidth: float
) -> Discrepancy:
    """Estimate the squared maximum mean discrepancy with a Gaussian kernel; see `discrepancy`."""
    positive(bandwidth=bandwidth)
    kernel = gaussian_kernel(bandwidth)
    return discrepancy(x, y, lambda a, b: -kernel(a, b))


# ---- subsets -----------------------------------------------------------------------------------------------


class KernelDistance(NamedTuple):
    """The mean over subsets, its standard error, a 95 % interval, and the size and number of the subsets."""

    value: float
    standard_error: float
    low: float
    high: float
    num_subsets: int
    subset_size: int


def unbiased_mmd(x: np.ndarray, y: np.ndarray, kernel: PairFn = cubic_kernel) -> float:
    """Return the unbiased estimate of the squared MMD from all pairs, without its error."""
    n, m = len(x), len(y)
    k_x, k_y = kernel(x, x), kernel(y, y)
    own_x = (k_x.sum() - np.trace(k_x)) / (n * (n - 1))
    own_y = (k_y.sum() - np.trace(k_y)) / (m * (m - 1))
    return float(own_x + own_y - 2 * kernel(x, y).mean())


def student_quantile(freedom: int) -> float:
    """Return the 97.5 % quantile of Student's t, to 3 % from 3 degrees of freedom on (Fisher's expansion)."""
    if freedom <= 2:
        return {1: 12.7062, 2: 4.3027}[freedom]
    z, v = 1.959964, freedom
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / v + second / v**2 + third / v**3


def kernel_distance(
    x: Float[np.ndarray, "n dim"],
    y: Float[np.ndarray, "m dim"],
    *,
    subset_size: int = 1000,
    num_subsets: int = 100,
    seed: int = 0,
    kernel: PairFn = cubic_kernel,
) -> KernelDistance:
    """Estimate the squared MMD by its mean over subsets, unbiased and never clipped at 0.

    Both sets are shuffled and divided into disjoint subsets, repeatedly until there are enough. Subsets are no
    larger than a tenth of the smaller set, so that at least ten are disjoint and therefore independent; the
    standard error is their standard deviation over the root of their number. The gain from further rounds is not
    counted, so the error is conservative: up to 3 times too large if the distributions agree.

    Args:
        x: features of one set, at least 4 rows.
        y: features of the other set.
        subset_size: largest number of rows of each set in a subset.
        num_subsets: approximate number of subsets; whole rounds of disjoint ones, or fewer than a round.
        seed: seed of the shuffling.
        kernel: kernel of rows.

    Raises:
        ValueError: there are too few rows, their sizes differ, or a number is not finite.
    """
    x, y = checked_pair(x, y, least=4)
    at_least(2, subset_size=subset_size, num_subsets=num_subsets)
    smaller = min(len(x), len(y))
    size = max(2, min(subset_size, smaller // 10))
    disjoint = min(smaller // size, num_subsets)
    rng, found = np.random.default_rng(seed), []
    for _ in range(max(1, num_subsets // disjoint)):
        order_x, order_y = rng.permutation(len(x)), rng.permutation(len(y))
        for start in range(0, disjoint * size, size):
            part = slice(start, start + size)
            found.append(unbiased_mmd(x[order_x[part]], y[order_y[part]], kernel))
    value = float(np.mean(found))
    error = float(np.std(found, ddof=1) / np.sqrt(disjoint))
    reach = student_quantile(disjoint - 1) * error
    return KernelDistance(value, error, value - reach, value + reach, len(found), size)


def kernel_distance_of_all(
    x: Float[np.ndarray, "n dim"], y: Float[np.ndarray, "m dim"], kernel: PairFn = cubic_kernel
) -> KernelDistance:
    """Estimate the squared MMD from all pairs, unbiased, with a 95 % interval: a single subset with all rows.

    Raises:
        ValueError: there are too few rows, they differ in size, or some number is not finite.
    """
    found = discrepancy(x, y, lambda a, b: -kernel(a, b))
    reach = 1.959964 * found.standard_error
    return KernelDistance(
        found.value, found.standard_error, found.value - reach, found.value + reach,
        1, min(len(x), len(y)),
    )  # fmt: skip
