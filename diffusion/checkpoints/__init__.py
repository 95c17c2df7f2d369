"""Checkpoints that are whole or absent: written in the background, verified before they are used."""

from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.checkpoints.reader import CheckpointReader

__all__ = ["CheckpointReader", "Checkpoints"]
