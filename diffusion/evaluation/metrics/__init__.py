"""Metrics by name, for trained models and for sets of examples."""

from diffusion.evaluation.metrics.base import (
    EvalInputs,
    Metric,
    Results,
    numbers_of,
    parse,
    parse_list,
    written,
)
from diffusion.evaluation.metrics.distances import (
    FrechetInfinity,
    GaussianDistances,
    SlicedWasserstein,
)
from diffusion.evaluation.metrics.frechet import Frechet, moments_of
from diffusion.evaluation.metrics.kernel import MMD, KernelDistanceMetric
from diffusion.evaluation.metrics.model import BitsPerDim, LossByLevel
from diffusion.evaluation.metrics.neighbors import (
    DensityCoverage,
    Memorization,
    PrecisionRecall,
    pairs_of,
)
from diffusion.evaluation.metrics.scores import ClassScoreMetric

__all__ = [
    "MMD",
    "BitsPerDim",
    "ClassScoreMetric",
    "DensityCoverage",
    "EvalInputs",
    "Frechet",
    "FrechetInfinity",
    "GaussianDistances",
    "KernelDistanceMetric",
    "LossByLevel",
    "Memorization",
    "Metric",
    "PrecisionRecall",
    "Results",
    "SlicedWasserstein",
    "moments_of",
    "numbers_of",
    "pairs_of",
    "parse",
    "parse_list",
    "written",
]
