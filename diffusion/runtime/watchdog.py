"""A thread that ends a process which waits for ever, and says where it waited.

One process of a job that dies or is stopped leaves the others inside a collective operation, where no signal
handler of Python runs and no message comes. The watchdog is told of every sign of life, `beat`, and of what
begins: sample grids, saving and compiling may take longer than a step. When none has come for too long it writes
the stacks of all threads to standard error and leaves with the code HUNG, so that a scheduler can start the job
again from its newest checkpoint.
"""

import faulthandler
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple

from diffusion.numerics import at_least
from diffusion.runtime import exits

# Times the limit, between two signs of life: nothing comes from within an XLA compiler, or from one call of a sampler.
ALLOWANCES = {"start": 4.0, "compile": 4.0, "hook": 20.0}
# Times the limit, for all of a phase that gives signs of life even if it does not get on, like a disk that hangs.
TOTALS = {"save": 20.0}


class _Sign(NamedTuple):
    """A sign of life: what is going on, how many phases and how many signs there were before."""

    phase: str
    phases: int
    signs: int


class Watchdog:
    """While active, leave the process when there was no sign of life for too long.

    Only time in which this process itself was running counts: not that between SIGSTOP and SIGCONT, nor that of a
    machine that is suspended.
    """

    def __init__(
        self,
        seconds: float | int,
        *,
        allowances: Mapping[str, float] = ALLOWANCES,
        totals: Mapping[str, float] = TOTALS,
        steps: int = 1,
        stream: Any = None,
        clock: Callable[[], float] = time.monotonic,
        leave: Callable[[int], Any] = os._exit,
    ):
        """Prepare; `with` starts the thread.

        Args:
            seconds: without a sign of life; 0 for no watchdog.
            allowances: by phase, how many times as long it may be silent.
            totals: by phase, how many times as long it may take in all, signs of life or not.
            steps: training steps between two signs of life; every phase but the start may take so many times as long.
            stream: where the stacks go, a file with a descriptor; sys.stderr unless given.
            clock: tells seconds.
            leave: ends the process; os._exit, because a thread that hangs cannot be asked to.
        """
        at_least(0, seconds=seconds)
        at_least(1, steps=steps)
        self._seconds, self._steps = float(seconds), steps
        self._allowances, self._totals = dict(allowances), dict(totals)
        self._stream, self._clock, self._leave = stream, clock, leave
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._pause = min(self._seconds / 10, 5.0)  # between two looks
        self._sign = self._known = _Sign("start", 0, 0)  # replaced as a whole: no lock is needed
        self._looked, self._silent, self._inside = clock(), 0.0, 0.0

    def beat(self, phase: str) -> None:
        """Give a sign of life, and say what goes on now: a phase, and after a comma what people may want to know."""
        before = self._sign
        self._sign = _Sign(phase, before.phases + (phase != before.phase), before.signs + 1)

    def limit(self, phase: str) -> float:
        """Return for how many seconds a phase may be silent."""
        return self._allowance(phase, self._allowances, 1.0)

    def total(self, phase: str) -> float:
        """Return how many seconds a phase may take, signs of life or not."""
        return self._allowance(phase, self._totals, math.inf)

    def _allowance(self, phase: str, times: Mapping[str, float], otherwise: float) -> float:
        kind = phase.partition(",")[0]
        return self._seconds * times.get(kind, otherwise) * (1 if kind == "start" else self._steps)

    def look(self) -> None:
        """Add the time since the last look, as far as this process was running, and leave if that is too much."""
        now, sign = self._clock(), self._sign
        ran = min(
            now - self._looked, 2 * self._pause
        )  # who comes much later was stopped, or had no processor
        self._silent = self._silent + ran if sign.signs == self._known.signs else 0.0
        self._inside = self._inside + ran if sign.phases == self._known.phases else 0.0
        self._looked, self._known = now, sign
        if self._ended.is_set():
            return
        if self._silent > self.limit(sign.phase):
            self._bark(f"no sign of life for {self._silent:.0f} s in the phase '{sign.phase}'")
        elif self._inside > self.total(sign.phase):
            self._bark(f"the phase '{sign.phase}' does not end, after {self._inside:.0f} s")

    def __enter__(self) -> "Watchdog":
        if self._seconds:
            self.beat("start")
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        self._looked = self._clock()
        while not self._ended.wait(self._pause):
            self.look()

    def _bark(self, what: str) -> None:
        self._ended.set()
        stream = sys.stderr if self._stream is None else self._stream
        last = (
            f"leaving with code {exits.HUNG}; the same command resumes from the newest checkpoint. Another process of "
            "this job may have died or stopped; train.watchdog_seconds says how long to wait."
        )
        try:
            print(f"error: {what}; what every thread is doing:", file=stream, flush=True)
            faulthandler.dump_traceback(stream, all_threads=True)
            print(last, file=stream, flush=True)
        finally:  # also where nobody reads any more
            self._leave(exits.HUNG)
