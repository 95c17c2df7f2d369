"""Data from .npy and .npz files."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffusion import contents
from diffusion.data.base import WHERE, ConditionedTable, DataSpec
from diffusion.data.division import Divided
from diffusion.data.named_conditions import checked_conditions, classes_of
from diffusion.data.storage import nowhere
from diffusion.foreign import check_plain, read_arrays
from diffusion.registry import register

_KINDS = {1: "points", 2: "signal", 3: "image"}  # by the number of axes of one example


@register("dataset", "array")
@dataclass(frozen=True, kw_only=True)
class ArrayFile(Divided):
    """Examples from a .npz file with the key "data" and maybe conditions, or from a .npy file.

    uint8 arrays are images (n, height, width[, channels]) and are scaled to [-1, 1]. Float arrays are
    used as they are: (n, d) points, (n, length, channels) signals, (n, height, width, channels)
    images, which must lie in [-1, 1].

    Conditions are further arrays with as many rows: "label", integers (n,) or (n, k) for k labels each;
    "multi_hot", (n, k) of 0 and 1; "vector", floats (n, k); "image", pictures of the same height and
    width as the examples.

    Args:
        path: the file.
        split: "train", "test" or "all".
        test_fraction: share of the examples that a fixed permutation keeps for "test"; None: a tenth, and nothing
            of fewer than 20 examples, or where the file holds the noise of each (`diffusion.coupling.Stored`).
        flip: mirror images at random in training.
        num_classes: None: the largest label plus one; a tuple for several labels each.
    """

    path: str = field(metadata=WHERE)
    flip: bool = False
    num_classes: int | tuple[int, ...] | None = None

    @functools.cached_property
    def _arrays(self) -> Mapping[str, Any]:
        return _load(Path(self.path).expanduser())

    @property
    def _size(self) -> int:
        return len(self._whole)

    @property
    def _dividable(self) -> bool:
        return super()._dividable and "noise" not in self._arrays

    @functools.cached_property
    def _whole(self) -> ConditionedTable:
        """All examples of the file, checked."""
        path, arrays = Path(self.path).expanduser(), self._arrays
        values = _checked_values(path, arrays["data"])
        if self.flip and values.ndim != 4:
            raise ValueError(f"`flip` is for images; the data in {path} have shape {values.shape}.")
        cond = checked_conditions(path, arrays, values.shape, self.num_classes)
        return ConditionedTable(values=values, cond=cond)

    @functools.cached_property
    def source(self) -> ConditionedTable:
        """The examples of the split."""
        return self._whole.rows(self._kept)

    @functools.cached_property
    def _content(self) -> str:
        return contents.of_arrays({"data": self._whole.values, **self._whole.cond})

    def content(self) -> str:
        """Return the digest of all examples of the file, as they are trained on; see `Dataset.content`."""
        return self._content

    @functools.cached_property
    def spec(self) -> DataSpec:
        """Describe the examples of this split."""
        values, cond = self._whole.values, self._whole.cond
        width = lambda name: cond[name].shape[-1] if name in cond else 0
        return DataSpec(
            shape=values.shape[1:],
            num_classes=classes_of(cond["label"], self.num_classes) if "label" in cond else 0,
            multi_hot_dim=width("multi_hot"),
            vector_dim=width("vector"),
            image_channels=width("image"),
            size=len(self.source),
            kind=_KINDS[values.ndim - 1],
            bits=8 if values.dtype == np.uint8 else None,
        )


def _load(path: Path) -> Mapping[str, Any]:
    """Read the arrays of a file by name.

    Raises:
        MissingDataError: there is no such file; the message names the folder that was searched.
        ValueError: it cannot be read, or has no "data".
    """
    if not check_plain(path, links=True):
        raise nowhere("file", path)
    try:
        arrays = read_arrays(path)
    except ValueError as error:
        raise ValueError(f"Cannot read arrays from {path}: {error}") from error
    if "data" not in arrays:
        raise ValueError(f"{path} has no array 'data'; it has {', '.join(arrays) or 'nothing'}.")
    return arrays


def _checked_values(path: Path, values: np.ndarray) -> np.ndarray:
    """Check dtype, shape and range; give grey images (n, height, width) their channel."""
    if values.dtype == np.uint8 and values.ndim == 3:
        values = values[..., None]
    if values.dtype != np.uint8:
        if not np.issubdtype(values.dtype, np.floating):
            raise ValueError(f"'data' in {path} must be uint8 or float; got {values.dtype}.")
        values = values.astype(np.float32)
    elif values.ndim != 4:
        raise ValueError(
            f"uint8 'data' in {path} must have shape (n, height, width[, channels]); "
            f"got {values.shape}."
        )
    if values.ndim - 1 not in _KINDS or 0 in values.shape:
        raise ValueError(
            f"'data' in {path} must hold examples with 1 to 3 axes; got shape {values.shape}."
        )
    if values.dtype == np.float32 and not np.isfinite(values).all():
        raise ValueError(f"'data' in {path} has values that are not finite.")
    if values.dtype == np.float32 and values.ndim == 4 and np.abs(values).max() > 1:
        raise ValueError(
            f"Float images in {path} must lie in [-1, 1]; got {values.min():.3g} ... "
            f"{values.max():.3g}. Store uint8, or scale them."
        )
    return values
