"""Evaluation: generation of examples, metrics, pictures and reports."""

from diffusion.evaluation.agreement import LabelAgreement
from diffusion.evaluation.classifying import AccuracyByLevel, accuracy_by_level
from diffusion.evaluation.energy import energy_distance
from diffusion.evaluation.extrapolation import frechet_infinity
from diffusion.evaluation.features import Extractor, Features
from diffusion.evaluation.frechet import Moments, frechet_distance, gaussian_distance
from diffusion.evaluation.gaussians import bhattacharyya, gaussian_kl, wasserstein_2
from diffusion.evaluation.generate import example_keys, generate, generate_batch, replicated
from diffusion.evaluation.held_out import bits_per_dim, loss_by_level
from diffusion.evaluation.kernel import kernel_distance, mmd
from diffusion.evaluation.metrics import EvalInputs, Metric
from diffusion.evaluation.neighbors import overlap
from diffusion.evaluation.reference import Statistics, statistics
from diffusion.evaluation.wasserstein import sliced_wasserstein

__all__ = [
    "AccuracyByLevel",
    "EvalInputs",
    "Extractor",
    "Features",
    "LabelAgreement",
    "Metric",
    "Moments",
    "Statistics",
    "accuracy_by_level",
    "bhattacharyya",
    "bits_per_dim",
    "energy_distance",
    "example_keys",
    "frechet_distance",
    "frechet_infinity",
    "gaussian_distance",
    "gaussian_kl",
    "generate",
    "generate_batch",
    "kernel_distance",
    "loss_by_level",
    "mmd",
    "overlap",
    "replicated",
    "sliced_wasserstein",
    "statistics",
    "wasserstein_2",
]
