"""Precision and recall, density and coverage, and the check for copies of training examples."""

from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from diffusion.evaluation import reference
from diffusion.evaluation.features import Features, Pixels
from diffusion.evaluation.features.base import features_of
from diffusion.evaluation.metrics.base import EvalInputs, Metric, Results
from diffusion.evaluation.metrics.rows import compared_sets, generated_rows, reference_rows
from diffusion.evaluation.neighbors import Nearest, chance_of_as_many, nearest, overlap
from diffusion.numerics import in_interval, require
from diffusion.registry import register


def _overlaps(
    inputs: EvalInputs, features: Features, k: int, limit: int, kinds: tuple[str, str]
) -> Results:
    extractor = inputs.extractor(features)
    real, sets = compared_sets(inputs, extractor, limit)
    results: Results = {}
    for of, rows in sets.items():
        found = overlap(real, rows, k)._asdict()
        for kind in kinds:
            name = f"{kind}_{extractor.name}_k{k}{of}@{len(rows)}_against_{len(real)}"
            results[name] = found[kind]
    return results


@register("metric", "precision_recall")
@final
@dataclass(frozen=True, kw_only=True)
class PrecisionRecall(Metric):
    """Precision and recall: fractions of generated examples among real ones, and of real ones among generated.

    Args:
        features: features whose nearest neighbors are used.
        k: the k-th neighbor defines the radii of the balls.
        max_examples: largest number of examples of each set; recall and precision depend on it.
    """

    features: Features = field(default=Pixels(), metadata={"kind": "features"})
    k: int = 3
    max_examples: int = 10_000

    def __call__(self, inputs: EvalInputs) -> Results:
        kinds = ("precision", "recall")
        return _overlaps(inputs, self.features, self.k, self.max_examples, kinds)


@register("metric", "density_coverage")
@final
@dataclass(frozen=True, kw_only=True)
class DensityCoverage(Metric):
    """Density and coverage of generated among real examples, less sensitive to outliers than precision and recall.

    Args:
        features: features whose nearest neighbors are used.
        k: the k-th neighbor defines the radii of the balls around real examples.
        max_examples: largest number of examples of each set.
    """

    features: Features = field(default=Pixels(), metadata={"kind": "features"})
    k: int = 5
    max_examples: int = 10_000

    def __call__(self, inputs: EvalInputs) -> Results:
        kinds = ("density", "coverage")
        return _overlaps(inputs, self.features, self.k, self.max_examples, kinds)


@register("metric", "memorization", renamed_from="memorisation")
@final
@dataclass(frozen=True, kw_only=True)
class Memorization(Metric):
    """Test whether generated examples are closer to training examples than held-out data is.

    The examples of a model that copies are closer to training data than new examples would be. The metric counts the
    generated examples that are closer to a training example than all but 1 % of the held-out examples are, and
    computes the probability of this count for new examples. A blurred example is close to everything:
    inspect the pairs, which are listed with their indices, closest first.

    Args:
        features: features whose distances are used.
        quantile: quantile of the held-out distances below which an example is counted.
        least_chance: probability below which the verdict is that examples are copied.
        num_pairs: number of closest pairs to list.
        max_examples: largest number of generated and of held-out examples; all training data is searched.
    """

    features: Features = field(default=Pixels(), metadata={"kind": "features"})
    quantile: float = 0.01
    least_chance: float = 1e-3
    num_pairs: int = 16
    max_examples: int = 10_000

    def __post_init__(self):
        in_interval("(0, 1)", quantile=self.quantile)

    def __call__(self, inputs: EvalInputs) -> Results:
        require(
            inputs.has_training_data,
            "memorization compares with held-out data, and this data set has none apart from the training data.",
        )
        extractor = inputs.extractor(self.features)
        made = generated_rows(inputs, extractor, self.max_examples)
        real = reference_rows(inputs, extractor, self.max_examples)
        size = inputs.train.spec.size or inputs.num_samples
        both = np.concatenate([made, real])
        found = nearest(both, features_of(reference.batches_of(inputs.train, size), extractor))
        ours = Nearest(found.distances[: len(made), 0], found.index[: len(made), 0])
        theirs = found.distances[len(made) :, 0]
        name = f"{extractor.name}@{len(made)}_against_{size}"
        index = reference.chosen(inputs.num_samples, self.max_examples)
        return {
            f"memorization_{name}": self._compared(ours.distances, theirs),
            f"nearest_pairs_{name}": self._pairs(ours, index),
        }

    def _compared(self, ours: np.ndarray, theirs: np.ndarray) -> dict[str, Any]:
        rank = max(1, int(np.ceil(self.quantile * len(theirs))))
        limit = np.sort(theirs)[rank - 1]
        below = int((ours < limit).sum())
        chance = chance_of_as_many(below, len(ours), rank, len(theirs))
        copied = chance < self.least_chance
        middle = float(np.median(theirs))
        return {
            "ratio_of_medians": float(np.median(ours)) / middle if middle else 1.0,
            "share_nearer": below / len(ours),
            "share_expected": rank / (len(theirs) + 1),
            "chance": chance,
            "exact_copies": float((ours == 0).mean()),
            "exact_copies_among_held_out": float((theirs == 0).mean()),
            "verdict": "nearer to training data than fresh examples are" if copied else "passes",
        }

    def _pairs(self, ours: Nearest, index: np.ndarray) -> list[dict[str, Any]]:
        order = np.argsort(ours.distances, kind="stable")[: self.num_pairs]
        return [
            {"distance": float(ours.distances[i]), "generated": int(index[i]), "training": int(ours.index[i])}
            for i in order
        ]  # fmt: skip


def pairs_of(results: Results) -> list[dict[str, Any]]:
    """Return the closest pairs from the results of `memorization`: distance, generated, training."""
    return next((v for k, v in results.items() if k.startswith("nearest_pairs_")), [])
