"""Metrics by name: what a trained model, or a set of examples, is measured with."""

from diffusion.evaluation.metrics.base import Metric, Results, Subject, parse, parse_list, written
from diffusion.evaluation.metrics.frechet import Frechet, FrechetPixels, moments_of
from diffusion.evaluation.metrics.model import BitsPerDim, LossByLevel

__all__ = [
    "BitsPerDim",
    "Frechet",
    "FrechetPixels",
    "LossByLevel",
    "Metric",
    "Results",
    "Subject",
    "moments_of",
    "parse",
    "parse_list",
    "written",
]
