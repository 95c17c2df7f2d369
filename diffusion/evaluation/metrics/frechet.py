"""The Frechet distance of generated from held-out examples, on features by name."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, final

import numpy as np

from diffusion.evaluation.features import Extractor, Features, Pixels
from diffusion.evaluation.features.base import features_of
from diffusion.evaluation.frechet import Moments, Sample, frechet_of_samples
from diffusion.evaluation.metrics.base import EvalInputs, Metric, Results
from diffusion.evaluation.reference import Statistics, chosen, statistics
from diffusion.registry import register

# the names "fid" and "sfid" are used only for this many examples and Inception features
FID_COUNT = 50_000


def moments_of(batches: Iterator[np.ndarray], dim: int) -> Moments:
    """Return the moments of examples without a feature extractor, batch by batch."""
    moments = Moments.empty(dim)
    for x in batches:
        moments = moments.add(x.reshape(len(x), -1))
    return moments


def sample_of(found: Statistics) -> Sample:
    """Return stored statistics as a `Sample`; with rows only if all of them are stored and they are few."""
    few = found.count == len(found.rows) <= found.rows.shape[1]
    return Sample(found.moments, [found.rows] if few else None)


def as_many(found: Statistics, count: int) -> Sample:
    """Return a fixed choice of `count` examples, for the bias of this sample size; all if there are no more.

    All examples are also used if fewer than `count` features are stored.
    """
    if count >= found.count or count > len(found.rows):
        return sample_of(found)
    rows = found.rows[chosen(len(found.rows), count)]
    return Sample.of([rows], rows.shape[1])


def named(kind: str, extractor: Extractor, count: int, against: int, of: str = "") -> str:
    """Return the name of a distance: its features, `rank_deficient` if they outnumber the examples, and the counts."""
    if kind == "frechet" and extractor.name == "inception" and count == FID_COUNT and not of:
        return f"fid@{count}_against_{against}"
    deficient = "_rank_deficient" if min(count, against) <= extractor.dim else ""
    return f"{kind}_{extractor.name}{deficient}{of}@{count}_against_{against}"


@register("metric", "frechet")
@final
@dataclass(frozen=True, kw_only=True)
class Frechet(Metric):
    """The Frechet distance between features of generated and of held-out examples.

    The distance of as many training examples from the held-out data is reported with it; no model of the training
    data can be expected to have a much smaller distance. If there are no more examples than features, the name
    contains `rank_deficient`: the covariances are singular, and the distance is biased upward.

    Args:
        features: features to compare.
    """

    version: ClassVar[int] = 2  # version 1: without rounding to 8 bits
    features: Features = field(default=Pixels(), metadata={"kind": "features"})

    def __call__(self, inputs: EvalInputs) -> Results:
        extractor = inputs.extractor(self.features)
        held_out = sample_of(statistics(inputs.held_out, extractor, count=inputs.num_samples))
        generated = Sample.of(features_of(inputs.generated(), extractor), extractor.dim)
        name = named("frechet", extractor, generated.count, held_out.count)
        results: Results = {name: frechet_of_samples(generated, held_out)}
        if inputs.has_training_data:
            found = statistics(inputs.train, extractor, count=inputs.num_samples)
            train = as_many(found, generated.count)
            name = named("frechet", extractor, train.count, held_out.count, of="_of_training_data")
            results[name] = frechet_of_samples(train, held_out)
        return results
