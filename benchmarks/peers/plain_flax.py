"""Flax, Optax and JAX alone: the loop that one writes by hand, with networks of the same layers as ours.

Channels, blocks, attention, embedding and heads are those of the case, so parameters and FLOPs agree with
ours but for a few biases. One jitted step, its state donated; one device.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.cases import Case
from benchmarks.peers.jax_tools import (
    compiled,
    count,
    drawn,
    peak_memory,
    pictures,
    repeated,
    versions,
)
from benchmarks.worker import Work

ZERO = nn.initializers.zeros


def sinusoids(c: Any, width: int) -> Any:
    """Return sines and cosines of one number per example."""
    angles = c[:, None] * jnp.asarray(np.geomspace(0.2, 32.0, width // 2), jnp.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


class Embed(nn.Module):
    """Two linear layers over sinusoids of the noise level."""

    width: int

    @nn.compact
    def __call__(self, level: Any) -> Any:
        h = nn.silu(nn.Dense(self.width)(sinusoids(level, self.width)))
        return nn.silu(nn.Dense(self.width)(h))


class Norm(nn.Module):
    """Group normalization with at most 32 groups of at least four channels."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Any) -> Any:
        return nn.GroupNorm(min(32, max(1, x.shape[-1] // 4)), epsilon=1e-5, dtype=self.dtype)(x)


class Attend(nn.Module):
    """Self-attention over tokens (batch, tokens, features)."""

    heads: int
    dtype: Any
    zero: bool = False

    @nn.compact
    def __call__(self, x: Any) -> Any:
        b, n, c = x.shape
        qkv = nn.Dense(3 * c, use_bias=False, dtype=self.dtype)(x)
        q, k, v = jnp.moveaxis(qkv.reshape(b, n, 3, self.heads, c // self.heads), 2, 0)
        y = jax.nn.dot_product_attention(q, k, v).reshape(b, n, c)
        init = {"kernel_init": ZERO} if self.zero else {}
        return nn.Dense(c, dtype=self.dtype, **init)(y)


class Block(nn.Module):
    """Residual block; `change` is 0, +1 to double the sides, or -1 to halve them."""

    case: Case
    width: int
    attend: bool
    change: int = 0

    @nn.compact
    def __call__(self, x: Any, emb: Any, train: bool) -> Any:
        c, dtype = self.case, jnp.dtype(self.case.dtype)
        h = nn.silu(Norm(dtype)(x))
        if self.change:
            h, x = (resize(a, self.change) for a in (h, x))
        h = nn.Conv(self.width, (3, 3), dtype=dtype)(h)
        m = nn.Dense(self.width * (1 + c.adaptive_scale), dtype=dtype)(emb)[:, None, None]
        if c.adaptive_scale:
            scale, shift = jnp.split(m, 2, axis=-1)
            h = nn.silu((1 + scale) * Norm(dtype)(h) + shift)
        else:
            h = nn.silu(Norm(dtype)(h + m))
        h = nn.Dropout(c.dropout, deterministic=not train)(h)
        h = nn.Conv(self.width, (3, 3), dtype=dtype, kernel_init=ZERO)(h)
        if x.shape[-1] != self.width:
            x = nn.Conv(self.width, (1, 1), dtype=dtype)(x)
        x = (x + h) * c.residual_scale
        if self.attend:
            y = Attend(1, dtype, zero=True)(Norm(dtype)(x).reshape(len(x), -1, self.width))
            x = (x + y.reshape(x.shape)) * c.residual_scale
        return x


def resize(x: Any, change: int) -> Any:
    """Double the sides by repeating, or halve them by averages."""
    if change > 0:
        return x.repeat(2, axis=1).repeat(2, axis=2)
    return nn.avg_pool(x, (2, 2), strides=(2, 2))


class UNet(nn.Module):
    """Convolutional encoder and decoder with skips from every step."""

    case: Case

    @nn.compact
    def __call__(self, x: Any, level: Any, train: bool = False) -> Any:
        c, dtype, last = self.case, jnp.dtype(self.case.dtype), len(self.case.multipliers) - 1
        emb = Embed(4 * c.channels)(level)
        widths = [c.channels * m for m in c.multipliers]
        block = lambda h, w, attend: Block(c, w, attend)(h, emb, train)
        here = lambda h: h.shape[1] in c.attention

        def change(h: Any, by: int) -> Any:
            width = h.shape[-1]
            if c.resample_in_block:
                return Block(c, width, False, by)(h, emb, train)
            if c.resample == "pool":
                return resize(h, by)
            stride = 1 if by > 0 else 2
            return nn.Conv(width, (3, 3), stride, dtype=dtype)(resize(h, by) if by > 0 else h)

        h = nn.Conv(c.channels, (3, 3), dtype=dtype)(x.astype(dtype))
        skips = [h]
        for i, width in enumerate(widths):
            for _ in range(c.blocks):
                h = block(h, width, here(h))
                skips.append(h)
            if i < last:
                h = change(h, -1)
                skips.append(h)
        h = block(block(h, widths[-1], True), widths[-1], False)
        for i in reversed(range(last + 1)):
            for _ in range(c.blocks + 1):
                h = block(jnp.concatenate([h, skips.pop()], axis=-1), widths[i], here(h))
            if i:
                h = change(h, +1)
        h = nn.silu(Norm(jnp.float32)(h.astype(jnp.float32)))
        return nn.Conv(x.shape[-1], (3, 3), kernel_init=ZERO)(h)


class DiT(nn.Module):
    """Transformer over patches with adaptive layer norms that start at zero."""

    case: Case

    @nn.compact
    def __call__(self, x: Any, level: Any, train: bool = False) -> Any:
        c, dtype, p = self.case, jnp.dtype(self.case.dtype), self.case.patch
        emb = Embed(c.width)(level).astype(dtype)
        b, height, width, channels = x.shape
        grid = (height // p, width // p)
        h = x.reshape(b, grid[0], p, grid[1], p, channels).transpose(0, 1, 3, 2, 4, 5)
        h = nn.Dense(c.width, dtype=dtype)(h.reshape(b, math.prod(grid), -1))
        h = h + jnp.asarray(positions(grid, c.width), dtype)
        norm = nn.LayerNorm(use_bias=False, use_scale=False, dtype=dtype)
        for _ in range(c.depth):
            m = nn.Dense(6 * c.width, dtype=dtype, kernel_init=ZERO)(emb)[:, None]
            s1, t1, g1, s2, t2, g2 = jnp.split(m, 6, axis=-1)
            h = h + g1 * Attend(c.heads, dtype)((1 + s1) * norm(h) + t1)
            y = nn.gelu(nn.Dense(4 * c.width, dtype=dtype)((1 + s2) * norm(h) + t2))
            h = h + g2 * nn.Dense(c.width, dtype=dtype)(y)
        s, t = jnp.split(nn.Dense(2 * c.width, dtype=dtype, kernel_init=ZERO)(emb)[:, None], 2, -1)
        h = ((1 + s) * norm(h) + t).astype(jnp.float32)
        y = nn.Dense(p * p * channels, kernel_init=ZERO)(h)
        y = y.reshape(b, *grid, p, p, channels).transpose(0, 1, 3, 2, 4, 5)
        return y.reshape(x.shape)


def positions(grid: tuple[int, int], width: int) -> np.ndarray:
    """Return fixed sines and cosines of rows and columns, (tokens, width)."""
    w = 1e4 ** -(np.arange(width // 4) / (width // 4))
    rows, columns = (
        i.reshape(-1, 1) * w for i in np.meshgrid(*map(np.arange, grid), indexing="ij")
    )
    parts = [f(a) for a in (rows, columns) for f in (np.sin, np.cos)]
    return np.concatenate(parts, axis=-1)


def noised(key: Any, x: Any) -> tuple[Any, Any, Any]:
    """Return x_t of the cosine-free VP process, its noise, and log_snr / 4."""
    key_t, key_z = jax.random.split(key)
    t = jax.random.uniform(key_t, (len(x),), minval=1e-5)
    log_alpha = -0.25 * t**2 * 19.9 - 0.05 * t
    alpha, sigma = jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2 * log_alpha))
    z = jax.random.normal(key_z, x.shape)
    wide = lambda a: a[:, None, None, None]
    return wide(alpha) * x + wide(sigma) * z, z, 0.5 * (log_alpha - jnp.log(sigma))


def module_of(case: Case) -> nn.Module:
    """Return the network of the case."""
    return {"unet": UNet, "dit": DiT}[case.family](case)


def trainer(case: Case, apply: Any, init: Any) -> Work:
    """Return the step of a loop written by hand around any Flax network.

    Args:
        case: what is trained.
        apply: (params, x_t, log_snr / 4, key) -> noise.
        init: key -> params.
    """
    optimizer, decay = optax.adam(case.learning_rate), case.ema_decay

    def step(state: Any, x: Any) -> Any:
        params, opt_state, average, number = state
        key = jax.random.fold_in(jax.random.key(1), number)
        x_t, z, level = noised(key, x)
        loss = lambda p: jnp.mean((apply(p, x_t, level, key) - z) ** 2)
        value, gradient = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)
        return (params, opt_state, average, number + 1), value

    params = drawn(init)
    state = params, optimizer.init(params), jax.tree.map(jnp.copy, params), jnp.zeros((), jnp.int32)
    batches = [jax.device_put(pictures(case, seed=seed)) for seed in range(4)]
    program, facts = compiled(jax.jit(step, donate_argnums=0), state, batches[0])
    facts |= versions("optax") | {"parameters": count(state[0])}
    return Work(run=repeated(program, state, batches), facts=facts, memory=peak_memory)


def train(case: Case, variant: str) -> Work:
    """Return the step of the network written here."""
    del variant
    module = module_of(case)

    def apply(params: Any, x: Any, level: Any, key: Any) -> Any:
        return module.apply(params, x, level, train=True, rngs={"dropout": key})

    x = jnp.zeros((1, *case.shape))
    return trainer(case, apply, lambda key: module.init(key, x, jnp.zeros(1)))


def draw(case: Case, variant: str) -> Work:
    """Return calls that draw a batch by DDIM in one jitted scan."""
    del variant
    module = module_of(case)
    x = jnp.zeros((1, *case.shape))
    params = drawn(lambda key: module.init(key, x, jnp.zeros(1)))
    times = np.linspace(1.0, 1e-3, case.steps + 1)
    log_alpha = -0.25 * times**2 * 19.9 - 0.05 * times
    alpha, sigma = np.exp(log_alpha), np.sqrt(-np.expm1(2 * log_alpha))
    rows = np.stack([alpha[:-1], sigma[:-1], alpha[1:], sigma[1:]], axis=1).astype(np.float32)

    @jax.jit
    def sample(params: Any, key: Any) -> Any:
        def step(x: Any, row: Any) -> Any:
            a, s, a_next, s_next = row
            level = jnp.broadcast_to(0.5 * (jnp.log(a) - jnp.log(s)), (case.batch,))
            z = module.apply(params, x, level)
            return a_next * (x - s * z) / a + s_next * z, None

        x = jax.random.normal(key, (case.batch, *case.shape))
        return jax.lax.scan(step, x, jnp.asarray(rows))[0]

    def run(n: int) -> None:
        for i in range(n):
            y = sample(params, jax.random.key(i))
        jax.block_until_ready(y)

    facts = versions() | {"parameters": count(params), "devices_used": 1}
    return Work(run=run, facts=facts, memory=peak_memory)
