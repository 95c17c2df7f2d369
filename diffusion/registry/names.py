"""Names that people write: which known ones are near, and "module:attribute" for code outside the package.

A module of one's own may lie in the current folder. That folder is searched last, and only while such a name is
loaded that nothing else holds: a file in it that is called like an installed package never stands in for it.
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
_WORDS = re.compile(
    r"[^\s\[\],=()'\"]+"
)  # a metric holds names in brackets: frechet[mine:Features]


def nearest(name: str, known: Any, count: int = 3) -> str:
    """Say which of the known names resemble this one, as the end of an error message."""
    near = difflib.get_close_matches(str(name), [str(k) for k in known], n=count, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def outside_in(text: str) -> list[str]:
    """Return every "module:attribute" in a text: what `load` would import."""
    return [word for word in _WORDS.findall(text) if _OUTSIDE.fullmatch(word)]


@contextlib.contextmanager
def _searching(outermost: str) -> Iterator[importlib.machinery.ModuleSpec | None]:
    """Yield where a module would come from, and search for others likewise while the block runs.

    The current folder is searched if nothing else holds the module, and then last.
    """
    before = list(sys.path)
    try:
        here = os.getcwd()
    except FileNotFoundError:  # it was deleted
        here = ""
    searched = [p for p in before if os.path.abspath(p) != here] if here else before
    sys.path[:] = searched
    try:
        spec = _found(outermost)
        if here and (
            spec is None or not spec.has_location
        ):  # none, or folders without an __init__.py
            searched = [*searched, here]
            sys.path[:] = searched
            importlib.invalidate_caches()  # it may have been written just now
            spec = _found(outermost)
        yield spec
    finally:  # what the modules themselves have added stays
        sys.path[:] = before + [p for p in sys.path if p not in searched]


def _found(outermost: str) -> importlib.machinery.ModuleSpec | None:
    try:
        return importlib.util.find_spec(outermost)
    except (ImportError, ValueError):  # a module without a spec, such as __main__
        return None


def place_of(path: str) -> str:
    """Return the file of the outermost module of "module:attribute", or its folders; nothing is imported.

    Returns:
        Absolute paths without links, joined as in PATH; "" if there is no such module, or it is built in.
    """
    with _searching(path.partition(":")[0].partition(".")[0]) as spec:
        if spec is None:
            return ""
        folders = list(spec.submodule_search_locations or [])
        found = [spec.origin] if spec.has_location and spec.origin else folders
        return os.pathsep.join(map(os.path.realpath, found))


def load(path: Any) -> Any:
    """Import "module:attribute"; an object that is no text is returned as it is.

    Raises:
        KeyError: it is written otherwise, or there is none; Python's own library has nothing to offer here.
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
            raise  # the module was found, something that it imports was not
        raise KeyError(
            f"No module {module!r} for {path!r}: it must be installed, on PYTHONPATH, or in the current folder."
        ) from None
    if not hasattr(found, attribute):
        names = [n for n in vars(found) if not n.startswith("_")]
        raise KeyError(f"Module {module!r} has no {attribute!r}.{nearest(attribute, names)}")
    return getattr(found, attribute)
