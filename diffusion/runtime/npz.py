"""Reading and writing .npy and .npz files, also larger than memory or from untrusted sources.

Sizes that a file states are compared with the size of the file before memory is allocated; see
`diffusion.runtime.reading`.
"""

import contextlib
import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from diffusion.numerics import alike, shaped
from diffusion.runtime.files import replacing
from diffusion.runtime.reading import open_plain, unpacked_limit

MAX_DIRECTORY = 2**22  # bytes of the list of members of an archive: about 50,000 members
MAX_HEADER = 10_000  # bytes of the header of an .npy file, the limit of NumPy
# Exceptions of Python for damaged archives; RuntimeError is raised for an encrypted member.
ARCHIVE_ERRORS = (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class Bounded(io.RawIOBase):
    """A file for reading that raises ValueError if one call requests more than `limit` bytes or than the file has."""

    def __init__(self, file: BinaryIO, limit: int):
        """Wrap an open file."""
        self._file, self._limit = file, limit
        self._size = os.fstat(file.fileno()).st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._size - self._file.tell())
        wanted = left if size is None or size < 0 else min(size, left)
        if wanted > self._limit:
            raise ValueError(f"{wanted} bytes at once are more than {self._limit}")
        return self._file.read(wanted)

    def readline(self, size: int | None = -1) -> bytes:
        line = self._file.readline(self._limit + 1)
        if len(line) > self._limit:
            raise ValueError(f"a line is longer than {self._limit} bytes")
        return line


@contextlib.contextmanager
def open_zip(path: Path, *, packed: bool = True, links: bool = True) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive after checking that its members together are no larger than the file allows.

    Args:
        path: the archive.
        packed: whether members may be compressed.
        links: as in `check_plain`.

    Raises:
        ValueError: the archive states sizes that are too large, or its members overlap, or are compressed.
        zipfile.BadZipFile: the archive is damaged, or not a zip archive.
        OSError: as in `open_plain`.
    """
    with open_plain(path, links=links) as file:
        size = os.fstat(file.fileno()).st_size
        with zipfile.ZipFile(Bounded(file, MAX_DIRECTORY)) as archive:
            _check_members(archive.infolist(), size, packed)
        with zipfile.ZipFile(file) as archive:
            yield archive


def _check_members(members: Iterable[zipfile.ZipInfo], size: int, packed: bool) -> None:
    members = sorted(members, key=lambda m: m.header_offset)
    kinds = {zipfile.ZIP_STORED} | ({zipfile.ZIP_DEFLATED} if packed else set())
    if other := [m.filename for m in members if m.compress_type not in kinds]:
        what = "in a way that is not known here" if packed else "and should not be"
        raise ValueError(f"{other[0][:100]!r} in it is compressed {what}")
    ends = [m.header_offset + 30 + m.compress_size for m in members]
    starts = [*(m.header_offset for m in members[1:]), size]
    if any(end > start for end, start in zip(ends, starts, strict=bool(members))):
        raise ValueError("its members overlap, or reach beyond its end")
    if sum(m.file_size for m in members) > (unpacked_limit(size) if packed else size):
        raise ValueError("it claims to hold more bytes than a file of its size may")


# ---- arrays -------------------------------------------------------------------------------------


class Header(NamedTuple):
    """Header of an .npy file."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """Number of bytes of the array."""
        return math.prod(self.shape) * self.dtype.itemsize


def npy_header(file: Any) -> Header:
    """Read the header of an .npy file of numbers or text.

    Raises:
        ValueError: the header is missing or too long, or describes an array of objects.
    """
    start = file.read(8)
    version = tuple(start[6:])
    if start[:6] != np.lib.format.MAGIC_PREFIX or version not in ((1, 0), (2, 0)):
        raise ValueError("it does not begin as an .npy file of version 1 or 2 does")
    told = file.read(2 * version[0])
    length = int.from_bytes(told, "little")
    if length > MAX_HEADER:
        raise ValueError(f"its header of {length} bytes is longer than {MAX_HEADER}")
    head = io.BytesIO(told + file.read(length))
    formats = np.lib.format
    read = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
    try:
        found = Header(*read(head))
    except Exception as error:  # the parser of the dictionary raises exceptions of many classes
        raise ValueError(f"its header cannot be read: {type(error).__name__}") from None
    if found.dtype.hasobject:
        raise ValueError("it holds objects, not numbers")
    if found.dtype.itemsize == 0 or any(n < 0 for n in found.shape):
        raise ValueError("its header describes no array")
    return found


def read_arrays(
    path: Path, names: Iterable[str] | None = None, *, links: bool = True
) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file, or the array of an .npy file under the name "data".

    Args:
        path: the file.
        names: names of the arrays to read, if they exist; all by default.
        links: as in `check_plain`.

    Raises:
        ValueError: the file is damaged, is shorter than its header states, or holds objects.
        OSError: as in `open_plain`.
    """
    with open_plain(path, links=links) as file:
        if not zipfile.is_zipfile(file):
            file.seek(0)
            header = npy_header(file)
            if header.nbytes > os.fstat(file.fileno()).st_size - file.tell():
                raise ValueError(f"it is too short for an array {list(header.shape)}")
            file.seek(0)
            return {"data": np.lib.format.read_array(file, allow_pickle=False)}
    try:
        with open_zip(path, links=links) as archive:
            members = {_name(m): m for m in archive.infolist() if m.filename.endswith(".npy")}
            wanted = members if names is None else [n for n in names if n in members]
            return {name: _member(archive, members[name]) for name in wanted}
    except ARCHIVE_ERRORS as error:
        raise ValueError(str(error)[:200]) from None


