"""What every program says when it cannot go on: one line on standard error, and an exit code from the one table."""

import os
import sys
import traceback

from diffusion.runtime import exits


def say(text: str) -> None:
    """Print a line at once."""
    try:
        print(text, flush=True)
    except OSError as error:
        leave_without_output(error)


def note(text: str) -> None:
    """Say on standard error what is no error, and should be known."""
    print(f"note: {exits.one_line(text)}", file=sys.stderr, flush=True)


def leave_without_output(error: OSError) -> None:
    """Leave with a line when standard output takes nothing more: a full disk, a reader that is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # takes the rest of the buffer at the end
    fail(f"cannot write to standard output: {error.strerror}.", exits.FILES)


def fail(message: object, code: int = exits.USAGE) -> None:
    """Leave with one line on standard error."""
    print(f"error: {exits.one_line(str(message))}", file=sys.stderr, flush=True)
    sys.exit(code)


def tell(error: BaseException, debug: bool = False, what: str = "") -> int:
    """Print the line of an error, and return the code to leave with.

    Args:
        error: it.
        debug: print its traceback as well.
        what: could not be done, if that is less than all.
    """
    if debug:
        traceback.print_exception(error)
    if type(error).__module__.startswith("jax."):
        from diffusion.numerics.tracing import UNTRACEABLE, in_plain_words

        if isinstance(error, UNTRACEABLE):
            error = in_plain_words(error, "a part of your own")
    code = exits.code_of(error)
    hint = " (--debug shows where)" if code == exits.ERROR and not debug else ""
    print(f"error: {what}{exits.sentence(error)}{hint}", file=sys.stderr, flush=True)
    return code


def report(error: BaseException, debug: bool = False) -> None:
    """Leave with the line and the code of an error."""
    sys.exit(tell(error, debug))
