"""A network for noise with heavy tails: it scales each x_t by its own length, not by its time.

z of the Student law with nu degrees of freedom is normal noise of a random size, and given x_t = x_0 + t z for small x_0
the expected square of that size is s^2 = (nu t^2 + |x_t|^2) / (nu + d). With s in the place of t, the combination
of Karras et al. (2022) has inputs and outputs of order 1 wherever x_t lies:

    x_0_hat = sigma_data^2 / n^2 x_t + s sigma_data / n F(x_t / n),   n^2 = sigma_data^2 + s^2

It stands behind the prediction `data`, which hands it x_t / sqrt(1 + t^2).
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.networks.base import FlaxNetwork
from diffusion.networks.mlp import MLP
from diffusion.types import Cond


class TailMLP(nn.Module):
    """The residual MLP of the package inside that combination; it is told s as well as t.

    Attributes:
        width: of the MLP.
        depth: of the MLP.
        nu: degrees of freedom of the noise.
        sigma_data: standard deviation of the data, per coordinate.
        num_classes: labels are not used; 0.
    """

    width: int = 64
    depth: int = 3
    nu: float = 1.0
    sigma_data: float = 1.0
    num_classes: int = 0

    @nn.compact
    def __call__(self, x: Array, log_snr: Array, cond: Cond = None) -> Array:
        """Return E[x_0 | x_t], shaped like x."""
        t = jnp.broadcast_to(jnp.exp(-0.5 * log_snr), x.shape[:1])[:, None]
        x_t = x * jnp.sqrt(1 + t**2)
        square = (x_t**2).sum(axis=-1, keepdims=True)
        size = jnp.sqrt((self.nu * t**2 + square) / (self.nu + x.shape[-1]))
        n = jnp.sqrt(self.sigma_data**2 + size**2)
        seen = jnp.concatenate([x_t / n, jnp.log(size / t)], axis=-1)
        y = MLP(width=self.width, depth=self.depth, name="mlp")(seen, log_snr, cond)
        return (self.sigma_data / n) ** 2 * x_t + size * self.sigma_data / n * y[..., :-1]


def tail_mlp(**fields: Any) -> FlaxNetwork:
    """Build the network from its fields."""
    return FlaxNetwork(TailMLP(**fields))
