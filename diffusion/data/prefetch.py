"""Prefetching of batches in one thread."""

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from diffusion.numerics import at_least

T = TypeVar("T")


class Prefetch(Iterator[T], Generic[T]):
    """Iterator over make_batch(start_step), make_batch(start_step + 1), ...

    Close it when done, or use it in a `with` block. An exception in the thread is raised in place of its
    batch, after the earlier batches.
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
        self._make, self._steps = make_batch, iter(steps)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._ahead: deque[Future[T]] = deque()
        for _ in range(depth + 1):  # one more than `depth`: the batch in use
            self._begin()

    def _begin(self) -> None:
        for step in itertools.islice(self._steps, 1):
            self._ahead.append(self._thread.submit(self._make, step))

    def __iter__(self) -> "Prefetch[T]":
        return self

    def __next__(self) -> T:
        if not self._ahead:
            raise StopIteration
        batch = self._ahead[0]
        try:
            found = batch.result()
        except BaseException:
            if batch.done():  # otherwise a signal ended the wait
                self.close()
            raise
        self._ahead.popleft()
        self._begin()
        return found

    def close(self) -> None:
        """Stop the thread and wait for its current batch."""
        self._steps = iter(())
        self._ahead.clear()
        self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> "Prefetch[T]":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def prefetch(
    make_batch: Callable[[int], T],
    start_step: int = 0,
    depth: int = 2,
    stop_step: int | None = None,
) -> Prefetch[T]:
    """Return an iterator that makes batches ahead of the consumer in one thread.

    Args:
        make_batch: a pure function of the step.
        start_step: the first step.
        depth: largest number of finished batches that wait.
        stop_step: the step after the last one; None: endless.

    Example:
        >>> with prefetch(lambda step: 2 * step, start_step=3, stop_step=5) as batches:
        ...     list(batches)
        [6, 8]
    """
    return Prefetch(make_batch, start_step, depth, stop_step)
