"""RePaint: steps of another sampler with the measured part of the state replaced, and repeated."""

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
    """Raise the noise and step down, then replace at these scales."""

    renoised: RenoisedRow
    alpha: Any
    sigma: Any


@register("sampler", "repaint")
@final
@dataclass(frozen=True, kw_only=True)
class Repaint(_Renoise):
    """Go down `jump` steps, noise up again, and repeat; after each step replace the measured part of the state.

        x_s = x_s + A^+ (alpha_s y + sigma_s A z - A x_s)

    Lugmayr et al. (2022), algorithm 1, for any linear A with a pseudo-inverse: every stretch of the grid is gone
    `repeats` times, which lets the unmeasured part agree with the measured one. repeats=1 is Song et al.'s (2021)
    replacement. The measurement comes with the guidance `replacement`; without it, steps are only repeated.
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
        """Return (t, u, s) and the rows after which the grid's own times have been reached for good."""
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
        """Return the rows after which the grid's own times have been reached for good."""
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
