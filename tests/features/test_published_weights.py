"""Features with weights from a file: what is accepted, what is refused, and what comes out."""

import functools
from pathlib import Path

import jax
import numpy as np
import pytest
from published_networks import random_weights

import diffusion
from diffusion.data import DataSpec, to_float
from diffusion.evaluation.features import DINOv2Features, Inception, dinov2, inception
from diffusion.evaluation.features.base import in_blocks
from diffusion.evaluation.features.published import (
    disagreement,
    params_of,
    paths_of,
    published_name,
    read_published,
    to_published,
)
from diffusion.runtime.tensors import write_tensors

GREY = DataSpec(shape=(8, 8, 1))
COLOR = DataSpec(shape=(8, 8, 3))
SMALL = dinov2.architecture("small")
NOTE = {"source": "pt_inception.pth", "source_sha256": inception.PUBLISHED}


@functools.cache
def arrays_of(network):
    wanted = inception.ARCHITECTURE.wanted if network == "inception" else SMALL.wanted
    return {k: v.astype(np.float32) for k, v in random_weights(wanted).items()}


def write(path, network, note=NOTE, **changed):
    write_tensors(path, arrays_of(network) | changed, note)
    return str(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return write(folder / "inception.safetensors", "inception")


@pytest.fixture(scope="module")
def extractor(weights):
    return Inception(weights=weights, block=2).open(GREY)


def levels(count, channels=1, seed=0):
    rng = np.random.default_rng(seed)
    return to_float(rng.integers(0, 256, (count, 8, 8, channels), dtype=np.uint8))


@pytest.mark.slow
def test_features_and_classes_of_inception(weights, extractor):
    x = levels(3)
    found = extractor(x)
    assert found.shape == (3, extractor.dim) == (3, 2048)
    assert found.dtype == np.float64
    # Rows do not depend on the batch, and values are rounded to 8 bits first.
    np.testing.assert_array_equal(extractor(x[2:]), found[2:])
    np.testing.assert_array_equal(extractor(x + 0.3 / 127.5), found)
    # Gray is repeated: the same as a color image of three equal channels.
    color = Inception(weights=weights, block=2).open(COLOR)
    np.testing.assert_array_equal(color(np.repeat(x, 3, axis=-1)), found)
    logs = extractor.log_probs(x)
    assert logs.shape == (3, 1008)
    np.testing.assert_allclose(np.exp(logs).sum(axis=1), 1, rtol=1e-12)
    head = read_published(Path(weights), inception.ARCHITECTURE).params["fc"]["kernel"]
    product = found @ head.astype(np.float64)  # without the bias, as the published score
    np.testing.assert_allclose(logs - logs[:, :1], product - product[:, :1], atol=1e-4)


@pytest.mark.slow
def test_the_name_is_for_the_published_weights(weights, extractor, tmp_path):
    assert (extractor.name, extractor.published) == ("inception", True)
    assert extractor.card["source_sha256"] == inception.PUBLISHED
    other = write(tmp_path / "other.safetensors", "inception", {"source_sha256": "0"})
    other = Inception(weights=other).open(GREY)
    assert (other.name, other.published) == ("inception_of_other_weights", False)
    spatial = Inception(weights=weights, output="spatial").open(GREY)
    assert (spatial.name, spatial.dim) == ("inception_spatial", 2023)
    assert len({e.sha256 for e in (extractor, other, spatial)}) == 3


@pytest.mark.slow
def test_the_digest_is_of_the_values_not_of_the_file(tmp_path):
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    write(paths[0], "small", {})
    write(paths[1], "small", {"source": "elsewhere"}, mask_token=np.zeros((1, 384), np.float32))
    write(paths[2], "small", {}, cls_token=np.ones((1, 1, 384), np.float32))
    digests = [read_published(p, SMALL).digest for p in paths]
    assert digests[0] == digests[1] != digests[2]
    spec = DataSpec(shape=(8, 8, 3))
    open_ = lambda **fields: DINOv2Features(weights=str(paths[0]), size="small", **fields).open(
        spec
    )
    assert (open_().name, open_().dim) == ("dinov2_small", 384)
    assert open_(resize="float").name == "dinov2_small_float"
    assert open_().card["resize"] == "8bit"


@pytest.mark.slow
def test_features_of_dinov2(tmp_path):
    path = write(tmp_path / "small.safetensors", "small", {})
    extractor = DINOv2Features(weights=path, size="small", block=2).open(COLOR)
    x = levels(3, 3)
    found = extractor(x)
    assert found.shape == (3, 384)
    np.testing.assert_array_equal(extractor(x[2:]), found[2:])
    assert extractor.log_probs(x) is None
    assert len(np.unique(found[:, 0])) == 3


def test_weights_of_another_network_are_refused(weights, tmp_path):
    with pytest.raises(
        ValueError, match=r"DINOv2 large: of 342 arrays 342 missing \(.* and 339 more\); 472 left"
    ):
        DINOv2Features(weights=weights).open(COLOR)
    path = write(tmp_path / "small.safetensors", "small", {})
    with pytest.raises(ValueError, match="DINOv2 base: of 174 arrays 174 of another shape"):
        DINOv2Features(weights=path, size="base").open(COLOR)
    wanted = dict(inception.ARCHITECTURE.wanted)
    wanted |= {"fc.weight": (1000, 2048), "fc.bias": (1000,)}
    said = disagreement(wanted, inception.ARCHITECTURE.wanted)
    assert "2 of another shape (fc.bias is [1000], wanted [1008], fc.weight" in said
    counters = {"fc.num_batches_tracked": ()} | inception.ARCHITECTURE.wanted
    assert disagreement(counters, inception.ARCHITECTURE.wanted, ".num_batches_tracked") == ""


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("cls_token", np.full((1, 1, 384), np.nan, np.float32), "1 arrays are damaged .cls_token."),
        ("cls_token", np.zeros((1, 1, 384), np.float16), "float32; these are float16"),
    ],
)
def test_damaged_weights_are_refused(tmp_path, name, value, said):
    path = write(tmp_path / "w.safetensors", "small", {}, **{name: value})
    with pytest.raises(ValueError, match=said):
        DINOv2Features(weights=path, size="small").open(COLOR)


