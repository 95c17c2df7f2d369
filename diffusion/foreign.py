"""Reading files that may come from anywhere: without waiting, within a budget, executing nothing.

Only plain files are opened: a pipe would make its reader wait for ever, and a link in a work directory leads out of
it. What a file says of itself, the length of a header, the shape of an array, the size of a member of an archive, is
compared with what is there before memory is taken for it. A file may take as many bytes of memory as it has on the
disk; one that is compressed at most `unpacked_limit` of them.
"""

import contextlib
import errno
import io
import itertools
import json
import math
import os
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MAX_BYTES = 2**24  # of JSON: a manifest of some 100,000 files
MAX_NODES = 2**20  # values in it
MAX_DEPTH = 64
MAX_DIRECTORY = 2**22  # bytes of the list of members of an archive: some 50,000
MAX_HEADER = 10_000  # bytes before the numbers of an .npy file, as NumPy has it
# What damaged archives make Python raise; RuntimeError: of a member that is encrypted.
ARCHIVE_ERRORS = (ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)


class NotPlainError(OSError):
    """What is there is no plain file; the message says what it is."""


def _refuse(path: Path, mode: int) -> None:
    """Raise NotPlainError for anything but a plain file."""
    kinds = {
        stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    }  # fmt: skip
    if not stat.S_ISREG(mode):
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise NotPlainError(errno.EINVAL, f"is {kind}, not a plain file", str(path))


def check_plain(path: Path, *, links: bool = False) -> bool:
    """Say whether there is a file; refuse what is no plain one.

    Args:
        path: of the file.
        links: follow links; not where a work directory's own files are meant.

    Raises:
        NotPlainError: something else is there.
    """
    try:
        found = path.stat() if links else path.lstat()
    except FileNotFoundError:
        return False
    _refuse(path, found.st_mode)
    return True


def open_plain(path: Path, *, links: bool = False) -> io.BufferedReader:
    """Open a plain file for reading, never waiting for anything; arguments as of `check_plain`.

    Raises:
        NotPlainError: it is a pipe, a device, a folder, or a link.
        OSError: there is none, or it cannot be opened.
    """
    _refuse(
        path, (path.stat() if links else path.lstat()).st_mode
    )  # opening a device may do something
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    number = os.open(path, flags | (0 if links else getattr(os, "O_NOFOLLOW", 0)))
    try:
        _refuse(path, os.fstat(number).st_mode)  # it may be another by now
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_bytes(path: Path, limit: int = MAX_BYTES, *, links: bool = False) -> bytes:
    """Read a plain file of at most so many bytes.

    Raises:
        ValueError: it is longer.
        OSError: as of `open_plain`.
    """
    with open_plain(path, links=links) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, limit) + 1)
    if len(content) > limit:
        raise ValueError(f"{path} is longer than {limit} bytes")
    return content


# ---- JSON ---------------------------------------------------------------------------------------


def read_json(path: Path, limit: int = MAX_BYTES, *, links: bool = False) -> Any:
    """Read JSON that may come from anywhere.

    Raises:
        ValueError: it is longer than `limit` bytes, has too many values, is too deep, or no JSON.
        OSError: it cannot be read, or is no plain file.
    """
    return parse_json(read_bytes(path, limit, links=links), path)


def parse_json(content: bytes, source: Any, pairs: Callable[[list], Any] | None = None) -> Any:
    """Return what JSON says.

    Args:
        content: all of it.
        source: where it comes from, for messages.
        pairs: makes the dictionaries, as `object_pairs_hook` does.

    Raises:
        ValueError: it has too many values, is too deep, or no JSON.
    """
    if (
        1 + sum(map(content.count, (b",", b"[", b"{"))) > MAX_NODES
    ):  # there cannot be more than these
        raise ValueError(f"{source} has more than {MAX_NODES} values")
    try:  # NaN and Infinity too: a config may hold them
        found = json.loads(content.decode("utf-8-sig"), object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError(f"{source} is nested too deeply") from None
    except ValueError as error:  # what UnicodeDecodeError and JSONDecodeError are
        raise ValueError(f"{source} is not JSON: {str(error)[:200]}") from None
    level = [found]
    for _ in range(MAX_DEPTH):  # so that whatever walks through it needs no care
        inner = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        ]
        if not inner:
            return found
        level = list(itertools.chain.from_iterable(inner))
    raise ValueError(f"{source} is nested too deeply")


# ---- archives -----------------------------------------------------------------------------------


def unpacked_limit(size: int) -> int:
    """Return how many bytes a compressed file of so many may hold."""
    return max(2**30, 64 * size)


class Bounded(io.RawIOBase):
    """A file for reading that gives no more at once than it has, and than a limit; beyond, it raises ValueError."""

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
    """Open a zip archive whose members, all together, are no larger than the file allows.

    Args:
        path: of the archive.
        packed: members may be compressed.
        links: as of `check_plain`.

    Raises:
        ValueError: it claims too much, or its members overlap, or are compressed.
        zipfile.BadZipFile: it is damaged, or none.
        OSError: as of `open_plain`.
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
    """What stands before the numbers of an .npy file."""

    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        """How many bytes the numbers take."""
        return math.prod(self.shape) * self.dtype.itemsize


def npy_header(file: Any) -> Header:
    """Read the head of an .npy file, of numbers or text.

    Raises:
        ValueError: it is none, it is too long, or it describes objects.
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
    except (RecursionError, MemoryError, SyntaxError, TypeError) as error:
        raise ValueError(f"its header cannot be read: {type(error).__name__}") from None
    if found.dtype.hasobject:
        raise ValueError("it holds objects, not numbers")
    if found.dtype.itemsize == 0 or any(n < 0 for n in found.shape):
        raise ValueError("its header describes no array")
    return found


def read_arrays(
    path: Path, names: Iterable[str] | None = None, *, links: bool = True
) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file, or the one of an .npy file, which is called "data".

    Args:
        path: of the file.
        names: of the arrays that are read, where they are there; all by default.
        links: as of `check_plain`.

    Raises:
        ValueError: it is damaged, claims more than it has, or holds objects.
        OSError: as of `open_plain`.
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
        file.read(1)  # the end, where the checksum is compared
    return found


def names_in(path: Path, *, links: bool = True) -> list[str]:
    """Return the names of the arrays of an .npz file; "data" for an .npy file."""
    with open_plain(path, links=links) as file:
        if not zipfile.is_zipfile(file):
            return ["data"]
    with open_zip(path, links=links) as archive:
        return [_name(m) for m in archive.infolist() if m.filename.endswith(".npy")]
