"""Kernel distances: that of KID on features, and the maximum mean discrepancy in few dimensions."""

from dataclasses import dataclass, field
from typing import final

import numpy as np

from diffusion.evaluation.features import Extractor, Features, Pixels
from diffusion.evaluation.kernel import (
    KernelDistance,
    kernel_distance,
    kernel_distance_of_all,
    median_distance,
    mmd,
)
from diffusion.evaluation.metrics.base import EvalInputs, Metric, Results
from diffusion.evaluation.metrics.frechet import FID_COUNT
from diffusion.evaluation.metrics.rows import compared_sets
from diffusion.numerics import at_least
from diffusion.registry import register


def named(extractor: Extractor, count: int, all_of_them: int, against: int, of: str = "") -> str:
    """Return the name of a kernel distance: its features and the counts."""
    if extractor.name == "inception" and all_of_them == FID_COUNT and not of:
        return f"kid@{count}_against_{against}"
    return f"kernel_distance_{extractor.name}{of}@{count}_against_{against}"


@register("metric", "kid")
@final
@dataclass(frozen=True, kw_only=True)
class KernelDistanceMetric(Metric):
    """The squared maximum mean discrepancy of features with a cubic kernel: unbiased, with a 95 % interval.

    All pairs are used if the sets are small; otherwise it is the mean over subsets, which has the same expectation.
    It is called KID only for Inception features of 50,000 examples. See `diffusion.evaluation.kernel`.

    Args:
        features: features to compare.
        exact_below: use all pairs if neither set is larger than this.
        subset_size: examples of each set in a subset.
        num_subsets: approximate number of subsets.
        max_examples: largest number of examples of each set held in memory, a fixed choice if there are more.
    """

    features: Features = field(default=Pixels(), metadata={"kind": "features"})
    exact_below: int = 5000
    subset_size: int = 1000
    num_subsets: int = 100
    max_examples: int = 10_000

    def __call__(self, inputs: EvalInputs) -> Results:
        extractor = inputs.extractor(self.features)
        real, sets = compared_sets(inputs, extractor, self.max_examples)
        results: Results = {}
        for of, rows in sets.items():
            name = named(extractor, len(rows), inputs.num_samples, len(real), of)
            results[name] = self._distance(rows, real, inputs.seed)._asdict()
        return results

    def _distance(self, x: np.ndarray, y: np.ndarray, seed: int) -> KernelDistance:
        if max(len(x), len(y)) <= self.exact_below:
            return kernel_distance_of_all(x, y)
        return kernel_distance(
            x, y, subset_size=self.subset_size, num_subsets=self.num_subsets, seed=seed
        )


@register("metric", "mmd")
@final
@dataclass(frozen=True, kw_only=True)
class MMD(Metric):
    """The squared maximum mean discrepancy with a Gaussian kernel, from all pairs, with its standard error.

    For few dimensions, like `energy_distance`; the default bandwidth is the median distance of two held-out examples.

    Args:
        features: features to compare.
        bandwidth: bandwidth of the kernel; 0 for the median distance.
        max_examples: largest number of examples of each set held in memory.
    """

    features: Features = field(default=Pixels(), metadata={"kind": "features"})
    bandwidth: float = 0.0
    max_examples: int = 5000

    def __post_init__(self):
        at_least(0, bandwidth=self.bandwidth)

    def __call__(self, inputs: EvalInputs) -> Results:
        extractor = inputs.extractor(self.features)
        real, sets = compared_sets(inputs, extractor, self.max_examples)
        width = self.bandwidth or median_distance(real)
        results: Results = {}
        for of, rows in sets.items():
            name = f"mmd_{extractor.name}{of}@{len(rows)}_against_{len(real)}"
            results[name] = mmd(rows, real, width)._asdict() | {"bandwidth": width}
        return results
