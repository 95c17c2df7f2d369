"""Names as written by users: suggestions for misspelled ones, and "module:attribute" for code outside the package.

User modules may be in the current folder. This folder is searched last, and only while a module is loaded that
exists nowhere else, so a file there never shadows an installed package of the same name.
"""

import contextlib
import difflib
import importlib
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from typing import Any

_OUTSIDE = re.compile(r"[\w-]+(?:\.[\w-]+)*:[^\W0-9]\w*")
# brackets separate words, since a metric holds names in brackets: frechet[mine:Features]
_WORDS = re.compile(r"[^\s\[\],=()'\"]+")


def nearest(name: str, known: Any, count: int = 3) -> str:
    """Return a suggestion of known names that resemble this one, to end an error message; "" if none does."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def outside_in(text: str) -> list[str]:
    """Return every "module:attribute" in a text, that is, the names that `load` would import."""
    return [word for word in _WORDS.findall(text) if _OUTSIDE.fullmatch(word)]


@contextlib.contextmanager
def _searching(outermost: str) -> Iterator[importlib.machinery.ModuleSpec | None]:
    """Yield the import spec of a module, and keep the search path extended in the same manner within the block.

    The current folder is searched last, and only if the module exists nowhere else.
    """
    before = list(sys.path)
    try:
        here = os.getcwd()
    except FileNotFoundError:  # the current folder was deleted
        here = ""
    searched = [p for p in before if os.path.abspath(p) != here] if here else before
    sys.path[:] = searched
    try:
        spec = _found(outermost)
        # not found, or only a namespace package: folders without an __init__.py
        if here and (spec is None or not spec.has_location):
            searched = [*searched, here]
            sys.path[:] = searched
            importlib.invalidate_caches()  # the file may be new
            spec = _found(outermost)
        yield spec
    finally:  # keep the entries that the imported modules added themselves
        sys.path[:] = before + [p for p in sys.path if p not in searched]


def _found(outermost: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(outermost)
    except (ImportError, ValueError):  # a module without a spec, such as __main__
        return None


def place_of(path: str) -> str:
    """Return the file or folders of the top-level module of "module:attribute", without importing it.

    Returns:
        Absolute paths with links resolved, joined as in PATH; "" if the module does not exist or is built in.
    """
    with _searching(path.partition(":")[0].partition(".")[0]) as spec:
        if spec is None:
            return ""
        folders = list(spec.submodule_search_locations or [])
        found = [spec.origin] if spec.has_location and spec.origin else folders
        return os.pathsep.join(map(os.path.realpath, found))


def load(path: Any) -> Any:
    """Import "module:attribute"; an object that is not a string is returned unchanged.

    Raises:
        KeyError: the text has another form, the module or attribute does not exist, or the module belongs to
            Python's standard library.
    """
    if not isinstance(path, str):
        return path
    if not _OUTSIDE.fullmatch(path):
        raise KeyError(f"{path!r} is no name of code; write 'module:attribute'.")
    module, _, attribute = path.partition(":")
    outermost = module.partition(".")[0]
    if outermost in sys.stdlib_module_names:
        raise KeyError(
            f"{path!r} belongs to Python's own library: take functions of jax.numpy, or rename a file of your own."
        )
    try:
        with _searching(outermost):
            found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # the module exists, but one of its own imports does not
        raise KeyError(
            f"No module {module!r} for {path!r}: it must be installed, on PYTHONPATH, or in the current folder."
        ) from None
    if not hasattr(found, attribute):
        names = [n for n in vars(found) if not n.startswith("_")]
        raise KeyError(f"Module {module!r} has no {attribute!r}.{nearest(attribute, names)}")
    return getattr(found, attribute)
