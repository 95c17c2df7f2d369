"""What every registered network and classifier promises, whatever its architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion.networks  # noqa: F401  (fills the registry)
from diffusion.networks import FlaxNetwork, count_parameters
from diffusion.registry import build, registered

CLASSES = 3
# Small sizes of the registered names; a name that is not here is tested with its defaults.
SMALL = {
    "mlp": {"width": 16, "depth": 2},
    "unet": {"channels": 8, "multipliers": (1, 2), "blocks": (0, 1), "attention": (4,)},
    "dit": {"patch": 2, "width": 16, "depth": 2, "heads": 2},
    "unet_encoder": {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)},
}
VARIANTS = [  # options with parameters or computations of their own
    ("mlp", {"embedding": "fourier", "vector_dim": 2}),
    ("mlp", {"linear_skip": True}),
    ("unet", {"resample": "conv", "skip": "add", "vector_dim": 2, "image_channels": 1}),
    ("unet", {"resample": "fir", "resample_in_block": True, "embedding": "fourier"}),
    ("unet", {"family": "ddpmpp", "patch": 2, "multi_hot_dim": 2}),
    ("unet", {"family": "adm", "head_channels": 4}),
    ("dit", {"positions": "learned", "registers": 2, "qk_norm": True}),
    ("dit", {"positions": "sincos", "scan_blocks": True, "vector_dim": 2, "image_channels": 1}),
    ("dit", {"positions": "none", "remat": True, "train_tokens": 7}),
]
NETWORKS = [(name, {}) for name in registered("network")]
CLASSIFIERS = [(name, {}) for name in registered("classifier")]
SLOW_VARIANTS = [pytest.param(case, marks=pytest.mark.slow) for case in VARIANTS]
ids = lambda case: "-".join([case[0], *map(str, case[1].values())])


def make(case, kind="network", **fields):
    name, own = case
    return build(kind, {"name": name} | SMALL.get(name, {}) | own | fields, num_classes=CLASSES)


def inputs(batch=4, space=(8, 8), channels=1):
    """A batch with every label and the null, and a null vector in the last row."""
    keys = jax.random.split(jax.random.key(0), 3)
    cond = {
        "label": jnp.arange(batch) % (CLASSES + 1) - 1,
        "multi_hot": jnp.array([[0, 1], [1, 0], [-1, 1], [1, -1]])[:batch],
        "vector": jax.random.normal(keys[1], (batch, 2)).at[-1].set(jnp.nan),
        "image": jax.random.normal(keys[2], (batch, *space, 1)),
    }
    x = jax.random.normal(keys[0], (batch, *space, channels))
    return x, jnp.linspace(-6.0, 6.0, batch), cond


def perturb(params, scale=0.2):
    """Move every parameter, so that nothing is zero any more."""
    leaves, tree = jax.tree.flatten(params)
    moves = np.random.default_rng(0).standard_normal(count_parameters(params))
    ends = np.cumsum([leaf.size for leaf in leaves])[:-1]
    draws = [m.reshape(p.shape) for m, p in zip(np.split(moves, ends), leaves, strict=True)]
    moved = [p + jnp.asarray(scale * m, p.dtype) for m, p in zip(draws, leaves, strict=True)]
    return jax.tree.unflatten(tree, moved)


apply = jax.jit(FlaxNetwork.apply, static_argnums=0)


def trained(case, **fields):
    """A network with parameters away from the start, and a labeled batch."""
    network = make(case, **fields)
    x, log_snr, cond = inputs()
    cond = {"label": cond["label"]}
    return network, perturb(network.init(jax.random.key(1), x, log_snr, cond)), x, log_snr, cond


def check_start_and_gradients(network, example, output_shape):
    """Zero at the start; then a gradient in every leaf, well above the rounding of the largest."""
    x, log_snr, cond = example
    params = network.init(jax.random.key(1), x, log_snr, cond)
    assert type(params) is dict
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    assert count_parameters(params) == sum(p.size for p in jax.tree.leaves(params))

    @jax.jit
    def output_and_gradient(params):
        def loss(params):
            y = network.apply(params, x, log_snr, cond)
            weights = jnp.asarray(np.random.default_rng(1).standard_normal(y.shape), y.dtype)
            return jnp.sum(y * weights), y

        return jax.grad(loss, has_aux=True)(params)

    _, y = output_and_gradient(params)
    assert (y.shape, y.dtype) == (output_shape, jnp.float32)
    assert not y.any()
    grads, _ = output_and_gradient(perturb(params))
    grads = {jax.tree_util.keystr(k): g for k, g in jax.tree_util.tree_leaves_with_path(grads)}
    norms = {k: float(jnp.linalg.norm(g)) for k, g in grads.items()}
    floor = 1e-5 * max(norms.values())  # a hundred roundings of float32
    assert not {k: v for k, v in norms.items() if not v > floor}
    for name, g in grads.items():  # all rows of the tables were looked up
        assert "embedding" not in name or g.any(axis=-1).all()


@pytest.mark.parametrize("case", NETWORKS + SLOW_VARIANTS, ids=ids)
def test_starts_as_zero_and_no_parameter_is_dead(case):
    check_start_and_gradients(make(case), inputs(), (4, 8, 8, 1))


@pytest.mark.parametrize("case", CLASSIFIERS, ids=ids)
def test_classifier_starts_undecided_and_no_parameter_is_dead(case):
    check_start_and_gradients(make(case, "classifier"), inputs(), (4, CLASSES))


@pytest.mark.parametrize("case", CLASSIFIERS, ids=ids)
def test_classifier_does_not_look_at_cond(case):
    network = make(case, "classifier")
    x, log_snr, cond = inputs()
    params = jax.eval_shape(network.init, jax.random.key(1), x, log_snr)
    seen = jax.make_jaxpr(network.apply)(params, x, log_snr, cond)
    assert str(seen.jaxpr.eqns) == str(jax.make_jaxpr(network.apply)(params, x, log_snr).jaxpr.eqns)


@pytest.mark.parametrize("case", VARIANTS, ids=ids)
def test_variants_keep_shape_and_dtype(case):
    x, log_snr, cond = inputs()
    check_shape(make(case), x, log_snr, cond)


def check_shape(network, x, log_snr, cond, dtype="float32"):
    params = jax.eval_shape(network.init, jax.random.key(0), x, log_snr, cond)
    y = jax.eval_shape(network.apply, params, x, log_snr, cond)
    assert (y.shape, y.dtype) == (x.shape, jnp.dtype(dtype))
    assert {p.dtype for p in jax.tree.leaves(params)} == {jnp.dtype(dtype)}


@pytest.mark.parametrize("case", NETWORKS, ids=ids)
class TestEvaluation:
    def test_null_label_is_no_condition(self, case):
        network, params, x, log_snr, _ = trained(case)
        null = apply(network, params, x, log_snr, {"label": jnp.full(4, -1)})
        np.testing.assert_array_equal(null, apply(network, params, x, log_snr))
        each = [
            apply(network, params, x, log_snr, {"label": jnp.full(4, i)}) for i in range(CLASSES)
        ]
        outputs = [null, *each]
        gaps = [float(jnp.abs(a - b).max()) for i, a in enumerate(outputs) for b in outputs[:i]]
        assert min(gaps) > 1e-3

    def test_examples_do_not_see_each_other(self, case):
        network, params, x, log_snr, cond = trained(case)
        y = apply(network, params, x, log_snr, cond)
        other = x.at[1:].multiply(-3.0)
        moved = apply(network, params, other, log_snr.at[1:].add(1.0), cond)
        np.testing.assert_array_equal(moved[0], y[0])
        assert jnp.abs(moved[1:] - y[1:]).max() > 1e-3

    def test_scalar_and_infinite_noise_levels(self, case):
        network, params, x, _, cond = trained(case)
        scalar = apply(network, params, x, jnp.float32(0.7), cond)
        np.testing.assert_array_equal(scalar, apply(network, params, x, jnp.full(4, 0.7), cond))
        ends = apply(network, params, x, jnp.array([jnp.inf, -jnp.inf, 30.0, -30.0]), cond)
        assert jnp.isfinite(ends).all()
        limit = apply(network, params, x, jnp.array([30.0, -30.0, jnp.inf, -jnp.inf]), cond)
        np.testing.assert_array_equal(ends, limit)

    def test_dropout_needs_a_key(self, case):
        network, params, x, log_snr, cond = trained(case, dropout=0.5)
        plain, without = (make(case), params), (network, params)
        quiet = apply(*without, x, log_snr, cond)
        np.testing.assert_array_equal(quiet, apply(*plain, x, log_snr, cond))
        a, again, b = (apply(*without, x, log_snr, cond, jax.random.key(k)) for k in (0, 0, 1))
        np.testing.assert_array_equal(a, again)
        assert (a != b).any()
        assert (a != quiet).any()

    def test_bfloat16_computes_near_float32(self, case):
        network, params, x, log_snr, cond = trained(case)
        low = make(case, dtype="bfloat16")
        check_shape(low, x, log_snr, cond)
        y, y_low = (apply(n, params, x, log_snr, cond) for n in (network, low))
        # about 30 roundings of relative size 2^-8 in a row, adding up like a random walk
        error = jnp.linalg.norm(y_low - y) / jnp.linalg.norm(y)
        assert 0 < error < 30**0.5 * 2**-8 * 2

    def test_traces_once_for_equal_networks(self, case):
        network, params, x, log_snr, cond = trained(case)
        traces = []

        def forward(network, params):
            traces.append(network)
            return network.apply(params, x, log_snr, cond)

        compiled = jax.jit(forward, static_argnums=0)
        compiled.lower(network, params)
        compiled.lower(make(case), params)
        assert len(traces) == 1
        assert make(case) == network
        assert hash(make(case)) == hash(network)
        assert make(case, dtype="bfloat16") != network

    def test_hidden_features_have_names(self, case):
        network, params, x, log_snr, cond = trained(case)
        features = jax.eval_shape(network.hidden, params, x, log_snr, cond)
        assert len(features) >= 2
        assert all(len(f.shape) > 1 and f.shape[0] == len(x) for f in features.values())
        assert all("features_" in name for name in features)


@pytest.mark.parametrize(
    ("name", "space", "channels"),
    [
        ("mlp", (), 1),
        ("mlp", (), 5),
        ("mlp", (3, 2), 2),
        ("unet", (7, 9), 3),
        ("unet", (8, 4), 1),
        ("unet", (13,), 2),
        ("dit", (7, 9), 3),
        ("dit", (13,), 2),
    ],
)
def test_any_shape(name, space, channels):
    network = make((name, {"attention": ()} if name == "unet" else {}))
    x, log_snr, cond = inputs(2, space, channels)
    check_shape(network, x, log_snr, cond)


@pytest.mark.parametrize("case", NETWORKS, ids=ids)
def test_float64_only_on_request(case):
    with jax.enable_x64(True):
        x, log_snr, cond = inputs(2)
        assert x.dtype == jnp.float64
        for dtype in ("float32", "float64"):
            check_shape(make(case, dtype=dtype), x, log_snr, cond, dtype)


@pytest.mark.slow
def test_numpy_inputs_and_shapes_only():
    network = make(("mlp", {}))
    x, log_snr = np.ones((4, 2), np.float32), np.zeros(4, np.float32)
    params = network.init(jax.random.key(0), x, log_snr)
    apply_jit = jax.jit(network.apply)
    assert apply_jit(params, x, 0.0, {"label": np.arange(4) % 3}).shape == (4, 2)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, log_snr)
    assert count_parameters(shapes) == count_parameters(params)
