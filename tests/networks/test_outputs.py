"""Networks with more outputs than inputs, for a learned variance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion.networks  # noqa: F401  (fills the registry)
from diffusion.registry import build

CASES = [
    ("mlp", {"width": 16, "depth": 1}),
    ("unet", {"channels": 8, "multipliers": (1,), "middle_attention": False, "patch": 2}),
    ("dit", {"width": 16, "depth": 1, "heads": 2}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_outputs_multiply_the_last_axis(case):
    name, fields = case
    x, log_snr = jnp.ones((2, 8, 8, 3)), jnp.zeros(2)
    for outputs in (1, 2):
        network = build("network", {"name": name, **fields, "outputs": outputs})
        params = jax.eval_shape(network.init, jax.random.key(0), x, log_snr)
        shape = jax.eval_shape(network.apply, params, x, log_snr).shape
        assert shape == (2, 8, 8, 3 * outputs)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_one_output_is_the_network_as_it_was(case):
    name, fields = case
    x, log_snr = jnp.ones((1, 4, 4, 1)), jnp.zeros(1)
    plain, same = (
        build("network", {"name": name, **fields, **more}) for more in ({}, {"outputs": 1})
    )
    assert plain == same
    params = plain.init(jax.random.key(0), x, log_snr)
    np.testing.assert_array_equal(plain.apply(params, x, log_snr), same.apply(params, x, log_snr))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0])
def test_outputs_are_checked(case):
    name, fields = case
    x, log_snr = jnp.ones((1, 4, 4, 1)), jnp.zeros(1)
    with pytest.raises(ValueError, match="outputs"):
        build("network", {"name": name, **fields, "outputs": 0}).init(jax.random.key(0), x, log_snr)
