"""Conversion of command-line text to the type of the field that it sets.

For a field that is a string, text stays text: `2024_01`, `1e3` and `true` may be paths, and are not read as numbers
or truth values. The annotation of the field decides; only if it is unknown is text read as the literal it spells.
"""

import ast
import inspect
from collections.abc import Callable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from diffusion.registry.registry import lookup, nested_kinds

_WORDS = {"true": True, "false": False, "none": None}
_SEQUENCES = (tuple, list, Sequence)


def literal(text: str) -> Any:
    """Return the number, truth value, tuple, list or dictionary that a text spells, else the text; runs no code."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if text.lower().removeprefix("-") in ("nan", "inf"):
        return float(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text  # MemoryError, RecursionError: thousands of nested brackets or signs


def _members(annotation: Any) -> tuple[Any, ...]:
    union = isinstance(annotation, UnionType) or get_origin(annotation) is Union
    return get_args(annotation) if union else (annotation,)


def admits_text(annotation: Any) -> bool:
    """Return whether a field of this annotation may be a string."""
    return str in _members(annotation)


def _of_texts(member: Any) -> bool:
    return get_origin(member) in _SEQUENCES and get_args(member)[:1] == (str,)


def _texts(text: str) -> list[str]:
    """Return the elements of a tuple or list as typed, with the quotes of strings removed."""
    elements = ast.parse(text.strip(), mode="eval").body.elts  # type: ignore[attr-defined] of a tuple or list
    quoted = lambda e: isinstance(e, ast.Constant) and isinstance(e.value, str)
    typed = lambda e: ast.get_source_segment(text.strip(), e) or ""
    return [e.value if quoted(e) else typed(e) for e in elements]


def _is_one_of(value: Any, members: Sequence[Any], text: str) -> bool:
    """Return whether a literal is a value of one of these types, at least one of which is not text."""
    if value is None:
        return NoneType in members and (text == "None" or bool in members)
    if isinstance(value, bool):
        return bool in members
    if isinstance(value, int | float):
        return float in members or (int in members and isinstance(value, int))
    if isinstance(value, tuple | list):
        return any((get_origin(m) or m) in _SEQUENCES for m in members)
    return type(value) in members


def read(text: str, annotation: Any = None) -> Any:
    """Convert text to a value of a field.

    Args:
        text: the text as typed.
        annotation: the annotation of the field, or None if it is unknown. If it admits strings, the text itself is
            the value, unless it spells a value of another admitted type: `true` for `bool | str`, `None` for
            `str | None`.
    """
    value, members = literal(text), _members(annotation)
    if any(map(_of_texts, members)):
        if isinstance(value, tuple | list):
            return _texts(text)
        return text if str in members else [text]
    if str in members and not _is_one_of(value, members, text):
        return text
    return value


def field_type(
    kind: str, spec: Any, path: Sequence[str], may_import: Callable[[str], bool] = lambda name: True
) -> Any:
    """Return the annotation of a field of the object that a spec names, or None if it is unknown.

    Args:
        kind: the kind of the spec.
        spec: a name, or a mapping with `name`.
        path: names that lead to the field, through fields that hold objects of a kind.
        may_import: returns whether a name "module:attribute" may be imported.
    """
    fields = {"name": spec} if isinstance(spec, str) else spec
    if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str) or not path:
        return None
    if path[0] == "name":
        return str
    if ":" in fields["name"] and not may_import(fields["name"]):
        return None
    try:
        target = lookup(kind, fields["name"])
        parameters = parameters_of(target)
    except Exception:  # an unknown name or a module that cannot be imported: `build` reports it
        return None
    if len(path) > 1:
        inner = nested_kinds(target).get(path[0])
        return inner and field_type(inner, fields.get(path[0]), path[1:], may_import)
    if path[0] not in parameters:
        return None
    found = parameters[path[0]]
    if found.annotation is not found.empty:
        return found.annotation
    return type(found.default) if isinstance(found.default, str) else None


def parameters_of(target: Any) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a class or function, with annotations that are strings evaluated."""
    try:
        return inspect.signature(target, eval_str=True).parameters
    except (NameError, TypeError, AttributeError, SyntaxError):
        return inspect.signature(target).parameters
