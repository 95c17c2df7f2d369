"""Models with known classes for the laws of guidance: exact denoisers, and a small network of any shape."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import build
from diffusion.guidance.model import ConditionalModel
from diffusion.models.denoiser import make_denoiser, make_velocity
from diffusion.processes import AffineProcess
from diffusion.testing import GaussianMixture

MIXTURE = GaussianMixture([0.3, 0.5, 0.2], [[-1.0, 0.5], [0.8, 0.1], [0.0, -1.2]], [0.2, 0.4, 0.3])
LABELS = np.array([0, 1, 2, 1, 0])


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LabeledMixture:
    """E[x_0 | x_t, label] of a mixture whose components are the classes; label -1 is none."""

    cond: Any
    process: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, x_t, t):
        label = self.cond["label"][:, None]
        x_0 = jnp.where(label < 0, MIXTURE.mean(self.process, x_t, t), 0.0)
        for k in range(3):
            x_0 += jnp.where(label == k, MIXTURE.component(k).mean(self.process, x_t, t), 0.0)
        return x_0

    def with_cond(self, cond):
        return dataclasses.replace(self, cond=cond)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Posterior:
    """The exact classifier of the mixture: log p(class | x_t)."""

    process: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, x_t, t):
        return MIXTURE.log_posterior(self.process, x_t, t)


def mixture_model(process, labels=LABELS, given=None):
    base = LabeledMixture(cond={"label": jnp.asarray(labels)}, process=process)
    return ConditionalModel(base, None, given or {"classifier": Posterior(process)})


@dataclass(frozen=True)
class Pointwise:
    """A network that looks at one place at a time: its parameters fit images of every size."""

    channels: int = 2

    def init(self, key, x, log_snr, cond=None):
        c, (k_1, k_2, k_3) = self.channels, jax.random.split(key, 3)
        dtype = jnp.asarray(x).dtype
        return {
            "in": jax.random.normal(k_1, (c, 8), dtype),
            "label": jax.random.normal(k_2, (4, 8), dtype),
            "out": jax.random.normal(k_3, (8, c), dtype),
        }

    def apply(self, params, x, log_snr, cond=None, key=None):
        label = jnp.zeros(len(x), int) if cond is None else cond["label"] + 1  # 0 is the null token
        level = jnp.broadcast_to(jnp.asarray(log_snr, x.dtype), (len(x),)) / 10
        told = params["label"][label] + level[:, None]
        told = told.reshape(len(x), *(1,) * (x.ndim - 2), -1)
        return jnp.tanh(x @ params["in"] + told) @ params["out"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PointwiseClassifier:
    """Log-probabilities of three classes from the mean over space."""

    weights: Any

    def __call__(self, x, t):
        mean = jnp.tanh(x).reshape(len(x), -1, x.shape[-1]).mean(1)
        return jax.nn.log_softmax(mean @ self.weights.astype(x.dtype))


def network_model(process, x, labels, seed=0, given=None):
    """The pointwise network as the model of a process of any class, with all that entries may ask for."""
    network, cond = Pointwise(x.shape[-1]), {"label": jnp.asarray(labels)}

    def bound(seed, cond):
        params = network.init(jax.random.key(seed), x, 0.0)
        if isinstance(process, AffineProcess):
            return make_denoiser(network, params, process, build("prediction", "v"), cond)
        return make_velocity(network, params, process, cond)

    weights = jax.random.normal(jax.random.key(seed + 2), (x.shape[-1], 3))
    handed = {
        "classifier": PointwiseClassifier(weights),
        "guide": lambda cond: bound(seed + 1, cond),
        "target": 0.3 * jnp.ones(x.shape[1:], x.dtype),
        "negative": {"label": jnp.asarray(2)},
        "measurement": jnp.full(x.shape, 0.3, x.dtype),
        "times": process.default_times(4),
    }
    return ConditionalModel(bound(seed, cond), None, handed | (given or {}))


def inside(process, dtype=None):
    """A time in the middle of the process, by its own clock."""
    return jnp.asarray(process.default_times(4)[2], dtype)
