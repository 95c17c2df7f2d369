"""Forward processes: how data is demolished."""

from diffusion.processes.base import AffineProcess, GaussianProcess, Process
from diffusion.processes.chain import DDPM, Chain, ProportionalBeta
from diffusion.processes.characteristics import (
    AsinhPath,
    Characteristics,
    GivenCharacteristics,
    Parabola,
)
from diffusion.processes.dynamics import (
    forward_sde,
    probability_flow,
    reverse_sde,
    score,
    score_to_denoiser,
)
from diffusion.processes.heat import AnisotropicHeat, Blur, Heat
from diffusion.processes.interpolants import Bridge, Interpolant, StraightLine
from diffusion.processes.learned import LearnedSchedule, ScheduleParams, init_schedule
from diffusion.processes.linear_path import GivenLinearPath, LinearPath
from diffusion.processes.linear_sde import GivenLinearSDE, LinearSDE
from diffusion.processes.log_snr import Laplace, LinearLogSNR, LogSNRSchedule, SigmoidSchedule
from diffusion.processes.nonlinear_sde import GivenNonlinearSDE, NonlinearSDE
from diffusion.processes.poisson_flow import PoissonFlow
from diffusion.processes.priors import Prior
from diffusion.processes.radial import GivenRadial, Radial
from diffusion.processes.radial_law import ScaledRadial
from diffusion.processes.rectified_flow import RectifiedFlow
from diffusion.processes.table import Table
from diffusion.processes.variance_exploding import EDM, VarianceExploding
from diffusion.processes.variance_preserving import (
    Cosine,
    ProportionalBetaLimit,
    SubVariancePreserving,
    Trigonometric,
    VariancePreserving,
)
from diffusion.processes.wrappers import Shifted, ZeroTerminalSNR, shift

__all__ = [
    "DDPM",
    "EDM",
    "AffineProcess",
    "AnisotropicHeat",
    "AsinhPath",
    "Blur",
    "Bridge",
    "Chain",
    "Characteristics",
    "Cosine",
    "GaussianProcess",
    "GivenCharacteristics",
    "GivenLinearPath",
    "GivenLinearSDE",
    "GivenNonlinearSDE",
    "GivenRadial",
    "Heat",
    "Interpolant",
    "Laplace",
    "LearnedSchedule",
    "LinearLogSNR",
    "LinearPath",
    "LinearSDE",
    "LogSNRSchedule",
    "NonlinearSDE",
    "Parabola",
    "PoissonFlow",
    "Prior",
    "Process",
    "ProportionalBeta",
    "ProportionalBetaLimit",
    "Radial",
    "RectifiedFlow",
    "ScaledRadial",
    "ScheduleParams",
    "Shifted",
    "SigmoidSchedule",
    "StraightLine",
    "SubVariancePreserving",
    "Table",
    "Trigonometric",
    "VarianceExploding",
    "VariancePreserving",
    "ZeroTerminalSNR",
    "forward_sde",
    "init_schedule",
    "probability_flow",
    "reverse_sde",
    "score",
    "score_to_denoiser",
    "shift",
]
