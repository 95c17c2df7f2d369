"""Where data sets lie, and how they get there without ever being half there.

Preparation writes to a temporary folder beside the target and renames it, so that a reader sees all
or nothing. A lock file makes a second process wait instead of doing the work twice; where locks are
not supported, both work and the first rename wins.
"""

import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

LOG = logging.getLogger("diffusion")
MEMORY_LIMIT = 2 * 1024**3  # bytes of decoded pixels that `in_memory="auto"` still loads

Progress = Callable[[int, int], None]  # (done, total), called now and then


class MissingDataError(FileNotFoundError):
    """A data set is not there and cannot be made here; the message says how to get it."""


def data_root(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the data sets.

    The argument goes first, then the environment variable DEMOLISH_DATA, then ~/.cache/demolish.

    Raises:
        MissingDataError: nothing is given and there is no home folder.
    """
    given = data_dir or os.environ.get("DEMOLISH_DATA")
    try:
        return Path(given or "~/.cache/demolish").expanduser()
    except RuntimeError as error:
        raise MissingDataError(
            "There is no home folder to keep data in; give `data_dir` or set DEMOLISH_DATA."
        ) from error


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold a lock file while the block runs; yields False where locks are not supported."""
    try:
        import fcntl
    except ImportError:  # not on this system
        yield False
        return
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # some network file systems refuse
            yield False
        else:
            yield True  # closing the file releases the lock, also when the process is killed


def _sweep(parent: Path, prefix: str) -> None:
    """Remove what killed processes left behind; only called by the holder of the lock."""
    for path in parent.glob(f"{prefix}*"):
        shutil.rmtree(path, ignore_errors=True)


def publish(target: Path, write: Callable[[Path], Path | None], what: str) -> Path:
    """Create the folder `target` atomically, unless it is there.

    Args:
        target: the folder to create.
        write: fills a temporary folder; returns the subfolder to publish, or None for all of it.
        what: name for messages.

    Raises:
        MissingDataError: the place cannot be written to.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        prefix = f".preparing-{target.name}-"
        with locked(target.parent / f".{target.name}.lock") as exclusive:
            if target.exists():
                return target
            if exclusive:
                _sweep(target.parent, prefix)
            scratch = target.parent / f"{prefix}{os.getpid()}"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                finished = write(scratch) or scratch
                with contextlib.suppress(FileExistsError):
                    _rename(finished, target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except PermissionError as error:
        raise MissingDataError(
            f"Cannot write {what} to {target}: {error.strerror}. Give a folder that you may write "
            "to as `data_dir`, or in the environment variable DEMOLISH_DATA."
        ) from error
    return target


def _rename(source: Path, target: Path) -> None:
    """Rename a folder; FileExistsError if another process was first."""
    try:
        source.rename(target)
    except OSError as error:
        if target.exists():  # a folder that is not empty answers with several error numbers
            raise FileExistsError(target) from error
        raise


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the bytes of each plain, visible file of a folder: a cheap sign of its contents."""
    files = (f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
    return {f.name: f.stat().st_size for f in sorted(files)}
