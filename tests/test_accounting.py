"""Costs counted from equations: closed forms, and what the compiler says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.config.experiment import Experiment
from diffusion.run.cost import activation_bytes, bytes_of, matrix_flops, trace
from diffusion.run.dry_run import compiled, counted
from diffusion.run.step import batches_of


def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


def flops(function, *shapes):
    return matrix_flops(trace(function, *shapes))


def convolution(stride=1, padding="SAME", groups=1, gap=(1, 1), dilation=(1, 1)):
    return lambda x, w: jax.lax.conv_general_dilated(
        x, w, (stride, stride), padding, lhs_dilation=gap, rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups,
    )  # fmt: skip


# ---- operations ---------------------------------------------------------------------------------


def test_a_matrix_product_is_two_operations_for_each_multiplication():
    assert flops(jnp.matmul, shape(3, 5), shape(5, 7)) == 2 * 3 * 5 * 7
    assert flops(jnp.matmul, shape(4, 3, 5), shape(4, 5, 7)) == 4 * 2 * 3 * 5 * 7


def test_the_gradient_of_a_layer_costs_twice_the_layer():
    loss = lambda w, x: jnp.sin(x @ w).sum()
    layer = flops(loss, shape(5, 7), shape(3, 5))
    both = lambda w, x: jax.grad(loss, argnums=(0, 1))(w, x)
    assert flops(both, shape(5, 7), shape(3, 5)) == 3 * layer


def test_a_convolution_multiplies_no_padding():
    inner = 2 * 2 * 5 * 7 * 9  # batch, features and 3 x 3 weights
    assert flops(convolution(padding="VALID"), shape(2, 8, 8, 5), shape(3, 3, 5, 7)) == inner * 36
    # along one axis of n numbers 3 weights meet 3 n - 2 of them
    same = 2 * 2 * 5 * 7 * (3 * 8 - 2) ** 2
    assert flops(convolution(), shape(2, 8, 8, 5), shape(3, 3, 5, 7)) == same


@pytest.mark.parametrize(
    ("function", "weights"),
    [
        (convolution(), (3, 3, 4, 6)),
        (convolution(stride=2), (3, 3, 4, 6)),
        (convolution(groups=2), (3, 3, 2, 6)),
        (convolution(dilation=(2, 2)), (3, 3, 4, 6)),
        (convolution(gap=(2, 2), padding=((1, 2), (1, 2))), (3, 3, 4, 6)),
        (convolution(padding="VALID"), (1, 1, 4, 6)),
    ],
)
@pytest.mark.parametrize("derivative", [None, 0, 1])
def test_convolutions_and_their_gradients_cost_what_the_compiler_says(
    function, weights, derivative
):
    x, w = shapes = shape(2, 9, 8, 4), shape(*weights)
    if derivative is not None:  # the transposed map: a gradient computes the value as well
        value, out = function, jax.eval_shape(function, x, w)
        if derivative == 0:
            function = lambda y, w: jax.linear_transpose(lambda x: value(x, w), x)(y)
            shapes = out, w
        else:
            function = lambda y, x: jax.linear_transpose(lambda w: value(x, w), w)(y)
            shapes = out, x
    lowered = jax.jit(function).lower(*shapes)
    cost = lowered.cost_analysis()["flops"]
    size = int(max(np.prod(s.shape) for s in (*shapes, *jax.tree.leaves(lowered.out_info))))
    assert flops(function, *shapes) == pytest.approx(cost, abs=4 * size)  # sums, copies, masks


def test_a_loop_costs_each_of_its_turns():
    step = lambda c, w: (c @ w, None)
    loop = lambda c, w: jax.lax.scan(step, c, w)[0]
    assert flops(loop, shape(3, 5), shape(11, 5, 5)) == 11 * 2 * 3 * 5 * 5


def test_of_branches_the_dearest_counts():
    branches = lambda p, x, w: jax.lax.cond(p, lambda: x @ w @ w, lambda: x @ w)
    p = jax.ShapeDtypeStruct((), jnp.bool_)
    assert flops(branches, p, shape(3, 5), shape(5, 5)) == 2 * 2 * 3 * 5 * 5


def test_what_is_computed_again_is_counted_again():
    loss = lambda w, x: jnp.sin(jnp.sin(x @ w) @ w).sum()
    plain = flops(jax.grad(loss), shape(5, 5), shape(3, 5))
    again = flops(jax.grad(jax.checkpoint(loss)), shape(5, 5), shape(3, 5))
    assert plain < again <= plain + flops(loss, shape(5, 5), shape(3, 5))


# ---- memory -------------------------------------------------------------------------------------


def test_bytes_of_arrays_and_keys():
    tree = {"a": np.zeros((3, 4), np.float32), "b": shape(5), "c": jax.random.key(0)}
    assert bytes_of(tree) == 4 * 12 + 4 * 5 + 8


def test_a_layer_keeps_its_activations():
    # of sin(x w): x is an argument; cos(x w) is kept for the first layer, sin(x w) for the weights of the second
    loss = lambda w, x: (jnp.sin(x @ w[0]) @ w[1]).sum()
    found = activation_bytes(loss, (shape(5, 7), shape(7, 1)), shape(3, 5))
    assert found == 4 * (2 * 3 * 7)


def test_of_an_activation_function_its_argument_and_two_arrays_count():
    loss = lambda w, x: (jax.nn.silu(x @ w[0]) @ w[1]).sum()
    found = activation_bytes(loss, (shape(5, 7), shape(7, 1)), shape(3, 5))
    assert found == 4 * (3 * 3 * 7)


def test_an_activation_function_after_a_norm_keeps_one_array_less():
    """a h + b is what silu takes: h, that, and the result, not the rest of its derivative."""

    def loss(w, x):
        h = x @ w[0]
        return (jax.nn.silu(h * jnp.mean(h, axis=0) + w[2]) @ w[1]).sum()

    found = activation_bytes(loss, (shape(5, 7), shape(7, 1), shape(7)), shape(3, 5))
    assert found == 4 * (3 * 3 * 7 + 7)  # and the means


def test_rematerialization_keeps_less():
    def loss(w, x, layer):
        for _ in range(4):
            x = layer(x, w)
        return x.sum()

    layer = lambda x, w: jnp.sin(jnp.sin(x @ w) @ w)
    shapes = (shape(5, 5), shape(3, 5))
    plain = activation_bytes(lambda w, x: loss(w, x, layer), *shapes)
    again = activation_bytes(lambda w, x: loss(w, x, jax.checkpoint(layer)), *shapes)
    assert again == 3 * 4 * 15  # the inputs of three layers; that of the first is an argument
    assert plain > again


# ---- whole steps --------------------------------------------------------------------------------

UNET = {"name": "unet", "channels": 64, "multipliers": [1, 2], "blocks": 1, "attention": []}
DIT = {"name": "dit", "patch": 1, "width": 128, "depth": 3, "heads": 2}


@pytest.mark.slow
@pytest.mark.parametrize("network", [UNET, DIT], ids=["unet", "dit"])
def test_a_training_step_costs_what_was_counted(network, tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8)
    np.savez(tmp_path / "pictures.npz", data=pictures)
    data = {"name": "array", "path": str(tmp_path / "pictures.npz"), "batch_size": 32}
    config = {
        "process": {"name": "vp"},
        "network": network,
        "data": data,
        "train": {"num_steps": 5},
    }
    experiment = Experiment.from_config(config)
    with batches_of(experiment, 0, 1) as batches:
        batch = next(batches)
    by_hand, found = counted(experiment, batch), compiled(experiment, batch)
    assert by_hand["flops"] == pytest.approx(found["flops"], rel=0.05)
    assert by_hand["peak_bytes"] == pytest.approx(found["peak_bytes"], rel=0.15)
