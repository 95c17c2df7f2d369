"""Samplers: ways to carry a state from noise to data."""

from diffusion.samplers.adaptive import Diffrax
from diffusion.samplers.base import Sampler, Solution, StepSampler, sample, solve, trajectory
from diffusion.samplers.ddim import DDIM, Ancestral
from diffusion.samplers.dpm_solver import DPMSolverPP2M
from diffusion.samplers.integrators import RK4, Euler, EulerMaruyama, Heun, Midpoint, ReverseSDE
from diffusion.samplers.single_step import DPMSolver2, DPMSolver3, DPMSolverPP2S

__all__ = [
    "DDIM",
    "RK4",
    "Ancestral",
    "DPMSolver2",
    "DPMSolver3",
    "DPMSolverPP2M",
    "DPMSolverPP2S",
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
