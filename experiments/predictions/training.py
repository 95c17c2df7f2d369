"""Training a small network on a pool of examples, one compiled program for all nine combinations.

The process is the straight line x_t = (1 - t) x_0 + t z with t in [0.05, 0.95]. The network's output is the data,
the noise or the velocity z - x_0, and so is what the loss compares. Given x_t the three errors are multiples of
each other, |v error| = |data error| / t = |noise error| / (1 - t); away from the ends no combination divides by zero.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from diffusion import build
from diffusion.models.denoiser import make_denoiser
from diffusion.models.prediction import Pair, Prediction
from diffusion.objectives.losses import regression_loss
from diffusion.types import Coefficients

OUTPUTS = ("data", "noise", "velocity")
PROCESS: Any = build("process", dict(name="rectified_flow", t_min=0.05, t_max=0.95))
TIME: Any = build("time", dict(name="uniform", stratified=True))
WEIGHT: Any = build("weight", "simple")


@dataclass(frozen=True)
class Chosen(Prediction):
    """One of OUTPUTS by a number that need not be known when the program is compiled."""

    which: Any

    def _pick(self, method: str, c: Coefficients) -> Pair:
        pairs = [getattr(build("prediction", name), method)(c) for name in OUTPUTS]
        pick = lambda k: jnp.stack([p[k] * jnp.ones_like(c.alpha) for p in pairs])[self.which]
        return pick(0), pick(1)

    def target(self, c: Coefficients) -> Pair:
        return self._pick("target", c)

    def recover(self, c: Coefficients) -> Pair:
        return self._pick("recover", c)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How long is trained."""

    num_steps: int = 2000
    batch_size: int = 256
    learning_rate: float = 3e-3


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A network, its data and its budget; `train` compiles once and trains any combination."""

    network: Any
    pool: np.ndarray  # (n, ...)
    labels: np.ndarray | None
    budget: Budget
    _compiled: dict[str, Any] = dataclasses.field(default_factory=dict)

    def train(self, output: str, of_loss: str, seed: int) -> tuple[Any, float]:
        """Return the parameters, and the mean of the last tenth of the losses."""
        if "run" not in self._compiled:
            self._compiled["run"] = jax.jit(self._run)
        which = (OUTPUTS.index(output), OUTPUTS.index(of_loss))
        params, losses = self._compiled["run"](jax.random.key(seed), *which)
        return params, float(losses[-len(losses) // 10 :].mean())

    def _run(self, key: Array, output: Any, of_loss: Any) -> tuple[Any, Array]:
        budget, pool = self.budget, jnp.asarray(self.pool, jnp.float32)
        rate = optax.cosine_decay_schedule(budget.learning_rate, budget.num_steps)
        optimizer = optax.adam(rate)
        loss = regression_loss(
            self.network, PROCESS, Chosen(output), WEIGHT, TIME,
            batch_size=budget.batch_size, loss_target=Chosen(of_loss),
        )  # fmt: skip
        key_init, key_steps = jax.random.split(key)
        cond = lambda i: None if self.labels is None else {"label": jnp.asarray(self.labels)[i]}
        params = self.network.init(key_init, pool[:1], jnp.zeros(1), cond(jnp.zeros(1, int)))
        rows = jnp.arange(budget.batch_size)

        def step(state: Any, key: Array) -> tuple[Any, Array]:
            params, moments = state
            key_index, key_loss = jax.random.split(key)
            index = jax.random.randint(key_index, rows.shape, 0, len(pool))
            batch = {"data": pool[index], "row": rows, "cond": cond(index)}
            mean = lambda p: loss(p, key_loss, batch)[0].mean()
            value, gradient = jax.value_and_grad(mean)(params)
            updates, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments), value

        start = (params, optimizer.init(params))
        keys = jax.random.split(key_steps, budget.num_steps)
        (params, _), losses = jax.lax.scan(step, start, keys)
        return params, losses

    def denoiser(self, params: Any, output: str, cond: Any = None) -> Any:
        """Return E[x_0 | x_t] of a trained network."""
        prediction: Any = build("prediction", output)
        return make_denoiser(self.network, params, PROCESS, prediction, cond)
