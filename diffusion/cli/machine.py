"""What programs set up before JAX starts, and what of the machine their numbers depend on."""

import os
import sys


def use_all_cores(batch_size: int = 0, blocks: int = 0) -> None:
    """Make one CPU device per core, up to eight, before JAX starts; other platforms do not notice.

    XLA runs many small operations of one CPU device on one core; dividing the batch uses the others too.
    A number that is already in XLA_FLAGS stands.

    Args:
        batch_size: of training, which the number of devices has to divide; or
        blocks: of sampling; there are no more devices than these.
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
    """Have sums on CPUs not depend on cores and devices, before JAX starts."""
    from diffusion.runtime.compilation import use_fixed_sums

    use_fixed_sums()


def use_compilation_cache() -> None:
    """Keep compiled programs in the user's own folder, so that a second start is quick."""
    from diffusion.runtime import compilation

    compilation.use_compilation_cache(say=lambda text: print(text, file=sys.stderr, flush=True))


def versions() -> dict[str, str]:
    """Return what computes: other versions, flags of the compiler or kinds of device may give other bits."""
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
