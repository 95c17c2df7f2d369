"""Execution of a command: parse the command line, run, and turn any error into one line and an exit code."""

import argparse
import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence

from diffusion.cli.messages import fail, leave_without_output, tell
from diffusion.cli.parser import Parser
from diffusion.runtime import exits

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


def run(
    parser: Parser, work: Callable[[argparse.Namespace], int | None], words: Sequence[str]
) -> int:
    """Run a command; return its exit code.

    Args:
        parser: parser of its command line.
        work: function that takes the flags and returns an exit code, or None for success.
        words: words of the command line, without the name of the command.
    """
    try:
        flags = parser.parse_args(list(words))
        if not parser.cleans_up:
            _leave_on_signals()
            return _work(flags, work)
        with _messages():
            return _work(flags, work)
    except SystemExit as left:
        return _code(left)


def _work(flags: argparse.Namespace, work: Callable[[argparse.Namespace], int | None]) -> int:
    try:
        code = work(flags)
    except KeyboardInterrupt:
        fail("interrupted; nothing half-made was left.", exits.INTERRUPTED)
    except SystemExit as left:
        # raised by a training run that was stopped; its message says what was saved
        if hasattr(left, "signal"):
            from diffusion.runtime.progress import Terminal

            Terminal(sys.stderr).say(f"{left} The same command goes on.")
        raise
    except Exception as error:  # the outermost frame: every error becomes one line
        return tell(error, flags.debug)
    try:
        sys.stdout.flush()
    except OSError as error:
        leave_without_output(error)
    return code or exits.OK


def _code(left: SystemExit) -> int:
    if left.code is None or isinstance(left.code, int):
        return left.code or exits.OK
    print(left.code, file=sys.stderr, flush=True)
    return exits.ERROR


def _leave_on_signals() -> None:
    """Exit at once on the first signal, until the command handles signals itself: there is nothing to save yet.

    No exception is raised, because a library that is being imported might catch it.
    """

    def leave(number: int, frame: object) -> None:
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):  # the terminal was closed
            os.write(2, f"Stopped by {name} before there was anything to save.\n".encode())
        os._exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        ignored = signal.getsignal(number) is signal.SIG_IGN
        if number != signal.SIGHUP or not ignored:  # nohup ignores SIGHUP
            signal.signal(number, leave)


@contextlib.contextmanager
def _messages() -> Iterator[None]:
    """Show log messages of the package on standard error."""
    log, handler = logging.getLogger("diffusion"), logging.StreamHandler(sys.stderr)
    levels = log.level, logging.getLogger("urllib3").level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # otherwise one message per retry
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(levels[0])
        logging.getLogger("urllib3").setLevel(levels[1])


@contextlib.contextmanager
def as_a_guest() -> Iterator[None]:
    """Restore sys.argv and the signal handlers when the block ends, for a process that continues after a command."""
    argv, handlers = sys.argv, {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        sys.argv = argv
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