def test_missing_and_unconverted_files_are_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"no file 'x.safetensors', neither here nor in .*features"
    ):
        Inception(weights="x.safetensors").open(GREY, str(tmp_path))
    (tmp_path / "w-6726825d.pth").write_bytes(b"")
    with pytest.raises(ValueError, match=r"demolish convert_features w-6726825d.pth"):
        Inception(weights=str(tmp_path / "w-6726825d.pth")).open(GREY)
    (tmp_path / "w.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ValueError, match="no file of tensors"):
        Inception(weights=str(tmp_path / "w.safetensors")).open(GREY)


@pytest.mark.parametrize("name", ["inception", "dinov2"])
def test_data_that_are_no_images_are_refused(name):
    features = diffusion.build("features", name)
    for spec in (DataSpec(shape=(2,), kind="points"), DataSpec(shape=(8, 8, 2))):
        with pytest.raises(ValueError, match="of images"):
            features.open(spec)


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [("inception", "output", "pools"), ("inception", "block", 0), ("dinov2", "size", "giant"),
     ("dinov2", "resize", "bicubic"), ("dinov2", "block", 0)],
)  # fmt: skip
def test_fields_are_checked(name, field, value):
    with pytest.raises(ValueError, match=f"`{field}` must be"):
        diffusion.build("features", {"name": name, field: value})


def test_a_file_is_found_in_the_folder_of_the_data(tmp_path, weights):
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "inception.safetensors").symlink_to(weights)
    assert Inception().open(GREY, str(tmp_path)).name == "inception"


def test_blocks_have_one_size():
    seen = []

    def double(x):
        seen.append(x.shape)
        return 2.0 * x

    x = np.arange(14).reshape(7, 2)
    np.testing.assert_array_equal(in_blocks(double, x, 3, 2), 2 * x)
    assert seen == [(3, 2)] * 3


def test_parameters_come_back_as_they_were_published():
    """Orders of axes are undone exactly, and every array has its place."""
    weights = arrays_of("small")
    params = paths_of(params_of(weights, SMALL.abstract))
    back = {published_name(k): to_published(k, np.asarray(v)) for k, v in params.items()}
    assert back.keys() == weights.keys()
    assert all(np.array_equal(back[k], weights[k]) for k in weights)
    shapes = jax.tree.map(lambda a, b: a.shape == b.shape, params, paths_of(SMALL.abstract))
    assert all(shapes.values())
