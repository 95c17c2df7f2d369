"""Metrics by name: what a trained model is measured with.

A metric takes a `Subject`, the model with its data, and returns numbers whose names say what they are
made of: the features and the counts are part of the name, since a Frechet distance of 1,000 samples on
pixels is not one of 50,000 on Inception features.
"""

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from diffusion.classification import NetworkClassifier
from diffusion.data import Dataset
from diffusion.evaluation.frechet import Moments, frechet_distance
from diffusion.evaluation.held_out import bits_per_dim, loss_by_level
from diffusion.numerics import require
from diffusion.processes import AffineProcess, Process
from diffusion.processes.base import require_rung
from diffusion.registry import register
from diffusion.types import Cond

Results = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is measured.

    Args:
        process: the process of the model.
        model_of: from a condition to the model without guidance.
        classifier: (x_t, t) -> log-probabilities, if that is what was trained; nothing is generated then.
        generate: from a count, and perhaps the index of the first, to batches of generated examples, guided as
            the config says.
        train: the data that it was trained on.
        held_out: data of the same kind that it was not trained on.
        num_samples: generated examples for metrics of samples.
        batch_size: examples per call.
        seed: of all random numbers.
    """

    process: Process
    model_of: Callable[[Cond], Any]
    generate: Callable[..., Iterator[np.ndarray]]
    train: Dataset
    held_out: Dataset
    num_samples: int = 1000
    batch_size: int = 100
    seed: int = 0
    classifier: NetworkClassifier | None = None


@dataclass(frozen=True, kw_only=True)
class Metric(abc.ABC):
    """A measurement."""

    @abc.abstractmethod
    def __call__(self, subject: Subject) -> Results:
        """Return numbers by name."""


@register("metric", "loss_by_level")
@final
@dataclass(frozen=True, kw_only=True)
class LossByLevel(Metric):
    """E|x_0 - E[x_0 | x_t]|^2 per dimension on held-out data, at levels evenly spaced in log-SNR."""

    num_levels: int = 9
    num_examples: int = 500

    def __call__(self, subject: Subject) -> Results:
        require_rung(subject.process, AffineProcess, "the metric loss_by_level")
        assert isinstance(subject.process, AffineProcess)
        levels = loss_by_level(
            subject.process, subject.model_of, subject.held_out, num_examples=self.num_examples,
            batch_size=subject.batch_size, num_levels=self.num_levels, seed=subject.seed,
        )  # fmt: skip
        return {f"denoising_error@{levels[0].count}": [level._asdict() for level in levels]}


@register("metric", "bits_per_dim")
@final
@dataclass(frozen=True, kw_only=True)
class BitsPerDim(Metric):
    """Bits per dimension of held-out examples through the probability-flow ODE, with standard error."""

    num_examples: int = 100
    num_steps: int = 64
    num_probes: int = 4

    def __call__(self, subject: Subject) -> Results:
        bits = bits_per_dim(
            subject.process, subject.model_of, subject.held_out, num_examples=self.num_examples,
            batch_size=min(subject.batch_size, 50), num_steps=self.num_steps, num_probes=self.num_probes,
            seed=subject.seed,
        )  # fmt: skip
        return {f"bits_per_dim@{bits.count}": bits._asdict()}


def moments_of(batches: Iterator[np.ndarray], dim: int) -> Moments:
    """Return the moments of examples as they are, batch by batch."""
    moments = Moments.empty(dim)
    for x in batches:
        moments = moments.add(x.reshape(len(x), -1))
    return moments


def _ordered(dataset: Dataset, count: int, batch_size: int) -> Iterator[np.ndarray]:
    for start in range(0, count, batch_size):
        yield dataset.examples(start, min(batch_size, count - start))["data"]


@register("metric", "frechet")
@final
@dataclass(frozen=True, kw_only=True)
class FrechetPixels(Metric):
    """The Frechet distance on raw pixels between generated and held-out examples.

    Beside it stands the distance of the training data from the held-out data, which no model of the
    training data can be expected to undercut by much.
    """

    def __call__(self, subject: Subject) -> Results:
        dim = int(np.prod(subject.held_out.spec.shape))
        count = subject.held_out.spec.size or subject.num_samples
        require(
            min(count, subject.num_samples) > 1,
            f"a Frechet distance needs at least 2 examples on both sides; got {subject.num_samples} and "
            f"{count}.",
        )
        reference = moments_of(_ordered(subject.held_out, count, subject.batch_size), dim)
        generated = moments_of(subject.generate(subject.num_samples), dim)
        size = subject.train.spec.size or subject.num_samples
        real = moments_of(_ordered(subject.train, size, 1000), dim)
        name = f"frechet_pixels@{generated.count}_against_{count}"
        results: Results = {name: frechet_distance(generated, reference)}
        results[f"frechet_pixels_of_training_data@{size}_against_{count}"] = frechet_distance(
            real, reference
        )
        if min(generated.count, count) <= dim:
            results["caveat"] = (
                f"fewer examples than features ({dim}): the distance is biased upwards"
            )
        return results
