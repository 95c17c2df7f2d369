"""Losses of classifiers against their mathematics: limits, gradients, soft labels, stability."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.classifiers.classifier import Columns, columns_of
from diffusion.classifiers.losses import symmetric_divergence
from diffusion.registry import build, registered

pytestmark = pytest.mark.usefixtures("x64")

KEY = jax.random.key(0)
LOSSES = registered("classifier_loss")
ONE_LABEL = [name for name in LOSSES if not build("classifier_loss", name).multi_label]
MULTI_LABEL = [name for name in LOSSES if build("classifier_loss", name).multi_label]
EXACT = 1e-12  # float64, numbers of order one, a few dozen operations


def scores_and_classes(rows=6, columns=5, scale=2.0):
    key_s, key_y = jax.random.split(KEY)
    scores = scale * jax.random.normal(key_s, (rows, columns))
    return scores, jax.nn.one_hot(jax.random.randint(key_y, (rows,), 0, columns), columns)


def loss_of(name, **fields):
    return build("classifier_loss", dict(name=name, **fields))


def close(a, b, tolerance=EXACT):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# ---- every loss ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_finite_and_not_negative_however_large_the_scores(name):
    """At scores of 1e4 the exponentials overflow in float64; losses and gradients must not."""
    loss, (scores, target) = loss_of(name), scores_and_classes()
    for scale in (1.0, 1e4):
        value, gradient = jax.value_and_grad(lambda s: loss(s, target).sum())(scale * scores)
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient).all()
        assert (loss(scale * scores, target) >= -1e-15).all()  # the logarithm of 1, rounded


@pytest.mark.parametrize("name", LOSSES)
def test_what_is_not_known_costs_nothing(name):
    loss, (scores, _) = loss_of(name, smoothing=0.1), scores_and_classes()
    unknown = jnp.full(scores.shape, -1.0)
    value, gradient = jax.value_and_grad(lambda s: loss(s, loss.smoothed(unknown)).sum())(scores)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("name", LOSSES)
def test_probabilities_are_probabilities(name):
    loss, (scores, _) = loss_of(name), scores_and_classes()
    p = jnp.exp(loss.log_probs(scores))
    assert ((p > 0) & (p < 1)).all()
    if not loss.multi_label:
        close(p.sum(axis=-1), 1.0)
    else:  # holding and not holding add up, which is what NetworkClassifier.log_prob relies on
        close(p + jnp.exp(loss.log_probs(-scores)), 1.0)


@pytest.mark.parametrize("name", LOSSES)
def test_smoothing_spreads_a_share_of_the_target(name):
    loss, (_, target) = loss_of(name, smoothing=0.2), scores_and_classes(columns=5)
    even = 0.5 if loss.multi_label else 0.2
    close(loss.smoothed(target), 0.8 * target + 0.2 * even)


@pytest.mark.parametrize("name", LOSSES)
def test_fields_are_checked(name):
    for field, value in dict(smoothing=1.0, consistency=-1.0).items():
        with pytest.raises(ValueError, match=f"`{field}`"):
            loss_of(name, **{field: value})
    with pytest.raises(ValueError, match="`gamma`"):
        loss_of("interpolated_cross_entropy", gamma=1.5)


# ---- one label ----------------------------------------------------------------------------------


def test_cross_entropy_of_soft_labels_is_least_at_the_label():
    scores, _ = scores_and_classes()
    target = jax.nn.softmax(scores)
    gradient = jax.grad(lambda s: loss_of("cross_entropy")(s, target).sum())(scores)
    close(gradient, 0.0)


def test_interpolated_cross_entropy_has_both_ends():
    scores, target = scores_and_classes()
    p = (jax.nn.softmax(scores) * target).sum(axis=-1)
    ends = {0.0: -jnp.log(p), 1.0: 1 - p}
    for gamma, expected in ends.items():
        close(loss_of("interpolated_cross_entropy", gamma=gamma)(scores, target), expected)
    # to first order in the distance from the end: |L(g) - L(0)| <= g / p, |L(1 - d) - L(1)| <= d / p
    near = loss_of("interpolated_cross_entropy", gamma=1e-9)(scores, target)
    assert (jnp.abs(near - ends[0.0]) <= 1e-9 * (1 / p + ends[0.0])).all()
    near = loss_of("interpolated_cross_entropy", gamma=1 - 1e-9)(scores, target)
    assert (jnp.abs(near - ends[1.0]) <= 1e-9 / p).all()


@pytest.mark.parametrize("gamma", [0.0, 1e-7, 0.1, 0.499, 0.5, 0.8, 1.0])
def test_interpolated_cross_entropy_is_its_formula_and_weighs_the_gradient(gamma):
    """d/ds = p / (gamma + (1 - gamma) p) times the gradient of the cross-entropy."""
    loss, (scores, target) = (
        loss_of("interpolated_cross_entropy", gamma=gamma),
        scores_and_classes(),
    )
    p = (jax.nn.softmax(scores) * target).sum(axis=-1)
    if gamma < 1:
        close(loss(scores, target), -jnp.log(gamma + (1 - gamma) * p) / (1 - gamma), 1e-10)
    gradient = jax.grad(lambda s: loss(s, target).sum())(scores)
    plain = jax.grad(lambda s: loss_of("cross_entropy")(s, target).sum())(scores)
    close(gradient, plain * (p / (gamma + (1 - gamma) * p))[:, None])


def test_interpolated_cross_entropy_keeps_its_digits():
    """At a tiny p the loss is ln(1 / p) for gamma = 0, and at p near 1 it is 1 - p for every gamma."""
    hopeless, sure = jnp.array([[-300.0, 0.0]]), jnp.array([[20.0, 0.0]])
    target = jnp.array([[1.0, 0.0]])
    close(loss_of("interpolated_cross_entropy", gamma=0.0)(hopeless, target), 300.0)
    rounding = 2**-53 / np.exp(-20)  # of the log-softmax, relative to 1 - p = e^-20 / (1 + e^-20)
    for gamma in (0.5, 0.8, 1.0):
        value = loss_of("interpolated_cross_entropy", gamma=gamma)(sure, target)
        np.testing.assert_allclose(value, np.exp(-20), rtol=2 * rounding)


# ---- several labels -----------------------------------------------------------------------------


def multi_hot(rows=8, columns=4):
    return jax.random.bernoulli(jax.random.key(3), 0.5, (rows, columns)).astype(float)


def test_zlpr_is_its_formula():
    scores, _ = scores_and_classes(8, 4)
    target = multi_hot()
    negative = jnp.where(target == 0, jnp.exp(scores), 0).sum(axis=-1)
    positive = jnp.where(target == 1, jnp.exp(-scores), 0).sum(axis=-1)
    close(loss_of("zlpr")(scores, target), jnp.log1p(negative) + jnp.log1p(positive))


def test_zlpr_without_threshold_and_with_one_positive_is_the_cross_entropy():
    """log(1 + sum_neg sum_pos e^(s_i - s_j)); the loss with its threshold contains those pairs.

    (1 + sum_neg e^s)(1 + sum_pos e^-s) = 1 + sum_neg e^s + sum_pos e^-s + sum_neg sum_pos e^(s_i - s_j).
    """
    scores, target = scores_and_classes()
    negative = jnp.where(target == 0, jnp.exp(scores), 0).sum(axis=-1)
    positive = jnp.where(target == 1, jnp.exp(-scores), 0).sum(axis=-1)
    close(jnp.log1p(negative * positive), loss_of("cross_entropy")(scores, target))
    pairs = jnp.expm1(loss_of("cross_entropy")(scores, target))
    close(jnp.exp(loss_of("zlpr")(scores, target)), 1 + negative + positive + pairs, 1e-11)


@pytest.mark.parametrize("name", MULTI_LABEL)
def test_soft_labels_have_their_optimum_where_log_probs_says(name):
    """zlpr: t = sigmoid(2 s); binary cross-entropy: t = sigmoid(s)."""
    loss, (scores, _) = loss_of(name), scores_and_classes(8, 4)
    target = jnp.exp(loss.log_probs(scores))
    slope = {"zlpr": 2.0, "binary_cross_entropy": 1.0}.get(name)
    if slope:
        close(target, jax.nn.sigmoid(slope * scores))
    close(jax.grad(lambda s: loss(s, target).sum())(scores), 0.0)


@pytest.mark.parametrize("name", MULTI_LABEL)
def test_soft_labels_are_continuous_at_hard_ones(name):
    """The log of 1 + sum moves by at most the sum of the moved weights times e^|s|."""
    loss, (scores, _) = loss_of(name), scores_and_classes(8, 4)
    hard, step = multi_hot(), 1e-9
    soft = jnp.clip(hard, step, 1 - step)
    bound = 2 * step * jnp.exp(jnp.abs(scores)).sum(axis=-1)
    assert (jnp.abs(loss(scores, soft) - loss(scores, hard)) <= bound).all()


def test_one_multi_hot_entry_is_binary_cross_entropy():
    """zlpr with a single hard entry is log(1 + e^-s) or log(1 + e^s)."""
    scores = jnp.linspace(-3, 3, 8)[:, None]
    target = multi_hot(8, 1)
    close(loss_of("zlpr")(scores, target), loss_of("binary_cross_entropy")(scores, target))


def test_pushing_a_held_score_up_never_costs():
    """The derivative of zlpr lies in (-1, 0) for what holds and in (0, 1) for what does not."""
    scores, _ = scores_and_classes(8, 4)
    target = multi_hot()
    gradient = jax.grad(lambda s: loss_of("zlpr")(s, target).sum())(scores)
    assert (jnp.sign(gradient) == jnp.where(target == 1, -1, 1)).all()
    assert (jnp.abs(gradient) < 1).all()


# ---- consistency --------------------------------------------------------------------------------


def kl(p, q):
    return (p * (jnp.log(p) - jnp.log(q))).sum(axis=-1)


def test_the_symmetric_divergence_is_both_kls_of_categorical_distributions():
    a, b = 1.5 * jax.random.normal(KEY, (2, 7, 4))
    p, q = jax.nn.softmax(a), jax.nn.softmax(b)
    close(symmetric_divergence(a, b), kl(p, q) + kl(q, p))


def test_the_symmetric_divergence_is_the_sum_of_binary_kls():
    a, b = 1.5 * jax.random.normal(KEY, (2, 7, 4))
    pairs = lambda s: jnp.stack([jax.nn.sigmoid(s), jax.nn.sigmoid(-s)], axis=-1)
    expected = (kl(pairs(a), pairs(b)) + kl(pairs(b), pairs(a))).sum(axis=-1)
    close(symmetric_divergence(a, b, multi_label=True), expected)


@pytest.mark.parametrize("multi_label", [False, True])
def test_the_symmetric_divergence_is_zero_only_where_the_distributions_agree(multi_label):
    a = jax.random.normal(KEY, (7, 4))
    d = lambda s: symmetric_divergence(a, s, multi_label=multi_label)
    assert (d(a) == 0).all()
    assert (d(a + jnp.array([1.0, 0, 0, 0])) > 0).all()
    shifted = d(a + 1.0)  # a softmax does not see a common shift, a sigmoid does
    assert (shifted > 0.1).all() if multi_label else (jnp.abs(shifted) < EXACT).all()


# ---- columns ------------------------------------------------------------------------------------


def test_labels_become_columns_side_by_side():
    columns = columns_of(loss_of("cross_entropy"), (2, 3), 0)
    target = columns.target({"label": np.array([[1, 2], [0, -1]])})
    assert target.tolist() == [[0, 1, 0, 0, 1], [1, 0, -1, -1, -1]]
    assert [part.shape for part in columns.split(target)] == [(2, 2), (2, 3)]
    one = columns_of(loss_of("cross_entropy"), 3, 0)
    assert one.target({"label": np.array([2, 0])}).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_multi_hot_entries_are_columns():
    columns = columns_of(loss_of("zlpr"), 0, 3)
    assert (columns.count, columns.multi_label) == (3, True)
    assert columns.target({"multi_hot": np.array([[0, 1, -1]])}).tolist() == [[0, 1, -1]]
    assert columns_of(loss_of("zlpr"), (2, 3), 0) == Columns(sizes=(2, 3), multi_label=True)


def test_what_the_data_does_not_say_cannot_be_learned():
    with pytest.raises(ValueError, match="zlpr or binary_cross_entropy"):
        columns_of(loss_of("cross_entropy"), 0, 3)
    with pytest.raises(ValueError, match="this data set has none"):
        columns_of(loss_of("zlpr"), 0, 0)


@pytest.mark.slow
def test_the_optimum_over_random_hard_labels_is_the_posterior_only_where_said():
    """Exhaustive expectation over two independent entries: binary cross-entropy is calibrated, zlpr near it."""
    p = jnp.array([0.8, 0.3])
    outcomes = jnp.array(list(itertools.product([0.0, 1.0], repeat=2)))
    weights = jnp.prod(jnp.where(outcomes == 1, p, 1 - p), axis=-1)

    def optimum(loss):
        expected = lambda s: weights @ loss(jnp.broadcast_to(s, outcomes.shape), outcomes)
        slope, curvature = jax.grad(expected), jax.hessian(expected)
        newton = lambda _, s: s - jnp.linalg.solve(curvature(s), slope(s))  # smooth and convex
        s = jax.jit(lambda: jax.lax.fori_loop(0, 30, newton, jnp.zeros(2)))()
        assert jnp.abs(slope(s)).max() < 1e-10
        return s

    close(jax.nn.sigmoid(optimum(loss_of("binary_cross_entropy"))), p, 1e-9)
    s = optimum(loss_of("zlpr"))
    assert (jnp.sign(s) == jnp.array([1, -1])).all()
    between = jnp.sort(jnp.stack([jax.nn.sigmoid(s), jax.nn.sigmoid(2 * s)]), axis=0)
    assert ((between[0] < p) & (p < between[1])).all(), (s, between)
