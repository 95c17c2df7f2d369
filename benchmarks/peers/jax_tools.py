"""What the JAX competitors share: compiling with a clock, counting, versions, memory."""

import time
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.flops import product_flops
from benchmarks.worker import cores


def versions(*packages: str) -> dict[str, Any]:
    """Return versions, the kind of device and how many there are."""
    names = ("jax", "jaxlib", "flax", *packages)
    device = jax.devices()[0]
    return {
        "versions": {name: metadata.version(name) for name in names},
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.device_count(),
        "threads": cores(),
    }


def count(params: Any) -> int:
    """Return the number of parameters."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))


def drawn(init: Callable[[Any], Any]) -> Any:
    """Return parameters of the shapes that `init` (a function of a key) gives, drawn by NumPy.

    To draw them by JAX compiles a random number generator per array, which takes longer than the step.
    """
    rng = np.random.default_rng(0)

    def leaf(path: Any, x: Any) -> jax.Array:
        name = str(getattr(path[-1], "key", path[-1]))
        if len(x.shape) < 2:
            return jnp.full(x.shape, float(name == "scale"), x.dtype)
        fan_in = np.prod(x.shape[:-1])
        return jnp.asarray(rng.standard_normal(x.shape) / np.sqrt(fan_in), x.dtype)

    shapes = jax.eval_shape(init, jax.random.key(0))
    return jax.tree_util.tree_map_with_path(leaf, shapes)


def compiled(step: Any, *arguments: Any) -> tuple[Any, dict[str, Any]]:
    """Compile a jitted function ahead of time; return it, and seconds, FLOPs and bytes.

    FLOPs and bytes of XLA are those of one device; of FLOPs the record has the sum over all.
    """
    clock = [time.perf_counter()]
    tick = lambda: clock.append(time.perf_counter())
    traced = step.trace(*arguments)
    tick()
    lowered = traced.lower()
    tick()
    program = lowered.compile()
    tick()
    cost, memory = program.cost_analysis() or {}, program.memory_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    devices = len({d for s in jax.tree.leaves(program.input_shardings) for d in s.device_set})
    byte = lambda name: getattr(memory, name, None)
    return program, {
        "trace_seconds": clock[1] - clock[0],
        "lower_seconds": clock[2] - clock[1],
        "compile_seconds": clock[3] - clock[2],
        "flops": product_flops(traced.jaxpr.jaxpr),
        "flops_xla": float(cost.get("flops", 0.0)) * max(devices, 1),
        "devices_used": max(devices, 1),
        "bytes_arguments": byte("argument_size_in_bytes"),
        "bytes_aliased": byte("alias_size_in_bytes"),
        "bytes_temporary": byte("temp_size_in_bytes"),
    }


def peak_memory() -> int | None:
    """Return the peak of the first device's memory in bytes, where it is counted."""
    try:
        return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    except Exception:  # a platform without statistics
        return None


def repeated(step: Callable[..., Any], state: Any, batches: Sequence[Any]) -> Callable[[int], None]:
    """Return what does n steps on the batches in turn, keeps the state, and waits for the last."""
    box, done = [state], [0]

    def run(n: int) -> None:
        for _ in range(n):
            box[0], told = step(box[0], batches[done[0] % len(batches)])
            done[0] += 1
        jax.block_until_ready((box[0], told))

    return run


def called(call: Callable[..., Any], *arguments: Any) -> Callable[[int], None]:
    """Return what calls a function n times and waits for the last result."""

    def run(n: int) -> None:
        for _ in range(n):
            y = call(*arguments)
        jax.block_until_ready(y)

    return run


def pictures(case: Any, count: int | None = None, seed: int = 0) -> np.ndarray:
    """Return random pictures in [-1, 1]."""
    size = (count or case.batch, *case.shape)
    return np.random.default_rng(seed).uniform(-1, 1, size).astype(np.float32)
