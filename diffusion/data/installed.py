"""Image sets that are made from what packages of the system install: color data without a download.

Variants of one drawing form a family, and a family lies in one split: else the test set would hold
copies of training pictures in other colors. A fifth of the families, chosen by a hash of their name,
is for testing, so that a newer package moves no family (but for those of `split_by_family(near=)`).
"""

import abc
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from diffusion.data.duplicates import nearest
from diffusion.data.prepared import PreparedImages
from diffusion.data.records import write_records
from diffusion.data.scan import LeftOut, Scan, counted, scan, shown
from diffusion.data.storage import LOG, MissingDataError, Progress
from diffusion.numerics import one_of
from diffusion.runtime import digests

_TEST_EVERY = 5
_NEAR = 8.0  # levels of 255: below, pictures look the same


def in_test(family: str) -> bool:
    """Tell whether a family is for testing."""
    digest = hashlib.sha256(family.encode()).digest()
    return int.from_bytes(digest[:8], "big") % _TEST_EVERY == 0


def first_telling(name: str, skipped: Callable[[str], Any]) -> str:
    """Return the first word of a file name that is not skipped, else its first word, else the name.

    Args:
        name: without suffix; words are letters.
        skipped: whether a word says too little to name a family.
    """
    words = re.findall(r"[a-z]+", name.lower())
    return next(iter([w for w in words if not skipped(w)] or words), name)


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawing:
    """A picture, and where it belongs.

    Args:
        image: uint8 of shape (size, size, 3).
        label: number of its class.
        family: name that its variants share.
    """

    image: np.ndarray
    label: int
    family: str


