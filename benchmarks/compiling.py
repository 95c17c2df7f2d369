"""Seconds from the start of a process to its first training step, with and without a compilation cache.

Each value comes from a new process: without a cache, with an empty cache, and with a cache filled by the previous
process.
"""

import sys
import tempfile
from typing import Any

from benchmarks.cases import Case
from benchmarks.report import absentees, distribution, number, progress, table
from benchmarks.rounds import Plan, Task, measure
from benchmarks.train import devices_for, environment
from benchmarks.worker import cores

PARTS = ("trace_seconds", "lower_seconds", "compile_seconds", "first_seconds", "build_seconds")
HOWS = ("no cache", "first start", "second start")
HEAD = ("case, start", "trace, s", "lower, s", "compile, s", "first step, s", "until warm, s")


def task(case: Case, how: str, folder: str) -> Task:
    """Return the task of starting one process."""
    variant = "" if how == HOWS[0] else folder
    return Task(name=f"{case.name}, {how}", module="ours", work="cached", variant=variant,
                case=case.to_json(), python=sys.executable,
                environment=environment(devices_for(case, cores())))  # fmt: skip


def run(case: Case, plan: Plan) -> dict[str, Any]:
    """Start processes, `plan.rounds` of each kind."""
    rows: dict[str, dict[str, Any]] = {}
    once = Plan(rounds=0, timeout=plan.timeout)
    for turn in range(plan.rounds):
        progress(f"round {turn + 1} of {plan.rounds}")
        with tempfile.TemporaryDirectory(prefix="benchmark") as folder:
            for how in HOWS:
                (told,) = measure([task(case, how, folder)], once, progress)
                row = rows.setdefault(told["name"], {"name": told["name"], "values": []})
                row["values"].append({k: told.get(k) for k in PARTS})
                row |= {k: told[k] for k in ("failed", "versions", "device") if k in told}
    for row in rows.values():
        for part in PARTS:
            row[part] = distribution([v[part] for v in row["values"] if v[part] is not None])
    return {"rows": list(rows.values())}


def lines(found: dict[str, Any], case: Case) -> list[str]:
    """Return the table, of medians."""
    rows = [
        (r["name"], *(number(r[part].get("median")) for part in PARTS))
        for r in found["rows"] if r[PARTS[0]]
    ]  # fmt: skip
    return [
        f"{case.name}, {case.shape}, {case.dtype}",
        *table(HEAD, rows),
        "",
        *absentees(found["rows"]),
    ]
