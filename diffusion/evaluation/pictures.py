"""Pictures of examples of any kind: grids of images, scatter plots of points, curves of signals.

Images of 1 or 3 channels are shown directly. Of other images, and of latents, the channels are shown side by side in
gray, with a line of text above.
"""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from diffusion.data import DataSpec
from diffusion.evaluation import images

PathLike = str | os.PathLike[str]


def natural_scale(spec: DataSpec, target: int = 48) -> int:
    """Return the magnification that makes small images visible."""
    return max(1, target // max(spec.shape[:2])) if spec.pictured else 1


def _viewable(x: np.ndarray, spec: DataSpec) -> tuple[np.ndarray, str]:
    """Return 8-bit images of 1 or 3 channels, and a line of explanation or ""."""
    x = np.asarray(x, np.float32)
    peak = 1.0 if spec.kind == "image" else float(np.abs(x[np.isfinite(x)]).max(initial=0)) or 1.0
    if spec.kind == "image" and x.shape[-1] in (1, 3):
        return images.to_uint8(x), ""
    beside = np.moveaxis(x, -1, -2).reshape(*x.shape[:2], -1, 1)
    said = f"{x.shape[-1]} channel{'s side by side' if x.shape[-1] > 1 else ''}: black {-peak:.3g}, white {peak:.3g}"
    return images.to_uint8(beside / peak), said


def grid(
    x: Float[np.ndarray, " batch *data"], spec: DataSpec, columns: int, names: Sequence[str] = ()
) -> np.ndarray:
    """Return images as one grid, (height, width, channels), with the names of its rows on the left."""
    viewable, said = _viewable(x, spec)
    canvas = images.image_grid(viewable, columns, border=2, scale=natural_scale(spec))
    return images.titled(images.label_rows(canvas, names), said)


def save_examples(
    path: PathLike,
    x: Float[np.ndarray, " batch *data"],
    spec: DataSpec,
    columns: int = 8,
    names: Sequence[str] = (),
    title: str = "",
) -> None:
    """Write a picture of examples of any kind.

    Args:
        path: the PNG.
        x: examples in the range of the data.
        spec: description of the data.
        columns: images per row.
        names: one per row of images, or none.
        title: title of a plot of points or signals.
    """
    x = np.asarray(x, np.float32)
    if spec.pictured:
        images.save_png(path, grid(x, spec, columns, names))
    elif spec.kind == "points" and x.shape[-1] == 2:
        images.scatter_grid(path, [x], [title] if title else (), columns=1)
    else:
        _save_curves(path, x.reshape(len(x), -1), title)


def save_trajectory(
    path: PathLike, states: Float[np.ndarray, "times batch *data"], spec: DataSpec, frames: int = 10
) -> None:
    """Draw trajectories from noise to data: one row per example, or one panel per time for points."""
    chosen = np.unique(np.linspace(0, len(states) - 1, frames).round().astype(int))
    states = np.asarray(states, np.float32)[chosen]
    if spec.pictured:
        rows = np.swapaxes(states, 0, 1)
        peak = np.maximum(1.0, np.abs(states).reshape(len(states), -1).max(axis=1))
        rows = rows / peak.reshape(1, -1, *(1,) * (rows.ndim - 2))  # noise may be far out of range
        flat = rows.reshape(-1, *rows.shape[2:])
        images.save_png(path, grid(flat, spec, columns=len(chosen)))
    elif states.shape[-1] == 2:
        images.scatter_grid(path, list(states), [f"step {i}" for i in chosen], columns=len(chosen))
    else:
        _save_curves(path, states[-1].reshape(states.shape[1], -1), "")


def save_animation(
    path: PathLike, states: Float[np.ndarray, "times batch *data"], spec: DataSpec, columns: int = 8
) -> None:
    """Write trajectories from noise to data as an animated GIF of images, with a pause at the end."""
    if spec.kind != "image":
        raise ValueError(f"an animation shows images, not {spec.kind}: use a trajectory.")
    states = np.asarray(states, np.float32)
    frames = [grid(x / max(1.0, float(np.abs(x).max())), spec, columns) for x in states[:-1]]
    last = grid(states[-1], spec, columns)
    images.save_gif(path, [*frames, *[last] * 10], ms=80)


def save_lines(
    path: PathLike, curves: dict[str, tuple[Any, Any]], xlabel: str, ylabel: str, log: bool = False
) -> None:
    """Write curves of numbers as a PNG: name -> (x, y)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, (x, y) in curves.items():
        axes.plot(x, y, marker="o", markersize=3, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel, yscale="log" if log else "linear")
    if len(curves) > 6:  # legend next to the curves instead of on them
        axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    else:
        axes.legend(fontsize=8)
    images.write_file(path, lambda scratch: figure.savefig(scratch, format="png", dpi=120))


def _save_curves(path: PathLike, x: np.ndarray, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    if x.shape[1] == 1:
        axes.hist(x[:, 0], bins=60, density=True)
    else:
        axes.plot(x[:16].T, linewidth=0.8)
    axes.set_title(title, fontsize=9)
    images.write_file(path, lambda scratch: figure.savefig(scratch, format="png", dpi=120))
