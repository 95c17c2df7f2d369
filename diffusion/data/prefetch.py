"""Batches made ahead of time in one thread."""

import itertools
import queue
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from diffusion.numerics import at_least

T = TypeVar("T")
_POLL = 0.1  # seconds between looks at the stop flag; passing an item on does not wait for it


class Prefetch(Iterator[T], Generic[T]):
    """Iterator over make_batch(start_step), make_batch(start_step + 1), ...

    Close it when done, or use it in a `with` block. An exception in the thread is raised where the
    batch would have been returned, after the batches before it.
    """

    def __init__(
        self,
        make_batch: Callable[[int], T],
        start_step: int = 0,
        depth: int = 2,
        stop_step: int | None = None,
    ):
        at_least(1, depth=depth)
        steps = itertools.count(start_step) if stop_step is None else range(start_step, stop_step)
        self._items: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            # Not a method of self: the thread must not keep an abandoned iterator alive.
            target=_work,
            args=(make_batch, iter(steps), self._items, self._stop),
            name="prefetch",
            daemon=True,
        )
        weakref.finalize(self, self._stop.set)
        self._thread.start()

    def __iter__(self) -> "Prefetch[T]":
        return self

    def __next__(self) -> T:
        while not self._stop.is_set():
            try:
                item, error = self._items.get(timeout=_POLL)
            except queue.Empty:
                continue
            if error is None:
                return item
            self.close()
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stop the thread and wait for the batch that it is making."""
        self._stop.set()
        self._thread.join()

    def __enter__(self) -> "Prefetch[T]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _work(
    make_batch: Callable[[int], Any],
    steps: Iterator[int],
    items: queue.Queue[tuple[Any, BaseException | None]],
    stop: threading.Event,
) -> None:
    """Fill the queue until told to stop; the last item carries an error or the end."""
    error: BaseException | None = None
    while not stop.is_set() and error is None:
        item = None
        try:
            item = make_batch(next(steps))
        except BaseException as caught:
            error = caught
        while not stop.is_set():
            try:
                items.put((item, error), timeout=_POLL)
                break
            except queue.Full:
                continue


def prefetch(
    make_batch: Callable[[int], T],
    start_step: int = 0,
    depth: int = 2,
    stop_step: int | None = None,
) -> Prefetch[T]:
    """Run ahead of the consumer in one thread.

    Args:
        make_batch: a pure function of the step.
        start_step: the first step.
        depth: batches that wait at most.
        stop_step: the step after the last one; None: endless.

    Example:
        >>> with prefetch(lambda step: 2 * step, start_step=3, stop_step=5) as batches:
        ...     list(batches)
        [6, 8]
    """
    return Prefetch(make_batch, start_step, depth, stop_step)
