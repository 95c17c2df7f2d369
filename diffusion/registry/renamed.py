"""Earlier names of registered objects and of their fields; they are still accepted, with one line of notice.

A class states its earlier name where it is registered, `@register("time", "default", renamed_from="natural")`, and a
field in its metadata, `field(metadata={"renamed_from": "share"})`.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from diffusion.registry.kinds import fill

_log = logging.getLogger(__name__)

_NAMES: dict[tuple[str, str], str] = {}  # (kind, earlier name) -> current name
_noticed: set[str] = set()


def add_earlier_name(kind: str, earlier: str, name: str) -> None:
    """Make an earlier name an alias of a current name of the same kind."""
    _NAMES[kind, earlier] = name


def current_name(kind: str, name: str) -> str:
    """Return the current name for a name that may be an earlier one."""
    fill()
    new = _NAMES.get((kind, name), name)
    if new != name:
        _notice(f"{kind} {name!r}", new)
    return new


def current_fields(owner: str, target: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields under their current names; a field given under both names keeps both.

    Args:
        owner: kind and name of the object, for the notice.
        target: the class that declares the fields.
        fields: values by field name.
    """
    if not dataclasses.is_dataclass(target):
        return dict(fields)
    names = {
        f.metadata["renamed_from"]: f.name
        for f in dataclasses.fields(target)
        if "renamed_from" in f.metadata and f.name not in fields
    }
    for earlier in fields.keys() & names.keys():
        _notice(f"the field {earlier!r} of {owner}", names[earlier])
    return {names.get(field, field): value for field, value in fields.items()}


def _notice(earlier: str, name: str) -> None:
    """Log the current name of an earlier one, once per earlier name."""
    if earlier not in _noticed:
        _noticed.add(earlier)
        _log.warning("%s is now called %r; the earlier name is still understood.", earlier, name)


def adopt_earlier_names(cls: type, names: Mapping[str, str]) -> None:
    """Add the current names of attributes that a subclass defines under earlier names, with a notice.

    For use in `__init_subclass__` of the base class.

    Args:
        cls: the new subclass.
        names: earlier name -> current name, of methods and attributes.
    """
    for earlier, name in names.items():
        if earlier in vars(cls) and name not in vars(cls):
            setattr(cls, name, vars(cls)[earlier])
            _notice(f"{cls.__name__}.{earlier}", name)
