"""Configs: sections of names and fields, checked, built, compared, and written down."""

from diffusion.config.experiment import Experiment
from diffusion.config.overrides import apply_overrides
from diffusion.config.sections import ConfigError

__all__ = ["ConfigError", "Experiment", "apply_overrides"]
