"""Loss weights as functions of the noise level.

A weight is a function of the process's coefficients at t and of `out`, the factor that turns an error of
the network's output into an error of the data. It multiplies the squared error of the *network's output*,
so that w(SNR) |x_0 - x_0_hat|^2 is the weight w(SNR) out^2. SNR is alpha^2 / sigma^2.

A weight may also be learned: `LearnedUncertainty` adds its own parameters to those of the network.

References: Song et al. 2021b (likelihood), Hang et al. 2023 (min-SNR), Crowson et al. 2024 (soft min-SNR),
Salimans and Ho 2022 (truncated SNR, SNR + 1), Karras et al. 2022, 2024 (edm, uncertainty), Kingma and Gao
2023 (sigmoid), Ho et al. 2020 and Su, kexue.fm 9152 (elbo).
"""

import abc
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.numerics import at_least, positive
from diffusion.registry import register
from diffusion.types import Coefficients, Cond, Key, Network, Params, Scalar


def snr(c: Coefficients) -> Array:
    """Return alpha^2 / sigma^2."""
    return (c.alpha / c.sigma) ** 2


@dataclass(frozen=True, kw_only=True)
class Weight(abc.ABC):
    """A weight of the loss as a function of the noise level."""

    @abc.abstractmethod
    def __call__(self, c: Coefficients, out: Array) -> Array:
        """Return the weight of |y - y_hat|^2, shaped like the coefficients."""

    def wrap(self, network: Network) -> Network:
        """Return the network, with the parameters of a learned weight added to its own."""
        return network

    def uncertainty(self, params: Params, log_snr: Array) -> Array | None:
        """Return u, (batch,), for the loss exp(-u) L + u, or None to leave L unchanged."""
        del params, log_snr
        return None


@register("weight", "simple")
@final
@dataclass(frozen=True, kw_only=True)
class Simple(Weight):
    """1 on the network's target (Ho et al., 2020, eq. 14)."""

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return jnp.ones_like(c.alpha)


@register("weight", "snr")
@final
@dataclass(frozen=True, kw_only=True)
class SNR(Weight):
    """SNR on the data, which is 1 on the noise."""

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return snr(c) * out**2


@register("weight", "snr_plus_one")
@final
@dataclass(frozen=True, kw_only=True)
class SNRPlusOne(Weight):
    """SNR + 1 on the data, which is 1 on v for a variance-preserving process."""

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return (snr(c) + 1) * out**2


@register("weight", "truncated_snr")
@final
@dataclass(frozen=True, kw_only=True)
class TruncatedSNR(Weight):
    """max(SNR, 1) on the data."""

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return jnp.maximum(snr(c), 1) * out**2


@register("weight", "min_snr")
@final
@dataclass(frozen=True, kw_only=True)
class MinSNR(Weight):
    """min(SNR, gamma) on the data."""

    gamma: Scalar = 5.0

    def __post_init__(self) -> None:
        positive(gamma=self.gamma)

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return jnp.minimum(snr(c), self.gamma) * out**2


@register("weight", "soft_min_snr")
@final
@dataclass(frozen=True, kw_only=True)
class SoftMinSNR(Weight):
    """SNR gamma / (SNR + gamma) on the data: min-SNR without the corner (Crowson et al., 2024, eq. 7)."""

    gamma: Scalar = 4.0

    def __post_init__(self) -> None:
        positive(gamma=self.gamma)

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return snr(c) * self.gamma / (snr(c) + self.gamma) * out**2


@register("weight", "sigmoid")
@final
@dataclass(frozen=True, kw_only=True)
class Sigmoid(Weight):
    """sigmoid(bias - log SNR) on the noise, which is SNR sigmoid(bias - log SNR) on the data."""

    bias: Scalar = -1.0

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return snr(c) * jax.nn.sigmoid(self.bias - jnp.log(snr(c))) * out**2


@register("weight", "edm")
@final
@dataclass(frozen=True, kw_only=True)
class EDMWeight(Weight):
    """((alpha sigma_data)^2 + sigma^2) / (sigma sigma_data)^2 on the data, which is 1 on the edm target."""

    sigma_data: Scalar = 0.5

    def __call__(self, c: Coefficients, out: Array) -> Array:
        total = (c.alpha * self.sigma_data) ** 2 + c.sigma**2
        return total / (c.sigma * self.sigma_data) ** 2 * out**2


