"""Interface of data sets, and the base class of finite data sets.

`batch(step, batch_size, seed)` is a pure function: no iterator, no position to save. Rows are
addressed by position (see `diffusion.data.order`), batches cross the ends of epochs, and no example is
dropped. A batch is a dictionary:

    data    float32 (batch, ...); images are NHWC in [-1, 1], 8-bit levels u become u / 127.5 - 1
    cond    {"label": int32 (batch,)}, or (batch, k) for k labels; perhaps with "multi_hot" int32 (batch, k),
            "vector" float32 (batch, k) and "image" float32 (batch, ...); absent without conditions
    index   int64 (batch,): indices of the examples in the data set
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from diffusion.data import order
from diffusion.data.pixels import to_float

Batch: TypeAlias = dict[str, Any]
Labels: TypeAlias = np.ndarray | Mapping[str, np.ndarray] | None  # a mapping: conditions by name
Names: TypeAlias = tuple[str, ...] | tuple[tuple[str, ...], ...]
# metadata of fields that hold the location of data, not its content
WHERE = MappingProxyType({"where": True})


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """Description of a data set.

    Args:
        shape: shape of one example, such as (8, 8, 1).
        num_classes: number of classes; 0 without labels, a tuple if every example has several labels.
        size: number of examples; None for an endless data set.
        kind: "image", "points", "signal", or "latent": (height, width, channels) without a range.
        bits: bits of each value before scaling, for likelihoods of discrete data; None if continuous.
        class_names: one name per class, or (); a tuple of such tuples for several labels.
        multi_hot_dim: entries of the condition "multi_hot"; 0 without this condition.
        vector_dim: length of the condition "vector"; 0 without this condition.
        image_channels: channels of the condition "image", which is as large as the example; 0 without this condition.
    """

    shape: tuple[int, ...]
    num_classes: int | tuple[int, ...] = 0
    size: int | None = None
    kind: str = "image"
    bits: int | None = None
    class_names: Names = ()
    multi_hot_dim: int = 0
    vector_dim: int = 0
    image_channels: int = 0

    def class_name(self, label: int, place: int = 0) -> str:
        """Return the name of a class, or its index if it has no name; "" for -1, an unknown class.

        Args:
            label: index of the class.
            place: index of the label, if examples have several.
        """
        if label < 0:
            return ""
        names = self.names(place)
        return names[label] if names else str(label)

    def names(self, place: int = 0) -> tuple[str, ...]:
        """Return the names of the classes, () if they have none; `place` is the index of the label, if several."""
        found: Any = self.class_names
        return found[place] if found and isinstance(self.num_classes, tuple) else found

    @property
    def pictured(self) -> bool:
        """Whether examples are shown as pictures: images and latents."""
        return self.kind in ("image", "latent")


class Dataset(abc.ABC):
    """A source of batches; implementations are frozen dataclasses of hyperparameters."""

    @property
    @abc.abstractmethod
    def spec(self) -> DataSpec:
        """Description of the data; the first access may prepare or read the data set."""

    @abc.abstractmethod
    def batch(
        self,
        step: int,
        batch_size: int,
        seed: int = 0,
        index: Sequence[int] | np.ndarray | None = None,
        train: bool = True,
        rows: slice | None = None,
    ) -> Batch:
        """Return batch number `step`, a pure function of the arguments.

        Args:
            step: index of the batch, from 0.
            batch_size: size of the global batch; may exceed the size of the data set.
            seed: seed of the order and the augmentation; not negative.
            index: indices of the examples to take, shape (batch_size,), instead of the shuffled order.
            train: shuffle and augment; otherwise natural order without augmentation.
            rows: return only these rows of the global batch, those of one process.
        """

    @abc.abstractmethod
    def examples(self, start: int, count: int) -> Batch:
        """Return examples start ... start + count - 1 in natural order, fewer at the end of the set.

        Raises:
            IndexError: there is no example `start`.
        """

    def content(self) -> str | None:
        """Return a digest of the data at the locations in the fields; None if the other fields define the data.

        A run records the digest, and is resumed and evaluated only with data of the same digest, at any location.
        """
        return None

    def decided(self) -> dict[str, Any]:
        """Return the decided values of fields that are None, "inferred from the data"; a run records them."""
        return {}

    def notes(self) -> dict[str, str]:
        """Return further information besides the `spec`, by short titles."""
        return {}

    def division(self) -> str:
        """Return a sentence on how many examples are held out, if the data set decides it; otherwise ""."""
        return ""

    def held_out(self) -> "Dataset":
        """Return the held-out data: the split "test", or the data set itself if nothing is held out."""
        fields: Any = self
        names = {f.name for f in dataclasses.fields(fields)}
        return dataclasses.replace(fields, split="test") if "split" in names else self


@runtime_checkable  # for the type checks of the tests
class Source(Protocol):
    """Random access to examples in memory or on disk."""

    def __len__(self) -> int:
        """Return the number of examples."""
        ...

    def take(self, index: np.ndarray) -> tuple[np.ndarray, Labels]:
        """Return values (n, ...), uint8 or float32, and integer labels (n,), (n, k), conditions or None."""
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """Examples in memory: values (size, ...), and labels with the same leading axis or None."""

    values: np.ndarray
    labels: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.values)

    def take(self, index: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Gather rows."""
        return self.values[index], None if self.labels is None else self.labels[index]


