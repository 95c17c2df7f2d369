"""Examples from other sources, read in batches: a folder of pictures, an .npy or an .npz file.

Nothing is resized, converted or silently skipped: examples that do not fit the data set are refused, since a metric
would otherwise measure the conversion. All examples are read once when a source is opened, to
check them and compute their digest, and again for every metric; memory holds at most one batch.
"""

import hashlib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.data import DataSpec, legal, scan, to_float
from diffusion.data.storage import LOG
from diffusion.runtime.files import MissingFileError, decoding
from diffusion.runtime.npz import npy_header, open_zip
from diffusion.runtime.reading import open_plain

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
# names of the examples in an .npz, in order of precedence
KEYS = ("x", "data", "images", "samples", "arr_0")
_BATCH = 256
_FARTHEST = 3.0  # a poor model may exceed [-1, 1]; 8-bit levels as floats exceed this


class SourceError(ValueError):
    """Examples cannot be measured; the message says which and why."""


class MissingExamplesError(MissingFileError, SourceError):
    """There are no examples at a path."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Examples of a data set's shape.

    Attributes:
        path: folder or file of the examples.
        count: number of examples.
        sha256: SHA-256 of the stored values in order.
        outside: fraction of values outside [-1, 1], which rounding to 8 bits clips.
        left_out: number of files in the folder that are not pictures.
        read: read(count, first) yields float32 batches of these examples in order.
    """

    path: Path
    count: int
    sha256: str
    outside: float
    left_out: int
    read: Callable[[int, int], Iterator[np.ndarray]]

    def card(self) -> dict[str, Any]:
        """Return the entry of a metric card about these examples."""
        return {
            "from": str(self.path), "there": self.count, "sha256": self.sha256,
            "share_outside_the_range": self.outside, "files_left_out": self.left_out,
        }  # fmt: skip


def open_examples(path: Path, spec: DataSpec) -> Examples:
    """Open a folder of pictures, an .npz or an .npy file, and check every example.

    Arrays are (n, ...) with the shape of the data set; gray images may lack the channel axis. uint8 is scaled to
    [-1, 1]; floats must already be in this range, up to the overshoot of a model. An .npz holds the examples under
    one of the names in `KEYS`, or as its only array. Pictures are read in the order of their paths.

    Raises:
        SourceError: there are fewer than two examples; or an example cannot be read, or has another size, number of
            channels or range.
    """
    left_out = 0
    if path.is_dir():
        if spec.kind != "image":
            raise SourceError(
                f"{path} is a folder of pictures, but this data is made of {spec.kind}: give an .npz or .npy file."
            )
        files, left_out = _pictures(path)
        stored = lambda count, first: _decoded(files[first : first + count], spec)
        count = len(files)
    elif path.is_file():
        layout = _Array.find(path)
        layout.check(spec)
        stored, count = layout.pieces, layout.shape[0]
    else:
        raise MissingExamplesError(f"there is neither a folder nor a file {path}.")
    if count < 2:
        raise SourceError(f"{path} holds {count} examples; at least 2 are needed.")
    sha256, outside = _survey(path, stored(count, 0), spec)

    def read(count: int, first: int = 0) -> Iterator[np.ndarray]:
        for x in stored(count, first):
            yield _scaled(x, spec)

    return Examples(
        path=path, count=count, sha256=sha256, outside=outside, left_out=left_out, read=read
    )


def _scaled(x: np.ndarray, spec: DataSpec) -> np.ndarray:
    x = to_float(x) if x.dtype == np.uint8 else np.asarray(x, np.float32)
    return x.reshape(len(x), *spec.shape)


def _survey(path: Path, pieces: Iterator[np.ndarray], spec: DataSpec) -> tuple[str, float]:
    """Return the digest of all values and the fraction outside [-1, 1]; raise SourceError for invalid examples."""
    digest, low, high = hashlib.sha256(f"{spec.shape};".encode()), np.inf, -np.inf
    outside = total = at = 0
    for x in pieces:
        digest.update(f"{x.dtype};".encode() if not total else b"")
        digest.update(np.ascontiguousarray(x).tobytes())
        if x.dtype != np.uint8:
            finite = np.isfinite(x.reshape(len(x), -1)).all(axis=1)
            if not finite.all():
                number = at + int(np.flatnonzero(~finite)[0])
                raise SourceError(f"{path}: example {number} has values that are not finite.")
            low, high = min(low, float(x.min())), max(high, float(x.max()))
            outside += int((np.abs(x) > 1).sum())
        total, at = total + x.size, at + len(x)
    if spec.kind == "image" and low <= high:
        try:
            legal.check_range(str(path), low, high, _FARTHEST)
        except legal.ArrayError as error:
            raise SourceError(str(error)) from None
    return digest.hexdigest(), (outside / total if spec.kind == "image" else 0.0)


# ---- folders ------------------------------------------------------------------------------------


