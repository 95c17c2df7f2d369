"""What a person sees while a program works: messages, one line of progress, a sign of life.

The library never prints. It is given `say`, which shows a line for good, and perhaps `rewrite`, which
shows a line that the next one replaces; `Terminal` makes both from a stream.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from diffusion.types import Say

Clock = Callable[[], float]

PLAIN_EVERY = 10.0  # seconds between lines of progress where they pile up, as in a log file
REWRITE_EVERY = 0.2  # and where one replaces the other


def nobody(text: str) -> None:
    """Say nothing."""


class Terminal:
    """`say` and `rewrite` for a stream; `rewrite` is None unless it is a terminal.

    Where nobody reads any more, as at a terminal that was closed, nothing is said, and nothing fails.
    """

    def __init__(self, stream: Any):
        """Use this text stream, such as sys.stderr."""
        self._stream = stream
        self._shown = 0  # length of the line that is to be replaced
        self._lock = threading.Lock()  # the sign of life comes from another thread
        self.rewrite: Say | None = self._rewrite if stream.isatty() else None

    def say(self, text: str) -> None:
        """Show a line for good."""
        with self._lock:
            blank = "\r" + " " * self._shown + "\r" if self._shown else ""
            self._shown = 0
            self._put(f"{blank}{text}\n")

    def _rewrite(self, text: str) -> None:
        with self._lock:
            self._put("\r" + text.ljust(self._shown))
            self._shown = len(text)

    def _put(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            silence(self._stream)


def silence(stream: Any) -> None:
    """Let a stream that can no longer be written to lead nowhere: what it still holds would fail again at the exit."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def duration(seconds: float | int) -> str:
    """Write a time span for people: 12 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextlib.contextmanager
def heartbeat(
    what: str, say: Say = nobody, rewrite: Say | None = None, every: float | None = None
) -> Iterator[None]:
    """Say that something silent is going on, at once and again every few seconds, with the time."""
    done, start = threading.Event(), time.monotonic()
    show = rewrite or say
    every = every or (1.0 if rewrite else PLAIN_EVERY)

    def beat() -> None:
        while not done.wait(every):
            show(f"{what} {duration(time.monotonic() - start)}")

    show(f"{what}")
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


class Progress:
    """One line about work of known length: how far, how fast, how long still.

    It starts counting when it is made, so make it after the first step: compiling then spoils
    neither the rate nor the estimate.
    """

    def __init__(
        self,
        start: int,
        end: int,
        batch_size: int,
        say: Say = nobody,
        rewrite: Say | None = None,
        clock: Clock = time.monotonic,
        what: str = "step",
        unit: str = "images",
    ):
        """Begin at step `start`, with `batch_size` images per step; `what` and `unit` are said."""
        self._start, self._end, self._batch_size = start, end, batch_size
        self._say, self._rewrite = say, rewrite
        self._every = REWRITE_EVERY if rewrite else PLAIN_EVERY
        self._clock, self._what, self._unit = clock, what, unit
        self._began = self._shown = clock()

    def due(self) -> bool:
        """Say whether it is time for a new line."""
        return self._clock() - self._shown >= self._every

    def rate(self, step: int) -> float:
        """Return images per second since the start; NaN before the first step."""
        seconds = self._clock() - self._began
        done = (step - self._start) * self._batch_size
        return done / seconds if done > 0 and seconds > 0 else float("nan")

    def line(self, step: int, note: str = "") -> str:
        """Return the line."""
        rate, speed = self.rate(step), ""
        if rate == rate:  # not NaN
            left = (self._end - step) * self._batch_size / rate
            speed = f"  {rate:.4g} {self._unit}/s  {duration(left)} left"
        return f"{self._what} {step}/{self._end}{'  ' + note if note else ''}{speed}"

    def show(self, step: int, note: str = "") -> None:
        """Show the line now."""
        self._shown = self._clock()
        (self._rewrite or self._say)(self.line(step, note))

    def report(self, step: int) -> None:
        """Show the line if it is time; at the end for good, unless all went by in one."""
        if step < self._end:
            if self.due():
                self.show(step)
        elif self._rewrite or self._clock() - self._began > self._every:
            self._say(self.line(step))
