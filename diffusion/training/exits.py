"""Exit codes of the programs, and the errors that carry them.

    0    OK            finished
    1    ERROR         an error that nobody foresaw; a traceback says where
    2    USAGE         a wrong command line or config; the message names the field
    3    DIVERGED      too many non-finite steps in a row; the state is the last good one
    4    CHECKPOINT    a checkpoint is missing or damaged, or does not fit the config
    5    DATA          a data set is missing
    6    FILES         a file cannot be read or written; a checkpoint could not be saved
    7    LOCKED        another process owns the work directory
    8    HUNG          no sign of life for train.watchdog_seconds; the stacks say where
    129  HANGUP        SIGHUP (a terminal was closed): the state was saved, the same command resumes
    130  INTERRUPTED   SIGINT (Ctrl-C): the same
    131  ABANDONED     a second signal: left at once, work since the last checkpoint is lost
    138  ASKED         SIGUSR1: the same
    143  TERMINATED    SIGTERM: the same

129, 130, 138 and 143 are what shells and schedulers expect after these signals (128 + number).
"""

import signal

OK = 0
ERROR = 1
USAGE = 2
DIVERGED = 3
CHECKPOINT = 4
DATA = 5
FILES = 6
LOCKED = 7
HUNG = 8
HANGUP = 129
INTERRUPTED = 130
ABANDONED = 131
ASKED = 138
TERMINATED = 143

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
