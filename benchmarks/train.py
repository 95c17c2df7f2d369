"""Seconds of a training step, of this package and of others, with the limit set by a matrix product."""

import os
from collections.abc import Sequence
from typing import Any

from benchmarks.cases import Case
from benchmarks.competitors import TRAIN, Competitor, Interpreters, chosen
from benchmarks.report import absentees, distribution, number, progress, table
from benchmarks.rounds import Plan, Task, measure
from benchmarks.worker import cores

LIMITS = (
    Competitor("matrix product, JAX", "matmul", ("jax",), "jax"),
    Competitor("matrix product, PyTorch", "matmul", ("torch",), "torch"),
)
FLAG = "--xla_force_host_platform_device_count"
HEAD = ("who", "parameters, M", "GFLOP", "s/step", "quartiles", "min", "images/s", "MFU, %",
        "GFLOP by XLA", "memory, MiB", "first step, s", "ratio")  # fmt: skip


def environment(devices: int) -> tuple[tuple[str, str], ...]:
    """Return environment variables of a process: virtual devices on a CPU, and no preallocation on a GPU."""
    given = " ".join(w for w in os.environ.get("XLA_FLAGS", "").split() if not w.startswith(FLAG))
    flags = f"{given} {FLAG}={devices}".strip()
    return (("XLA_FLAGS", flags), ("XLA_PYTHON_CLIENT_PREALLOCATE", "false"))


def devices_for(case: Case, number_of_cores: int) -> int:
    """Return the number of virtual devices for this package: one per core, if they divide the batch."""
    if case.devices:
        return case.devices
    return max(n for n in (1, 2, 4, 8) if n <= number_of_cores and case.batch % n == 0)


def tasks_of(
    case: Case,
    competitors: Sequence[Competitor],
    pythons: Interpreters,
    work: str = "train",
) -> tuple[list[Task], list[dict[str, Any]]]:
    """Return the tasks of the installed competitors, and records of the others."""
    tasks, absent = [], []
    for c in competitors:
        python = pythons.of_competitor(c)
        if python is None:
            absent.append(pythons.missing(c))
            continue
        devices = 1 if c.one_device else devices_for(case, cores())
        tasks.append(Task(
            name=c.name, module=c.module, work=work, variant=c.variant, case=case.to_json(),
            python=python, environment=environment(devices),
        ))  # fmt: skip
    return tasks, absent


def limits(case: Case, pythons: Interpreters, plan: Plan) -> list[dict[str, Any]]:
    """Measure matrix products of the case's dtype."""
    tasks = [
        Task(name=c.name, module=c.module, work=c.variant, case=case.to_json(), python=python,
             environment=environment(1))
        for c in LIMITS if (python := pythons.of_competitor(c))
    ]  # fmt: skip
    records = measure(tasks, Plan(rounds=2, repeats=plan.repeats, least_seconds=plan.least_seconds))
    for r in records:
        r["flops_per_second"] = [r["flops"] / s for s in r["values"]]
    return records


def peak(limit: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the highest median FLOP/s of a matrix product, and the library that reached it."""
    rates = {}
    for r in limit:
        rates.setdefault(r["name"], []).extend(r["flops_per_second"])
    medians = {name: distribution(v)["median"] for name, v in rates.items() if v}
    best = max(medians, key=lambda name: medians[name], default=None)
    return {"whose": best, "flops_per_second": medians.get(best), "medians": medians}


def derived(record: dict[str, Any], case: Case, limit: float | None) -> dict[str, Any]:
    """Return a record with what follows from its values."""
    told = distribution(record.get("values", []))
    if not told:
        return record
    seconds, flops = told["median"], record.get("flops")
    utilization = flops / seconds / limit if flops and limit else None
    more = {"images_per_second": case.batch / seconds, "mfu": utilization}
    return record | {"seconds": told} | more


def run(
    case: Case, plan: Plan, *, peer_pythons: Sequence[str] = (), only: Sequence[str] = ()
) -> dict[str, Any]:
    """Measure one case; return rows and limits.

    Args:
        case: the work.
        plan: how long.
        peer_pythons: interpreters of other environments.
        only: beginnings of names.
    """
    known = [c for c in TRAIN if case.family in c.families]
    competitors = chosen(known, only)
    pythons = Interpreters.of(peer_pythons, [*competitors, *LIMITS])
    tasks, absent = tasks_of(case, competitors, pythons)
    before = limits(case, pythons, plan)
    rows = measure(tasks, plan, progress)
    after = limits(case, pythons, plan)
    found = peak([*before, *after])
    rows = [derived(r, case, found["flops_per_second"]) for r in rows]
    return {"rows": [*rows, *absent], "limit": found, "limits": {"before": before, "after": after}}


def lines(found: dict[str, Any], case: Case) -> list[str]:
    """Return the table of a case."""
    done = [r for r in found["rows"] if "seconds" in r]
    base = done[0]["seconds"]["median"] if done else None
    mega = lambda value, unit: None if value is None else value / unit
    rows = [
        (
            r["name"], mega(r.get("parameters"), 1e6), mega(r.get("flops"), 1e9), r["seconds"]["median"],
            " .. ".join(number(q) for q in r["seconds"]["quartiles"]), r["seconds"]["min"],
            r["images_per_second"], mega(r["mfu"], 0.01), mega(r.get("flops_xla"), 1e9),
            mega(r.get("peak_device") or r.get("peak_rss"), 2**20), r.get("first_seconds"),
            r["seconds"]["median"] / base if base else None,
        )
        for r in done
    ]  # fmt: skip
    limit = found["limit"]
    rate = limit["flops_per_second"]
    head = f"{case.name}: {case.family}, {case.shape}, batch {case.batch}, {case.dtype}"
    told = f"limit: {rate / 1e9:.0f} GFLOP/s ({limit['whose']})" if rate else "limit: not measured"
    return [head, told, "", *table(HEAD, rows), "", *absentees(found["rows"])]
