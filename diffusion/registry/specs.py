"""Specs, the mappings from which objects are built: complete them, recover them from objects, and search them."""

import dataclasses
import inspect
import sys
from collections.abc import Mapping
from typing import Any

from diffusion.registry.kinds import KINDS
from diffusion.registry.registry import known_names, lookup, nested_kinds
from diffusion.registry.renamed import current_fields, current_name


def resolve(kind: str, spec: Any, **extra: Any) -> dict[str, Any]:
    """Return the mapping from which `build` would build, with every default written out."""
    fields = {"name": spec} if isinstance(spec, str) else dict(spec)
    name = current_name(kind, fields["name"])
    target = lookup(kind, name)
    parameters, kinds = inspect.signature(target).parameters, nested_kinds(target)
    fields = current_fields(f"{kind} {name!r}", target, fields) | {"name": name}
    defaults = {k: p.default for k, p in parameters.items() if p.default is not p.empty}
    values = fields | {
        k: extra.get(k, v) for k, v in defaults.items() if k not in fields and not callable(v)
    }
    for field, inner in kinds.items():
        value = values.get(field, defaults.get(field))
        plain = isinstance(value, str | Mapping)
        values[field] = resolve(inner, value) if plain else spec_of(inner, value)
    return values


def spec_of(kind: str, built: Any) -> Any:
    """Return a mapping from which an object of a kind could have been built."""
    if not dataclasses.is_dataclass(built) or isinstance(built, type):
        return built
    names = [name for name, target in known_names(kind).items() if target is type(built)]
    name = names[0] if names else f"{type(built).__module__}:{type(built).__qualname__}"
    kinds = nested_kinds(built)
    values = {f.name: getattr(built, f.name) for f in dataclasses.fields(built)}
    return {"name": name} | {
        k: spec_of(kinds[k], v) if k in kinds else v
        for k, v in values.items()
        if k in kinds or not callable(v)
    }


def current(kind: str, spec: Any) -> Any:
    """Return a spec with current names in place of earlier ones, and log a notice for each.

    Nothing outside the package is imported; unknown names are kept.
    """
    if isinstance(spec, str):
        return current_name(kind, spec)
    if not isinstance(spec, Mapping) or not isinstance(spec.get("name"), str):
        return spec
    name = current_name(kind, spec["name"])
    target = _loaded(kind, name)
    kinds = nested_kinds(target)
    fields = current_fields(f"{kind} {name!r}", target, spec) | {"name": name}
    return {k: current(kinds[k], v) if k in kinds else v for k, v in fields.items()}


def marked(kind: str, spec: Any, mark: str) -> dict[str, Any]:
    """Return the metadata entry `mark` of each field that has one, by dotted path.

    Fields of a nested spec have the name of the field that holds it as a prefix. Nothing is imported: targets that
    are not registered, or not loaded, have no marks.

        where       True: the field states a location, which does not change the result
        formerly    the value that a stored spec without this field implies: the default at that time

    Args:
        kind: the kind of the spec.
        spec: a name, or a mapping with the entry "name".
        mark: "where" or "formerly".
    """
    fields = {"name": spec} if isinstance(spec, str) else spec
    target = _loaded(kind, fields.get("name")) if isinstance(fields, Mapping) else None
    if not dataclasses.is_dataclass(target):
        return {}
    marks = {f.name: f.metadata[mark] for f in dataclasses.fields(target) if mark in f.metadata}
    for field, inner in nested_kinds(target).items():
        deeper = marked(inner, fields.get(field), mark)
        marks |= {f"{field}.{path}": value for path, value in deeper.items()}
    return marks


def _loaded(kind: str, name: Any) -> Any:
    """Return the target of a name if it is available without an import, or None."""
    module, colon, attribute = str(name).partition(":")
    if colon:
        return getattr(sys.modules.get(module), attribute, None)
    return known_names(kind).get(str(name)) if kind in KINDS else None
