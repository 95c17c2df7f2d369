"""Samplers: ways to carry a state from noise to data."""

from diffusion.samplers.adaptive import Diffrax
from diffusion.samplers.base import Sampler, Solution, StepSampler, sample, solve, trajectory
from diffusion.samplers.ddim import DDIM, Ancestral
from diffusion.samplers.deis import DEIS
from diffusion.samplers.dpm_solver import DPMSolverPP2M, DPMSolverPP3M, SDEDPMSolverPP2M
from diffusion.samplers.integrators import RK4, Euler, EulerMaruyama, Heun, Midpoint, ReverseSDE
from diffusion.samplers.single_step import DPMSolver2, DPMSolver3, DPMSolverPP2S
from diffusion.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DEIS",
    "RK4",
    "Ancestral",
    "DPMSolver2",
    "DPMSolver3",
    "DPMSolverPP2M",
    "DPMSolverPP2S",
    "DPMSolverPP3M",
    "Diffrax",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Midpoint",
    "ReverseSDE",
    "SDEDPMSolverPP2M",
    "Sampler",
    "Solution",
    "StepSampler",
    "UniPC",
    "sample",
    "solve",
    "trajectory",
]
