"""Memory and time of a training step on many devices, from a closed-form model.

    python -m experiments.scaling                       # the tables of docs/scaling.md
    python -m experiments.scaling --device tpu_v5p --global_batch 4096

Parameters, multiplications and stored activations are counted by tracing the networks of this package, without
allocating memory or using a device. Bytes and seconds follow by the formulas below and the assumptions of `Device` and
`Recipe`. With P parameters, n = data x fsdp devices, k = fsdp, and b examples per device:

    state        (4 + 4 + 8 + 4 averages) P / k          parameters, gradients, two moments of Adam, averages
    activations  b A                                      A: what the backward pass needs of one example
    copies       2 P, or 8 P / blocks when k > 1          in bfloat16, or two gathered blocks at a time
    compute      b 3 F / (utilization peak)               F: forward pass of one example, backward is twice that
    gather       2 x 4 P (k - 1) / k / fast               weights, forward and backward, over fsdp
    scatter      4 P (k - 1) / k / fast                   gradients, over fsdp
    reduce       2 x 4 P / k (d - 1) / d / slow           gradients, over d = data groups

A step takes between max(compute, communication), all hidden, and their sum, nothing hidden.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks.flops import product_flops
from diffusion.networks import count_parameters
from diffusion.registry import build
from diffusion.run.cost import bytes_of

GB, BYTES = 1e9, 4  # float32 for everything that lasts


@dataclass(frozen=True, kw_only=True)
class Device:
    """Assumptions about an accelerator: peak figures of the vendors, not measurements.

    Attributes:
        peak: FLOP/s in bfloat16.
        memory: bytes.
        fast: bytes/s to and from each device inside a group of `group`, one direction.
        slow: bytes/s per device between groups.
        group: devices that are connected by the fast network.
        utilization: fraction of the peak that large matrix products and convolutions reach.
    """

    peak: float
    memory: float
    fast: float
    slow: float
    group: int
    utilization: float = 0.4


DEVICES = {
    "h100": Device(peak=989e12, memory=80e9, fast=450e9, slow=50e9, group=8),
    "a100": Device(peak=312e12, memory=80e9, fast=300e9, slow=25e9, group=8),
    "tpu_v5p": Device(peak=459e12, memory=95e9, fast=300e9, slow=6e9, group=4096),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A network and the shape of its input."""

    network: dict[str, Any]
    shape: tuple[int, ...]
    blocks: int  # into which the weights fall, when they are gathered block by block
    num_classes: int = 1000


