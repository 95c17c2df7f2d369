"""A folder of pictures: one class per subfolder, or no classes if there are no subfolders with pictures.

Unused files are counted by reason in a warning, with the first few names; see `diffusion.data.scan`.
"""

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diffusion.data.base import WHERE, DataSpec, Source, Table
from diffusion.data.division import Divided
from diffusion.data.pixels import decode
from diffusion.data.scan import LeftOut, Picture, Scan, counted, scan, shown, some
from diffusion.data.storage import LOG, MEMORY_LIMIT, MissingDataError, check_in_memory
from diffusion.numerics import at_least, one_of
from diffusion.registry import register
from diffusion.runtime import digests
from diffusion.runtime.files import expanded

_THREADS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Files:
    """Pictures that are decoded when a batch needs them."""

    paths: tuple[Path, ...]
    labels: np.ndarray | None
    size: int
    channels: int

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Read pictures; see `diffusion.data.base.Source`."""
        with ThreadPoolExecutor(_THREADS) as pool:
            images = list(pool.map(self._read, [self.paths[i] for i in index]))
        shape = (self.size, self.size, self.channels)
        values = np.stack(images) if images else np.empty((0, *shape), np.uint8)
        return values, None if self.labels is None else self.labels[index]

    def _read(self, path: Path) -> np.ndarray:
        try:
            return decode(path, self.channels, self.size)
        except ValueError as error:
            raise ValueError(f"{error}. Repair it; in_memory=True leaves it out.") from error


@register("dataset", "folder")
@dataclass(frozen=True, kw_only=True)
class Folder(Divided):
    """Pictures below a folder, in the order of their paths.

    Args:
        path: the folder. If pictures are in subfolders, the names of the first level are the classes.
        size: height and width, by a centered crop and a resize.
        channels: 1 for gray, 3 for color.
        split: "train", "test" or "all".
        test_fraction: fraction of the pictures that a fixed permutation holds out for "test"; None for 0.1, or 0 if
            there are fewer than 20 pictures.
        flip: flip horizontally at random in training.
        in_memory: load everything (True), decode on demand (False), or choose by size (None, "auto").

    The first frame of an animation is used. Files that are not pictures and, if everything is loaded, damaged
    pictures are skipped with a warning. A class folder without a usable picture is an error.
    """

    path: str = field(metadata=WHERE)
    size: int = 64
    channels: int = 3
    flip: bool = False
    in_memory: bool | str | None = None

    def __post_init__(self):
        one_of((1, 3), channels=self.channels)
        at_least(1, size=self.size)
        check_in_memory(self.in_memory)

    @property
    def _root(self) -> Path:
        return expanded(self.path)

    @functools.cached_property
    def _scan(self) -> Scan:
        """The pictures, either all in class folders or all directly in the folder."""
        root, found = self._root, scan(self._root)
        nested = [p for p in found.pictures if p.path.parent != root]
        loose = [p for p in found.pictures if p.path.parent == root]
        if nested and loose:
            names = tuple(shown(p.path, root) for p in loose)
            left_out = {**found.left_out, "beside the class folders": names}
            found = dataclasses.replace(found, pictures=tuple(nested), left_out=left_out)
        if not found.pictures:
            reasons = counted(found.left_out) or "no files"
            raise MissingDataError(f"No usable pictures in {root}; left out: {reasons}.")
        classes = found.folders if nested else ()
        _require_classes(root, classes, {_class(p, root) for p in nested}, found.left_out)
        if found.left_out:
            number = len(found.pictures)
            text = "%s: %d pictures used; left out: %s."
            LOG.warning(text, root, number, counted(found.left_out))
        return dataclasses.replace(found, folders=classes)

    @property
    def _size(self) -> int:
        return len(self._scan.pictures)

    @functools.cached_property
    def _chosen(self) -> tuple[tuple[Picture, ...], np.ndarray | None]:
        """The pictures of the split and their labels."""
        pictures, classes = self._scan.pictures, self._scan.folders
        chosen = tuple(pictures[i] for i in self._kept)
        if not classes:
            return chosen, None
        number = {name: i for i, name in enumerate(classes)}
        return chosen, np.array([number[_class(p, self._root)] for p in chosen], np.int32)

    @functools.cached_property
    def _opened(self) -> tuple[Source, LeftOut]:
        """Arrays in memory and the damaged files, or files that are decoded on demand."""
        pictures, labels = self._chosen
        paths = tuple(p.path for p in pictures)
        files = Files(paths=paths, labels=labels, size=self.size, channels=self.channels)
        load = self.in_memory
        if load in (None, "auto"):
            load = len(paths) * self.size**2 * self.channels <= MEMORY_LIMIT
        return _load(self._root, files, self._scan.folders) if load else (files, {})

    @property
    def source(self) -> Source:
        """Arrays in memory, or files that are decoded on demand."""
        return self._opened[0]

    @functools.cached_property
    def spec(self) -> DataSpec:
        """Describe the pictures of this split."""
        classes = self._scan.folders
        return DataSpec(
            shape=(self.size, self.size, self.channels),
            num_classes=len(classes),
            size=len(self.source),
            kind="image",
            bits=8,
            class_names=classes,
        )

    @functools.cached_property
    def _content(self) -> str:
        classes, root = self._scan.folders, self._root
        return digests.of_files(
            (_class(p, root) if classes else "", p.path) for p in self._scan.pictures
        )

    def content(self) -> str:
        """Return the digest of all pictures and their classes, independent of file names; see `Dataset.content`."""
        return self._content

    def notes(self) -> dict[str, str]:
        """Return the sizes of the pictures, and the skipped files."""
        pictures, root = self._chosen[0], self._root
        sides = np.array([p.size for p in pictures])
        (w, h), (low, high) = np.median(sides, axis=0).astype(int), (sides.min(0), sides.max(0))
        sizes = (
            f"{low[0]}x{low[1]} ... {high[0]}x{high[1]} (least and largest sides), median {w}x{h}"
        )
        moving = tuple(shown(p.path, root) for p in pictures if p.animated)
        notes = {
            "files": sizes,
            "left out": counted({**self._scan.left_out, **self._opened[1]}) or "nothing",
        }
        if moving:
            notes["animated"] = f"{len(moving)}, of which the first frame is used ({some(moving)})"
        return notes


def _class(picture: Picture, root: Path) -> str:
    return picture.path.relative_to(root).parts[0]


def _require_classes(
    root: Path, classes: tuple[str, ...], usable: set[str], left_out: LeftOut
) -> None:
    """Raise MissingDataError for class folders without a usable picture."""
    empty = tuple(name for name in classes if name not in usable)
    if empty:
        reasons = f" Left out: {counted(left_out)}." if left_out else ""
        raise MissingDataError(
            f"No usable pictures in the class folders {', '.join(empty)} of {root}; fill or remove them.{reasons}"
        )


def _load(root: Path, files: Files, classes: tuple[str, ...]) -> tuple[Table, LeftOut]:
    """Decode all pictures, skipping damaged ones."""
    values = np.empty((len(files), files.size, files.size, files.channels), np.uint8)

    def attempt(row: int) -> bool:
        try:
            values[row] = decode(files.paths[row], files.channels, files.size)
        except ValueError as error:
            LOG.debug("%s", error)
            return False
        return True

    with ThreadPoolExecutor(_THREADS) as pool:
        whole = np.array(list(pool.map(attempt, range(len(files)))))
    labels = None if files.labels is None else files.labels[whole]
    left_out = {}
    if not whole.all():
        names = tuple(shown(p, root) for p, w in zip(files.paths, whole, strict=True) if not w)
        left_out = {"damaged": names}
        if not whole.any():
            raise MissingDataError(f"No usable pictures in {root}; left out: {counted(left_out)}.")
        if labels is not None and files.labels is not None:
            wanted = tuple(classes[i] for i in np.unique(files.labels))
            _require_classes(root, wanted, {classes[i] for i in labels}, left_out)
        LOG.warning("%s: left out besides: %s.", root, counted(left_out))
    return Table(values=values if whole.all() else values[whole], labels=labels), left_out
