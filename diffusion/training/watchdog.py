"""A thread that ends a process which waits for ever, and says where it waited.

One process of a job that dies or is stopped leaves the others inside a collective operation, where no signal
handler of Python runs and no message comes. The watchdog is told of every sign of life, `beat`; when none has
come for too long it writes the stacks of all threads to standard error and leaves with the code HUNG, so that
a scheduler can start the job again from its newest checkpoint.
"""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from diffusion.numerics import require
from diffusion.training import exits

ALLOWANCES = {"start": 4.0, "compile": 4.0}  # times the limit: these phases have no signs of life


class Watchdog:
    """While active, leave the process when there was no sign of life for too long."""

    def __init__(
        self,
        seconds: float | int,
        *,
        allowances: Mapping[str, float] = ALLOWANCES,
        steps: int = 1,
        stream: Any = None,
        clock: Callable[[], float] = time.monotonic,
        leave: Callable[[int], Any] = os._exit,
    ):
        """Prepare; `with` starts the thread.

        Args:
            seconds: without a sign of life; 0 for no watchdog.
            allowances: by phase, how many times as long it may take.
            steps: training steps between two signs of life; every phase but the start may take so many times as long.
            stream: where the stacks go, a file with a descriptor; sys.stderr unless given.
            clock: tells seconds.
            leave: ends the process; os._exit, because a thread that hangs cannot be asked to.
        """
        require(seconds >= 0, f"`seconds` must not be negative; got {seconds}.")
        require(steps >= 1, f"`steps` must be at least 1; got {steps}.")
        self._seconds, self._allowances, self._steps = float(seconds), dict(allowances), steps
        self._stream, self._clock, self._leave = stream, clock, leave
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen = ("start", clock())  # one object, replaced as a whole: no lock is needed

    def beat(self, phase: str) -> None:
        """Give a sign of life, and say what begins now."""
        self._seen = (phase, self._clock())

    def limit(self, phase: str) -> float:
        """Return how many seconds a phase may take."""
        steps = 1 if phase == "start" else self._steps
        return self._seconds * self._allowances.get(phase, 1.0) * steps

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
        while not self._ended.wait(min(self._seconds / 10, 5.0)):
            phase, since = self._seen
            silent = self._clock() - since
            if silent > self.limit(phase):
                self._bark(phase, silent)
                return

    def _bark(self, phase: str, silent: float) -> None:
        stream = sys.stderr if self._stream is None else self._stream
        print(
            f"error: no sign of life for {silent:.0f} s in the phase '{phase}'; what every thread is doing:",
            file=stream,
            flush=True,
        )
        faulthandler.dump_traceback(stream, all_threads=True)
        print(
            f"leaving with code {exits.HUNG}; the same command resumes from the newest checkpoint. Another process of "
            "this job may have died or stopped; train.watchdog_seconds says how long to wait.",
            file=stream,
            flush=True,
        )
        self._leave(exits.HUNG)
