"""Names in calls from Python: "heun" where a sampler is wanted."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from diffusion.registry.registry import build

T = TypeVar("T", bound=Callable)

# Parameters of public functions that want an object, and its kind.
OBJECTS = {k: k for k in ("process", "sampler", "grid", "prediction", "weight", "time", "operator")}
OBJECTS |= {"loss_target": "prediction"}


def takes_names(fn: T) -> T:
    """Let a function take a name, or a mapping with one, where its parameters want an object of that kind.

    Its parameters that `OBJECTS` names are built by `build`; objects, and None, pass as they are.

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

    def built(name: str, given: Any) -> Any:
        if name not in OBJECTS:
            return given
        if isinstance(given, type):
            raise TypeError(f"`{name}` is the class {given.__name__} itself: call it.")
        return build(OBJECTS[name], given)

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        args = (*map(built, places, args), *args[len(places) :])
        return fn(*args, **{k: built(k, v) for k, v in kwargs.items()})

    return call  # pyright: ignore[reportReturnType]
