"""Names for things that a config selects.

One dictionary per kind; `build` binds strictly, so that a misspelt field is an error that lists what
is accepted. Code outside the package needs no registration: "module:attribute" is a name as well.
"""

import dataclasses
import difflib
import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import UnionType
from typing import Any, TypeVar

KINDS = (
    "process",
    "prior",
    "coupling",
    "prediction",
    "weight",
    "time",
    "grid",
    "sampler",
    "guidance",
    "operator",
    "scale",
    "network",
    "classifier",
    "classifier_loss",
    "optimizer",
    "schedule",
    "dataset",
    "condition",
    "metric",
    "features",
    "augmentation",
    "parallel",
)

_REGISTRY: dict[str, dict[str, Callable]] = {kind: {} for kind in KINDS}

T = TypeVar("T", bound=Callable)


def nearest(name: str, known: Any, count: int = 3) -> str:
    """Say which of the known names resemble this one, as the end of an error message."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def _known(kind: str) -> dict[str, Callable]:
    if kind not in _REGISTRY:
        raise KeyError(f"Unknown kind {kind!r}.{nearest(kind, KINDS)} Kinds: {list(KINDS)}.")
    return _REGISTRY[kind]


def register(kind: str, name: str) -> Callable[[T], T]:
    """Give a class or function a name of this kind; refuse a name that is taken.

    Example:
        >>> from diffusion import register
        >>> @register("weight", "my_weight")
        ... def my_weight(c, out):
        ...     return out
    """

    def decorate(target: T) -> T:
        known = _known(kind)
        holder = known.setdefault(name, target)
        same = (holder.__module__, holder.__qualname__) == (target.__module__, target.__qualname__)
        if not same:
            raise ValueError(
                f"{kind} {name!r} is already registered to "
                f"{holder.__module__}.{holder.__qualname__}; choose another name."
            )
        known[name] = target  # a module that is imported again replaces its own entry
        return target

    return decorate


def registered(kind: str) -> tuple[str, ...]:
    """Return the sorted names of a kind."""
    return tuple(sorted(_known(kind)))


def load(path: str) -> Any:
    """Import "module:attribute"."""
    module, _, attribute = path.partition(":")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # the module was found, something that it imports was not
        raise KeyError(
            f"No module {module!r} for {path!r}. It must be importable: lie in the current folder, "
            "be installed, or be on PYTHONPATH."
        ) from None
    if not hasattr(found, attribute):
        names = [n for n in vars(found) if not n.startswith("_")]
        raise KeyError(f"Module {module!r} has no {attribute!r}.{nearest(attribute, names)}")
    return getattr(found, attribute)


def lookup(kind: str, name: str) -> Callable:
    """Return what is registered under a name, or what "module:attribute" points to."""
    known = _known(kind)
    if ":" in name:
        return load(name)
    if name in known:
        return known[name]
    raise KeyError(
        f"Unknown {kind} {name!r}.{nearest(name, known)} Registered: {', '.join(sorted(known))}. "
        "For code outside the package write 'module:attribute'."
    )


def _hashable(value: Any) -> Any:
    """Lists become tuples: a dataclass that holds a list cannot be a static argument of jit."""
    return tuple(_hashable(v) for v in value) if isinstance(value, list | tuple) else value


class FieldError(TypeError):
    """A field that nothing accepts.

    Attributes:
        owner: what was to be built, kind and name.
        field: the field.
        accepted: the fields that there are.
    """

    def __init__(self, owner: str, field: str, accepted: Iterable[str]):
        self.owner, self.field, self.accepted = owner, field, tuple(accepted)
        super().__init__(
            f"{owner} has no field {field!r}.{nearest(field, (*self.accepted, 'name'))} "
            f"It accepts: {', '.join(self.accepted) or 'nothing'}."
        )


def check_type(owner: str, field: str, value: Any, default: Any, annotation: Any = None) -> None:
    """Raise TypeError if a plain value is not of its default's type: number, text or truth value.

    Other values, such as None and lists, are refused where the annotation is exactly one of these types.
    """
    if isinstance(annotation, UnionType) and type(value) in annotation.__args__:
        return  # such as bool | str
    exactly = annotation in (bool, int, float, str, "bool", "int", "float", "str")
    plain = exactly or isinstance(value, bool | int | float | str)
    expected = {
        bool: (bool,), int: (int,), float: (int, float), str: (str,),
    }.get(type(default))  # fmt: skip
    if expected is None or not plain:
        return
    fits = isinstance(value, expected) and isinstance(value, bool) == isinstance(default, bool)
    if not fits:
        raise TypeError(
            f"{owner}: `{field}` must be {expected[-1].__name__}, like its default {default!r}; "
            f"got {value!r} ({type(value).__name__})."
        )


def _nested(target: Any) -> dict[str, str]:
    """Return the kind of each field that holds an object of a kind: metadata={"kind": ...}."""
    if not dataclasses.is_dataclass(target):
        return {}
    return {f.name: f.metadata["kind"] for f in dataclasses.fields(target) if "kind" in f.metadata}


def spec_of(kind: str, built: Any) -> Any:
    """Return the mapping that an object of a kind was or could have been built from."""
    if not dataclasses.is_dataclass(built) or isinstance(built, type):
        return built
    names = [name for name, target in _known(kind).items() if target is type(built)]
    name = names[0] if names else f"{type(built).__module__}:{type(built).__qualname__}"
    kinds = _nested(built)
    values = {f.name: getattr(built, f.name) for f in dataclasses.fields(built)}
    return {"name": name} | {
        k: spec_of(kinds[k], v) if k in kinds else v
        for k, v in values.items()
        if k in kinds or not callable(v)
    }


def resolve(kind: str, spec: Any, **extra: Any) -> dict[str, Any]:
    """Return the mapping that `build` would build from, with every default written out."""
    fields = {"name": spec} if isinstance(spec, str) else dict(spec)
    target = lookup(kind, fields["name"])
    parameters, kinds = inspect.signature(target).parameters, _nested(target)
    defaults = {k: p.default for k, p in parameters.items() if p.default is not p.empty}
    values = fields | {
        k: extra.get(k, v) for k, v in defaults.items() if k not in fields and not callable(v)
    }
    for field, inner in kinds.items():
        value = values.get(field, defaults.get(field))
        plain = isinstance(value, str | Mapping)
        values[field] = resolve(inner, value) if plain else spec_of(inner, value)
    return values


def build(kind: str, spec: Any, **extra: Any) -> Any:
    """Build from "name" or from a mapping with "name"; every other entry must be a parameter.

    A field with metadata={"kind": ...} holds an object of that kind, and is built in the same way.

    Args:
        kind: one of the kinds of the registry.
        spec: a name, "module:attribute", a mapping with the entry "name", or an object that is
            already built, which is returned as it is.
        **extra: parameters that the caller knows, handed over when the target accepts them.

    Raises:
        KeyError: the name is unknown.
        TypeError: a field is unknown or missing; the message lists the accepted ones.
    """
    if not isinstance(spec, str | Mapping):
        return spec
    fields = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "name" not in fields:
        raise KeyError(f"A {kind} needs an entry 'name'; got {sorted(fields)}.")
    name = fields.pop("name")
    target = lookup(kind, name)
    parameters = inspect.signature(target).parameters
    kinds = _nested(target)
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
    return target(**fields)
