"""Conditions in files, and conditions computed from the examples."""

import numpy as np
import pytest

from diffusion.config.build import dataset_of
from diffusion.config.sections import ConfigError
from diffusion.data import ArrayFile, Conditioned, DataSpec, conditioned, summarize
from diffusion.data.classes import remarks, same_classes
from diffusion.data.conditions import numbered_labels, parse_labels
from diffusion.registry import build, registered

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (12, 4, 6, 3), dtype=np.uint8)
ARRAYS = dict(
    label=np.arange(12) % 3,
    multi_hot=RANDOM.integers(0, 2, (12, 5)),
    vector=RANDOM.normal(size=(12, 2)),
    image=RANDOM.integers(0, 256, (12, 4, 6, 1), dtype=np.uint8),
)


@pytest.fixture
def file(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "x.npz", **{"data": IMAGES, **arrays})
        return str(tmp_path / "x.npz")

    return save


def test_conditions_of_a_file_reach_the_batch(file):
    dataset = ArrayFile(path=file(**ARRAYS), test_fraction=0.25)
    spec = dataset.spec
    assert (spec.num_classes, spec.multi_hot_dim, spec.vector_dim, spec.image_channels) == (
        3,
        5,
        2,
        1,
    )
    index = np.array([3, 0, 5])
    whole = ArrayFile(path=file(**ARRAYS), split="all").batch(0, 3, index=index, train=False)[
        "cond"
    ]
    assert {k: v.dtype.name for k, v in whole.items()} == {
        "label": "int32", "multi_hot": "int32", "vector": "float32", "image": "float32"
    }  # fmt: skip
    kept = np.sort(np.concatenate([dataset.examples(0, 9)["index"], [9, 10, 11]]))
    assert len(kept) == 12
    for name in ("label", "multi_hot"):
        seen = {tuple(np.atleast_1d(v)) for v in whole[name]}
        assert seen <= {tuple(np.atleast_1d(v)) for v in ARRAYS[name]}
    assert np.abs(whole["image"]).max() <= 1


def test_pictures_are_mirrored_together(file):
    """An image that says the example itself still does after random mirroring."""
    dataset = ArrayFile(path=file(image=IMAGES), flip=True)
    batch = dataset.batch(0, 12)
    np.testing.assert_array_equal(batch["data"], batch["cond"]["image"])
    plain = ArrayFile(path=file(image=IMAGES)).batch(0, 12)
    assert (batch["data"] != plain["data"]).any()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (dict(labels=np.zeros(12, int)), r"'labels'.*Did you mean 'label'"),
        (dict(label=np.zeros((12, 2))), "12 integers from 0"),
        (dict(multi_hot=np.full((12, 2), 3)), "be 0 and 1"),
        (dict(multi_hot=np.zeros((11, 2), int)), "must be 12 rows long"),
        (dict(vector=np.full((12, 2), np.nan)), "finite real numbers"),
        (dict(vector=np.zeros(12)), r"\(n, k\)"),
        (dict(image=np.zeros((12, 4, 4, 1))), r"pictures of shape \(12, 4, 6, 'channels'\)"),
    ],
)
def test_wrong_conditions_of_a_file_are_refused(file, arrays, message):
    with pytest.raises(ValueError, match=message):
        _ = ArrayFile(path=file(**arrays)).spec


def test_several_labels_have_several_numbers_of_classes(file):
    labels = np.stack([np.arange(12) % 2, np.arange(12) % 5], axis=-1)
    path = file(label=labels)
    assert ArrayFile(path=path).spec.num_classes == (2, 5)
    assert build("dataset", dict(name="array", path=path, num_classes=[3, 9])).spec.num_classes == (
        3,
        9,
    )
    with pytest.raises(ValueError, match="2 labels per example"):
        _ = ArrayFile(path=path, num_classes=5).spec
    with pytest.raises(ValueError, match="past num_classes"):
        _ = ArrayFile(path=path, num_classes=(2, 4)).spec