RECIPES = {
    "DiT-XL/2": Recipe(
        network=dict(name="dit", patch=2, width=1152, depth=28, heads=16, positions="sincos", outputs=2),
        shape=(32, 32, 4), blocks=28,
    ),
    "DiT 2B": Recipe(
        network=dict(name="dit", patch=2, width=1792, depth=36, heads=28, positions="sincos", outputs=2),
        shape=(32, 32, 4), blocks=36,
    ),
    "U-Net 2B": Recipe(
        network=dict(name="unet", family="adm", channels=512), shape=(64, 64, 3), blocks=33,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Counts from tracing a network.

    Attributes:
        parameters: number of parameters.
        flops: operations of one forward pass of one example; a multiplication with its addition counts as two.
        stored: bytes of activations kept for the backward pass of one example.
        stored_remat: the same if only outputs of products and convolutions are kept, and everything else, which is
            cheap, is recomputed.
    """

    parameters: int
    flops: float
    stored: float
    stored_remat: float


def _only_products(primitive: Any, *_: Any, **__: Any) -> bool:
    return primitive.name in ("dot_general", "conv_general_dilated")


def count(recipe: Recipe, dtype: str = "bfloat16") -> Counts:
    """Trace a network; nothing is computed and no array is made."""
    network = build(
        "network", {**recipe.network, "num_classes": recipe.num_classes, "dtype": dtype}
    )

    def inputs(batch: int) -> tuple[Any, ...]:
        x = jax.ShapeDtypeStruct((batch, *recipe.shape), jnp.float32)
        label = jax.ShapeDtypeStruct((batch,), jnp.int32)
        return x, jax.ShapeDtypeStruct((batch,), jnp.float32), {"label": label}

    params = jax.eval_shape(network.init, jax.random.key(0), *inputs(1))
    jaxpr = jax.make_jaxpr(network.apply)(params, *inputs(1))

    def stored(batch: int, remat: bool) -> float:
        apply = jax.checkpoint(network.apply, policy=_only_products) if remat else network.apply
        backward = lambda p, *a: jax.vjp(lambda q: apply(q, *a), p)[1]
        leaves = jax.tree.leaves(jax.eval_shape(backward, params, *inputs(batch)))
        return float(bytes_of(leaves))

    return Counts(
        parameters=count_parameters(params),
        flops=product_flops(jaxpr.jaxpr),
        stored=stored(2, False) - stored(1, False),  # the difference: weights are kept once
        stored_remat=stored(2, True) - stored(1, True),
    )


@dataclass(frozen=True, kw_only=True)
class Step:
    """One training step on many devices, in bytes and seconds per device."""

    state: float
    copies: float
    activations: float
    compute: float
    gather: float
    scatter: float
    reduce: float

    @property
    def memory(self) -> float:
        """Peak memory of a device."""
        return self.state + self.copies + self.activations

    @property
    def communication(self) -> float:
        """Seconds of communication."""
        return self.gather + self.scatter + self.reduce


def step(
    counts: Counts,
    device: Device,
    *,
    devices: int,
    fsdp: int,
    per_device: float,
    averages: int = 1,
    remat: bool = False,
    blocks: int = 1,
) -> Step:
    """Evaluate the formulas of the module.

    Args:
        counts: counts of the network.
        device: assumptions about the device.
        devices: number of devices, data x fsdp.
        fsdp: number of devices over which the state is sharded.
        per_device: examples per device and step.
        averages: number of averages of the weights.
        remat: recompute everything that is not the output of a product or convolution.
        blocks: number of blocks of equal size, two of which are gathered at a time.

    Raises:
        ValueError: fsdp does not divide the devices.
    """
    if devices % fsdp or fsdp < 1:
        raise ValueError(f"`fsdp` must divide the {devices} devices; got {fsdp}.")
    weights, groups = BYTES * counts.parameters, devices // fsdp
    near = device.fast if fsdp <= device.group else device.slow
    far = device.fast if devices <= device.group else device.slow
    share = (fsdp - 1) / fsdp
    return Step(
        state=(4 + averages) * weights / fsdp,
        copies=weights / 2 if fsdp == 1 else min(2 / blocks, 1.0) * weights,
        activations=per_device * (counts.stored_remat if remat else counts.stored),
        compute=per_device * 3 * counts.flops / (device.peak * device.utilization),
        gather=2 * weights * share / near,
        scatter=weights * share / near,
        reduce=2 * weights / fsdp * (groups - 1) / groups / far,
    )


def hiding(counts: Counts, device: Device, **options: Any) -> float:
    """Return the examples per device above which communication can hide behind computation."""
    one = step(counts, device, per_device=1.0, **options)
    return one.communication / one.compute


# ---- tables -------------------------------------------------------------------------------------


def table_of_counts(counted: dict[str, Counts]) -> list[str]:
    """Return the table of the counts from tracing, in Markdown."""
    rows = [
        "| network | input | parameters | GFLOP forward | activations, MB per example | kept products only |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for name, c in counted.items():
        shape = " x ".join(map(str, RECIPES[name].shape))
        rows.append(
            f"| {name} | {shape} | {c.parameters / 1e6:.0f} M | {c.flops / 1e9:.0f} | {c.stored / 1e6:.0f} | "
            f"{c.stored_remat / 1e6:.0f} |"
        )
    return rows


def table_of_steps(counted: dict[str, Counts], device: Device, global_batch: int) -> list[str]:
    """Return the table of memory and time on 8, 256 and 4,096 devices, in Markdown."""
    rows = [
        "| network | devices | data x fsdp | examples per device | state | activations | all, GB | compute | "
        "communication, ms | step, ms | hidden from |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, c in counted.items():
        for devices in (8, 256, 4096):
            for fsdp in (1, 8):
                options = {"devices": devices, "fsdp": fsdp, "blocks": RECIPES[name].blocks}
                share = max(global_batch / devices, 1.0)
                s = step(c, device, per_device=share, remat=True, **options)
                low, high = max(s.compute, s.communication), s.compute + s.communication
                fits = "" if s.memory < device.memory else " (too much)"
                rows.append(
                    f"| {name} | {devices} | {devices // fsdp} x {fsdp} | {share:.0f} | {s.state / GB:.1f} | "
                    f"{s.activations / GB:.1f} | {s.memory / GB:.1f}{fits} | {1e3 * s.compute:.0f} | "
                    f"{1e3 * s.communication:.0f} | {1e3 * low:.0f} to {1e3 * high:.0f} | "
                    f"{hiding(c, device, remat=True, **options):.1f} |"
                )
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description="Memory and time of a step on many devices.")
    parser.add_argument("--device", choices=sorted(DEVICES), default="h100")
    parser.add_argument("--global_batch", type=int, default=1024)
    given = parser.parse_args()
    counted = {name: count(recipe) for name, recipe in RECIPES.items()}
    print("\n".join(table_of_counts(counted)), end="\n\n")
    print("\n".join(table_of_steps(counted, DEVICES[given.device], given.global_batch)))


if __name__ == "__main__":
    main()
