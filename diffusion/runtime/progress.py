"""Messages and progress of a running command.

The library never prints. It takes a function `say`, which prints a line, and optionally `rewrite`, which prints a line
that the next one replaces; `Terminal` makes both from a stream.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from diffusion.types import Say

Clock = Callable[[], float]

PLAIN_EVERY = 10.0  # seconds between lines of progress in a log file, which keeps all of them
REWRITE_EVERY = 0.2  # seconds between lines of progress in a terminal, where each replaces the last


def nobody(text: str) -> None:
    """Say nothing."""


class Terminal:
    """`say` and `rewrite` for a stream; `rewrite` is None unless it is a terminal.

    If the stream can no longer be written, as after its terminal was closed, messages are dropped without an error.
    """

    def __init__(self, stream: Any):
        """Write to this text stream, such as sys.stderr."""
        self._stream = stream
        self._shown = 0  # length of the line that the next one replaces
        self._lock = threading.Lock()  # `heartbeat` writes from another thread
        self.rewrite: Say | None = self._rewrite if stream.isatty() else None

    def say(self, text: str) -> None:
        """Print a line."""
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
    """Redirect a stream that cannot be written to the null device, since flushing its buffer at exit would fail."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def duration(seconds: float | int) -> str:
    """Format a time span: 12 s, 3 min 05 s, 2 h 07 min."""
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
    """Print a message about a long operation at once and again every few seconds, with the elapsed time."""
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
    """Progress line for work of known length: position, rate, and remaining time.

    The clock starts when the object is created, so create it after the first step: then the time of compilation
    affects neither the rate nor the estimate.
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
        """Begin at step `start`, with `batch_size` images per step; the line shows `what` and `unit`."""
        self._start, self._end, self._batch_size = start, end, batch_size
        self._say, self._rewrite = say, rewrite
        self._every = REWRITE_EVERY if rewrite else PLAIN_EVERY
        self._clock, self._what, self._unit = clock, what, unit
        self._began = self._shown = clock()

    def due(self) -> bool:
        """Return whether it is time for a new line."""
        return self._clock() - self._shown >= self._every

    def rate(self, step: int) -> float:
        """Return images per second since the start; NaN before the first step."""
        seconds = self._clock() - self._began
        done = (step - self._start) * self._batch_size
        return done / seconds if done > 0 and seconds > 0 else float("nan")

    def line(self, step: int, note: str = "") -> str:
        """Return the progress line."""
        rate, speed = self.rate(step), ""
        if rate == rate:  # not NaN
            left = (self._end - step) * self._batch_size / rate
            speed = f"  {rate:.4g} {self._unit}/s  {duration(left)} left"
        return f"{self._what} {step}/{self._end}{'  ' + note if note else ''}{speed}"

    def show(self, step: int, note: str = "") -> None:
        """Print the progress line now."""
        self._shown = self._clock()
        (self._rewrite or self._say)(self.line(step, note))

    def report(self, step: int) -> None:
        """Print the line if it is due; print the last one permanently, unless the work was a single step."""
        if step < self._end:
            if self.due():
                self.show(step)
        elif self._rewrite or self._clock() - self._began > self._every:
            self._say(self.line(step))
