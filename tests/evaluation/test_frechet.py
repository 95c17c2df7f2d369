"""The Frechet distance against closed forms, against the usual formula, and where examples are few."""

import numpy as np
import pytest

from diffusion.evaluation import Moments, frechet_distance, frechet_infinity, gaussian_distance
from diffusion.evaluation.frechet import Sample, frechet_of_samples


def rotation(rng, dim):
    return np.linalg.qr(rng.normal(size=(dim, dim)))[0]


def sample(x):
    return Sample.of(iter(np.array_split(x, 3)), x.shape[1])


def usual_formula(mean_1, cov_1, mean_2, cov_2):
    """The formula of the published implementations: the real part of the root of the product of covariances."""
    from scipy.linalg import sqrtm

    root = sqrtm(cov_1 @ cov_2)
    if np.iscomplexobj(root):
        root = root.real
    shift = mean_1 - mean_2
    return shift @ shift + np.trace(cov_1) + np.trace(cov_2) - 2 * np.trace(root)


@pytest.mark.parametrize("seed", range(3))
def test_commuting_covariances_have_a_closed_form(seed):
    """|m_1 - m_2|^2 + sum (sqrt a - sqrt b)^2 in the basis that both share, to 1e-8 relative and better."""
    rng = np.random.default_rng(seed)
    dim = 12
    q, shift = rotation(rng, dim), rng.normal(size=dim)
    a, b = rng.uniform(0.01, 3, dim), rng.uniform(0.01, 3, dim)
    expected = (shift**2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    found = gaussian_distance(shift, (q * a) @ q.T, np.zeros(dim), (q * b) @ q.T)
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_one_dimension_and_scale():
    """(m_1 - m_2)^2 + (s_1 - s_2)^2; scaling a covariance by c^2 costs (c - 1)^2 tr C."""
    one = lambda s: np.array([[s**2]])
    found = gaussian_distance(np.array([1.0]), one(2.0), np.array([-0.5]), one(0.3))
    np.testing.assert_allclose(found, 1.5**2 + 1.7**2, rtol=1e-14)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6))
    cov, zero = np.cov(x.T), np.zeros(6)
    np.testing.assert_allclose(
        gaussian_distance(zero, cov, zero, 9 * cov), 4 * np.trace(cov), rtol=1e-10
    )


@pytest.mark.parametrize(("dim", "n", "m"), [(8, 200, 150), (64, 1000, 359), (48, 400, 400)])
def test_the_usual_formula_on_the_same_features(dim, n, m):
    """1e-6 relative to the formula with a matrix square root of the product, as it is in use everywhere."""
    rng = np.random.default_rng(dim)
    mix = rng.normal(size=(dim, dim))
    x, y = np.maximum(rng.normal(size=(n, dim)) @ mix, 0), np.maximum(rng.normal(size=(m, dim)), 0)
    expected = usual_formula(x.mean(0), np.cov(x.T), y.mean(0), np.cov(y.T))
    a, b = (Moments.empty(dim).add(z) for z in (x, y))
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-6)
    np.testing.assert_allclose(frechet_of_samples(sample(x), sample(y)), expected, rtol=1e-6)


def test_both_forms_agree_where_both_hold():
    """With more examples than features the nuclear norm and the eigenvalues give the same."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(80, 10)), 1 + 2 * rng.normal(size=(60, 10))
    few = [Sample(Moments.empty(10).add(z), [z]) for z in (x, y)]
    many = [sample(z) for z in (x, y)]
    assert many[0].rows is None
    for a, b in [(few[0], few[1]), (few[0], many[1]), (many[0], few[1])]:
        np.testing.assert_allclose(frechet_of_samples(a, b), frechet_of_samples(*many), rtol=1e-10)


def test_fewer_examples_than_features():
    """A set is at distance 0 from itself to round-off, and two points are |a - b|^2 apart in the known way."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(20, 300))
    a = sample(x)
    assert a.rows is not None
    spread = np.trace(a.moments.covariance)
    assert abs(frechet_of_samples(a, sample(x[::-1]))) < 1e-12 * spread
    # orthogonal subspaces have no common part: |shift|^2 + tr C_1 + tr C_2
    left, right = np.zeros((5, 20)), np.zeros((6, 20))
    left[:, :8], right[:, 8:] = rng.normal(size=(5, 8)), rng.normal(size=(6, 12))
    shift = left.mean(0) - right.mean(0)
    expected = shift @ shift + np.trace(np.cov(left.T)) + np.trace(np.cov(right.T))
    np.testing.assert_allclose(
        frechet_of_samples(sample(left), sample(right)), expected, rtol=1e-12
    )


