"""Every kind of condition: its embedding, its null, drop-out per row, and what programs may ask for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.data import DataSpec
from diffusion.data.conditions import (
    eval_conditions,
    make_conditions,
    null_conditions,
    parse_labels,
)
from diffusion.guidance.model import null_cond
from diffusion.networks.embeddings import ConditionEmbedder, concat_image
from diffusion.training import drop_cond

FULL = DataSpec(
    shape=(4, 4, 1), num_classes=(2, 3), multi_hot_dim=3, vector_dim=2, image_channels=1, size=8
)
COND = {
    "label": jnp.array([[0, 2], [1, 0], [1, 1], [0, 0]]),
    "multi_hot": jnp.array([[0, 0, 0], [1, 0, 1], [0, 1, 0], [1, 1, 1]]),
    "vector": jnp.array([[0.0, 0.0], [1.0, -1.0], [0.5, 0.0], [0.0, 2.0]]),
    "image": jnp.linspace(-1, 1, 64).reshape(4, 4, 4, 1),
}
EMBEDDED = ("label", "multi_hot", "vector")


def embedder(batch=4):
    module = ConditionEmbedder(8, (2, 3), 2, multi_hot_dim=3)
    variables = module.init(jax.random.key(0), None, batch)
    return lambda cond, batch=batch: module.apply(variables, cond, batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_the_null_of_each_kind_is_its_absence_and_no_condition_of_zeros(name):
    embed = embedder()
    absent = embed(None)
    np.testing.assert_array_equal(embed({name: null_cond(COND[name])}), absent)
    zeros = jnp.zeros_like(COND[name])
    assert (embed({name: zeros}) != absent).any(axis=-1).all()
    rows = {tuple(row) for row in np.asarray(embed({name: COND[name]})).tolist()}
    assert len(rows) == 4  # four conditions, four embeddings


@pytest.mark.parametrize("rate", [0.0, 0.5, 1.0])
def test_drop_out_takes_whole_rows_of_every_kind(rate):
    dropped = drop_cond(jax.random.key(1), jnp.arange(4), COND, rate)
    embed = embedder()
    absent, whole, found = embed(None), embed(COND), embed(dropped)
    is_null = (found == absent).all(axis=-1)
    assert (is_null | (found == whole).all(axis=-1)).all()
    assert {0.0: 0, 1.0: 4}.get(rate, is_null.sum()) == is_null.sum()
    x = jnp.ones((4, 4, 4, 1))
    image = concat_image(x, dropped, 1)[..., 1]
    expected = jnp.where(is_null[:, None, None], 0, COND["image"][..., 0])
    np.testing.assert_array_equal(image, expected)


@pytest.mark.slow
def test_entries_of_a_multi_hot_condition_add_up():
    """From none to all, entry by entry; one that is not said has an embedding of its own."""
    embed = embedder(1)
    of = lambda *row: (
        embed({"multi_hot": jnp.array([row])}) - embed({"multi_hot": jnp.zeros((1, 3), int)})
    )
    np.testing.assert_allclose(of(1, 0, 1), of(1, 0, 0) + of(0, 0, 1), atol=1e-5)
    np.testing.assert_allclose(of(-1, 0, 1), of(-1, 0, 0) + of(0, 0, 1), atol=1e-5)
    assert (of(-1, 0, 0) != of(1, 0, 0)).any()
    assert of(-1, 0, 0).any()


def test_wrong_multi_hot_conditions_are_refused_or_nan():
    embed = embedder(2)
    with pytest.raises(ValueError, match=r"cond\['multi_hot'\] must have shape \(2, 3\).*\(2, 4\)"):
        embed({"multi_hot": jnp.zeros((2, 4), int)})
    with pytest.raises(ValueError, match="must be integers; got float32"):
        embed({"multi_hot": jnp.zeros((2, 3))})
    with pytest.raises(ValueError, match=r"1 \(holds\)"):
        embed({"multi_hot": jnp.full((2, 3), 2)})
    rows = jnp.array([[0, 1, 0], [0, 2, 0]])
    finite = jnp.isfinite(jax.jit(lambda m: embed({"multi_hot": m}))(rows)).all(axis=-1)
    assert finite.tolist() == [True, False]


# ---- conditions of a data set -------------------------------------------------------------------


def test_what_is_not_given_is_null():
    null = null_conditions(FULL, 4)
    assert jax.tree.map(jnp.shape, null) == jax.tree.map(jnp.shape, COND)
    np.testing.assert_array_equal(embedder()(null), embedder()(None))
    some = make_conditions(FULL, {"vector": COND["vector"]}, 4)
    np.testing.assert_array_equal(some["vector"], COND["vector"])
    assert (some["label"] == -1).all()
    assert null_conditions(DataSpec(shape=(2,)), 4) is None
    assert make_conditions(DataSpec(shape=(2,)), None, 4) is None


def test_arrays_are_labels_or_attributes():
    one = DataSpec(shape=(2,), num_classes=5)
    assert make_conditions(one, np.array([3, 1]), 2)["label"].tolist() == [3, 1]
    several = make_conditions(FULL, np.array([[1, 2], [0, -1]]), 2)
    assert several["label"].tolist() == [[1, 2], [0, -1]]
    attributes = DataSpec(shape=(2,), multi_hot_dim=3)
    assert (
        make_conditions(attributes, np.eye(3, dtype=int), 3)["multi_hot"].tolist()
        == np.eye(3).tolist()
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"label": np.array([[0, 3]] * 4)}, r"0 \.\.\. 2 for attribute 1.*got 3"),
        ({"label": np.zeros(4, int)}, "2 per example, of .*got 1"),
        (
            {"multi_hot": np.zeros((4, 2), int)},
            r"'multi_hot' must have shape \(4, 3\) as in training.*\(4, 2\)",
        ),
        ({"multi_hot": np.full((4, 3), 7)}, "got 7"),
        ({"vector": np.zeros((4, 5))}, r"'vector' must have shape \(4, 2\).*\(4, 5\)"),
        ({"image": np.zeros((4, 2, 2, 1))}, r"'image' must have shape \(4, 4, 4, 1\)"),
        ({"vector": np.zeros((3, 2))}, r"shape \(4, 2\) for 4 examples; got \(3, 2\)"),
        ({"depth": np.zeros(4)}, "no condition 'depth'; it was trained with 'label'"),
    ],
)
def test_conditions_that_the_data_does_not_have_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        make_conditions(FULL, given, 4)


def test_labels_of_one_label_data_are_refused_by_range_and_count():
    one = DataSpec(shape=(2,), num_classes=5)
    with pytest.raises(ValueError, match=r"`labels` must lie in 0 \.\.\. 4, or be -1.*got 5"):
        make_conditions(one, np.array([0, 5]), 2)
    with pytest.raises(ValueError, match=r"1 per example, of 5 classes.*got 2"):
        make_conditions(one, np.zeros((2, 2), int), 2)
    with pytest.raises(ValueError, match="trained without labels"):
        make_conditions(DataSpec(shape=(2,)), np.array([0]), 1)


def test_labels_of_a_command_line():
    one, attributes = DataSpec(shape=(2,), num_classes=5), DataSpec(shape=(2,), multi_hot_dim=3)
    assert parse_labels("3,1", one).tolist() == [3, 1]
    assert parse_labels(" none ", one) is None
    assert parse_labels("1:2,0:-1", FULL).tolist() == [[1, 2], [0, -1]]
    assert parse_labels("0+2,1,-", attributes).tolist() == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    for text, spec, message in [
        ("three", one, "whole numbers"),
        ("3,1:2", FULL, "same number of labels"),
        ("1", FULL, "2 per example, of 2, 3 classes"),
        ("5", one, r"0 \.\.\. 4"),
        ("3", attributes, "below 3"),
        ("a+b", attributes, "joined by"),
    ]:
        with pytest.raises(ValueError, match=message):
            parse_labels(text, spec)


def test_a_survey_goes_through_the_classes_and_takes_the_rest_from_data():
    one = DataSpec(shape=(2,), num_classes=3)
    nothing = lambda: pytest.fail("labels alone need no data")
    assert eval_conditions(one, nothing, np.arange(5))["label"].tolist() == [0, 1, 2, 0, 1]
    assert eval_conditions(one, nothing, np.arange(5), 2)["label"].tolist() == [0, 1, 0, 1, 0]
    assert eval_conditions(DataSpec(shape=(2,)), nothing, np.arange(5)) is None

    class Given:
        spec = dataclasses.replace(FULL, num_classes=3, size=4)

        def batch(self, step, batch_size, index, train):
            return {"cond": {k: np.asarray(v)[index] for k, v in COND.items() if k != "label"}}

    asked = eval_conditions(Given.spec, Given, np.arange(6), requested=np.full(6, 2))
    assert (asked["label"] == 2).all()
    np.testing.assert_array_equal(asked["image"][:4], COND["image"])
    cond = eval_conditions(Given.spec, Given, np.arange(6))
    assert cond["label"].tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_array_equal(cond["vector"][4:], COND["vector"][:2])
