"""Operators of linear measurements: the laws hold for everything registered, and fail for what is wrong."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import build, registered
from diffusion.inverse_problems.operators import (
    Blur,
    BoxMask,
    Colorize,
    CompressedSensing,
    Mask,
    Matrix,
    Operator,
    RandomMask,
    Superres,
)
from diffusion.registry import lookup
from diffusion.testing import check_operator, matrix_of

KEY = jax.random.key(0)
VARIANTS = [
    (Blur(border="zero"), (8, 9, 1)),
    (Blur(kernel=((0.0, 0.2, 0.0), (0.1, 0.4, 0.3), (0.0, 0.0, 0.0))), (6, 7, 2)),
    (Blur(width=2.0), (28, 28, 1)),
    (BoxMask(box=(0, 1, 3, 4), keep=True), (5, 6, 1)),
    (RandomMask(fraction=0.3, seed=4), (7,)),
    (Superres(factor=4), (8, 12, 3)),
    (CompressedSensing(fraction=0.1, seed=2), (4, 5)),
    (Mask(values=np.array([1, 0, 1])), (3,)),
    (Matrix(values=np.kron(np.eye(2), np.full((1, 3), 0.5))), (6,)),
]


@pytest.mark.parametrize("name", registered("operator"))
def test_the_laws_hold_for_everything_registered(name):
    operator, shape = lookup("operator", name).example()
    report = check_operator(operator, shape)
    assert report.holds, f"\n{report}"


@pytest.mark.parametrize(("operator", "shape"), VARIANTS, ids=lambda x: type(x).__name__)
def test_the_laws_hold_for_variants(operator, shape):
    report = check_operator(operator, shape)
    assert report.holds, f"\n{report}"


def affine_superres():
    @jax.tree_util.register_dataclass
    @dataclass(frozen=True, kw_only=True)
    class Affine(Operator):
        def forward(self, x):
            return x[..., ::2] + 1.0

    return Affine()


def wrong_adjoint():
    @jax.tree_util.register_dataclass
    @dataclass(frozen=True, kw_only=True)
    class Wrong(Operator):
        def forward(self, x):
            return 2 * x

        def adjoint(self, y, shape):
            return y

        def gram(self, shape):
            return 3.0

    return Wrong()


def sees_the_batch():
    @jax.tree_util.register_dataclass
    @dataclass(frozen=True, kw_only=True)
    class Batch(Operator):
        def forward(self, x):
            return x - x.mean(axis=0)

    return Batch()


@pytest.mark.parametrize(
    ("make", "broken"),
    [(affine_superres, "O1"), (wrong_adjoint, "O2"), (wrong_adjoint, "O4"), (sees_the_batch, "O3")],
)
def test_wrong_operators_are_found_out(make, broken):
    report = check_operator(make(), (4, 4, 2))
    assert broken in {f.law for f in report.findings if not f.holds}, f"\n{report}"
    assert "look at" in str(report)


def test_what_is_no_operator_is_refused():
    for wrong in (Superres, "superres"):
        with pytest.raises(TypeError, match="operator"):
            check_operator(wrong)


# ---- what each of them does, against a matrix written down by hand -------------------------------


def test_matrices_by_hand():
    half = matrix_of(Superres(factor=2), (2, 4, 1))
    np.testing.assert_array_equal(
        half, [[0.25, 0.25, 0, 0, 0.25, 0.25, 0, 0], [0, 0, 0.25, 0.25, 0, 0, 0.25, 0.25]]
    )
    np.testing.assert_allclose(matrix_of(Colorize(), (1, 1, 3)), [[1 / 3] * 3])
    np.testing.assert_array_equal(
        np.diag(matrix_of(BoxMask(box=(0, 1, 1, 2)), (2, 2, 1))), [1, 0, 1, 1]
    )


@pytest.mark.parametrize("border", ["circular", "zero"])
def test_blur_is_a_convolution(border):
    """On a point in a corner the kernel appears, wrapped around or cut off; not mirrored."""
    kernel = np.arange(1.0, 10).reshape(3, 3)
    image = jnp.zeros((1, 5, 5, 1)).at[0, 0, 0, 0].set(1)
    found = Blur(kernel=kernel, border=border).forward(image)[0, :, :, 0]
    centered = np.zeros((5, 5))
    centered[1:4, 1:4] = kernel
    wanted = np.roll(centered, (-2, -2), (0, 1))
    if border == "zero":
        wanted[3:], wanted[:, 3:] = 0, 0
    np.testing.assert_allclose(found, wanted)
    assert abs(Blur(width=0.7).forward(jnp.ones((1, 9, 9, 2))) - 1).max() < 1e-12


def test_random_masks_hide_their_share_of_pixels_in_all_channels():
    mask = np.broadcast_to(RandomMask(fraction=0.3, seed=1).known((10, 10, 3)), (10, 10, 3))
    assert (mask == mask[..., :1]).all()
    assert mask.mean() == pytest.approx(0.7)
    assert (mask != RandomMask(fraction=0.3, seed=2).known((10, 10, 3))).any()


def test_measurements_have_the_noise_that_was_asked_for():
    operator = BoxMask(box=(0, 0, 4, 8))
    x = jnp.ones((2000, 8, 8, 1))
    y = operator.measure(KEY, x, 0.2)
    assert (y[:, :4] == 0).all()
    n = 2000 * 32
    assert abs(y[:, 4:].mean() - 1) < 5 * 0.2 / n**0.5
    assert abs(y[:, 4:].std() / 0.2 - 1) < 5 / (2 * n) ** 0.5


def test_hidden_numbers_are_never_used():
    x = jnp.full((1, 2, 2, 1), jnp.nan)
    assert (Mask(values=0.0).forward(x) == 0).all()


def test_another_mask_needs_no_compilation():
    count = [0]

    @jax.jit
    def run(operator, x):
        count[0] += 1
        return operator.forward(x)

    for seed in range(3):
        values = np.random.default_rng(seed).integers(0, 2, (4, 4, 1))
        run(Mask(values=values), jnp.ones((1, 4, 4, 3)))
    assert count == [1]


def test_configs_name_operators():
    operator = build("operator", dict(name="mask", values=[[1, 0], [0, 1]]))
    np.testing.assert_array_equal(operator.forward(jnp.ones((1, 2, 2))), [[[1, 0], [0, 1]]])
    assert build("operator", dict(name="superres", factor=4)).factor == 4


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Mask(values=((0.5,),)), "0 .hidden. or 1"),
        (lambda: Mask(values=np.ones((3, 4, 1))).check((4, 4, 1)), r"\(4, 4, 1\)"),
        (lambda: BoxMask(box=(4, 0, 2, 2)), "top < bottom"),
        (lambda: BoxMask(box=(0, 0, 9, 2)).check((8, 8, 1)), "8 x 8"),
        (lambda: RandomMask(fraction=1.0), "fraction"),
        (lambda: Superres(factor=3).check((8, 8, 1)), "multiple of 3"),
        (lambda: Superres().check((8,)), "images"),
        (lambda: Blur(border="mirror"), "circular, zero"),
        (lambda: Blur(width=0.0), "positive"),
        (lambda: Blur(kernel=((1.0, 0.0),)), "odd"),
        (lambda: Matrix(values=np.ones((2, 3))).check((4,)), "3 columns"),
        (lambda: CompressedSensing(fraction=0.0), "fraction"),
        (lambda: CompressedSensing().check((512, 512, 3)), "entries"),
    ],
)
def test_bad_operators_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_no_pseudo_inverse_says_what_to_take_instead():
    with pytest.raises(TypeError, match="moment_matching"):
        Blur(border="zero").pinv(jnp.ones((1, 8, 8, 1)), (8, 8, 1))


def test_a_matrix_knows_whether_its_rows_are_orthogonal():
    assert Matrix(values=np.array([[1.0, -0.5]])).gram((2,)) == pytest.approx(1.25)
    assert Matrix(values=np.kron(np.eye(2), np.full((1, 3), 0.5))).gram((6,)) == pytest.approx(0.75)
    assert Matrix(values=np.array([[1.0, 0.0], [0.0, 2.0]])).gram((2,)) is None
    inside = jax.jit(lambda operator: jnp.asarray(operator.gram((2,))))
    assert inside(Matrix(values=np.array([[1.0, -0.5]]))) == 1.25


def test_matrix_of_is_the_operator():
    operator, shape = Blur(border="zero"), (4, 5, 1)
    x = jax.random.normal(KEY, (3, *shape))
    flat = functools.partial(jnp.reshape, shape=(3, -1))
    np.testing.assert_allclose(flat(operator.forward(x)), flat(x) @ matrix_of(operator, shape).T)
