"""Classifiers of clean or noisy data: their losses, and log-probabilities for guidance and metrics."""

from diffusion.classifiers.classifier import (
    AtData,
    Columns,
    NetworkClassifier,
    classification_loss,
    columns_of,
)
from diffusion.classifiers.losses import ClassifierLoss

__all__ = [
    "AtData",
    "ClassifierLoss",
    "Columns",
    "NetworkClassifier",
    "classification_loss",
    "columns_of",
]
