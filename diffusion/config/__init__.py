"""Configs: sections with a name and fields; their checks, construction, comparison and recording."""

from diffusion.config.experiment import Experiment
from diffusion.config.overrides import apply_overrides
from diffusion.config.sections import ConfigError

__all__ = ["ConfigError", "Experiment", "apply_overrides"]
