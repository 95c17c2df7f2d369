"""Clip art of the Open Clip Art Library: color drawings of 19 subjects, from Debian's package openclipart-png.

The drawings are vector graphics that the package holds as PNG, from 60 pixels to a page of paper with a small drawing
on it. So each is cut to its ink and put in the middle of a white square.

File names begin with what is drawn and end with its author and a number. A family is the first word that is no
color and no filler: the pieces of a jigsaw puzzle, the flags of a country, the houses of one artist.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from diffusion.data.installed import PackagedPictures, first_telling
from diffusion.data.pixels import centered, decode
from diffusion.registry import register

_FOLDERS = (
    "animals",
    "buildings",
    "computer",
    "containers",
    "decorations",
    "education",
    "electronics",
    "food",
    "geography",
    "office",
    "people",
    "plants",
    "recreation",
    "science",
    "shapes",
    "signs_and_symbols",
    "special",
    "tools",
    "transportation",
)  # left out: "buttons" and "logos", 3 and 7 pictures, and "unsorted"
_CARDS = ("recreation", "games", "cards")  # one family: four decks with the same figures
_FILLERS = re.compile(
    r"(a|an|and|the|of|in|on|with|my|simple|black|white|gray|grey|red|green|blue|yellow|orange|purple|pink|brown"
    r"|small|big|large|left|right|up|down|stylized|cartoon|icon|symbol|contour)"
)


@register("dataset", "openclipart")
@dataclass(frozen=True, kw_only=True)
class OpenClipart(PackagedPictures):
    """Color drawings on white, 19 classes: splits "train" and "test", about 4 to 1 by families.

    Made on first use from the installed package openclipart-png, in a minute or two.

    Args:
        size: height and width: 16, 32, 64 or 128.
    """

    PACKAGE: ClassVar[str] = "openclipart-png"
    LICENSE: ClassVar[str] = "public domain, by dedication of each author"
    SIZES: ClassVar[tuple[int, ...]] = (16, 32, 64, 128)
    CLASS_NAMES: ClassVar[tuple[str, ...]] = tuple(f.replace("_", " ") for f in _FOLDERS)
    MOST_OF_A_FAMILY: ClassVar[int | None] = 128  # of 1,378 stars by one formula

    @property
    def path_name(self) -> str:
        """The folder below the data root."""
        return f"openclipart/{self.size}x{self.size}"

    @property
    def places(self) -> tuple[str, ...]:
        """Where the package has its pictures."""
        return ("usr/share/openclipart/png",)

    def label_of(self, folders: tuple[str, ...]) -> int | None:
        """Return the number of the first folder."""
        return _FOLDERS.index(folders[0]) if folders and folders[0] in _FOLDERS else None

    def family_of(self, folders: tuple[str, ...], name: str) -> str:
        """Return the first word of the name that says something."""
        if folders[:3] == _CARDS:
            return "playing cards"
        return first_telling(name, lambda word: len(word) < 2 or _FILLERS.fullmatch(word))

    def draw(self, path: Path) -> np.ndarray | str:
        """Return the drawing in the middle of a white square."""
        try:
            image = centered(decode(path, 3), self.size)
        except ValueError:
            return "damaged"
        return "blank" if image is None else image
