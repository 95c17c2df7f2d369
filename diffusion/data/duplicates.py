"""Examples that two splits have in common, exactly or nearly.

A test set that contains copies of training examples measures memorization instead of generalization. The distance of
two examples is the root mean square over their values: in levels of 0 ... 255 for 8-bit images, in the
units of the data otherwise. It detects neither flips nor shifts.

Distances of 8-bit images are exact. With |a - b|^2 = |a|^2 + |b|^2 - 2 a.b and levels centered to -128 ... 127, a
sum of at most 1,024 products is an integer of at most 2^24, which float32 holds without rounding; longer sums
are added up in float64.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Num

from diffusion.data.base import Dataset, FiniteDataset, Source
from diffusion.data.order import chunks
from diffusion.data.storage import Progress

_EXACT_TERMS = 1024
_TILE = (512, 4096)  # queries times references compared at once: 16 MiB of distances
# bytes of queries held in memory; the references are read once for each such block
_QUERY_BYTES = 256 * 1024**2


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The nearest training example of each held-out example.

    Args:
        index: indices of the compared held-out examples, increasing, int64 (n,).
        nearest: index of the nearest training example, int64 (n,).
        distance: root mean square over the values, float64 (n,).
        exact: number of held-out examples with an exact copy in training, of all held-out examples.
        repeats: numbers of examples that repeat an earlier one within the training and within the held-out data.
        num_train: number of training examples compared.
        same_label: fraction of the held-out examples whose nearest example has the same label, or labels; None
            without labels.
    """

    index: Int[np.ndarray, " n"]
    nearest: Int[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]
    exact: int
    repeats: tuple[int, int]
    num_train: int
    same_label: float | None

    def closest(self, count: int) -> list[tuple[int, int, float]]:
        """Return (held out, training, distance) of the `count` closest pairs, closest first."""
        order = np.argsort(self.distance, kind="stable")[:count]
        return [(int(self.index[i]), int(self.nearest[i]), float(self.distance[i])) for i in order]


def _rows(values: np.ndarray) -> np.ndarray:
    """Flatten examples; levels are centered so that their products stay small."""
    flat = values.reshape(len(values), -1)
    if values.dtype == np.uint8:
        return (flat.astype(np.int16) - 128).astype(np.float32)
    return flat.astype(np.float64)


def _squared(values: np.ndarray) -> np.ndarray:
    """Return the squared lengths of rows of `_rows`, exactly for levels."""
    return np.einsum("ij,ij->i", values, values, dtype=np.float64)


def _products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return all inner products of rows, in float64, exactly for levels."""
    total = np.zeros((len(a), len(b)))
    for start, count in chunks(a.shape[1], _EXACT_TERMS):
        part = slice(start, start + count)
        total += a[:, part] @ b[:, part].T
    return total


def nearest(
    queries: Num[np.ndarray, " n *shape"], references: Num[np.ndarray, " m *shape"]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Return the index of the nearest reference of each query, and their squared distance.

    Works in tiles, so that memory beyond the arguments stays below about 100 MB. Ties go to the
    first reference.
    """
    best, where = np.full(len(queries), np.inf), np.zeros(len(queries), np.int64)
    for left, m in chunks(len(references), _TILE[1]):
        b = _rows(references[left : left + m])
        b_squared = _squared(b)
        for top, n in chunks(len(queries), _TILE[0]):
            a, rows = _rows(queries[top : top + n]), slice(top, top + n)
            found = _products(a, b)
            found *= -2
            found += b_squared
            column = found.argmin(axis=1)
            value = found[np.arange(n), column] + _squared(a)
            closer = value < best[rows]
            best[rows] = np.where(closer, value, best[rows])
            where[rows] = np.where(closer, left + column, where[rows])
    return where, np.maximum(best, 0)


def _spread(size: int, limit: int | None) -> np.ndarray:
    """Return at most `limit` evenly spaced indices, since data sets may be sorted by class."""
    if limit is None or limit >= size:
        return np.arange(size)
    return np.arange(limit) * size // limit


