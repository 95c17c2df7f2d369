"""Features by name: shapes, the 8-bit rule, fixed definitions, what is kept in files, what is refused."""

import json

import numpy as np
import pytest
from subjects import digits, images, points

from diffusion import build
from diffusion.data import DataSpec
from diffusion.evaluation.features import base, classifier
from diffusion.evaluation.features.convolution import BLOCK, convolve, fixed_normal
from diffusion.evaluation.metrics.base import open_features

NAMES = ("pixels", "random_conv", "classifier")


@pytest.mark.parametrize("name", NAMES)
def test_extractor(name):
    """Rows of float64, whatever is beside an example; 8-bit levels are what counts."""
    extractor = open_features(build("features", name), digits())
    x, _ = images()
    rows = extractor(x[: BLOCK + 3])
    assert rows.shape == (BLOCK + 3, extractor.dim)
    assert rows.dtype == np.float64
    np.testing.assert_array_equal(extractor(x[BLOCK : BLOCK + 3]), rows[BLOCK:])
    np.testing.assert_array_equal(extractor(x[:5] + np.float32(0.3 / 255)), rows[:5])  # rounds back
    beyond = np.where(x[:5] == 1, np.float32(1.7), x[:5])  # clipped
    np.testing.assert_array_equal(extractor(beyond), rows[:5])
    assert extractor(x[:0]).shape == (0, extractor.dim)
    assert extractor.sha256 == open_features(build("features", name), digits()).sha256
    assert extractor.card == json.loads(json.dumps(extractor.card))


def test_random_weights_are_defined_by_a_text():
    """Moments of 200,000 normal numbers within four standard errors, and the first ones as they were."""
    z = fixed_normal("test", (200_000,)).astype(np.float64)
    assert abs(z.mean()) < 4 / np.sqrt(len(z))
    assert abs(z.var() - 1) < 4 * np.sqrt(2 / len(z))
    assert abs((z**4).mean() - 3) < 4 * np.sqrt(96 / len(z))
    np.testing.assert_array_equal(fixed_normal("test", (3,)), z[:3].astype(np.float32))
    assert (fixed_normal("other", (4,)) != z[:4]).all()


def test_the_digest_is_of_the_definition():
    shape = DataSpec(shape=(8, 8, 1))
    one = build("features", "random_conv").open(shape)
    assert one.name == "random_conv[3 seeds]"
    assert (
        one.sha256
        != build("features", dict(name="random_conv", seeds=(0, 1, 3))).open(shape).sha256
    )
    assert one.sha256 != build("features", "random_conv").open(DataSpec(shape=(9, 9, 1))).sha256


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_is_its_definition(stride):
    """Against JAX's own convolution with a frame of one zero."""
    import jax

    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, 7, 6, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    found = convolve(x, kernel, stride)
    np.testing.assert_allclose(
        found, expected, atol=27 * 4e-7 * 4
    )  # 27 terms of order 1 in float32


@pytest.mark.slow
def test_the_classifier_knows_digits_and_is_kept(data_folder):
    """It is trained once; its accuracy stands on the card; a damaged or foreign file is trained again."""
    features, train = build("features", "classifier"), digits()
    extractor = features.open_for(train)
    assert extractor.name == "classifier[digits]"
    assert extractor.card["accuracy"] > 0.9
    assert extractor.card["accuracy_on"] == "test"
    x, labels = images("test")
    found = extractor.log_probs(x)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, rtol=1e-5)
    assert (found.argmax(axis=1) == labels).mean() == extractor.card["accuracy"]
    (file,) = (data_folder / "features").glob("classifier-digits-*.safetensors")
    content = file.read_bytes()
    again = features.open_for(train)
    assert again.sha256 == extractor.sha256
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    made_of = {"trained_on": "another"}
    with pytest.raises(ValueError, match="damaged"):
        classifier.read(file, train.spec, made_of)
    file.write_bytes(content)
    with pytest.raises(ValueError, match="another classifier"):
        classifier.read(file, train.spec, made_of)
    file.write_bytes(content[:100])
    with pytest.raises(ValueError, match="damaged"):
        classifier.read(file, train.spec, made_of)
    file.write_bytes(content)


def test_named_data_set(data_folder):
    """`dataset` says whose classifier it is; another shape is refused."""
    named = build("features", dict(name="classifier", dataset="digits"))
    assert named.open(digits().spec).name == "classifier[digits]"
    with pytest.raises(ValueError, match=r"\(8, 8, 1\)"):
        named.open(DataSpec(shape=(9, 9, 1), num_classes=10))
    with pytest.raises(ValueError, match="name a data set"):
        build("features", "classifier").open(digits().spec)


@pytest.mark.parametrize("name", ["random_conv", "classifier"])
def test_points_have_no_features_of_images(name):
    with pytest.raises(ValueError, match=f"{name} are of images.*pixels"):
        open_features(build("features", name), points())


def test_labels_are_needed():
    spec = DataSpec(shape=(8, 8, 1), num_classes=0, size=10)
    with pytest.raises(ValueError, match="num_classes=0"):
        classifier.shapes_of(spec)


def test_features_that_break_their_promise():
    class Broken(base.Extractor):
        name, dim, sha256, spec = "broken", 3, "", DataSpec(shape=(2,), kind="points")
        result = np.zeros((4, 2))

        def rows(self, x):
            return self.result

    broken, x = Broken(), np.zeros((4, 2), np.float32)
    with pytest.raises(ValueError, match=r"must have shape \(4, 3\)"):
        broken(x)
    broken.result = np.full((4, 3), np.nan)
    with pytest.raises(ValueError, match="4 of 4 are not finite"):
        broken(x)


def test_blocks_are_filled_up():
    seen = []

    def fn(x):
        seen.append(x.shape)
        return x.sum(axis=1, keepdims=True)

    x = np.arange(2.0 * (BLOCK + 1)).reshape(-1, 2)
    np.testing.assert_allclose(base.in_blocks(fn, x, BLOCK, 1)[:, 0], x.sum(axis=1), rtol=1e-6)
    assert seen == [(BLOCK, 2)] * 2
