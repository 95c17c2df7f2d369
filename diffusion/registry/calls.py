"""Registered names as arguments of Python functions, such as "heun" in place of a sampler object."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from diffusion.registry.registry import build

T = TypeVar("T", bound=Callable)

# Parameters of public functions that take an object -> the kind of that object.
OBJECTS = {k: k for k in ("process", "sampler", "grid", "prediction", "weight", "time", "operator")}
OBJECTS |= {"loss_target": "prediction"}


def takes_names(fn: T) -> T:
    """Let a function accept registered names, or mappings with a name, in place of objects.

    Arguments for the parameters listed in `OBJECTS` are built by `build`; objects and None pass unchanged.

    Raises:
        TypeError: a class was passed instead of an object (raised when the returned function is called).

    Example:
        >>> @takes_names
        ... def ends(process):
        ...     return process.t_min, process.t_max
        >>> ends("edm")
        (0.002, 80.0)
    """
    places = list(inspect.signature(fn).parameters)

    def built(name: str, value: Any) -> Any:
        if name not in OBJECTS:
            return value
        if isinstance(value, type):
            raise TypeError(
                f"`{name}` is the class {value.__name__} itself: call it, {value.__name__}()."
            )
        return build(OBJECTS[name], value)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        args = (*map(built, places, args), *args[len(places) :])
        return fn(*args, **{k: built(k, v) for k, v in kwargs.items()})

    return call  # pyright: ignore[reportReturnType]
