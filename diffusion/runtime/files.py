"""Files: the one way to write them, whole or not at all, and how errors about them are told.

Errors of the system often do not name the file: a write to a full disk says "No space left on device". Whoever reads or
writes says which file it was, so that every program can tell file and reason and leave with the code of files.
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

# What decoders raise at content that is damaged or of another kind. NotImplementedError, a RuntimeError: a zip archive
# that is compressed by a method that Python does not know.
DAMAGE = (
    ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, ArithmeticError, MemoryError,
    struct.error, zlib.error, lzma.LZMAError, zipfile.BadZipFile,
)  # fmt: skip


class WriteError(OSError):
    """A file cannot be written; the message says which and why."""

    exit_code = exits.FILES

    def __init__(self, path: PathLike, error: OSError):
        super().__init__(error.errno, _reason(path, error), os.fspath(path))

    def __str__(self) -> str:
        return f"cannot write {self.filename}: {self.strerror}."


class MissingFileError(FileNotFoundError, ValueError):
    """There is no such file; the message says what was looked for."""

    exit_code = exits.FILES


class DamagedFileError(ValueError):
    """The content of a file is not what it should be; the message says which file and what of it."""


def _reason(path: PathLike, error: OSError) -> str:
    """Return why a file could not be written; a short write, which names no reason, is one of a full disk."""
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
    """Name the file in errors of the system while it is written.

    Args:
        path: of the file, as a person knows it.
        parts: other names under which it is written meanwhile.

    Raises:
        WriteError: it cannot be written. Errors about other files, such as one that is read meanwhile, about the
            network, and those that have an exit code of their own pass.
    """
    try:
        yield
    except OSError as error:
        if hasattr(error, "exit_code") or not _is_of(error, Path(path), parts):
            raise
        raise WriteError(path, error) from error
    except Exception as error:  # libraries that write themselves have errors of their own
        if (full := os.strerror(errno.ENOSPC)) not in str(error):
            raise
        raise WriteError(path, OSError(errno.ENOSPC, full)) from error


def _is_of(error: OSError, path: Path, parts: Sequence[Path]) -> bool:
    """Say whether an error of the system is about the file that is written, or about the disk below it."""
    if error.filename is None:
        # of a file that is open, as on a full disk; errors of a network have other types
        return type(error) in (OSError, BrokenPipeError)
    named = Path(str(error.filename))
    return named in (path, *path.parents) or any(named.is_relative_to(part) for part in parts)


def sync(path: PathLike) -> None:
    """Bring a folder or a file to the disk itself."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def flock(file: Any, *, wait: bool = True, shared: bool = False) -> bool:
    """Lock an open file, or its descriptor, for as long as it is open; the kernel lets go when the process ends.

    Args:
        file: to be locked.
        wait: until another process lets go of it.
        shared: others may hold it shared as well.

    Returns:
        Whether it is locked. It is not where the system or the file system knows no such locks.

    Raises:
        BlockingIOError: another process holds it, and this one was not to wait.
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
    """Give a path beside `path` to write to, and put that file in its place when the block has succeeded.

    A reader sees the old file or the new one; nothing is left of a block that fails.

    Args:
        path: of the file; its folder is made.
        durable: have it on the disk itself when the block ends; without, a crash of the machine may lose it.
        at: called when the temporary file is complete and not yet renamed.

    Raises:
        WriteError: it cannot be written.
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
    """Write a file whole or not at all, and have it on the disk when this returns; see `replacing`."""
    with replacing(path, at=at) as scratch:
        scratch.write_bytes(content)


@contextlib.contextmanager
def decoding(
    path: PathLike, how: str, error: type[ValueError] = DamagedFileError
) -> Iterator[None]:
    """Turn what decoders raise at damaged content into one error.

    Args:
        path: of the file.
        how: how it should be read, such as "as .npz".
        error: the class to raise; errors of this class pass.

    Raises:
        DamagedFileError: or `error`; the content is damaged, or of another kind.
        OSError: the file cannot be read, which says nothing about its content; the file is named.
    """
    try:
        yield
    except error:
        raise
    except OSError as found:
        if found.filename is not None:
            raise
        if found.errno not in (None, errno.EINVAL):  # EINVAL: a seek to where no file reaches
            raise type(found)(found.errno, found.strerror, os.fspath(path)) from found
        raise error(_damaged(path, how, found)) from found
    except DAMAGE as found:
        raise error(_damaged(path, how, found)) from found


def _damaged(path: PathLike, how: str, error: BaseException) -> str:
    reason = exits.sentence(error)[:200].rstrip(".")
    return f"{os.fspath(path)} is damaged, or another kind of file: it cannot be read {how} ({reason})."


def expanded(path: PathLike) -> Path:
    """Return a path with the home folder in the place of "~".

    Raises:
        ValueError: there is no such home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{os.fspath(path)}: there is no home folder of that name.") from None


def located(path: PathLike) -> Path:
    """Return a path in full: "~" is the home folder, links are followed.

    Raises:
        OSError: it leads through a loop of links.
        ValueError: there is no such home folder.
    """
    found = expanded(path)
    try:
        found.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise
    return Path(os.path.realpath(found))
