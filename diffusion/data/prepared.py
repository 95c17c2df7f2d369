"""Image data sets that are prepared once and then read from a folder.

Below `MEMORY_LIMIT`, a split is held in memory, from arrays that are cached next to the records
(`diffusion.data.decoded`); above it, examples are read and decoded when a batch needs them.
"""

import abc
import functools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from diffusion.data.base import WHERE, DataSpec, FiniteDataset, Source, Table
from diffusion.data.decoded import decoded, facts
from diffusion.data.records import (
    Layout,
    RecordReader,
    description,
    newest_version,
    split_sizes,
)
from diffusion.data.splits import parse_split
from diffusion.data.storage import MEMORY_LIMIT, Progress, check_in_memory, data_root, publish


@dataclass(frozen=True, kw_only=True)
class PreparedImages(FiniteDataset, abc.ABC):
    """Images in a prepared folder below the data root.

    Args:
        data_dir: the data root; None: see `diffusion.data.storage.data_root`.
        split: split, such as "train", "test" or "train[:90%]".
        flip: flip horizontally at random in training.
        in_memory: load everything (True), decode on demand (False), or choose by size (None, "auto").
    """

    data_dir: str | None = field(default=None, metadata=WHERE)
    split: str = "train"
    flip: bool = False
    in_memory: bool | str | None = None

    def __post_init__(self):
        check_in_memory(self.in_memory)

    @property
    @abc.abstractmethod
    def path_name(self) -> str:
        """The folder below the data root, such as "digits" or "imagenet_resized/64x64"."""

    @property
    def layout(self) -> Layout:
        """Conversion of records to arrays."""
        return Layout()

    @abc.abstractmethod
    def _write(self, scratch: Path, root: Path, download: bool, progress: Progress | None) -> Path:
        """Prepare the set below `scratch` and return the folder of its records."""

    def find(self) -> Path | None:
        """Return the prepared folder, or None."""
        return newest_version(data_root(self.data_dir) / self.path_name)

    def prepare(self, *, download: bool = False, progress: Progress | None = None) -> Path:
        """Return the prepared folder; prepare it if it does not exist.

        Args:
            download: whether the network may be used.
            progress: called with the number of examples written so far and their total.

        Raises:
            MissingDataError: the data set cannot be prepared here.
        """
        found = self.find()
        if found is not None:
            return found
        root = data_root(self.data_dir)
        return publish(
            root / self.path_name,
            ready=self.find,
            write=lambda scratch: self._write(scratch, root, download, progress),
        )

    def _reader(self, split: str) -> RecordReader:
        return RecordReader(self.prepare(), split, self.layout)

    @functools.cached_property
    def _pieces(self) -> list[tuple[str, int, int]]:
        return parse_split(self.split, split_sizes(self.prepare()))

    def _fits(self, folder: Path) -> bool:
        if self.in_memory not in (None, "auto"):
            return bool(self.in_memory)
        shape = facts(folder, self.layout)["shape"]
        sizes = split_sizes(folder)
        return sum(sizes[name] for name, _, _ in self._pieces) * int(np.prod(shape)) <= MEMORY_LIMIT

    @functools.cached_property
    def source(self) -> Source:
        """Arrays in memory, or readers that decode on demand."""
        folder = self.prepare()
        if self._fits(folder):
            parts = [
                decoded(folder, name, self.layout, start, stop)
                for name, start, stop in self._pieces
            ]
            values = [p.values for p in parts]
            labels = [p.labels for p in parts if p.labels is not None]
            if len(parts) == 1:
                return parts[0]
            return Table(
                values=np.concatenate(values), labels=np.concatenate(labels) if labels else None
            )
        return Pieces(
            readers={name: self._reader(name) for name, _, _ in self._pieces},
            pieces=tuple(self._pieces),
        )

    @functools.cached_property
    def spec(self) -> DataSpec:
        """Describe the images of this split."""
        about = facts(self.prepare(), self.layout)
        classes = about["num_classes"]
        return DataSpec(
            shape=tuple(about["shape"]),
            num_classes=tuple(classes) if isinstance(classes, list | tuple) else classes,
            size=sum(stop - start for _, start, stop in self._pieces),
            kind="image",
            bits=8,
            class_names=tuple(about["class_names"]),
        )

    def notes(self) -> dict[str, str]:
        """Return the available splits, and the source of the data."""
        folder = self.prepare()
        splits = ", ".join(f"{name} {size}" for name, size in split_sizes(folder).items())
        return {"splits": splits, "origin": description(folder)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Pieces:
    """Concatenated slices of splits, decoded on demand."""

    readers: dict[str, RecordReader]
    pieces: tuple[tuple[str, int, int], ...]

    def __len__(self) -> int:
        return sum(stop - start for _, start, stop in self.pieces)

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Read examples; see `diffusion.data.base.Source`."""
        index = np.asarray(index)
        lengths = [stop - start for _, start, stop in self.pieces]
        ends = np.cumsum(lengths)
        which = np.searchsorted(ends, index, side="right")
        values, labels = None, None
        for number, (name, start, _) in enumerate(self.pieces):
            here = which == number
            rows = index[here] - (ends[number] - lengths[number]) + start
            some, tags = self.readers[name].take(rows)
            values = np.empty((len(index), *some.shape[1:]), np.uint8) if values is None else values
            values[here] = some
            if tags is not None:
                labels = (
                    np.empty((len(index), *tags.shape[1:]), np.int32) if labels is None else labels
                )
                labels[here] = tags
        assert values is not None  # there is always a piece
        return values, labels
