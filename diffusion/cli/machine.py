"""Setup of the machine before JAX starts, and a record of the versions and devices that results depend on."""

import os
import sys


def use_all_cores(batch_size: int = 0, blocks: int = 0) -> None:
    """Make one CPU device per core, up to eight; call before JAX starts. Other platforms are not affected.

    XLA runs many small operations of one CPU device on one core; dividing the batch over devices uses all cores.
    A device count that is already in XLA_FLAGS is kept.

    Args:
        batch_size: of training; the number of devices must divide it.
        blocks: of sampling; the number of devices does not exceed it.
    """
    given, flag = os.environ.get("XLA_FLAGS", ""), "--xla_force_host_platform_device_count"
    if flag in given:
        return
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    fits = lambda n: batch_size % n == 0 if batch_size else n <= max(blocks, 1)
    count = max(n for n in (1, 2, 4, 8) if n <= cores and fits(n))
    os.environ["XLA_FLAGS"] = f"{given} {flag}={count}".strip()


def use_fixed_sums() -> None:
    """Make sums on CPUs independent of the number of cores and devices; call before JAX starts."""
    from diffusion.runtime.compilation import use_fixed_sums

    use_fixed_sums()


def use_compilation_cache() -> None:
    """Cache compiled programs in the user's cache folder, so that a second start is quick."""
    from diffusion.runtime import compilation

    compilation.use_compilation_cache(say=lambda text: print(text, file=sys.stderr, flush=True))


def versions() -> dict[str, str]:
    """Return package versions, compiler flags and device kind: a change of any of them may change bits."""
    import jax

    from diffusion.runtime.compilation import compiler_flags, order_of_sums
    from diffusion.runtime.provenance import versions as installed

    found = installed(("demolish", "jax", "jaxlib", "flax"))
    x64 = str(getattr(jax.config, "jax_enable_x64"))  # noqa: B009 not in its stubs
    return found | {
        "device": jax.devices()[0].device_kind,
        "x64": x64,
        "xla_flags": compiler_flags(),
        "sums": order_of_sums(),
    }
