"""Exit codes of the commands: the table, the errors that carry a code, and the code of any other error.

129, 130, 138 and 143 are the codes that shells and schedulers expect after these signals: 128 + signal number. This
file imports nothing of the package, so that `--help` can read the table without starting JAX.
"""

import re
import signal
from typing import Any

OK = 0
ERROR = 1
USAGE = 2
DIVERGED = 3
CHECKPOINT = 4
DATA = 5
FILES = 6
LOCKED = 7
HUNG = 8
LAWS = 9
HANGUP = 129
INTERRUPTED = 130
ABANDONED = 131
ASKED = 138
TERMINATED = 143

MEANING = {
    OK: "done",
    ERROR: "an unexpected error; --debug shows the traceback",
    USAGE: "a wrong command line, config or input, or a folder that holds no run; the message names it",
    DIVERGED: "training diverged, or generated examples are not finite",
    CHECKPOINT: "a checkpoint or an exported model is missing or damaged, or does not fit",
    DATA: "a data set is missing; the message says how to get it",
    FILES: "a file is missing, or cannot be read or written, as on a full disk; the message says which and why",
    LOCKED: "another process is using the folder",
    HUNG: "hung: no progress for train.watchdog_seconds; the printed stacks show where",
    LAWS: "a law does not hold (demolish check)",
    HANGUP: "stopped by SIGHUP (a terminal that was closed), otherwise like 130",
    INTERRUPTED: "stopped by SIGINT (Ctrl-C); progress is saved, and the same command continues",
    ABANDONED: "stopped at once by a second signal; work since the last checkpoint is lost",
    ASKED: "stopped by SIGUSR1, otherwise like 130",
    TERMINATED: "stopped by SIGTERM, otherwise like 130",
}

MOST_LETTERS = 1000  # largest length of a message


def table() -> str:
    """Return the table as plain text, one line per code."""
    return "\n".join(["Exit codes:", *(f"  {code:<4} {text}" for code, text in MEANING.items())])


def markdown() -> str:
    """Return the table in Markdown, for the documentation."""
    rows = [f"| {code} | {text} |" for code, text in MEANING.items()]
    return "\n".join(["| code | meaning |", "|---:|---|", *rows])


def code_of(error: BaseException) -> int:
    """Return the exit code of an error.

    The attribute `exit_code` of an error decides, if there is one. Other errors are about a file (OSError), about the
    input (ValueError, KeyError, IndexError, TypeError), or unexpected.
    """
    own: Any = getattr(error, "exit_code", None)
    if isinstance(own, int):
        return own
    if isinstance(error, OSError):
        return FILES
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return USAGE if isinstance(error, ValueError | LookupError | TypeError) else ERROR


def one_line(text: str) -> str:
    """Return a message as one line of limited length.

    Only the first line is kept of messages of more than a few lines, such as those of compilers.
    """
    # the number of an error says nothing to most readers
    text = re.sub(r"\[Errno -?[0-9]+\] ", "", text)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    line = " ".join(" ".join(lines[:1] if len(lines) > 4 else lines).split())
    return line if len(line) <= MOST_LETTERS else f"{line[: MOST_LETTERS - 4].rstrip()} ..."


def sentence(error: BaseException) -> str:
    """Return the message of an error in one line; for an OSError, the file and the reason."""
    message: Any = error.args[0] if isinstance(error, KeyError) and error.args else error
    if isinstance(error, OSError) and error.strerror and str(error).startswith("[Errno"):
        message = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return one_line(str(message)) or type(error).__name__


# ---- errors that end a run --------------------------------------------------------------------

_BY_SIGNAL = {
    signal.SIGHUP: HANGUP,
    signal.SIGINT: INTERRUPTED,
    signal.SIGUSR1: ASKED,
    signal.SIGTERM: TERMINATED,
}


class Stopped(SystemExit):
    """A signal ended the run cleanly; if not caught, the process exits with the code of that signal.

    Attributes:
        step: number of completed steps, all of them in the checkpoint if there is one.
        signal: the signal; SIGTERM if only a preemption notice of the cluster was received.
        saved: whether a checkpoint was written.
    """

    def __init__(self, step: int, number: signal.Signals, saved: bool):
        super().__init__(_BY_SIGNAL.get(number, TERMINATED))
        self.step = step
        self.signal = number
        self.saved = saved

    def __str__(self) -> str:
        """Return the message in one line."""
        if self.step == 0:
            return f"Stopped by {self.signal.name} before the first step."
        state = "the state is saved" if self.saved else "nothing was saved: no `save` was given"
        return f"Stopped by {self.signal.name} after step {self.step}; {state}."


class DivergedError(RuntimeError):
    """Too many steps in a row had a non-finite loss or gradient.

    Attributes:
        step: the last of these steps.
        good: the last step that was finite, if it is known to be earlier than `step`.
    """

    exit_code = DIVERGED

    def __init__(self, step: int, message: str, good: int | None = None):
        super().__init__(message)
        self.step = step
        self.good = step if good is None else good


class CheckpointError(ValueError):
    """A checkpoint is missing, damaged, or does not fit the config."""

    exit_code = CHECKPOINT


class DamageError(CheckpointError):
    """The content of a checkpoint differs from what was written.

    Attributes:
        reason: one or two words, joined by hyphens, that can be part of a file name.
    """

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason


class SaveError(OSError):
    """A checkpoint could not be written."""

    exit_code = FILES


class ReadError(OSError):
    """A file cannot be read because of an I/O error or missing permission; its content may be intact."""

    exit_code = FILES


def cannot_read(error: OSError) -> bool:
    """Return whether an error prevented reading a file, so that nothing is known about its content or existence."""
    return error.errno is not None and not isinstance(error, FileNotFoundError | NotADirectoryError)


class LockedError(RuntimeError):
    """Another process holds the lock of the work directory."""

    exit_code = LOCKED
