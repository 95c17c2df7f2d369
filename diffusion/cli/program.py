"""How every program runs: its command line is read, it works, and any error becomes one line and an exit code."""

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
    """Run a program; return its exit code.

    Args:
        parser: of its command line.
        work: the program; it gets the flags and returns an exit code, or None for success.
        words: of the command line, without the program's name.
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
        if hasattr(left, "signal"):  # a training run that was stopped says what it saved
            from diffusion.runtime.progress import Terminal

            Terminal(sys.stderr).say(f"{left} The same command goes on.")
        raise
    except Exception as error:  # the boundary of the program: every error becomes one line
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
    """Until a program takes over, the first signal leaves at once: there is nothing to save yet.

    Without an exception, which some library that is being imported might catch.
    """

    def leave(number: int, frame: object) -> None:
        name = signal.Signals(number).name
        with contextlib.suppress(OSError):  # a terminal that was closed
            os.write(2, f"Stopped by {name} before there was anything to save.\n".encode())
        os._exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        return
    for number in SIGNALS:
        ignored = signal.getsignal(number) is signal.SIG_IGN
        if number != signal.SIGHUP or not ignored:  # as under nohup
            signal.signal(number, leave)


@contextlib.contextmanager
def _messages() -> Iterator[None]:
    """Show the package's messages on standard error."""
    log, handler = logging.getLogger("diffusion"), logging.StreamHandler(sys.stderr)
    levels = log.level, logging.getLogger("urllib3").level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # ten retries are not ten messages
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(levels[0])
        logging.getLogger("urllib3").setLevel(levels[1])


@contextlib.contextmanager
def as_a_guest() -> Iterator[None]:
    """Give back to a process that goes on what a program changes in it: sys.argv, and who handles signals."""
    argv, handlers = sys.argv, {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        sys.argv = argv
        if threading.current_thread() is threading.main_thread():
            for number, handler in handlers.items():
                signal.signal(number, handler)
