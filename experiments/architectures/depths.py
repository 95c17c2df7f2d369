"""Residuals by depth: what the first update does to the output, and how far a few hundred updates come.

Su's claim (kexue.fm 8978) is about the first update: with a stream scaled up and weights begun smaller, by his factors,
the change of the output does not grow with the depth. The head of the network begins at zero, so that blocks have no
gradient at first; for the first update alone a random head is put in its place.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from diffusion import build
from diffusion.networks.residuals import RESIDUALS
from diffusion.objectives.losses import regression_loss

__all__ = ["RESIDUALS", "Stack"]

PROCESS: Any = build("process", "vp")
PREDICTION: Any = build("prediction", "v")
TIME: Any = build("time", dict(name="uniform", stratified=True))
RATE = 1e-4  # of the first update


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A narrow transformer of a depth on digits."""

    residual: str
    depth: int
    num_steps: int
    width: int = 16
    batch_size: int = 32
    learning_rate: float = 1e-3

    def measure(self, seed: int = 0) -> dict[str, float]:
        """Return size of the gradient and of the first update, and the loss of the last tenth of training."""
        dataset: Any = build("dataset", "digits")
        data = jnp.asarray(dataset.examples(0, dataset.spec.size)["data"])
        first, losses = jax.jit(self._run)(jax.random.key(seed), data)
        losses = np.asarray(losses)
        tail = losses[-max(1, len(losses) // 10) :]
        found = {name: float(value) for name, value in first.items()}
        return found | dict(
            loss=float(tail.mean()), worst=float(np.nan_to_num(losses, nan=np.inf).max())
        )

    def network(self) -> Any:
        """Return the network, its blocks in one loop."""
        return build(
            "network",
            dict(name="dit", patch=2, width=self.width, depth=self.depth, heads=2, scan_blocks=True,
                 residual=self.residual),
        )  # fmt: skip

    def _run(self, key: Array, data: Array) -> tuple[dict[str, Array], Array]:
        network = self.network()
        loss = regression_loss(
            network,
            PROCESS,
            PREDICTION,
            build("weight", "simple"),
            TIME,
            batch_size=self.batch_size,
        )
        key_init, key_head, key_steps = jax.random.split(key, 3)
        params = network.init(key_init, data[:1], jnp.zeros(1))
        row = jnp.arange(self.batch_size)

        def mean(params: Any, key: Array) -> Array:
            key_index, key_loss = jax.random.split(key)
            index = jax.random.randint(key_index, row.shape, 0, len(data))
            return loss(params, key_loss, {"data": data[index], "row": row})[0].mean()

        optimizer = optax.adam(self.learning_rate)

        def step(state: Any, key: Array) -> tuple[Any, Array]:
            params, moments = state
            value, gradient = jax.value_and_grad(mean)(params, key)
            updates, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments), value

        keys = jax.random.split(key_steps, self.num_steps)
        _, losses = jax.lax.scan(step, (params, optimizer.init(params)), keys)
        return self._first(network, params, mean, key_head, data[: self.batch_size]), losses

    def _first(
        self, network: Any, params: Any, mean: Any, key: Array, x: Array
    ) -> dict[str, Array]:
        """Return the norm of the blocks' gradient, and how far one update of Adam to the blocks moves the output."""
        shape = params["head"]["kernel"].shape
        head = {
            "kernel": jax.random.normal(key, shape) / jnp.sqrt(shape[0]),
            "bias": jnp.zeros(shape[1]),
        }
        params = params | {"head": head}
        gradient = jax.grad(mean)(params, key)["blocks"]
        signs = jax.tree.map(lambda g: g / (jnp.abs(g) + 1e-12), gradient)  # Adam's first update
        moved = jax.tree.map(lambda p, s: p - RATE * s, params["blocks"], signs)
        output = lambda p: network.apply(p, x, jnp.zeros(len(x)))
        change = output(params | {"blocks": moved}) - output(params)
        return dict(
            gradient=optax.global_norm(gradient), update=jnp.sqrt((change**2).mean()) / RATE
        )
