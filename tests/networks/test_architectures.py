"""What is particular to one architecture: symmetries, options, errors."""

import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.networks import FAMILIES, FlaxNetwork, dit, unet, unet_encoder
from diffusion.networks.dit import patchify, unpatchify
from diffusion.registry import build

apply = jax.jit(FlaxNetwork.apply, static_argnums=0)


def perturbed(network, x, log_snr):
    params = network.init(jax.random.key(0), x, log_snr)
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: p + jnp.float32(0.2 * rng.standard_normal(p.shape)), params)


@pytest.fixture
def images():
    return jax.random.normal(jax.random.key(7), (2, 8, 8, 2)), jnp.array([-1.0, 2.0])


def small_dit(**fields):
    return dit(**({"patch": 2, "width": 16, "depth": 2, "heads": 2} | fields))


@pytest.mark.slow
def test_dit_without_positions_is_equivariant_to_permuted_tokens(images):
    x, log_snr = images
    network = small_dit(positions="none", registers=3)
    params = perturbed(network, x, log_snr)
    order = np.random.default_rng(0).permutation(16)
    shuffle = lambda x: unpatchify(patchify(x, 2)[:, order], 2, (4, 4))
    y = apply(network, params, x, log_snr)
    # sums over 16 tokens in another order
    np.testing.assert_allclose(
        apply(network, params, shuffle(x), log_snr), shuffle(y), atol=2e-5 * jnp.abs(y).max()
    )
    placed = small_dit(positions="rotary", registers=3)
    moved = apply(placed, params, shuffle(x), log_snr) - shuffle(apply(placed, params, x, log_snr))
    assert jnp.abs(moved).max() > 1e-3


def test_dit_blocks_start_as_the_identity(images):
    x, log_snr = images
    network = small_dit(depth=3)
    params = network.init(jax.random.key(0), x, log_snr)
    features = jax.jit(network.hidden)(params, x, log_snr)
    assert sorted(features) == ["features_0", "features_1", "features_2"]
    np.testing.assert_array_equal(features["features_0"], features["features_2"])
    assert features["features_0"].std() > 0.1


def stack_blocks(params, depth):
    """Turn the parameters of unrolled blocks into those of scanned ones."""
    rest = {k: v for k, v in params.items() if not k.startswith("block_")}
    blocks = [params[f"block_{i}"] for i in range(depth)]
    return rest | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


@pytest.mark.slow
def test_scanned_blocks_equal_unrolled_ones(images):
    x, log_snr = images
    loop, scan = small_dit(), small_dit(scan_blocks=True)
    params = perturbed(loop, x, log_snr)
    stacked = stack_blocks(params, 2)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(scan.init, jax.random.key(0), x, log_snr))
    assert shapes == jax.tree.map(jnp.shape, stacked)

    @functools.partial(jax.jit, static_argnums=0)
    def gradient_and_features(network, params):
        loss = lambda params: jnp.sum(network.apply(params, x, log_snr) ** 2)
        return jax.grad(loss)(params), network.hidden(params, x, log_snr)

    # the same operations, fused in another way: some tens of roundings of the largest entry
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5 * float(jnp.abs(a).max()))
    grads, features = gradient_and_features(loop, params)
    expected = stack_blocks(grads, 2), features
    for network in (scan, small_dit(scan_blocks=True, remat=True)):
        found = gradient_and_features(network, stacked)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        jax.tree.map(close, expected, found)


def test_scanned_blocks_drop_independently(images):
    x, log_snr = images
    network = small_dit(scan_blocks=True, dropout=0.5)
    params = perturbed(network, x, log_snr)
    a, b = (apply(network, params, x, log_snr, None, jax.random.key(k)) for k in (0, 1))
    assert (a != b).any()
    drawn = network.init(jax.random.key(0), x, log_snr)["blocks"]["mlp_in"]["kernel"]
    assert (drawn[0] != drawn[1]).any()


def test_training_length_leaves_training_alone_and_only_there(images):
    x, log_snr = images
    plain, scaled = small_dit(), small_dit(train_tokens=16)
    params = perturbed(plain, x, log_snr)
    y = apply(plain, params, x, log_snr)
    np.testing.assert_array_equal(y, apply(scaled, params, x, log_snr))
    larger = jnp.tile(x, (1, 2, 1, 1))
    gap = apply(plain, params, larger, log_snr) - apply(scaled, params, larger, log_snr)
    assert jnp.abs(gap).max() > 1e-4


SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1}
TINY = {"channels": 8, "multipliers": (1, 1), "blocks": 0, "middle_attention": False}


@pytest.mark.slow
def test_skip_scale_tunes_a_trained_network(images):
    x, log_snr = images
    network, tuned = unet(**TINY), unet(**TINY, skip_scale=(1.0, 0.5))
    params = perturbed(network, x, log_snr)
    gap = apply(tuned, params, x, log_snr) - apply(network, params, x, log_snr)
    assert jnp.abs(gap).max() > 1e-4
    assert unet(**TINY, skip_scale=0.5).module.config.scale_of_skip(1) == 0.5


def test_unet_attends_where_it_is_told(images):
    x, log_snr = images
    draw = lambda **f: jax.eval_shape(unet(**SMALL, **f).init, jax.random.key(0), x, log_snr)
    attended = draw(attention=(8,), middle_attention=False)
    assert "attention" in attended["encoder"]["down_0_0"]
    assert "attention" not in attended["encoder"]["down_1_0"]
    assert "attention" not in attended["encoder"]["middle_0"]
    with pytest.raises(ValueError, match=r"must be one of 8, 4; got 16"):
        draw(attention=(16,))


