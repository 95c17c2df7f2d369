"""Samplers: ways to carry a state from noise to data."""

from diffusion.samplers.adaptive import Diffrax
from diffusion.samplers.base import Sampler, Solution, StepSampler, sample, solve, trajectory
from diffusion.samplers.ddim import DDIM, Ancestral
from diffusion.samplers.dpm_solver import DPMSolverPP2M
from diffusion.samplers.integrators import RK4, Euler, EulerMaruyama, Heun, Midpoint, ReverseSDE

__all__ = [
    "DDIM",
    "RK4",
    "Ancestral",
    "DPMSolverPP2M",
    "Diffrax",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Midpoint",
    "ReverseSDE",
    "Sampler",
    "Solution",
    "StepSampler",
    "sample",
    "solve",
    "trajectory",
]
