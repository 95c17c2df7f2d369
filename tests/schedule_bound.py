"""The likelihood bound of a schedule by quadrature, which the laws and the training of schedules are held to."""

import jax.numpy as jnp
import numpy as np

from diffusion import build


def quadrature(num=64):
    """Gauss-Legendre nodes and weights on 16 panels of [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(num)
    start = np.arange(16)[:, None] / 16
    return jnp.asarray((start + (nodes + 1) / 32).ravel()), jnp.asarray(np.tile(weights / 32, 16))


def terms(process, std):
    """-1/2 dSNR/dt E|x_0 - E[x_0 | x_t]|^2 for N(0, std^2), in nats, and the weights of its times."""
    t, dt = quadrature()
    c = process.coefficients(t, jnp.zeros(t.shape))
    weight = build("weight", "likelihood")(c, jnp.ones_like(t))
    return weight * std**2 * c.sigma**2 / (c.alpha**2 * std**2 + c.sigma**2), dt
