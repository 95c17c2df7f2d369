"""Conditions in the same file as the examples, as named arrays."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.data.storage import LOG
from diffusion.registry import nearest

# the examples, and their noise for `diffusion.objectives.coupling.Stored`
NO_CONDITIONS = ("data", "noise")


def checked_conditions(
    path: Path,
    arrays: Mapping[str, Any],
    shape: tuple[int, ...],
    num_classes: Any,
    ignore: Sequence[str] = (),
    *,
    strict: bool = True,
) -> dict[str, np.ndarray]:
    """Return the conditions among the arrays of a file, checked.

    Args:
        path: the file, for messages.
        arrays: its arrays by name; "data" is not a condition.
        shape: shape of the examples, (n, ...).
        num_classes: number of classes of the labels, or None.
        ignore: names of arrays that are not conditions.
        strict: whether to refuse arrays that look like conditions but have an unknown name.

    Raises:
        ValueError: a name is misspelled, or an array has the wrong shape, type or range.
    """
    found = {}
    for name in arrays:
        if name in NO_CONDITIONS or name in ignore:
            continue
        if name not in CHECKS:
            _refuse_misspelled(path, name)
            continue
        values = np.asarray(arrays[name])
        if name != "label" and values.shape[:1] != shape[:1]:
            raise _unfit(name, path, f"{shape[0]} rows long, as 'data'", values)
        found[name] = CHECKS[name](path, values, shape)
    if "label" in found and num_classes is not None:
        _check_classes(path, found["label"], num_classes)
    _say_unused(path, arrays, shape, [*found, *ignore], strict and not found)
    return found


def _say_unused(
    path: Path, arrays: Mapping[str, Any], shape: tuple[int, ...], used: Sequence[str], strict: bool
) -> None:
    """Warn about unused arrays of a file; refuse an unused array that looks like the only condition."""
    unused = [name for name in arrays if name not in (*NO_CONDITIONS, *used)]
    rows = [name for name in unused if np.shape(arrays[name])[:1] == shape[:1]]
    if strict and rows:
        raise ValueError(
            f"{path} has an array {rows[0]!r} with a row for each example; conditions are {', '.join(CHECKS)}. "
            f"Rename it, or give ignore={rows[0]!r} to train without."
        )
    if unused:
        LOG.warning(
            "%s: not used: %s; conditions are %s.", path, ", ".join(unused), ", ".join(CHECKS)
        )


def _refuse_misspelled(path: Path, name: str) -> None:
    """Raise ValueError for a name close to that of a condition; arrays of other names are ignored."""
    near = nearest(name, CHECKS)
    if near:
        raise ValueError(f"{path} has an array {name!r}.{near} Conditions are {', '.join(CHECKS)}.")


def classes_of(label: np.ndarray, num_classes: Any) -> Any:
    """Return the number of classes, one per label if there are several; by default the largest label plus one."""
    if num_classes is not None:
        return num_classes
    return int(label.max()) + 1 if label.ndim == 1 else tuple(int(n) + 1 for n in label.max(axis=0))


def _unfit(name: str, path: Path, wanted: str, values: np.ndarray) -> ValueError:
    got = f"{values.dtype} of shape {values.shape}"
    return ValueError(f"{name!r} in {path} must be {wanted}; got {got}.")


def _label(path: Path, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    whole = np.issubdtype(values.dtype, np.integer)
    fits = values.shape[:1] == shape[:1] and values.ndim <= 2 and 0 not in values.shape
    if not fits or not (whole or values.dtype.kind == "U") or (whole and values.min() < -1):
        least = f", the least {values.min()}" if fits and whole else ""
        raise ValueError(
            f"'label' in {path} must be {shape[0]} integers from 0 (-1: not said), or words; or (n, k) of them; "
            f"got {values.dtype} of shape {values.shape}{least}."
        )
    return values


def _check_classes(path: Path, label: np.ndarray, num_classes: Any) -> None:
    limits = np.atleast_1d(num_classes)
    columns = label.reshape(len(label), -1)
    if label.dtype.kind == "U":
        raise ValueError(f"'label' in {path} is made of words, the classes; omit num_classes.")
    if columns.shape[1] != len(limits):
        raise ValueError(
            f"'label' in {path} has {columns.shape[1]} labels per example, and num_classes={num_classes} is for "
            f"{len(limits)}; give one number per label."
        )
    if (columns >= limits).any():
        raise ValueError(f"'label' in {path} has {columns.max()}, past num_classes={num_classes}.")


def _multi_hot(path: Path, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.ndim != 2 or 0 in values.shape or not np.isin(values, (0, 1)).all():
        raise _unfit("multi_hot", path, "0 and 1, one column per attribute", values)
    return values.astype(np.int32)


def _vector(path: Path, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    real = np.issubdtype(values.dtype, np.floating)
    if values.ndim != 2 or 0 in values.shape or not real or not np.isfinite(values).all():
        raise _unfit("vector", path, "finite real numbers (n, k)", values)
    return values.astype(np.float32)


def _image(path: Path, values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if values.ndim == len(shape) - 1:
        values = values[..., None]  # gray images without a channel axis
    real = np.issubdtype(values.dtype, np.floating) and np.isfinite(values).all()
    if values.ndim < 3 or values.shape[:-1] != shape[:-1] or not (real or values.dtype == np.uint8):
        wanted = f"uint8 or finite real pictures of shape {(*shape[:-1], 'channels')}, as 'data'"
        raise _unfit("image", path, wanted, values)
    return values if values.dtype == np.uint8 else values.astype(np.float32)


CHECKS: dict[str, Callable[[Path, np.ndarray, tuple[int, ...]], np.ndarray]] = {
    "label": _label,
    "multi_hot": _multi_hot,
    "vector": _vector,
    "image": _image,
}
