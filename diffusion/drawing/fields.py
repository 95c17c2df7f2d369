"""Pictures of the density p_t and of the velocity field: at several times in the plane, over all times on a line."""

from typing import Any

import numpy as np

from diffusion.drawing.axes import (
    PathLike,
    legend,
    line,
    mark_values,
    new_figure,
    plane,
    save_figure,
    span,
    spread,
)
from diffusion.drawing.measures import estimate
from diffusion.drawing.scene import Scene

DENSITY = "Blues"
DEPTH = 8.0  # nats below the maximum at which a density becomes white


def _grid(scene: Scene, half: float, count: int) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the coordinates of a square grid per axis, and its points, (count^2, 2)."""
    sides = [np.linspace(c - half, c + half, count) for c in scene.center.astype(np.float64)]
    mesh = np.meshgrid(*sides, indexing="xy")
    return sides, np.stack(mesh, axis=-1).reshape(-1, 2)


def _plane_density(axes: Any, scene: Scene, index: int, half: float) -> Any:
    """Draw log p_t relative to its maximum in the window."""
    smooth = scene.log_density is not None
    if scene.log_density is not None:
        count = 140
        places = _grid(scene, half, count)[1]
        log_p = scene.log_density(places, float(scene.times[index])).reshape(count, count)
    else:
        edges = [np.linspace(c - half, c + half, 61) for c in scene.center]
        if scene.trained:
            fraction = np.histogramdd(scene.cloud[index], edges)[0]
        else:
            fraction = estimate(scene, float(scene.times[index]), edges)[0]
        with np.errstate(divide="ignore"):
            log_p = np.log(fraction).T
    x, y = scene.center
    return axes.imshow(
        _below_maximum(log_p), origin="lower", cmap=DENSITY, vmin=-DEPTH, vmax=0,
        extent=(x - half, x + half, y - half, y + half), zorder=0,
        interpolation="bilinear" if smooth else "nearest",
    )  # fmt: skip


def _below_maximum(log_p: np.ndarray, axis: int | None = None) -> np.ndarray:
    """Return a log-density relative to its maximum; a density of 0 is drawn white as well."""
    top = log_p.max(axis=axis, keepdims=True)
    log_p = log_p - np.where(np.isfinite(top), top, 0.0)
    return np.maximum(np.nan_to_num(log_p, nan=-DEPTH, neginf=-DEPTH), -DEPTH)


def _density_bar(figure: Any, image: Any, axes: Any, scene: Scene) -> None:
    bar = figure.colorbar(image, ax=axes, pad=0.01, shrink=0.8)
    kind = "log p" if scene.log_density is not None else "log histogram"
    bar.set_label(f"{kind}, relative to its maximum at t, in nats", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def save_density(path: PathLike, scene: Scene) -> None:
    """Draw p_t from the prior to the data: panels in the plane, an image over t on the line."""
    if scene.dims == 1:
        figure = new_figure(scene, 9, 5.2, "Density over time, with paths of the field")
        axes = figure.add_subplot()
        half = scene.half(0)
        line(axes, scene, half, "")
        image = _line_density(axes, scene, half)
        if scene.states is not None:
            pick = spread(40, scene.states.shape[1])
            axes.plot(scene.times, scene.states[:, pick, 0], color="tab:orange", lw=0.6, alpha=0.8)
            axes.plot([], [], color="tab:orange", label="paths of generation")
        mark_values(axes, scene)
        axes.set_ylabel("x", fontsize=8)
        legend(axes)
        _density_bar(figure, image, axes, scene)
        return save_figure(path, figure)
    indices = scene.moments(6, first=1.0)
    figure = new_figure(scene, 11.5, 8, "Density over time, from the prior to the data")
    axes = figure.subplots(2, 3).ravel()
    image = None
    for ax, index in zip(axes, indices, strict=False):
        half = scene.half(index)
        image = _plane_density(ax, scene, index, half)
        plane(ax, scene, half, f"t = {scene.times[index]:.3g}")
    for ax in axes[len(indices) :]:
        ax.set_visible(False)
    _density_bar(figure, image, list(axes), scene)
    return save_figure(path, figure)


def _line_density(axes: Any, scene: Scene, half: float) -> Any:
    """Draw log p_t(x) over (t, x), relative to its maximum at each t, on a grid in the scale of the axes."""
    scale = axes.yaxis.get_transform()
    bottom, top = scale.transform(np.array(axes.get_ylim()))
    spaced = lambda n: scale.inverted().transform(np.linspace(bottom, top, n))
    low, high = span(scene)
    if scene.log_density is not None:
        times = np.linspace(low, high, 240)
        times = np.geomspace(low, high, 240) if scene.log_time else times
        places = spaced(301)
        log_p = np.stack([scene.log_density(places[:, None], float(t)) for t in times], axis=1)
    else:
        shown = scene.times >= low
        times, edges = scene.times[shown], spaced(91)
        places = (edges[1:] + edges[:-1]) / 2
        counts = [np.histogram(x, edges)[0] / np.diff(edges) for x in scene.cloud[shown, :, 0]]
        with np.errstate(divide="ignore"):
            log_p = np.log(np.stack(counts, axis=1))
    return axes.pcolormesh(
        times, places, _below_maximum(log_p, axis=0), cmap=DENSITY, vmin=-DEPTH, vmax=0,
        shading="nearest", zorder=0, rasterized=True,
    )  # fmt: skip


def save_field(path: PathLike, scene: Scene) -> None:
    """Draw the velocity field at several times over the density."""
    indices = scene.moments(4, first=1.0)
    (_line_field if scene.dims == 1 else _plane_field)(path, scene, indices)


def _plane_field(path: PathLike, scene: Scene, indices: list[int]) -> None:
    figure = new_figure(
        scene,
        4 * len(indices) + 0.8,
        5.2,
        "Field lines of generation, -f_t(x), over the density p_t",
    )
    axes = figure.subplots(1, len(indices), squeeze=False)[0]
    image = None
    for ax, index in zip(axes, indices, strict=True):
        half, t = scene.half(index), float(scene.times[index])
        image = _plane_density(ax, scene, index, half)
        speed = _streams(ax, scene, t, half)
        ax.scatter(*scene.points.T, s=4, color="tab:red", lw=0, alpha=0.6, zorder=4, label="data")
        plane(ax, scene, half, f"t = {t:.3g}, median speed {speed:.2g}")
    legend(axes[-1])
    _density_bar(figure, image, list(axes), scene)
    save_figure(path, figure)


def _inside(scene: Scene, places: np.ndarray, t: float, v: np.ndarray) -> np.ndarray:
    """Return a velocity in float64, NaN at points that no path of the process reaches."""
    if scene.log_density is None:
        return v.astype(np.float64)
    return np.where(np.isfinite(scene.log_density(places, t))[:, None], v, np.nan).astype(
        np.float64
    )


def _streams(axes: Any, scene: Scene, t: float, half: float) -> float:
    """Draw field lines, or arrows of estimated means; return the median speed in the window."""
    look = dict(color="0.15", zorder=3)
    if scene.velocity is not None:
        sides, places = _grid(scene, half, 30)
        v = _inside(scene, places, t, scene.velocity(places, t)).reshape(30, 30, 2)
        axes.streamplot(
            *sides,
            -v[..., 0],
            -v[..., 1],
            linewidth=0.6,
            arrowsize=0.8,
            minlength=0.04,
            density=1.3,
            **look,
        )
    else:
        edges = [np.linspace(c - half, c + half, 25) for c in scene.center.astype(np.float64)]
        v = estimate(scene, t, edges)[1].transpose(1, 0, 2)
        length = np.linalg.norm(v, axis=-1)
        arrows = (-v / np.maximum(length, 1e-12)[..., None]).transpose(2, 0, 1)
        axes.quiver(
            *((e[1:] + e[:-1]) / 2 for e in edges),
            *arrows,
            pivot="mid",
            scale=30,
            width=0.004,
            **look,
        )
    speeds = np.linalg.norm(v, axis=-1)
    return float(np.nanmedian(speeds)) if np.isfinite(speeds).any() else float("nan")


def _line_field(path: PathLike, scene: Scene, indices: list[int]) -> None:
    figure = new_figure(
        scene,
        3.6 * len(indices) + 0.6,
        5.6,
        "Density p_t and field -f_t of generation at several times",
    )
    axes = figure.subplots(2, len(indices), squeeze=False, sharex="col")
    for column, index in enumerate(indices):
        half, t = scene.half(index), float(scene.times[index])
        top, bottom = axes[:, column]
        x, p, v = _profile(scene, index, half)
        top.fill_between(x, p, color="tab:blue", alpha=0.35, lw=0, label="p_t(x)")
        bottom.plot(x, -v, color="tab:red", lw=1.2, label="-f_t(x): speed of generation")
        bottom.axhline(0, color="0.5", lw=0.6)
        at = slice(len(x) // 24, None, len(x) // 12)
        known = np.isfinite(v[at])
        top.quiver(
            x[at][known], np.zeros(known.sum()), -np.sign(v[at][known]), 0.0, color="tab:red", width=0.008,
            scale=18, zorder=4, label="to the data",
        )  # fmt: skip
        for value in np.unique(scene.points[:, 0])[:: max(1, len(scene.points) // 100)]:
            for ax in (top, bottom):
                ax.axvline(value, color="black", lw=0.6, ls=":")
        top.set_title(f"t = {t:.3g}", fontsize=9)
        top.set(xlim=(x[0], x[-1]), ylim=(-0.06 * np.nanmax(p), None))
        bottom.set_xlabel("x; dotted: data", fontsize=8)
        for ax in (top, bottom):
            ax.tick_params(labelsize=7)
    legend(axes[0, -1])
    legend(axes[1, -1])
    save_figure(path, figure)


def _profile(scene: Scene, index: int, half: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return points on a line, their density and their velocity."""
    t, middle = float(scene.times[index]), float(scene.center[0])
    edges = np.linspace(middle - half, middle + half, 61)
    coarse = (edges[1:] + edges[:-1]) / 2
    fine = np.linspace(middle - half, middle + half, 481)
    if scene.velocity is None:
        p, v = estimate(scene, t, [edges])
        return coarse, p, v[:, 0]
    v = _inside(scene, fine[:, None], t, scene.velocity(fine[:, None], t))[:, 0]
    if scene.log_density is None:
        counts = np.histogram(scene.cloud[index, :, 0], edges, density=True)[0]
        return fine, np.interp(fine, coarse, counts), v
    return fine, np.exp(scene.log_density(fine[:, None], t)), v
