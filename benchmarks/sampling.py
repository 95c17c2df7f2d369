"""Sampling: overhead of a step besides the network, images per second, and utilization of the device.

    overhead  `STEPS` steps at batch 1 with a denoiser that is one multiplication; microseconds per
              step, including the call itself; Heun's step has two evaluations
    images    the network of the case, DDIM with `case.steps` steps, a batch per call
    busy      seconds of a single synchronous block / seconds per block of a stream

A stream computes four blocks, of five steps each, asynchronously, as `scripts/sample.py --num_samples N` does.
The fraction is 1 if the device never waits; as the synchronous block contains one dispatch, it may exceed 1.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from benchmarks.cases import Case
from benchmarks.competitors import DRAW, OVERHEAD, STREAM, Interpreters, chosen
from benchmarks.report import absentees, distribution, number, progress, table
from benchmarks.rounds import Plan, measure
from benchmarks.train import tasks_of

STEPS = 100


def overhead(
    case: Case, plan: Plan, pythons: Interpreters, competitors: Sequence[Any]
) -> list[Any]:
    """Measure the samplers without a network."""
    alone = case.replaced(batch=1, steps=10 if case.shape[0] < 16 else STEPS, dtype="float32")
    tasks, absent = tasks_of(alone, competitors, pythons, "overhead")
    rows = measure(tasks, plan, progress)
    for r in rows:
        if r["values"]:
            each = [1e6 * s / alone.steps for s in r["values"]]
            r |= {"microseconds_per_step": distribution(each), "steps": alone.steps}
    return [*rows, *absent]


def images(case: Case, plan: Plan, pythons: Interpreters, competitors: Sequence[Any]) -> list[Any]:
    """Measure images per second."""
    tasks, absent = tasks_of(case, competitors, pythons, "draw")
    rows = measure(tasks, plan, progress)
    for r in rows:
        if r["values"]:
            r |= {"images_per_second": distribution([case.batch / s for s in r["values"]])}
    return [*rows, *absent]


def stream(case: Case, plan: Plan, pythons: Interpreters, competitors: Sequence[Any]) -> list[Any]:
    """Measure a block alone and blocks in a stream."""
    short = case.replaced(steps=min(case.steps, 5))  # short calls are the harder ones
    tasks, absent = tasks_of(short, competitors, pythons, "stream")
    rows = measure(tasks, dataclasses.replace(plan, repeats=1), progress)
    for r in rows:
        r["seconds"] = distribution(r["values"])
    return [*rows, *absent]


def busy(rows: Sequence[Any]) -> float | None:
    """Return the fraction of time in which the device is busy, from the rows of `stream`."""
    medians = {r["name"]: r.get("seconds", {}).get("median") for r in rows}
    alone, many = (medians.get(c.name) for c in STREAM)
    return alone / many if alone and many else None


PARTS = {"overhead": (overhead, OVERHEAD), "images": (images, DRAW), "stream": (stream, STREAM)}


def run(case: Case, plan: Plan, *, peer_pythons: Sequence[str] = (),
        only: Sequence[str] = ()) -> dict[str, Any]:  # fmt: skip
    """Measure all three, each row under the name of its part; see `train.run` for the arguments."""
    known = [*OVERHEAD, *DRAW, *STREAM]
    wanted = chosen(known, only)
    pythons = Interpreters.of(peer_pythons, known)
    rows = []
    for part, (measured, group) in PARTS.items():
        competitors = [c for c in group if c in wanted]
        rows += [{"part": part, **r} for r in measured(case, plan, pythons, competitors)]
    return {"rows": rows, "busy": busy(rows)}


def lines(found: dict[str, Any], case: Case) -> list[str]:
    """Return the tables."""
    quartiles = lambda d: " .. ".join(map(number, d["quartiles"]))

    def rows(key: str) -> list[tuple[Any, ...]]:
        return [
            (r["name"], r[key]["median"], quartiles(r[key]), r[key]["min"], r["first_seconds"])
            for r in found["rows"] if key in r
        ]  # fmt: skip

    head = lambda unit: ("who", unit, "quartiles", "min", "first call, s")
    share = found["busy"]
    return [
        "overhead, microseconds per step at batch 1",
        *table(head("us/step"), rows("microseconds_per_step")), "",
        f"images per second: {case.name}, {case.shape}, DDIM, {case.steps} steps, batch {case.batch}",
        *table(head("images/s"), rows("images_per_second")), "",
        *absentees(found["rows"]), "",
        f"device busy: {100 * share:.1f} %" if share else "device busy: not measured",
    ]  # fmt: skip
