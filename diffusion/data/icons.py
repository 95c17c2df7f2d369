"""Desktop icons of the theme Oxygen: color pictures of seven kinds, from Debian's package oxygen-icon-theme.

Icons are drawn for each size by hand and taken pixel by pixel, laid on white. The kinds are the contexts of
freedesktop.org's Icon Naming Specification; "emblems" and "emotes", which have few, belong to "status" here.

Names go from the general to the special: "folder-red", "mail-reply-all". A family is the first word, or, after words
that say little, the second: documents of the same program, or the steps of a battery.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from diffusion.data.installed import PackagedPictures, first_telling
from diffusion.data.pixels import decode
from diffusion.registry import register

_KINDS = {
    "actions": "actions",
    "apps": "apps",
    "categories": "categories",
    "devices": "devices",
    "emblems": "status",
    "emotes": "status",
    "mimetypes": "mimetypes",
    "places": "places",
    "status": "status",
}  # left out: "animations", two strips of frames
_BROAD = ("application", "applications", "edit", "preferences", "text", "view", "x")


@register("dataset", "icons")
@dataclass(frozen=True, kw_only=True)
class Icons(PackagedPictures):
    """Color icons on white, 7 classes: splits "train" and "test", about 4 to 1 by families.

    Made on first use from the installed package oxygen-icon-theme, in a few seconds.

    Args:
        size: height and width: 16, 32, 48, 64 or 128; each has other icons.
    """

    PACKAGE: ClassVar[str] = "oxygen-icon-theme"
    LICENSE: ClassVar[str] = "the Oxygen icons, LGPL-3+"
    SIZES: ClassVar[tuple[int, ...]] = (16, 32, 48, 64, 128)
    CLASS_NAMES: ClassVar[tuple[str, ...]] = tuple(sorted(set(_KINDS.values())))

    @property
    def path_name(self) -> str:
        """The folder below the data root."""
        return f"icons/{self.size}x{self.size}"

    @property
    def places(self) -> tuple[str, ...]:
        """Where newer and older packages have the icons of this size."""
        size = f"{self.size}x{self.size}"
        return f"usr/share/icons/oxygen/base/{size}", f"usr/share/icons/oxygen/{size}"

    def label_of(self, folders: tuple[str, ...]) -> int | None:
        """Return the number of the kind."""
        kind = _KINDS.get(folders[0]) if folders else None
        return None if kind is None else self.CLASS_NAMES.index(kind)

    def family_of(self, folders: tuple[str, ...], name: str) -> str:
        """Return the first word of the name that says something."""
        return first_telling(name, lambda word: word in _BROAD)

    def draw(self, path: Path) -> np.ndarray | str:
        """Return the icon as it is, on white."""
        try:
            image = decode(path, 3)
        except ValueError:
            return "damaged"
        if image.shape[:2] != (self.size, self.size):
            return "of another size"
        return "blank" if image.min() == 255 else image
