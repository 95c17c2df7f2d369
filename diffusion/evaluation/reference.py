"""Reference statistics: statistics of the data that generated examples are compared with.

All examples of a split are used, including the last incomplete batch. The statistics are the moments of the features
over all examples, and the features themselves of up to `NUM_ROWS`, a fixed random choice. They are stored
in the subfolder `statistics` of the data folder, under a name derived from their content: the digest of the examples,
the split, the digest of the features and the version of this protocol. A file that is damaged, or belongs to other
data or features, is computed again.
"""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from diffusion.data import Dataset, data_root
from diffusion.data.storage import LOG
from diffusion.evaluation.features.base import Extractor
from diffusion.evaluation.frechet import Moments
from diffusion.numerics import is_hashable, require
from diffusion.registry import spec_of
from diffusion.runtime.digests import as_json, digest_of_json
from diffusion.runtime.files import decoding
from diffusion.runtime.npz import read_arrays, save_arrays
from diffusion.runtime.reading import parse_json

PROTOCOL = 1  # increase if the same data and features would give other statistics
NUM_ROWS = 10_000  # rows of features that are stored
_BATCH = 1000
_CHOICE_SEED = 20_480  # seed of the choice of rows; part of the protocol


def unwrapped(dataset: Dataset) -> Dataset:
    """Return the data set inside wrappers, from their attribute `wrapped`."""
    while hasattr(dataset, "wrapped"):
        dataset = dataset.wrapped  # pyright: ignore[reportAttributeAccessIssue]
    return dataset


def name_of(dataset: Dataset) -> str:
    """Return the registered name of a data set, or the name of its class."""
    dataset = unwrapped(dataset)
    spec = spec_of("dataset", dataset)
    name = spec["name"] if isinstance(spec, dict) else type(dataset).__name__.lower()
    return name.rpartition(":")[2].lower() if ":" in name else name


def split_of(dataset: Dataset) -> str:
    """Return the split of a data set, or "" if it has none."""
    return str(getattr(unwrapped(dataset), "split", ""))


def data_dir_of(dataset: Dataset) -> str | None:
    """Return the field `data_dir` of a data set, or None."""
    return getattr(unwrapped(dataset), "data_dir", None)


def batches_of(dataset: Dataset, count: int, batch_size: int = _BATCH) -> Iterator[np.ndarray]:
    """Yield the first `count` examples in natural order; the last batch may be smaller."""
    for start in range(0, count, batch_size):
        yield dataset.examples(start, min(batch_size, count - start))["data"]


class Content(NamedTuple):
    """The digest of the examples of a data set with their labels, and their number."""

    sha256: str
    count: int


def content_of(dataset: Dataset, count: int | None = None) -> Content:
    """Return the digest of the examples of a data set; of the first `count` if it is endless."""
    size = dataset.spec.size if dataset.spec.size is not None else count
    require(size is not None, "this data set never ends: say how many examples are meant.")
    assert size is not None
    inner = unwrapped(dataset)
    if is_hashable(inner):
        return _remembered_content(inner, size)
    return _content(inner, size)


def _content(dataset: Dataset, size: int) -> Content:
    found = hashlib.sha256(f"{tuple(dataset.spec.shape)} {dataset.spec.kind}".encode())
    for start in range(0, size, _BATCH):
        batch = dataset.examples(start, min(_BATCH, size - start))
        found.update(np.ascontiguousarray(batch["data"], np.float32).tobytes())
        cond = batch.get("cond") or {}
        for name in sorted(cond):
            value = np.ascontiguousarray(cond[name])
            found.update(f"{name} {value.dtype} {value.shape[1:]};".encode())
            found.update(value.tobytes())
    return Content(found.hexdigest(), size)


_remembered_content = functools.lru_cache(maxsize=16)(_content)


