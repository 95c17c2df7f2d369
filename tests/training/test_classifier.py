"""Training classifiers of noisy data: what the loss sees, its optimum, and every kind of condition."""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.classifiers.classifier import (
    AtData,
    Columns,
    NetworkClassifier,
    classification_loss,
    columns_of,
)
from diffusion.config.checks import check_training
from diffusion.config.experiment import Experiment
from diffusion.config.sections import ConfigError
from diffusion.data import ArrayFile, DataSpec, FiniteDataset, Table
from diffusion.evaluation.classifying import accuracy_by_level
from diffusion.evaluation.features.classifier import accuracy, class_log_probs, fit
from diffusion.registry import build
from diffusion.run import step as run_step
from diffusion.testing import GaussianMixture
from diffusion.training import make_train_step

KEY = jax.random.key(0)
WEIGHTS, MEANS, STDS = [0.3, 0.5, 0.2], [[-1.0, 0.5], [0.8, 0.1], [0.0, -1.2]], [0.2, 0.4, 0.3]
PROCESS = build("process", "vp")
LABELS = Columns(sizes=(3,))


@dataclass(frozen=True)
class ExactPosterior:
    """Scores log p(component, x_t), times params["slope"] plus params["bias"], from the input of a network."""

    process: object = PROCESS

    def init(self, key, x, log_snr, cond=None):
        return {"slope": jnp.ones(()), "bias": jnp.zeros(3)}

    def apply(self, params, x, log_snr, cond=None, key=None):
        t = self.process.time_of_log_snr(log_snr)
        c = self.process.coefficients(t, x)
        x_t = x * jnp.sqrt(c.alpha**2 + c.sigma**2)
        scores = []
        for weight, mean, std in zip(WEIGHTS, MEANS, STDS, strict=True):
            variance = (c.alpha * std) ** 2 + c.sigma**2
            squared = ((x_t - c.alpha * jnp.array(mean)) ** 2).sum(axis=-1, keepdims=True)
            scores.append(jnp.log(weight) - jnp.log(variance) - squared / (2 * variance))
        return params["slope"] * jnp.concatenate(scores, axis=-1) + params["bias"]


def mixture_batch(count):
    key_k, key_x = jax.random.split(KEY)
    label = jax.random.choice(key_k, 3, (count,), p=jnp.array(WEIGHTS))
    noise = jax.random.normal(key_x, (count, 2))
    data = jnp.array(MEANS)[label] + jnp.array(STDS)[label, None] * noise
    return {"data": data, "cond": {"label": label}, "row": jnp.arange(count)}


def mixture_loss(process=PROCESS, batch_size=64, time=None, **fields):
    loss = build("classifier_loss", dict(name="cross_entropy") | fields)
    time = time or build("time", "uniform")
    network = ExactPosterior(process)
    return classification_loss(network, process, time, loss, LABELS, batch_size=batch_size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vp", "edm", "rectified_flow"])
def test_the_exact_posterior_is_the_optimum(name):
    """The gradient of the expected loss in slope and biases is zero there, within four standard errors."""
    process, count = build("process", name), 16_384
    loss, params = mixture_loss(process, count), ExactPosterior(process).init(KEY, None, None)
    batch = mixture_batch(count)
    one = lambda p, i: loss(p, KEY, jax.tree.map(lambda x: x[i][None], batch))[0][0]
    gradients = jax.jit(jax.vmap(jax.grad(one), (None, 0)))(params, jnp.arange(count))
    for g in jax.tree.leaves(gradients):
        error = g.std(axis=0) / count**0.5
        assert (error > 0).all()
        assert (jnp.abs(g.mean(axis=0)) < 4 * error).all()


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"consistency": 0.5}])
def test_examples_do_not_see_each_other(fields):
    """The loss of a row depends on its data and its number: so devices and micro-batches may share a batch."""
    loss, batch = mixture_loss(**fields), mixture_batch(64)
    params = ExactPosterior().init(KEY, None, None)
    whole, record = loss(params, KEY, batch)
    part, _ = loss(params, KEY, jax.tree.map(lambda x: x[8:24], batch))
    np.testing.assert_allclose(
        whole[8:24], part, rtol=1e-4, atol=1e-6
    )  # float32, scores of order 10
    assert record["log_snr"].shape == (64,)


