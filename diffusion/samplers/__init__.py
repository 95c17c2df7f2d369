"""Samplers: methods that take a state from noise to data."""

from diffusion.samplers.adaptive import Diffrax
from diffusion.samplers.adaptive_sde import DiffraxSDE
from diffusion.samplers.base import Sampler, Solution, StepSampler
from diffusion.samplers.ddim import DDIM, Ancestral
from diffusion.samplers.deis import DEIS
from diffusion.samplers.dpm_solver import DPMSolverPP2M, DPMSolverPP3M, SDEDPMSolverPP2M
from diffusion.samplers.dpm_solver_12 import DPMSolver12
from diffusion.samplers.integrators import RK4, Euler, EulerMaruyama, Heun, Midpoint, ReverseSDE
from diffusion.samplers.langevin import Langevin
from diffusion.samplers.renoise import Churn, Restart
from diffusion.samplers.single_step import DPMSolver2, DPMSolver3, DPMSolverPP2S
from diffusion.samplers.solve import preview, sample, solve, trajectory
from diffusion.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DEIS",
    "RK4",
    "Ancestral",
    "Churn",
    "DPMSolver2",
    "DPMSolver3",
    "DPMSolver12",
    "DPMSolverPP2M",
    "DPMSolverPP2S",
    "DPMSolverPP3M",
    "Diffrax",
    "DiffraxSDE",
    "Euler",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "Midpoint",
    "Restart",
    "ReverseSDE",
    "SDEDPMSolverPP2M",
    "Sampler",
    "Solution",
    "StepSampler",
    "UniPC",
    "preview",
    "sample",
    "solve",
    "trajectory",
]
