"""Search for pictures below a folder, with the reasons why other files are skipped.

Links to folders are followed, except into a folder that contains the link. Hidden files and folders are skipped
silently. Only headers are read here: a picture may still turn out to be damaged.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion.data.storage import nowhere

LeftOut = Mapping[str, tuple[str, ...]]  # names of skipped files by reason

_NUM_NAMED = 3
# Pillow recognizes these formats, but needs other programs to render them
_NO_PIXELS = ("BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A file with the header of a picture.

    Args:
        path: the file.
        size: width and height in pixels.
        animated: whether there is more than one frame; the first one is used.
    """

    path: Path
    size: tuple[int, int]
    animated: bool


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Content of a folder and its subfolders.

    Args:
        pictures: pictures sorted by path.
        folders: names of the subfolders of the first level, sorted.
        left_out: names of skipped files and folders, by reason.
    """

    pictures: tuple[Picture, ...]
    folders: tuple[str, ...]
    left_out: LeftOut


def scan(root: Path) -> Scan:
    """Examine every file below a folder.

    Raises:
        MissingDataError: there is no such folder.
    """
    if not root.is_dir():
        raise nowhere("folder", root)
    pictures, left_out = [], {}
    for path, reason in sorted(files(root)):
        found = reason or _look(path)
        if isinstance(found, Picture):
            pictures.append(found)
        else:
            left_out[found] = (*left_out.get(found, ()), shown(path, root))
    names = (n for n in os.listdir(root) if not n.startswith("."))
    # links to themselves do not count
    folders = sorted(n for n in names if os.path.isdir(root / n))
    return Scan(pictures=tuple(pictures), folders=tuple(folders), left_out=left_out)


def files(folder: Path, above: tuple[str, ...] = ()) -> Iterator[tuple[Path, str]]:
    """Yield pairs (path, ""), for the visible files below a folder, and (folder, reason) for unreadable folders."""
    here = os.path.realpath(folder)
    if here in above:
        yield folder, "linked to a folder around it"
        return
    try:
        with os.scandir(folder) as entries:
            visible = [e.name for e in entries if not e.name.startswith(".")]
    except OSError as error:
        yield folder, f"unreadable folder ({type(error).__name__})"
        return
    for name in visible:
        path = folder / name
        if os.path.isdir(path):
            yield from files(path, (*above, here))
        else:
            yield path, ""


def not_plain(path: Path) -> str:
    """Return why a path is not a regular file, or ""; opening a pipe would wait for a writer forever."""
    if path.is_file():
        return ""
    return "broken link" if path.is_symlink() else "not a plain file"


def _look(path: Path) -> Picture | str:
    """Return the picture described by the header of a file, or the reason why the file is skipped."""
    from PIL import Image, UnidentifiedImageError

    if reason := not_plain(path):
        return reason
    try:
        if path.stat().st_size == 0:
            return "empty file"
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                return _describe(path, opened)
    except UnidentifiedImageError:
        return "not a picture"
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return f"larger than {(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
    except Exception as error:  # decoders raise exceptions of many classes for damaged headers
        return f"unreadable ({type(error).__name__})"


def _describe(path: Path, opened: Any) -> Picture | str:
    if opened.format in _NO_PIXELS:
        return f"no pixels ({opened.format})"
    animated = False
    with contextlib.suppress(Exception):  # a damaged second frame does not matter
        animated = bool(getattr(opened, "is_animated", False))
    return Picture(path=path, size=opened.size, animated=animated)


def shown(path: Path, root: Path) -> str:
    """Return the name relative to `root`, with unprintable characters replaced."""
    name = os.path.relpath(path, root)
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)


def some(names: tuple[str, ...]) -> str:
    """Return the first few names."""
    more = ", ..." if len(names) > _NUM_NAMED else ""
    return ", ".join(names[:_NUM_NAMED]) + more


def counted(left_out: LeftOut) -> str:
    """Return the number of skipped files for each reason, with the first few names, as text."""
    parts = [f"{len(names)} {reason} ({some(names)})" for reason, names in sorted(left_out.items())]
    return "; ".join(parts)
