"""The errors that end a run, each with its exit code; the table of the codes is `diffusion.exits`."""

import signal

from diffusion.exits import ABANDONED as ABANDONED
from diffusion.exits import ASKED as ASKED
from diffusion.exits import CHECKPOINT as CHECKPOINT
from diffusion.exits import DATA as DATA
from diffusion.exits import DIVERGED as DIVERGED
from diffusion.exits import ERROR as ERROR
from diffusion.exits import FILES as FILES
from diffusion.exits import HANGUP as HANGUP
from diffusion.exits import HUNG as HUNG
from diffusion.exits import INTERRUPTED as INTERRUPTED
from diffusion.exits import LOCKED as LOCKED
from diffusion.exits import OK as OK
from diffusion.exits import TERMINATED as TERMINATED
from diffusion.exits import USAGE as USAGE

_BY_SIGNAL = {
    signal.SIGHUP: HANGUP,
    signal.SIGINT: INTERRUPTED,
    signal.SIGUSR1: ASKED,
    signal.SIGTERM: TERMINATED,
}


class Stopped(SystemExit):
    """A signal ended the run in good order; uncaught, it leaves with the code of that signal.

    Attributes:
        step: the number of steps done, all of them in the checkpoint if there is one.
        signal: the signal, SIGTERM where only the cluster's notice is known.
        saved: whether a checkpoint was written.
    """

    def __init__(self, step: int, number: signal.Signals, saved: bool):
        super().__init__(_BY_SIGNAL.get(number, TERMINATED))
        self.step = step
        self.signal = number
        self.saved = saved

    def __str__(self) -> str:
        """Say what happened, in one line."""
        if self.step == 0:
            return f"Stopped by {self.signal.name} before the first step."
        state = "the state is saved" if self.saved else "nothing was saved: no `save` was given"
        return f"Stopped by {self.signal.name} after step {self.step}; {state}."


class DivergedError(RuntimeError):
    """Too many steps in a row had a non-finite loss or gradient.

    Attributes:
        step: the last of them.
        good: the last step that was finite, if it is known to be an earlier one.
    """

    exit_code = DIVERGED

    def __init__(self, step: int, message: str, good: int | None = None):
        super().__init__(message)
        self.step = step
        self.good = step if good is None else good


class CheckpointError(ValueError):
    """A checkpoint is missing, or does not fit what is asked of it."""

    exit_code = CHECKPOINT


class DamageError(CheckpointError):
    """A checkpoint is not what was written.

    Attributes:
        reason: a word or two, joined by hyphens, that may be part of a file name.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class SaveError(OSError):
    """A checkpoint could not be written."""

    exit_code = FILES


class ReadError(OSError):
    """A file cannot be read, by a fault of the machine or for lack of permission: it may be whole."""

    exit_code = FILES


def cannot_read(error: OSError) -> bool:
    """Say whether an error says nothing about the content of a file, and not even that it is missing."""
    return error.errno is not None and not isinstance(error, FileNotFoundError | NotADirectoryError)


class LockedError(RuntimeError):
    """Another process owns the work directory."""

    exit_code = LOCKED
