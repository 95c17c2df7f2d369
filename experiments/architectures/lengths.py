"""Attention at other numbers of tokens than in training, where the best error is known.

Signals are stationary: x_i = a cos(w i + p) + an Ornstein-Uhlenbeck part, all Gaussian, so that the posterior mean is a
matrix (Wiener's filter) at every length. With w the same in every signal, phase and amplitude must be gathered from the
whole signal, while the rest of it is local: attention has something to do near and far.
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
from diffusion.objectives.losses import regression_loss
from diffusion.testing.correlated import CorrelatedGaussian

PROCESS: Any = build("process", "vp")
PREDICTION: Any = build("prediction", "v")
LEVELS = (-2.0, 0.0, 2.0)


def covariance(length: int) -> np.ndarray:
    """Return the covariance of a signal, of variance 1: half of it a wave of period 5, half correlated over 2."""
    lag = np.abs(np.arange(length)[:, None] - np.arange(length)).astype(float)
    return 0.5 * np.cos(2 * np.pi * lag / 5) + 0.5 * np.exp(-lag / 2)


def target(length: int) -> CorrelatedGaussian:
    """Return the law of signals of a length."""
    return CorrelatedGaussian(np.zeros(length), covariance(length))


@dataclass(frozen=True, kw_only=True)
class Signals:
    """A transformer with one token per number, trained at one length."""

    length: int
    num_steps: int
    width: int = 32
    depth: int = 3
    batch_size: int = 64
    scale: bool = False  # train_tokens is given when asked at other lengths
    positions: str = "rotary"

    def network(self) -> Any:
        """Return the network, which attends as in training at the length of training."""
        return build(
            "network",
            dict(name="dit", patch=1, width=self.width, depth=self.depth, heads=2, positions=self.positions,
                 train_tokens=self.length if self.scale else None),
        )  # fmt: skip

    def train(self, seed: int) -> Any:
        """Return parameters."""
        return jax.jit(self._run)(jax.random.key(seed))

    def _run(self, key: Array) -> Any:
        optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, self.num_steps))
        network, law = self.network(), target(self.length)
        loss = regression_loss(
            network, PROCESS, PREDICTION, build("weight", "simple"),
            build("time", dict(name="uniform_log_snr", stratified=True)), batch_size=self.batch_size,
        )  # fmt: skip
        key_init, key_steps = jax.random.split(key)
        params = network.init(key_init, jnp.zeros((1, self.length, 1)), jnp.zeros(1))
        row = jnp.arange(self.batch_size)

        def step(state: Any, key: Array) -> tuple[Any, None]:
            params, moments = state
            key_data, key_loss = jax.random.split(key)
            data = law.sample(key_data, self.batch_size).astype(jnp.float32)[..., None]
            mean = lambda p: loss(p, key_loss, {"data": data, "row": row})[0].mean()
            updates, moments = optimizer.update(jax.grad(mean)(params), moments)
            return (optax.apply_updates(params, updates), moments), None

        state, _ = jax.lax.scan(
            step, (params, optimizer.init(params)), jax.random.split(key_steps, self.num_steps)
        )
        return state[0]

    def errors(self, params: Any, length: int, count: int = 256) -> dict[str, dict[str, float]]:
        """Return E|x_0 - x_0_hat|^2 per number at a length, by log-SNR: exact, plain, with log n."""
        law = target(length)
        key_x, key_z = jax.random.split(jax.random.key(5))
        x_0 = law.sample(key_x, count).astype(jnp.float32)
        z = jax.random.normal(key_z, x_0.shape)
        models = {
            name: make_denoiser(
                dataclasses.replace(self, scale=s).network(), params, PROCESS, PREDICTION
            )
            for name, s in (("plain", False), ("log n", True))
        }
        found: dict[str, dict[str, float]] = {}
        for level in LEVELS:
            t = jnp.full(count, PROCESS.time_of_log_snr(level), jnp.float32)
            x_t = PROCESS.interpolate(x_0, z, t)
            error = lambda x, x_0=x_0: float(((x - x_0) ** 2).mean())
            row = found[f"{level:g}"] = {"exact": error(law.denoiser(PROCESS)(x_t, t))}
            for name, model in models.items():
                row[name] = error(jax.jit(type(model).__call__)(model, x_t[..., None], t)[..., 0])
        return found


def measure(signals: Signals, lengths: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Train once and ask at every length."""
    params = signals.train(seed)
    return {str(n): signals.errors(params, n) for n in lengths}
