"""Features by name: representations of examples, in which metrics compare them.

    features = diffusion.build("features", "classifier")
    extractor = features.open_for(dataset)   # trains or loads weights, if the features need any
    extractor(x)                             # (n, ...) floats in [-1, 1] -> (n, dim) float64

The name of the extractor is part of the name of every number computed with it, and its digest is on the card of
the number: numbers of different features are not comparable.
"""

from diffusion.evaluation.features.base import Extractor, Features
from diffusion.evaluation.features.classifier import Classifier
from diffusion.evaluation.features.dinov2 import DINOv2Features
from diffusion.evaluation.features.inception import Inception
from diffusion.evaluation.features.pixels import Pixels, PixelsExtractor
from diffusion.evaluation.features.random_conv import RandomConv

__all__ = [
    "Classifier",
    "DINOv2Features",
    "Extractor",
    "Features",
    "Inception",
    "Pixels",
    "PixelsExtractor",
    "RandomConv",
]
