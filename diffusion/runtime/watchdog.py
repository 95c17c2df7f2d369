"""Watchdog: a thread that ends a hung process and prints where it hung.

If one process of a job dies or is stopped, the others wait inside a collective operation, where no signal handler of
Python runs and no message appears. The training loop reports every sign of progress to the watchdog by `beat`, with
the current phase, since sample grids, saving and compiling may take longer than a step. If no report has come for
too long, the watchdog writes the stacks of all threads to standard error and exits with the code HUNG, so that a
scheduler can restart the job from its newest checkpoint.
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

# Multiples of the limit, between two reports: none comes from within an XLA compilation, or one call of a sampler.
ALLOWANCES = {"start": 4.0, "compile": 4.0, "hook": 20.0}
# Multiples of the limit, for a whole phase that reports even if it makes no progress, as with a disk that hangs.
TOTALS = {"save": 20.0}


class _Sign(NamedTuple):
    """One report of progress: the phase, and the numbers of earlier phases and reports."""

    phase: str
    phases: int
    signs: int


class Watchdog:
    """While active, end the process if it has reported no progress for too long.

    Only time in which this process was running counts, not time between SIGSTOP and SIGCONT, nor time in which the
    machine was suspended.
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
            seconds: longest time without a report; 0 for no watchdog.
            allowances: by phase, multiple of `seconds` between two reports.
            totals: by phase, multiple of `seconds` for the whole phase, reports or not.
            steps: training steps between two reports; multiplies the limit of every phase but the start.
            stream: file with a descriptor for the stacks; by default sys.stderr.
            clock: function that returns the time in seconds.
            leave: function that ends the process; os._exit, because a hung thread cannot end by itself.
        """
        at_least(0, seconds=seconds)
        at_least(1, steps=steps)
        self._seconds, self._steps = float(seconds), steps
        self._allowances, self._totals = dict(allowances), dict(totals)
        self._stream, self._clock, self._leave = stream, clock, leave
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._pause = min(self._seconds / 10, 5.0)  # seconds between two checks
        self._sign = self._known = _Sign("start", 0, 0)  # replaced as a whole: no lock is needed
        self._looked, self._silent, self._inside = clock(), 0.0, 0.0

    def beat(self, phase: str) -> None:
        """Report progress in a phase; text after a comma in `phase` is only for messages."""
        before = self._sign
        self._sign = _Sign(phase, before.phases + (phase != before.phase), before.signs + 1)

    def limit(self, phase: str) -> float:
        """Return the longest time between two reports of a phase, in seconds."""
        return self._allowance(phase, self._allowances, 1.0)

    def total(self, phase: str) -> float:
        """Return the longest duration of a phase, in seconds, reports or not."""
        return self._allowance(phase, self._totals, math.inf)

    def _allowance(self, phase: str, times: Mapping[str, float], otherwise: float) -> float:
        kind = phase.partition(",")[0]
        return self._seconds * times.get(kind, otherwise) * (1 if kind == "start" else self._steps)

    def look(self) -> None:
        """Add the time since the last check in which this process was running, and exit if a limit is exceeded."""
        now, sign = self._clock(), self._sign
        # a much longer time means that the process was stopped, or had no CPU
        ran = min(now - self._looked, 2 * self._pause)
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
        finally:  # also if the stream can no longer be written
            self._leave(exits.HUNG)
