"""Decreasing sampling times, as float64 arrays built on the host.

A grid is called with a process and a number of steps and returns num_steps + 1 times: the first is
exactly t_max, the last exactly t_min, and they decrease strictly.
"""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from diffusion.numerics import (
    at_most,
    monotone,
    on_host,
    one_of,
    positive,
    row,
    shaped,
    whole,
)
from diffusion.processes import AffineProcess, Process
from diffusion.processes.base import require_process
from diffusion.registry import register, takes_names


def check_times(times: Any, source: str = "`times`") -> np.ndarray:
    """Return concrete times as float64 of shape (num_steps + 1,); raise ValueError unless they decrease."""
    times = row(source, times, "(num_steps + 1,)")
    hint = "Noise comes first, without repeats. For likelihoods, which integrate upwards, use `log_prob`."
    monotone(source, times, "decrease", hint)
    return times


@dataclass(frozen=True, kw_only=True)
class Grid(abc.ABC):
    """A rule that places num_steps + 1 times between t_max and t_min."""

    @abc.abstractmethod
    def place(self, process: Process, num_steps: int) -> np.ndarray:
        """Return decreasing times, whose ends may be inexact."""

    @takes_names
    def __call__(self, process: Process, num_steps: int) -> np.ndarray:
        """Return float64 times of shape (num_steps + 1,), from t_max to t_min inclusive.

        Raises:
            ValueError: num_steps is not a positive integer, or two times coincide.
        """
        whole(1, num_steps=num_steps)
        times = np.array(self.place(process, int(num_steps)), np.float64)
        if len(times):
            times[0], times[-1] = float(process.t_max), float(process.t_min)
        return check_times(times, f"the grid {type(self).__name__} with {num_steps} steps")


@register("grid", "uniform")
@final
@dataclass(frozen=True, kw_only=True)
class Uniform(Grid):
    """t_i = t_max + i/N (t_min - t_max)."""

    def place(self, process: Process, num_steps: int) -> np.ndarray:
        return np.linspace(float(process.t_max), float(process.t_min), num_steps + 1)


@register("grid", "quadratic")
@final
@dataclass(frozen=True, kw_only=True)
class Quadratic(Grid):
    """sqrt(t) uniform (Song et al., 2021a, appendix D.2)."""

    def place(self, process: Process, num_steps: int) -> np.ndarray:
        return (
            np.linspace(float(process.t_max) ** 0.5, float(process.t_min) ** 0.5, num_steps + 1)
            ** 2
        )


@register("grid", "cosine")
@final
@dataclass(frozen=True, kw_only=True)
class CosineGrid(Grid):
    """Times at Chebyshev's points, dense at both ends: t = t_min + (t_max - t_min) (1 + cos(pi i/N)) / 2."""

    def place(self, process: Process, num_steps: int) -> np.ndarray:
        shape = (1 + np.cos(np.pi * np.arange(num_steps + 1) / num_steps)) / 2
        return float(process.t_min) + (float(process.t_max) - float(process.t_min)) * shape


@register("grid", "uniform_log_snr")
@final
@dataclass(frozen=True, kw_only=True)
class UniformLogSNR(Grid):
    """log(alpha/sigma) uniform (Lu et al., 2022); for a plain `Process`, its default times."""

    def place(self, process: Process, num_steps: int) -> np.ndarray:
        return process.default_times(num_steps)


@register("grid", "karras")
@final
@dataclass(frozen=True, kw_only=True)
class Karras(Grid):
    """(sigma/alpha)^(1/rho) uniform (Karras et al., 2022, eq. 5)."""

    rho: float = 7.0

    def __post_init__(self) -> None:
        positive(rho=self.rho)

    def place(self, process: Process, num_steps: int) -> np.ndarray:
        require_process(process, AffineProcess, "the grid karras")
        assert isinstance(process, AffineProcess)
        noisy, clean = np.exp(-0.5 * process.log_snr_ends() / self.rho)  # (sigma / alpha)^(1 / rho)
        levels = np.linspace(noisy, clean, num_steps + 1) ** self.rho
        return on_host(process.time_of_log_snr, -2 * np.log(levels))


_SPACINGS = ("leading", "trailing", "linspace")


@register("grid", "chain")
@final
@dataclass(frozen=True, kw_only=True)
class ChainGrid(Grid):
    """A subsequence k / T of a discrete chain's points k = 1 .. T (Song et al., 2021a, section 4.2).

    leading counts strides of T // N up from 1, trailing down from T, linspace rounds even spacing; the
    end that the strides miss, T or 1, is added, so that all three have N + 1 points. The ends become t_max and
    t_min; points that would coincide with them, or with each other, move to the nearest free point. So a grid has
    at most one step more than the chain has points between t_min and t_max: T - 1 steps if these are 1 / T and 1.
    """

    spacing: str = "linspace"
    num_chain_steps: int = 1000

    def __post_init__(self) -> None:
        one_of(_SPACINGS, spacing=self.spacing)

    def place(self, process: Process, num_steps: int) -> np.ndarray:
        total = self.num_chain_steps
        points, ends = np.arange(1, total + 1), (float(process.t_min), float(process.t_max))
        inside = points[(points / total > ends[0]) & (points / total < ends[1])]
        at_most(len(inside) + 1, num_steps=num_steps, of=f"a chain of {total} points")
        stride = total // num_steps
        rows = {
            "leading": lambda: np.append(1 + stride * np.arange(num_steps), total)[::-1],
            "trailing": lambda: np.append(
                np.round(total * (1 - np.arange(num_steps) / num_steps)), 1
            ),
            "linspace": lambda: np.round(np.linspace(total, 1, num_steps + 1)),
        }
        first, *_, last = chosen = np.asarray(rows[self.spacing](), np.float64)
        return np.array([first, *_distinct(chosen[1:-1], inside), last]) / total


def _distinct(k: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Return decreasing integers, moved as little as needed to be distinct and within the allowed range.

    The integers k_i decrease by at least one each if and only if k_i + i never increases.
    """
    if not len(k):
        return k
    shift = np.arange(len(k))
    return np.minimum.accumulate(np.clip(k + shift, allowed[0] + len(k) - 1, allowed[-1])) - shift


@register("grid", "given")
@final
@dataclass(frozen=True, kw_only=True)
class Given(Grid):
    """Exactly the given times, from noise to data; `num_steps` must match their number."""

    times: Sequence[float] = (1.0, 0.5, 1e-3)

    def place(self, process: Process, num_steps: int) -> np.ndarray:
        return np.asarray(self.times, np.float64)

    @takes_names
    def __call__(self, process: Process, num_steps: int) -> np.ndarray:
        """Return the given times."""
        times = check_times(self.place(process, num_steps), "the grid `given`")
        shaped("the grid `given`", times, (num_steps + 1,), f"for num_steps={num_steps}")
        return times