@register("weight", "likelihood")
@final
@dataclass(frozen=True, kw_only=True)
class Likelihood(Weight):
    """-1/2 dSNR/dt on the data, which makes the loss an upper bound of -log p, up to a constant.

    In terms of the score it is g^2 / 2. -1/2 dSNR/dt = alpha (alpha sigma' - alpha' sigma) / sigma^3.
    """

    def __call__(self, c: Coefficients, out: Array) -> Array:
        wronskian = c.alpha * c.d_sigma - c.d_alpha * c.sigma
        return c.alpha * wronskian / c.sigma**3 * out**2


@register("weight", "elbo")
@final
@dataclass(frozen=True, kw_only=True)
class ELBO(Weight):
    """(SNR(t - step) - SNR(t)) / 2 on the data: one term of the bound of a chain of such steps, in nats.

    It is the KL divergence between the posteriors of x_s given x_0 and given its estimate, both with the
    posterior's variance; on the noise of a chain it is beta^4 / (2 sigma^2 alpha^2 bbar^2) (Su, kexue.fm
    9152). Its mean over uniform t, times the number of steps, is the diffusion term of -log p; divided by the step
    it tends to `likelihood`. The chain ends at t_min. `step` is by default the `chain_step` of the process: 1 / T
    for a chain, else 0.001.
    """

    step: Scalar | None = dataclasses.field(
        default=None, metadata={"formerly": 1e-3, "of_process": "chain_step"}
    )

    def __post_init__(self) -> None:
        positive(step=self.step, of="the weight elbo", none="that of the process")

    def __call__(self, c: Coefficients, out: Array) -> Array:
        alpha, sigma = c.before(self.step, trained=True)
        # SNR_s - SNR_t = SNR_t (SNR_s / SNR_t - 1) by log1p and expm1, since the ratio is near 1
        log_ratio = jnp.log1p((alpha - c.alpha) / c.alpha) + jnp.log1p((c.sigma - sigma) / sigma)
        return 0.5 * snr(c) * jnp.expm1(2 * log_ratio) * out**2


@dataclass(frozen=True)
class UncertainNetwork:
    """A network with the parameters of u(log_snr) in addition: {"network": ..., "uncertainty": ...}.

    The output is that of the network alone, so that u affects neither sampling nor evaluation.
    """

    network: Network
    features: int = 64

    @property
    def stacked(self) -> tuple[str, ...]:
        """The stacked parts of the network; see `FlaxNetwork.stacked`."""
        return getattr(self.network, "stacked", ())

    def init(self, key: Key, x: Array, log_snr: Array, cond: Cond = None) -> Params:
        """Draw the network's parameters; u is initially 0."""
        params = self.network.init(key, x, log_snr, cond)
        return {"network": params, "uncertainty": jnp.zeros(self.features, jnp.float32)}

    def apply(
        self, params: Params, x: Array, log_snr: Array, cond: Cond = None, key: Key | None = None
    ) -> Array:
        """Return the network's output."""
        return self.network.apply(params["network"], x, log_snr, cond, key)


@register("weight", "learned_uncertainty")
@final
@dataclass(frozen=True, kw_only=True)
class LearnedUncertainty(Weight):
    """exp(-u) L + u with a trained u(log_snr), where L is the loss under `weight` (Karras et al., 2024, eq. 21).

    u tends to log E[L] per feature, so that all noise levels contribute equally (Kendall et al., 2018). It is
    linear in fixed random cosines of log_snr / 8, EDM2's noise label up to sign. Train `weight.wrap(network)`
    instead of the network: it has the parameters of u in addition to the network's own.

    Args:
        weight: the weight of L, an object or its name.
        features: number of cosines.
    """

    weight: Weight = dataclasses.field(default=EDMWeight(), metadata={"kind": "weight"})
    features: int = 64

    def __post_init__(self) -> None:
        at_least(1, features=self.features)

    def __call__(self, c: Coefficients, out: Array) -> Array:
        return self.weight(c, out)

    def wrap(self, network: Network) -> Network:
        return UncertainNetwork(network, self.features)

    def uncertainty(self, params: Params, log_snr: Array) -> Array:
        if not isinstance(params, Mapping) or "uncertainty" not in params:
            raise ValueError(
                "the weight learned_uncertainty has its own parameters: train `weight.wrap(network)`, not the network."
            )
        random = np.random.default_rng(0)
        frequency, phase = random.normal(size=self.features), random.uniform(size=self.features)
        frequency[0] = phase[0] = 0.0  # the first feature is constant
        angles = log_snr[:, None] * (frequency / 8) + phase
        cosines = jnp.cos(2 * jnp.pi * angles) * np.sqrt(2 / self.features)
        return cosines.astype(log_snr.dtype) @ params["uncertainty"].astype(log_snr.dtype)
