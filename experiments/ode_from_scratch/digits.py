"""Handwritten digits: every recipe that makes sense for images, trained alike and measured alike.

The config `digits`, class-conditional, without guidance; Heun with 32 steps for all. The Frechet distance is taken on
pixels, between 1,000 examples and the 359 held-out images.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.config.experiment import Experiment
from diffusion.evaluation import LabelAgreement
from diffusion.evaluation.metrics import EvalInputs, Frechet
from experiments.ode_from_scratch import store
from experiments.ode_from_scratch.recipes import DIGITS, Recipe
from experiments.ode_from_scratch.training import experiment_of, samples, trained

NUM_STEPS, NUM_SAMPLES, SHOWN = 2000, 1000, 16

Say = Callable[[str], None]


def _experiment(recipe: Recipe) -> Experiment:
    changes = dict(
        train=dict(num_steps=NUM_STEPS, sample_every=0),
        sampler=dict(name="heun"),
        grid=dict(name="uniform_log_snr", num_steps=32),
    )
    return experiment_of("digits", recipe, changes)


def _subject(experiment: Experiment, x: np.ndarray) -> EvalInputs:
    """Return examples that have been drawn, as what metrics take."""

    def generated(count: int) -> Iterator[np.ndarray]:
        yield x[:count]

    return EvalInputs(
        process=experiment.process,
        model_of=lambda cond: None,
        generate=generated,
        train=experiment.dataset,
        held_out=experiment.held_out(),
        num_samples=len(x),
    )


def _numbers(experiment: Experiment, x: np.ndarray) -> dict[str, float]:
    lost = np.asarray(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
    subject = _subject(experiment, np.where(lost[:, None, None, None], 0, x))
    frechet, of_training = list(Frechet()(subject).values())[:2]
    agreement, judge = LabelAgreement()(subject).values()
    return dict(
        frechet=frechet, agreement=agreement, lost=float(lost.mean()),
        frechet_of_training_data=of_training, accuracy_of_the_judge=judge,
    )  # fmt: skip


def measure(name: str, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Train one recipe and measure its examples."""
    experiment = _experiment(recipe)
    params, record = trained(experiment)
    x = samples(
        experiment, lambda cond: experiment.model(params, cond), NUM_SAMPLES, batch_size=250
    )
    store.keep_examples(folder, "digits", name, x=x[:SHOWN])
    return record | _numbers(experiment, x)


def run(folder: Path, say: Say) -> None:
    """Measure whatever is missing."""
    store.keep_examples(folder, "digits", "data", x=real_digits())
    for name, recipe in DIGITS.items():
        if store.get("digits", "recipes", name) is None:
            record = measure(name, recipe, folder)
            store.keep("digits", "recipes", name, record=record)
            say(f"digits, {name}: {record}")


def real_digits() -> np.ndarray:
    """Return one training image of each class in turn, as generated examples come."""
    dataset = _experiment(DIGITS["vp"]).dataset
    batch = dataset.examples(0, 400)
    of_class = [iter(np.flatnonzero(batch["cond"]["label"] == k)) for k in range(10)]
    chosen = [next(of_class[i % 10]) for i in range(SHOWN)]
    return batch["data"][chosen]
