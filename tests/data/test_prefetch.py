import threading
import time

import pytest

from diffusion.data import prefetch


def num_threads():
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


def test_order_and_clean_close():
    with prefetch(lambda step: step * step, start_step=3) as batches:
        assert [next(batches) for _ in range(5)] == [9, 16, 25, 36, 49]
    assert num_threads() == 0
    with pytest.raises(StopIteration):
        next(batches)
    batches.close()  # twice is no error


def test_end():
    assert list(prefetch(lambda step: step, start_step=2, stop_step=6)) == [2, 3, 4, 5]


def test_runs_ahead_but_no_further_than_depth():
    made = []
    with prefetch(lambda step: made.append(step), depth=3) as batches:
        deadline = time.monotonic() + 5
        while len(made) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert made == [0, 1, 2, 3]  # three wait, and one is in hand
        next(batches)


def test_errors_reach_the_consumer_after_the_batches_before_them():
    def make_batch(step):
        if step == 2:
            raise RuntimeError("damaged record")
        return step

    batches = prefetch(make_batch)
    assert next(batches) == 0
    assert next(batches) == 1
    with pytest.raises(RuntimeError, match="damaged record"):
        next(batches)
    assert num_threads() == 0
    with pytest.raises(StopIteration):
        next(batches)


def test_an_abandoned_iterator_stops_its_thread():
    batches = prefetch(lambda step: step)
    next(batches)
    del batches
    deadline = time.monotonic() + 5
    while num_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert num_threads() == 0


def test_depth_must_be_positive():
    with pytest.raises(ValueError, match="depth"):
        prefetch(lambda step: step, depth=0)
