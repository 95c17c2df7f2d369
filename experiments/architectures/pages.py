"""table.md, the table of README.md and the pictures, from what has been measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments._common import Panel, heading, markdown, plot

HERE = Path(__file__).parent
RESIDUALS = ("adaptive", "pre_norm", "post_norm", "deep_norm", "deep_pre")


def contest(found: Mapping[str, Any]) -> list[str]:
    """Return costs, Frechet distances and errors by level."""
    levels = list(next(iter(found.values()))["levels"])
    rows = []
    for name, r in found.items():
        errors = [f"{r['levels'][v]:.4f} ± {r['level_errors'][v]:.4f}" for v in levels]
        cost = (f"{r['parameters']:,}", f"{r['megaflops']:.1f}")
        rows.append((name, *cost, f"{r['frechet']:.2f}", *errors))
    head = (
        "network",
        "parameters",
        "megaflops",
        "Frechet",
        *(f"log-SNR {v}" for v in levels),
    )
    return markdown(head, rows)


def brief(found: Mapping[str, Any]) -> list[str]:
    """Return costs, Frechet distances and the mean error over levels."""
    rows = []
    for name, r in found.items():
        error = np.mean(list(r["levels"].values()))
        cost = (f"{r['parameters']:,}", f"{r['megaflops']:.1f}")
        rows.append((name, *cost, f"{r['frechet']:.2f}", f"{error:.4f}"))
    return markdown(("network", "parameters", "megaflops", "Frechet", "mean error"), rows)


def enlarged(found: Mapping[str, Any]) -> list[str]:
    """Return errors of enlarged images without and with log n."""
    rows = []
    for name, r in found.items():
        for pixels, row in r.get("enlarged", {}).items():
            pairs = [f"{row['plain'][v]:.4f} / {row['log n'][v]:.4f}" for v in row["plain"]]
            rows.append((name, pixels, *pairs))
    levels = ("-2", "0", "2")
    return markdown(("network", "side", *(f"log-SNR {v}" for v in levels)), rows)


def at_length(runs: Mapping[str, Any], length: str, level: str, name: str) -> float:
    """Return the mean over trainings of an error less that of the exact denoiser."""
    rows = [r[length][level] for r in runs.values()]
    return float(np.mean([row[name] - row["exact"] for row in rows]))


def lengths(runs: Mapping[str, Any]) -> list[str]:
    """Return errors of signals by length."""
    first = next(iter(runs.values()))
    rows = []
    for length, by_level in first.items():
        cells = []
        for level, row in by_level.items():
            plain, scaled = (at_length(runs, length, level, name) for name in ("plain", "log n"))
            cells.append(f"{row['exact']:.3f} + {plain:.3f} / {scaled:.3f}")
        rows.append((length, *cells))
    head = ("tokens", *(f"log-SNR {v}" for v in next(iter(first.values()))))
    return markdown(head, rows)


def depths(found: Mapping[str, Any]) -> list[str]:
    """Return the first update, the gradient and the loss by depth."""
    rows = []
    for residual in [r for r in RESIDUALS if r in found]:
        for depth, r in sorted(found[residual].items(), key=lambda item: int(item[0])):
            numbers = (f"{r['gradient']:.2f}", f"{r['update']:.0f}")
            rows.append((residual, depth, *numbers, f"{r['loss']:.3f}"))
    head = ("residual", "blocks", "gradient", "first update", "loss at the end")
    return markdown(head, rows)


def table(found: Mapping[str, Any]) -> str:
    """Return everything measured as Markdown."""
    lines = heading("Architectures, measured", "architectures")
    for tier, parts in found.items():
        if "contest" in parts:
            lines += [f"## {tier}: U-Net against DiT", "", *contest(parts["contest"])]
            lines += [
                f"## {tier}: the same at other sizes, plain / log n",
                "",
                *enlarged(parts["contest"]),
            ]
        if "lengths" in parts:
            lines += [
                f"## {tier}: signals, error of the exact denoiser + excess, plain / log n",
                "",
            ]
            lines += lengths(parts["lengths"])
        if "depths" in parts:
            lines += [f"## {tier}: residuals by depth", "", *depths(parts["depths"])]
    return "\n".join(lines)


def summary(found: Mapping[str, Any]) -> str:
    """Return the tables of README.md: the small tier."""
    parts = found.get("small", {})
    lines = []
    if "contest" in parts:
        lines += brief(parts["contest"])
    if "lengths" in parts:
        lines += [
            "Signals, trained at 32 tokens: error of the exact denoiser + excess, plain / log n:",
            "",
        ]
        lines += lengths(parts["lengths"])
    if "depths" in parts:
        lines += ["Residuals by depth:", "", *depths(parts["depths"])]
    return "\n".join(lines)


def pictures(found: Mapping[str, Any]) -> None:
    """Draw errors by level and by length, and the first update by depth."""
    parts, panels = found.get("small", {}), []
    if "contest" in parts:
        curves = {
            name: ([float(v) for v in r["levels"]], list(r["levels"].values()), list(r["level_errors"].values()))
            for name, r in parts["contest"].items()
        }  # fmt: skip
        panels.append(Panel(curves, "log-SNR", "error per pixel, digits", log_x=False))
    if "lengths" in parts:
        runs = parts["lengths"]
        tokens = list(next(iter(runs.values())))
        curves = {
            f"{name}, log-SNR {level}": (
                [float(np.log2(int(n))) for n in tokens],
                [max(1e-4, at_length(runs, n, level, name)) for n in tokens],
            )
            for level in ("-2", "2") for name in ("plain", "log n")
        }  # fmt: skip
        panels.append(
            Panel(
                curves,
                "log2 of the tokens (5 in training)",
                "excess error per number, signals",
                log_x=False,
            )
        )
    if "depths" in parts:
        for key, label in (("update", "first update of the output"), ("loss", "loss at the end")):
            curves: dict[str, Any] = {
                r: zip(*sorted((float(np.log2(int(d))), row[key]) for d, row in rows.items()), strict=True)
                for r, rows in parts["depths"].items()
            }  # fmt: skip
            panels.append(
                Panel(curves, "log2 of the blocks", label, log_x=False, log_y=key == "update")
            )
    if panels:
        plot(HERE / "architectures.png", panels, columns=2)
