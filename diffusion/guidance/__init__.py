"""Guidance: functions from denoisers to a denoiser.

Samplers, ODEs and likelihoods take guided denoisers like any other. The scale has one convention
everywhere: 0 is the unconditional model, 1 the conditional one, above 1 extrapolates (so the `w` of some
papers is omega = scale - 1; Su, kexue.fm 9257).
"""

from diffusion.guidance.base import GIVEN, Guidance, entry_name, given
from diffusion.guidance.checks import check_entries, output_shape, without_condition
from diffusion.guidance.extrapolation import (
    Autoguidance,
    ClassifierFree,
    Extrapolated,
    Negative,
    classifier_free,
)
from diffusion.guidance.gradients import (
    Classifier,
    JudgesConditions,
    OfCondition,
    OfLabel,
    classifier,
)
from diffusion.guidance.model import BatchedBoth, Both, ConditionalModel, Pair, null_cond
from diffusion.guidance.parts import Channels, Interval, Wrapper, masked, on_interval
from diffusion.guidance.ranges import (
    Clip,
    Clipped,
    DynamicThreshold,
    Rescale,
    clipped,
    dynamic_threshold,
    rescale,
)
from diffusion.guidance.renoising import CFGPlusPlus, cfg_pp_scale
from diffusion.guidance.scales import LinearLogSNR, Piecewise, Scale, Schedule
from diffusion.guidance.similarities import SIMILARITIES, Similarity, similarity
from diffusion.guidance.upsampling import Upsample, upsample

__all__ = [
    "GIVEN",
    "SIMILARITIES",
    "Autoguidance",
    "BatchedBoth",
    "Both",
    "CFGPlusPlus",
    "Channels",
    "Classifier",
    "ClassifierFree",
    "Clip",
    "Clipped",
    "ConditionalModel",
    "DynamicThreshold",
    "Extrapolated",
    "Guidance",
    "Interval",
    "JudgesConditions",
    "LinearLogSNR",
    "Negative",
    "OfCondition",
    "OfLabel",
    "Pair",
    "Piecewise",
    "Rescale",
    "Scale",
    "Schedule",
    "Similarity",
    "Upsample",
    "Wrapper",
    "cfg_pp_scale",
    "check_entries",
    "classifier",
    "classifier_free",
    "clipped",
    "dynamic_threshold",
    "entry_name",
    "given",
    "masked",
    "null_cond",
    "on_interval",
    "output_shape",
    "rescale",
    "similarity",
    "upsample",
    "without_condition",
]
