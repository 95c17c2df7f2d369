"""Classes: numbers from 0 for the labels that a set of one's own holds, their names, and who has none."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion.data.base import Dataset, DataSpec, Names
from diffusion.data.conditioned import Conditioned
from diffusion.data.storage import LOG


class Classes(NamedTuple):
    """Labels (n,) or (n, k) as int32 numbers of classes from 0, the number of classes, and their names."""

    labels: np.ndarray
    number: int | tuple[int, ...]
    names: Names


def classes_by_what_is_there(path: Path, label: np.ndarray) -> Classes:
    """Return labels as numbers from 0 without gaps.

    Labels keep their order, words that of the alphabet; -1, or an empty word, stays -1: not said. Of several labels
    each has its own classes, and one that holds nothing but 0 and 1 has these two.

    Args:
        path: of the file, for messages.
        label: (n,) or (n, k), integers from -1 up, or words.

    Returns:
        Labels of the same shape; names are () where they are the numbers, and of several labels a tuple for each.

    Raises:
        ValueError: no label is said.
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
    """Return the numbers of one label, and the labels that there are."""
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
    """Return the labels of all examples, (n, labels of each), where they lie in memory; else None."""
    while isinstance(dataset, Conditioned):
        dataset = dataset.base
    source = getattr(dataset, "source", None)
    found = getattr(source, "cond", {}).get("label", getattr(source, "labels", None))
    return None if found is None else found.reshape(len(found), -1)


def remarks(dataset: Dataset) -> list[str]:
    """Return what should be known of the labels before training: classes without an example, labels not said."""
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
    """Say whether the classes of two data sets, as many in both, mean the same, as far as names tell."""

    def named(spec: DataSpec) -> Any:
        sizes = spec.num_classes if isinstance(spec.num_classes, tuple) else (spec.num_classes,)
        return tuple(
            tuple(spec.class_name(k, place) for k in range(size))
            for place, size in enumerate(sizes)
        )

    words = lambda names: any(not name.isdigit() for column in names for name in column)
    x, y = named(a), named(b)
    return x == y or (words(x) != words(y))  # words on one side alone: nobody can tell
