"""Targets, weights and training times are held to closed forms in float64."""

import jax
import pytest


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield
