"""Evaluation: generating, measuring, picturing."""

from diffusion.evaluation.agreement import LabelAgreement
from diffusion.evaluation.classifying import AccuracyByLevel, accuracy_by_level
from diffusion.evaluation.energy import energy_distance
from diffusion.evaluation.frechet import Moments, frechet_distance, gaussian_distance
from diffusion.evaluation.generate import example_keys, generate, generate_batch, replicated, slerp
from diffusion.evaluation.held_out import bits_per_dim, loss_by_level
from diffusion.evaluation.metrics import Subject

__all__ = [
    "AccuracyByLevel",
    "LabelAgreement",
    "Moments",
    "Subject",
    "accuracy_by_level",
    "bits_per_dim",
    "energy_distance",
    "example_keys",
    "frechet_distance",
    "gaussian_distance",
    "generate",
    "generate_batch",
    "loss_by_level",
    "replicated",
    "slerp",
]
