"""Digits of 8x8 pixels as rows of 64 numbers: the nine combinations with a perceptron, narrow and wide."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import build, solve
from diffusion.evaluation.frechet import Moments, frechet_distance
from experiments.predictions.training import PROCESS, Budget, Trainer

DRAWN, STEPS = 1000, 32


def images(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of pixels, and labels."""
    dataset: Any = build("dataset", dict(name="digits", split=split))
    batch = dataset.examples(0, dataset.spec.size)
    return batch["data"].reshape(len(batch["data"]), -1), batch["cond"]["label"]


def moments(x: np.ndarray) -> Moments:
    """Return the moments of rows."""
    return Moments.empty(x.shape[1]).add(x)


@dataclass(frozen=True)
class Digits:
    """A perceptron of one width."""

    width: int
    budget: Budget

    def trainer(self) -> Trainer:
        """Return the network on its data."""
        network = build("network", dict(name="mlp", width=self.width, depth=3, num_classes=10))
        pool, labels = images("train")
        return Trainer(network=network, pool=pool, labels=labels, budget=self.budget)

    def measure(self, trainer: Trainer, output: str, of_loss: str, seed: int) -> dict[str, float]:
        """Train one combination; return the Frechet distance of its examples on pixels."""
        params, loss = trainer.train(output, of_loss, seed)
        model = trainer.denoiser(params, output, {"label": jnp.arange(DRAWN) % 10})
        x = PROCESS.sample_prior(jax.random.key(100 + seed), (DRAWN, 64))
        sampler, grid = build("sampler", "heun"), build("grid", "uniform")
        x = np.asarray(solve(sampler, PROCESS, model, None, x, grid(PROCESS, STEPS)).x)
        lost = np.asarray(~np.isfinite(x).all(axis=1))
        shown = np.clip(np.where(lost[:, None], 0, x), -1, 1)
        distance = frechet_distance(moments(shown), moments(images("test")[0]))
        return dict(loss=loss, frechet=distance, lost=float(lost.mean()))

    def sheet(self, trainer: Trainer, output: str, of_loss: str, seed: int) -> np.ndarray:
        """Return ten generated digits, trained anew."""
        params, _ = trainer.train(output, of_loss, seed)
        x = PROCESS.sample_prior(jax.random.key(100 + seed), (DRAWN, 64))[:10]
        model = trainer.denoiser(params, output, {"label": jnp.arange(10)})
        grid = build("grid", "uniform")
        return np.asarray(
            solve(build("sampler", "heun"), PROCESS, model, None, x, grid(PROCESS, STEPS)).x
        )


def of_training_images() -> float:
    """Return the Frechet distance of training from held-out images."""
    return frechet_distance(moments(images("train")[0]), moments(images("test")[0]))
