"""Messages of the commands; an error is one line on standard error and an exit code from `runtime.exits`."""

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from diffusion.runtime import exits

EXTRAS = {  # optional modules, by the extra of pyproject.toml that installs them
    "train": (
        "optax", "orbax", "ml_collections", "tensorflow_datasets", "array_record", "sklearn", "PIL", "fontTools",
        "matplotlib", "rich", "tensorboardX", "safetensors",
    ),
    "eval": ("scipy",),
}  # fmt: skip


def say(text: str) -> None:
    """Print a line to standard output and flush."""
    try:
        print(text, flush=True)
    except OSError as error:
        leave_without_output(error)


def note(text: str) -> None:
    """Print a notice, not an error, to standard error."""
    print(f"note: {exits.one_line(text)}", file=sys.stderr, flush=True)


def leave_without_output(error: OSError) -> NoReturn:
    """Exit with a message because standard output cannot be written: a full disk, or a closed pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # discards the rest of the buffer at exit
    fail(f"cannot write to standard output: {error.strerror}.", exits.FILES)


def fail(message: object, code: int = exits.USAGE) -> NoReturn:
    """Print a one-line error to standard error and exit with `code`."""
    print(f"error: {exits.one_line(str(message))}", file=sys.stderr, flush=True)
    sys.exit(code)


def missing_extra(error: BaseException) -> str:
    """Return a sentence that names the extra which installs a missing module; "" for other errors."""
    name = (getattr(error, "name", None) or "").partition(".")[0]
    extra = next((extra for extra, modules in EXTRAS.items() if name in modules), "")
    if not isinstance(error, ModuleNotFoundError) or not extra:
        return ""
    return (
        f"{name} is not installed; this needs the extra `{extra}`: pip install 'demolish[{extra}]'."
    )


def tell(error: BaseException, debug: bool = False, what: str = "") -> int:
    """Print an error in one line and return its exit code.

    Args:
        error: the exception.
        debug: print its traceback as well.
        what: prefix that names the part of the work that failed; "" if all of it did.
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
    """Exit with a message unless this path, or the nearest existing folder above it, is writable."""
    import tempfile

    nearest = os.path.abspath(path)
    while not os.path.isdir(nearest):
        if os.path.exists(nearest) and nearest != os.path.abspath(path):
            fail(f"{path} cannot be written: {nearest} is a file.", exits.FILES)
        nearest = os.path.dirname(nearest)
    try:
        # permission bits are not enough: root passes them
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        fail(f"{path} cannot be written: {nearest}: {error.strerror}.", exits.FILES)


def progress(label: str, total: int, done: int = 0) -> Callable[[int], None]:
    """Return a callback that takes the number of finished examples and reports progress on standard error."""
    from diffusion.runtime.progress import Progress, Terminal

    shown = Terminal(sys.stderr)
    return Progress(done, total, 1, shown.say, shown.rewrite, what=label, unit="examples").report
