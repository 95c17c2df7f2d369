"""Sliced Wasserstein distance, closed forms between fitted Gaussians, and the extrapolated Frechet distance."""

from dataclasses import dataclass, field
from typing import final

import numpy as np

from diffusion.evaluation import gaussians
from diffusion.evaluation.extrapolation import frechet_infinity
from diffusion.evaluation.features import Features, Pixels
from diffusion.evaluation.features.base import features_of
from diffusion.evaluation.frechet import Moments, Sample
from diffusion.evaluation.metrics.base import EvalInputs, Metric, Results
from diffusion.evaluation.metrics.frechet import named
from diffusion.evaluation.metrics.rows import compared_sets, generated_rows
from diffusion.evaluation.reference import statistics
from diffusion.evaluation.wasserstein import sliced_wasserstein
from diffusion.numerics import at_least
from diffusion.registry import register


@register("metric", "sliced_wasserstein")
@final
@dataclass(frozen=True, kw_only=True)
class SlicedWasserstein(Metric):
    """The sliced Wasserstein-2 distance of features, over random projections, for any number of dimensions.

    Args:
        features: features to compare.
        num_projections: number of projections onto lines.
        projection_seed: seed of the projections, the same for all runs.
        max_examples: largest number of examples of each set held in memory.
    """

    features: Features = field(default=Pixels(), metadata={"kind": "features"})
    num_projections: int = 512
    projection_seed: int = 0
    max_examples: int = 10_000

    def __call__(self, inputs: EvalInputs) -> Results:
        extractor = inputs.extractor(self.features)
        real, sets = compared_sets(inputs, extractor, self.max_examples)
        results: Results = {}
        for of, rows in sets.items():
            found = sliced_wasserstein(
                rows, real, num_projections=self.num_projections, seed=self.projection_seed
            )
            name = f"sliced_wasserstein_{extractor.name}{of}@{len(rows)}_against_{len(real)}"
            results[name] = found._asdict()
        return results


@register("metric", "gaussian")
@final
@dataclass(frozen=True, kw_only=True)
class GaussianDistances(Metric):
    """KL, Bhattacharyya and Wasserstein-2 distance between Gaussians fitted to features of both sets.

    The KL divergence is that of the generated from the held-out Gaussian, in nats. A ridge is added to both
    covariances; otherwise constant features, such as the corners of digits, would make it infinite.

    Args:
        features: features to compare.
        ridge: number added to both diagonals, in units of the mean variance of the held-out features.
    """

    features: Features = field(default=Pixels(), metadata={"kind": "features"})
    ridge: float = 1e-3

    def __post_init__(self):
        at_least(0, ridge=self.ridge)

    def __call__(self, inputs: EvalInputs) -> Results:
        extractor = inputs.extractor(self.features)
        real = statistics(inputs.held_out, extractor, count=inputs.num_samples).moments
        made = Sample.of(features_of(inputs.generated(), extractor), extractor.dim).moments
        name = named("gaussian", extractor, made.count, real.count)
        results: Results = {name: self._distances(made, real)}
        if inputs.has_training_data:
            train = statistics(inputs.train, extractor, count=inputs.num_samples).moments
            name = named("gaussian", extractor, train.count, real.count, "_of_training_data")
            results[name] = self._distances(train, real)
        return results

    def _distances(self, made: Moments, real: Moments) -> dict[str, float]:
        ridge = self.ridge * np.trace(real.covariance) / len(real.mean) * np.eye(len(real.mean))
        both = (made.mean, made.covariance + ridge, real.mean, real.covariance + ridge)
        return {
            "kl": gaussians.gaussian_kl(*both),
            "bhattacharyya": gaussians.bhattacharyya(*both),
            "wasserstein_2": gaussians.wasserstein_2(*both),
            "ridge": self.ridge,
        }


@register("metric", "frechet_infinity")
@final
@dataclass(frozen=True, kw_only=True)
class FrechetInfinity(Metric):
    """The Frechet distance extrapolated to infinitely many generated examples, with a 95 % interval.

    It needs at least five times as many examples as features. See `diffusion.evaluation.extrapolation`.

    Args:
        features: features to compare.
        max_examples: largest number of generated examples held in memory.
    """

    features: Features = field(default=Pixels(), metadata={"kind": "features"})
    max_examples: int = 50_000

    def __call__(self, inputs: EvalInputs) -> Results:
        extractor = inputs.extractor(self.features)
        real = statistics(inputs.held_out, extractor, count=inputs.num_samples).moments
        made = generated_rows(inputs, extractor, self.max_examples)
        name = named("frechet_infinity", extractor, len(made), real.count)
        return {name: frechet_infinity(made, real, seed=inputs.seed)._asdict()}
