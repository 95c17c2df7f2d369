"""The share of time in which the device is busy while a program runs, by traces of short windows.

    python -m benchmarks.watch [--every 10] [--window 2] [--after 20] [--out FILE] PROGRAM [ARGUMENTS ...]
    python -m benchmarks.watch scripts/sample.py --workdir runs/digits --num_samples 50000 --out samples.npz

The program runs in this process as it would alone. A thread beside it traces a window now and then: a trace of
the whole would not fit on a disk. Busy is the union over all devices of the operations of compiled programs; loops,
calls and branches, which contain the others, are not counted themselves. An operation that began before its window is
not seen, so the share is a little too low. Columns: seconds since the start, operations, busy share.
"""

import argparse
import glob
import json
import os
import runpy
import statistics
import sys
import tempfile
import threading
import time
from typing import Any

from benchmarks.profile import union
from benchmarks.report import distribution, machine, say

CONTAINERS = ("while", "call", "conditional")  # operations that only contain others


def operations(folder: str) -> list[tuple[float, float]]:
    """Return (start, end) in seconds of every operation of a compiled program in a folder's only trace."""
    import jax

    (file,) = glob.glob(os.path.join(folder, "**", "*.xplane.pb"), recursive=True)
    return [
        (event.start_ns / 1e9, (event.start_ns + event.duration_ns) / 1e9)
        for plane in jax.profiler.ProfileData.from_file(file).planes
        for line in plane.lines
        for event in line.events
        if event.duration_ns and _operation(dict(event.stats).get("hlo_op"))
    ]


def _operation(name: Any) -> bool:
    return isinstance(name, str) and not name.startswith(CONTAINERS)


def window(seconds: float) -> dict[str, Any]:
    """Trace for some seconds; return how long, how many operations ran, and the share of time they cover."""
    import jax

    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # or every call of a Python function would be slowed down
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            began = time.perf_counter()
            time.sleep(seconds)
            wall = time.perf_counter() - began
        spans = operations(folder)
    return {"seconds": wall, "operations": len(spans), "busy": min(union(spans) / wall, 1.0)}


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
        sys.stderr.write(
            f"[{record['at']:.0f} s] {record['operations']} operations, busy {record['busy']:.1%}\n"
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
    shares = [record["busy"] for record in found]
    if not shares:
        say(f"the program took {seconds:.1f} s: no window fits; see --after and --every")
        return
    say(
        f"{len(shares)} windows in {seconds:.0f} s: busy {statistics.mean(shares):.1%} on average, "
        f"median {statistics.median(shares):.1%}, least {min(shares):.1%}"
    )
    if out:
        told = {"benchmark": "watch", "machine": machine(), "command": command, "seconds": seconds,
                "busy": distribution(shares), "rows": found}  # fmt: skip
        with open(out, "w", encoding="utf-8") as file:
            file.write(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
