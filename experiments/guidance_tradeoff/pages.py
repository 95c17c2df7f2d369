"""The table and the pictures, from results.json and the examples that were kept."""

from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
NAMES = {
    "classifier_free": "classifier-free",
    "interval": "classifier-free on an interval",
    "autoguidance": "autoguidance",
    "classifier": "classifier, on the unconditional model",
    "both": "classifier, on the conditional model",
}


def curve(rows: dict[str, Any], method: str, name: str) -> tuple[list[float], list[float]]:
    """Return scales and one measure of a method, in order of the scale."""
    pairs = sorted((float(scale), row[name]) for scale, row in rows.get(method, {}).items())
    return [a for a, _ in pairs], [b for _, b in pairs]


def table(found: dict[str, Any]) -> str:
    """Return everything measured as Markdown."""
    lines = ["# Guidance: benefit and cost", ""]
    lines += ["Written by `python -m experiments.guidance_tradeoff`.", ""]
    for tier, rows in found.items():
        lines += [f"## {tier}", "", "| guidance | scale | requested class | Frechet | diversity |"]
        lines += ["|---|---:|---:|---:|---:|"]
        cells = lambda row: (
            f"{row['agreement']:.1%} ± {row['agreement_error']:.1%} | {row['frechet']:.2f} | {row['diversity']:.3f}"
        )
        lines += [f"| training data | | {cells(rows['training data'])} |"]
        for method, name in NAMES.items():
            for scale, row in sorted(rows.get(method, {}).items(), key=lambda item: float(item[0])):
                lines.append(f"| {name} | {scale} | {cells(row)} |")
        for name, row in rows.get("other noise", {}).items():
            lines.append(f"| from other noise: {name} | | {cells(row)} |")
        lines.append("")
    return "\n".join(lines)


def plot(rows: dict[str, Any], path: Path) -> None:
    """Draw the fraction of requested classes against the scale, and what it costs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    real = rows["training data"]
    for number, (method, name) in enumerate(NAMES.items()):
        scales, agreement = curve(rows, method, "agreement")
        if not scales:
            continue
        wrong = 100 * (1 - np.array(agreement))
        style = dict(color=f"C{number}", marker="o", markersize=4, label=name)
        left.plot(scales, wrong, **style)
        for axes, measure in ((middle, "frechet"), (right, "diversity")):
            values = curve(rows, method, measure)[1]
            axes.plot(wrong, values, **style)
            axes.annotate(f"{scales[-1]:g}", (wrong[-1], values[-1]), xytext=(5, 3),
                          textcoords="offset points", fontsize=8, color=f"C{number}")  # fmt: skip
    asked = "examples that are not of the requested class, %"
    left.set(xlabel="scale", ylabel=asked)
    middle.set(xlabel=asked, ylabel="Frechet distance on pixels", yscale="log")
    right.set(xlabel=asked, ylabel="mean distance within a class, real data = 1")
    for axes, measure in ((middle, "frechet"), (right, "diversity")):
        axes.axhline(real[measure], color="gray", linestyle=":", label="training data")
        axes.set_xscale("symlog", linthresh=0.3)
        axes.set(xlim=(-0.1, 130))
        _plain(axes.xaxis, (0, 0.3, 1, 3, 10, 30, 100))
    left.set_yscale("symlog", linthresh=0.3)
    _plain(left.yaxis, (0, 0.3, 1, 3, 10, 30, 100))
    _plain(middle.yaxis, (0.5, 0.7, 1, 2, 4) if real["frechet"] < 0.7 else ())
    figure.legend(
        *middle.get_legend_handles_labels(), loc="outside lower center", ncols=6, fontsize=8
    )
    figure.savefig(path, dpi=100)


def _plain(axis: Any, ticks: tuple[float, ...]) -> None:
    """Write numbers in full, at these places if there are any."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    if ticks:
        axis.set_ticks(ticks)
        axis.set_minor_formatter(NullFormatter())


SHOWN = (("classifier_free", "0"), ("classifier_free", "1"), ("classifier_free", "2"), ("classifier_free", "6"),
         ("interval", "6"), ("autoguidance", "2"), ("classifier", "3"), ("both", "2"))  # fmt: skip


def picture(tier: str, folder: Path, path: Path) -> None:
    """Show one row of examples per method and scale, all classes in turn from the same noise."""
    from matplotlib.figure import Figure

    files = {(m, s): folder / f"{tier}-{m}-{s}.npy" for m, s in SHOWN}
    rows = {key: np.load(file)[:20] for key, file in files.items() if file.is_file()}
    if not rows:
        return
    figure = Figure(figsize=(11, 0.42 * len(rows)))
    for axes, ((method, scale), x) in zip(
        np.atleast_1d(figure.subplots(len(rows), 1)), rows.items(), strict=True
    ):
        x = np.pad(np.clip(x, -1, 1), ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=1.0)
        axes.imshow(np.concatenate(list(x), axis=1).squeeze(-1), cmap="gray", vmin=-1, vmax=1)
        axes.set_axis_off()
        axes.text(-0.01, 0.5, f"{NAMES[method]}: {scale}", transform=axes.transAxes, ha="right",
                  va="center", fontsize=8)  # fmt: skip
    figure.subplots_adjust(left=0.24, right=0.995, top=0.995, bottom=0.005, hspace=0.02)
    figure.savefig(path, dpi=100)


def write(found: dict[str, Any], folder: Path) -> None:
    """Write table.md and the pictures."""
    (HERE / "table.md").write_text(table(found))
    for tier, rows in found.items():
        plot(rows, HERE / f"{tier}.png")
        picture(tier, folder, HERE / f"{tier}_examples.png")
