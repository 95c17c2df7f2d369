"""Conditions of a data set: shapes, checks, and parsing from a command line.

A condition is None or a dictionary with the entries of `diffusion.networks.embeddings`. The `DataSpec` of a data set
defines which entries it has, and their widths.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from diffusion.data import Dataset, DataSpec
from diffusion.numerics import shaped
from diffusion.registry import nearest
from diffusion.types import Cond


def network_fields(spec: DataSpec) -> dict[str, Any]:
    """Return the fields of a network that describe its conditions."""
    return {
        "num_classes": spec.num_classes,
        "multi_hot_dim": spec.multi_hot_dim,
        "vector_dim": spec.vector_dim,
        "image_channels": spec.image_channels,
    }


def shapes(spec: DataSpec, count: int) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Return shape and dtype of every entry of the conditions of `count` examples."""
    found: dict[str, tuple[tuple[int, ...], Any]] = {}
    if spec.num_classes:
        classes = spec.num_classes
        shape = (count, len(classes)) if isinstance(classes, tuple) else (count,)
        found["label"] = (shape, jnp.int32)
    if spec.multi_hot_dim:
        found["multi_hot"] = ((count, spec.multi_hot_dim), jnp.int32)
    if spec.vector_dim:
        found["vector"] = ((count, spec.vector_dim), jnp.float32)
    if spec.image_channels:
        found["image"] = ((count, *spec.shape[:-1], spec.image_channels), jnp.float32)
    return found


def null_conditions(spec: DataSpec, count: int) -> Cond:
    """Return conditions that mean "unconditional", or None if the data set has none."""
    null = {
        name: jnp.full(shape, -1 if dtype == jnp.int32 else jnp.nan, dtype)
        for name, (shape, dtype) in shapes(spec, count).items()
    }
    return null or None


def array_entry(spec: DataSpec) -> str:
    """Return the name of the entry that an unnamed array stands for."""
    return "multi_hot" if spec.multi_hot_dim and not spec.num_classes else "label"


def make_conditions(spec: DataSpec, given: Any, count: int) -> Cond:
    """Return the conditions of `count` examples, checked; missing entries are null.

    Args:
        spec: data that the model was trained on.
        given: None; an array of labels, or of multi-hot rows for data that has those instead; or a
            dictionary of entries.
        count: number of examples.

    Raises:
        ValueError: an entry has the wrong shape or values, or the data set does not have it.
    """
    null = null_conditions(spec, count)
    if given is None:
        return null
    if not isinstance(given, Mapping):
        given = {array_entry(spec): given}
    check_conditions(spec, given)
    wanted = shapes(spec, count)
    filled = dict(null or {})
    for name, values in given.items():
        shape, dtype = wanted[name]
        values = np.asarray(values)
        if name == "label" and values.shape == (count, 1) and len(shape) == 1:
            values = values[:, 0]
        shaped(f"the condition {name!r}", values, shape, f"for {count} examples")
        filled[name] = jnp.asarray(values, dtype)
    return filled


def eval_conditions(
    spec: DataSpec,
    held_out: Callable[[], Dataset],
    indices: np.ndarray,
    classes: int = 0,
    requested: Any = None,
) -> Cond:
    """Return conditions for evaluation: the classes in turn, all other entries from held-out examples.

    Args:
        spec: data that the model was trained on.
        held_out: function that returns the held-out data; called if entries are needed that `requested` lacks.
        indices: indices of the examples.
        classes: number of classes to cycle through; 0 for all.
        requested: explicit conditions instead of the classes: an array or a dictionary, as in `make_conditions`.
    """
    count, one = len(indices), isinstance(spec.num_classes, int) and spec.num_classes
    turn = {"label": indices % (classes or spec.num_classes)} if one else {}
    if requested is not None:
        turn |= requested if isinstance(requested, Mapping) else {array_entry(spec): requested}
    if set(shapes(spec, 1)) <= set(turn):
        return make_conditions(spec, turn or None, count)
    data = held_out()
    rows = indices % data.spec.size if data.spec.size else indices
    batch = data.batch(0, count, index=rows, train=False)
    return make_conditions(spec, {**batch["cond"], **turn}, count)


def check_conditions(spec: DataSpec, given: Mapping[str, Any]) -> None:
    """Raise ValueError for entries, labels and widths that the data set does not have."""
    known = shapes(spec, 1)
    for name, values in given.items():
        if name == "label":
            check_labels(spec.num_classes, np.asarray(values))
            continue
        if name not in known:
            names = " and ".join(map(repr, known)) or "no conditions"
            raise ValueError(f"the model has no condition {name!r}; it was trained with {names}.")
        values, width = np.asarray(values), known[name][0][1:]
        shaped(f"the condition {name!r}", values, (*values.shape[:1], *width), "as in training")
        if name == "multi_hot" and not np.isin(values, (-1, 0, 1)).all():
            bad = values[~np.isin(values, (-1, 0, 1))][0]
            raise ValueError(
                f"the condition 'multi_hot' must be 1 (holds), 0 (does not) or -1 (unknown); got {bad}."
            )