def test_consistency_adds_to_what_two_noisings_cost():
    batch, params = mixture_batch(64), ExactPosterior().init(KEY, None, None)
    cost = lambda weight: mixture_loss(consistency=weight)(params, KEY, batch)[0]
    low, middle, high = cost(1e-6), cost(0.5), cost(1.0)
    assert (high >= low).all()
    np.testing.assert_allclose(middle, (low + high) / 2, rtol=1e-3, atol=1e-5)
    silent = {
        "slope": jnp.zeros(()),
        "bias": jnp.array([1.0, 0.0, 2.0]),
    }  # the same whatever it sees
    a, b = (mixture_loss(consistency=w)(silent, KEY, batch)[0] for w in (0.0, 1.0))
    np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.slow
def test_consistency_needs_noise_that_is_drawn():
    batch, params = mixture_batch(8), ExactPosterior().init(KEY, None, None)
    coupled = {**batch, "noise": jnp.zeros_like(batch["data"])}
    with pytest.raises(ValueError, match="coupling"):
        mixture_loss(consistency=1.0)(params, KEY, coupled)


def exact(clean=False, params=None):
    return NetworkClassifier(
        params=params or ExactPosterior().init(KEY, None, None), network=ExactPosterior(),
        process=PROCESS, loss=build("classifier_loss", "cross_entropy"), columns=LABELS, clean=clean,
    )  # fmt: skip


@pytest.mark.slow
def test_a_trained_classifier_is_asked_as_it_was_trained():
    """With the exact network: log-probabilities are log-ratios of densities, and Bayes' rule gives the score."""
    t, x_t = jnp.full(5, 0.3), jax.random.normal(KEY, (5, 2))
    target = GaussianMixture(WEIGHTS, MEANS, STDS)
    log_p = exact()(x_t, t)
    np.testing.assert_allclose(jnp.exp(log_p).sum(axis=-1), 1, rtol=1e-6)
    cond = {"label": jnp.array([0, 1, 2, -1, 1])}
    picked = exact().log_prob(x_t, t, cond)
    rows = jnp.arange(5)
    expected = jnp.where(cond["label"] < 0, 0, log_p[rows, cond["label"]])
    np.testing.assert_allclose(picked, expected, rtol=1e-6)
    # the shift of the posterior mean by sigma^2 / alpha grad log p(c | x_t) is that of component c
    gradient = jax.grad(lambda x: exact()(x, t)[:, 1].sum())(x_t)
    c = PROCESS.coefficients(t, x_t)
    one = GaussianMixture([1.0], [MEANS[1]], [STDS[1]])
    shift = one.denoiser(PROCESS)(x_t, t) - target.denoiser(PROCESS)(x_t, t)
    np.testing.assert_allclose(c.sigma**2 / c.alpha * gradient, shift, rtol=1e-4, atol=1e-5)


def test_parameters_are_leaves_so_that_compiled_functions_are_reused():
    calls = []

    @jax.jit
    def ask(classifier, x, t):
        calls.append(1)
        return classifier(x, t)

    x = jnp.zeros((2, 2))
    ask(exact(), x, jnp.full(2, 0.5))
    ask(exact(params={"slope": jnp.zeros(()), "bias": jnp.ones(3)}), x, jnp.full(2, 0.5))
    assert len(calls) == 1


def test_a_classifier_of_clean_data_knows_no_time():
    batch = mixture_batch(64)
    _, record = mixture_loss(time=AtData())(ExactPosterior().init(KEY, None, None), KEY, batch)
    np.testing.assert_allclose(record["log_snr"], PROCESS.log_snr(PROCESS.t_min), rtol=1e-5)
    classifier, x = exact(clean=True), batch["data"]
    np.testing.assert_array_equal(classifier(x, 0.9), classifier(x, 0.1))
    # sigma(t_min) = 0.01 beside components of deviation 0.2 and more
    right = classifier(x, 0.5).argmax(axis=-1) == batch["cond"]["label"]
    assert right.mean() > 0.9