def split_by_family(
    drawings: Sequence[Drawing], near: float = 0.0
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the images and labels of "train" and "test", in the order given.

    Args:
        drawings: in the order that they keep.
        near: a test family goes to training when one of its drawings is within so many levels (root mean square)
            of a training drawing: names do not tell of all variants.
    """
    images = np.stack([d.image for d in drawings])
    labels = np.array([d.label for d in drawings], np.int64)
    test = np.array([in_test(d.family) for d in drawings])
    new = ~test  # in training, and not compared yet
    while near > 0 and test.any() and new.any():
        squared = nearest(images[test], images[new])[1]
        close = np.flatnonzero(test)[squared < near**2 * images[0].size]
        moved = {drawings[i].family for i in close}
        new = np.array([d.family in moved for d in drawings])
        test &= ~new
    return {"train": (images[~test], labels[~test]), "test": (images[test], labels[test])}


@dataclass(frozen=True, kw_only=True)
class InstalledImages(PreparedImages, abc.ABC):
    """Images that are made on first use from installed files, whose version decides on the content."""

    def content(self) -> str:
        """Return the digest of the pictures, which another version of the package changes; see `Dataset.content`."""
        found = self.source.take(np.arange(len(self.source)))
        assert isinstance(found[1], np.ndarray)
        return digests.of_arrays({"data": found[0], "label": found[1]})


@dataclass(frozen=True, kw_only=True)
class PackagedPictures(InstalledImages, abc.ABC):
    """Pictures below a folder that a Debian package installs, with the classes in the folders' names.

    A subclass states what is in capitals, and writes `path_name`, `places`, `label_of`, `family_of` and `draw`.
    The package may also lie unpacked in the data folder, for those who may not install it.

    Args:
        size: height and width.
    """

    PACKAGE: ClassVar[str]
    LICENSE: ClassVar[str]
    SIZES: ClassVar[tuple[int, ...]]
    CLASS_NAMES: ClassVar[tuple[str, ...]]
    MOST_OF_A_FAMILY: ClassVar[int | None] = None  # of more, as many that are evenly spaced

    size: int = 32

    def __post_init__(self):
        super().__post_init__()
        one_of(self.SIZES, size=self.size)

    @property
    @abc.abstractmethod
    def places(self) -> tuple[str, ...]:
        """Folders with the pictures, without the leading slash; the first that exists is used."""

    @abc.abstractmethod
    def label_of(self, folders: tuple[str, ...]) -> int | None:
        """Return the class of the pictures in a folder, given by its parts; None leaves them out."""

    @abc.abstractmethod
    def family_of(self, folders: tuple[str, ...], name: str) -> str:
        """Return the family of a picture: its folder by parts, its name without suffix."""

    @abc.abstractmethod
    def draw(self, path: Path) -> np.ndarray | str:
        """Return a picture as uint8 (size, size, 3), or why it is left out."""

    def _write(self, scratch: Path, root: Path, download: bool, progress: Progress | None) -> Path:
        folder = self._find(root)
        LOG.info(
            "Preparing the pictures of %s in %s (once, seconds to two minutes).", self.PACKAGE, root
        )
        drawings, left_out = self.drawings(folder)
        if not drawings:
            raise ValueError(
                f"{folder} has no picture of {self.PACKAGE}: {counted(left_out) or 'no files'}."
            )
        if left_out:
            LOG.warning("%s: left out: %s.", folder, counted(left_out))
        splits = split_by_family(drawings, _NEAR)
        pixels = digests.of_arrays({"data": np.stack([d.image for d in drawings])})
        return write_records(
            scratch,
            name=self.path_name.partition("/")[0],
            version="1.0.0",
            splits={name: arrays for name, arrays in splits.items() if len(arrays[0])},
            class_names=self.CLASS_NAMES,
            note=f"Debian's {self.PACKAGE}, on white; {pixels}; {self.LICENSE}.",
            progress=progress,
        )

    def _find(self, root: Path) -> Path:
        manual = root / "downloads" / "manual"
        for place in self.places:
            for folder in (manual / place, Path("/") / place):
                if folder.is_dir():
                    return folder
        raise MissingDataError(
            f"The pictures are those of Debian's package {self.PACKAGE}; there is no folder "
            f"/{self.places[0]}. Do one of these: install the package (apt-get install "
            f"{self.PACKAGE}); unpack it, which anyone may (apt-get download {self.PACKAGE}; dpkg-deb -x "
            f"{self.PACKAGE}_*.deb {manual}); or give a folder with a prepared copy as `data_dir`."
        )

    def drawings(self, root: Path) -> tuple[list[Drawing], LeftOut]:
        """Draw the pictures below a folder in the order of their paths, and say what cannot be drawn.

        Links are other names of a picture, and repeated pictures keep their first name; neither is reported.
        """
        found = scan(root)
        left_out = dict(found.left_out)
        seen: set[bytes] = set()
        drawn: list[Drawing] = []
        for path, label, family in self._chosen(found, root):
            image = self.draw(path)
            if isinstance(image, str):
                left_out[image] = (*left_out.get(image, ()), shown(path, root))
            elif image.tobytes() not in seen:
                seen.add(image.tobytes())
                drawn.append(Drawing(image=image, label=label, family=family))
        return drawn, left_out

    def _chosen(self, found: Scan, root: Path) -> list[tuple[Path, int, str]]:
        """Return the path, the label and the family of the pictures that have a class, of large families a part."""
        members: dict[str, list[tuple[Path, int, str]]] = {}
        for picture in found.pictures:
            path = picture.path
            folders = path.parent.relative_to(root).parts
            label = None if path.is_symlink() else self.label_of(folders)
            if label is not None:
                family = self.family_of(folders, path.stem)
                members.setdefault(family, []).append((path, label, family))
        most = self.MOST_OF_A_FAMILY
        return sorted(m for some in members.values() for m in _thinned(some, most))


def _thinned(members: list[Any], most: int | None) -> list[Any]:
    """Return at most so many members, evenly spaced."""
    if most is None or len(members) <= most:
        return members
    return [members[i * len(members) // most] for i in range(most)]
