"""table.md, the table of README.md and the picture, from what has been measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments._common import Panel, heading, markdown, plot

HERE = Path(__file__).parent
HEAD = ("bits per dimension", "Frechet, pixels", "Frechet, classifier")


def cells(row: Mapping[str, float]) -> tuple[str, ...]:
    """Return the numbers of a measurement; training images have no bits."""
    bits = f"{row['bits']:.3f} ± {row['bits_error']:.3f}" if "bits" in row else "-"
    return (bits, f"{row['pixels']:.2f}", f"{row['classifier']:.2f}")


def choices(found: Mapping[str, Any]) -> list[str]:
    """Return the short trainings."""
    return markdown(("choice", *HEAD), [(name, *cells(row)) for name, row in found.items()])


def foldings(found: Mapping[str, Any]) -> list[str]:
    """Return the trainings with and without folding."""
    rows = [(name, f"{row['minutes']:.0f}", *cells(row)) for name, row in found.items()]
    return markdown(("images", "minutes", *HEAD), rows)


def minutes(parts: Mapping[str, Any], step: str) -> float:
    """Return how long training took up to a step at its median speed."""
    training = parts["training"]
    return int(step) * training["batch"] / training["images per second"] / 60


def curve(parts: Mapping[str, Any]) -> list[str]:
    """Return the long training by step, and as many training images."""
    rows = [
        (step, f"{minutes(parts, step):.0f}", *cells(row)) for step, row in parts["curve"].items()
    ]
    rows.append(("training images", "-", *cells(parts["training images"])))
    return markdown(("steps", "minutes", *HEAD), rows)


def tables(parts: Mapping[str, Any]) -> list[str]:
    """Return both tables of a tier."""
    training = parts["training"]
    told = (
        f"{training['parameters']:,} parameters, {training['steps']:,} steps of {training['batch']} images, "
        f"{training['images per second']:.0f} images a second (median):"
    )
    lines = [
        told,
        "",
        *curve(parts),
        "Choices, by short trainings:",
        "",
        *choices(parts["choices"]),
    ]
    if "foldings" in parts:
        lines += ["Folded or not, each with a cosine of its own:", "", *foldings(parts["foldings"])]
    return lines


def table(found: Mapping[str, Any]) -> str:
    """Return everything measured as Markdown."""
    lines = heading("Fashion-MNIST by budget, measured", "fashion_mnist")
    for tier, parts in found.items():
        lines += [f"## {tier}", "", *tables(parts)]
    return "\n".join(lines)


def summary(found: Mapping[str, Any]) -> str:
    """Return the tables of README.md: the small tier."""
    return "\n".join(tables(found["small"]))


def pictures(found: Mapping[str, Any]) -> None:
    """Draw bits and distances along the training, and its loss."""
    parts = found["small"]
    steps = list(parts["curve"])
    x = [minutes(parts, step) for step in steps]
    rows, real = parts["curve"].values(), parts["training images"]
    bits = {"held-out": (x, [r["bits"] for r in rows], [r["bits_error"] for r in rows])}
    panels = [Panel(bits, "minutes", "bits per dimension", log_x=False, log_y=False)]
    for key in ("pixels", "classifier"):
        curves = {"generated": (x, [r[key] for r in rows])}
        panels.append(
            Panel(curves, "minutes", f"Frechet distance, {key}", log_x=False, log_y=False, level=real[key],
                  level_name="training images")
        )  # fmt: skip
    loss = parts["training"]["loss"]
    curves = {"training": ([minutes(parts, s) for s in loss], list(loss.values()))}
    panels.append(Panel(curves, "minutes", "loss", log_x=False))
    plot(HERE / "fashion_mnist.png", panels, columns=4)
