"""A tiny problem for the tests of training: a two-layer network that denoises points in the plane."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.training import init_state, make_ema, make_train_step

WIDTH = 16


def init_params(key, dtype=jnp.float32):
    key_1, key_2 = jax.random.split(key)
    return {
        "hidden": {
            "kernel": jax.random.normal(key_1, (3, WIDTH), dtype),
            "bias": jnp.zeros((WIDTH,), dtype),
        },
        "out": {
            "kernel": jax.random.normal(key_2, (WIDTH, 2), dtype) / 4,
            "bias": jnp.zeros((2,), dtype),
        },
    }


def apply(params, x, log_snr, cond):
    """Rows with label -1 get no shift."""
    inputs = jnp.concatenate([x + 0.1 * jnp.maximum(cond, 0)[:, None], log_snr[:, None]], axis=-1)
    hidden = jnp.tanh(inputs @ params["hidden"]["kernel"] + params["hidden"]["bias"])
    return hidden @ params["out"]["kernel"] + params["out"]["bias"]


def loss(params, key, batch):
    """Noise prediction; every draw belongs to a global row."""
    data, row = batch["data"], batch["row"]
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(row)
    z = jax.vmap(lambda k: jax.random.normal(k, data.shape[1:], data.dtype))(keys)
    log_snr = jax.vmap(lambda k: jax.random.uniform(k, (), data.dtype, -10, 10))(keys)
    alpha = jnp.sqrt(jax.nn.sigmoid(log_snr))[:, None]
    sigma = jnp.sqrt(jax.nn.sigmoid(-log_snr))[:, None]
    y = apply(params, alpha * data + sigma * z, log_snr / 10, batch["cond"])
    return ((y - z) ** 2).mean(axis=-1), {"log_snr": log_snr}


def make_batch(step, size=16, dtype=np.float32):
    """A function of the step alone, as the data sets of the package are."""
    random = np.random.default_rng(step)
    return {
        "data": random.normal(size=(size, 2)).astype(dtype),
        "cond": random.integers(0, 3, size).astype(np.int32),
        "row": np.arange(size, dtype=np.int32),
    }


def batches(start=0, size=16) -> Iterator[dict]:
    while True:
        yield make_batch(start, size)
        start += 1


def make(optimizer, ema=("0.9",), dtype=jnp.float32, **options):
    """Return (state, step) of the tiny problem."""
    averages = make_ema(ema)
    state = init_state(
        init_params(jax.random.key(1), dtype), optimizer, averages, jax.random.key(7)
    )
    return state, make_train_step(loss, optimizer, averages, **options)
