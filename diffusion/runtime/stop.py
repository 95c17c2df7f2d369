"""Clean shutdown after a signal."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import jax

from diffusion.runtime import exits

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def ignored(number: signal.Signals) -> bool:
    """Return whether a signal is ignored, as SIGHUP under nohup."""
    return number == signal.SIGHUP and signal.getsignal(number) is signal.SIG_IGN


class StopRequestedError(Exception):
    """A signal came while the process was waiting."""


class StopFlag:
    """While active, the first SIGTERM, SIGINT, SIGUSR1 or SIGHUP sets a flag, and the second exits at once.

    The flag is polled between steps. Handlers are installed only in the main thread. With several processes, JAX
    distributes the notice, so that all of them stop after the same step. An ignored SIGHUP, as under nohup, stays
    ignored; and a SIGHUP never counts as the second signal, since closing a terminal may send several.
    """

    def __init__(self):
        main = threading.current_thread() is threading.main_thread()
        self._shared = jax.process_count() > 1
        # with several processes, JAX handles SIGTERM, and the other signals are forwarded as SIGTERM
        numbers = tuple(n for n in SIGNALS if not self._shared or n != signal.SIGTERM)
        self._numbers = numbers if main else ()
        self._before: dict[signal.Signals, Any] = {}
        self._waiting = False
        self._depth = 0  # the context may be entered again while active
        self.received: signal.Signals | None = None

    def __enter__(self) -> "StopFlag":
        self._depth += 1
        if self._depth > 1:
            return self
        self._before = {n: signal.signal(n, self._receive) for n in self._numbers if not ignored(n)}
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if self._depth:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGHUP:
                return
            os._exit(exits.ABANDONED)
        self.received = signal.Signals(number)
        if self._shared:
            os.kill(os.getpid(), signal.SIGTERM)
        elif self._waiting:
            raise StopRequestedError

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a signal end a long wait in the `with` block by raising `StopRequestedError`.

        With several processes a signal does not end the wait, since all of them have to stop after the same step.
        """
        self._waiting = True
        try:
            if self.hurried:
                raise StopRequestedError
            yield
        finally:
            self._waiting = False

    @property
    def hurried(self) -> bool:
        """Whether a signal came and this process, being the only one, may skip optional work."""
        return self.received is not None and not self._shared

    def requested(self, turn: int) -> bool:
        """Return whether to stop after this turn.

        Args:
            turn: a counter that rises by exactly one per call: JAX compares the step at which all processes stop
                for equality, so a skipped value would miss it.
        """
        if self._shared:
            from jax.experimental import multihost_utils

            agreed = multihost_utils.reached_preemption_sync_point(turn)
            if agreed:
                self.received = self.received or signal.SIGTERM
            return agreed
        return self.received is not None