def _name(member: zipfile.ZipInfo) -> str:
    return member.filename.removesuffix(".npy")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        header = npy_header(file)
        if header.nbytes > member.file_size - file.tell():
            raise ValueError(f"{_name(member)[:100]!r} is too short for {list(header.shape)}")
    with archive.open(member) as file:
        found = np.lib.format.read_array(file, allow_pickle=False)
        file.read(1)  # reaches the end, at which zipfile compares the checksum
    return found


def names_in(path: Path, *, links: bool = True) -> list[str]:
    """Return the names of the arrays of an .npz file; "data" for an .npy file."""
    with open_plain(path, links=links) as file:
        if not zipfile.is_zipfile(file):
            return ["data"]
    with open_zip(path, links=links) as archive:
        return [_name(m) for m in archive.infolist() if m.filename.endswith(".npy")]


# ---- writing -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Stream:
    """An array that is written in pieces along its first axis."""

    shape: tuple[int, ...]
    dtype: Any
    pieces: Iterable[np.ndarray]


def _write(file: Any, value: "Stream | np.ndarray") -> None:
    if not isinstance(value, Stream):
        np.lib.format.write_array(file, np.asarray(value), allow_pickle=False)
        return
    kind = np.dtype(value.dtype)
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False}
    np.lib.format.write_array_header_1_0(file, header | {"shape": tuple(value.shape)})
    count = 0
    for piece in value.pieces:
        piece = np.ascontiguousarray(piece, kind)
        shaped("a piece", piece, (len(piece), *value.shape[1:]))
        file.write(piece.tobytes())
        count += len(piece)
    alike("number of rows", pieces=count, shape=value.shape[0])


def save_arrays(path: Path, arrays: "Mapping[str, Stream | np.ndarray]", card: Mapping) -> None:
    """Write an .npz file atomically, with a JSON card among its arrays.

    Args:
        path: the file; its folder is created.
        arrays: arrays by name; a `Stream` is never in memory as a whole.
        card: description of how the arrays were made.

    Raises:
        ValueError: the pieces of a stream do not add up to its shape.
        WriteError: the file cannot be written.
    """
    told = np.array(json.dumps(card, default=str))
    with (
        replacing(path) as scratch,
        zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED, allowZip64=True) as archive,
    ):
        for name, value in {"card": told, **arrays}.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                _write(file, value)
