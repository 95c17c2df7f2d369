"""Earlier names of registered things and of their fields: they are still understood, with one line of notice.

A class says its earlier name where it is registered, `@register("time", "default", renamed_from="natural")`, and a
field in its metadata, `field(metadata={"renamed_from": "share"})`.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

_log = logging.getLogger(__name__)

_NAMES: dict[tuple[str, str], str] = {}  # (kind, earlier name) -> today's
_noticed: set[str] = set()


def add_earlier_name(kind: str, earlier: str, name: str) -> None:
    """Let a name stand for another of the same kind."""
    _NAMES[kind, earlier] = name


def current_name(kind: str, name: str) -> str:
    """Return today's name of a kind for what may be an earlier one."""
    return _NAMES.get((kind, name), name)


def current_fields(target: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields under the names that the parameters of a class have today; what is given twice stays."""
    if not dataclasses.is_dataclass(target):
        return dict(fields)
    names = {
        f.metadata["renamed_from"]: f.name
        for f in dataclasses.fields(target)
        if "renamed_from" in f.metadata and f.name not in fields
    }
    return {names.get(field, field): value for field, value in fields.items()}


def notice(owner: str, earlier: str, name: str) -> None:
    """Say once for each earlier name what it is called today."""
    line = f"{owner} {earlier!r} is now called {name!r}; the earlier name is still understood."
    if line not in _noticed:
        _noticed.add(line)
        _log.warning(line)
