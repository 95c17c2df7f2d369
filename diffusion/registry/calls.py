"""Names in calls from Python: "heun" where a sampler is wanted."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from diffusion.registry.registry import build

T = TypeVar("T", bound=Callable)

OBJECTS = ("process", "sampler", "grid", "prediction", "weight", "time", "operator")


def takes_names(fn: T) -> T:
    """Let a function take a name, or a mapping with one, where its parameters want an object of that kind.

    Its parameters that are called after a kind of `OBJECTS` are built by `build`; objects pass as they are.

    Raises:
        TypeError: the class itself was given in the place of an object (raised by the function that this makes).

    Example:
        >>> @takes_names
        ... def ends(process):
        ...     return process.t_min, process.t_max
        >>> ends("edm")
        (0.002, 80.0)
    """
    places = list(inspect.signature(fn).parameters)

    def built(kind: str, given: Any) -> Any:
        if kind not in OBJECTS:
            return given
        if isinstance(given, type):
            raise TypeError(
                f"`{kind}` is the class {given.__name__} itself: call it, {given.__name__}()."
            )
        return build(kind, given)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        args = (*map(built, places, args), *args[len(places) :])
        return fn(*args, **{k: built(k, v) for k, v in kwargs.items()})

    return call  # pyright: ignore[reportReturnType]
