"""Measurement of competitors in separate processes, in turn: A B C, A B C, ...

All are prepared first, one after the other. Then each round measures each of them once, while the others wait
for a line of standard input; slow changes of the machine therefore affect all equally. No two of them compute at
the same time.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.worker import MARK

ROOT = Path(__file__).resolve().parent.parent
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One competitor: its function, the arguments, and the interpreter."""

    name: str
    module: str
    work: str
    case: str  # JSON
    variant: str = ""
    python: str = sys.executable
    environment: tuple[tuple[str, str], ...] = ()

    def command(self) -> list[str]:
        """Return the words of the process."""
        words = [self.module, self.work, self.variant, self.case]
        return [self.python, "-u", "-m", "benchmarks.worker", *words]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Number and duration of measurements.

    Attributes:
        rounds: number of rounds.
        repeats: measurements per round and competitor.
        least_seconds: least duration of one measurement, which repeats the work as often as needed.
        timeout: seconds that one competitor may take to prepare, and for one round.
    """

    rounds: int = 5
    repeats: int = 3
    least_seconds: float = 0.3
    timeout: float = 1800.0


class FailedError(Exception):
    """A competitor failed; the message is the last line of its error."""


class Worker:
    """The process of one competitor."""

    def __init__(self, task: Task):
        self.task, self._buffer = task, b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **dict(task.environment)}
        self._process = subprocess.Popen(
            task.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
            cwd=ROOT, env=environment,
        )  # fmt: skip

    def _last_error(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").splitlines()
        told = [line.strip() for line in lines if line.strip()]
        return told[-1][:300] if told else f"left with code {self._process.poll()}"

    def listen(self, timeout: float) -> dict[str, Any]:
        """Return the next answer.

        Raises:
            FailedError: the process ended, or did not answer in time.
        """
        out, until = self._process.stdout, time.monotonic() + timeout
        assert out is not None
        while True:
            while b"\n" in self._buffer:
                line, self._buffer = self._buffer.split(b"\n", 1)
                if MARK.encode() in line:
                    return json.loads(line.split(MARK.encode(), 1)[1])
            if not select.select([out], [], [], max(0.0, until - time.monotonic()))[0]:
                raise FailedError(f"said nothing for {timeout:.0f} s")
            part = os.read(out.fileno(), 65536)
            if not part:
                self._process.wait()
                raise FailedError(self._last_error())
            self._buffer += part

    def tell(self, **order: Any) -> None:
        """Write an order to the process."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps(order) if order else "").encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise FailedError(self._last_error()) from None

    def close(self) -> None:
        """End the process, even if it is busy."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()  # pyright: ignore[reportOptionalMemberAccess]
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()  # pyright: ignore[reportOptionalMemberAccess]
        self._errors.close()


@contextlib.contextmanager
def started(tasks: Sequence[Task], plan: Plan, say: Say) -> Iterator[tuple[dict, dict]]:
    """Start the competitors one after the other; yield those that are ready, and the records of all."""
    workers: dict[str, Worker] = {}
    records: dict[str, dict[str, Any]] = {}
    try:
        for task in tasks:
            say(f"preparing {task.name}")
            workers[task.name] = worker = Worker(task)
            records[task.name] = {"name": task.name, "values": []}
            try:
                records[task.name] |= worker.listen(plan.timeout)["facts"]
            except FailedError as error:
                _failed(records[task.name], error, say)
        yield workers, records
    finally:
        for worker in workers.values():
            worker.close()


def _failed(record: dict[str, Any], error: Exception, say: Say) -> None:
    record["failed"] = str(error)
    say(f"{record['name']} failed: {error}")


def measure(
    tasks: Sequence[Task], plan: Plan, say: Say = lambda text: None
) -> list[dict[str, Any]]:
    """Measure all tasks in rounds; return one record each, with "values" in seconds, or "failed".

    Args:
        tasks: tasks in the order of a round; names must differ.
        plan: number and duration of measurements.
        say: called with a line of progress.
    """
    order = {"repeats": plan.repeats, "least_seconds": plan.least_seconds}
    with started(tasks, plan, say) as (workers, records):
        alive = lambda: [(n, w) for n, w in workers.items() if "failed" not in records[n]]
        for number in range(plan.rounds):
            say(f"round {number + 1} of {plan.rounds}")
            for name, worker in alive():
                try:
                    worker.tell(**order)
                    told = worker.listen(plan.timeout)
                    records[name]["values"] += told["seconds"]
                    records[name]["pieces"] = told["pieces"]
                except FailedError as error:
                    _failed(records[name], error, say)
        for name, worker in alive():
            try:
                worker.tell()
                last = worker.listen(plan.timeout)
                records[name] |= {k: last[k] for k in ("peak_rss", "peak_device")}
            except FailedError as error:
                _failed(records[name], error, say)
    return list(records.values())
