"""Pixels: 8-bit levels to floats and back, and any picture file to a fixed shape.

A level u in 0 ... 255 becomes x = u / 127.5 - 1 in [-1, 1]; round(127.5 (x + 1)) gives it back
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
    return _LEVELS[images]  # a table of 256 entries is faster than arithmetic and rounds once


def to_picture(image: UInt8[np.ndarray, "height width channels"]) -> Any:
    """Make a PIL image of one array with 1 or 3 channels."""
    from PIL import Image

    return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)


def _eight_bits(picture: Any) -> Any:
    """Bring the deep modes of PIL to 8 bits; its own conversion would clip them to white."""
    from PIL import Image

    if picture.mode.startswith("I"):  # 16-bit files open as "I;16" or "I"; 65535 / 257 = 255
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("pixels of 32 bits have no known range; store 8 or 16 bits")
        return Image.fromarray(((values + 128) // 257).astype(np.uint8))
    if picture.mode == "F":  # floating-point files carry no agreed range
        raise ValueError("floating-point pixels have no known range; store 8 or 16 bits")
    return picture


def _flatten(picture: Any, channels: int) -> Any:
    """Lay transparent pictures on white and convert to grey or colour."""
    from PIL import Image

    if picture.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture)
    return picture.convert({1: "L", 3: "RGB"}[channels])


def fit(picture: Any, size: int) -> Any:
    """Cut the largest square from the middle of a PIL image and resize it to size x size."""
    from PIL import Image

    if picture.size == (size, size):
        return picture
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return picture.resize((size, size), Image.Resampling.LANCZOS, box=box)


def decode(
    source: Any, channels: int, size: int | None = None
) -> UInt8[np.ndarray, "height width channels"]:
    """Read one picture of any common mode into 8 bits.

    Args:
        source: encoded bytes, a path, an open file, or an array (height, width, channels).
        channels: 1 for grey, 3 for colour. Transparency is laid on white.
        size: height and width of the result, by a centred crop; None keeps the picture's own.

    Raises:
        ValueError: the picture cannot be read; the message has the reason.
    """
    from PIL import Image, ImageOps

    try:
        if isinstance(source, np.ndarray):
            picture = to_picture(source)
        else:
            stream = io.BytesIO(source) if isinstance(source, bytes) else source
            with Image.open(stream) as opened:
                picture = ImageOps.exif_transpose(opened)  # cameras store rotation as a note
                picture.load()
        picture = _flatten(_eight_bits(picture), channels)
    except MemoryError:  # says nothing about the picture
        raise
    except Exception as error:  # decoders of damaged files raise whatever they stumble over
        name = f" {source}" if isinstance(source, str | Path) else ""
        raise ValueError(f"cannot read picture{name}: {error}") from error
    picture = picture if size is None else fit(picture, size)
    return np.asarray(picture).reshape(picture.height, picture.width, channels)
