"""Conditions, noise levels, positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.networks.embeddings import (
    NOISE_FEATURES,
    ConditionEmbedder,
    check_cond,
    concat_image,
    noise_conditioning,
    noise_features,
)
from diffusion.networks.positions import (
    LearnedPositions,
    coordinates,
    rotary_angles,
    rotate,
    sincos_positions,
)


def embedder(**fields):
    module = ConditionEmbedder(8, **fields)
    return module, module.init(jax.random.key(0), None, 2)


@pytest.mark.parametrize("name", NOISE_FEATURES)
def test_noise_features_are_of_unit_size_and_separate_levels(name):
    c = noise_conditioning(jnp.linspace(-15, 15, 301), 301)
    features = noise_features(name, c, 64)
    assert features.shape == (301, 64)
    # sqrt(2) cos has mean square 1 over phases; 64 of them scatter by 1 / sqrt(2 * 64) or less
    np.testing.assert_allclose(jnp.mean(features**2, axis=-1), 1.0, atol=5 / 128**0.5)
    gaps = jnp.linalg.norm(features[1:] - features[:-1], axis=-1)
    assert gaps.min() > 0.1  # levels that differ by 0.1 in log-SNR


def test_noise_level_refuses_other_batches():
    with pytest.raises(ValueError, match=r"shape \(\) or \(4,\).*\(3,\)"):
        noise_conditioning(jnp.zeros(3), 4)


def test_attributes_have_tables_and_nulls_of_their_own():
    module, variables = embedder(num_classes=(2, 3))
    embed = lambda *rows: module.apply(variables, {"label": jnp.array(rows)}, len(rows))
    a, b, both, none = embed((1, -1), (-1, 2), (1, 2), (-1, -1))
    np.testing.assert_allclose(a + b, both + none, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(none, module.apply(variables, None, 2)[0])


def test_labels_beyond_the_classes_are_refused_or_nan():
    module, variables = embedder(num_classes=3)
    call = lambda label: module.apply(variables, {"label": label}, 2)
    with pytest.raises(ValueError, match="below `num_classes`"):
        call(jnp.array([0, 3]))
    row_finite = jnp.isfinite(jax.jit(call)(jnp.array([2, 3]))).all(axis=-1)
    assert row_finite.tolist() == [True, False]


def test_a_vector_with_nan_is_absent_and_a_zero_vector_is_not():
    module, variables = embedder(vector_dim=2)
    rows = jnp.array([[jnp.nan, jnp.nan], [0.0, jnp.nan], [0.0, 0.0], [0.0, 1.0]])
    given = module.apply(variables, {"vector": rows}, 4)
    absent = module.apply(variables, None, 4)
    np.testing.assert_array_equal(given[:2], absent[:2])
    assert (given[2:] != absent[2:]).all()


def test_an_absent_image_is_fed_as_zeros():
    x = jnp.ones((2, 4, 1))
    absent = concat_image(x, None, 3)
    for value in (0.0, jnp.nan):
        image = jnp.full((2, 4, 3), value)
        np.testing.assert_array_equal(absent, concat_image(x, {"image": image}, 3))
    assert absent.shape == (2, 4, 4)
    with pytest.raises(ValueError, match=r"cond\['image'\] must have shape"):
        concat_image(x, {"image": jnp.zeros((2, 5, 3))}, 3)


def test_wrong_conditions_are_explained():
    module, variables = embedder(num_classes=3, vector_dim=2)
    with pytest.raises(TypeError, match="dictionary"):
        check_cond(jnp.zeros(2))
    with pytest.raises(ValueError, match=r"'labels'.*Did you mean 'label'"):
        check_cond({"labels": jnp.zeros(2)})
    with pytest.raises(ValueError, match="integers"):
        module.apply(variables, {"label": jnp.zeros(2)}, 2)
    with pytest.raises(ValueError, match=r"cond\['label'\] must have shape \(2, 1\)"):
        module.apply(variables, {"label": jnp.zeros((2, 2), int)}, 2)
    with pytest.raises(ValueError, match="vector_dim"):
        module.apply(variables, {"vector": jnp.ones((2, 3))}, 2)
    with pytest.raises(ValueError, match="positive or 0"):
        embedder(num_classes=(2, 0))


def test_what_was_not_built_is_ignored():
    module, variables = embedder()
    assert not module.apply(
        variables, {"label": jnp.arange(2), "vector": jnp.ones((2, 9))}, 2
    ).any()
    assert not variables


def test_coordinates_are_row_major():
    assert coordinates((2, 3)).tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]


@pytest.mark.parametrize("grid", [(7,), (3, 5)])
def test_rotary_products_depend_on_differences_only(grid):
    """<R(a) q, R(b) k> = <R(a + s) q, R(b + s) k> for all shifts of the grid."""
    q, k = jax.random.normal(jax.random.key(0), (2, 1, 1, 1, 8))
    angles = rotary_angles(grid, 8)
    turned = lambda x: rotate(jnp.broadcast_to(x, (1, len(angles), 1, 8)), angles)[0, :, 0]
    products = np.asarray(turned(q) @ turned(k).T)
    at = coordinates(grid)
    groups = {}
    for i, j in np.ndindex(products.shape):
        groups.setdefault(tuple(at[i] - at[j]), []).append(products[i, j])
    # 8 products of float32 numbers of size 3
    assert max(np.ptp(values) for values in groups.values()) < 8 * 9 * 4 * 2**-24 * 4
    assert np.ptp(products) > 0.1
    np.testing.assert_allclose(jnp.linalg.norm(turned(q), axis=-1), jnp.linalg.norm(q), rtol=1e-6)


@pytest.mark.parametrize("grid", [(7,), (3, 5)])
def test_sincos_positions_tell_tokens_apart(grid):
    table = sincos_positions(grid, 16)
    np.testing.assert_allclose((table**2).sum(-1), 8.0)  # 8 pairs of a sine and a cosine
    gaps = np.linalg.norm(table[:, None] - table[None], axis=-1) + 10 * np.eye(len(table))
    assert gaps.min() > 0.1


def test_learned_positions_are_interpolated_on_other_grids():
    module = LearnedPositions(4)
    variables = module.init(jax.random.key(0), (3, 2))
    assert module.apply(variables, (3, 2)).shape == (6, 4)
    assert module.apply(variables, (6, 4)).shape == (24, 4)
    constant = jax.tree.map(jnp.ones_like, variables)
    np.testing.assert_allclose(module.apply(constant, (6, 4)), 1.0, rtol=1e-6)


def test_features_that_cannot_be_shared_are_refused():
    with pytest.raises(ValueError, match="multiple of 4"):
        rotary_angles((3, 3), 6)
    with pytest.raises(ValueError, match="multiple of 4"):
        sincos_positions((3, 3), 6)
