"""Sampling: what a step costs beside the network, images per second, and how busy the device is.

    overhead  `STEPS` steps at batch 1 around a denoiser that is one multiplication; microseconds per
              step, the call itself included; Heun's step has two evaluations
    images    the network of the case, DDIM with `case.steps` steps, a batch per call
    busy      seconds of a block that is waited for / seconds per block of a stream

A stream asks for four blocks at once, of five steps each, as `scripts/sample.py --num_samples N` does.
The share is 1 if the device waits for nothing; as the block that is waited for contains one dispatch, it may exceed 1.
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
    """Measure the samplers alone."""
    alone = case.replaced(batch=1, steps=10 if case.shape[0] < 16 else STEPS, dtype="float32")
    tasks, absent = tasks_of(alone, competitors, pythons, 1, "overhead")
    rows = measure(tasks, plan, progress)
    for r in rows:
        if r["values"]:
            each = [1e6 * s / alone.steps for s in r["values"]]
            r |= {"microseconds_per_step": distribution(each), "steps": alone.steps}
    return [*rows, *absent]


def images(
    case: Case, plan: Plan, pythons: Interpreters, competitors: Sequence[Any], cores: int
) -> list[Any]:
    """Measure images per second."""
    tasks, absent = tasks_of(case, competitors, pythons, cores, "draw")
    rows = measure(tasks, plan, progress)
    for r in rows:
        if r["values"]:
            r |= {"images_per_second": distribution([case.batch / s for s in r["values"]])}
    return [*rows, *absent]


def busy(case: Case, plan: Plan, pythons: Interpreters, cores: int) -> dict[str, Any]:
    """Measure a block alone and blocks in a stream."""
    short = case.replaced(steps=min(case.steps, 5))  # short calls are the harder ones
    tasks, absent = tasks_of(short, STREAM, pythons, cores, "stream")
    rows = measure(tasks, dataclasses.replace(plan, repeats=1), progress)
    values = {r["name"]: distribution(r["values"]) for r in rows}
    alone, many = (values.get(c.name, {}).get("median") for c in STREAM)
    share = alone / many if alone and many else None
    return {"share": share, "rows": [*rows, *absent]}


def run(case: Case, plan: Plan, *, peer_pythons: Sequence[str] = (), only: Sequence[str] = (),
        cores: int = 1) -> dict[str, Any]:  # fmt: skip
    """Measure all three; see `train.run` for the arguments."""
    known = [*OVERHEAD, *DRAW, *STREAM]
    wanted = {c.name for c in chosen(known, only)}
    pythons = Interpreters.of(peer_pythons, known)
    pick = lambda group: [c for c in group if c.name in wanted]
    return {
        "overhead": overhead(case, plan, pythons, pick(OVERHEAD)),
        "images": images(case, plan, pythons, pick(DRAW), cores) if pick(DRAW) else [],
        "busy": busy(case, plan, pythons, cores) if pick(STREAM) else {"share": None, "rows": []},
    }


def lines(found: dict[str, Any], case: Case) -> list[str]:
    """Return the tables."""
    quartiles = lambda d: " .. ".join(map(number, d["quartiles"]))

    def rows(records: Sequence[Any], key: str) -> list[tuple[Any, ...]]:
        return [
            (r["name"], r[key]["median"], quartiles(r[key]), r[key]["min"], r["first_seconds"])
            for r in records if key in r
        ]  # fmt: skip

    head = lambda unit: ("who", unit, "quartiles", "min", "first call, s")
    share = found["busy"]["share"]
    return [
        "overhead, microseconds per step at batch 1",
        *table(head("us/step"), rows(found["overhead"], "microseconds_per_step")), "",
        *absentees(found["overhead"]), "",
        f"images per second: {case.name}, {case.shape}, DDIM, {case.steps} steps, batch {case.batch}",
        *table(head("images/s"), rows(found["images"], "images_per_second")), "",
        *absentees([*found["images"], *found["busy"]["rows"]]), "",
        f"device busy: {100 * share:.1f} %" if share else "device busy: not measured",
    ]  # fmt: skip
