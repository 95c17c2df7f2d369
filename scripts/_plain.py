"""What the programs on data share: one line for every error, and an exit code; and what all programs do first."""

import logging
import os
import sys
from collections.abc import Callable

FAILED, USAGE, MISSING = 1, 2, 5  # exit codes, the same as those of the other programs


def hide_programs() -> None:
    """Take this folder off the search path: a module of the user's may be called like one of the programs."""
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p) != here]


def run(work: Callable[[], None], program: str) -> int:
    """Do the work with the package's messages on stderr; errors become one line and an exit code."""
    hide_programs()
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("diffusion").setLevel(logging.INFO)
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # ten retries are not ten messages
    from diffusion.data import MissingDataError

    try:
        work()
    except MissingDataError as error:
        return fail(error, MISSING, program)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        return fail(error, USAGE, program)
    except OSError as error:
        return fail(error, FAILED, program)
    except KeyboardInterrupt:
        return fail("interrupted; nothing half-made was left", FAILED, program)
    return 0


def fail(error: BaseException | str, code: int, program: str) -> int:
    """Print one line on stderr."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    print(f"{program}: error: {' '.join(str(text).split())}", file=sys.stderr)
    return code
