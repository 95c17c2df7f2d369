"""Random points from formulas: an endless stream, or the first `size` points as a finite data set.

Point number p of a stream is computed from the Philox words at p, so batches need no state. Training
data of an endless data set come from the seed of the run; `examples`, and batches with train=False, use
a second stream that is independent of all training seeds.
"""

import abc
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffusion.data import order
from diffusion.data.base import (
    Batch,
    Dataset,
    DataSpec,
    Table,
    bounded,
    collate,
    requested,
)
from diffusion.data.shapes2d import SHAPES, moments
from diffusion.numerics import alike, at_least, one_of
from diffusion.registry import register

_STREAMS = {"train": 0, "test": 1}
_TRAIN, _EXAMPLES = 0, 1
_WIDTH = 8  # words per point: the component, two uniforms, one spare, two pairs of normals


@dataclass(frozen=True, kw_only=True)
class Points(Dataset, abc.ABC):
    """Random points from a formula.

    Args:
        split: "train" or "test": independent streams.
        size: None for endless data; a number for a fixed data set that is reshuffled every epoch.
        label: use the mixture component as label.
    """

    split: str = "train"
    size: int | None = None
    label: bool = False

    def __post_init__(self):
        one_of(_STREAMS, split=self.split)
        at_least(1, size=self.size, none="endless")

    @property
    @abc.abstractmethod
    def num_components(self) -> int:
        """Number of components, the classes when `label` is set."""

    @property
    @abc.abstractmethod
    def _dims(self) -> int: ...

    @abc.abstractmethod
    def _draw(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map words (n, _WIDTH) to points (n, dims) and components (n,)."""

    @property
    def spec(self) -> DataSpec:
        """Description of the points."""
        return DataSpec(
            shape=(self._dims,),
            num_classes=self.num_components if self.label else 0,
            size=self.size,
            kind="points",
        )

    def _at(self, seed: int, purpose: int, index: np.ndarray) -> Table:
        key = order.stream_key(seed, order.POINTS, _STREAMS[self.split], purpose)
        points, components = self._draw(order.words(key, index, _WIDTH))
        labels = components.astype(np.int32) if self.label else None
        return Table(values=points.astype(np.float32), labels=labels)

    @functools.cached_property
    def _fixed(self) -> Table:
        """The finite set: the first `size` points of the stream for examples."""
        return self._at(0, _EXAMPLES, np.arange(self.size or 0))

    def _collate(self, index: np.ndarray, seed: int, purpose: int) -> Batch:
        if self.size is not None:
            return collate(*self._fixed.take(index), index)
        table = self._at(seed, purpose, index)
        return collate(table.values, table.labels, index)

    def batch(
        self,
        step: int,
        batch_size: int,
        seed: int = 0,
        index: Sequence[int] | np.ndarray | None = None,
        train: bool = True,
        rows: slice | None = None,
    ) -> Batch:
        """Return batch number `step`; see `diffusion.data.base.Dataset.batch`."""
        positions = order.positions_of(step, batch_size, rows)
        if index is not None:
            chosen = requested(index, batch_size, self.size, rows)
        elif self.size is None:
            chosen = positions
        else:
            size = self.size
            chosen = order.shuffled(seed, positions, size) if train else positions % size
        return self._collate(chosen, *((seed, _TRAIN) if train else (0, _EXAMPLES)))

    def examples(self, start: int, count: int) -> Batch:
        """Return points of the stream for examples; see `diffusion.data.base.Dataset.examples`."""
        return self._collate(bounded(start, count, self.size), 0, _EXAMPLES)


@register("dataset", "points2d")
@dataclass(frozen=True, kw_only=True)
class Points2D(Points):
    """A toy distribution in the plane, scaled to zero mean and unit variance per coordinate.

    Args:
        kind: one of `diffusion.data.shapes2d.SHAPES`.
        noise: standard deviation of the added noise before scaling; None: the default of the shape.
    """

    kind: str = "moons"
    noise: float | int | None = None

    def __post_init__(self):
        super().__post_init__()
        one_of(SHAPES, kind=self.kind)
        at_least(0, noise=self.noise, none="that of the kind")
        if self.label and self.num_components == 1:
            raise ValueError(f"`label` needs components, and {self.kind!r} has only one.")

    @property
    def num_components(self) -> int:
        """Number of pieces of equal probability."""
        return SHAPES[self.kind].num_components

    @property
    def _dims(self) -> int:
        return 2

    def _draw(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        shape = SHAPES[self.kind]
        noise = float(shape.noise if self.noise is None else self.noise)
        u, z = order.uniforms(raw[:, :3]), order.normals(raw[:, 4:])
        component = (u[:, 0] * shape.num_components).astype(np.int64)
        points = np.stack(shape.place(component, u[:, 1:], z[:, 2:]), axis=-1)
        mean, std = moments(self.kind, noise)
        return (points + noise * z[:, :2] - mean) / std, component


@register("dataset", "points1d")
@dataclass(frozen=True, kw_only=True)
class Points1D(Points):
    """A mixture of points on the line, without rescaling.

    Args:
        points: the locations.
        weights: their probabilities up to a factor; None: equal.
        std: standard deviation of Gaussian noise around each point.
    """

    points: tuple[float | int, ...] = (-1.0, 1.0)
    weights: tuple[float | int, ...] | None = None
    std: float | int = 0.0

    def __post_init__(self):
        super().__post_init__()
        weights = self.weights
        if not self.points:
            raise ValueError("`points` must hold at least one number.")
        if weights is not None:
            alike("length", weights=len(weights), points=len(self.points))
        if weights is not None and (min(weights) < 0 or sum(weights) <= 0):
            raise ValueError(f"`weights` must not be negative nor all zero; got {weights}.")
        at_least(0, std=self.std)

    @property
    def num_components(self) -> int:
        """Number of points."""
        return len(self.points)

    @property
    def _dims(self) -> int:
        return 1

    def _draw(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        weights = np.asarray(self.weights or [1] * len(self.points), np.float64)
        edges = np.cumsum(weights / weights.sum())[:-1]
        component = np.searchsorted(edges, order.uniforms(raw[:, 0]), side="right")
        noise = self.std * order.normals(raw[:, 4:])[:, :1]
        return np.asarray(self.points, np.float64)[component, None] + noise, component
