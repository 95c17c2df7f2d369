"""Forward processes: how data is demolished."""

from diffusion.processes.base import AffineProcess, GaussianProcess, Process
from diffusion.processes.chain import DDPM, Article, Chain
from diffusion.processes.learned import LearnedSchedule, ScheduleParams, init_schedule
from diffusion.processes.linear_sde import GivenLinearSDE, LinearSDE
from diffusion.processes.log_snr import Laplace, LinearLogSNR, LogSNRSchedule, SigmoidSchedule
from diffusion.processes.nonlinear_sde import GivenNonlinearSDE, NonlinearSDE
from diffusion.processes.poisson_flow import PoissonFlow
from diffusion.processes.rectified_flow import RectifiedFlow
from diffusion.processes.table import Table
from diffusion.processes.variance_exploding import EDM, VarianceExploding
from diffusion.processes.variance_preserving import (
    ArticleLimit,
    Cosine,
    SubVariancePreserving,
    Trigonometric,
    VariancePreserving,
)
from diffusion.processes.wrappers import Shifted, ZeroTerminalSNR, shift

__all__ = [
    "DDPM",
    "EDM",
    "AffineProcess",
    "Article",
    "ArticleLimit",
    "Chain",
    "Cosine",
    "GaussianProcess",
    "GivenLinearSDE",
    "GivenNonlinearSDE",
    "Laplace",
    "LearnedSchedule",
    "LinearLogSNR",
    "LinearSDE",
    "LogSNRSchedule",
    "NonlinearSDE",
    "PoissonFlow",
    "Process",
    "RectifiedFlow",
    "ScheduleParams",
    "Shifted",
    "SigmoidSchedule",
    "SubVariancePreserving",
    "Table",
    "Trigonometric",
    "VarianceExploding",
    "VariancePreserving",
    "ZeroTerminalSNR",
    "init_schedule",
    "shift",
]
