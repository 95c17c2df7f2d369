"""Measures against closed forms."""

import numpy as np
import pytest

from diffusion import build
from diffusion.data import Dataset, DataSpec
from diffusion.evaluation import (
    Moments,
    frechet_distance,
    gaussian_distance,
    generate,
    loss_by_level,
)
from diffusion.evaluation.held_out import bits_per_dim
from diffusion.testing import gaussian


def test_frechet_distance_of_diagonal_gaussians():
    """|m_1 - m_2|^2 + sum (sqrt d_1 - sqrt d_2)^2."""
    rng = np.random.default_rng(0)
    m_1, m_2, d_1, d_2 = (
        rng.normal(size=5),
        rng.normal(size=5),
        rng.uniform(0.1, 2, 5),
        rng.uniform(0.1, 2, 5),
    )
    expected = ((m_1 - m_2) ** 2).sum() + ((np.sqrt(d_1) - np.sqrt(d_2)) ** 2).sum()
    np.testing.assert_allclose(
        gaussian_distance(m_1, np.diag(d_1), m_2, np.diag(d_2)), expected, rtol=1e-12
    )


def test_frechet_distance_is_symmetric_and_zero_for_equals():
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(300, 6))
    a, b = Moments.empty(6).add(a), Moments.empty(6).add(b)
    np.testing.assert_allclose(frechet_distance(a, b), frechet_distance(b, a), rtol=1e-10)
    assert abs(frechet_distance(a, a)) < 1e-9 * np.trace(a.covariance)


def test_moments_merge_exactly_over_batches():
    x = np.random.default_rng(2).normal(size=(137, 4))
    parts = Moments.empty(4)
    for piece in np.array_split(x, 5):
        parts = parts.add(piece)
    np.testing.assert_allclose(parts.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(parts.covariance, np.cov(x.T), rtol=1e-12)
    with pytest.raises(ValueError, match="finite"):
        parts.add(np.full((1, 4), np.nan))


class Normal(Dataset):
    """Held-out data N(0.3, 0.25) as a data set."""

    def __init__(self, bits=None):
        self.bits = bits

    @property
    def spec(self):
        return DataSpec(shape=(2,), size=4000, kind="points", bits=self.bits)

    def batch(self, step, batch_size, seed=0, index=None, train=True, rows=None):
        return self.examples(step * batch_size, batch_size)

    def examples(self, start, count):
        x = 0.3 + 0.5 * np.random.default_rng(3).normal(size=(4000, 2)).astype(np.float32)
        if self.spec.bits:
            levels = 2**self.spec.bits - 1
            x = np.round((np.clip(x, -1, 1) + 1) / 2 * levels) / levels * 2 - 1
        return {"data": x[start : start + count].astype(np.float32)}


def test_denoising_error_of_the_exact_denoiser():
    """E|x_0 - E[x_0|x_t]|^2 = s^2 sigma^2 / (alpha^2 s^2 + sigma^2) per dimension, within four standard errors."""
    process = build("process", "vp")
    denoise = gaussian(dim=2).denoiser(process)
    for level in loss_by_level(
        process, lambda cond: denoise, Normal(), num_examples=4000, batch_size=1000
    ):
        snr = np.exp(level.log_snr)  # alpha^2 / sigma^2
        expected = 0.25 / (0.25 * snr + 1)
        assert abs(level.error - expected) < 4 * level.standard_error
        assert level.count == 4000


@pytest.mark.slow
def test_bits_per_dim_of_the_exact_model():
    """8-bit data of N(0.3, 0.25): entropy in bits + log2 of the levels per unit, within four standard errors."""
    process = build("process", "vp")
    denoise = gaussian(dim=2).denoiser(process)
    bits = bits_per_dim(
        process, lambda cond: denoise, Normal(bits=8), num_examples=2000, batch_size=500
    )
    entropy = 0.5 * np.log2(2 * np.pi * np.e * 0.25) + np.log2(127.5)
    # clipping to [-1, 1] concerns 8 percent of the values, at most 0.1 bits
    assert abs(bits.bits_per_dim - entropy) < 4 * bits.standard_error + 0.1
    assert bits.trace == "exact"
    with pytest.raises(ValueError, match="integers"):
        bits_per_dim(process, lambda cond: denoise, Normal())


@pytest.mark.slow
def test_generation_is_a_function_of_the_index():
    process = build("process", "vp")
    denoise = gaussian(dim=2).denoiser(process)
    sampler, times = build("sampler", "ancestral"), process.default_times(5)
    run = lambda **k: np.concatenate(
        list(generate(sampler, process, lambda cond: denoise, 0, shape=(2,), times=times, **k))
    )
    whole = run(num_samples=7, batch_size=7)
    np.testing.assert_array_equal(run(num_samples=7, batch_size=3), whole)
    np.testing.assert_array_equal(run(num_samples=3, batch_size=2, start=4), whole[4:])
