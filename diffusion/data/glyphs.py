"""Pictures of emoji from a color font with bitmaps, and Unicode's list of emoji.

Such a font (OpenType tables CBDT and CBLC; Noto Color Emoji is one) holds one PNG per glyph. A sequence of
code points becomes one glyph through the ligatures of the table GSUB: a hand and a skin tone are one
picture. The list is Unicode's `emoji-test.txt` (UTS #51), which also gives the groups.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

_VARIATION = 0xFE0F  # variation selector for emoji presentation, ignored by emoji fonts
_TONES = range(0x1F3FB, 0x1F400)
_LIGATURES = 4  # type of a lookup in GSUB
_LINE = re.compile(r"(?P<points>[0-9A-F ]+?)\s*; fully-qualified\s*# \S+ (E[0-9.]+ )?(?P<name>.+)")


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One emoji of Unicode's list.

    Args:
        points: code points.
        group: group, such as "Food & Drink".
        name: name, such as "waving hand: dark skin tone".
    """

    points: tuple[int, ...]
    group: str
    name: str

    @property
    def toned(self) -> bool:
        """Whether the emoji has a skin tone."""
        return any(point in _TONES for point in self.points)


def read_list(path: Path) -> list[Emoji]:
    """Read the fully qualified emoji of an `emoji-test.txt`, in its order.

    Raises:
        ValueError: the file has another format.
    """
    found, group = [], ""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("# group:"):
            group = line.partition(":")[2].strip()
        elif match := _LINE.fullmatch(line.strip()):
            points = tuple(int(point, 16) for point in match["points"].split())
            found.append(Emoji(points=points, group=group, name=match["name"]))
    if not found:
        raise ValueError(f"{path} lists no emoji; it must be an `emoji-test.txt` of Unicode.")
    return found


def join(glyphs: Sequence[str], ligatures: Mapping[str, Sequence[Any]]) -> list[str]:
    """Replace runs of glyphs that have a ligature, from left to right; the first match is used."""
    joined, i = [], 0
    while i < len(glyphs):
        for ligature in ligatures.get(glyphs[i], ()):
            stop = i + 1 + len(ligature.Component)
            if list(glyphs[i + 1 : stop]) == list(ligature.Component):
                joined.append(ligature.LigGlyph)
                i = stop
                break
        else:
            joined.append(glyphs[i])
            i += 1
    return joined


class BitmapFont:
    """The pictures of a font with embedded bitmaps.

    Args:
        path: the font.

    Raises:
        ImportError: fontTools is not installed.
        ValueError: the file is not a font, or has no bitmaps.
    """

    def __init__(self, path: Path):
        from fontTools.ttLib import TTFont, TTLibError

        try:
            # Read from memory: fontTools loads lazily and would keep the file open.
            font: Any = TTFont(io.BytesIO(path.read_bytes()), lazy=True)
        except (OSError, TTLibError) as error:
            raise ValueError(f"Cannot read the font {path}: {error}.") from error
        if "CBDT" not in font or "GSUB" not in font:
            raise ValueError(f"The font {path} holds no bitmaps (CBDT, GSUB), only outlines.")
        self.version = str(font["name"].getDebugName(5) or "unknown version").partition(";")[0]
        self._glyphs = font.getBestCmap()
        strikes = zip(font["CBLC"].strikes, font["CBDT"].strikeData, strict=True)
        self._strike = max(strikes, key=lambda s: s[0].bitmapSizeTable.ppemY)[1]
        self._ligatures = [
            table.ligatures
            for lookup in font["GSUB"].table.LookupList.Lookup
            for table in (getattr(t, "ExtSubTable", t) for t in lookup.SubTable)
            if table.LookupType == _LIGATURES
        ]

    def picture(self, points: Sequence[int]) -> Any:
        """Return the RGBA picture of a sequence, or None if the font does not have a single glyph for it."""
        from PIL import Image

        glyphs = [self._glyphs.get(point) for point in points if point != _VARIATION]
        if None in glyphs:
            return None
        for ligatures in self._ligatures:
            glyphs = join(glyphs, ligatures)
        if len(glyphs) != 1 or glyphs[0] not in self._strike:
            return None
        bitmap = self._strike[glyphs[0]]
        bitmap.ensureDecompiled()
        with Image.open(io.BytesIO(bytes(bitmap.imageData))) as opened:
            return opened.convert("RGBA")


def render(picture: Any, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Draw an RGBA picture on white, crop or pad it to the square of its height, and average blocks.

    Args:
        picture: PIL image.
        size: height and width of the result.
    """
    from PIL import Image

    side = picture.height
    ground = Image.new("RGBA", (side, side), "white")
    ground.alpha_composite(*_placed(picture, side))
    return np.asarray(ground.convert("RGB").resize((size, size), Image.Resampling.BOX))


def _placed(picture: Any, side: int) -> tuple[Any, tuple[int, int]]:
    """Crop a picture that is wider than `side`; return it with the offset at which to paste it."""
    spare = (picture.width - side) // 2
    if spare >= 0:
        return picture.crop((spare, 0, spare + side, side)), (0, 0)
    return picture, (-spare, 0)
