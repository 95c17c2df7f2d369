"""Animation of a scene: noising along conditional paths, then generation along the velocity field.

The window follows the noise, so that heavy tails and large times stay readable. GIFs are reduced until they are
below a size limit; MP4 needs the program ffmpeg.
"""

import io
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.drawing.axes import PathLike, line, mark_values, new_figure, spread
from diffusion.drawing.scene import Scene
from diffusion.evaluation import images

MAX_BYTES = 3_000_000
_FRAMES = 30  # frames of each half
_MS, _REST_MS = 90, 1500
_SHOWN = 600  # points in a frame


def render(scene: Scene) -> tuple[list[np.ndarray], list[int]]:
    """Return frames (height, width, 3) and their durations in milliseconds."""
    moments = sorted({*scene.moments(_FRAMES, last=0.02), len(scene.times) - 1})
    down = moments[::-1]  # noising goes forward in time, against the order of the indices
    parts = [("demolition", scene.demolished, down)]
    if scene.states is not None:
        parts.append(("rebuilding", scene.states, moments))
    draw = _Plane(scene) if scene.dims == 2 else _Line(scene)
    frames, durations = [], []
    for name, states, order in parts:
        for index in order:
            frames.append(draw(name, states, index))
            durations.append(_MS)
        durations[-1] = _REST_MS
    return frames, durations


def _hues(ends: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Return a color per point: by its direction from the center, or by its position on a line."""
    from matplotlib import colormaps

    if ends.shape[1] == 2:
        angle = np.arctan2(*(ends - center).T[::-1]) / (2 * np.pi)
        return colormaps["hsv"](angle % 1.0) * np.array([0.85, 0.85, 0.85, 1.0])
    low, high = ends.min(), ends.max()
    return colormaps["viridis"](0.9 * (ends[:, 0] - low) / max(high - low, 1e-9))


class _Frame:
    """Base class of the two kinds of frames: a figure that is redrawn for every frame."""

    def __init__(self, scene: Scene, width: float, height: float):
        self.scene = scene
        self.figure = new_figure(scene, width, height, "")
        self.figure.set_layout_engine("none")  # otherwise the axes would move with their labels
        self.axes = self.figure.add_axes((0.1, 0.12, 0.87, 0.83 - 0.55 / height))
        self.hues = {"demolition": _hues(scene.demolished[-1], scene.center)}
        if scene.ends is not None:
            self.hues["rebuilding"] = _hues(scene.ends, scene.center)

    def pixels(self) -> np.ndarray:
        self.figure.canvas.draw()
        return np.asarray(self.figure.canvas.buffer_rgba())[..., :3].copy()


class _Plane(_Frame):
    """Points in the plane at one time, in a window as large as p_t."""

    def __init__(self, scene: Scene):
        super().__init__(scene, 5.2, 5.9)
        self.dots = self.axes.scatter([], [], s=7, lw=0, zorder=3)
        self.axes.set_aspect("equal")
        self.axes.tick_params(labelsize=7)
        self.axes.scatter(*scene.points.T, s=5, color="0.8", lw=0, zorder=1)

    def __call__(self, name: str, states: np.ndarray, index: int) -> np.ndarray:
        pick = spread(_SHOWN, states.shape[1])
        ends = self.scene.ends if name == "rebuilding" and index == len(states) - 1 else None
        self.dots.set_offsets((states[index] if ends is None else ends)[pick])
        self.dots.set_facecolor(self.hues[name][pick])
        (x, y), half = self.scene.center, self.scene.half(index)
        self.axes.set(xlim=(x - half, x + half), ylim=(y - half, y + half))
        self.axes.set_title(f"{name}   t = {self.scene.times[index]:.3g}", fontsize=10)
        return self.pixels()


class _Line(_Frame):
    """Paths over time on a line, drawn up to one time."""

    def __init__(self, scene: Scene):
        super().__init__(scene, 6.2, 4.8)
        line(self.axes, scene, scene.half(0), "")
        mark_values(self.axes, scene)
        self.axes.set_ylabel("x", fontsize=8)
        self.drawn: list[Any] = []

    def __call__(self, name: str, states: np.ndarray, index: int) -> np.ndarray:
        for artist in self.drawn:
            artist.remove()
        times = self.scene.times
        pick = spread(70, states.shape[1])
        span = slice(index, None) if name == "demolition" else slice(0, index + 1)
        self.axes.set_prop_cycle(color=self.hues[name][pick])
        self.drawn = self.axes.plot(times[span], states[span, pick, 0], lw=0.7, alpha=0.8)
        heads = states[index, pick, 0]
        self.drawn.append(
            self.axes.scatter(
                np.full(len(heads), times[index]), heads, s=9, c=self.hues[name][pick], zorder=4
            )
        )
        self.axes.set_title(f"{name}   t = {times[index]:.3g}", fontsize=10)
        return self.pixels()


# ---- files --------------------------------------------------------------------------------------


def save_gif(path: PathLike, frames: Sequence[np.ndarray], durations: Sequence[int]) -> int:
    """Write a looping GIF of at most MAX_BYTES, with fewer colors, then fewer frames, if needed; return its size."""
    frames, durations, colors = list(frames), list(durations), 64
    content = _encode(frames, durations, colors)
    while len(content) > MAX_BYTES and len(frames) > 2:
        if colors > 16:
            colors //= 2
        else:
            rests = [max(pair) for pair in zip(durations[::2], durations[1::2], strict=False)]
            durations = rests + durations[len(rests) * 2 :]
            frames = frames[::2]
        content = _encode(frames, durations, colors)

    def write(scratch: Path) -> None:
        scratch.write_bytes(content)

    images.write_file(path, write)
    return len(content)


def _encode(frames: Sequence[np.ndarray], durations: Sequence[int], colors: int) -> bytes:
    from PIL import Image

    pictures = [Image.fromarray(frame) for frame in frames]
    # One palette for all frames: static parts then compress well.
    strip = np.concatenate([frames[0], frames[len(frames) // 2], frames[-1]])
    palette = Image.fromarray(strip).quantize(colors)
    first, *others = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    buffer = io.BytesIO()
    first.save(
        buffer, format="GIF", save_all=True, append_images=others, duration=list(durations), loop=0
    )
    return buffer.getvalue()


def find_ffmpeg() -> str | None:
    """Return the path of the program ffmpeg, if there is one."""
    return shutil.which("ffmpeg")


def save_mp4(path: PathLike, frames: Sequence[np.ndarray], durations: Sequence[int]) -> int:
    """Write H.264 by ffmpeg and return the size in bytes.

    Raises:
        ValueError: there is no ffmpeg, or it failed; the message has its last line.
    """
    program = find_ffmpeg()
    if program is None:
        raise ValueError("MP4 needs the program ffmpeg on PATH; write a GIF instead.")
    height, width = (size - size % 2 for size in frames[0].shape[:2])  # H.264 needs even sizes
    shown = [f for f, ms in zip(frames, durations, strict=True) for _ in range(max(1, ms // _MS))]
    raw = b"".join(np.ascontiguousarray(f[:height, :width]).tobytes() for f in shown)
    command = [
        program, "-y", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24",
        "-s", f"{width}x{height}", "-r", f"{1000 / _MS:.3f}", "-i", "-",
        "-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-crf", "23",
    ]  # fmt: skip

    def write(scratch: Path) -> None:
        done = subprocess.run(
            [*command, "-f", "mp4", str(scratch)],
            input=raw,
            capture_output=True,
            timeout=300,
            check=False,
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
            raise ValueError(f"ffmpeg failed: {said[-1]}")

    images.write_file(path, write)
    return Path(path).stat().st_size
