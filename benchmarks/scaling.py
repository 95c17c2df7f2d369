"""Seconds of our training step against one quantity at a time, and the exponent of the power law.

    batch       1   the work is proportional to the examples
    side        2   and to the pixels; attention, on few pixels here, adds more
    channels    2   a convolution multiplies channels in by channels out
    devices     0 to -1, since the batch is divided: -1 if a single device uses one core, 0 if it uses
                all cores; virtual devices add no cores

The exponent is the slope of a straight line through the logarithms, by least squares. Small sizes have a relatively
large constant cost, so the exponents approach the expected ones from below.
"""

import math
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks.cases import Case
from benchmarks.report import absentees, distribution, number, progress, table
from benchmarks.rounds import Plan, Task, measure
from benchmarks.train import devices_for, environment
from benchmarks.worker import cores

EXPECTED = {"batch": "1", "side": "2", "channels": "2", "devices": "0 to -1"}
HEAD = ("against", "value", "s/step", "quartiles", "GFLOP", "exponent", "of FLOPs", "expected")


def cases_of(case: Case, number_of_cores: int) -> dict[str, list[tuple[float, Case]]]:
    """Return the cases by quantity, each with its value."""
    height, _, colors = case.shape
    shaped = lambda side: case.replaced(shape=(side, side, colors), batch=max(case.batch // 4, 1))
    wide = lambda factor: case.replaced(channels=int(case.channels * factor), width=int(case.width * factor),
                                        batch=max(case.batch // 2, 1))  # fmt: skip
    counts = [n for n in (1, 2, 4, 8) if n <= max(2, number_of_cores) and case.batch % n == 0]
    return {
        "batch": [(case.batch // f, case.replaced(batch=case.batch // f)) for f in (4, 2, 1)],
        "side": [(height * f, shaped(height * f)) for f in (1, 2)] if height >= 64
        else [(int(height * f), shaped(int(height * f))) for f in (0.5, 1, 2)],
        "channels": [(case.channels * f, wide(f)) for f in (0.5, 1, 2)],
        "devices": [(n, case.replaced(devices=n)) for n in counts],
    }  # fmt: skip


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the exponent of y = c x^p by least squares of logarithms; NaN for fewer than two points."""
    a, b = [math.log(v) for v in x], [math.log(v) for v in y]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    spread = sum((v - mean_a) ** 2 for v in a)
    if not spread:
        return math.nan
    return sum((v - mean_a) * (w - mean_b) for v, w in zip(a, b, strict=True)) / spread


def run(case: Case, plan: Plan) -> dict[str, Any]:
    """Measure one quantity after the other; the values of one are measured in turn."""
    rows, exponents = [], {}
    for quantity, cases in cases_of(case, cores()).items():
        tasks = [
            Task(name=f"{quantity} {value:g}", module="ours", work="train", case=c.to_json(),
                 python=sys.executable, environment=environment(devices_for(c, cores())))
            for value, c in cases
        ]  # fmt: skip
        records = measure(tasks, plan, progress)
        for (value, _), r in zip(cases, records, strict=True):
            rows.append(
                r | {"quantity": quantity, "value": value, "seconds": distribution(r["values"])}
            )
        done = [r for r in rows if r["quantity"] == quantity and r["seconds"]]
        if len(done) > 1:
            of = lambda key, done=done: slope([r["value"] for r in done], [key(r) for r in done])
            exponents[quantity] = {
                "seconds": of(lambda r: r["seconds"]["median"]),
                "flops": of(lambda r: r["flops"]),
                "expected": EXPECTED[quantity],
            }
    return {"rows": rows, "exponents": exponents}


def lines(found: dict[str, Any], case: Case) -> list[str]:
    """Return the table."""
    rows, seen = [], set()
    for r in found["rows"]:
        if not r["seconds"]:
            continue
        law = found["exponents"].get(r["quantity"], {}) if r["quantity"] not in seen else {}
        seen.add(r["quantity"])
        rows.append((
            r["quantity"], r["value"], r["seconds"]["median"],
            " .. ".join(map(number, r["seconds"]["quartiles"])), r["flops"] / 1e9,
            law.get("seconds"), law.get("flops"), law.get("expected", ""),
        ))  # fmt: skip
    return [f"{case.name}, one training step", *table(HEAD, rows), "", *absentees(found["rows"])]


def draw(found: dict[str, Any], path: str) -> None:
    """Draw seconds against each quantity, both logarithmic, with the fitted lines."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    quantities = list(found["exponents"])
    figure, axes = plt.subplots(1, max(len(quantities), 1), squeeze=False, layout="constrained",
                                figsize=(3 * max(len(quantities), 1), 3))  # fmt: skip
    for ax, quantity in zip(axes[0], quantities, strict=False):
        done = [r for r in found["rows"] if r["quantity"] == quantity and r["seconds"]]
        x, y = [r["value"] for r in done], [r["seconds"]["median"] for r in done]
        low, high = zip(*(r["seconds"]["quartiles"] for r in done), strict=True)
        bars = [
            [m - b for m, b in zip(y, low, strict=True)],
            [t - m for m, t in zip(y, high, strict=True)],
        ]
        ax.errorbar(x, y, yerr=bars, fmt="o", capsize=3)
        law = found["exponents"][quantity]
        middle = math.exp(sum(map(math.log, x)) / len(x)), math.exp(sum(map(math.log, y)) / len(y))
        ax.plot(x, [middle[1] * (v / middle[0]) ** law["seconds"] for v in x])
        ax.set(xscale="log", yscale="log", xlabel=quantity, ylabel="seconds per step",
               title=f"{law['seconds']:.2f} (expected {law['expected']})")  # fmt: skip
        for axis, values in ((ax.xaxis, x), (ax.yaxis, y)):  # what was measured, and nothing else
            axis.set_ticks(values, [number(v) for v in values])
            axis.set_ticks([], minor=True)
    figure.savefig(path, dpi=100)
    plt.close(figure)
