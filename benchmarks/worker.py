"""One competitor in a process of its own: prepares its work, then times it whenever it is told to.

    PYTHON -m benchmarks.worker MODULE WORK VARIANT CASE_JSON

MODULE is a module of benchmarks.peers, WORK a function in it, (case, variant) -> `Work`. The process says
"ready" with what it knows, reads lines {"rounds": ..} from standard input, and answers each with seconds;
an empty line ends it. Answers are lines of JSON behind a mark, so that what libraries print does no harm.
The interpreter may be another one than ours, so nothing but the standard library is imported here.
"""

import importlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.cases import Case

MARK = "@@benchmark "


@dataclass(frozen=True, kw_only=True)
class Work:
    """Something that can be done again and again.

    Attributes:
        run: does the work n times and returns when the last is done, not only dispatched.
        facts: what is known of it: versions, parameters, FLOPs, what differs from the others' work.
        memory: device memory at its peak in bytes, where a device can say.
        size: how many of what is counted one piece of the work does; seconds are told for one of them.
    """

    run: Callable[[int], Any]
    facts: dict[str, Any] = field(default_factory=dict)
    memory: Callable[[], int | None] = lambda: None
    size: int = 1


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def seconds_of(run: Callable[[int], Any], count: int) -> float:
    """Return the seconds of `count` pieces of work, all finished."""
    began = time.perf_counter()
    run(count)
    return time.perf_counter() - began


def pieces(seconds: float, least: float, most: int = 1000) -> int:
    """Return how many pieces of work fill the least time of one measurement."""
    return max(1, min(most, round(least / max(seconds, 1e-9))))


def peak_rss() -> int:
    """Return the peak of the resident memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else 1024 * peak


def answer(**record: Any) -> None:
    """Write one line for the parent."""
    sys.stdout.write(MARK + json.dumps(record) + "\n")
    sys.stdout.flush()


def serve(work: Work, began: float) -> None:
    """Warm up, say ready, and time the work for every line that comes."""
    first = seconds_of(work.run, 1)
    again = min(seconds_of(work.run, 1) for _ in range(2))
    answer(ready=True, facts=work.facts | {
        "python": platform.python_version(), "build_seconds": time.perf_counter() - began,
        "first_seconds": first, "warm_seconds": again,
    })  # fmt: skip
    count = 0
    for line in sys.stdin:
        if not line.strip():
            break
        order = json.loads(line)
        warm = seconds_of(work.run, 1)  # another process has had the caches in between
        count = count or order.get("steps") or pieces(min(again, warm), order["least_seconds"])
        each = count * work.size
        times = [seconds_of(work.run, count) / each for _ in range(order["repeats"])]
        answer(seconds=times, pieces=count)
    answer(done=True, peak_rss=peak_rss(), peak_device=work.memory())


def main(argv: list[str]) -> None:
    """Prepare the work and serve."""
    module, function, variant, case = argv
    began = time.perf_counter()
    peer = importlib.import_module(f"benchmarks.peers.{module}")
    serve(getattr(peer, function)(Case.from_json(case), variant), began)


if __name__ == "__main__":
    main(sys.argv[1:])
