"""Emoji from an installed font: small color pictures of nine classes, without any download.

The pictures come from the bitmaps of Noto Color Emoji, the classes from Unicode's list; see
`diffusion.data.glyphs`. They are drawn on white, for which they were designed: dark ones vanish on gray.

Variants of one emoji (its skin tones, and man, woman and person in the same role) form a family, which belongs to one
split; see `diffusion.data.installed`. So neither a newer font nor the option `skin_tones` moves a family.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion.data.glyphs import BitmapFont, Emoji, read_list, render
from diffusion.data.installed import Drawing, InstalledImages, in_test, split_by_family
from diffusion.data.records import write_records
from diffusion.data.storage import LOG, MissingDataError, Progress
from diffusion.numerics import one_of
from diffusion.registry import register

FONT, LIST = "NotoColorEmoji.ttf", "emoji-test.txt"
# Debian and Ubuntu; Arch; older Fedora
FONT_FOLDERS = (
    Path("/usr/share/fonts/truetype/noto"),
    Path("/usr/share/fonts/noto"),
    Path("/usr/share/fonts/google-noto-emoji"),
)
LIST_FOLDERS = (Path("/usr/share/unicode/emoji"),)  # Debian's unicode-data, Fedora's unicode-emoji
SIZES = (16, 32, 64, 128)  # divide the 128 pixels of the bitmaps
CLASS_NAMES = (
    "Smileys & Emotion",
    "People & Body",
    "Animals & Nature",
    "Food & Drink",
    "Travel & Places",
    "Activities",
    "Objects",
    "Symbols",
    "Flags",
)
_PEOPLE = re.compile(r"\b(man|men|woman|women|person|people|boy|girl|and|in|with|facing right)\b")


def family(emoji: Emoji) -> str:
    """Return the name that the variants of an emoji share.

    Of people, what follows the colon (tone, hair, members of a family) and the words for their sex and
    number are left out: "man cook: dark skin tone" and "cook" are both "cook".
    """
    if emoji.group != "People & Body":
        return emoji.name
    name = emoji.name.partition(":")[0]
    return " ".join(_PEOPLE.sub(" ", name).split()) or "person"


def is_test(emoji: Emoji) -> bool:
    """Return whether the family of an emoji is in the test split."""
    return in_test(family(emoji))


@register("dataset", "emoji")
@dataclass(frozen=True, kw_only=True)
class EmojiImages(InstalledImages):
    """Color emoji on white, 9 classes: splits "train" and "test", about 4 to 1 by families.

    Made on first use from an installed font, in a few seconds.

    Args:
        size: height and width: 16, 32, 64 or 128.
        skin_tones: include the five skin tones of emoji that have them: twice as many examples, half of them people.
    """

    size: int = 32
    skin_tones: bool = False

    def __post_init__(self):
        super().__post_init__()
        one_of(SIZES, size=self.size)

    @property
    def path_name(self) -> str:
        """The folder below the data root."""
        return f"emoji/{self.size}x{self.size}{'_tones' if self.skin_tones else ''}"

    def _write(self, scratch: Path, root: Path, download: bool, progress: Progress | None) -> Path:
        font_path, list_path = _find(FONT, FONT_FOLDERS, root), _find(LIST, LIST_FOLDERS, root)
        LOG.info("Preparing emoji in %s (once, a few seconds).", root)
        try:
            font = BitmapFont(font_path)
        except ImportError as error:
            raise MissingDataError("fontTools reads the font: pip install fonttools.") from error
        listed = [e for e in read_list(list_path) if self.skin_tones or not e.toned]
        pictures = draw_all(font, listed, self.size)
        digest = hashlib.sha256(font_path.read_bytes()).hexdigest()
        return write_records(
            scratch,
            name="emoji",
            version="1.0.0",
            splits=split_up(pictures),
            class_names=CLASS_NAMES,
            note=f"Noto Color Emoji on white; {font.version}, sha256 {digest[:16]}; SIL Open Font Licence.",
            progress=progress,
        )


def draw_all(font: BitmapFont, listed: list[Emoji], size: int) -> list[tuple[Emoji, np.ndarray]]:
    """Draw the emoji in order, without repeated pictures and without emoji that the font lacks.

    Fonts have one picture for several names, such as the flags of a state and of its islands; the
    picture is kept under the first name.

    Raises:
        ValueError: a group has no class, or the font has no emoji of the list.
    """
    drawn, seen, lacking = [], set(), 0
    for emoji in listed:
        if emoji.group not in CLASS_NAMES:
            raise ValueError(f"Emoji {emoji.name!r} is of an unknown group {emoji.group!r}.")
        picture = font.picture(emoji.points)
        if picture is None or picture.getextrema()[3][1] == 0:  # no ink
            lacking += 1
            continue
        image = render(picture, size)
        if image.tobytes() not in seen:
            seen.add(image.tobytes())
            drawn.append((emoji, image))
    if not drawn:
        raise ValueError(f"The font has no picture of any of the {len(listed)} emoji.")
    if lacking:
        LOG.warning("The font lacks %d of %d emoji; they are left out.", lacking, len(listed))
    return drawn


def split_up(
    pictures: list[tuple[Emoji, np.ndarray]],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the images and labels of "train" and "test", in the order given."""
    return split_by_family(
        [
            Drawing(image=image, label=CLASS_NAMES.index(emoji.group), family=family(emoji))
            for emoji, image in pictures
        ]
    )


def _find(name: str, folders: tuple[Path, ...], root: Path) -> Path:
    """Return the first path at which a file exists."""
    manual = root / "downloads" / "manual"
    for folder in (manual, *folders):
        if (folder / name).is_file():
            return folder / name
    raise MissingDataError(
        f"The emoji are made from {FONT} and Unicode's {LIST}; {name} was not found. Install Debian's "
        f"fonts-noto-color-emoji and unicode-data, put both files into {manual}, or give a prepared copy as `data_dir`."
    )
