"""A folder of pictures: one class per subfolder, or no classes when the pictures lie flat."""

import functools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion.data.base import DataSpec, FiniteDataset, Source, Table
from diffusion.data.order import hold_out
from diffusion.data.pixels import decode
from diffusion.data.storage import LOG, MEMORY_LIMIT, MissingDataError, check_in_memory
from diffusion.registry import register

_THREADS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Files:
    """Pictures that are decoded when a batch asks for them."""

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
        return decode(path, self.channels, self.size)


@register("dataset", "folder")
@dataclass(frozen=True, kw_only=True)
class Folder(FiniteDataset):
    """Pictures below a folder, in the order of their paths.

    Args:
        path: the folder. With pictures in subfolders, the first level of these names the classes.
        size: height and width, by a centred crop and a resize.
        channels: 1 for grey, 3 for colour.
        split: "train", "test" or "all".
        test_fraction: share of the pictures that a fixed permutation keeps for "test".
        flip: mirror at random in training.
        in_memory: load everything (True), decode on demand (False), or choose by size (None, "auto").

    Files that are no pictures, and, when loading everything, pictures that are damaged are left out
    with a warning that counts them.
    """

    path: str
    size: int = 64
    channels: int = 3
    split: str = "train"
    test_fraction: float = 0.0
    flip: bool = False
    in_memory: bool | str | None = None

    def __post_init__(self):
        if self.channels not in (1, 3):
            raise ValueError(f"`channels` must be 1 or 3; got {self.channels}.")
        if self.size < 1:
            raise ValueError(f"`size` must be at least 1; got {self.size}.")
        check_in_memory(self.in_memory)

    @functools.cached_property
    def _found(self) -> tuple[tuple[Path, ...], np.ndarray | None, tuple[str, ...]]:
        """The paths of the split, their labels, and the names of the classes."""
        root = Path(self.path).expanduser()
        paths, reasons = _scan(root)
        nested = [len(p.relative_to(root).parts) > 1 for p in paths]
        if paths and any(nested) and not all(nested):
            reasons["beside the class folders"] += nested.count(False)
            paths = [p for p, inside in zip(paths, nested, strict=True) if inside]
        _report(root, len(paths), reasons)
        names = tuple(sorted({p.relative_to(root).parts[0] for p in paths})) if any(nested) else ()
        keep = hold_out(len(paths), self.test_fraction, self.split)
        chosen = tuple(paths[i] for i in keep)
        if not names:
            return chosen, None, ()
        number = {name: i for i, name in enumerate(names)}
        labels = np.array([number[p.relative_to(root).parts[0]] for p in chosen], np.int32)
        return chosen, labels, names

    @functools.cached_property
    def source(self) -> Source:
        """Arrays in memory, or files that are decoded on demand."""
        paths, labels, _ = self._found
        files = Files(paths=paths, labels=labels, size=self.size, channels=self.channels)
        load = self.in_memory
        if load in (None, "auto"):
            load = len(paths) * self.size**2 * self.channels <= MEMORY_LIMIT
        return _load(Path(self.path), files) if load else files

    @functools.cached_property
    def spec(self) -> DataSpec:
        """Describe the pictures of this split."""
        names = self._found[2]
        return DataSpec(
            shape=(self.size, self.size, self.channels),
            num_classes=len(names),
            size=len(self.source),
            kind="image",
            bits=8,
            class_names=names,
        )


def _scan(root: Path) -> tuple[list[Path], Counter[str]]:
    """Return the files with the header of a picture, sorted, and why others are left out."""
    from PIL import Image, UnidentifiedImageError

    if not root.is_dir():
        raise MissingDataError(f"There is no folder {root}; check `path`.")
    paths, reasons = [], Counter()
    for path in sorted(root.rglob("*")):
        if path.is_dir() or any(part.startswith(".") for part in path.relative_to(root).parts):
            continue
        try:
            with Image.open(path):  # reads the header only
                paths.append(path)
        except UnidentifiedImageError:
            reasons["not a picture"] += 1
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reasons[f"unreadable ({type(error).__name__})"] += 1
    return paths, reasons


def _report(root: Path, num_left: int, reasons: Counter[str]) -> None:
    """Warn about what is left out; refuse when nothing is left."""
    counts = "; ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    if num_left == 0:
        raise MissingDataError(f"No usable pictures in {root}; left out: {counts or 'no files'}.")
    if counts:
        LOG.warning("%s: %d pictures used, left out: %s.", root, num_left, counts)


def _load(root: Path, files: Files) -> Table:
    """Decode everything, leaving out what is damaged."""

    def attempt(path: Path) -> np.ndarray | None:
        try:
            return decode(path, files.channels, files.size)
        except ValueError as error:
            LOG.debug("%s", error)
            return None

    with ThreadPoolExecutor(_THREADS) as pool:
        images = list(pool.map(attempt, files.paths))
    whole = np.array([image is not None for image in images])
    if not whole.all():
        _report(root, int(whole.sum()), Counter({"damaged": int((~whole).sum())}))
    values = np.stack([image for image in images if image is not None])
    return Table(values=values, labels=None if files.labels is None else files.labels[whole])
