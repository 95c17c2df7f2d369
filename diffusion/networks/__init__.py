"""Flax Linen networks with a pure init/apply interface; importing this package registers them."""

from diffusion.networks.base import FlaxNetwork, count_parameters, precision, takes_fields_of
from diffusion.networks.classifier import (
    MLPClassifier,
    UNetClassifier,
    mlp_classifier,
    unet_encoder,
)
from diffusion.networks.dit import DiT, dit
from diffusion.networks.embeddings import ConditionEmbedder, Embedder, noise_conditioning
from diffusion.networks.mlp import MLP, mlp
from diffusion.networks.unet import UNet, unet
from diffusion.networks.unet_config import FAMILIES, UNetConfig

__all__ = [
    "FAMILIES",
    "MLP",
    "ConditionEmbedder",
    "DiT",
    "Embedder",
    "FlaxNetwork",
    "MLPClassifier",
    "UNet",
    "UNetClassifier",
    "UNetConfig",
    "count_parameters",
    "dit",
    "mlp",
    "mlp_classifier",
    "noise_conditioning",
    "precision",
    "takes_fields_of",
    "unet",
    "unet_encoder",
]