def _pictures(root: Path) -> tuple[list[Path], int]:
    """Return the pictures below a folder in order, and the number of other files.

    Paths with the name of a picture that are not files, and unreadable folders, are named in a warning.
    """
    found, others, odd = [], 0, {}
    for path, reason in sorted(scan.files(root)):
        if path.suffix.lower() not in PICTURES and not reason:
            others += 1
        elif reason := reason or scan.not_plain(path):
            odd[reason] = (*odd.get(reason, ()), scan.shown(path, root))
        else:
            found.append(path)
    others += sum(map(len, odd.values()))
    if odd:
        LOG.warning("%s: %d pictures; left out: %s.", root, len(found), scan.counted(odd))
    if not found:
        there = f"{others} other files" if others else "nothing"
        raise SourceError(f"{root} holds no picture, but {there}.")
    return found, others


def _decoded(files: list[Path], spec: DataSpec) -> Iterator[np.ndarray]:
    for start in range(0, len(files), _BATCH):
        yield np.stack([_decode(p, spec) for p in files[start : start + _BATCH]])


def _decode(path: Path, spec: DataSpec) -> np.ndarray:
    from PIL import Image, ImageOps

    height, width, channels = spec.shape
    mode = {1: "L", 3: "RGB"}.get(channels)
    try:
        with Image.open(path) as opened:
            if (frames := getattr(opened, "n_frames", 1)) > 1:
                raise SourceError(f"{path} is animated: {frames} pictures.")
            picture = ImageOps.exif_transpose(opened)  # as in training
            if picture.mode != mode:
                raise SourceError(f"{path} has mode {picture.mode}; this data has mode {mode}.")
            if "transparency" in picture.info:
                raise SourceError(f"{path} has a transparent color; lay it on white.")
            if picture.size != (width, height):
                raise SourceError(f"{path} is of size {picture.size}, not {(width, height)}.")
            return np.asarray(picture).reshape(spec.shape)
    except SourceError:
        raise
    except Exception as error:  # decoders raise exceptions of many classes for damaged files
        raise SourceError(f"{path} cannot be read as a picture: {error}") from None


# ---- arrays -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Array:
    """An array in a file; `key` is its name in an .npz."""

    path: Path
    key: str | None
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def find(cls, path: Path) -> "_Array":
        """Find the examples in a file, without reading them."""
        with decoding(path, "as .npy or .npz", SourceError):
            with open_plain(path, links=True) as file:
                if not zipfile.is_zipfile(file):
                    file.seek(0)
                    return cls(path=path, key=None, **_header(file))
            with open_zip(path) as archive:
                names = [n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")]
                key = next((k for k in KEYS if k in names), names[0] if len(names) == 1 else None)
                if key is None:
                    raise SourceError(
                        f"{path} has no array named {' or '.join(KEYS)}; it has {', '.join(names) or 'none'}."
                    )
                with archive.open(f"{key}.npy") as file:
                    return cls(path=path, key=key, **_header(file))

    def check(self, spec: DataSpec) -> None:
        """Raise SourceError for another shape or dtype."""
        named = f"the array {self.key!r} in {self.path}" if self.key else f"{self.path}"
        given = self.shape[1:]
        known = spec.kind if spec.kind in legal.KINDS else None
        try:
            if given != spec.shape:
                kind = legal.kind_of(named, given, self.dtype, known)
                given = legal.with_channel(given, kind)
            elif known:
                legal.require_kind(named, given, self.dtype, known)
        except legal.ArrayError as error:
            raise SourceError(str(error)) from None
        if given != spec.shape:
            raise SourceError(f"{named} has examples of shape {given}; this data has {spec.shape}.")

    def pieces(self, count: int, first: int = 0) -> Iterator[np.ndarray]:
        """Yield stored rows, one batch at a time."""
        with decoding(self.path, "to its end", SourceError):
            if self.key is None:
                with open_plain(self.path, links=True) as file:
                    yield from self._rows(file, first, count)
                return
            with open_zip(self.path) as archive, archive.open(f"{self.key}.npy") as file:
                yield from self._rows(file, first, count)
                if first + count == self.shape[0]:
                    file.read(1)  # reaches the end, at which zipfile compares the checksum

    def _rows(self, file: Any, first: int, count: int) -> Iterator[np.ndarray]:
        _header(file)
        size = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        file.seek(file.tell() + first * size)
        stop = min(first + count, self.shape[0])
        for start in range(first, stop, _BATCH):
            rows = min(_BATCH, stop - start)
            content = file.read(rows * size)
            if len(content) < rows * size:
                raise SourceError(
                    f"{self.path} is cut off after {start + len(content) // max(size, 1)} of {self.shape[0]} examples."
                )
            yield np.frombuffer(content, self.dtype).reshape(rows, *self.shape[1:])


def _header(file: Any) -> dict[str, Any]:
    """Read the header of an .npy file."""
    shape, by_columns, dtype = npy_header(file)
    if by_columns and len(shape) > 1:
        raise ValueError("its rows are not contiguous (Fortran order)")
    if not shape:
        raise ValueError("it holds a single number")
    return {"shape": shape, "dtype": dtype}
