"""Registry of the objects that a config selects by name; "module:attribute" names code outside the package."""

from diffusion.registry.calls import OBJECTS, takes_names
from diffusion.registry.kinds import KINDS
from diffusion.registry.names import load, nearest
from diffusion.registry.registry import (
    FieldError,
    build,
    check_type,
    lookup,
    nested_kinds,
    register,
    registered,
)
from diffusion.registry.renamed import adopt_earlier_names
from diffusion.registry.specs import current, marked, resolve, spec_of

__all__ = [
    "KINDS",
    "OBJECTS",
    "FieldError",
    "adopt_earlier_names",
    "build",
    "check_type",
    "current",
    "load",
    "lookup",
    "marked",
    "nearest",
    "nested_kinds",
    "register",
    "registered",
    "resolve",
    "spec_of",
    "takes_names",
]
