"""The fraction of time in which the device is busy while a program runs, by traces of short windows.

    python -m benchmarks.watch [--every 10] [--window 2] [--after 20] [--out FILE] PROGRAM [ARGUMENTS ...]
    python -m benchmarks.watch scripts/sample.py --workdir runs/digits --num_samples 50000 --out samples.npz

The program runs in this process as it would alone. A thread beside it traces a window now and then: a trace of
the whole would not fit on a disk. Two shares of the time, over all devices together:

    busy     some operation of a compiled program runs; loops, calls and branches, which contain others, do not count
    engaged  those count as well: what is missing is time in which devices wait for the host, and what lies between
             busy and engaged is what the runtime needs from one small operation to the next

What began before its window is not seen, so both are a little too low.
"""

import argparse
import glob
import os
import runpy
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

from benchmarks.profile import union
from benchmarks.report import distribution, finish, progress, say

CONTAINERS = ("while", "call", "conditional")  # operations that only contain others


def operations(folder: str) -> list[tuple[str, tuple[float, float]]]:
    """Return name and (start, end) in seconds of every operation of a compiled program in a folder's only trace."""
    import jax

    (file,) = glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True)
    return [
        (str(name), (event.start_ns / 1e9, (event.start_ns + event.duration_ns) / 1e9))
        for plane in jax.profiler.ProfileData.from_file(file).planes
        for line in plane.lines
        for event in line.events
        if event.duration_ns and (name := dict(event.stats).get("hlo_op")) is not None
    ]


def window(seconds: float) -> dict[str, Any]:
    """Trace for some seconds; return how long, how many operations ran, and both shares."""
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # or every call of a Python function would be slowed down
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            began = time.perf_counter()
            time.sleep(seconds)
            wall = time.perf_counter() - began
        found = operations(folder)
    plain = [span for name, span in found if not name.startswith(CONTAINERS)]
    every = [span for _, span in found]
    share = lambda spans: min(union(spans) / wall, 1.0)
    return {
        "seconds": wall,
        "operations": len(plain),
        "busy": share(plain),
        "engaged": share(every),
    }


def watch(
    every: float, length: float, after: float, found: list[dict[str, Any]], done: Any
) -> None:
    """Trace windows into `found` until the event `done` is set.

    Args:
        every: seconds between the beginnings of windows.
        length: of a window, in seconds.
        after: seconds before the first.
        found: where records of windows are appended.
        done: set when the program has ended.
    """
    began = time.perf_counter()
    wait = after
    while not done.wait(wait):
        now = time.perf_counter()
        record = {"at": now - began, **window(length)}
        if done.is_set():
            return  # the program ended inside this window
        found.append(record)
        progress(
            f"after {record['at']:.0f} s: {record['operations']} operations, busy {record['busy']:.1%}, "
            f"engaged {record['engaged']:.1%}"
        )
        wait = max(every - (time.perf_counter() - now), 0.0)


def main() -> int:
    """Run a program and print how busy the device was; return the program's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.watch", description="How busy a program keeps the device."
    )
    parser.add_argument("--every", type=float, default=10, help="seconds between windows")
    parser.add_argument("--window", type=float, default=2, help="seconds of a window")
    parser.add_argument("--after", type=float, default=20, help="seconds before the first window")
    parser.add_argument("--out", metavar="FILE", help="write every window as JSON")
    parser.add_argument("program", help="a file of Python")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the program")
    given = parser.parse_args()
    found: list[dict[str, Any]] = []
    done = threading.Event()
    thread = threading.Thread(
        target=watch, args=(given.every, given.window, given.after, found, done), daemon=True
    )
    code, began = 0, time.perf_counter()
    sys.argv = [given.program, *given.arguments]
    sys.path.insert(0, os.path.dirname(os.path.abspath(given.program)))
    thread.start()
    try:
        runpy.run_path(given.program, run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    seconds = time.perf_counter() - began
    done.set()
    thread.join()
    report(found, seconds, given.out, sys.argv)
    return code


def report(
    found: list[dict[str, Any]], seconds: float, out: str | None, command: list[str]
) -> None:
    """Print the distribution over windows and write the JSON."""
    if not found:
        say(f"the program took {seconds:.1f} s: no window fits; see --after and --every")
        return
    shares = {key: [record[key] for record in found] for key in ("busy", "engaged")}
    mean = lambda values: {"mean": statistics.mean(values), **distribution(values)}
    told = {key: mean(values) for key, values in shares.items()}
    lines = [f"{len(found)} windows in {seconds:.0f} s"] + [
        f"{key}: {d['mean']:.1%} on average, median {d['median']:.1%}, least {d['min']:.1%}"
        for key, d in told.items()
    ]
    finish("watch", {"command": command, "seconds": seconds, **told, "rows": found}, lines, out)


if __name__ == "__main__":
    sys.exit(main())
