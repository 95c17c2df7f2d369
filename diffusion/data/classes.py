"""Classes of the user's own data: class indices from 0 for its labels, class names, and classes without examples."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion.data.base import Dataset, DataSpec, Names
from diffusion.data.conditioned import Conditioned
from diffusion.data.storage import LOG


class Classes(NamedTuple):
    """Labels (n,) or (n, k) as int32 class indices from 0, the number of classes, and their names."""

    labels: np.ndarray
    number: int | tuple[int, ...]
    names: Names


def classes_by_what_is_there(path: Path, label: np.ndarray) -> Classes:
    """Return labels as class indices from 0 without gaps.

    Integers keep their order, and words are sorted; -1, or an empty word, becomes -1, an unknown class. With several
    labels, each has its own classes; a label with only the values 0 and 1 has these two classes.

    Args:
        path: the file, for messages.
        label: (n,) or (n, k), integers from -1 up, or words.

    Returns:
        Labels of the same shape. Names are () if they equal the indices, and with several labels a tuple for each.

    Raises:
        ValueError: all labels are unknown.
    """
    several = label.ndim > 1
    columns = [_numbered(path, column, several) for column in label.reshape(len(label), -1).T]
    numbers = np.stack([n for n, _ in columns], axis=-1).astype(np.int32).reshape(label.shape)
    names = tuple(tuple(map(str, found)) for _, found in columns)
    sizes = tuple(len(found) for _, found in columns)
    named = any(column != tuple(map(str, range(len(column)))) for column in names)
    if several:
        return Classes(numbers, sizes, names if named else ())
    return Classes(numbers, sizes[0], names[0] if named else ())


def _numbered(path: Path, column: np.ndarray, several: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the class indices of one label, and its different values."""
    words = column.dtype.kind == "U"
    said = column != "" if words else column >= 0
    found = np.unique(column[said])
    if len(found) == 0:
        raise ValueError(f"'label' in {path} says no label of any example.")
    if several and not words and found[-1] <= 1:
        found = np.arange(2)
    if len(found) > max(20, len(column) // 2):
        text = "%s: %d classes for %d examples; are these labels?"
        LOG.warning(text, path, len(found), len(column))
    return np.where(said, np.searchsorted(found, column), -1), found


def labels_of(dataset: Dataset) -> np.ndarray | None:
    """Return the labels of all examples, (n, labels per example), if they are in memory; otherwise None."""
    while isinstance(dataset, Conditioned):
        dataset = dataset.base
    source = getattr(dataset, "source", None)
    found = getattr(source, "cond", {}).get("label", getattr(source, "labels", None))
    return None if found is None else found.reshape(len(found), -1)


def remarks(dataset: Dataset) -> list[str]:
    """Return remarks on the labels before training: classes without an example, unknown labels."""
    labels, spec = labels_of(dataset), dataset.spec
    if labels is None or not spec.num_classes:
        return []
    lines, sizes = [], np.atleast_1d(spec.num_classes)
    for place, size in enumerate(sizes):
        counts = np.bincount(labels[:, place][labels[:, place] >= 0], minlength=size)
        empty = [spec.class_name(int(k), place) for k in np.flatnonzero(counts == 0)]
        if empty:
            of = f" of label {place}" if len(sizes) > 1 else ""
            some = ", ".join(empty[:10]) + ", ..." * (len(empty) > 10)
            lines.append(
                f"{len(empty)} of {size} classes{of} have no example to train on: {some}; what is generated of them "
                "means nothing"
            )
    unsaid = int((labels < 0).any(axis=1).sum())
    if unsaid:
        lines.append(f"{unsaid} of {len(labels)} examples have no label (-1)")
    return lines


def same_classes(a: DataSpec, b: DataSpec) -> bool:
    """Return whether the classes of two data sets, equal in number, have the same meaning, judged by their names."""

    def named(spec: DataSpec) -> Any:
        sizes = spec.num_classes if isinstance(spec.num_classes, tuple) else (spec.num_classes,)
        return tuple(
            tuple(spec.class_name(k, place) for k in range(size))
            for place, size in enumerate(sizes)
        )

    words = lambda names: any(not name.isdigit() for column in names for name in column)
    x, y = named(a), named(b)
    return x == y or (words(x) != words(y))  # unknown if only one side has words
