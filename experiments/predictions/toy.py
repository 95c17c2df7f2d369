"""Points of a plane, laid into D dimensions by a random isometry: what JiT's toy shows, with oracles.

The exact denoiser is that of the points in the plane: what a noisy point has outside of the plane is all noise. A
network whose hidden state has W < D numbers cannot pass that noise on. For the best linear map of rank W the
price is known: each direction outside of the plane carries variance b^2 of the target a x_0 + b z, and D - W of
them are lost. Data as the target has b = 0 and loses nothing as long as W is at least 2.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import build, solve
from diffusion.evaluation.energy import energy_distance
from diffusion.models.exact_field import exact_field
from experiments.predictions.training import OUTPUTS, PROCESS, Budget, Trainer

POINTS, DRAWN, STEPS = 8192, 2048, 50
LEVELS = (0.3, 0.5, 0.7)


def plane_points(count: int, split: str = "train") -> np.ndarray:
    """Return points of a Swiss roll, of unit variance per coordinate."""
    dataset: Any = build(
        "dataset", dict(name="points2d", kind="swiss_roll", split=split, noise=0.25)
    )
    return dataset.examples(0, count)["data"]


def isometry(dim: int) -> np.ndarray:
    """Return an orthonormal basis of a plane in `dim` dimensions, (dim, 2)."""
    return np.linalg.qr(np.random.default_rng(0).normal(size=(dim, 2)))[0]


def linear_floor(output: str, dim: int, width: int, t: float) -> float:
    """Return the least excess of E|x_0 - x_0_hat|^2 for linear maps of rank `width` without bias.

    The data is N(0, P) with P the projection on the plane. E[target | x_t] has variance
    (a alpha + b sigma)^2 / (alpha^2 + sigma^2) along the plane and b^2 across it; the best
    map keeps the `width` largest.
    """
    alpha, sigma = 1 - t, t
    a, b, out = {
        "data": (1.0, 0.0, 1.0),
        "noise": (0.0, 1.0, sigma / alpha),
        "velocity": (-1.0, 1.0, sigma),
    }[output]
    along = (a * alpha + b * sigma) ** 2 / (alpha**2 + sigma**2)
    kept = np.sort([along, along, *[b**2] * (dim - 2)])
    return float(out**2 * kept[: max(0, dim - width)].sum())


@dataclass(frozen=True)
class Toy:
    """The plane in `dim` dimensions, and a network of `width`."""

    dim: int
    width: int
    budget: Budget

    def trainer(self) -> Trainer:
        """Return the network on its data."""
        network = build("network", dict(name="mlp", width=self.width, depth=3))
        pool = plane_points(POINTS) @ isometry(self.dim).T
        return Trainer(network=network, pool=pool, labels=None, budget=self.budget)

    def measure(self, trainer: Trainer, output: str, of_loss: str, seed: int) -> dict[str, Any]:
        """Train one combination; return its errors."""
        params, loss = trainer.train(output, of_loss, seed)
        model = trainer.denoiser(params, output)
        return dict(loss=loss, **self._drawn(model, seed), excess=self._excess(model))

    def _drawn(self, model: Any, seed: int) -> dict[str, float]:
        """Return the energy distance of generated points, and how far they lie off the plane.

        A point is taken as its two coordinates in the plane and its distance from the plane.
        """
        key = jax.random.key(100 + seed)
        x = PROCESS.sample_prior(key, (DRAWN, self.dim))
        sampler, grid = build("sampler", "heun"), build("grid", "uniform")
        x = np.asarray(solve(sampler, PROCESS, model, None, x, grid(PROCESS, STEPS)).x, np.float64)
        lost = np.asarray(~np.isfinite(x).all(axis=1) | (np.abs(x) > 1e6).any(axis=1))
        x = np.where(lost[:, None], 0, x)
        basis = isometry(self.dim)
        inside = x @ basis
        off = np.linalg.norm(x - inside @ basis.T, axis=1)
        real = plane_points(DRAWN, "test")
        found = energy_distance(
            np.column_stack([inside, off]), np.column_stack([real, np.zeros(DRAWN)])
        )
        flat = energy_distance(inside, real)
        return dict(
            energy=found.value, error=found.standard_error, energy_in_plane=flat.value,
            off=float(np.sqrt((off**2).mean())), lost=float(lost.mean()),
        )  # fmt: skip

    def _excess(self, model: Any) -> dict[str, float]:
        """Return E|x_0 - x_0_hat|^2 less that of the exact denoiser, by level."""
        basis = jnp.asarray(isometry(self.dim), jnp.float32)
        flat = jnp.asarray(plane_points(DRAWN, "test"))
        exact = exact_field(PROCESS, plane_points(POINTS))
        z = jax.random.normal(jax.random.key(7), (DRAWN, self.dim))
        found = {}
        for t in LEVELS:
            x_t = (1 - t) * flat @ basis.T + t * z
            best = exact(x_t @ basis, jnp.full(DRAWN, t)) @ basis.T
            found[f"{t:g}"] = float(((model(x_t, t) - best) ** 2).sum(axis=1).mean())
        return found


def of_real_points() -> dict[str, float]:
    """Return the energy distance of training points from fresh ones: what is left for a perfect model."""
    found = energy_distance(plane_points(DRAWN), plane_points(DRAWN, "test"))
    return dict(energy=found.value, error=found.standard_error)


def floors(dim: int, width: int) -> dict[str, dict[str, float]]:
    """Return the linear floors by output and level."""
    return {
        output: {f"{t:g}": linear_floor(output, dim, width, t) for t in LEVELS}
        for output in OUTPUTS
    }


def combinations(outputs: Sequence[str] = OUTPUTS) -> list[tuple[str, str]]:
    """Return pairs of what the network gives and what the loss compares."""
    return [(output, of_loss) for output in outputs for of_loss in OUTPUTS]