def check_labels(classes: Any, labels: np.ndarray) -> None:
    """Raise ValueError for a label that the data set does not have; -1 means unconditional.

    Args:
        classes: number of classes, an integer or one per attribute; 0 or None for data without labels.
        labels: (count,) or (count, attributes).
    """
    if not classes:
        raise ValueError("`labels` were given, but this model was trained without labels.")
    limits = np.atleast_1d(np.asarray(classes))
    columns = labels.reshape(len(labels), -1)
    if columns.shape[1] != len(limits):
        sizes = ", ".join(map(str, limits))
        raise ValueError(
            f"`labels` must be {len(limits)} per example, of {sizes} classes, as in 3:1,0:2; got {columns.shape[1]}."
        )
    wrong = (columns < -1) | (columns >= limits)
    if wrong.any():
        row, place = np.argwhere(wrong)[0]
        which = f" for attribute {place}" if len(limits) > 1 else ""
        raise ValueError(
            f"`labels` must lie in 0 ... {limits[place] - 1}{which}, or be -1 for no label; got {columns[row, place]}."
        )


def parse_labels(text: str, spec: DataSpec) -> np.ndarray | None:
    """Parse the conditions of a command line, one per example in turn; None for "none".

        3,1         one label each
        cats,dogs   class names, if the classes have names
        3:1,0:-1    several labels each; -1 for an unknown one
        0+4,2,-     multi-hot: the attributes that are 1; "-" for none of them

    Args:
        text: text of the flag.
        spec: data that the model was trained on.

    Returns:
        int array of shape (examples,), (examples, attributes) or (examples, multi_hot_dim).

    Raises:
        ValueError: the text cannot be parsed, or names a class that the data set does not have.
    """
    if text.strip().lower() == "none":
        return None
    words = [word.strip() for word in text.split(",")]
    if spec.multi_hot_dim and not spec.num_classes:
        return _multi_hot(words, spec.multi_hot_dim)
    several = isinstance(spec.num_classes, tuple)
    parts = [word.split(":") if several or word not in spec.names() else [word] for word in words]
    if len({len(row) for row in parts}) > 1:
        raise ValueError(f"every example needs the same number of labels; got {text!r}.")
    rows = [[_class_of(part.strip(), spec, k) for k, part in enumerate(row)] for row in parts]
    labels = np.array(rows, np.int32)
    check_labels(spec.num_classes, labels)
    return labels[:, 0] if isinstance(spec.num_classes, int) else labels


def _class_of(word: str, spec: DataSpec, place: int) -> int:
    """Return the index of a class from its name or its index; -1 for none."""
    places = len(spec.num_classes) if isinstance(spec.num_classes, tuple) else 1
    names = spec.names(place) if place < places else ()
    if names == tuple(map(str, range(len(names)))):
        names = ()
    if word in names and word != "-1":
        return names.index(word)
    try:
        number = int(word)
    except ValueError:
        number = None
    all_numbers = bool(names) and all(name.isdigit() for name in names)
    if number is not None and (number == -1 or not all_numbers):
        return number
    if names:
        some = ", ".join(names[:20]) + ", ..." * (len(names) > 20)
        raise ValueError(f"there is no class {word!r}.{nearest(word, names)} Classes: {some}.")
    raise ValueError(
        f"labels are whole numbers, 3,1 for two examples, 3:1,0:2 for two each, or 'none'; got {word!r}."
    )


def numbered_labels(entry: Any, spec: DataSpec) -> Any:
    """Return an entry of guidance with class names in `label`, also of the entry inside it, replaced by indices."""
    if not isinstance(entry, Mapping):
        return entry
    entry = {k: numbered_labels(v, spec) if k == "inner" else v for k, v in entry.items()}
    if isinstance(label := entry.get("label"), str):
        found = parse_labels(label, spec)
        rows = [] if found is None else found.tolist()
        if len(rows) != 1:
            raise ValueError(f"`label` of guidance is one class; got {label!r}.")
        entry["label"] = tuple(rows[0]) if isinstance(rows[0], list) else rows[0]
    return entry


def _multi_hot(words: list[str], width: int) -> np.ndarray:
    """Turn "0+4" into a row of zeros with ones at 0 and 4."""
    rows = np.zeros((len(words), width), np.int32)
    for row, word in zip(rows, words, strict=True):
        for part in [] if word == "-" else word.split("+"):
            if not part.strip().isdigit() or int(part) >= width:
                raise ValueError(
                    f"attributes are numbers below {width} joined by '+', such as 0+{width - 1}, or '-'; got {word!r}."
                )
            row[int(part)] = 1
    return rows
