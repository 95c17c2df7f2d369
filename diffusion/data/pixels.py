"""Pixels: conversion of 8-bit levels to floats and back, and of picture files to arrays of a fixed shape.

A level u in 0 ... 255 becomes x = u / 127.5 - 1 in [-1, 1]; round(127.5 (x + 1)) recovers it
exactly.
"""

import io
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

_LEVELS = (np.arange(256) / 127.5 - 1).astype(np.float32)


def to_float(images: UInt8[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """Scale 8-bit levels to float32 in [-1, 1]."""
    return _LEVELS[images]  # a lookup table is faster than arithmetic and rounds once


def to_picture(image: UInt8[np.ndarray, "height width channels"]) -> Any:
    """Make a PIL image of one array with 1 or 3 channels."""
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _eight_bits(picture: Any) -> Any:
    """Convert the modes of PIL with more than 8 bits to 8 bits; PIL's own conversion would clip them to white."""
    from PIL import Image

    if picture.mode.startswith("I"):  # 16-bit files open as "I;16" or "I"; 65535 / 257 = 255
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("pixels of 32 bits have no known range; store 8 or 16 bits")
        gray = Image.fromarray(((values + 128) // 257).astype(np.uint8))
        if isinstance(clear := picture.info.get("transparency"), int):
            gray.putalpha(_opaque(values != clear))
        return gray
    if picture.mode == "F":  # floating-point files carry no agreed range
        raise ValueError("floating-point pixels have no known range; store 8 or 16 bits")
    return picture


def _opaque(where: np.ndarray) -> Any:
    """Return an alpha channel from a mask (height, width)."""
    from PIL import Image

    return Image.fromarray(where.astype(np.uint8) * 255)


def _upright(stream: Any) -> Any:
    """Open a picture and rotate it by its EXIF orientation; keep the transparent color of a PNG.

    Pillow compares that color, which has the bit depth of the file, with pixels that it has converted to 8 bits.
    """
    from PIL import Image, ImageOps

    with Image.open(stream) as opened:
        form = opened.tile[0][3] if opened.format == "PNG" and opened.tile else ""
        clear = opened.info.get("transparency")
        if form in ("L;2", "L;4") and isinstance(clear, int):
            opened.info["transparency"] = clear * {"L;2": 85, "L;4": 17}[form]
        picture = ImageOps.exif_transpose(opened)  # cameras store the rotation as metadata
        picture.load()
    if form == "RGB;16B" and isinstance(clear, tuple):
        del picture.info["transparency"]
        if not isinstance(stream, str | Path):
            stream.seek(0)
        with Image.open(stream) as opened:
            opened.tile = [tile._replace(args="RGB;16L") for tile in opened.tile]  # low bytes
            low = np.asarray(ImageOps.exif_transpose(opened))[..., :3].astype(int)
        deep = np.asarray(picture).astype(int) * 256 + low
        picture.putalpha(_opaque((deep != clear).any(axis=-1)))
    return picture


def _flatten(picture: Any, channels: int) -> Any:
    """Draw transparent pictures on white and convert to gray or color."""
    from PIL import Image

    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    return picture.convert({1: "L", 3: "RGB"}[channels])


def fit(picture: Any, size: int | tuple[int, int]) -> Any:
    """Crop the largest centered part with the target's aspect ratio from a PIL image, and resize it.

    Args:
        picture: the image.
        size: height and width of the result, or both in one number.
    """
    from PIL import Image

    tall, wide = (size, size) if isinstance(size, int) else size
    if picture.size == (wide, tall):
        return picture
    width, height = picture.size
    across, down = min(width, round(height * wide / tall)), min(height, round(width * tall / wide))
    across, down = max(1, across), max(1, down)
    left, top = (width - across) // 2, (height - down) // 2
    box = (left, top, left + across, top + down)
    return picture.resize((wide, tall), Image.Resampling.LANCZOS, box=box)


def centered(
    picture: UInt8[np.ndarray, "height width channels"], size: int, margin: float = 0.04
) -> UInt8[np.ndarray, "size size channels"] | None:
    """Cut a drawing on white to its ink, put it in the middle of a white square, and resize that.

    Args:
        picture: any proportions.
        size: height and width of the result.
        margin: white on each side, as a fraction of the square.

    Returns:
        None where all is white.
    """
    from PIL import Image

    inked = np.any(picture < 255, axis=2)
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    if not len(rows):
        return None
    ink = to_picture(picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    side = round(max(ink.size) / (1 - 2 * margin))
    ground = Image.new(ink.mode, (side, side), "white")
    ground.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
    return np.asarray(fit(ground, size)).reshape(size, size, -1)


def decode(
    source: Any, channels: int, size: int | tuple[int, int] | None = None
) -> UInt8[np.ndarray, "height width channels"]:
    """Decode one picture of any common mode to 8 bits.

    Args:
        source: encoded bytes, a path, an open file, or an array (height, width, channels).
        channels: 1 for gray, 3 for color. Transparent pictures are drawn on white.
        size: height and width of the result, or both in one number, by a centered crop; None keeps the original size.

    Raises:
        ValueError: the picture cannot be read; the message gives the reason.
    """
    try:
        if isinstance(source, np.ndarray):
            picture = to_picture(source)
        else:
            picture = _upright(io.BytesIO(source) if isinstance(source, bytes) else source)
        picture = _flatten(_eight_bits(picture), channels)
    except MemoryError:  # says nothing about the picture
        raise
    except Exception as error:  # decoders raise exceptions of many classes for damaged files
        name = f" {source}" if isinstance(source, str | Path) else ""
        raise ValueError(f"cannot read picture{name}: {error}") from error
    picture = picture if size is None else fit(picture, size)
    return np.asarray(picture).reshape(picture.height, picture.width, channels)
