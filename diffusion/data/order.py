"""Counter-based random numbers: the order of the examples, and random augmentation per row.

A batch must depend only on (seed, step), so that a resumed run needs no saved state and any number
of processes sees the same global batch. Row r of step k has the position p = k * batch_size + r.
All its random numbers come from a Philox counter (Salmon et al., 2011) at p, under a key derived
from the seed and the purpose. Only the raw words of the generator are used, whose values NumPy
guarantees across versions; its distributions have no such guarantee.
"""

import functools
from collections.abc import Iterator

import numpy as np

from diffusion.numerics import at_least, one_of

ORDER, FLIP, POINTS, HOLD_OUT = range(4)  # purposes: streams under one seed never overlap
_WORDS_PER_BLOCK = 4  # one Philox counter value yields four 64-bit words


def stream_key(seed: int, *purpose: int) -> tuple[int, int]:
    """Hash a seed and a purpose into a Philox key.

    Raises:
        ValueError: the seed is negative.
    """
    at_least(0, seed=int(seed))
    words = np.random.SeedSequence([int(seed), *purpose]).generate_state(2, np.uint64)
    return int(words[0]), int(words[1])


def _block(key: tuple[int, int], start: int, count: int) -> np.ndarray:
    """Return words start, start + 1, ... of a stream, shape (count,)."""
    first, skip = divmod(start, _WORDS_PER_BLOCK)
    generator = np.random.Philox(key=np.array(key, np.uint64), counter=first)
    return generator.random_raw(skip + count)[skip:]


def words(key: tuple[int, int], positions: np.ndarray, width: int) -> np.ndarray:
    """Return the random words of each position.

    Args:
        key: from `stream_key`.
        positions: non-negative integers of shape (n,).
        width: words per position.

    Returns:
        uint64 of shape (n, width). Row i depends on positions[i] alone.
    """
    positions = np.asarray(positions, np.int64)
    if len(positions) == 0:
        return np.empty((0, width), np.uint64)
    first, last = int(positions[0]), int(positions[-1])
    if np.array_equal(positions, np.arange(first, last + 1)):
        return _block(key, first * width, len(positions) * width).reshape(-1, width)
    return np.stack([_block(key, int(p) * width, width) for p in positions])


def uniforms(raw: np.ndarray) -> np.ndarray:
    """Map words to float64 in (0, 1): the middles of 2**53 equal cells, so that log is finite."""
    return ((raw >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def normals(raw: np.ndarray) -> np.ndarray:
    """Map words of shape (n, 2 k) to as many independent standard normals (Box and Muller, 1958)."""
    u, v = np.split(uniforms(raw), 2, axis=-1)
    radius, angle = np.sqrt(-2 * np.log(u)), 2 * np.pi * v
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)


# a batch spans one or two epochs; an order takes 4 bytes per example
@functools.lru_cache(maxsize=4)
def permutation(seed: int, epoch: int, size: int, purpose: int = ORDER) -> np.ndarray:
    """Return the order of an epoch: read-only integers of shape (size,).

    Sorting random words makes all orders equally likely, up to ties of probability size^2 / 2^65.
    """
    raw = _block(stream_key(seed, purpose, epoch), 0, size)
    order = np.argsort(raw, kind="stable").astype(np.int32 if size < 2**31 else np.int64)
    order.flags.writeable = False
    return order


def positions_of(step: int, batch_size: int, rows: slice | None = None) -> np.ndarray:
    """Return the positions of a batch, or of some of its rows, as int64.

    Raises:
        ValueError: the step is negative or the batch is empty.
    """
    at_least(0, step=step)
    at_least(1, batch_size=batch_size)
    start = int(step) * int(batch_size)
    return np.arange(start, start + int(batch_size), dtype=np.int64)[rows or slice(None)]


def shuffled(seed: int, positions: np.ndarray, size: int) -> np.ndarray:
    """Return the example at each position: epoch p // size, place p % size in its permutation."""
    epochs, places = np.divmod(np.asarray(positions, np.int64), size)
    index = np.empty(len(places), np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        index[here] = permutation(int(seed), int(epoch), size)[places[here]]
    return index


def coins(seed: int, positions: np.ndarray) -> np.ndarray:
    """Return one fair coin per position, bool of shape (n,)."""
    return (words(stream_key(seed, FLIP), positions, 1)[:, 0] >> np.uint64(63)).astype(bool)


def hold_out(size: int, fraction: float, split: str) -> np.ndarray:
    """Return the sorted indices of a split, divided by one fixed permutation.

    Args:
        size: number of examples.
        fraction: fraction of the test split, rounded to whole examples; in [0, 1).
        split: "train", "test" or "all".

    Raises:
        ValueError: the split is unknown or empty, or the fraction is out of range.
    """
    number = isinstance(fraction, int | float) and not isinstance(fraction, bool)
    if not number or not 0 <= fraction < 1:
        raise ValueError(f"`test_fraction` must lie in [0, 1); got {fraction!r}.")
    order = permutation(0, 0, size, HOLD_OUT)
    num_test = round(fraction * size)
    parts = {"train": order[num_test:], "test": order[:num_test], "all": order}
    one_of(parts, split=split)
    if len(parts[split]) == 0:
        raise ValueError(
            f"The split {split!r} of {size} examples is empty with `test_fraction={fraction:g}`: give 0.1, say."
        )
    return np.sort(parts[split])


def chunks(total: int, size: int) -> Iterator[tuple[int, int]]:
    """Divide 0 ... total into pieces (start, count), of which the last may be shorter."""
    for start in range(0, total, size):
        yield start, min(size, total - start)
