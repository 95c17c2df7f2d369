"""Private folders of the user.

    $XDG_CACHE_HOME/demolish/compiled    else ~/.cache/demolish/compiled: compiled programs, which are code
    $XDG_DATA_HOME/demolish/own_code     else ~/.local/share/demolish/own_code: see `diffusion.run.trust`

Their content is trusted. They are therefore created with mode 0700; a folder that belongs to another user or is open
to other users is refused.
"""

import contextlib
import errno
import os
import stat
import tempfile
from pathlib import Path

_HOMES = {"cache": ("XDG_CACHE_HOME", ".cache"), "data": ("XDG_DATA_HOME", ".local/share")}


def user_folder(kind: str, name: str) -> Path:
    """Return a private folder of the user, created if necessary.

    Args:
        kind: "cache" for content that can be recomputed, "data" for content that cannot.
        name: name of the folder below `demolish`.

    Raises:
        OSError: there is no home folder, the folder cannot be written, or other users have access to it.
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
    with tempfile.TemporaryFile(dir=path):  # permission bits are not enough: root passes them
        pass
    return path


def _home(kind: str) -> Path:
    """Return the parent of such folders, by the XDG base directory specification."""
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
