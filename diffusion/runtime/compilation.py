"""A cache of compiled programs that lasts between processes; and the order in which compiled programs add numbers.

A compiled program is code: anyone who can write to the cache folder decides what runs. The cache is therefore in a
folder that belongs to the user, never next to data, such as in a work directory, which may come from someone else.
"""

import contextlib
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import jax

from diffusion.runtime.user_folders import user_folder

MOST_BYTES = 2**31  # above this size, the oldest programs are deleted until half of it is left


def use_compilation_cache(
    folder: os.PathLike[str] | str | None = None, say: Callable[[str], object] = lambda text: None
) -> None:
    """Cache every compiled program in a folder, so that a second start is quick.

    A folder that is already set (JAX_COMPILATION_CACHE_DIR) is kept. JAX by default caches only programs that took a
    second to compile; these commands compile dozens of smaller programs at the start, so all are cached.

    Args:
        folder: cache folder, whose content is executed; None is the cache folder of the user. Created when the first
            program is written.
        say: called with a message if no such folder can be used; programs are then compiled at every start.
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
    """Delete the oldest files of a folder that is too large; another process may do the same concurrently."""
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
# versions of jaxlib that know the flag; an unknown flag ends the process
_KNOWN = ((0, 10), (0, 11), (0, 12))


def use_fixed_sums() -> None:
    """Make the order of sums on CPUs depend on the program, not on the machine; call before JAX starts.

    A library of XLA's CPU backend divides long sums over the threads of its pool, whose number is the larger of the
    numbers of cores and of virtual devices. This setting uses XLA's own loops instead, for sums only. A choice that is
    already in XLA_FLAGS is kept.
    """
    given = os.environ.get("XLA_FLAGS", "")
    version = tuple(int(part) for part in metadata.version("jaxlib").split(".")[:2])
    if _REDUCTIONS not in given and version in _KNOWN:
        os.environ["XLA_FLAGS"] = f"{given} {_REDUCTIONS}=-reduce".strip()


def order_of_sums() -> str:
    """Return a description of the order of sums: "fixed", "N threads" of a CPU, or "device" on other platforms."""
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
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