@dataclass(frozen=True)
class Labeled(FiniteDataset):
    """Points of the mixture, some of them without a label."""

    said: tuple[bool, ...]

    @property
    def source(self):
        batch = mixture_batch(len(self.said))
        label = np.where(self.said, batch["cond"]["label"], -1).astype(np.int32)
        return Table(values=np.asarray(batch["data"]), labels=label)

    @property
    def spec(self):
        return DataSpec(shape=(2,), num_classes=3, size=len(self.said), kind="points")


@pytest.mark.slow
def test_accuracy_is_over_the_labels_that_are_said():
    """Of two halves of the labels, the mean of the accuracies is that of all of them."""
    even = np.arange(60) % 2 == 0
    measure = lambda said: accuracy_by_level(
        exact(), PROCESS, Labeled(said=tuple(said.tolist())), batch_size=20, num_levels=3
    )
    for whole, a, b in zip(measure(even | True), measure(even), measure(~even), strict=True):
        assert (whole.count, a.count, b.count) == (60, 30, 30)
        assert whole.accuracy == pytest.approx((a.accuracy + b.accuracy) / 2, abs=1e-12)
        mean = (a.cross_entropy + b.cross_entropy) / 2
        assert whole.cross_entropy == pytest.approx(mean, rel=1e-12)


def test_features_learn_nothing_of_a_label_that_is_not_said(tmp_path):
    """Unlabeled pictures of one kind, and a class 2 without examples: they are not taken for its."""
    random = np.random.default_rng(0)
    kind = np.arange(90) % 3
    pictures = np.clip(80 * kind[:, None, None] + random.integers(0, 60, (90, 8, 8)), 0, 255)
    label = np.where(kind < 2, kind, -1)
    np.savez(tmp_path / "x.npz", data=pictures.astype(np.uint8), label=label)
    data = ArrayFile(path=str(tmp_path / "x.npz"), num_classes=3, test_fraction=0.0)
    params = fit(data, 30)
    x = data.examples(0, 90)["data"]
    assert class_log_probs(params, x).argmax(axis=1).max() < 2
    assert accuracy(params, data) > 0.95  # of the 60 that have a label


# ---- experiments --------------------------------------------------------------------------------

