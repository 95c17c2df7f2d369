"""Config overrides on the command line: `--config.section.field=value`.

`--config.process.name=edm` replaces the class *and discards the other fields that the file sets for the old class*;
`--config.process.t_max=50` sets a field, also one that the file does not mention.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from diffusion.config.sections import (
    KEPT,
    SHAPES,
    UNNAMED,
    ConfigError,
    check_section,
    check_shape,
    kind_of,
    plain,
)
from diffusion.registry import check_type
from diffusion.registry.typed import admits_text, field_type, read


def apply_overrides(
    config: Any, overrides: Iterable[tuple[str, str]], *, imports: bool = False
) -> dict[str, Any]:
    """Return a plain config with dotted overrides applied, in order.

    If a field is a string, by its annotation or by its current value, the text is taken literally.

    Args:
        config: sections by name, a mapping or a ConfigDict.
        overrides: pairs such as ("process.t_max", "50.0").
        imports: whether classes outside the package that `config` names may be imported for their annotations;
            classes that the overrides name are always imported.

    Raises:
        ConfigError: a section does not exist or is not a section, or a value has another type than the old one.
    """
    new: dict[str, Any] = plain(config)
    overrides = list(overrides)
    _swap_names(new, overrides)  # first: replacing a class discards the fields of the old one
    typed = {text for _, text in overrides}
    for path, text in overrides:
        section, *rest = path.split(".")
        check_section(section, f" (--config.{path})")
        keys = [section, *rest]
        annotation = _annotation(new, keys, lambda name: imports or name in typed)
        try:
            _set(new, keys, text, annotation, path)
        except TypeError as error:
            raise ConfigError(str(error).removeprefix(": ")) from None
    for section, default in SHAPES.items():
        given = new.get(section, {})
        if not isinstance(given, Mapping):  # a mapping may still get its name from the defaults
            check_shape(section, given, default)
    return new


def _swap_names(config: dict[str, Any], overrides: Iterable[tuple[str, str]]) -> None:
    """Set the names that overrides give to sections, and discard the fields of the replaced classes."""
    for path, text in overrides:
        section, _, field = path.partition(".")
        if field not in ("", "name") or not _is_named(section):
            continue
        given = config.get(section)
        old = given if isinstance(given, dict) else {"name": given}
        if old.get("name") != text:
            kept = {k: old[k] for k in KEPT.get(section, ()) if k in old}
            config[section] = {"name": text, **kept}


def _set(config: dict, keys: list[str], text: str, annotation: Any, path: str) -> None:
    *parents, last = keys
    for key in parents:
        if isinstance(config.get(key), str):
            config[key] = {"name": config[key]}  # process="vp" may be written for dict(name="vp")
        config = config.setdefault(key, {})
        if not isinstance(config, dict):
            raise ConfigError(f"config.{path}: {key!r} is a value, not a section.")
    old = config.get(last)
    value = read(text, str if annotation is None and isinstance(old, str) else annotation)
    if isinstance(old, dict) and isinstance(value, str) and path not in UNNAMED:
        config[last]["name"] = value  # --config.sampler=ddim
        return
    config[last] = _convert(path, value, old, annotation)


def _is_named(section: str) -> bool:
    """Return whether a section names a class."""
    return isinstance(SHAPES.get(section), dict) and section not in UNNAMED


def _annotation(config: Mapping, keys: list[str], may_import: Callable[[str], bool]) -> Any:
    """Return the annotation of the field at a path, or None if it is not known."""
    section, *path = keys
    if not path:
        return dict | str if _is_named(section) else {"task": str}.get(section)
    if section in UNNAMED:
        known = {f.name: f.type for f in dataclasses.fields(UNNAMED[section])}
        return known.get(path[0]) if len(path) == 1 else None
    kind, spec = kind_of(config, section), config.get(section)
    if section == "data" and path[0] == "condition" and isinstance(spec, Mapping):
        kind, spec, path = "condition", spec.get("condition"), path[1:]
    return field_type(kind, spec, path, may_import)


def _convert(path: str, value: Any, old: Any, annotation: Any) -> Any:
    """Convert a new value to the type of the annotation or, without one, of the old value; raise if it does not fit."""
    if isinstance(old, list) and isinstance(value, str | int | float):
        value = [value]
    if annotation is None or not (admits_text(annotation) or isinstance(old, str)):
        check_type("", f"config.{path}", value, old, annotation)
    return plain(value)
