"""A schedule defined by a table of log-SNRs."""

import functools
from dataclasses import dataclass
from typing import Any, final

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.numerics import as_time, at_least, at_most, is_static, is_traced, monotone, one_of
from diffusion.processes.log_snr import LogSNRSchedule
from diffusion.registry import register
from diffusion.types import Scalar, Time


@register("process", "table")
@final
@dataclass(frozen=True, kw_only=True)
class Table(LogSNRSchedule):
    """A table of log-SNRs at times, interpolated by a decreasing cubic spline; variance preserving.

    The slopes at the times are those of the cubic spline, moved where necessary into the range in which every
    piece decreases (de Boor and Swartz, 1977). So the curve always has a continuous first derivative, and a
    continuous second derivative where no slope was moved: explicit solvers keep at least order 2.

    Args:
        log_snrs: three or more decreasing numbers.
        times: the same number of increasing numbers; () spaces them evenly from 0 to 1.
    """

    t_min: Scalar = 0.0
    log_snrs: Any = (12.0, 8.6, 5.8, 3.5, 1.6, 0.0, -1.6, -3.5, -5.8)
    times: Any = ()

    def __post_init__(self) -> None:
        for name in ("log_snrs", "times"):
            given = getattr(self, name)
            if not is_traced(given):  # tuples are hashable, so the process can be a static argument
                object.__setattr__(self, name, tuple(np.asarray(given, np.float64).tolist()))
        super().__post_init__()
        num = len(self.log_snrs)
        at_least(3, entries=num, of="`log_snrs`")
        one_of((0, num), times=len(self.times), hint="There is one for each log-SNR, or none.")
        if is_traced(self.log_snrs, self.times):
            return
        monotone("`log_snrs`", self.log_snrs, "decrease")
        monotone("`times`", self.times, "increase")
        first, last = self.t_domain
        at_least(first, t_min=self.t_min, hint="There the table begins.")
        at_most(last, t_max=self.t_max, hint="There the table ends.")

    @property
    def t_domain(self) -> tuple[Scalar, Scalar]:
        return (self.times[0], self.times[-1]) if len(self.times) else (0.0, 1.0)

    def log_snr(self, t: Time) -> Array:
        t = as_time(t)
        knots, c = (jnp.asarray(a, t.dtype) for a in _fit_once(self))
        k = jnp.clip(jnp.searchsorted(knots, t, side="right") - 1, 0, len(knots) - 2)
        u = t - knots[k]
        return ((c[0, k] * u + c[1, k]) * u + c[2, k]) * u + c[3, k]


def _fit_once(table: Table) -> tuple[Any, Any]:
    return _fit_cached(table) if is_static(table) else _fit(table)


def _fit(table: Table) -> tuple[Any, Any]:
    """Return the times, (n,), and the cubics between them, (4, n - 1), highest power first."""
    xp: Any = jnp if is_traced(table.log_snrs, table.times) else np
    y = xp.asarray(table.log_snrs)
    t = xp.asarray(table.times) if len(table.times) else np.linspace(0.0, 1.0, len(y))
    h, n = xp.diff(t), len(y)
    secant = xp.diff(y) / h
    # slopes of the cubic spline, from a tridiagonal system; those at the ends are the slopes of parabolas
    first = ((2 * h[0] + h[1]) * secant[0] - h[0] * secant[1]) / (h[0] + h[1])
    last = ((2 * h[-1] + h[-2]) * secant[-1] - h[-1] * secant[-2]) / (h[-1] + h[-2])
    edge = np.eye(n)[[0, -1]]
    inner = (
        h[1:, None] * np.eye(n)[:-2]
        + 2 * (h[:-1] + h[1:])[:, None] * np.eye(n)[1:-1]
        + h[:-1, None] * np.eye(n)[2:]
    )
    right = 3 * (h[1:] * secant[:-1] + h[:-1] * secant[1:])
    matrix = xp.concatenate([edge[:1], inner, edge[1:]])
    slope = xp.linalg.solve(matrix, xp.concatenate([first[None], right, last[None]]))
    # a piece decreases if its slopes lie between 0 and 3 secants; a slightly smaller range keeps its rate nonzero
    flat = xp.maximum(xp.concatenate([secant[:1], secant]), xp.concatenate([secant, secant[-1:]]))
    slope = xp.clip(slope, 2.9 * flat, 0.05 * flat)
    s, e = slope[:-1], slope[1:]
    return t, xp.stack([(s + e - 2 * secant) / h**2, (3 * secant - 2 * s - e) / h, s, y[:-1]])


_fit_cached = functools.lru_cache(maxsize=32)(_fit)
