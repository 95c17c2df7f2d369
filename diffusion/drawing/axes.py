"""Figures and axes that the pictures share.

For data in the plane, a panel is a window in space; for data on a line, it is x over t, with a logarithmic time axis
if t_max is 5 or more.
"""

import os
import textwrap
from typing import Any

import numpy as np

from diffusion.drawing.measures import MANY
from diffusion.drawing.scene import Scene
from diffusion.evaluation import images

PathLike = str | os.PathLike[str]

DATA = dict(color="black", label="data")


def new_figure(scene: Scene, width: float | int, height: float | int, heading: str) -> Any:
    """Return an empty figure with the definition as its title and the settings as its footer."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no global state, no window system

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    lines = [heading, *scene.title.split("\n")]
    wrapped = [textwrap.fill(line, int(12.5 * width)) for line in lines if line]
    figure.suptitle("\n".join(wrapped), fontsize=10, parse_math=False)
    figure.supxlabel(scene.footer, fontsize=7, color="0.35", parse_math=False)
    return figure


def save_figure(path: PathLike, figure: Any) -> None:
    """Write a figure as PNG, atomically."""
    images.write_file(path, lambda scratch: figure.savefig(scratch, format="png", dpi=110))


def time_colors(scene: Scene) -> Any:
    """Return the color scale of times, logarithmic, since paths are most curved near the data."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, LogNorm

    high = float(scene.times[0])
    low = scene.last_moment if 0 < scene.last_moment < high else high / 50
    dark = ListedColormap(colormaps["plasma"](np.linspace(0, 0.87, 256)))  # no yellow on white
    return ScalarMappable(LogNorm(low, high, clip=True), dark)


def span(scene: Scene) -> tuple[float, float]:
    """Return the shown range of time."""
    times = scene.times[scene.times > 0] if scene.log_time else scene.times
    return float(times[-1]), float(times[0])


def spread(count: int, of: int) -> np.ndarray:
    """Return up to `count` evenly spaced indices below `of`."""
    return np.unique(np.linspace(0, of - 1, min(count, of)).round().astype(int))


def plane(axes: Any, scene: Scene, half: float, title: str) -> None:
    """Set up a square window around the data, with a frame around the data if it is small."""
    from matplotlib.patches import Rectangle

    x, y = scene.center
    axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half), aspect="equal")
    axes.set_title(title, fontsize=9)
    axes.tick_params(which="both", labelsize=7)
    inner = scene.data_half
    if half > 2 * inner:
        corner = (x - inner, y - inner)
        axes.add_patch(
            Rectangle(corner, 2 * inner, 2 * inner, fill=False, color="tab:red", lw=1, zorder=5)
        )


def line(axes: Any, scene: Scene, half: float, title: str) -> None:
    """Set up axes of x over t; in a wide window, x is linear around the data and logarithmic far away."""
    low, high = span(scene)
    axes.set_xscale("log" if scene.log_time else "linear")
    if half > 10 * scene.data_half:
        axes.set_yscale("asinh", linear_width=scene.data_half + abs(float(scene.center[0])))
    middle = float(scene.center[0])
    axes.set(xlim=(low, high), ylim=(middle - half, middle + half))
    axes.set_xlabel("t: data to noise", fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.tick_params(which="both", labelsize=7)


def mark_values(axes: Any, scene: Scene) -> None:
    """Draw data on a line as dotted levels, or as a rug plot if there are many values."""
    values = np.unique(scene.points[:, 0])
    if len(values) <= MANY:
        for k, value in enumerate(values):
            label = "data" if k == 0 else None
            axes.axhline(value, color="black", lw=0.8, ls=":", zorder=3, label=label)
    else:
        axes.plot(np.full(len(values), span(scene)[0]), values, "_", ms=8, **DATA)


def legend(axes: Any) -> None:
    """Add a legend at the upper right."""
    axes.legend(fontsize=7, loc="upper right", framealpha=0.9)
