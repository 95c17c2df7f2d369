"""Digits by a trained network: lambda against steps, and what the process does to bits per dimension.

The network sees an input of unit variance and the log-SNR, so that one network serves every Gaussian process.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion.evaluation.frechet import Moments, frechet_distance
from diffusion.evaluation.held_out import bits_per_dim
from experiments._common import trained
from experiments.sde_and_ode.family import Draw, Recast, process_of

# how each process is trained as its authors do: (path, value) of the config
RECIPES: dict[str, list[tuple[str, Any]]] = {
    "vp": [],
    "rectified_flow": [("process.name", "rectified_flow"), ("prediction.name", "velocity")],
    "edm": [
        ("process.name", "edm"),
        ("prediction.name", "edm"), ("prediction.sigma_data", 0.7),
        ("weight.name", "edm"), ("weight.sigma_data", 0.7),
        ("time.name", "log_normal"),
    ],
}  # fmt: skip


def rows(x: np.ndarray) -> np.ndarray:
    """Return examples as rows in the range of pixels."""
    return np.clip(np.nan_to_num(x), -1, 1).reshape(len(x), -1)


def moments(x: np.ndarray) -> Moments:
    """Return the moments of examples."""
    return Moments.empty(x[0].size).add(rows(x))


class Digits:
    """A trained network with its data."""

    def __init__(self, models: Path, recipe: str = "vp"):
        self.run = trained(models / f"digits_{recipe}", "digits", RECIPES[recipe])
        self.experiment = self.run.experiment
        held_out = self.experiment.held_out()
        self.real = moments(held_out.examples(0, held_out.spec.size)["data"])
        self.draws: dict[tuple[str, int, int], Draw] = {}

    def model_of(self, name: str) -> Callable[[Any], Any]:
        """Return the model under a process, by condition."""
        own, other = self.experiment.process, process_of(name)
        base = lambda cond: self.experiment.base_model(self.run.params, cond)
        if own == other:
            return base
        return lambda cond: Recast(inner=base(cond), own=own, other=other)

    def frechet(self, name: str, lam: float, num_steps: int, count: int, seed: int = 0) -> float:
        """Return the Frechet distance on pixels of examples, classes in turn, to the held-out images."""
        x = self.drawn(name, lam, num_steps, count, seed)
        return frechet_distance(moments(x), self.real)

    def drawn(self, name: str, lam: float, num_steps: int, count: int, seed: int = 0) -> np.ndarray:
        """Return examples, classes in turn, from the same noise for every lambda."""
        shape = (count, *self.experiment.spec.shape)
        if (name, count, seed) not in self.draws:
            self.draws[name, count, seed] = Draw(process_of(name), shape, seed)
        cond = self.experiment.conditions(np.arange(count) % 10, count)
        return self.draws[name, count, seed](self.model_of(name)(cond), jnp.float32(lam), num_steps)

    def bits(self, name: str, num_steps: int, count: int) -> dict[str, Any]:
        """Return bits per dimension of held-out images under a process."""
        found = bits_per_dim(
            process_of(name), self.model_of(name), self.experiment.held_out(), num_examples=count,
            num_steps=num_steps, exact_below=0, num_probes=4,
        )  # fmt: skip
        return dict(bits=found.bits_per_dim, error=found.standard_error, count=found.count)

    def of_training_images(self) -> float:
        """Return the distance of the training images from the held-out ones."""
        data = self.experiment.dataset
        return frechet_distance(moments(data.examples(0, data.spec.size)["data"]), self.real)
