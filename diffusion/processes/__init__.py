"""Forward processes: how data is demolished."""

from diffusion.processes.base import AffineProcess, GaussianProcess, Process
from diffusion.processes.chain import DDPM, Article, Chain
from diffusion.processes.linear_sde import GivenLinearSDE, LinearSDE
from diffusion.processes.poisson_flow import PoissonFlow
from diffusion.processes.rectified_flow import RectifiedFlow
from diffusion.processes.variance_exploding import EDM, VarianceExploding
from diffusion.processes.variance_preserving import (
    ArticleLimit,
    Cosine,
    SubVariancePreserving,
    Trigonometric,
    VariancePreserving,
)

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
    "LinearSDE",
    "PoissonFlow",
    "Process",
    "RectifiedFlow",
    "SubVariancePreserving",
    "Trigonometric",
    "VarianceExploding",
    "VariancePreserving",
]
