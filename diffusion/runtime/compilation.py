"""Compiled programs, kept between processes.

A compiled program is code: whoever can put one into the folder decides what runs. So it lies in a folder of the
user's own and never where data lie, such as in a work directory, which may have come from elsewhere.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import jax

from diffusion.runtime.user_folders import user_folder

MOST_BYTES = 2**31  # when it holds more, the oldest programs go, until half of this is left


def use_compilation_cache(
    folder: os.PathLike[str] | str | None = None, say: Callable[[str], object] = lambda text: None
) -> None:
    """Keep every compiled program in a folder, so that a second start is quick.

    A folder that was chosen before (JAX_COMPILATION_CACHE_DIR) stays. JAX by itself keeps only what took a second
    to compile; a start of these programs compiles dozens of smaller pieces, so all are kept.

    Args:
        folder: whatever lies in it is run; None is the user's own. Made when the first program is written.
        say: gets a line if the user can have no such folder; programs are then compiled at every start.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:  # not in its stubs
        try:
            folder = user_folder("cache", "compiled") if folder is None else Path(folder)
        except OSError as error:
            say(f"compiled programs are not kept: {error.filename}: {error.strerror}")
            return
        _prune(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def _prune(folder: Path, most: int = MOST_BYTES) -> None:
    """Delete the oldest files of a folder that holds too much; another process may do the same."""
    with contextlib.suppress(OSError):
        files = [(f.stat(), f) for f in folder.iterdir() if f.is_file()]
        left = sum(found.st_size for found, _ in files)
        if left <= most:
            return
        for found, file in sorted(files, key=lambda pair: pair[0].st_mtime):
            file.unlink(missing_ok=True)
            left -= found.st_size
            if left <= most // 2:
                break
