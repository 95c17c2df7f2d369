"""Lines that programs show; an error is one line on standard error and an exit code from one table."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from diffusion.runtime import exits

EXTRAS = {  # modules that the package is installed without, by the extra of pyproject.toml that brings them
    "train": (
        "optax", "orbax", "ml_collections", "tensorflow_datasets", "array_record", "sklearn", "PIL", "fontTools",
        "matplotlib", "rich", "tensorboardX", "safetensors",
    ),
    "eval": ("scipy",),
}  # fmt: skip


def say(text: str) -> None:
    """Print a line at once."""
    try:
        print(text, flush=True)
    except OSError as error:
        leave_without_output(error)


def note(text: str) -> None:
    """Say on standard error what is no error, and should be known."""
    print(f"note: {exits.one_line(text)}", file=sys.stderr, flush=True)


def leave_without_output(error: OSError) -> NoReturn:
    """Leave with a line when standard output takes nothing more: a full disk, a reader that is gone."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # takes the rest of the buffer at the end
    fail(f"cannot write to standard output: {error.strerror}.", exits.FILES)


def fail(message: object, code: int = exits.USAGE) -> NoReturn:
    """Leave with one line on standard error."""
    print(f"error: {exits.one_line(str(message))}", file=sys.stderr, flush=True)
    sys.exit(code)


def missing_extra(error: BaseException) -> str:
    """Return a sentence that says which extra of the package has a module that is missing, or nothing."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if name in modules), "")
    if not isinstance(error, ModuleNotFoundError) or not extra:
        return ""
    return (
        f"{name} is not installed; this needs the extra `{extra}`: pip install 'demolish[{extra}]'."
    )


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
    if found := missing_extra(error):
        error = ValueError(found)
    code = exits.code_of(error)
    hint = " (--debug shows where)" if code == exits.ERROR and not debug else ""
    print(f"error: {what}{exits.sentence(error)}{hint}", file=sys.stderr, flush=True)
    return code


def check_writable(path: os.PathLike[str] | str) -> None:
    """Leave with a message unless this path, or the nearest folder above it, can be written to."""
    import tempfile

    nearest = os.path.abspath(path)
    while not os.path.isdir(nearest):
        if os.path.exists(nearest) and nearest != os.path.abspath(path):
            fail(f"{path} cannot be written: {nearest} is a file.", exits.FILES)
        nearest = os.path.dirname(nearest)
    try:
        with tempfile.TemporaryFile(dir=nearest):  # asking for permission is not enough for root
            pass
    except OSError as error:
        fail(f"{path} cannot be written: {nearest}: {error.strerror}.", exits.FILES)


def progress(label: str, total: int, done: int = 0) -> Callable[[int], None]:
    """Return a callback that takes the number of examples done and shows a line on standard error now and then."""
    from diffusion.runtime.progress import Progress, Terminal

    shown = Terminal(sys.stderr)
    return Progress(done, total, 1, shown.say, shown.rewrite, what=label, unit="examples").report
