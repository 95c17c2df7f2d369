"""Picture of paths: the conditional paths, which define the process, next to those of the generative ODE.

If the prior is much wider than the data, a second panel shows the neighborhood of the data.
"""

from typing import Any

import numpy as np

from diffusion.drawing.axes import (
    DATA,
    PathLike,
    legend,
    line,
    mark_values,
    new_figure,
    plane,
    save_figure,
    span,
    spread,
    time_colors,
)
from diffusion.drawing.measures import landed
from diffusion.drawing.scene import Scene

_SHOWN = 200  # paths in a picture
DEFINED = "the definition: paths from a point, one for each z"
GENERATED = ("generation: paths of the averaged field", "the same, around the data")


def save_trajectories(path: PathLike, scene: Scene) -> None:
    """Draw conditional paths, which define the process, next to paths of the generative ODE."""
    zoom = scene.wide
    with_ode = scene.states is not None
    count = 1 + with_ode * (1 + zoom)
    figure = new_figure(scene, 4.6 * count + 0.6, 5.4, "Paths from noise to data and back")
    axes = figure.subplots(1, count, squeeze=False)[0]
    draw = _plane_paths if scene.dims == 2 else _line_paths
    draw(axes, scene, scene.half(0))
    if scene.dims == 2:
        bar = figure.colorbar(time_colors(scene), ax=list(axes), pad=0.01)
        bar.ax.tick_params(which="both", labelsize=7)
        bar.set_label("t: data to noise", fontsize=8)
    save_figure(path, figure)


def _colored(axes: Any, scene: Scene, states: np.ndarray, width: float, alpha: float) -> None:
    """Draw paths (times, paths, 2), colored by time."""
    from matplotlib.collections import LineCollection

    pieces = np.stack([states[:-1], states[1:]], axis=2)  # (times - 1, paths, 2 ends, 2)
    middle = (scene.times[:-1] + scene.times[1:]) / 2
    colors = time_colors(scene).to_rgba(np.repeat(middle, states.shape[1]))
    lines = LineCollection(
        list(pieces.reshape(-1, 2, 2)), colors=colors, linewidths=width, alpha=alpha
    )
    axes.add_collection(lines)


def _plane_paths(axes: Any, scene: Scene, half: float) -> None:
    fans = scene.fans
    _colored(axes[0], scene, fans.reshape(len(fans), -1, 2), 1.1, 0.9)
    axes[0].scatter(*scene.points.T, s=4, lw=0, color="0.75", zorder=0, label="data")
    axes[0].scatter(*scene.starts.T, s=30, color="black", zorder=4, label="x_0, some of the data")
    ends = fans[0].reshape(-1, 2).T
    axes[0].scatter(*ends, s=14, fc="white", ec="tab:green", zorder=4, label="x_t at t_max")
    plane(axes[0], scene, half, DEFINED)
    legend(axes[0])
    if scene.states is None or scene.ends is None:
        return
    pick = spread(_SHOWN, scene.states.shape[1])
    states, ends = scene.states[:, pick], scene.ends[pick].T
    for ax, size, title in zip(axes[1:], (half, scene.data_half), GENERATED, strict=False):
        _colored(ax, scene, states, 0.7, 0.75)
        ax.scatter(*scene.points.T, s=5, alpha=0.5, lw=0, zorder=0, **DATA)
        ax.scatter(*states[0].T, s=7, fc="white", ec="tab:green", lw=0.7, zorder=4, label="start")
        ax.scatter(*ends, s=7, lw=0, color="tab:red", zorder=5, label="generated")
        plane(ax, scene, size, title)
        legend(ax)


def _line_paths(axes: Any, scene: Scene, half: float) -> None:
    from matplotlib import colormaps

    fans = scene.fans[..., 0]
    for k in range(fans.shape[1]):
        color = colormaps["tab10"](k)
        axes[0].plot(scene.times, fans[:, k], color=color, lw=0.8, alpha=0.8)
        axes[0].plot([], [], color=color, label=f"from x_0 = {scene.starts[k, 0]:.3g}")
    line(axes[0], scene, half, DEFINED)
    axes[0].set_ylabel("x", fontsize=8)
    legend(axes[0])
    if scene.states is None:
        return
    pick = spread(80, scene.states.shape[1])
    for ax, size, title in zip(axes[1:], (half, scene.data_half), GENERATED, strict=False):
        ax.plot(scene.times, scene.states[:, pick, 0], color="tab:blue", lw=0.6, alpha=0.7)
        ax.plot([], [], color="tab:blue", label="paths, from right to left")
        mark_values(ax, scene)
        line(ax, scene, size, title)
        legend(ax)
    _name_shares(axes[-1], scene)


def _name_shares(axes: Any, scene: Scene) -> None:
    """Label each data value with the fraction of the paths that end there."""
    found = landed(scene)
    if found is None:
        return
    for value, fraction, reached in zip(*found, strict=True):
        axes.annotate(
            f"{100 * reached:.0f} % of paths, {100 * fraction:.0f} % of data",
            (span(scene)[0], value), xytext=(4, 3), textcoords="offset points", fontsize=7, zorder=6,
            bbox=dict(boxstyle="round,pad=0.15", fc="white", ec="none", alpha=0.8),
        )  # fmt: skip
