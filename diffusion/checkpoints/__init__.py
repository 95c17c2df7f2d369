"""Checkpoints: written atomically and in the background, verified before they are read."""

from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.checkpoints.reader import CheckpointReader

__all__ = ["CheckpointReader", "Checkpoints"]
