"""Cost of a training step before any training: counted from its jaxpr, and reported by the compiler."""

import time
from collections.abc import Mapping
from typing import Any

import jax

from diffusion.config.experiment import Experiment
from diffusion.networks import count_parameters
from diffusion.run.cost import activation_bytes, bytes_of, matrix_flops, trace
from diffusion.run.step import batches_of, compiled_step
from diffusion.training.step import with_statistics


def on_one_device(experiment: Experiment, batch: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return the shapes of the state and of a micro-batch on one device.

    Args:
        experiment: the experiment.
        batch: arrays of a global batch, or their shapes.
    """
    layout = experiment.parallel
    parts = len(layout.devices) * experiment.train.accumulate

    def part(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.sharding.shard_shape(x.shape), x.dtype)

    def rows(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((x.shape[0] // parts, *x.shape[1:]), x.dtype)

    state = jax.tree.map(part, layout.template(experiment.abstract_state()))
    return state, jax.tree.map(rows, dict(batch))


def counted(experiment: Experiment, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Count memory and operations of a training step on one device; see `diffusion.run.cost`.

    Args:
        experiment: the experiment.
        batch: arrays of a global batch, or their shapes.

    Returns:
        bytes of parameters, optimizer, averages, batch, activations, and of gradients that are summed over
        micro-batches; `peak_bytes`, their sum; `flops`, those of matrix products and convolutions.
    """
    state, micro = on_one_device(experiment, batch)
    loss, parts = experiment.loss(), experiment.train.accumulate

    def mean_loss(params: Any, batch: Any) -> Any:
        return loss(params, jax.random.key(0), with_statistics(state, batch))[0].mean()

    params = experiment.abstract_state().params  # whole arrays, even if the state is sharded
    found = {
        "parameters": bytes_of(state.params),
        "optimizer": bytes_of(state.opt_state),
        "averages": bytes_of(state.ema),
        "batch": parts * bytes_of(micro),
        "activations": activation_bytes(mean_loss, params, micro),
        "summed_gradients": bytes_of(params) if parts > 1 else 0,
    }
    flops = parts * matrix_flops(trace(jax.grad(mean_loss), params, micro))
    return {**found, "peak_bytes": sum(found.values()), "flops": flops}


def compiled(experiment: Experiment, batch: Mapping[str, Any]) -> dict[str, Any]:
    """Compile the training step; return bytes, operations and seconds that the compiler reports for one device.

    Args:
        experiment: the experiment.
        batch: arrays of a global batch.
    """
    layout = experiment.parallel
    state, placed = layout.place_state(experiment.init_state()), layout.place_batch(batch)
    began = time.monotonic()
    program = compiled_step(experiment).lower(state, placed).compile()
    seconds = time.monotonic() - began
    memory, cost = program.memory_analysis(), program.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    of = lambda name: getattr(memory, f"{name}_size_in_bytes", 0)
    return {
        "state_and_batch": of("argument"),
        "temporaries": of("temp"),
        "peak_bytes": of("argument") + of("temp") + of("output") - of("alias"),
        "flops": (cost or {}).get("flops", 0.0),
        "seconds": seconds,
    }


def dry_run(experiment: Experiment) -> dict[str, Any]:
    """Compile the training step and return its cost, without training.

    Returns:
        Memory in MiB and operations in units of 10^9, per device and step: `counted` from the jaxpr, and `compiled`
        as reported by the compiler, which includes elementwise operations.
    """
    with batches_of(experiment, 0, 1) as batches:
        batch = next(batches)
    found = {"counted": counted(experiment, batch), "compiled": compiled(experiment, batch)}
    return {
        "parameters": count_parameters(experiment.abstract_state().params),
        "devices": len(experiment.parallel.devices),
        "mib_per_device": {how: _mebibytes(told) for how, told in found.items()},
        "gflop_per_step_and_device": {
            how: round(told["flops"] / 1e9, 3) for how, told in found.items()
        },
        "compile_seconds": round(found["compiled"]["seconds"], 1),
        "steps": experiment.train.steps(experiment.batch_size),
        "config": experiment.resolved(),
    }


def _mebibytes(cost: Mapping[str, Any]) -> dict[str, float]:
    bytes_ = {k.removesuffix("_bytes"): v for k, v in cost.items() if k not in ("flops", "seconds")}
    return {k: round(v / 2**20, 2) for k, v in bytes_.items()}
