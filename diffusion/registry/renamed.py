"""Earlier names of registered things and of their fields: they are still understood, with one line of notice.

A class says its earlier name where it is registered, `@register("time", "default", renamed_from="natural")`, and a
field in its metadata, `field(metadata={"renamed_from": "share"})`.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

from diffusion.registry.kinds import fill

_log = logging.getLogger(__name__)

_NAMES: dict[tuple[str, str], str] = {}  # (kind, earlier name) -> today's
_noticed: set[str] = set()


def add_earlier_name(kind: str, earlier: str, name: str) -> None:
    """Let a name stand for another of the same kind."""
    _NAMES[kind, earlier] = name


def current_name(kind: str, name: str) -> str:
    """Return today's name of a kind for what may be an earlier one."""
    fill()
    new = _NAMES.get((kind, name), name)
    if new != name:
        _notice(f"{kind} {name!r}", new)
    return new


def current_fields(owner: str, target: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields under the names that they have today; one that is given under both stays.

    Args:
        owner: kind and name, for the notice.
        target: the class that has the fields.
        fields: values by name.
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
    """Say once for each earlier name what it is called today."""
    if earlier not in _noticed:
        _noticed.add(earlier)
        _log.warning("%s is now called %r; the earlier name is still understood.", earlier, name)


def adopt_earlier_names(cls: type, names: Mapping[str, str]) -> None:
    """Give what a class defines under earlier names those of today; called by `__init_subclass__` of its base.

    Args:
        cls: a class that somebody has derived.
        names: of methods and attributes, earlier -> today's.
    """
    for earlier, name in names.items():
        if earlier in vars(cls) and name not in vars(cls):
            setattr(cls, name, vars(cls)[earlier])
            _notice(f"{cls.__name__}.{earlier}", name)
