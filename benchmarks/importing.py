"""CPU seconds of imports and of --help, in new processes, measured in turn."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from benchmarks.report import absentees, distribution, number, progress, table
from benchmarks.rounds import ROOT, Plan

IMPORTS = ("pass", "import jax", "import jax, flax.linen, optax", "import diffusion",
           "import diffusion.run.runner")  # fmt: skip
BASE = "import jax"  # what everything else is compared with
HEAD = ("what", "CPU s", "quartiles", "wall s", "CPU s beyond JAX's", "MiB")


def commands(quick: bool) -> dict[str, list[str]]:
    """Return the commands to start, by name; only the first few if `quick`."""
    found = {words: [sys.executable, "-c", words] for words in IMPORTS}
    if quick:
        return {name: found[name] for name in ("pass", BASE)}
    scripts = sorted(p.name for p in (ROOT / "scripts").glob("*.py") if not p.name.startswith("_"))
    helps = {f"{name} --help": [sys.executable, f"scripts/{name}", "--help"] for name in scripts}
    return found | helps | {"benchmarks --help": [sys.executable, "-m", "benchmarks", "--help"]}


def start(words: Sequence[str]) -> dict[str, float]:
    """Run a process to its end; return its CPU seconds, wall seconds and peak of resident memory.

    Raises:
        ValueError: the process failed.
    """
    began = time.perf_counter()
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        told = process.stderr.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise ValueError(f"{' '.join(words)}: {(told.splitlines() or ['no words'])[-1]}")
    scale = 1 if sys.platform == "darwin" else 1024
    return {
        "cpu": used.ru_utime + used.ru_stime,
        "wall": time.perf_counter() - began,
        "rss": used.ru_maxrss * scale,
    }


def run(plan: Plan, quick: bool) -> dict[str, Any]:
    """Start all commands in turn; the first round only warms the disk cache."""
    rows = {name: {"name": name, "values": []} for name in commands(quick)}
    for turn in range(plan.rounds + 1):
        progress(f"round {turn} of {plan.rounds}")
        for name, words in commands(quick).items():
            if "failed" in rows[name]:
                continue
            try:
                told = start(words)
            except ValueError as error:
                rows[name]["failed"] = str(error)
                continue
            rows[name]["values"] += [told] if turn else []
    for row in rows.values():
        for key in ("cpu", "wall", "rss"):
            row[key] = distribution([v[key] for v in row["values"]])
    base = rows[BASE]["cpu"].get("median")
    for row in rows.values():
        if row["cpu"] and base is not None:
            row["beyond_jax"] = row["cpu"]["median"] - base
    return {"rows": list(rows.values())}


def lines(found: dict[str, Any]) -> list[str]:
    """Return the table."""
    rows = [
        (r["name"], r["cpu"]["median"], " .. ".join(map(number, r["cpu"]["quartiles"])),
         r["wall"]["median"], r.get("beyond_jax"), r["rss"]["median"] / 2**20)
        for r in found["rows"] if r["cpu"]
    ]  # fmt: skip
    return [*table(HEAD, rows), "", *absentees(found["rows"])]