# ---- labels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "numbers", "names"),
    [
        ([1, 2, 3, 1], [0, 1, 2, 0], ("1", "2", "3")),
        ([0, 2, 1, 0], [0, 2, 1, 0], ()),
        ([0, 19_000_000, -1, 7], [0, 2, -1, 1], ("0", "7", "19000000")),
        ([2**40, 5, 5, -1], [1, 0, 0, -1], ("5", str(2**40))),
        (["dog", "cat", "", "dog"], [1, 0, -1, 1], ("cat", "dog")),
        ([1, 1, 1, 1], [0, 0, 0, 0], ("1",)),
        ([[0, 7], [0, 8], [0, -1], [-1, 7]], [[0, 0], [0, 1], [0, -1], [-1, 0]], (("0", "1"), ("7", "8"))),
    ],
)  # fmt: skip
def test_classes_are_those_that_are_there(file, labels, numbers, names):
    label = np.repeat(np.array(labels), 3, axis=0)
    data = ArrayFile(path=file(label=label))
    spec = data.spec
    np.testing.assert_array_equal(data.examples(0, 12)["cond"]["label"][::3], numbers)
    sizes = tuple(int(n) for n in np.atleast_1d(spec.num_classes))
    assert spec.class_names == names
    if names:
        assert sizes == tuple(map(len, names if isinstance(names[0], tuple) else (names,)))
    assert np.max(data.source.cond["label"], axis=0).max() < max(sizes)


def test_labels_of_runs_of_before_keep_their_gaps(file):
    data = ArrayFile(path=file(label=np.arange(12) % 3 + 1), rules=1)
    assert (data.spec.num_classes, data.spec.class_names) == (4, ())
    assert remarks(data) == [
        "1 of 4 classes have no example to train on: 0; what is generated of them means nothing"
    ]


def test_what_is_not_there_and_not_said_is_remarked(file, caplog):
    label = np.where(np.arange(12) < 5, -1, np.arange(12) % 3)
    assert remarks(ArrayFile(path=file(label=label))) == ["5 of 12 examples have no label (-1)"]
    several = np.stack([np.ones(12, int), np.arange(12) % 2 + 4], axis=-1)
    data = conditioned("gray", ArrayFile(path=file(label=several)))
    (line,) = remarks(data)
    assert line.startswith("1 of 2 classes of label 0 have no example to train on: 0;")
    assert remarks(ArrayFile(path=file())) == []
    with pytest.raises(ValueError, match="says no label"):
        _ = ArrayFile(path=file(label=np.full(12, -1))).spec
    with pytest.raises(ValueError, match=r"words.*omit num_classes"):
        _ = ArrayFile(path=file(label=np.array(["a"] * 12)), num_classes=3).spec
    assert not caplog.text
    _ = ArrayFile(path=file(data=np.zeros((60, 2)), label=np.arange(60))).spec
    assert "60 classes for 60 examples; are these labels?" in caplog.text
    summary = summarize(ArrayFile(path=file(label=label)))
    assert sum(summary.class_counts) == 7


def test_classes_are_named_on_command_lines():
    animals = DataSpec(shape=(2,), num_classes=3, class_names=("Cat", "big dog", "a:b"))
    read = lambda text, spec=animals: parse_labels(text, spec).tolist()
    assert read("Cat,big dog , a:b,2,-1") == [0, 1, 2, 2, -1]
    years = DataSpec(shape=(2,), num_classes=3, class_names=("1", "2", "2024"))
    assert read("1,2024,-1", years) == [0, 2, -1]  # what was typed is the name
    digits = DataSpec(shape=(2,), num_classes=2, class_names=("0", "1"))
    assert read("1,0", digits) == [1, 0]
    both = DataSpec(shape=(2,), num_classes=(2, 2), class_names=(("no", "yes"), ("4", "7")))
    assert read("yes:7,1:4,-1:-1", both) == [[1, 1], [1, 0], [-1, -1]]
    for text, spec, words in [
        (
            "dig dog",
            animals,
            "no class 'dig dog'. Did you mean 'big dog'.*Classes: Cat, big dog, a:b",
        ),
        ("0", years, "no class '0'.*Classes: 1, 2, 2024"),
        ("3", digits, r"must lie in 0 \.\.\. 1"),
        ("5", animals, r"must lie in 0 \.\.\. 2"),
        ("yes:0", both, "no class '0'"),
        ("dog", DataSpec(shape=(2,), num_classes=3), "whole numbers"),
        ("yes,yes:4", both, "same number of labels"),
    ]:
        with pytest.raises(ValueError, match=words):
            parse_labels(text, spec)


