"""Inception and DINOv2: sizes, and the answers of independent implementations that golden.npz holds."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from published_networks import (
    INCEPTION_BLOCKS,
    SMALL_DINO,
    dino_images,
    inception_images,
    random_weights,
    small_levels,
    summary,
)

from diffusion.evaluation.features import dinov2, inception
from diffusion.evaluation.features.published import Architecture, params_of
from diffusion.networks.dinov2 import DINOv2, interpolation
from diffusion.networks.inception import (
    BlockE,
    InceptionV3,
    StoredNorm,
    inception_input,
)


@pytest.fixture(scope="module")
def golden():
    with np.load(Path(__file__).parent / "golden.npz") as file:
        return dict(file)


def agrees(x, wanted, what):
    """Compare a summary: equal size, and the rest to 1e-4 of what is usual in the array."""
    found = summary(x)
    assert found[0] == wanted[0], what
    error = np.abs(found[1:] - wanted[1:]).max() / (abs(wanted[1]) + wanted[2])
    assert error <= 1e-4, f"{what}: {error:.1e}"


def total(shapes, last=""):
    return sum(int(np.prod(s)) for k, s in shapes.items() if k.endswith(last))


def test_inception_has_the_published_numbers_of_weights():
    wanted = inception.ARCHITECTURE.wanted
    convolutions = {k: s for k, s in wanted.items() if k.endswith(".conv.weight")}
    norms = {k: s for k, s in wanted.items() if ".bn." in k}
    stored = {k: s for k, s in norms.items() if "running" in k}
    head = {k: s for k, s in wanted.items() if k.startswith("fc.")}
    assert len(convolutions) == 94
    assert total(convolutions) == 21_751_136
    assert total(norms, "weight") == 17_216
    assert total(convolutions) + total(norms) - total(stored) == 21_785_568
    assert total(stored) == 34_432
    assert total(head) == 2_065_392
    assert total(wanted) - total(stored) == 23_850_960
    assert wanted["fc.weight"] == (1008, 2048)


@pytest.mark.parametrize(
    ("size", "count"), [("small", 22_056_576), ("base", 86_580_480), ("large", 304_368_640)]
)
def test_dinov2_has_the_published_numbers_of_weights(size, count):
    mask_token = dinov2.architecture(size).module.width  # only training needs it
    assert total(dinov2.architecture(size).wanted) + mask_token == count


def test_inception_changes_sizes_as_published():
    """Height and channels after each block, for images of 299 x 299 (Szegedy et al. 2016, table 1)."""
    sizes = [149, 147, 147, 73, 71, 35, 35, 35, 17, 17, 17, 17, 17, 8, 8, 8]
    channels = [32, 32, 64, 80, 192, 256, 288, 288, 768, 768, 768, 768, 768, 1280, 2048, 2048]
    run = lambda p, x: InceptionV3().apply(
        {"params": p}, x, capture_intermediates=True, mutable=["intermediates"]
    )
    x = jax.ShapeDtypeStruct((1, 299, 299, 3), np.float32)
    outputs, kept = jax.eval_shape(run, inception.ARCHITECTURE.abstract, x)
    for name, size, channel in zip(INCEPTION_BLOCKS, sizes, channels, strict=True):
        assert kept["intermediates"][name]["__call__"][0].shape == (1, size, size, channel), name
    assert outputs.spatial.shape == (1, 17, 17, 7)


def test_normalization_uses_what_is_stored():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3, 4)), jnp.float32)
    stored = dict(scale=2.0, bias=1.0, running_mean=0.5, running_var=4.0)
    params = {k: jnp.full(4, v, jnp.float32) for k, v in stored.items()}
    y = StoredNorm().apply({"params": params}, x)
    np.testing.assert_allclose(y, (x - 0.5) / np.sqrt(4.0 + 1e-3) * 2 + 1, atol=2e-6)


def test_inputs_are_shifted_by_128():
    x = inception_input(jnp.asarray([0.0, 128.0, 255.0]).repeat(3).reshape(3, 1, 1, 3))
    np.testing.assert_allclose(x[:, 7, 7, 0], [-1, 0, 127 / 128])


@pytest.mark.parametrize("largest", [False, True])
def test_pooling_at_the_border(largest):
    """Means count no padding: constants stay; maxima of negative maps are not the padding's zero."""
    block = BlockE(largest=largest)
    x = -jnp.ones((1, 4, 4, 5))
    params = jax.jit(block.init)(jax.random.key(0), x)["params"]
    pool = dict(params["branch_pool"], conv={"kernel": -params["branch_pool"]["conv"]["kernel"]})
    y = jax.jit(block.apply)({"params": {**params, "branch_pool": pool}}, x)[..., -192:]
    np.testing.assert_allclose(y, np.broadcast_to(y[:, :1, :1], y.shape), rtol=1e-5)
    assert float(jnp.abs(y).max()) > 0


