"""The Frechet distance for infinitely many generated examples, from finitely many.

At N examples, the distance is too large by about c / N, where c depends on the model. A
line in 1 / N through the distances of all examples, of halves and of quarters gives the value at 1 / N = 0 (after
Chong and Forsyth, 2020). The bias from the finite reference remains.

The standard error is that of the delete-a-group jackknife: the examples are divided into ten groups, and the fit is
repeated without each group. A bootstrap would repeat examples, which changes the very bias that is fitted.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from diffusion.evaluation.frechet import Moments, factor_of
from diffusion.evaluation.kernel import student_quantile
from diffusion.numerics import at_least

_GROUPS = 10
_PARTS = (1, 2, 4)


class Extrapolated(NamedTuple):
    """The value at 1 / N = 0, its standard error, a 95 % interval, and c, the slope in 1 / N."""

    value: float
    standard_error: float
    low: float
    high: float
    slope: float


def frechet_infinity(
    rows: Float[np.ndarray, "n dim"], reference: Moments, *, seed: int = 0
) -> Extrapolated:
    """Extrapolate the Frechet distance from a reference to infinitely many examples.

    Args:
        rows: features of independent examples.
        reference: moments of the reference features.
        seed: seed of the division into groups and parts.

    Raises:
        ValueError: a quarter of the examples, less a tenth, does not exceed the number of features; the bias then
            does not have the form c / N.
    """
    n, dim = rows.shape
    needed = int(np.ceil(4 * (dim + 1) / (1 - 1 / _GROUPS))) + _GROUPS
    at_least(
        needed, examples=n, of=f"extrapolation over {dim} features", hint="kid has no such bias."
    )
    factor = factor_of(reference.covariance)
    spread = float(np.trace(reference.covariance))

    def distance(x: np.ndarray) -> float:
        cov, shift = np.cov(x.T).reshape(dim, dim), x.mean(axis=0) - reference.mean
        values = np.linalg.eigvalsh(factor @ cov @ factor.T)
        cross = np.sqrt(np.maximum(values, 0)).sum()
        return float(shift @ shift + np.trace(cov) + spread - 2 * cross)

    def fitted(x: np.ndarray) -> np.ndarray:
        """Return the slope and the intercept of the line."""
        means = [np.mean([distance(p) for p in np.array_split(x, k)]) for k in _PARTS]
        return np.polyfit([k / len(x) for k in _PARTS], means, 1)

    x = np.asarray(rows, np.float64)[np.random.default_rng(seed).permutation(n)]
    slope, value = fitted(x)
    group = np.arange(n) % _GROUPS
    without = np.array([fitted(x[group != g])[1] for g in range(_GROUPS)])
    error = float(np.sqrt((_GROUPS - 1) / _GROUPS * ((without - without.mean()) ** 2).sum()))
    reach = student_quantile(_GROUPS - 1) * error
    return Extrapolated(
        float(value), error, float(value) - reach, float(value) + reach, float(slope)
    )