SMALL = dict(
    process="vp",
    data=dict(name="array", path="", batch_size=8, test_fraction=0.25),
    train=dict(num_steps=4, label_dropout=0.5),
    ema=("0.9",),
    parallel=dict(name="mesh"),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Pictures with every kind of condition."""
    random = np.random.default_rng(0)
    file = tmp_path_factory.mktemp("arrays") / "all.npz"
    np.savez(
        file,
        data=random.uniform(-1, 1, (32, 4, 4, 1)).astype(np.float32),
        label=np.stack([random.permutation(np.arange(32) % n) for n in (2, 3)], axis=-1),
        multi_hot=random.integers(0, 2, (32, 5)),
        vector=random.normal(size=(32, 2)).astype(np.float32),
        image=random.integers(0, 256, (32, 4, 4, 3), dtype=np.uint8),
    )
    return str(file)


def experiment(path, **sections):
    sections = {"network": dict(name="unet", channels=8, multipliers=(1,), blocks=1)} | sections
    data = {**SMALL["data"], "path": path}
    return Experiment.from_config({**SMALL, "data": data, **sections})


def trained(e, steps=2):
    """Train without a work directory; return the state before and after."""
    step = jax.jit(
        make_train_step(
            e.loss(), e.optimizer, e.ema, label_dropout=run_step.label_dropout(e), time=e.time
        )
    )
    before = state = e.init_state()
    with run_step.batches_of(e, 0, steps) as batches:
        for _ in range(steps):
            state, metrics = step(state, next(batches))
            assert jnp.isfinite(metrics["loss"])
    return before, state


@pytest.mark.slow
def test_a_generator_learns_from_every_kind_of_condition(path):
    e = experiment(path)
    wanted = dict(num_classes=(2, 3), multi_hot_dim=5, vector_dim=2, image_channels=3)
    assert dataclasses.asdict(e.spec).items() >= wanted.items()
    before, state = trained(e, steps=4)
    embedders = before.params["embed"]["condition"]
    assert set(embedders) == {"label_0", "label_1", "multi_hot", "vector", "null_vector"}
    for name in embedders:  # after the first step the head is no longer zero, and all of them learn
        moved = jax.tree.map(
            lambda a, b: bool((a != b).any()),
            embedders[name],
            state.params["embed"]["condition"][name],
        )
        assert all(jax.tree.leaves(moved)), name
    cond = e.conditions_in_turn(np.arange(3))
    assert {k: v.shape for k, v in cond.items()} == {
        "label": (3, 2), "multi_hot": (3, 5), "vector": (3, 2), "image": (3, 4, 4, 3)
    }  # fmt: skip
    x_t = jnp.ones((3, 4, 4, 1))
    absent = e.base_model(state.params, e.conditions(None, 3))(x_t, 0.5)
    np.testing.assert_array_equal(absent, e.base_model(state.params, None)(x_t, 0.5))
    assert (absent != e.base_model(state.params, cond)(x_t, 0.5)).any()


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["cross_entropy", "zlpr"])
def test_a_classifier_learns_labels_or_attributes(path, loss):
    network = dict(name="unet_encoder", channels=8, multipliers=(1,), blocks=1)
    e = experiment(
        path, task="classifier", classifier_loss=dict(name=loss, consistency=0.1), network=network
    )
    assert run_step.label_dropout(e) == 0
    before, state = trained(e)
    classifier = e.classifier(before.params)
    cond = e.held_out().batch(0, 4, index=[0, 1, 2, 3], train=False)["cond"]
    x = jnp.zeros((4, 4, 4, 1))
    assert classifier(x, 0.5).shape == (4, 5)
    # undecided at the start: one half per attribute, one over the classes per label
    even = -np.log(2) * 5 if columns_of(e.classifier_loss, (2, 3), 5).multi_hot else -np.log(6)
    np.testing.assert_allclose(classifier.log_prob(x, 0.5, cond), even, rtol=1e-6)
    assert jax.tree.leaves(state.params)[0].shape == jax.tree.leaves(before.params)[0].shape


def test_a_survey_that_has_no_held_out_data_takes_conditions_of_the_training_data(path):
    data = {**SMALL["data"], "path": path, "test_fraction": 0.0}
    e = experiment(path, data=data, train=dict(num_steps=4, sample_every=2))
    check_training(e)
    assert e.held_out() is e.dataset
    found, wanted = e.conditions_in_turn(np.arange(3)), e.dataset.examples(0, 3)["cond"]
    np.testing.assert_array_equal(found["vector"], wanted["vector"])


DIGITS = DataSpec(shape=(8, 8, 1), num_classes=10, size=1438, bits=8)


def digits(**sections):
    network = dict(name="unet_encoder", channels=8, multipliers=(1,), blocks=1)
    config = dict(process="vp", network=network, data=dict(name="digits"), task="classifier")
    return Experiment.from_config(config | sections, sections.pop("spec", DIGITS))


def test_what_does_not_fit_a_classifier_is_said():
    plain = DataSpec(shape=(8, 8, 1), size=9)
    with pytest.raises(ConfigError, match="this data set has none"):
        Experiment.from_config(digits().config, plain)
    with pytest.raises(
        ConfigError, match=r"config: `task` must be one of.*Did you mean 'classifier'"
    ):
        digits(task="clasifier")
    with pytest.raises(ConfigError, match=r"config\.network: Unknown classifier 'unet'"):
        digits(network=dict(name="unet"))
    with pytest.raises(ConfigError, match=r"classifier_loss.*Did you mean 'cross_entropy'"):
        digits(classifier_loss="cross_entrpy")
    with pytest.raises(ConfigError, match="`gamma`"):
        digits(classifier_loss=dict(name="interpolated_cross_entropy", gamma=2.0))
    with pytest.raises(ConfigError, match="generates nothing"):
        digits().model(None)


def test_a_classifier_is_measured_as_one():
    e = digits()
    assert e.evaluate.metrics == ("accuracy_by_level",)
    assert digits(task="clean_classifier").classifier(None).clean
    resolved = e.resolved()
    assert resolved["network"]["num_classes"] == 10
    assert resolved["classifier_loss"]["name"] == "cross_entropy"
