"""Bounded caches of compiled functions with static arguments.

`jax.jit` keeps a program for every value of its static arguments, with all objects that these refer to, for as
long as the compiled function lives: forever, if it is a global of a module. In this module instead

    a record of hyperparameters   compares by value; the programs of the last few values are kept
    a plain function              compares by identity; its programs, with the arrays in them, are freed with it
"""

import threading
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import jax

_Owned = tuple[Any, Callable | None]  # the object whose lifetime a function shares, and its method


@jax.tree_util.register_static
@dataclass(frozen=True)
class Static:
    """A function as a pytree without leaves, compiled once per function object."""

    fn: Callable

    def __call__(self, *args: Any) -> Any:
        """Call the function."""
        return self.fn(*args)


def as_pytree(fn: Any) -> Any:
    """Return a callable pytree unchanged, and any other callable wrapped in `Static`."""
    leaf = jax.tree_util.all_leaves([fn])
    return Static(fn) if leaf and callable(fn) else fn


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Place:
    """Placeholder for plain function number `index` among the arguments of a program, which must not hold it."""

    index: int

    def __call__(self, *args: Any) -> Any:
        """Exist for pytrees that check whether their fields are callable; programs call the function itself."""
        raise AssertionError("a place is not called")


@dataclass(frozen=True)
class _Loan:
    """Weak reference to a plain function, or to a method of an object that compares by identity."""

    owner: weakref.ref
    method: Callable | None

    def __call__(self) -> Static:
        """Return the function."""
        owner: Any = self.owner()
        assert owner is not None, "a program runs only while its caller holds its functions"
        return Static(owner if self.method is None else MethodType(self.method, owner))


@dataclass
class _Family:
    """The programs of a set of plain functions, most recently used last, and weak references to the functions."""

    loans: tuple[_Loan, ...]
    programs: dict[Any, Any] = field(default_factory=dict)


def _split(fn: Callable) -> _Owned | None:
    """Return the object whose lifetime a function shares, and its method; None if it compares by value."""
    owner, method = fn, None
    if isinstance(fn, MethodType):
        owner, method = fn.__self__, fn.__func__
    kind: Any = type(owner)
    by_value = kind.__hash__ not in (object.__hash__, None)
    return None if by_value or not kind.__weakrefoffset__ else (owner, method)


def unshared(fn: Callable) -> Callable:
    """Return a function of another library without its `jit`, whose cache keeps every function passed to it.

    Call the result within a program, or within a `jit` that is freed with its caller.
    """
    return getattr(fn, "__wrapped__", fn)


class Programs:
    """`jax.jit` of a function whose first arguments are static, with a bounded cache.

    The other arguments are pytrees. Plain functions among them (`as_pytree`) are part of the program, which is
    compiled once per function object.

    Args:
        fn: a pure function; its `Programs` object is meant to be a global of a module.
        num_static: number of leading arguments that are static, and so hashable.
        keep: number of cached programs, those used last; there is one for each value of the static arguments and of
            the static parts of the others. Each takes about 1.3 MiB on a CPU.
        donate_argnums: arguments whose memory the result may reuse.
    """

    def __init__(
        self, fn: Callable, num_static: int, *, keep: int = 8, donate_argnums: Sequence[int] = ()
    ) -> None:
        self.fn, self.num_static, self.keep = fn, num_static, keep
        self._donated = [i - num_static for i in donate_argnums]
        self._families: dict[Any, _Family] = {}
        self._lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        """Call the compiled function."""
        program, rest = self._found(args)
        return program(*rest)

    def lower(self, *args: Any) -> Any:
        """Lower the function for these arguments, like `jax.jit`."""
        program, rest = self._found(args)
        return program.lower(*rest)

    def clear_cache(self) -> None:
        """Drop all compiled programs."""
        self._families.clear()

    def _cache_size(self) -> int:
        """Return the number of compiled programs, like `_cache_size` of `jax.jit`."""
        kept = [p for family in self._families.values() for p in family.programs.values()]
        return sum(program._cache_size() for program in kept)

    def _found(self, args: Sequence[Any]) -> tuple[Any, Any]:
        """Return the compiled function and its arguments."""
        static, rest = tuple(args[: self.num_static]), tuple(args[self.num_static :])
        leaves, tree = jax.tree.flatten(rest, is_leaf=lambda node: isinstance(node, Static))
        owned: list[_Owned] = []
        functions: dict[int, Any] = {}  # by position among the leaves
        for index, leaf in enumerate(leaves):
            if isinstance(leaf, Static):
                parts = _split(leaf.fn)
                owned += [] if parts is None else [parts]
                functions[index] = leaf if parts is None else _Place(len(owned) - 1)
        if functions:
            rest = tree.unflatten([functions.get(i, leaf) for i, leaf in enumerate(leaves)])
        key = static, tree, tuple(functions.items())
        family = self._family(owned)
        with self._lock:
            program = family.programs.pop(key, None) or self._program(static, family.loans)
            family.programs[key] = program
            while len(family.programs) > self.keep:
                del family.programs[next(iter(family.programs))]
        return program, rest

    def _family(self, owned: Sequence[_Owned]) -> _Family:
        """Return the programs of these functions; they are dropped when any of the functions is freed."""
        identity = tuple((id(owner), method) for owner, method in owned)
        family, families = self._families.get(identity), self._families
        if family is None:
            end = lambda reference: families.pop(identity, None)
            loans = [_Loan(weakref.ref(owner, end), method) for owner, method in owned]
            family = families.setdefault(identity, _Family(tuple(loans)))
        return family

    def _program(self, static: tuple[Any, ...], loans: tuple[_Loan, ...]) -> Any:
        fn = self.fn

        def run(*rest: Any) -> Any:
            is_place = lambda node: isinstance(node, _Place)
            restored = lambda leaf: loans[leaf.index]() if is_place(leaf) else leaf
            return fn(*static, *jax.tree.map(restored, rest, is_leaf=is_place))

        run.__name__ = run.__qualname__ = fn.__name__
        return jax.jit(run, donate_argnums=self._donated)
