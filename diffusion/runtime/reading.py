"""Reading files that may come from anywhere: without waiting, within a budget, executing nothing.

Only plain files are opened: a pipe would make its reader wait for ever, and a link in a work directory leads out of
it. What a file says of itself, the length of a header, the shape of an array, the size of a member of an archive, is
compared with what is there before memory is taken for it. A file may take as many bytes of memory as it has on the
disk; one that is compressed at most `unpacked_limit` of them.
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

MAX_BYTES = 2**24  # of JSON: a manifest of some 100,000 files
MAX_NODES = 2**20  # values in it
MAX_DEPTH = 64


class NotPlainError(OSError):
    """What is there is no plain file; the message says what it is."""

    exit_code = exits.FILES


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
        return open(number, "rb")
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


def unpacked_limit(size: int) -> int:
    """Return how many bytes a compressed file of so many may hold."""
    return max(2**30, 64 * size)
