"""One owner of a work directory: a file that says which process, on which host, since when.

    lock.json    {"host", "boot", "pid", "started", "command"}

The file appears and disappears whole, and its owner keeps it open under flock for as long as it lives: the
kernel knows of that in every container of a machine, many network file systems know of it on every machine, and
it ends with the process. Where nobody holds it the words in it decide, since not every file system has flock. A
process is the owner if its host, its number and the time at which it started agree: numbers are used again,
pairs of number and start time are not. On the host that wrote the file it is known whether the owner is alive,
and the lock of a dead one is taken over; on another host nobody can know, and a person has to decide.
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
UNKNOWN = "?"  # when a process started whose entry cannot be read

_kept: set[int] = set()  # descriptors of files under flock


def _forget() -> None:
    """Let go in a forked process, which would hold the lock longer than its owner lives."""
    while _kept:
        os.close(_kept.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def started(pid: int) -> str:
    """Return when a process started, in whatever words the system has for it; "" if there is none."""
    try:
        content = Path(f"/proc/{pid}/stat").read_text()
        state, *fields = content.rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]  # a zombie runs no more; ticks since the boot
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return ""
    except OSError:
        return UNKNOWN
    asked = ["ps", "-o", "lstart=", "-p", str(pid)]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()


def _boot() -> str:
    """Return what tells one run of this machine from another, where that is known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def identity() -> dict[str, Any]:
    """Return what this process is known by."""
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": started(os.getpid()),
        "command": " ".join(sys.argv)[:500],
    }


def _alive(owner: Mapping[str, Any]) -> bool:
    """Say whether an owner on this host still runs."""
    pid = owner.get("pid")
    boots = owner.get("boot"), _boot()
    if (all(boots) and boots[0] != boots[1]) or not isinstance(pid, int) or pid < 1:
        return False
    then, now = owner.get("started"), started(pid)
    return bool(then and now) and (now == then or UNKNOWN in (now, then))


def _hold(file: int) -> None:
    """Keep a file under flock for as long as it is open, where the system and the file system know that."""
    _kept.add(file)
    flock(file)


def _let_go(file: int | None) -> None:
    if file in _kept:
        _kept.remove(file)
        os.close(file)


def _made(path: Path, content: str) -> int:
    """Make a file, bring it to the disk, and return it open and under flock; FileExistsError if there is one."""
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
    """Say whether a living process holds a file, wherever it runs; False where that cannot be known."""
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
    """The lock of a work directory. Also a context manager, which takes it and gives it back."""

    def __init__(self, directory: Path, say: Say = nobody):
        """Name the directory, which need not exist yet."""
        self.path = directory / NAME
        self._say = say
        self._mine: dict[str, Any] | None = None
        self._file: int | None = None  # under flock while this process is the owner

    def __enter__(self) -> "Lock":
        self.take()
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def owner(self) -> dict[str, Any] | None:
        """Return what the file says; {} if it says nothing that can be read, None if there is none."""
        try:
            found = read_json(self.path, 2**16)
        except FileNotFoundError:
            return None
        except ValueError:  # what a crash of the machine may leave
            return {}
        return found if isinstance(found, dict) else {}

    def take(self) -> None:
        """Become the owner.

        Raises:
            LockedError: another process is, or may be.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._alone():
            owner = self.owner()
            if owner is not None:
                self._refuse_living(owner)
                who = f"process {owner.get('pid')}" if owner else "a process unknown"
                self._say(f"{who} left a lock without giving it back; it is taken over")
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
        """Make the file, complete from its first moment, unless there is one."""
        temporary = self.path.with_name(f".{NAME}.{socket.gethostname()}.{os.getpid()}")
        content, file = json.dumps(mine) + "\n", None
        temporary.unlink(missing_ok=True)  # of a process of the same number that died
        try:
            with writing(self.path, temporary):
                file = _made(temporary, content)
                try:
                    os.link(temporary, self.path)
                    self._file = file
                except FileExistsError:
                    raise
                except (
                    OSError
                ):  # a file system without hard links; a rename would replace what is there
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
        """Keep other processes of this host from taking over at the same moment, where that is possible."""
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
        """Make sure that this process is still the owner.

        Raises:
            SaveError: the file is gone or names another process, by the hand of a person.
        """
        if self._mine is not None and self.owner() != self._mine:
            raise SaveError(
                f"{self.path} no longer names this process, so another may write there; it writes nothing more."
            )

    def release(self) -> None:
        """Give it back; do nothing if this process is not the owner."""
        if self._mine is not None and self.owner() == self._mine:
            self.path.unlink(missing_ok=True)
        self._mine = None
        _let_go(self._file)
        self._file = None


@contextlib.contextmanager
def owned(directory: Path, say: Say = nobody) -> Iterator[Lock]:
    """Be the owner of a directory; of several processes of a job, process 0 is. All must call this.

    Raises:
        LockedError: another process is, or may be.
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
