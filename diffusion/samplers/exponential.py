"""Exponential integrators: the linear part is exact, the model is a polynomial through earlier evaluations.

With lambda = log(alpha / sigma) and e = (x - alpha x_0) / sigma, the exact step from t to s is

    x_s = sigma_s/sigma_t x_t + alpha_s integral from lambda_t to lambda_s of e^(lambda - lambda_s) x_0 d lambda
    x_s = alpha_s/alpha_t x_t - sigma_s integral from lambda_t to lambda_s of e^(lambda_s - lambda) e d lambda

With h = lambda_s - lambda_t, a constant x_0 enters with the factor alpha_s (1 - e^-h), that is alpha_s -
alpha_t sigma_s / sigma_t, which stays finite where sigma_s = 0; a constant e with sigma_s - sigma_t alpha_s /
alpha_t. Steps of infinite length, from pure noise or to clean data, use the newest evaluation alone.

References: Lu et al. 2022a, 2022b (DPM-Solver, DPM-Solver++), Zhang and Chen 2023 (DEIS).
"""

from typing import Any, NamedTuple

from jaxtyping import Array

from diffusion.numerics import NODES, WEIGHTS, require
from diffusion.samplers.levels import Levels, namespace


class Past(NamedTuple):
    """The state and earlier evaluations, newest first."""

    x: Array
    past: tuple[Array, ...]


class PastRow(NamedTuple):
    """x_s = keep x_t + sum over j of weights[j] y_j, with y_0 the newest evaluation."""

    t: Any
    keep: Any
    weights: Any  # (steps, order)
    scale: Any  # (alpha_t, sigma_t)


def linear_part(at: Levels) -> tuple[Any, Any]:
    """Return (keep, pull) of every step: x_s = keep x_t + pull x_0 for a constant x_0."""
    keep = at.sigma[1:] / at.sigma[:-1]
    return keep, at.alpha[1:] - at.alpha[:-1] * keep


def noise_part(at: Levels) -> tuple[Any, Any]:
    """Return (keep, push) of every step: x_s = keep x_t + push e for a constant e.

    Raises:
        ValueError: alpha = 0 at the start of a step, so that e contains no information on the data.
    """
    require(
        (at.alpha[:-1] > 0).all(),
        "a method that expands the noise cannot start at alpha(times[0]) = 0; start a little later, or use one that "
        "expands the data (ddim, dpm_solver_pp_2m, dpm_solver_pp_3m, unipc).",
    )
    keep = at.alpha[1:] / at.alpha[:-1]
    return keep, at.sigma[1:] - keep * at.sigma[:-1]


def places(at: Levels) -> tuple[Any, Any, Any]:
    """Return lambda at the start of every step, the length h of the step, and whether h is infinite.

    Where alpha = 0 or sigma = 0, lambda is infinite; it is replaced by a finite number to keep tables finite.
    """
    xp = namespace(at.t)
    ratio = at.log_ratio
    bound = xp.where(xp.isfinite(ratio), ratio, 0.0)
    far = xp.where(ratio < 0, bound.min() - 1e6, bound.max() + 1e6)
    finite = xp.where(xp.isfinite(ratio), ratio, far)
    endless = ~xp.isfinite(ratio[:-1]) | ~xp.isfinite(ratio[1:])
    return finite[:-1], xp.where(endless, 1.0, xp.diff(finite)), endless


def previous(values: Any, back: int) -> Any:
    """Return values[i - back] at every step i, or the first value if i < back."""
    xp = namespace(values)
    return values[xp.maximum(xp.arange(len(values)) - back, 0)]


def lagrange(nodes: list[Any], u: Any) -> list[Any]:
    """Return the basis polynomials of these nodes, each (steps, 1), at u of shape (steps, points)."""
    basis = []
    for j, node in enumerate(nodes):
        value = u * 0 + 1.0
        for k, other in enumerate(nodes):
            if k != j:
                value = value * (u - other) / (node - other)
        basis.append(value)
    return basis


def polynomial_weights(at: Levels, order: int, sign: float, clock: Any = None) -> Any:
    """Return the integrals of e^(sign (lambda - lambda_s)) L_j over every step, (steps, order).

    Gauss-Legendre quadrature in lambda, exact to round-off. Meaningless for steps of infinite length.

    Args:
        at: times and scales of the grid.
        order: number of points of the polynomial; the first steps use the fewer evaluations that exist.
        sign: 1 to expand x_0, -1 to expand e.
        clock: maps lambda to the variable of the polynomial; lambda itself by default.
    """
    xp, num_steps = namespace(at.t), len(at.t) - 1
    start, h, _ = places(at)
    tau = h[:, None] * (NODES + 1) / 2
    u, nodes = start[:, None] + tau, [previous(start, j)[:, None] for j in range(order)]
    if clock is not None:
        u, nodes = clock(u), [clock(node) for node in nodes]
    factor = h[:, None] / 2 * WEIGHTS * xp.exp(sign * (tau - h[:, None]))
    rows = []
    for known, steps in by_knowledge(order, num_steps):
        basis = lagrange([node[steps] for node in nodes[:known]], u[steps])
        row = xp.stack([(factor[steps] * b).sum(axis=-1) for b in basis], axis=-1)
        rows.append(xp.pad(row, ((0, 0), (0, order - known))))
    return xp.concatenate(rows)


def by_knowledge(order: int, num_steps: int) -> list[tuple[int, slice]]:
    """Return (number of evaluations, steps) pairs: step i has i + 1 evaluations, up to `order`."""
    most = min(order, num_steps)
    return [(k, slice(k - 1, k)) for k in range(1, most)] + [(most, slice(most - 1, num_steps))]


def padded(column: Any, width: int) -> Any:
    """Return an array (steps, width): this column, then columns of zeros."""
    return namespace(column).pad(column[:, None], ((0, 0), (0, width - 1)))


def combine(x: Array, row: PastRow, values: tuple[Array, ...]) -> Past:
    """Return the new state keep x + weights . values, and the evaluations without the oldest."""
    x_s = row.keep * x
    for j, value in enumerate(values):
        x_s = x_s + row.weights[j] * value
    return Past(x_s, values[:-1])
