"""One-sentence versions of JAX's errors about NumPy, or Python's `if`, inside a user's function."""

import contextlib
import os
import traceback
from collections.abc import Iterator

import jax

UNTRACEABLE = (
    jax.errors.TracerArrayConversionError,  # np.cos(t)
    jax.errors.ConcretizationTypeError,  # math.cos(t), `if t > 0`
    jax.errors.TracerIntegerConversionError,
)
_LIBRARIES = ("jax", "jaxlib", "numpy", "flax", "diffusion", "contextlib", "functools")


def in_plain_words(error: BaseException, who: str) -> TypeError:
    """Return a tracing error as a TypeError of one sentence that names the line in the user's code."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_globals.get("__name__", "").split(".")[0] not in _LIBRARIES:
            code = frame.f_code
            place = f"; see `{code.co_name}`, line {line} of {os.path.basename(code.co_filename)}"
    return TypeError(
        f"{who} must be computed by JAX: use jax.numpy, such as jnp.cos for np.cos or math.cos, and jnp.where for "
        f"`if`{place}."
    )


@contextlib.contextmanager
def made_of_jax(who: str) -> Iterator[None]:
    """Turn JAX's tracing errors within this context into errors of one sentence.

    Raises:
        TypeError: NumPy, or Python's `if`, was applied to a traced array.
    """
    try:
        yield
    except UNTRACEABLE as error:
        raise in_plain_words(error, who) from error
    except ValueError as error:
        if "truth value of an array" not in str(error):  # an `if` on an array of times
            raise
        raise in_plain_words(error, who) from error
