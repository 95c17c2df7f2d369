"""Work in a thread whose end and whose error somebody asks for."""

import contextlib
import os
import threading
from collections.abc import Callable


class Background:
    """A function that runs in a thread of lower priority, from now on."""

    def __init__(self, work: Callable[[], None], name: str):
        """Start it."""
        self._work = work
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError, AttributeError):  # Linux only: threads have priorities
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        try:
            self._work()
        except BaseException as error:  # handed over to whoever asks, whatever it is
            self._error = error

    def ends_within(self, seconds: float) -> bool:
        """Wait for its end, but not longer than this; say whether it has come."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def finish(self) -> BaseException | None:
        """Wait for its end; return what it died of."""
        self._thread.join()
        return self._error
