"""Output of benchmarks: distributions, tables on standard output, JSON in a file."""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rounds import ROOT
from benchmarks.worker import cores


def say(text: str = "") -> None:
    """Print a line and flush."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def progress(text: str) -> None:
    """Print progress to standard error."""
    sys.stderr.write(f"[{time.strftime('%H:%M:%S')}] {text}\n")
    sys.stderr.flush()


def distribution(values: Sequence[float]) -> dict[str, Any]:
    """Return median, quartiles, minimum and number of values; {} without values."""
    if not values:
        return {}
    low, middle, high = (
        statistics.quantiles(values, n=4, method="inclusive")
        if len(values) > 1
        else [values[0]] * 3
    )
    return {"median": middle, "quartiles": [low, high], "min": min(values), "count": len(values)}


def cpu_name() -> str:
    """Return the model name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def revision() -> str:
    """Return the measured commit, marked if files differ from it."""
    git = lambda *words: subprocess.run(
        ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
    ).stdout.strip()
    try:
        return git("rev-parse", "--short", "HEAD") + (
            "+" if git("status", "--porcelain", "-uno") else ""
        )
    except OSError:
        return "unknown"


def machine() -> dict[str, Any]:
    """Return machine and date of a measurement, and the load of the machine."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "load": list(os.getloadavg()),
        "system": platform.platform(),
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "revision": revision(),
    }


def number(value: Any, digits: int = 3) -> str:
    """Return a number as text; "" for None."""
    if value is None or value == "":
        return ""
    if isinstance(value, str):
        return value
    return f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a Markdown table with aligned columns, the first one left-aligned."""
    cells = [[str(h) for h in head], *([number(c) for c in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    pad = lambda row: "| " + " | ".join(
        c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True))
    ) + " |"  # fmt: skip
    marks = ["-" * w if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return [pad(cells[0]), "|-" + "-|-".join(marks) + "-|", *map(pad, cells[1:])]


def absentees(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one line for every competitor that is missing or failed."""
    return [f"{r['name']}: {k}: {r[k]}" for r in records for k in ("missing", "failed") if k in r]


_FOLDERS = re.compile(r"(?<![\w.:/])/(?:[\w.+-]+/)+(?=[\w.+-])")


def without_folders(value: Any) -> Any:
    """Return plain data with absolute paths reduced to their last part, so that reports contain no local folders."""
    if isinstance(value, Mapping):
        return {without_folders(k): without_folders(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(v) for v in value]
    return _FOLDERS.sub("", value) if isinstance(value, str) else value


def finish(kind: str, found: Mapping[str, Any], lines: Sequence[str], out: str | None) -> None:
    """Print the table and write the results as JSON, with the machine."""
    say("\n".join(lines))
    if out:
        told = {"benchmark": kind, "machine": machine(), **without_folders(found)}
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps(told, indent=1) + "\n")
        say(f"written to {out}")
