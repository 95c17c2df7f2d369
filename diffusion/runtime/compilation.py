"""Compiled programs, kept between processes; and what the order of their sums depends on.

A compiled program is code: whoever can put one into the folder decides what runs. So it lies in a folder of the
user's own and never where data lie, such as in a work directory, which may have come from elsewhere.
"""

import contextlib
import os
from collections.abc import Callable
from importlib import metadata
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


_REDUCTIONS = "--xla_cpu_experimental_ynn_fusion_type"
_KNOWN = ((0, 10), (0, 11), (0, 12))  # jaxlib's that take the flag; an unknown one ends the process


def use_fixed_sums() -> None:
    """Have CPUs add numbers in an order that belongs to the program, not to the machine; before JAX starts.

    A library of XLA's CPU backend divides long sums by the threads of its pool, of which there are as many as cores or
    as virtual devices, whichever are more. Here XLA's own loops take its place, for sums alone. A choice that is
    already in XLA_FLAGS stands.
    """
    given = os.environ.get("XLA_FLAGS", "")
    version = tuple(int(part) for part in metadata.version("jaxlib").split(".")[:2])
    if _REDUCTIONS not in given and version in _KNOWN:
        os.environ["XLA_FLAGS"] = f"{given} {_REDUCTIONS}=-reduce".strip()


def order_of_sums() -> str:
    """Return what the order of sums depends on: "fixed", "N threads" of a CPU, or "device" for other platforms."""
    if jax.default_backend() != "cpu":
        return "device"
    if f"{_REDUCTIONS}=-reduce" in os.environ.get("XLA_FLAGS", "").split():
        return "fixed"
    return f"{max(cores(), jax.local_device_count())} threads"


def compiler_flags() -> str:
    """Return XLA_FLAGS without the number of virtual devices and the choice of `use_fixed_sums`."""
    words = os.environ.get("XLA_FLAGS", "").split()
    ours = lambda w: "host_platform_device_count" in w or w == f"{_REDUCTIONS}=-reduce"
    return " ".join(w for w in words if not ours(w))


def cores() -> int:
    """Return the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
