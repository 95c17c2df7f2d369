"""The registered processes, built once with their defaults for all files that choose among them."""

import functools

from diffusion import Process, build, registered


@functools.cache
def default(name: str) -> Process:
    """Return a registered process with the values that its fields have by default."""
    return build("process", name)


def names(kind: type = Process) -> list[str]:
    """Return the registered names of processes of a class."""
    return [name for name in registered("process") if isinstance(default(name), kind)]


def family(name: str) -> type:
    """Return the class from which a registered process derives: the kind of process that it is."""
    return type(default(name)).__mro__[1]
