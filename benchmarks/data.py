"""Batches per second of data sets, beside the batches per second that a training step takes."""

import sys
from typing import Any

from benchmarks.cases import Case
from benchmarks.report import absentees, distribution, number, progress, table
from benchmarks.rounds import Plan, Task, measure
from benchmarks.train import devices_for, environment
from benchmarks.worker import cores

SETS = ("array", "digits", "fashion_mnist")
STEP = "a training step"
HEAD = ("batches", "batches/s", "quartiles", "examples/s", "seconds / step's seconds")


def tasks_of(case: Case) -> list[Task]:
    """Return the data sets, made and placed, and our training step."""
    devices = devices_for(case, cores())
    shared = {"python": sys.executable, "case": case.to_json(), "environment": environment(devices)}
    sets = [
        Task(name=f"{name}, {how}", module="ours_data", work="batches", variant=f"{name}:{how}", **shared)
        for name in SETS for how in ("made", "placed")
    ]  # fmt: skip
    return [*sets, Task(name=STEP, module="ours", work="train", **shared)]


def run(case: Case, plan: Plan) -> dict[str, Any]:
    """Measure all; the fraction of a row is its seconds in units of those of the step."""
    rows = measure(tasks_of(case), plan, progress)
    for r in rows:
        if r["values"]:
            r |= {"seconds": distribution(r["values"])}
    step = next(r for r in rows if r["name"] == STEP).get("seconds", {}).get("median")
    for r in rows:
        if "seconds" in r:
            r |= {
                "batches_per_second": distribution([1 / s for s in r["values"]]),
                "share_of_step": r["seconds"]["median"] / step if step else None,
            }
    return {"rows": rows}


def lines(found: dict[str, Any], case: Case) -> list[str]:
    """Return the table."""
    rows = [
        (r["name"], r["batches_per_second"]["median"],
         " .. ".join(map(number, r["batches_per_second"]["quartiles"])),
         case.batch * r["batches_per_second"]["median"], r["share_of_step"])
        for r in found["rows"] if "seconds" in r
    ]  # fmt: skip
    head = f"batches of {case.batch}; the step is that of {case.name}, {case.shape}"
    return [head, *table(HEAD, rows), "", *absentees(found["rows"])]
