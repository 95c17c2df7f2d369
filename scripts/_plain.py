"""The programs whose commands and flags are read by argparse: they tell errors as all others do."""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from _errors import exits, fail, leave_without_output, report


def hide_programs() -> None:
    """Take this folder off the search path: a module of the user's may be called like one of the programs."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p) != here]


class Parser(argparse.ArgumentParser):
    """A parser that shows the table of exit codes, and refuses a command line in one line."""

    def __init__(self, **options: object):
        shape = argparse.RawDescriptionHelpFormatter
        super().__init__(**{"formatter_class": shape, "epilog": exits.table(), **options})
        told = "show the traceback of an error"
        self.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=told)

    def error(self, message: str) -> NoReturn:
        """Leave with one line."""
        fail(f"{message.rstrip('.')}. See --help.")
        raise AssertionError


def run(work: Callable[[], None], arguments: argparse.Namespace) -> int:
    """Do the work with the package's messages on stderr; errors become one line and an exit code."""
    hide_programs()
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("diffusion").setLevel(logging.INFO)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # ten retries are not ten messages
    try:
        work()
    except KeyboardInterrupt:
        fail("interrupted; nothing half-made was left.", exits.INTERRUPTED)
    except Exception as error:  # the boundary of the program: every error becomes one line
        report(error, "debug" in arguments)
    try:
        sys.stdout.flush()
    except OSError as error:
        leave_without_output(error)
    return exits.OK
