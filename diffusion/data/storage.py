"""Folder of the data sets, and atomic preparation of data sets in it.

Preparation writes to a temporary folder next to the target and renames it, so that a reader sees all
or nothing. A lock file makes a second process wait instead of repeating the work; without support for
locks, both processes do the work and the first rename succeeds.
"""

import contextlib
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from diffusion.runtime import exits
from diffusion.runtime.files import flock, writing

LOG = logging.getLogger("diffusion")
MEMORY_LIMIT = 2 * 1024**3  # bytes of decoded pixels that are loaded into memory by default

Progress = Callable[[int, int], None]  # (done, total), called from time to time


class MissingDataError(FileNotFoundError):
    """A data set does not exist and cannot be prepared here; the message says how to get it."""

    exit_code = exits.DATA


class UnwritableDataError(MissingDataError):
    """A data set cannot be written to its folder; the message gives folder and reason."""

    exit_code = exits.FILES


def nowhere(what: str, path: Path) -> MissingDataError:
    """Return the error for a missing file or folder, which names the searched folder."""
    searched = "" if path.is_absolute() else f" in {Path.cwd()}"
    return MissingDataError(
        f"There is no {what} {path}{searched}; check `path` (--config.data.path of programs)."
    )


def data_root(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of the data sets.

    The argument takes precedence, then the environment variable DEMOLISH_DATA, then ~/.cache/demolish.

    Raises:
        MissingDataError: neither is set and there is no home folder.
    """
    given = data_dir or os.environ.get("DEMOLISH_DATA")
    try:
        return Path(given or "~/.cache/demolish").expanduser()
    except RuntimeError as error:
        raise MissingDataError("No home folder: give `data_dir` or DEMOLISH_DATA.") from error


def check_in_memory(value: bool | str | None) -> None:
    """Raise ValueError for an invalid value of the hyperparameter `in_memory`."""
    if not isinstance(value, bool) and value not in (None, "auto"):
        raise ValueError(f"`in_memory` must be true, false, None or 'auto'; got {value!r}.")


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold a lock file while the block runs; yield False if locks are not supported."""
    with open(path, "a") as file:
        yield flock(file)


@contextlib.contextmanager
def _workplace(parent: Path) -> Iterator[Path]:
    """Make a temporary folder inside `parent`, under its lock, and remove it afterward."""
    prefix = ".preparing-"
    with contextlib.ExitStack() as stack:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            exclusive = stack.enter_context(locked(parent / ".lock"))
        except OSError as error:
            raise UnwritableDataError(
                f"Cannot write to {parent}: {error.strerror}. Give another folder as `data_dir` or in DEMOLISH_DATA."
            ) from error
        if exclusive:  # under the lock, existing content was left by a killed process
            for stale in parent.glob(f"{prefix}*"):
                shutil.rmtree(stale, ignore_errors=True)
        scratch = parent / f"{prefix}{os.getpid()}-{threading.get_ident()}"
        try:
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def publish(
    parent: Path,
    ready: Callable[[], Path | None],
    write: Callable[[Path], Path],
    *,
    replace: bool = False,
) -> Path:
    """Create a folder inside `parent` atomically, unless it is ready.

    Args:
        parent: the parent folder, created if necessary.
        ready: function that returns the folder, or None as long as it is missing.
        write: function that fills a temporary folder, and returns the folder in it that is to appear in `parent`
            under the same name.
        replace: whether an existing folder of that name that is not ready may be removed.

    Raises:
        UnwritableDataError: the parent cannot be written to, or the name is in use.
    """
    with _workplace(parent) as scratch, writing(parent, scratch):
        found = ready()  # again under the lock: another process may have been first
        if found is not None:
            return found
        scratch.mkdir()
        finished = write(scratch)
        target = parent / finished.name
        if replace:
            shutil.rmtree(target, ignore_errors=True)
        try:
            finished.rename(target)
        except OSError as error:
            found = ready()  # without locks another process may still have been first
            if found is None:
                raise UnwritableDataError(
                    f"{target} is in the way ({error.strerror}); remove it or give another `data_dir`."
                ) from error
            return found
        return target


def file_sizes(folder: Path) -> dict[str, int]:
    """Return the size of each regular, visible file of a folder in bytes, a cheap fingerprint of its content."""
    files = (f for f in folder.iterdir() if f.is_file() and not f.name.startswith("."))
    return {f.name: f.stat().st_size for f in sorted(files)}
