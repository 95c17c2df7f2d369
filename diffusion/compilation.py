"""Compiled programs, kept between processes."""

import os

import jax


def use_compilation_cache(folder: os.PathLike[str] | str) -> None:
    """Keep every compiled program in a folder, so that a second start is quick.

    A folder that was chosen before (JAX_COMPILATION_CACHE_DIR) stays. JAX by itself keeps only what took a second
    to compile; a start of these programs compiles dozens of smaller pieces, so all are kept.

    Args:
        folder: made when the first program is written.
    """
    if getattr(jax.config, "jax_compilation_cache_dir", None) is None:  # not in its stubs
        jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