def described(dataset: Dataset, count: int | None = None) -> dict[str, Any]:
    """Return the card entry of the data: name, split, count and digest."""
    content = content_of(dataset, count)
    return {
        "dataset": name_of(dataset),
        "split": split_of(dataset),
        "count": content.count,
        "sha256": content.sha256,
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Statistics:
    """Statistics of the features of a data set.

    Args:
        about: dataset, split, count, sha256, and the card of the features.
        moments: moments over all examples.
        rows: features of up to `NUM_ROWS` examples, (k, dim).
        index: indices of these examples, (k,), increasing.
    """

    about: dict[str, Any]
    moments: Moments
    rows: np.ndarray
    index: np.ndarray

    @property
    def count(self) -> int:
        """Number of examples of the moments."""
        return self.moments.count


def chosen(count: int, limit: int) -> np.ndarray:
    """Return the increasing indices of the stored examples out of `count`: all, or a fixed choice of `limit`."""
    if count <= limit:
        return np.arange(count)
    rng = np.random.default_rng((_CHOICE_SEED, count, limit))
    return np.sort(rng.permutation(count)[:limit])


def about_of(
    dataset: Dataset, extractor: Extractor, *, count: int | None = None, num_rows: int = NUM_ROWS
) -> dict[str, Any]:
    """Return everything that determines the statistics of a data set, as JSON data.

    Raises:
        ValueError: the data set is empty, or the features are not defined for it.
    """
    about = described(dataset, count) | {"features": extractor.card, "protocol": PROTOCOL}
    about["num_rows"] = min(num_rows, about["count"])
    require(about["count"] >= 2, f"a reference needs at least 2 examples; got {about['count']}.")
    mine, theirs = tuple(dataset.spec.shape), tuple(extractor.spec.shape)
    require(
        mine == theirs,
        f"this is of another data set: {about['dataset']} has shape {mine}, the features {extractor.name} {theirs}.",
    )
    return about


def statistics(
    dataset: Dataset,
    extractor: Extractor,
    *,
    count: int | None = None,
    num_rows: int = NUM_ROWS,
    keep: bool = True,
) -> Statistics:
    """Return the statistics of a data set from their file, or compute and store them.

    Args:
        dataset: the data set, all of whose examples are used.
        extractor: extractor of the features.
        count: number of examples of an endless data set.
        num_rows: number of rows of features besides the moments.
        keep: whether to read and write files in the data folder; statistics of an endless data set are not stored.

    Raises:
        ValueError: the data set is empty, or the features are not defined for it.
    """
    about = about_of(dataset, extractor, count=count, num_rows=num_rows)
    if not keep or dataset.spec.size is None:
        return compute(dataset, extractor, about)
    path = path_of(about, data_dir_of(dataset))
    try:
        return read(path, about)
    except FileNotFoundError:
        pass
    except OSError as error:  # the content is unknown: the file is not overwritten
        LOG.warning(
            "statistics are computed for this time: cannot read %s (%s)", path, error.strerror
        )
        return compute(dataset, extractor, about)
    except ValueError as error:
        LOG.warning("%s: made again", error)
    found = compute(dataset, extractor, about)
    try:
        write(path, found)
    except OSError as error:  # a read-only data folder does not affect the result
        LOG.warning("statistics are not kept: cannot write %s (%s)", path, error.strerror or error)
    return found


def compute(dataset: Dataset, extractor: Extractor, about: dict[str, Any]) -> Statistics:
    """Compute the statistics of the features of a whole data set."""
    count = about["count"]
    index = chosen(count, about["num_rows"])
    moments, start = Moments.empty(extractor.dim), 0
    kept = np.empty((len(index), extractor.dim))
    for x in batches_of(dataset, count):
        rows = extractor(x)
        moments = moments.add(rows)
        here = (index >= start) & (index < start + len(rows))
        kept[here] = rows[index[here] - start]
        start += len(rows)
    require(start == count, f"the data set promises {count} examples; it gave {start}.")
    return Statistics(about=about, moments=moments, rows=kept, index=index)


# ---- files -------------------------------------------------------------------------------------------------


def path_of(about: dict[str, Any], data_dir: str | None = None) -> Path:
    """Return the path of the statistics with this content."""
    made_of = {k: about[k] for k in ("sha256", "split", "protocol", "num_rows")}
    digest = digest_of_json(made_of | {"features": about["features"]["sha256"]})
    words = [about["dataset"], about["split"], about["features"]["name"]]
    name = "-".join("".join(c if c.isalnum() or c in "_." else "_" for c in w) for w in words if w)
    return data_root(data_dir) / "statistics" / f"{name}-{digest[:16]}.npz"


def _digest(arrays: dict[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        value = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {value.dtype} {value.shape};".encode())
        found.update(value.tobytes())
    return found.hexdigest()


def write(path: Path, found: Statistics) -> None:
    """Write statistics atomically, with a card that holds the digest of the arrays."""
    single = found.rows.astype(np.float32)  # exact for features of networks, which are float32
    arrays = {
        "mean": found.moments.mean,
        "scatter": found.moments.scatter,
        "rows": single if np.array_equal(single, found.rows) else found.rows,
        "index": found.index,
    }
    save_arrays(path, arrays, {"about": found.about, "arrays_sha256": _digest(arrays)})


def read(path: Path, expected: dict[str, Any] | None = None) -> Statistics:
    """Read statistics, and check that they are intact and have the expected content.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the file cannot be read.
        ValueError: the file is damaged, has another format, or belongs to other data or features.
    """
    with decoding(path, "as statistics of a data set"):
        found = read_arrays(path, ("mean", "scatter", "rows", "index", "card"))
        arrays = {k: found[k] for k in ("mean", "scatter", "rows", "index")}
        card = parse_json(str(found["card"]).encode(), path)
        about, digest = card["about"], card["arrays_sha256"]
        whole = digest == _digest(arrays)
    require(whole, f"{path} is damaged: its arrays do not match their digest")
    if expected is not None:
        wanted = as_json(expected)
        differs = [k for k in wanted if about.get(k) != wanted[k]]
        require(not differs, f"{path} was made of something else: {', '.join(differs)} differ")
    moments = Moments(about["count"], arrays["mean"], arrays["scatter"])
    rows = arrays["rows"].astype(np.float64)
    return Statistics(about=about, moments=moments, rows=rows, index=arrays["index"])
