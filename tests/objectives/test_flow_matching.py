"""Flow matching on a process whose path is simulated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion
from diffusion import build

KEY = jax.random.key(0)


@pytest.mark.slow
def test_trains_by_flow_matching():
    """The loss of an ordinary training step is finite, a function of the row, and has gradients."""

    class Linear:
        def init(self, key, x, log_snr, cond=None):
            return jnp.zeros(())

        def apply(self, params, x, log_snr, cond=None, key=None):
            return params * x

    process = build("process", "nonlinear_sde")
    loss = diffusion.flow_matching_loss(Linear(), process, build("time", "uniform"), batch_size=8)
    batch = dict(data=jnp.ones((8, 3), jnp.float32), row=jnp.arange(8))
    with jax.enable_x64(False):
        value, slope = jax.value_and_grad(lambda p: loss(p, KEY, batch)[0].mean())(0.1)
    assert np.isfinite(value)
    assert slope != 0
    whole = loss(0.1, KEY, batch)[0]
    half = loss(0.1, KEY, jax.tree.map(lambda a: a[4:], batch))[0]
    np.testing.assert_allclose(whole[4:], half, rtol=1e-5)
