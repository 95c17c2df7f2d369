"""Leaving in good order when asked to by a signal."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax

from diffusion.training import exits


class StopFlag:
    """While active, the first SIGTERM or SIGINT raises a flag and the second leaves at once.

    The flag is polled between steps. Handlers are installed only in the main thread. With several
    processes the cluster's notice goes through JAX, so that all of them stop after the same step.
    """

    def __init__(self, enabled: bool = True):
        """Do nothing unless enabled."""
        main = threading.current_thread() is threading.main_thread()
        self._enabled = enabled
        self._shared = enabled and jax.process_count() > 1
        # JAX listens for SIGTERM itself where there are several processes
        numbers = (signal.SIGTERM, signal.SIGINT) if not self._shared else ()
        self._numbers = numbers if enabled and main else ()
        self._before: dict[signal.Signals, Any] = {}
        self.received: signal.Signals | None = None

    def __enter__(self) -> "StopFlag":
        self._before = {n: signal.signal(n, self._receive) for n in self._numbers}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            os._exit(exits.ABANDONED)
        self.received = signal.Signals(number)

    def requested(self, turn: int) -> bool:
        """Say whether to stop after this turn.

        Args:
            turn: a counter that rises by exactly one: JAX's agreement between processes is compared for
                equality and would be missed otherwise.
        """
        if self._shared:
            from jax.experimental import multihost_utils

            if multihost_utils.reached_preemption_sync_point(turn):
                self.received = signal.SIGTERM
        return self.received is not None
