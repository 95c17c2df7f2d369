"""Reading files from untrusted sources: without blocking, within a memory limit, and without executing code.

Only regular files are opened: reading a pipe could block forever, and a link in a work directory leads out of it.
Sizes that a file states, such as the length of a header, the shape of an array or the size of an archive member, are
compared with the size of the file before memory is allocated. A file may take as many bytes of memory as it has on
disk; a compressed file, at most `unpacked_limit` bytes.
"""

import errno
import io
import itertools
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusion.runtime import exits

MAX_BYTES = 2**24  # of a JSON file: a manifest of about 100,000 files
MAX_NODES = 2**20  # values in a JSON file
MAX_DEPTH = 64


class NotPlainError(OSError):
    """The path is not a regular file; the message says what it is instead."""

    exit_code = exits.FILES


def _refuse(path: Path, mode: int) -> None:
    """Raise NotPlainError unless the mode is that of a regular file."""
    kinds = {
        stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    }  # fmt: skip
    if not stat.S_ISREG(mode):
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise NotPlainError(errno.EINVAL, f"is {kind}, not a plain file", str(path))


def check_plain(path: Path, *, links: bool = False) -> bool:
    """Return whether a file exists; raise NotPlainError if it is not a regular file.

    Args:
        path: the file.
        links: whether to follow links; False for the files of a work directory.

    Raises:
        NotPlainError: the path exists and is not a regular file.
    """
    try:
        found = path.stat() if links else path.lstat()
    except FileNotFoundError:
        return False
    _refuse(path, found.st_mode)
    return True


def open_plain(path: Path, *, links: bool = False) -> io.BufferedReader:
    """Open a regular file for reading, without blocking; arguments as in `check_plain`.

    Raises:
        NotPlainError: the path is a pipe, a device, a folder, or a link.
        OSError: the file does not exist or cannot be opened.
    """
    # opening a device may do something
    _refuse(path, (path.stat() if links else path.lstat()).st_mode)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    number = os.open(path, flags | (0 if links else getattr(os, "O_NOFOLLOW", 0)))
    try:
        # again: the file may have been replaced since the check
        _refuse(path, os.fstat(number).st_mode)
        return open(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_bytes(path: Path, limit: int = MAX_BYTES, *, links: bool = False) -> bytes:
    """Read a regular file of at most `limit` bytes.

    Raises:
        ValueError: the file is longer.
        OSError: as in `open_plain`.
    """
    with open_plain(path, links=links) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(min(size, limit) + 1)
    if len(content) > limit:
        raise ValueError(f"{path} is longer than {limit} bytes")
    return content


# ---- JSON ---------------------------------------------------------------------------------------


def read_json(path: Path, limit: int = MAX_BYTES, *, links: bool = False) -> Any:
    """Read a JSON file from a possibly untrusted source.

    Raises:
        ValueError: the file is longer than `limit` bytes, has too many values, is nested too deeply, or is not JSON.
        OSError: the file cannot be read, or is not a regular file.
    """
    return parse_json(read_bytes(path, limit, links=links), path)


def parse_json(content: bytes, source: Any, pairs: Callable[[list], Any] | None = None) -> Any:
    """Parse JSON from a possibly untrusted source.

    Args:
        content: the JSON text.
        source: name of its source, for messages.
        pairs: function that makes dictionaries from pairs, the `object_pairs_hook` of `json.loads`.

    Raises:
        ValueError: the text has too many values, is nested too deeply, or is not JSON.
    """
    # there cannot be more than these
    if 1 + sum(map(content.count, (b",", b"[", b"{"))) > MAX_NODES:
        raise ValueError(f"{source} has more than {MAX_NODES} values")
    try:  # accepts NaN and Infinity, which a config may hold
        found = json.loads(content.decode("utf-8-sig"), object_pairs_hook=pairs)
    except RecursionError:
        raise ValueError(f"{source} is nested too deeply") from None
    except ValueError as error:  # base class of UnicodeDecodeError and JSONDecodeError
        raise ValueError(f"{source} is not JSON: {str(error)[:200]}") from None
    level = [found]
    # limits the depth, so that recursive functions on the result are safe
    for _ in range(MAX_DEPTH):
        inner = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        ]
        if not inner:
            return found
        level = list(itertools.chain.from_iterable(inner))
    raise ValueError(f"{source} is nested too deeply")


def unpacked_limit(size: int) -> int:
    """Return the largest uncompressed size, in bytes, that is accepted for a compressed file of `size` bytes."""
    return max(2**30, 64 * size)