@dataclass(frozen=True, kw_only=True, eq=False)
class ConditionedTable:
    """Examples in memory with conditions by name, all with the same leading axis."""

    values: np.ndarray
    cond: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, index: np.ndarray) -> "ConditionedTable":
        """Return these examples."""
        values, cond = self.take(index)
        return ConditionedTable(values=values, cond=cond)

    def take(self, index: np.ndarray) -> tuple[np.ndarray, Mapping[str, np.ndarray]]:
        """Gather rows."""
        return self.values[index], {k: v[index] for k, v in self.cond.items()}


def requested(
    index: Sequence[int] | np.ndarray, batch_size: int, size: int | None, rows: slice | None
) -> np.ndarray:
    """Check explicit example indices against the batch and the data set, and return those of the wanted rows.

    Raises:
        ValueError: there is not one index per row of the global batch.
        IndexError: an index is out of range.
    """
    chosen = np.asarray(index, np.int64)
    if chosen.shape != (batch_size,):
        raise ValueError(f"`index` must have shape ({batch_size},); got {chosen.shape}.")
    if chosen.min() < 0 or (size is not None and chosen.max() >= size):
        last = "" if size is None else size - 1
        raise IndexError(f"`index` must be 0 ... {last}; got {chosen.min()} ... {chosen.max()}.")
    return chosen[rows or slice(None)]


def bounded(start: int, count: int, size: int | None) -> np.ndarray:
    """Return the indices start ... start + count - 1, truncated at the end of the data set, as int64."""
    if start < 0 or count < 0 or (size is not None and start >= size):
        last = "" if size is None else size - 1
        raise IndexError(f"`start` must lie in 0 ... {last}, `count` >= 0; got {start}, {count}.")
    stop = start + count if size is None else min(start + count, size)
    return np.arange(start, stop, dtype=np.int64)


class FiniteDataset(Dataset):
    """Data set with batches from a `source`. A subclass defines `spec` and `source`, usually cached properties.

    A subclass with a field `flip` gets random horizontal flips in training.
    """

    flip: bool = False

    @property
    @abc.abstractmethod
    def source(self) -> Source:
        """Random access to the examples."""

    def batch(
        self,
        step: int,
        batch_size: int,
        seed: int = 0,
        index: Sequence[int] | np.ndarray | None = None,
        train: bool = True,
        rows: slice | None = None,
    ) -> Batch:
        """Return batch number `step`; see `Dataset.batch`."""
        positions, size = order.positions_of(step, batch_size, rows), len(self.source)
        if index is not None:
            chosen = requested(index, batch_size, size, rows)
        else:
            chosen = order.shuffled(seed, positions, size) if train else positions % size
        return self._collate(chosen, order.coins(seed, positions) if train and self.flip else None)

    def examples(self, start: int, count: int) -> Batch:
        """Return examples in natural order, without augmentation; see `Dataset.examples`."""
        return self._collate(bounded(start, count, len(self.source)), None)

    def _collate(self, index: np.ndarray, mirror: np.ndarray | None) -> Batch:
        values, labels = self.source.take(index)
        if mirror is not None:
            values = _mirrored(values, mirror)
            if isinstance(labels, Mapping) and "image" in labels:
                labels = {**labels, "image": _mirrored(labels["image"], mirror)}
        return collate(values, labels, index)


def _mirrored(images: np.ndarray, mirror: np.ndarray) -> np.ndarray:
    return np.where(mirror[:, None, None, None], images[:, :, ::-1], images)


def collate(values: np.ndarray, labels: Labels, index: np.ndarray) -> Batch:
    """Return examples as a batch dictionary; uint8 values are scaled to [-1, 1]."""
    batch: Batch = {"data": _scaled(values), "index": index}
    if isinstance(labels, Mapping) and labels:
        batch["cond"] = {
            k: v.astype(np.int32) if k in ("label", "multi_hot") else _scaled(v)
            for k, v in labels.items()
        }
    elif isinstance(labels, np.ndarray):
        batch["cond"] = {"label": labels.astype(np.int32)}
    return batch


def _scaled(values: np.ndarray) -> np.ndarray:
    return to_float(values) if values.dtype == np.uint8 else values.astype(np.float32, copy=False)
