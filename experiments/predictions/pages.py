"""table.md, the table of README.md and the pictures, from what has been measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments._common import Panel, heading, markdown, plot, spread

HERE = Path(__file__).parent
OUTPUTS = ("data", "noise", "velocity")


def values(seeds: Mapping[str, Any], name: str) -> list[float]:
    """Return one number of all trainings of a combination."""
    return [seeds[seed][name] for seed in sorted(seeds)]


def short(numbers: list[float]) -> str:
    """Return a mean over trainings with its spread, to digits that suit its size."""
    size = abs(float(np.mean(numbers)))
    return spread(numbers, 0 if size >= 20 else 1 if size >= 2 else 2 if size >= 0.2 else 4)


def nine(part: Mapping[str, Any], name: str) -> list[str]:
    """Return a table with a row per width and output, and a column per loss."""
    rows = []
    for width in sorted(part, key=int):
        for output in OUTPUTS:
            by_loss = part[width].get(output, {})
            cells = [short(values(by_loss[k], name)) if k in by_loss else "-" for k in OUTPUTS]
            if by_loss:
                rows.append((width, output, *cells))
    return markdown(("width", "network gives", *(f"loss on {k}" for k in OUTPUTS)), rows)


def excess(toy: Mapping[str, Any]) -> list[str]:
    """Return excess errors at t = 0.5 beside the floors of linear maps."""
    rows = []
    for width in sorted(toy["nine"], key=int):
        for output in OUTPUTS:
            for of_loss, seeds in toy["nine"][width].get(output, {}).items():
                found = [seeds[s]["excess"]["0.5"] for s in sorted(seeds)]
                off = short(values(seeds, "off"))
                floor = toy["floors"][width][output]["0.5"]
                rows.append((width, output, of_loss, short(found), f"{floor:g}", off))
    head = (
        "width",
        "network gives",
        "loss on",
        "excess",
        "linear floor",
        "distance from the plane",
    )
    return markdown(head, rows)


def sweep(toy: Mapping[str, Any]) -> list[str]:
    """Return errors by dimension."""
    rows = []
    for dim in sorted(toy.get("sweep", {}), key=int):
        found = toy["sweep"][dim]
        for output in [k for k in OUTPUTS if k in found]:
            row, floor = found[output], toy["sweep floors"][dim][output]["0.5"]
            cells = [short([row[name]]) for name in ("energy", "energy_in_plane", "off")]
            rows.append((dim, output, *cells, short([row["excess"]["0.5"]]), f"{floor:g}"))
    head = ("D", "network gives", "energy distance", "in the plane", "distance from the plane",
            "excess at t = 0.5", "linear floor")  # fmt: skip
    return markdown(head, rows)


def table(found: Mapping[str, Any]) -> str:
    """Return everything measured as Markdown."""
    lines = heading("Predictions, measured", "predictions")
    for tier, parts in found.items():
        if "toy" in parts:
            toy = parts["toy"]
            real = toy["real"]
            lines += [f"## {tier}: energy distance, a plane in many dimensions", ""]
            lines += [f"Training points: {real['energy']:.4f} ± {real['error']:.4f}.", ""]
            lines += nine(toy.get("nine", {}), "energy")
            lines += [f"## {tier}: excess of E|x_0 - x_0_hat|^2 at t = 0.5", "", *excess(toy)]
            lines += [f"## {tier}: by dimension, loss on the velocity", "", *sweep(toy)]
        if "digits" in parts:
            lines += [f"## {tier}: digits, Frechet distance on pixels", ""]
            lines += [f"Training images: {parts['digits']['real']:.2f}.", ""]
            lines += nine(parts["digits"].get("nine", {}), "frechet")
    return "\n".join(lines)


def summary(found: Mapping[str, Any]) -> str:
    """Return the table of README.md: the small tier."""
    parts = found.get("small", {})
    lines = []
    if "nine" in parts.get("toy", {}):
        real = parts["toy"]["real"]
        lines += ["Energy distance on the plane in 64 dimensions "
                  f"(training points: {real['energy']:.4f} ± {real['error']:.4f}):", ""]  # fmt: skip
        lines += nine(parts["toy"]["nine"], "energy")
    if "nine" in parts.get("digits", {}):
        lines += [
            f"Frechet distance on digits (training images: {parts['digits']['real']:.2f}):",
            "",
        ]
        lines += nine(parts["digits"]["nine"], "frechet")
    return "\n".join(lines)


def pictures(found: Mapping[str, Any], models: Path) -> None:
    """Draw errors against the dimension, and digits of each output."""
    toy = found.get("small", {}).get("toy", {})
    if toy.get("sweep"):
        dims = sorted(toy["sweep"], key=int)
        energy, off = {}, {}
        for output in OUTPUTS:
            there = [d for d in dims if output in toy["sweep"][d]]
            rows = [toy["sweep"][d][output] for d in there]
            x = [float(np.log2(int(d))) for d in there]
            energy[output] = (x, [max(r["energy"], 1e-4) for r in rows])
            off[output] = (x, [r["excess"]["0.5"] for r in rows])
            floor = [toy["sweep floors"][d][output]["0.5"] for d in there]
            if any(floor):
                keep = [k for k, v in enumerate(floor) if v > 0]
                curve = ([x[k] for k in keep], [floor[k] for k in keep])
                off[f"{output}, best linear map"] = curve
        label = "log2 of the dimensions around the plane"
        plot(HERE / "dimension.png", [
            Panel(energy, label, "energy distance", log_x=False),
            Panel(off, label, "excess of E|x_0 - x_0_hat|^2, t = 0.5", log_x=False),
        ])  # fmt: skip
    files = sorted(models.glob("predictions-small-*.npy"), key=lambda f: int(f.stem.split("-")[-1]))
    if files:
        from diffusion import build
        from diffusion.evaluation import pictures

        x = np.concatenate([np.load(f).reshape(-1, 8, 8, 1) for f in files])
        names = [f"{f.stem.split('-')[-1]}: {output}" for f in files for output in OUTPUTS]
        spec: Any = build("dataset", "digits")
        pictures.save_examples(HERE / "digits.png", x, spec.spec, columns=10, names=names)
