"""Folders that belong to the user who runs a program, and to nobody else.

    $XDG_CACHE_HOME/demolish/compiled    else ~/.cache/demolish/compiled: compiled programs, which are code
    $XDG_DATA_HOME/demolish/own_code     else ~/.local/share/demolish/own_code: see `diffusion.run.trust`

What lies in them is believed. So they are made with mode 0700, and one that others own or may write to is not used.
"""

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

_HOMES = {"cache": ("XDG_CACHE_HOME", ".cache"), "data": ("XDG_DATA_HOME", ".local/share")}


def user_folder(kind: str, name: str) -> Path:
    """Return a folder of the user's own, made if need be.

    Args:
        kind: "cache" for what can be made again, "data" for what cannot.
        name: of the folder below `demolish`.

    Raises:
        OSError: there is no place for it, it cannot be written to, or it is not the user's alone.
    """
    path = _home(kind) / "demolish" / name
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(errno.ENOTDIR, "is no folder", str(path))
    if hasattr(os, "geteuid") and found.st_uid != os.geteuid():
        raise OSError(errno.EPERM, "belongs to another user", str(path))
    if found.st_mode & 0o077:
        raise OSError(errno.EPERM, "is open to other users; its mode must be 0700", str(path))
    with tempfile.TemporaryFile(dir=path):  # asking for permission is not enough for root
        pass
    return path


def _home(kind: str) -> Path:
    """Return where such folders lie, by the rules of the XDG base directories."""
    variable, below = _HOMES[kind]
    given = Path(os.environ.get(variable, ""))
    if given.is_absolute():
        return given
    try:
        home = Path(os.environ["HOME"]) if "HOME" in os.environ else Path.home()
    except RuntimeError:
        home = Path()
    if not home.is_absolute() or not home.is_dir():
        raise OSError(errno.ENOENT, "there is no home folder", str(home))
    return home / below
