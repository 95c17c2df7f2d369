"""The target of a batch: E[x_0 | x_t] as if the batch were all there is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import build
from diffusion.objectives.losses import batch_mean, demolish, regression_loss
from diffusion.testing import FinitePoints

KEY = jax.random.key(0)
POINTS = np.array([[1.0, 0.0], [-1.0, 0.5], [0.0, -1.0], [0.4, 0.9]])


def drawn(process, data, cond=None):
    batch = {"data": jnp.asarray(data), "row": jnp.arange(len(data))}
    batch |= {} if cond is None else {"cond": cond}
    return batch, demolish(process, build("time", "uniform"), KEY, batch, len(data))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vp", "poisson_flow"])
def test_it_is_the_exact_posterior_mean_of_the_batch(name):
    process = build("process", name)
    _, d = drawn(process, POINTS)
    expected = FinitePoints(POINTS).mean(process, d.x_t, d.t)
    np.testing.assert_allclose(batch_mean(process, d, None), expected, rtol=1e-9, atol=1e-12)


def test_examples_of_other_labels_do_not_count():
    """Labels 0, 0, 1 and none: the first two see each other, the third itself, the last all."""
    process = build("process", "edm")
    label = jnp.array([0, 0, 1, -1])
    _, d = drawn(process, POINTS, {"label": label})
    found = batch_mean(process, d, {"label": label})
    mean = lambda points: FinitePoints(points).mean(process, d.x_t, d.t)
    np.testing.assert_allclose(found[:2], mean(POINTS[:2])[:2], rtol=1e-9)
    np.testing.assert_allclose(found[2], POINTS[2], rtol=1e-9)
    np.testing.assert_allclose(found[3], mean(POINTS)[3], rtol=1e-9)
    with pytest.raises(TypeError, match="integer labels"):
        batch_mean(process, d, jnp.ones((4, 3)))


@pytest.mark.slow
def test_the_loss_of_the_exact_denoiser_is_zero():
    """A network that knows the whole batch's field has nothing left to learn, unlike with targets x_0."""
    process, target = build("process", "edm"), FinitePoints(POINTS)

    class Exact:
        def init(self, key, x, log_snr, cond=None):
            return ()

        def apply(self, params, x, log_snr, cond=None, key=None):
            t = jnp.exp(-0.5 * log_snr)
            x_t = x * jnp.sqrt(1 + t**2)[:, None]
            return target.mean(process, x_t, t)

    batch, _ = drawn(process, POINTS)
    parts = Exact(), process, build("prediction", "data"), build("weight", "simple")
    loss = lambda batch_target: regression_loss(
        *parts, build("time", "uniform"), batch_size=4, batch_target=batch_target
    )((), KEY, batch)[0]
    assert float(loss(True).max()) < 1e-20
    assert float(loss(False).mean()) > 0.1
