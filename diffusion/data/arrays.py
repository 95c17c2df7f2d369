"""Data from .npy and .npz files."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.data import legal
from diffusion.data.base import WHERE, ConditionedTable, DataSpec
from diffusion.data.classes import Classes, classes_by_what_is_there
from diffusion.data.division import Divided
from diffusion.data.named_conditions import checked_conditions, classes_of
from diffusion.data.storage import nowhere
from diffusion.numerics import one_of
from diffusion.registry import register
from diffusion.runtime import digests
from diffusion.runtime.files import decoding
from diffusion.runtime.npz import read_arrays
from diffusion.runtime.reading import check_plain

RULES = 2  # version of the rules for reading arrays; 1 for older runs, which recorded none


@register("dataset", "array")
@dataclass(frozen=True, kw_only=True)
class ArrayFile(Divided):
    """Examples from a .npz file with the key "data" and optional conditions, or from a .npy file.

    `diffusion.data.legal` defines the accepted arrays of examples. uint8 images are scaled to [-1, 1]; float
    images must already be in this range, or have a `range`; other floats are used unchanged.

    Conditions are further arrays with one row per example: "label", integers or words (n,), or (n, k) for k labels
    each, -1 or "" if unknown, whose classes are the values that occur; "multi_hot", (n, k) of 0 and 1; "vector",
    floats (n, k); "image", images of the same height and width as the examples.

    Args:
        path: the file.
        split: "train", "test" or "all".
        test_fraction: fraction of the examples that a fixed permutation holds out for "test"; None for 0.1, or 0 if
            there are fewer than 20 examples or the file contains the noise of each example
            (`diffusion.objectives.coupling.Stored`).
        flip: flip images horizontally at random in training.
        num_classes: None for the number of different labels; a number, or a tuple for several labels per example, if
            labels are class indices from 0.
        kind: "image", "signal", "points" or "latent", the latents of an autoencoder; None: inferred from the shape.
        range: range of floats to be scaled to [-1, 1], such as (0, 1); "any" for no scaling; None: (-1, 1) for images,
            no scaling for other kinds.
        ignore: names of arrays in the file that are not conditions.
        rules: version of the reading rules, 2; 1 for older runs, which recorded none.
    """

    path: str = field(metadata=WHERE)
    flip: bool = False
    num_classes: int | tuple[int, ...] | None = None
    kind: str | None = None
    range: tuple[float | int, float | int] | str | None = None
    ignore: str | tuple[str, ...] = ()
    rules: int = field(default=RULES, metadata={"formerly": 1})

    def __post_init__(self):
        one_of((1, RULES), rules=self.rules)
        pair = isinstance(self.range, tuple) and len(self.range) == 2
        if self.range not in (None, "any") and not pair:
            raise ValueError(f"`range` must be (low, high), 'any' or None; got {self.range!r}.")

    @property
    def _size(self) -> int:
        return len(self._whole)

    @property
    def _dividable(self) -> bool:
        return super()._dividable and "noise" not in self._read[0]

    @functools.cached_property
    def _read(self) -> tuple[tuple[str, ...], str, ConditionedTable]:
        """Names of the arrays in the file, the kind of the examples, and all examples, checked."""
        path = Path(self.path).expanduser()
        arrays = _load(path)
        kind, values = self._checked(f"'data' in {path}", arrays["data"])
        if self.flip and kind != "image":
            raise ValueError(f"`flip` is for images; the data in {path} are of kind {kind}.")
        ignored = (self.ignore,) if isinstance(self.ignore, str) else self.ignore
        cond = checked_conditions(
            path, arrays, values.shape, self.num_classes, ignored, strict=self.rules > 1
        )
        return tuple(arrays), kind, ConditionedTable(values=values, cond=cond)

    @functools.cached_property
    def _classes(self) -> Classes | None:
        """Labels as class indices, and the classes."""
        label = self._read[2].cond.get("label")
        if label is None:
            return None
        if self.num_classes is None and self.rules > 1:
            return classes_by_what_is_there(Path(self.path), label)
        if label.dtype.kind == "U":
            raise ValueError(f"`rules` 1 know no labels that are words, as {self.path} has.")
        return Classes(label.astype(np.int32), classes_of(label, self.num_classes), ())

    @functools.cached_property
    def _whole(self) -> ConditionedTable:
        """All examples of the file."""
        read, classes = self._read[2], self._classes
        cond = read.cond if classes is None else {**read.cond, "label": classes.labels}
        return ConditionedTable(values=read.values, cond=cond)

    def _checked(self, where: str, values: np.ndarray) -> tuple[str, np.ndarray]:
        """Return the kind of the examples, and the examples as uint8 or float32 with a channel axis; check them."""
        if values.ndim < 2 or 0 in values.shape:
            raise ValueError(f"{where} must hold examples with 1 to 3 axes; got {values.shape}.")
        if self.rules == 1:
            kind = legal.kind_by_axes(where, values.shape[1:], values.dtype)
        else:
            kind = legal.kind_of(where, values.shape[1:], values.dtype, self.kind)
        values = values.reshape(len(values), *legal.with_channel(values.shape[1:], kind))
        if values.dtype == np.uint8:
            if self.range is not None:
                raise ValueError(f"{where} is made of uint8, whose `range` is 0 ... 255.")
            return kind, values
        values = values.astype(np.float32, copy=False)
        if not np.isfinite(values).all():
            raise ValueError(f"{where} has values that are not finite.")
        return kind, self._in_range(where, kind, values)

    def _in_range(self, where: str, kind: str, values: np.ndarray) -> np.ndarray:
        if isinstance(self.range, tuple):
            low, high = self.range
            return legal.scaled(where, values, float(low), float(high))
        if kind == "image" and self.range is None:
            low, high = float(values.min()), float(values.max())
            if self.rules == 1 and max(-low, high) <= 1:
                return values
            hint = (
                ", or give data.range=(0, 1), or data.kind=latent for the numbers of an autoencoder"
            )
            legal.check_range(where, low, high, hint=hint)
        return values

    @functools.cached_property
    def source(self) -> ConditionedTable:
        """The examples of the split."""
        return self._whole.rows(self._kept)

    @functools.cached_property
    def _content(self) -> str:
        return digests.of_arrays({"data": self._whole.values, **self._whole.cond})

    def content(self) -> str:
        """Return the digest of all examples of the file in the form used for training; see `Dataset.content`."""
        return self._content

    @functools.cached_property
    def spec(self) -> DataSpec:
        """Describe the examples of this split."""
        values, cond = self._whole.values, self._whole.cond
        width = lambda name: cond[name].shape[-1] if name in cond else 0
        return DataSpec(
            shape=values.shape[1:],
            num_classes=self._classes.number if self._classes else 0,
            multi_hot_dim=width("multi_hot"),
            vector_dim=width("vector"),
            image_channels=width("image"),
            class_names=self._classes.names if self._classes else (),
            size=len(self.source),
            kind=self._read[1],
            bits=8 if values.dtype == np.uint8 else None,
        )


def _load(path: Path) -> Mapping[str, Any]:
    """Read the arrays of a file by name.

    Raises:
        MissingDataError: there is no such file; the message names the folder that was searched.
        ValueError: the file cannot be read, or has no array "data".
    """
    if not check_plain(path, links=True):
        raise nowhere("file", path)
    with decoding(path, "as .npy or .npz"):
        arrays = read_arrays(path)
    if "data" not in arrays:
        raise ValueError(f"{path} has no array 'data'; it has {', '.join(arrays) or 'nothing'}.")
    return arrays