def _blocks(source: Source, index: np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (position, values) of the chosen examples, `rows` at a time."""
    for start, count in chunks(len(index), rows):
        yield start, source.take(index[start : start + count])[0]


def _labels(source: Source, index: np.ndarray) -> np.ndarray | None:
    """Return the labels of examples, shape (n, labels per example), or None."""
    parts = [source.take(index[start : start + n])[1] for start, n in chunks(len(index), 1024)]
    found = [part.get("label") if isinstance(part, Mapping) else part for part in parts]
    known = [part.reshape(len(part), -1) for part in found if part is not None]
    return np.concatenate(known) if known else None


def _digests(source: Source) -> list[bytes]:
    """Return a hash of each example."""
    everything = np.arange(len(source))
    return [
        hashlib.blake2b(np.ascontiguousarray(row).tobytes(), digest_size=16).digest()
        for _, values in _blocks(source, everything, 1024)
        for row in values
    ]


def find_duplicates(
    train: Dataset,
    held_out: Dataset,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Duplicates:
    """Compare two splits of a data set.

    Args:
        train: the training examples.
        held_out: the held-out examples.
        limit: compare at most this many evenly spaced examples of each split; None compares all. Exact
            copies are always counted among all examples.
        progress: called with the number of comparisons made so far and their total.

    Raises:
        ValueError: a data set is endless, the splits are the same, or their examples differ in shape.
    """
    if not (isinstance(train, FiniteDataset) and isinstance(held_out, FiniteDataset)):
        raise ValueError("Duplicates can be looked for in finite data sets only.")
    if train == held_out:
        raise ValueError(
            "The data set would be compared with itself: build it with the split that is trained on, not held out."
        )
    shapes = train.spec.shape, held_out.spec.shape
    if shapes[0] != shapes[1] or (limit is not None and limit < 1):
        raise ValueError(f"splits need one shape, `limit` 1 or more; got {shapes} and {limit}.")
    ours, theirs = _digests(held_out.source), _digests(train.source)
    known = set(theirs)
    index, others = (_spread(len(d.source), limit) for d in (held_out, train))
    where, squared = _search(held_out.source, index, train.source, others, progress)
    tags = [_labels(d.source, i) for d, i in ((held_out, index), (train, others[where]))]
    return Duplicates(
        index=index,
        nearest=others[where],
        distance=np.sqrt(squared / np.prod(shapes[0])),
        exact=sum(digest in known for digest in ours),
        repeats=(len(theirs) - len(known), len(ours) - len(set(ours))),
        num_train=len(others),
        same_label=_agreement(*tags),
    )


def _agreement(ours: np.ndarray | None, theirs: np.ndarray | None) -> float | None:
    """Return the fraction of pairs with the same labels, among pairs without unknown labels."""
    if ours is None or theirs is None:
        return None
    said = (np.minimum(ours, theirs) >= 0).all(axis=1)
    return float((ours == theirs)[said].all(axis=1).mean()) if said.any() else None


def _search(
    ours: Source,
    index: np.ndarray,
    theirs: Source,
    others: np.ndarray,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the position in `others` and the squared distance of the nearest example, for each of `index`."""
    best, where = np.full(len(index), np.inf), np.zeros(len(index), np.int64)
    one = ours.take(index[:1])[0]
    lot = max(1, _QUERY_BYTES // one.nbytes)
    done, total = 0, len(index) * len(others)
    for top, queries in _blocks(ours, index, lot):
        rows = slice(top, top + len(queries))
        for left, references in _blocks(theirs, others, _TILE[1]):
            column, squared = nearest(queries, references)
            closer = squared < best[rows]
            best[rows] = np.where(closer, squared, best[rows])
            where[rows] = np.where(closer, left + column, where[rows])
            done += len(queries) * len(references)
            if progress:
                progress(done, total)
    return where, best
