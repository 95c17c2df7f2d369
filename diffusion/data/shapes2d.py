"""Two-dimensional toy distributions as formulas.

Each is an equal mixture of `num_components` pieces; a piece maps two uniforms (and, for the
pinwheel, two normals) to the plane, and isotropic Gaussian noise of standard deviation `noise` is
added. Mean and variance then follow by quadrature over the unit square, so that data is scaled
to exactly zero mean and unit variance in each coordinate, without estimates.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Place = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True, kw_only=True)
class Shape2D:
    """A named distribution in the plane.

    Args:
        num_components: pieces of equal probability.
        place: (component (n,), u (n, 2) in (0, 1), z (n, 2) normal) -> coordinates (n,), (n,).
        noise: default standard deviation of the added noise, before scaling.
        variance: of each coordinate without noise when `place` uses z (its mean is then 0);
            None: by quadrature.
    """

    num_components: int
    place: Place
    noise: float
    variance: float | None = None


def _moons(k: np.ndarray, u: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two half circles of radius 1; the lower one is turned and shifted by (1, 1/2)."""
    angle = np.pi * u[:, 0]
    x, y = np.cos(angle), np.sin(angle)
    return np.where(k == 0, x, 1 - x), np.where(k == 0, y, 0.5 - y)


def _swiss_roll(k: np.ndarray, u: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve a (cos a, sin a) for a in [3 pi / 2, 9 pi / 2]."""
    angle = 1.5 * np.pi * (1 + 2 * u[:, 0])
    return angle * np.cos(angle), angle * np.sin(angle)


def _eight_gaussians(k: np.ndarray, u: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eight points on a circle of radius 2."""
    return 2 * np.cos(np.pi * k / 4), 2 * np.sin(np.pi * k / 4)


def _checkerboard(k: np.ndarray, u: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The eight squares with i + j even of a 4 x 4 board on [-2, 2]^2."""
    row = k // 2
    column = 2 * (k % 2) + row % 2
    return column + u[:, 0] - 2, row + u[:, 1] - 2


def _spirals(k: np.ndarray, u: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arms +-a (-cos a, sin a), a = 3 pi sqrt(u): even along the arm away from the center."""
    angle = 3 * np.pi * np.sqrt(u[:, 0])
    sign = np.where(k == 0, angle, -angle)
    return -sign * np.cos(angle), sign * np.sin(angle)


_ARMS, _RADIAL, _TANGENTIAL, _RATE = 5, 0.3, 0.1, 0.25


def _pinwheel(k: np.ndarray, u: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Five long Gaussians (1 + 0.3 z_1, 0.1 z_2), turned by 2 pi k / 5 + exp(radius) / 4."""
    radius, across = 1 + _RADIAL * z[:, 0], _TANGENTIAL * z[:, 1]
    angle = 2 * np.pi * k / _ARMS + _RATE * np.exp(radius)
    cos, sin = np.cos(angle), np.sin(angle)
    return radius * cos - across * sin, radius * sin + across * cos


_SPIRALS = Shape2D(num_components=2, place=_spirals, noise=0.2)
SHAPES: dict[str, Shape2D] = {
    "moons": Shape2D(num_components=2, place=_moons, noise=0.1),
    "swiss_roll": Shape2D(num_components=1, place=_swiss_roll, noise=0.5),
    "8gaussians": Shape2D(num_components=8, place=_eight_gaussians, noise=0.2),
    "checkerboard": Shape2D(num_components=8, place=_checkerboard, noise=0.0),
    "spirals": _SPIRALS,
    "2spirals": _SPIRALS,  # the name in other collections
    # Turning keeps the length, and five-fold symmetry makes the covariance isotropic:
    "pinwheel": Shape2D(
        num_components=_ARMS,
        place=_pinwheel,
        noise=0.0,
        variance=(1 + _RADIAL**2 + _TANGENTIAL**2) / 2,
    ),
}


@functools.cache
def moments(kind: str, noise: float, num_nodes: int = 48) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each coordinate, float64 of shape (2,).

    Gauss-Legendre quadrature; every `place` makes the needed integrands entire functions of u (for
    the spirals, sqrt(u) occurs in even powers or cancels between the arms), so 48 nodes reach
    rounding.
    """
    shape = SHAPES[kind]
    if shape.variance is not None:
        return np.zeros(2), np.full(2, np.sqrt(shape.variance + noise**2))
    nodes, weights = np.polynomial.legendre.leggauss(num_nodes)
    nodes, weights = (nodes + 1) / 2, weights / 2
    u = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    w = np.outer(weights, weights).reshape(-1) / shape.num_components
    first, second = np.zeros(2), np.zeros(2)
    for component in range(shape.num_components):
        k = np.full(len(u), component)
        points = np.stack(shape.place(k, u, np.zeros_like(u)))
        first, second = first + points @ w, second + points**2 @ w
    return first, np.sqrt(second - first**2 + noise**2)
