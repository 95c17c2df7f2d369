"""Lock of a work directory, for one owner: a file that names the process, its host and its start time.

    lock.json    {"host", "boot", "pid", "started", "command"}

The file is created and deleted atomically, and its owner keeps it open under flock while it runs: the kernel sees
this lock in every container of a machine, many network file systems see it on every machine, and it ends with the
process. If no process holds the flock, the content of the file decides, because not every file system has flock. A
process is the owner if its host, its pid and its start time agree: pids are reused, pairs of pid and start time are
not. On the host that wrote the file, it is known whether the owner is alive, and the lock of a dead process is taken
over; on another host this cannot be known, and the user has to decide.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from diffusion.runtime.distributed import first_process
from diffusion.runtime.exits import LockedError, SaveError
from diffusion.runtime.files import flock, sync, writing
from diffusion.runtime.progress import Say, nobody
from diffusion.runtime.reading import read_json

NAME = "lock.json"
UNKNOWN = "?"  # start time of a process whose entry cannot be read

_kept: set[int] = set()  # descriptors of the lock files that this process holds


def _forget() -> None:
    """Close the lock files in a forked process, which would otherwise hold the locks after their owner ends."""
    while _kept:
        os.close(_kept.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def started(pid: int) -> str:
    """Return the start time of a process, in a format of the operating system; "" if there is no such process."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text()
        state, *fields = content.rpartition(")")[2].split()
        # zombies count as ended; field 18 is in clock ticks since boot
        return "" if state in "ZX" else fields[18]
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return ""
    except OSError:
        return UNKNOWN
    asked = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def _boot() -> str:
    """Return an identifier of the current boot of this machine; "" if it is not known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def identity() -> dict[str, Any]:
    """Return the entry of lock.json that identifies this process."""
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": started(os.getpid()),
        "command": " ".join(sys.argv)[:500],
    }


def _alive(owner: Mapping[str, Any]) -> bool:
    """Return whether an owner on this host is still running."""
    pid = owner.get("pid")
    boots = owner.get("boot"), _boot()
    if (all(boots) and boots[0] != boots[1]) or not isinstance(pid, int) or pid < 1:
        return False
    then, now = owner.get("started"), started(pid)
    return bool(then and now) and (now == then or UNKNOWN in (now, then))


def _hold(file: int) -> None:
    """Hold a flock on a file until it is closed, if the operating system and the file system support it."""
    _kept.add(file)
    flock(file)


def _let_go(file: int | None) -> None:
    if file in _kept:
        _kept.remove(file)
        os.close(file)


def _made(path: Path, content: str) -> int:
    """Create a file, flush it to disk, and return its locked descriptor; raise FileExistsError if it exists."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    _hold(file)
    try:
        os.write(file, content.encode())
        os.fsync(file)
    except OSError:
        _let_go(file)
        raise
    return file


def _is_held(path: Path) -> bool:
    """Return whether a running process on any machine holds the flock of a file; False if this cannot be known."""
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        flock(number, wait=False, shared=True)
    except BlockingIOError:
        return True
    finally:
        os.close(number)
    return False


class Lock:
    """Lock of a work directory. As a context manager, it takes and releases the lock."""

    def __init__(self, directory: Path, say: Say = nobody):
        """Set the directory, which need not exist yet; `say` is called with messages."""
        self.path = directory / NAME
        self._say = say
        self._mine: dict[str, Any] | None = None
        self._file: int | None = None  # descriptor under flock while this process is the owner

    def __enter__(self) -> "Lock":
        self.take()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def owner(self) -> dict[str, Any] | None:
        """Return the content of the lock file; {} if it cannot be read, None if there is no such file."""
        try:
            found = read_json(self.path, 2**16)
        except FileNotFoundError:
            return None
        except ValueError:  # an incomplete file, possible after a crash of the machine
            return {}
        return found if isinstance(found, dict) else {}

    def take(self) -> None:
        """Take the lock.

        Raises:
            LockedError: another process holds the lock, or may hold it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            owner = self.owner()
            if owner is not None:
                self._refuse_living(owner)
                who = f"process {owner.get('pid')}" if owner else "a process unknown"
                self._say(f"{who} ended without releasing its lock; it is taken over")
                self.path.unlink(missing_ok=True)
            mine = identity()
            self._write(mine)
        self._mine = mine

    def _refuse_living(self, owner: Mapping[str, Any]) -> None:
        host, here = owner.get("host"), socket.gethostname()
        words = (
            f"process {owner.get('pid')} on {str(host)[:100]} ({str(owner.get('command'))[:200]})"
        )
        folder = self.path.parent
        if _is_held(self.path):
            unseen = (
                ""
                if host != here or _alive(owner)
                else ", in another container of this machine or on another"
            )
            raise LockedError(
                f"{folder} is in use by {words if owner else 'a process'}, which is alive{unseen}. Wait for it, "
                "stop it, or give another --workdir."
            )
        if owner and host != here:
            raise LockedError(
                f"{folder} is in use by {words}, unseen from {here}: if it is not alive, delete {self.path}."
            )
        if owner and _alive(owner):
            raise LockedError(
                f"{folder} is in use by {words}. Wait for it, stop it, or give another --workdir."
            )

    def _write(self, mine: Mapping[str, Any]) -> None:
        """Create the lock file atomically, unless it exists."""
        temporary = self.path.with_name(f".{NAME}.{socket.gethostname()}.{os.getpid()}")
        content, file = json.dumps(mine) + "\n", None
        temporary.unlink(missing_ok=True)  # left by a dead process with the same pid
        try:
            with writing(self.path, temporary):
                file = _made(temporary, content)
                try:
                    os.link(temporary, self.path)
                    self._file = file
                except FileExistsError:
                    raise
                except OSError:
                    # a file system without hard links; a rename would replace an existing file
                    self._file = _made(self.path, content)
        except FileExistsError:
            raise LockedError(f"{self.path.parent} was just taken by another process.") from None
        finally:
            if self._file != file:
                _let_go(file)
            temporary.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            sync(self.path.parent)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Prevent other processes of this host from taking over the lock at the same time, if flock is available."""
        try:
            number = os.open(self.path.parent, os.O_RDONLY)
        except OSError:
            yield
            return
        try:
            flock(number)
            yield
        finally:
            os.close(number)

    def check(self) -> None:
        """Check that this process still holds the lock.

        Raises:
            SaveError: the file was deleted or names another process, so a person has changed it.
        """
        if self._mine is not None and self.owner() != self._mine:
            raise SaveError(
                f"{self.path} no longer names this process, so another may write there; it writes nothing more."
            )

    def release(self) -> None:
        """Release the lock; do nothing if this process does not hold it."""
        if self._mine is not None and self.owner() == self._mine:
            self.path.unlink(missing_ok=True)
        self._mine = None
        _let_go(self._file)
        self._file = None


@contextlib.contextmanager
def owned(directory: Path, say: Say = nobody) -> Iterator[Lock]:
    """Hold the lock of a directory in a `with` block; in a job of several processes, process 0 holds it.

    A collective call: every process of the job has to make it.

    Raises:
        LockedError: another process holds the lock, or may hold it.
        FirstProcessError: the same, on the other processes of a job.
    """
    lock = Lock(directory, say)

    def take() -> int:
        lock.take()
        return 0

    first_process(take)
    try:
        yield lock
    finally:
        lock.release()