def test_features_that_never_change():
    """Constant and repeated features: the same set in other batches is the same to 1e-10, and costs nothing."""
    rng = np.random.default_rng(6)
    x = np.maximum(rng.normal(size=(400, 10)), 0)
    wide = lambda z: np.concatenate([z, np.ones((len(z), 5)), z[:, :3]], axis=1)
    y = np.maximum(rng.normal(size=(300, 10)) + 0.2, 0)
    found = frechet_of_samples(sample(wide(x)), sample(wide(y)))
    other = Sample.of(iter(np.array_split(wide(x), 17)), 18)
    np.testing.assert_allclose(frechet_of_samples(other, sample(wide(y))), found, rtol=1e-10)
    assert abs(frechet_of_samples(other, sample(wide(x)))) < 1e-12


def test_symmetry_rotation_and_order():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(90, 7)) @ rng.normal(size=(7, 7)), rng.normal(size=(70, 7))
    q, base = rotation(rng, 7), frechet_of_samples(sample(x), sample(y))
    same = [(y, x), (x @ q, y @ q), (x[rng.permutation(90)], y), (x + 5, y + 5)]
    for a, b in same:
        np.testing.assert_allclose(frechet_of_samples(sample(a), sample(b)), base, rtol=1e-10)
    np.testing.assert_allclose(
        frechet_of_samples(sample(3 * x), sample(3 * y)), 9 * base, rtol=1e-10
    )


def test_the_bias_falls_as_one_over_n_and_is_taken_away():
    """For one Gaussian and itself N FD_N is constant to 20 %, and the extrapolated value is near 0."""
    rng, dim = np.random.default_rng(4), 16
    exact = Moments(2, np.zeros(dim), np.eye(dim))  # scatter / (count - 1) = identity
    mean_of = lambda n, k: np.mean(
        [
            frechet_distance(Moments.empty(dim).add(rng.normal(size=(n, dim))), exact)
            for _ in range(k)
        ]
    )
    scaled = [n * mean_of(n, k) for n, k in ((200, 40), (800, 20), (3200, 10))]
    assert max(scaled) / min(scaled) < 1.2
    found = frechet_infinity(rng.normal(size=(2000, dim)), exact)
    assert abs(found.value) < 4 * found.standard_error < scaled[0] / 2000


def test_the_interval_holds_the_truth_in_nine_of_ten_cases():
    """40 seeds, true distance |shift|^2 = 0.2: at least 90 % less two standard errors of that share."""
    rng, dim = np.random.default_rng(5), 6
    exact = Moments(2, np.full(dim, np.sqrt(0.2 / dim)), np.eye(dim))
    held = []
    for seed in range(40):
        found = frechet_infinity(rng.normal(size=(600, dim)), exact, seed=seed)
        held.append(found.low <= 0.2 <= found.high)
    assert np.mean(held) >= 0.9 - 2 * np.sqrt(0.9 * 0.1 / 40)


def test_too_few_for_the_extrapolation():
    with pytest.raises(ValueError, match=r"at least \d+; got 50"):
        frechet_infinity(np.zeros((50, 20)), Moments(2, np.zeros(20), np.eye(20)))


def test_the_floor_is_of_as_many():
    """A floor of n of the examples has the bias of n; of more than are kept, all are taken."""
    from diffusion.evaluation.metrics.frechet import as_many
    from diffusion.evaluation.reference import Statistics

    x = np.random.default_rng(7).normal(size=(90, 4))
    found = Statistics(about={}, moments=Moments.empty(4).add(x), rows=x[:50], index=np.arange(50))
    assert [as_many(found, n).count for n in (20, 50, 60, 90, 200)] == [20, 50, 90, 90, 90]
