"""Every layout on devices gives the same parameters, and opens the checkpoints of the others."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from diffusion import build, registered
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.runtime.distributed import select_rows
from diffusion.training import MeshLayout

from .problem import make, make_batch

RUNS = (
    "jit", "data_2", "data_4", "data_8", "fsdp_2", "fsdp_4", "fsdp_8", "data_2_fsdp_4",
    "pmap_1", "pmap_2", "pmap_4", "pmap",
    "jit_accumulate_4", "fsdp_accumulate_4", "pmap_accumulate_2", "fsdp_dispatch_5", "pmap_dispatch_5",
)  # fmt: skip


@pytest.fixture(scope="module")
def eight_devices(tmp_path_factory):
    """The report of the program on eight virtual devices, and its folder of checkpoints."""
    folder = tmp_path_factory.mktemp("layouts")
    command = [sys.executable, "-m", "training.layouts_program", str(folder)]
    result = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout), folder


@pytest.mark.programs
@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_ten_adamw_steps_agree(eight_devices, name):
    found = eight_devices[0][name]
    # ten steps of rate 1e-2 on numbers of order one: some 1e3 roundings of 1e-16 each; a gradient that
    # is summed instead of averaged, or a draw that depends on the layout, shows at 1e-3
    assert found["state"] < 1e-12
    assert found["metrics"] < 1e-12
    assert found["moved"] > 1e-2
    assert found["rows"] == 32


@pytest.mark.programs
@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_the_step_compiles_once_and_keeps_its_placement(eight_devices, name):
    found = eight_devices[0][name]
    assert found["placements"] == 1
    assert found["compilations"] == 1


@pytest.mark.programs
@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_opens_under_another_layout(eight_devices, name):
    assert eight_devices[0][name]["reread"] == 0


@pytest.mark.programs
@pytest.mark.slow
def test_a_checkpoint_of_eight_devices_opens_on_one(eight_devices):
    """In this process there is one device."""
    assert jax.device_count() == 1
    report, folder = eight_devices
    with jax.enable_x64(True), Checkpoints(folder / "data_2_fsdp_4") as checkpoints:
        optimizer = build(
            "optimizer",
            {"name": "adamw", "learning_rate": 1e-2, "clip": 1.0, "warmup": 3, "weight_decay": 0.1},
        )
        like, _ = make(optimizer, ema=("0.9", "half_life_64", "power_0.1"), dtype=np.float64)
        state = checkpoints.restore(10, MeshLayout().template(like))
        assert int(state.step) == 10
        assert float(abs(state.params["out"]["bias"]).max()) == pytest.approx(
            report["data_2_fsdp_4"]["moved"], rel=1e-15
        )
        averaged = checkpoints.restore_params(10, "power_0.1")
        for a, b in zip(
            jax.tree.leaves(averaged), jax.tree.leaves(state.ema["power_0.1"]), strict=True
        ):
            np.testing.assert_array_equal(a, b)
        assert checkpoints.meta(10)["devices"] == 8


@pytest.mark.parametrize("name", registered("parallel"))
def test_layouts_on_one_device(name):
    layout = build("parallel", name)
    state, step = make(build("optimizer", "adam"), reduce=layout.reduce)
    placed = layout.place_state(state)
    fetched = layout.fetch(placed)
    assert jax.tree.structure(fetched) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(fetched), jax.tree.leaves(state), strict=True):
        assert a.shape == b.shape
        assert a.dtype == b.dtype
        assert bool((a == b).all())
    placed, metrics = layout.compile(step)(placed, layout.place_batch(make_batch(0)))
    assert metrics["loss"].shape == ()
    assert int(layout.fetch(placed).step) == 1
    assert int(state.step) == 0  # the original was not given up


@pytest.mark.parametrize("name", registered("parallel"))
def test_rows_of_one_process_are_all_rows(name):
    layout = build("parallel", name)
    rows = layout.local_rows(16)
    assert rows == slice(0, 16)
    np.testing.assert_array_equal(select_rows(make_batch(0), rows)["row"], np.arange(16))


def test_a_batch_that_cannot_be_divided_names_the_nearest_that_can(monkeypatch):
    monkeypatch.setattr(MeshLayout, "devices", property(lambda self: [None] * 8))
    MeshLayout().check_batch(64)
    with pytest.raises(ValueError, match="56 or 64"):
        MeshLayout().check_batch(60)
    with pytest.raises(ValueError, match="32 or 64"):
        MeshLayout().check_batch(40, accumulate=4)
    with pytest.raises(ValueError, match="that can: 8"):
        MeshLayout().check_batch(4)


def test_sharding_rule():
    layout = MeshLayout(fsdp=4, min_shard_size=64)
    assert tuple(layout.spec((8, 16))) == (None, "fsdp")  # the largest divisible dimension
    assert tuple(layout.spec((18, 8))) == (None, "fsdp")  # 18 is larger, but not divisible
    assert tuple(layout.spec((7, 9))) == ()  # nothing divisible
    assert tuple(layout.spec((4, 4))) == ()  # too small
    assert tuple(layout.spec(())) == ()
    assert tuple(MeshLayout(min_shard_size=1).spec((64, 64))) == ()


def test_impossible_layouts_are_refused():
    with pytest.raises(ValueError, match="fsdp"):
        _ = MeshLayout(fsdp=3).mesh if jax.device_count() % 3 else MeshLayout(fsdp=0).mesh
    with pytest.raises(ValueError, match="there are"):
        _ = MeshLayout(num_devices=10_000).devices
