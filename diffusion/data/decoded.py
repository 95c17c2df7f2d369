"""Cache of decoded pixels next to the records of a prepared data set.

The pixels of a split are stored as .npy files, so that later starts read one array instead of
decoding 60,000 pictures. `decoded.json` in the same folder holds the sizes of all files involved; if one
of them differs, the arrays are decoded again.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.data.base import Table
from diffusion.data.order import chunks
from diffusion.data.records import Layout, RecordReader, split_sizes
from diffusion.data.storage import LOG, file_sizes, publish
from diffusion.runtime.files import DAMAGE, writing
from diffusion.runtime.reading import read_json


def facts(folder: Path, layout: Layout) -> dict[str, Any]:
    """Return shape, num_classes and class_names, from the decoded arrays if they are there."""
    for path in sorted(folder.glob(f"decoded/*-{layout.slug}/decoded.json")):
        with contextlib.suppress(OSError):  # an unreadable cache is not needed
            if _matches(path.parent, folder):
                return read_json(path, links=True)
    return _describe(RecordReader(folder, next(iter(split_sizes(folder))), layout))


def _describe(reader: RecordReader) -> dict[str, Any]:
    return {
        "shape": reader.shape,
        "num_classes": reader.num_classes,
        "class_names": reader.class_names,
    }


def decoded(
    folder: Path, split: str, layout: Layout, start: int = 0, stop: int | None = None
) -> Table:
    """Return the pixels and labels of rows start ... stop - 1 of a split.

    Writes the .npy files if they are missing or do not fit the records. If they cannot be
    written, the arrays are decoded in memory, and the next start decodes again.
    """
    cache = folder / "decoded" / f"{split}-{layout.slug}"

    def ready() -> Path | None:
        return cache if _matches(cache, folder) else None

    def write(scratch: Path) -> Path:
        target = scratch / cache.name
        target.mkdir()
        _save(target, folder, split, layout)
        return target

    try:
        kept = ready() is not None
    except OSError as error:  # the cache may be intact: it is not overwritten
        LOG.warning("Decoded pixels cannot be read (%s); they are decoded again.", error)
        table, _ = _decode_all(folder, split, layout)
        return _rows(table.values, table.labels, start, stop)
    if not kept:
        try:
            publish(cache.parent, ready, write, replace=True)
        except OSError as error:
            LOG.warning("Decoded pixels are not kept (%s); the next start decodes again.", error)
            table, _ = _decode_all(folder, split, layout)
            return _rows(table.values, table.labels, start, stop)
    labels = cache / "labels.npy"
    return _rows(
        np.load(cache / "images.npy", mmap_mode="r"),
        np.load(labels) if labels.exists() else None,
        start,
        stop,
    )


def _rows(values: np.ndarray, labels: np.ndarray | None, start: int, stop: int | None) -> Table:
    return Table(
        values=np.array(values[start:stop]), labels=None if labels is None else labels[start:stop]
    )


def _matches(cache: Path, folder: Path) -> bool:
    """Return whether the decoded arrays are intact and belong to these records; OSError if they cannot be read."""
    try:
        notes = read_json(cache / "decoded.json", links=True)
        arrays = {k: v for k, v in file_sizes(cache).items() if k.endswith(".npy")}
        return notes["records"] == file_sizes(folder) and notes["arrays"] == arrays
    except (FileNotFoundError, NotADirectoryError, *DAMAGE):
        return False


def _decode_all(folder: Path, split: str, layout: Layout) -> tuple[Table, RecordReader]:
    reader = RecordReader(folder, split, layout)
    LOG.info("Decoding %d pictures of %s, split %s (once).", len(reader), folder, split)
    parts = [reader.take(np.arange(a, a + n)) for a, n in chunks(len(reader), 1024)]
    labels = [tags for _, tags in parts if tags is not None]
    values = np.concatenate([images for images, _ in parts])
    return Table(values=values, labels=np.concatenate(labels) if labels else None), reader


def _save(target: Path, folder: Path, split: str, layout: Layout) -> None:
    """Write the arrays of a split, and the sizes that `_matches` compares."""
    table, reader = _decode_all(folder, split, layout)
    with writing(target):
        np.save(target / "images.npy", table.values)
        if table.labels is not None:
            np.save(target / "labels.npy", table.labels)
    notes = {"records": file_sizes(folder), "arrays": file_sizes(target), **_describe(reader)}
    (target / "decoded.json").write_text(json.dumps(notes, indent=1))
