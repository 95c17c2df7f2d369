"""RePaint: repeated steps of another sampler, with the measured part of the state replaced after each step."""

import dataclasses
import itertools
from dataclasses import dataclass
from typing import Any, NamedTuple, final

import numpy as np

from diffusion.inverse_problems.base import measured
from diffusion.inverse_problems.replacement import Replaced
from diffusion.numerics import at_least, host_only, normal_like, split
from diffusion.processes import Process
from diffusion.registry import register
from diffusion.samplers.base import State
from diffusion.samplers.ddim import Ancestral
from diffusion.samplers.levels import levels
from diffusion.samplers.renoise import RenoisedRow, _Renoise, at_times
from diffusion.types import Key


class RepaintRow(NamedTuple):
    """The row of a renoised step, and the scales at its end for the replacement."""

    renoised: RenoisedRow
    alpha: Any
    sigma: Any


@register("sampler", "repaint")
@final
@dataclass(frozen=True, kw_only=True)
class Repaint(_Renoise):
    """Sample `jump` steps, add the noise back, and repeat; replace the measured part of the state after each step.

        x_s = x_s + A^+ (alpha_s y + sigma_s A z - A x_s)

    Lugmayr et al. (2022), algorithm 1, for any linear A with a pseudo-inverse: every stretch of `jump` steps is
    sampled `repeats` times, which makes the unmeasured part consistent with the measured one. repeats=1 is Song et
    al.'s (2021) replacement. The measurement is that of the guidance `replacement`; without it, steps are only
    repeated.
    """

    inner: Any = dataclasses.field(default=Ancestral(), metadata={"kind": "sampler"})
    repeats: int = 5
    jump: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, repeats=self.repeats, jump=self.jump, of="repaint")

    def plan(self, process: Any, times: Any) -> tuple[Any, Any, Any]:
        t, u, s, _ = self._walk(process, times)
        return t, u, s

    def _walk(self, process: Any, times: Any) -> tuple[Any, Any, Any, list[int]]:
        """Return (t, u, s), and the indices of the rows that reach a time of the grid for the last time."""
        at = levels(process, times, "the sampler Repaint")
        host_only("repaint", at)
        triples, marks = [], []
        for first in range(0, len(at.t) - 1, self.jump):
            stretch = at.t[first : first + self.jump + 1]
            for repeat in range(self.repeats):
                start = stretch[0] if repeat == 0 else stretch[-1]
                triples += [(start, stretch[0], stretch[1])]
                triples += [(t, t, s) for t, s in itertools.pairwise(stretch[1:])]
            marks += range(len(triples) - len(stretch) + 1, len(triples))
        t, u, s = np.array(triples).T
        return t, u, s, marks

    def marks(self, process: Any, times: Any) -> list[int]:
        """Return the indices of the rows that reach a time of the grid for the last time."""
        return self._walk(process, times)[-1]

    def prepare(self, process: Any, times: Any) -> Any:
        end = at_times(process, self.plan(process, times)[-1])
        return RepaintRow(super().prepare(process, times), end.alpha, end.sigma)

    def nfe(self, table: RepaintRow) -> Any:
        return super().nfe(table.renoised)

    def step(
        self, process: Process, model: Any, key: Key | None, state: Any, row: RepaintRow
    ) -> State:
        assert key is not None
        key_step, key_known = split(key)
        new = super().step(process, model, key_step, state, row.renoised)
        known = measured(model, Replaced)
        if known is None:
            return new
        z = normal_like(key_known, new.x)
        return State(known.impose(new.x, row.alpha, row.sigma, z))
