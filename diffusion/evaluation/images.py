"""Pictures of results: grids of images, labeled rows, animations, scatter plots.

Files are written under a temporary name and renamed, so that a viewer never sees an incomplete picture.
Arrays are NHWC; floats in [-1, 1] become 8-bit levels by round(127.5 (x + 1)).
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from diffusion.numerics import at_least
from diffusion.runtime.files import replacing

SEPARATOR = 64  # gray level between images: dark, but different from the black background of digits


def to_uint8(
    x: Float[Array, "*shape"] | Float[np.ndarray, "*shape"],
) -> UInt8[np.ndarray, "*shape"]:
    """Round values in [-1, 1] to 8-bit levels; other values are clipped, and NaN becomes 0."""
    inside = np.clip(np.nan_to_num(np.asarray(x, np.float64), nan=-1.0), -1, 1)
    return np.floor((inside + 1) * 127.5 + 0.5).astype(np.uint8)


def image_grid(
    images: UInt8[np.ndarray, "batch height width channels"],
    columns: int,
    border: int = 1,
    scale: int = 1,
) -> UInt8[np.ndarray, "rows columns channels"]:
    """Arrange images in a grid, row by row, with dark lines between and around them.

    Args:
        images: at least one.
        columns: images per row; the last row may be shorter.
        border: width of the lines in pixels of the images.
        scale: magnification; each pixel, of images and lines, becomes scale x scale pixels.
    """
    at_least(1, images=len(images), columns=columns, scale=scale, of="a grid")
    at_least(0, border=border, of="a grid")
    number, height, width, channels = images.shape
    rows = -(-number // columns)
    down, across = height + border, width + border
    shape = (rows * down + border, columns * across + border, channels)
    canvas = np.full(shape, SEPARATOR, np.uint8)
    for i, image in enumerate(images):
        top, left = border + (i // columns) * down, border + (i % columns) * across
        canvas[top : top + height, left : left + width] = image
    return canvas.repeat(scale, axis=0).repeat(scale, axis=1)


def _picture(image: np.ndarray) -> Any:
    """Make a PIL image of (height, width), or of (height, width, 1 | 3 | 4)."""
    from PIL import Image

    if image.ndim == 3 and image.shape[-1] == 1:
        image = image[..., 0]
    if image.ndim != 2 and not (image.ndim == 3 and image.shape[-1] in (3, 4)):
        raise ValueError(f"A picture has 1, 3 or 4 channels; got an array of shape {image.shape}.")
    return Image.fromarray(image)


def write_file(path: str | os.PathLike[str], save: Callable[[Path], None]) -> None:
    """Call `save` with a temporary path, and rename the file to `path` if it succeeded.

    Raises:
        WriteError: the file cannot be written, with the path and the reason.
    """
    # not flushed to disk, since pictures can be drawn again
    with replacing(path, durable=False) as scratch:
        save(scratch)


def save_png(path: str | os.PathLike[str], image: UInt8[np.ndarray, "..."]) -> None:
    """Write (height, width[, channels]) as PNG, regardless of the suffix; folders are created.

    Raises:
        ValueError: the shape is not that of a picture.
        WriteError: the path cannot be written.
    """
    picture = _picture(image)
    write_file(path, lambda scratch: picture.save(scratch, format="PNG"))


def save_gif(
    path: str | os.PathLike[str], frames: Sequence[UInt8[np.ndarray, "..."]], ms: int = 100
) -> None:
    """Write frames (height, width[, channels]) as an endless animation.

    Args:
        path: the file.
        frames: at least one, all of the same shape.
        ms: milliseconds per frame, rounded to tens by the format.

    Raises:
        ValueError: there is no frame.
        WriteError: the path cannot be written.
    """
    if len(frames) == 0:
        raise ValueError("An animation needs at least one frame; got none.")
    first, *others = [_picture(frame) for frame in frames]
    options = dict(format="GIF", save_all=True, append_images=others, duration=ms, loop=0)
    write_file(path, lambda scratch: first.save(scratch, **options))


def save_grid(
    path: str | os.PathLike[str],
    images: Num[Array, "batch height width channels"]
    | Num[np.ndarray, "batch height width channels"],
    columns: int,
    scale: int = 1,
    border: int = 1,
) -> None:
    """Write images, floats in [-1, 1] or uint8, as one PNG; see `image_grid`."""
    array = np.asarray(images)
    array = array if array.dtype == np.uint8 else to_uint8(array.astype(np.float32))
    save_png(path, image_grid(array, columns, border, scale))


def label_rows(
    image: UInt8[np.ndarray, "height width channels"], labels: Sequence[str]
) -> UInt8[np.ndarray, "height wider channels"]:
    """Write one text per row of a grid into a dark margin on its left."""
    from PIL import Image, ImageDraw, ImageFont

    if not labels:
        return image
    font = ImageFont.load_default()
    boxes = [font.getbbox(text) for text in labels]
    margin = int(max(box[2] for box in boxes)) + 6
    strip = Image.new("L", (margin, image.shape[0]), SEPARATOR)
    draw = ImageDraw.Draw(strip)
    pitch = image.shape[0] / len(labels)
    for row, text in enumerate(labels):
        draw.text((3, (row + 0.5) * pitch), text, fill=255, font=font, anchor="lm")
    left = np.asarray(strip)[..., None].repeat(image.shape[-1], axis=-1)
    return np.concatenate([left, image], axis=1)


def titled(
    image: UInt8[np.ndarray, "height width channels"], text: str
) -> UInt8[np.ndarray, "higher wider channels"]:
    """Write a line of text into a dark margin above a grid, which becomes as wide as the text; "" adds nothing."""
    from PIL import Image, ImageDraw, ImageFont

    if not text:
        return image
    font = ImageFont.load_default()
    box = [int(side) for side in font.getbbox(text)]
    height, width, channels = image.shape
    strip = Image.new("L", (max(width, box[2] + 6), box[3] + 6), SEPARATOR)
    ImageDraw.Draw(strip).text((3, 3), text, fill=255, font=font)
    canvas = np.full((height + strip.height, strip.width, channels), SEPARATOR, np.uint8)
    canvas[: strip.height] = np.asarray(strip)[..., None]
    canvas[strip.height :, :width] = image
    return canvas


def scatter_grid(
    path: str | os.PathLike[str],
    panels: Sequence[Num[Array, "_ 2"] | Num[np.ndarray, "_ 2"]],
    titles: Sequence[str] = (),
    columns: int = 4,
    limit: float | int | None = None,
) -> None:
    """Write scatter plots of points in the plane, side by side on equal axes, as PNG.

    Args:
        path: the file.
        panels: at least one set of points (n, 2).
        titles: one per panel, or none.
        columns: panels per row.
        limit: the axes span [-limit, limit]; None for the range of 99.5 % of the coordinates.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no global state, no window system

    points = [np.asarray(panel, np.float64) for panel in panels]
    if not points or (titles and len(titles) != len(points)):
        raise ValueError(f"Got {len(points)} panels and {len(titles)} titles; give one per panel.")
    values = np.abs(np.concatenate(points))
    finite = values[np.isfinite(values)]
    span = limit or (1.1 * float(np.quantile(finite, 0.995)) if finite.size else 1.0) or 1.0
    columns = min(columns, len(points))
    rows = -(-len(points) // columns)
    figure = Figure(figsize=(2.5 * columns, 2.5 * rows + 0.2), layout="constrained")
    FigureCanvasAgg(figure)
    for i, panel in enumerate(points):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.scatter(panel[:, 0], panel[:, 1], s=2, alpha=0.5, linewidths=0)
        axes.set(xlim=(-span, span), ylim=(-span, span), aspect="equal", xticks=[], yticks=[])
        if titles:
            axes.set_title(titles[i], fontsize=9)
    write_file(path, lambda scratch: figure.savefig(scratch, format="png", dpi=120))
