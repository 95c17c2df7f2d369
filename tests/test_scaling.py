"""The model of memory and time: its counts are those of our networks, its formulas add up."""

import importlib.util
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import build
from diffusion.networks import count_parameters
from diffusion.training import init_state, make_ema

ROOT = Path(__file__).parent.parent
SPEC = importlib.util.spec_from_file_location("scaling", ROOT / "experiments" / "scaling.py")
scaling = sys.modules["scaling"] = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(scaling)
DEVICES, RECIPES = scaling.DEVICES, scaling.RECIPES
Counts, Recipe = scaling.Counts, scaling.Recipe
count, hiding, product_flops, step = (
    scaling.count,
    scaling.hiding,
    scaling.product_flops,
    scaling.step,
)

SMALL = {
    "dit": Recipe(
        network=dict(name="dit", patch=2, width=192, depth=2, heads=3), shape=(32, 32, 4), blocks=2
    ),
    "unet": Recipe(
        network=dict(name="unet", channels=64, multipliers=(1, 2), attention=(16,)),
        shape=(32, 32, 3), blocks=4,
    ),
}  # fmt: skip
COUNTS = Counts(parameters=10**9, flops=1e12, stored=4e8, stored_remat=1e8)
H100 = DEVICES["h100"]


def small(name):
    recipe = SMALL[name]
    network = build("network", {**recipe.network, "num_classes": recipe.num_classes})
    x = jnp.zeros((1, *recipe.shape))
    inputs = (x, jnp.zeros(1), {"label": jnp.zeros(1, jnp.int32)})
    return network, network.init(jax.random.key(0), *inputs), inputs


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_flops_are_those_that_the_compiler_counts(name):
    """XLA counts element-wise work too and leaves zeros at borders out: some percent each way."""
    network, params, inputs = small(name)
    counted = count(SMALL[name], dtype="float32")
    assert counted.parameters == count_parameters(params)
    told = jax.jit(network.apply).lower(params, *inputs).cost_analysis()
    # a 3 x 3 convolution at side n reads (3 n - 2)^2 of its (3 n)^2 places: 8 % less at 16, 4 % less at 32;
    # activations and norms add a few operations per number to some hundred of the products
    assert counted.flops == pytest.approx(told["flops"], rel=0.1)