@pytest.mark.slow
def test_inception_answers_as_pytorch_fid_does(golden):
    abstract = inception.ARCHITECTURE.abstract
    params = params_of(random_weights(inception.ARCHITECTURE.wanted), abstract)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    run = jax.jit(
        lambda p, x: InceptionV3().apply(
            {"params": p}, x, capture_intermediates=True, mutable=["intermediates"]
        )
    )
    outputs, kept = run(params, jnp.asarray(inception_images(), jnp.float32))
    for name in INCEPTION_BLOCKS:
        agrees(kept["intermediates"][name]["__call__"][0], golden[f"inception/{name}"], name)
    agrees(outputs.pool, golden["inception/pool"], "pool")


@pytest.mark.slow
def test_inception_answers_as_torch_fidelity_does(golden):
    """From 8-bit images over the resizing to features and logits."""
    abstract = inception.ARCHITECTURE.abstract
    params = params_of(random_weights(inception.ARCHITECTURE.wanted), abstract)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    x = inception_input(jnp.asarray(small_levels(), jnp.float32))
    outputs = jax.jit(lambda p, x: InceptionV3().apply({"params": p}, x))(params, x)
    agrees(outputs.pool, golden["levels/pool"], "pool")
    agrees(outputs.logits_unbiased, golden["levels/unbiased"], "unbiased logits")
    agrees(outputs.logits, golden["levels/logits"], "logits")


@pytest.mark.parametrize(
    "side", [70, 42]
)  # as stored, and interpolated from 5 x 5 to 3 x 3 patches
def test_dinov2_answers_as_the_authors_network_does(golden, side):
    module = DINOv2(**SMALL_DINO)
    made = Architecture(title="", module=module, size=14, passed="")
    params = params_of(random_weights(made.wanted), made.abstract)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    x = jnp.asarray(dino_images(side), jnp.float32)
    outputs, kept = module.apply(
        {"params": params}, x, capture_intermediates=True, mutable=["intermediates"]
    )
    for i in range(module.depth):
        block = kept["intermediates"][f"blocks.{i}"]["__call__"][0]
        agrees(block, golden[f"dinov2/{side}/blocks.{i}"], f"block {i}")
    agrees(outputs.class_token, golden[f"dinov2/{side}/token"], "class token")


def test_interpolation_keeps_constants_and_is_exact_inside_on_lines():
    """Rows sum to 1. On a line cubic convolution with -3/4 errs by at most 1/16 of a step."""
    matrix = interpolation(37, 16)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    at = (np.arange(16) + 0.5) * 37 / 16.1 - 0.5
    inside = (at >= 1) & (at <= 35)
    assert np.abs(matrix @ np.arange(37.0) - at)[inside].max() <= 1 / 16


def test_dinov2_refuses_images_that_are_no_whole_patches():
    module = DINOv2(**SMALL_DINO)
    with pytest.raises(ValueError, match="multiple of 14"):
        jax.eval_shape(
            module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
        )
