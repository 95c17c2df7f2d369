"""Values that were typed on a command line, read as the field takes them.

Text stays text: where the field is a string, `2024_01`, `1e3` and `true` are paths, not numbers or truth values. The
annotation of the field decides; only where nothing is known of it, a word is read as the literal that it spells.
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
    """Return the number, truth value, tuple, list or dictionary that a text spells, or the text; never run code."""
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if text.lower().removeprefix("-") in ("nan", "inf"):
        return float(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text  # the last two: brackets or signs, thousands deep


def _members(annotation: Any) -> tuple[Any, ...]:
    union = isinstance(annotation, UnionType) or get_origin(annotation) is Union
    return get_args(annotation) if union else (annotation,)


def admits_text(annotation: Any) -> bool:
    """Say whether a field of this annotation may be a string."""
    return str in _members(annotation)


def _of_texts(member: Any) -> bool:
    return get_origin(member) in _SEQUENCES and get_args(member)[:1] == (str,)


def _texts(text: str) -> list[str]:
    """Return the elements of a tuple or a list as they were typed, without the quotes of strings."""
    elements = ast.parse(text.strip(), mode="eval").body.elts  # type: ignore[attr-defined] of a tuple or list
    quoted = lambda e: isinstance(e, ast.Constant) and isinstance(e.value, str)
    typed = lambda e: ast.get_source_segment(text.strip(), e) or ""
    return [e.value if quoted(e) else typed(e) for e in elements]


def _is_one_of(value: Any, members: Sequence[Any], text: str) -> bool:
    """Say whether a literal is a value of one of these types, which are not text alone."""
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
    """Return the value that a text means for a field.

    Args:
        text: as it was typed.
        annotation: of the field; None if nothing is known of it. Where it admits strings, the text itself is the
            value, unless it spells a value of another type that is admitted too: `true` for `bool | str`, `None`
            for `str | None`.
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
    """Return the annotation of a field of what a section names, or None if it is not known.

    Args:
        kind: of the registry.
        spec: a name, or a mapping with `name`.
        path: of the field; more than one word leads through fields that hold objects of a kind.
        may_import: says whether a name "module:attribute" may be imported.
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
    except Exception:  # an unknown name, a module that cannot be imported: building it says so
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
    """Return the parameters of a class or function; annotations that are written as strings are looked up."""
    try:
        return inspect.signature(target, eval_str=True).parameters
    except (NameError, TypeError, AttributeError, SyntaxError):
        return inspect.signature(target).parameters