def test_flops_of_products_and_convolutions():
    a, b = jnp.zeros((3, 5, 7)), jnp.zeros((3, 7, 2))
    assert product_flops(jax.make_jaxpr(jnp.matmul)(a, b).jaxpr) == 2 * 3 * 5 * 7 * 2
    conv = lambda x, k: jax.lax.conv_general_dilated(
        x, k, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x, k = jnp.zeros((2, 8, 8, 6)), jnp.zeros((3, 3, 6, 10))
    assert product_flops(jax.make_jaxpr(conv)(x, k).jaxpr) == 2 * 2 * 8 * 8 * 10 * 9 * 6
    looped = lambda x: jax.lax.scan(lambda h, _: (h @ h, None), x, None, length=4)[0]
    assert product_flops(jax.make_jaxpr(looped)(jnp.zeros((5, 5))).jaxpr) == 4 * 2 * 5**3


@pytest.mark.slow
def test_stored_activations_of_a_block_by_hand():
    """Every block of a transformer keeps the outputs of its six products, and these need no other."""
    counted = [
        count(Recipe(network={**SMALL["dit"].network, "depth": n}, shape=(32, 32, 4), blocks=n))
        for n in (1, 2)
    ]
    tokens, width, heads = 256, 192, 3
    # queries, keys and values; logits; values mixed; output; two of the perceptron: all in bfloat16. The
    # logits, and what is summed in float32, may be kept in four bytes, modulations of one token come on top
    least = 2 * (tokens * width * (3 + 1 + 1 + 4 + 1) + heads * tokens**2)
    extra = counted[1].stored_remat - counted[0].stored_remat
    assert least <= extra < 2.2 * least
    assert extra < counted[1].stored - counted[0].stored


@pytest.mark.slow
def test_the_published_transformer():
    """Peebles and Xie (2023, table 1): DiT-XL/2 has 675 M parameters and 118.64 G multiplications and additions."""
    counted = count(RECIPES["DiT-XL/2"])
    assert counted.parameters == pytest.approx(
        675e6, rel=0.005
    )  # their tables of noise levels differ a little
    assert counted.flops / 2 == pytest.approx(118.64e9, rel=0.005)
    width, depth = 1152, 28
    blocks = depth * (18 * width**2 + 15 * width)  # 4 + 8 + 6 matrices, and their biases
    assert 0 < counted.parameters - blocks < 0.02 * blocks


def test_the_state_has_the_size_that_the_model_says():
    """All but the gradients: parameters, two moments and one average are 16 bytes per parameter."""
    params = {"kernel": jnp.zeros((300, 100)), "bias": jnp.zeros(100)}
    state = jax.eval_shape(
        lambda p: init_state(p, build("optimizer", "adam"), make_ema(("0.99",)), jax.random.key(0)),
        params,
    )
    held = sum(
        x.size * x.dtype.itemsize
        for x in jax.tree.leaves(state)
        if jnp.issubdtype(x.dtype, jnp.floating)
    )
    counts = Counts(parameters=count_parameters(params), flops=1.0, stored=0.0, stored_remat=0.0)
    modeled = step(counts, H100, devices=1, fsdp=1, per_device=1).state
    assert held == pytest.approx(modeled - 4 * counts.parameters, rel=1e-3)


def test_the_formulas_add_up():
    alone = step(COUNTS, H100, devices=1, fsdp=1, per_device=3)
    assert alone.communication == 0
    assert alone.compute == pytest.approx(3 * 3 * COUNTS.flops / (989e12 * 0.4))
    assert alone.activations == 3 * COUNTS.stored
    for fsdp in (1, 2, 8):
        s = step(COUNTS, H100, devices=64, fsdp=fsdp, per_device=3, blocks=20)
        assert s.state == pytest.approx(alone.state / fsdp)
        assert s.compute == alone.compute
        # what leaves a device: all weights twice, all gradients once, and the fraction of a group twice
        near = 3 * 4e9 * (fsdp - 1) / fsdp
        far = 2 * 4e9 / fsdp * (64 / fsdp - 1) / (64 / fsdp)
        assert s.communication == pytest.approx(near / H100.fast + far / H100.slow)
    whole = step(COUNTS, H100, devices=8, fsdp=8, per_device=3)
    assert whole.reduce == 0
    with pytest.raises(ValueError, match="fsdp"):
        step(COUNTS, H100, devices=8, fsdp=3, per_device=1)


def test_communication_hides_from_a_number_of_examples_on():
    options = {"devices": 256, "fsdp": 8}
    share = hiding(COUNTS, H100, **options)
    for factor, hidden in ((0.9, False), (1.1, True)):
        s = step(COUNTS, H100, per_device=factor * share, **options)
        assert (s.compute > s.communication) == hidden
    assert math.isfinite(share)


def test_more_memory_is_never_needed_when_recomputing():
    for remat in (False, True):
        s = step(COUNTS, H100, devices=8, fsdp=8, per_device=2, remat=remat)
        assert s.memory == pytest.approx(s.state + s.copies + s.activations)
        assert s.activations == 2 * (COUNTS.stored_remat if remat else COUNTS.stored)
    assert np.isclose(s.copies, 4e9)  # of one block, which is all


@pytest.mark.slow
def test_the_page_shows_these_tables():
    counted = {name: count(recipe) for name, recipe in RECIPES.items()}
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert "\n".join(scaling.table_of_counts(counted)) in page
    assert "\n".join(scaling.table_of_steps(counted, H100, 1024)) in page
