"""Registry of the objects that a config selects by name.

There is one dictionary per kind. `build` binds strictly: a misspelled field is an error that lists the
accepted fields. Code outside the package needs no registration: "module:attribute" is a name as well, if
it refers to a class or function that makes objects of the kind; others are refused before they are called.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType, ModuleType, UnionType
from typing import Any, TypeVar

from diffusion.registry.kinds import KINDS, class_of, fill
from diffusion.registry.names import load, nearest
from diffusion.registry.renamed import add_earlier_name, current_fields, current_name

_REGISTRY: dict[str, dict[str, Callable]] = {kind: {} for kind in KINDS}

T = TypeVar("T", bound=Callable)


def known_names(kind: str, *, built_in: bool = True) -> dict[str, Callable]:
    """Return the registered names of a kind with their targets; by default the built-in ones are imported first."""
    if kind not in _REGISTRY:
        raise KeyError(f"Unknown kind {kind!r}.{nearest(kind, KINDS)} Kinds: {list(KINDS)}.")
    if built_in:
        fill()
    return _REGISTRY[kind]


def register(kind: str, name: str, *, renamed_from: str = "") -> Callable[[T], T]:
    """Register a class or function under a name of this kind; refuse a name that is taken.

    Args:
        kind: one of the kinds of the registry.
        name: the name to use in a config.
        renamed_from: an earlier name, which configs may still use.

    Example:
        >>> from diffusion import register
        >>> @register("weight", "my_weight")
        ... def my_weight(c, out):
        ...     return out
    """

    def decorate(target: T) -> T:
        package = __name__.partition(".")[0]
        known = known_names(kind, built_in=target.__module__.partition(".")[0] != package)
        holder = known.setdefault(name, target)
        same = (holder.__module__, holder.__qualname__) == (target.__module__, target.__qualname__)
        if not same:
            raise ValueError(
                f"{kind} {name!r} is registered already, to {holder.__module__}.{holder.__qualname__}; choose another."
            )
        known[name] = target  # a module that is imported again may replace its own entry
        if renamed_from:
            add_earlier_name(kind, renamed_from, name)
        return target

    return decorate


def registered(kind: str) -> tuple[str, ...]:
    """Return the sorted registered names of a kind."""
    return tuple(sorted(known_names(kind)))


def is_of(kind: str, made: type) -> bool:
    """Return whether objects of this class are of a kind."""
    return issubclass(made, class_of(kind))


def _makes(kind: str, target: Any) -> bool:
    """Return whether a target makes objects of a kind, as far as this is known before a call.

    A class qualifies if its objects are of the kind. A function qualifies by its return annotation; without one,
    it qualifies if its module uses this package.
    """
    if isinstance(target, functools.partial):
        return _makes(kind, target.func)
    if isinstance(target, type):
        return is_of(kind, target)
    target = inspect.unwrap(target) if callable(target) else target
    if not isinstance(target, FunctionType):
        return False
    try:
        returned = inspect.signature(target, eval_str=True).return_annotation
    except (NameError, TypeError, ValueError, SyntaxError):
        returned = None
    if isinstance(returned, type) and returned not in (object, Any, inspect.Signature.empty):
        return is_of(kind, returned)
    package = __name__.partition(".")[0]
    home = lambda x: (
        x.__name__ if isinstance(x, ModuleType)
        else x.__module__ if isinstance(x, type | FunctionType) else type(x).__module__
    )  # fmt: skip
    homes = [str(home(x)).partition(".")[0] for x in list(target.__globals__.values())]
    return package in homes


def _require_kind(kind: str, name: str, fits: bool) -> None:
    if fits:
        return
    cls = class_of(kind)
    raise TypeError(
        f"{name!r} makes no {kind}: that is a class derived from {cls.__module__}.{cls.__qualname__}, or a "
        f"function that returns its objects and says so, `-> {cls.__name__}`."
    )


def lookup(kind: str, name: str) -> Callable:
    """Return the class or function registered under a name, or the one that "module:attribute" refers to.

    Raises:
        KeyError: the name is unknown.
        TypeError: the target of "module:attribute" does not make objects of this kind.
    """
    known = known_names(kind)
    if ":" in name:
        target = load(name)
        _require_kind(kind, name, _makes(kind, target))
        return target
    if name in known:
        return known[name]
    if (new := current_name(kind, name)) in known:
        return known[new]
    raise KeyError(
        f"Unknown {kind} {name!r}.{nearest(name, known)} Registered: {', '.join(sorted(known))}. "
        "For code outside the package write 'module:attribute'."
    )


def _hashable(value: Any) -> Any:
    """Convert lists to tuples: a dataclass that holds a list cannot be a static argument of jit."""
    return tuple(_hashable(v) for v in value) if isinstance(value, list | tuple) else value


class FieldError(TypeError):
    """Error for a field that its owner does not accept.

    Attributes:
        owner: kind and name of the object that was to be built.
        field: the unknown field.
        accepted: the accepted fields.
    """

    def __init__(self, owner: str, field: str, accepted: Iterable[str]):
        self.owner, self.field, self.accepted = owner, field, tuple(accepted)
        super().__init__(
            f"{owner} has no field {field!r}.{nearest(field, (*self.accepted, 'name'))} "
            f"It accepts: {', '.join(self.accepted) or 'nothing'}."
        )


def check_type(owner: str, field: str, value: Any, default: Any, annotation: Any = None) -> None:
    """Raise TypeError if a number, string or truth value is not of the type of the field's default.

    Other values, such as None and lists, are refused only if the annotation is exactly one of these types.
    """
    if isinstance(annotation, UnionType) and type(value) in annotation.__args__:
        return  # such as bool | str
    exactly = annotation in (bool, int, float, str, "bool", "int", "float", "str")
    plain = exactly or isinstance(value, bool | int | float | str)
    missing = default is inspect.Parameter.empty
    wanted = annotation if missing and isinstance(annotation, type) else type(default)
    expected = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}.get(wanted)
    if expected is None or not plain:
        return
    fits = isinstance(value, expected) and isinstance(value, bool) == (wanted is bool)
    if not fits:
        like = "" if missing else f", like its default {default!r}"
        raise TypeError(
            f"{owner}: `{field}` must be {expected[-1].__name__}{like}; got {value!r} ({type(value).__name__})."
        )


def nested_kinds(target: Any) -> dict[str, str]:
    """Return field -> kind for the fields that hold an object of a kind: metadata={"kind": ...}."""
    if not dataclasses.is_dataclass(target):
        return {}
    return {f.name: f.metadata["kind"] for f in dataclasses.fields(target) if "kind" in f.metadata}


def _not_plain(kind: str, built: Any) -> Any:
    """Return an object that is already built; refuse a plain value that cannot be an object of the kind."""
    number = isinstance(built, bool | int | float)
    # a number is a valid scale, constant in t
    if (number and kind != "scale") or isinstance(built, list | tuple):
        raise TypeError(f"a {kind} is a name, or a mapping with an entry `name`; got {built!r}.")
    return built


def build(kind: str, spec: Any, **extra: Any) -> Any:
    """Build an object from a name, or from a mapping with the entry "name" and parameters.

    A field with metadata={"kind": ...} holds an object of that kind, and is built in the same way.

    Args:
        kind: one of the kinds of the registry.
        spec: a name, "module:attribute", a mapping with the entry "name" whose other entries must be
            parameters, or an object that is already built, which is returned unchanged.
        **extra: parameters supplied by the caller, passed on if the target accepts them.

    Raises:
        KeyError: the name is unknown.
        TypeError: a field is unknown or missing (the message lists the accepted ones), or `spec` is a number or list.
    """
    if not isinstance(spec, str | Mapping):
        return _not_plain(kind, spec)
    fields = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "name" not in fields:
        raise KeyError(f"A {kind} needs an entry 'name'; got {sorted(fields)}.")
    name = current_name(kind, fields.pop("name"))
    target = lookup(kind, name)
    parameters = inspect.signature(target).parameters
    kinds = nested_kinds(target)
    fields = current_fields(f"{kind} {name!r}", target, fields)
    fields = {k: build(kinds[k], v) if k in kinds else _hashable(v) for k, v in fields.items()}
    fields |= {k: v for k, v in extra.items() if k in parameters and k not in fields}
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [] if open_ended else [k for k in fields if k not in parameters]
    if unknown:
        raise FieldError(f"{kind} {name!r}", unknown[0], parameters)
    for field, value in fields.items():
        if field in parameters:
            known = parameters[field]
            check_type(f"{kind} {name!r}", field, value, known.default, known.annotation)
    try:
        inspect.signature(target).bind(**fields)
    except TypeError as error:
        raise TypeError(f"{kind} {name!r}: {error}. It accepts: {', '.join(parameters)}.") from None
    built = target(**fields)
    if ":" in name:
        _require_kind(kind, name, is_of(kind, type(built)))
    return built
