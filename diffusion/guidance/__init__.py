"""Guidance: functions from denoisers to a denoiser.

A sampler, an ODE, a likelihood never learn that guidance exists. The scale has one convention
everywhere: 0 is the unconditional model, 1 the conditional one, above 1 extrapolates (so the `w` of some
papers is omega = scale - 1; Su, kexue.fm 9257).
"""

from diffusion.guidance.base import GIVEN, Both, Guidable, Guidance, Pair, entry_name, given
from diffusion.guidance.extrapolation import (
    Autoguidance,
    ClassifierFree,
    Extrapolated,
    KnowsPlain,
    Negative,
    classifier_free,
)
from diffusion.guidance.ranges import Clip, Clipped, clipped
from diffusion.guidance.scales import LinearLogSNR, Piecewise, Scale, Schedule

__all__ = [
    "GIVEN",
    "Autoguidance",
    "Both",
    "ClassifierFree",
    "Clip",
    "Clipped",
    "Extrapolated",
    "Guidable",
    "Guidance",
    "KnowsPlain",
    "LinearLogSNR",
    "Negative",
    "Pair",
    "Piecewise",
    "Scale",
    "Schedule",
    "classifier_free",
    "clipped",
    "entry_name",
    "given",
]
