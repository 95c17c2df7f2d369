"""Atomic writing of files, and errors of reading and writing that name the file.

Errors of the operating system often do not name the file: a write to a full disk says "No space left on device". The
functions below add the name, so that every command can print file and reason and exit with the code for files.
"""

import contextlib
import errno
import lzma
import os
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from diffusion.runtime import exits

PathLike = str | os.PathLike[str]

# Exceptions of decoders for content that is damaged or of another kind. NotImplementedError, a RuntimeError, is raised
# for a zip archive that is compressed by a method that Python does not know.
DAMAGE = (
    ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, ArithmeticError, MemoryError,
    struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
)  # fmt: skip


class WriteError(OSError):
    """A file cannot be written; the message names the file and the reason."""

    exit_code = exits.FILES

    def __init__(self, path: PathLike, error: OSError):
        super().__init__(error.errno, _reason(path, error), os.fspath(path))

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}."


class MissingFileError(FileNotFoundError, ValueError):
    """A file does not exist; the message names it."""

    exit_code = exits.FILES


class DamagedFileError(ValueError):
    """The content of a file is damaged or of the wrong kind; the message names the file and the problem."""


def _reason(path: PathLike, error: OSError) -> str:
    """Return why a file could not be written; a short write, which has no reason of its own, means a full disk."""
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{error.filename} is no folder"
    if error.strerror:
        return error.strerror
    with contextlib.suppress(OSError):
        if shutil.disk_usage(Path(path).parent).free < 2**16:
            return os.strerror(errno.ENOSPC)
    return str(error) or type(error).__name__


@contextlib.contextmanager
def writing(path: PathLike, *parts: Path) -> Iterator[None]:
    """Turn errors of the operating system in the block into errors that name the file being written.

    Args:
        path: the file, for messages.
        parts: temporary files that are written in its place.

    Raises:
        WriteError: the file cannot be written. Other errors pass unchanged: those about other files, such as a file
            that the block reads, those about the network, and those with an exit code.
    """
    try:
        yield
    except OSError as error:
        if hasattr(error, "exit_code") or not _is_of(error, Path(path), parts):
            raise
        raise WriteError(path, error) from error
    except Exception as error:  # libraries that write files raise exception classes of their own
        if (full := os.strerror(errno.ENOSPC)) not in str(error):
            raise
        raise WriteError(path, OSError(errno.ENOSPC, full)) from error


def _is_of(error: OSError, path: Path, parts: Sequence[Path]) -> bool:
    """Return whether an error of the operating system is about the file being written, or about its disk."""
    if error.filename is None:
        # an error of an open file, as on a full disk, names no file; errors of a network have other types
        return type(error) in (OSError, BrokenPipeError)
    named = Path(str(error.filename))
    return named in (path, *path.parents) or any(named.is_relative_to(part) for part in parts)


def sync(path: PathLike) -> None:
    """Flush a folder or a file to disk (fsync)."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def flock(file: Any, *, wait: bool = True, shared: bool = False) -> bool:
    """Lock an open file, or its descriptor, until it is closed; the kernel releases the lock when the process ends.

    Args:
        file: file or descriptor to lock.
        wait: wait until no other process holds the lock.
        shared: take a shared lock, which other processes may also hold.

    Returns:
        Whether the file is locked; False if the operating system or the file system has no such locks.

    Raises:
        BlockingIOError: another process holds the lock, and `wait` is False.
    """
    try:
        import fcntl

        how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, how if wait else how | fcntl.LOCK_NB)
    except (ImportError, OSError) as error:  # some network file systems refuse
        if isinstance(error, BlockingIOError) and not wait:
            raise
        return False
    return True


@contextlib.contextmanager
def replacing(
    path: PathLike, *, durable: bool = True, at: Callable[[], None] = lambda: None
) -> Iterator[Path]:
    """Yield a temporary path next to `path`, and rename it to `path` when the block has succeeded.

    A reader sees the old file or the new one; if the block fails, the temporary file is deleted.

    Args:
        path: the file; its folder is created.
        durable: flush to disk before the block ends; otherwise a crash of the machine may lose the file.
        at: called when the temporary file is complete and not yet renamed.

    Raises:
        WriteError: the file cannot be written.
    """
    target = Path(path)
    scratch = target.with_name(f".{target.name[:40]}.{os.getpid()}.tmp")
    with writing(target, scratch):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield scratch
            if durable:
                sync(scratch)
            at()
            scratch.replace(target)
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink(missing_ok=True)
    if durable:
        with contextlib.suppress(OSError):  # some systems cannot open folders
            sync(target.parent)


def write_atomically(path: PathLike, content: bytes, at: Callable[[], None] = lambda: None) -> None:
    """Write a file atomically and flush it to disk; see `replacing`."""
    with replacing(path, at=at) as scratch:
        scratch.write_bytes(content)


@contextlib.contextmanager
def decoding(
    path: PathLike, how: str, error: type[ValueError] = DamagedFileError
) -> Iterator[None]:
    """Turn exceptions of decoders for damaged content into one exception class.

    Args:
        path: the file, for messages.
        how: the expected format, such as "as .npz".
        error: exception class to raise; exceptions of this class pass unchanged.

    Raises:
        DamagedFileError: or `error`; the content is damaged, or of another kind.
        OSError: the file cannot be read, which says nothing about its content; the message names the file.
    """
    try:
        yield
    except error:
        raise
    except OSError as found:
        if found.filename is not None:
            raise
        # EINVAL: a seek to an impossible position, from damaged content
        if found.errno not in (None, errno.EINVAL):
            raise type(found)(found.errno, found.strerror, os.fspath(path)) from found
        raise error(_damaged(path, how, found)) from found
    except DAMAGE as found:
        raise error(_damaged(path, how, found)) from found


def _damaged(path: PathLike, how: str, error: BaseException) -> str:
    reason = exits.sentence(error)[:200].rstrip(".")
    return f"{os.fspath(path)} is damaged, or another kind of file: it cannot be read {how} ({reason})."


def expanded(path: PathLike) -> Path:
    """Return a path with "~" replaced by the home folder.

    Raises:
        ValueError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{os.fspath(path)}: there is no home folder of that name.") from None


def located(path: PathLike) -> Path:
    """Return an absolute path, with "~" replaced by the home folder and links followed.

    Raises:
        OSError: the path contains a loop of links.
        ValueError: there is no such home folder.
    """
    found = expanded(path)
    try:
        found.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
    return Path(os.path.realpath(found))