@pytest.mark.parametrize("family", FAMILIES)
def test_families_have_their_published_sizes(family):
    network = unet(family=family)
    for name, value in FAMILIES[family].items():
        assert getattr(network.module.config, name) == value
    assert unet(family=family, channels=24).module.config.channels == 24


@pytest.mark.slow
@pytest.mark.parametrize(("family", "size", "millions"), [("ddpmpp", 32, 55.7), ("adm", 64, 295.9)])
def test_families_have_about_the_published_parameters(family, size, millions):
    """Karras et al. (2022) give 56 million for DDPM++ on CIFAR-10, 296 for ADM on ImageNet-64."""
    network = unet(family=family, num_classes=1000 if family == "adm" else 0)
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = jax.eval_shape(lambda x: network.init(jax.random.key(0), x, jnp.zeros(1)), x)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))
    assert abs(count / 1e6 / millions - 1) < 0.05


def test_builders_show_their_fields():
    with pytest.raises(TypeError, match=r"no field 'chanels'.*Did you mean 'channels'"):
        build("network", {"name": "unet", "chanels": 8})
    with pytest.raises(TypeError, match="no field 'parent'"):
        build("network", {"name": "dit", "parent": None})
    listed = build("network", {"name": "unet", "multipliers": [1, 2]}, num_classes=4, other=3)
    assert listed == unet(multipliers=(1, 2), num_classes=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: unet(multipliers=()), "`multipliers` names them"),
        (lambda: unet(channels=7), "positive multiple of 2"),
        (lambda: unet(blocks=(1, 2)), "3, as many as"),
        (lambda: unet(resample="fur"), "Did you mean 'fir'"),
        (lambda: unet(skip="sum"), "`skip` must be one of"),
        (lambda: unet(family="amd"), "Did you mean 'adm'"),
        (lambda: run(dit(positions="rotatory")), "Did you mean 'rotary'"),
        (lambda: run(dit(width=10, heads=3)), "multiple of 3; got 10"),
        (lambda: run(dit(dtype="float23")), "Did you mean 'float32'"),
        (lambda: run(dit(dtype="float64")), "JAX_ENABLE_X64"),
        (lambda: run(dit(embedding="furier")), "Did you mean 'fourier'"),
        (lambda: run(dit(), shape=(1, 2)), "For points use the network 'mlp'"),
        (lambda: run(unet(), shape=(1, 2)), "For points use the network 'mlp'"),
        (lambda: run(unet_encoder()), "`num_classes` of a classifier must be a positive integer"),
    ],
)
def test_errors_say_what_to_do(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def run(network, shape=(1, 4, 4, 1)):
    return jax.eval_shape(lambda: network.init(jax.random.key(0), jnp.zeros(shape), jnp.zeros(1)))


def test_any_linen_module_is_a_network():
    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, log_snr, cond=None):
            return nn.Dense(x.shape[-1])(x)

    network = FlaxNetwork(Linear())
    params = network.init(jax.random.key(0), jnp.ones((2, 3)), 0.0)
    assert network.apply(params, jnp.ones((2, 3)), 0.0).shape == (2, 3)


def test_unhashable_modules_are_refused():
    class Listed(nn.Module):
        widths: list

    with pytest.raises(TypeError, match="must be hashable"):
        FlaxNetwork(Listed([1, 2]))


@pytest.mark.slow
def test_initial_values_have_the_variance_of_their_law():
    network = dit(patch=2, width=64, depth=3, heads=2, scan_blocks=True)
    x = jnp.zeros((1, 4, 4, 1))
    blocks, again, other = (network.init(jax.random.key(k), x, 0.0)["blocks"] for k in (0, 0, 1))
    for layers, inputs in (
        (blocks["mlp_in"]["kernel"], 64),
        (blocks["mlp_out"]["kernel"], 256),
        (blocks["attention"]["qkv"]["kernel"], 64),
    ):
        for layer in layers:
            # the relative error of a standard deviation of n normal numbers is 1 / sqrt(2 n)
            assert abs(layer.std() * inputs**0.5 - 1) < 4 / (2 * layer.size) ** 0.5
            assert jnp.abs(layer).max() <= 2 / 0.8796 / inputs**0.5
        assert (layers[0] != layers[1]).any()
    assert jax.tree.all(jax.tree.map(lambda a, b: (a == b).all(), blocks, again))
    assert (blocks["mlp_in"]["kernel"] != other["mlp_in"]["kernel"]).any()


@pytest.mark.parametrize("shape", [(2, 5, 2), (2, 6, 10, 2)])
def test_patches_of_a_unet_are_a_smaller_image(shape):
    x = jnp.ones(shape)
    network = unet(**TINY, patch=3)
    params = jax.eval_shape(network.init, jax.random.key(0), x, 0.0)
    dims = len(shape) - 2
    assert params["encoder"]["conv_in"]["kernel"].shape == (*(3,) * dims, 2 * 3**dims, 8)
    assert jax.eval_shape(network.apply, params, x, 0.0).shape == shape


@pytest.mark.slow
@pytest.mark.parametrize(("linear_skip", "power"), [(True, 1), (False, 0)])
def test_a_linear_skip_grows_with_the_input_where_the_trunk_does_not(linear_skip, power):
    """Far away y(2 x) is 2 y(x) with the skip connection, and y(x) without."""
    network = build("network", {"name": "mlp", "width": 8, "depth": 1, "linear_skip": linear_skip})
    x, level = jnp.array([[3e6, -4e6], [1e6, 2e6]]), jnp.zeros(2)
    params = jax.tree.map(lambda p: p + 0.3, network.init(jax.random.key(0), x, level))
    near, far = (network.apply(params, scale * x, level) for scale in (1.0, 2.0))
    np.testing.assert_allclose(far, 2.0**power * near, rtol=1e-4)