def test_guidance_names_classes():
    spec = DataSpec(shape=(2,), num_classes=2, class_names=("cat", "dog"))
    inner = {"name": "negative", "label": "dog", "scale": 2.0}
    entry = {"name": "interval", "low": -1.0, "high": 1.0, "inner": inner}
    assert numbered_labels(entry, spec)["inner"]["label"] == 1
    assert numbered_labels("clip", spec) == "clip"
    assert numbered_labels({"name": "negative", "label": 0}, spec)["label"] == 0
    with pytest.raises(ValueError, match="no class 'cow'"):
        numbered_labels({"name": "negative", "label": "cow"}, spec)


def test_classes_mean_the_same_as_far_as_names_tell():
    of = lambda *names: DataSpec(shape=(2,), num_classes=2, class_names=names)
    assert same_classes(of(), of("0", "1"))
    assert same_classes(of("cat", "dog"), of())
    assert not same_classes(of("cat", "dog"), of("cow", "dog"))
    assert not same_classes(of("1", "2"), of())


# ---- computed -----------------------------------------------------------------------------------


PICTURES = [name for name in registered("condition") if hasattr(build("condition", name), "check")]


@pytest.mark.parametrize("name", PICTURES)
def test_a_computed_picture_lies_on_the_grid_of_the_example(file, name):
    fields = {"factor": 2} if name == "superres" else {}
    dataset = conditioned(dict(name=name, **fields), ArrayFile(path=file(label=ARRAYS["label"])))
    assert isinstance(dataset, Conditioned)
    batch = dataset.batch(0, 4)
    assert set(batch["cond"]) == {"label", "image"}
    assert batch["cond"]["image"].shape == (4, 4, 6, dataset.spec.image_channels)
    assert batch["cond"]["image"].dtype == np.float32
    again = dataset.examples(0, 2)["cond"]["image"]
    np.testing.assert_array_equal(again, dataset.condition(dataset.examples(0, 2)["data"]))


def test_super_resolution_repeats_means_of_squares():
    x = RANDOM.normal(size=(2, 4, 6, 3)).astype(np.float32)
    low = build("condition", dict(name="superres", factor=2))(x)
    np.testing.assert_allclose(
        low[:, 2:4, 4:6].mean(axis=(1, 2)), x[:, 2:4, 4:6].mean(axis=(1, 2)), atol=1e-6
    )
    np.testing.assert_array_equal(low[:, 0::2, 0::2], low[:, 1::2, 1::2])


def test_held_out_data_is_conditioned_too(file):
    dataset = conditioned("gray", ArrayFile(path=file(), test_fraction=0.25))
    held_out = dataset.held_out()
    assert held_out.spec.size == 3
    assert held_out.examples(0, 1)["cond"]["image"].shape == (1, 4, 6, 1)


def test_a_condition_is_named_in_a_config(file):
    data = dict(name="array", path=file(), batch_size=4)
    of = lambda condition: dataset_of({"data": {**data, "condition": condition}})
    assert of("superres:2").condition.factor == 2
    assert of(dict(name="superres", factor=2)) == of("superres:2")
    assert dataset_of({"data": data}).spec.image_channels == 0
    for condition, message in [
        ("super_res", "Did you mean 'superres'"),
        (dict(name="superres", factor=1), "at least 2"),
        (dict(name="superres", size=2), "no field 'size'"),
        ("superres:4", "`width` of superres must be a positive multiple of 4; got 6"),
    ]:
        with pytest.raises((ConfigError, ValueError), match=message):
            _ = of(condition).spec


def test_labels_of_two_classes_become_attributes(file):
    label = np.stack([np.arange(12) % 2, np.arange(12) // 6], axis=-1)
    base = ArrayFile(path=file(label=label, vector=ARRAYS["vector"]))
    dataset = conditioned("multi_hot", base)
    spec, batch = dataset.spec, dataset.batch(0, 5)
    assert (spec.num_classes, spec.multi_hot_dim, spec.vector_dim) == (0, 2, 2)
    assert set(batch["cond"]) == {"multi_hot", "vector"}
    np.testing.assert_array_equal(batch["cond"]["multi_hot"], base.batch(0, 5)["cond"]["label"])
    with pytest.raises(ValueError, match=r"two classes each; this data has num_classes = 3"):
        _ = conditioned("multi_hot", ArrayFile(path=file(label=ARRAYS["label"]))).spec


def test_points_have_no_pictures():
    points = build("dataset", "points2d")
    with pytest.raises(ValueError, match="for images; this data is made of points"):
        _ = conditioned("superres:2", points).spec
