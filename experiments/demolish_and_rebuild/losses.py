"""The loss as the first article derives it, before one of its two noises is integrated out, and what that buys.

x_{t-1} carries a noise, and the last step adds eps_t, which is what the step back has to know. With the one-step
a = alpha_t / alpha_{t-1}, b = sqrt(1 - a^2), both noises rotate into the z of x_t and an independent omega,

    eps_t = (b z - a sigma_{t-1} omega) / sigma_t        so     sigma_t / b eps_t = z - c omega,   c = a sigma_{t-1} / b

The model sees x_t, so z alone; omega adds c^2 to the loss, which no model can change, and noise to its
gradient, which only slows it. Both forms here regress the noise of x_t with weight 1.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.models.prediction import network_inputs
from diffusion.numerics import per_example, row_keys
from diffusion.objectives.losses import demolish


def second_noise(process: Any, t: Any, step: float) -> Any:
    """Return c, how strongly the noise that can be integrated out stands in the target."""
    s = jnp.maximum(t - step, 0.0)
    a = process.alpha(t) / process.alpha(s)
    return a * process.sigma(s) / jnp.sqrt(1 - a**2)


def two_noise_loss(experiment: Any) -> Any:
    """Return |network - (z - c omega)|^2 per dimension, the first article's loss before the variance is reduced."""
    e = experiment
    step = 1 / e.process.num_chain_steps

    def loss(params: Any, key: Any, batch: Mapping[str, Any]) -> Any:
        key_draw, key_omega, key_net = jax.random.split(key, 3)
        d = demolish(e.process, e.time, key_draw, batch, e.batch_size)
        c = e.process.coefficients(d.t, d.x_0)
        scaled, log_snr = network_inputs(e.process, e.prediction, c, d.x_t, d.t)
        y = e.network.apply(params, scaled, log_snr, batch.get("cond"), key_net)
        omega = e.process.sample_noise(row_keys(key_omega, batch["row"]), d.x_0.shape)
        target = d.z - per_example(second_noise(e.process, d.t, step), d.z) * omega
        error = ((y - target) ** 2).reshape(len(y), -1).mean(axis=-1)
        return d.corrected(error, log_snr)

    return loss


def gradient_sums(experiment: Any, batch: Mapping[str, Any]) -> Any:
    """Return a compiled function: the sum of one-example gradients at a time, and of their squared lengths.

    It takes parameters, a key, the numbers of the examples, t, and c, with which omega enters.
    """
    e = experiment
    data = jax.tree.map(jnp.asarray, {"data": batch["data"], "cond": batch["cond"]})

    def error(params: Any, row: Mapping[str, Any], key: Any, t: Any, c: Any) -> Any:
        x_0 = row["data"][None]
        z, omega = jax.random.normal(key, (2, *x_0.shape))
        t = jnp.full(1, t, x_0.dtype)
        x_t = e.process.interpolate(x_0, z, t)
        inputs = network_inputs(e.process, e.prediction, e.process.coefficients(t, x_0), x_t, t)
        cond = jax.tree.map(lambda a: a[None], row["cond"])
        y = e.network.apply(params, *inputs, cond, None)
        return ((y - z + c * omega) ** 2).mean()

    @jax.jit
    def sums(params: Any, key: Any, chosen: Any, t: Any, c: Any) -> tuple[Any, Any]:
        def add(carry: Any, inputs: Any) -> tuple[Any, None]:
            i, k = inputs
            row = jax.tree.map(lambda a: a[i], data)
            g = jax.grad(error)(params, row, k, t, c)
            flat = jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(g)])
            return (carry[0] + flat, carry[1] + jnp.vdot(flat, flat)), None

        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        start = (jnp.zeros(size), jnp.zeros(()))
        return jax.lax.scan(add, start, (chosen, jax.random.split(key, len(chosen))))[0]

    return sums


def gradient_noise(
    sums: Any, params: Any, process: Any, t: float, draws: int, size: int, seed: int = 0
) -> dict[str, float]:
    """Return the variance of one example's gradient at a time, summed over parameters, of both forms.

    Data, z and omega are drawn anew each time. `signal` is |mean gradient|^2 of the one-noise form, without bias.

    Args:
        sums: from `gradient_sums`.
        params: where the gradient is taken.
        process: the chain.
        t: the time.
        draws: gradients that are compared.
        size: of the data set.
        seed: of all that is drawn; both forms see the same.
    """
    with jax.enable_x64(True):
        c = float(second_noise(process, jnp.asarray(t, jnp.float64), 1 / process.num_chain_steps))
    chosen = jax.random.randint(jax.random.key(seed), (draws,), 0, size)
    found: dict[str, float] = {}
    for name, strength in (("one noise", 0.0), ("two noises", c)):
        total, squares = sums(params, jax.random.key(seed + 1), chosen, t, strength)
        total, squares = np.asarray(total, np.float64), float(squares)
        mean_square = float(total @ total) / draws**2
        found[name] = (squares / draws - mean_square) * draws / (draws - 1)
        found.setdefault("signal", mean_square - found[name] / draws)
    return found | {"c": c, "ratio": found["two noises"] / found["one noise"]}
