"""The machinery of the benchmarks: cases, counting, distributions, rounds of processes; no time is asserted."""

import importlib
import inspect
import json
import math
import sys

import jax
import jax.numpy as jnp
import pytest

from benchmarks import importing, scaling
from benchmarks.__main__ import COMMANDS, main
from benchmarks.cases import CASES, SIZES, Case, case_of
from benchmarks.competitors import DRAW, OVERHEAD, TRAIN, Competitor, Interpreters, chosen
from benchmarks.flops import product_flops
from benchmarks.peers import ours, plain_flax
from benchmarks.report import distribution, finish, machine, table, without_folders
from benchmarks.rounds import ROOT, Plan, Task, measure
from benchmarks.train import derived, devices_for, environment, lines, peak, tasks_of
from benchmarks.worker import pieces
from diffusion.registry import build

QUICK = Plan(rounds=2, repeats=1, least_seconds=0.0, timeout=120.0)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", SIZES)
def test_a_case_crosses_processes_unchanged(name, size):
    case = case_of(name, size, batch=8)
    assert case.batch == 8
    assert Case.from_json(case.to_json()) == case


def test_unknown_case_is_named():
    with pytest.raises(ValueError, match=r"'unett'.*unet, dit"):
        case_of("unett")


@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_and_its_gradients_cost_three_times_the_forward_pass(stride):
    x, w = jnp.zeros((2, 8, 8, 3)), jnp.zeros((3, 3, 3, 5))
    side, low = 8 // stride, 2 - stride
    once = 2 * 2 * side * side * 9 * 3 * 5

    def conv(x, w):
        dims, pad = ("NHWC", "HWIO", "NHWC"), ((low, 1), (low, 1))
        return jax.lax.conv_general_dilated(x, w, (stride,) * 2, pad, dimension_numbers=dims)

    assert product_flops(jax.make_jaxpr(conv)(x, w).jaxpr) == once
    both = jax.make_jaxpr(jax.grad(lambda x, w: (conv(x, w) ** 2).sum(), (0, 1)))(x, w)
    assert product_flops(both.jaxpr) == 3 * once


def test_flops_of_loops_count_every_turn():
    a = jnp.zeros((4, 5))
    loop = lambda a: jax.lax.scan(lambda c, _: (c + a @ jnp.zeros((5, 5)), None), a, length=7)[0]
    assert product_flops(jax.make_jaxpr(loop)(a).jaxpr) == 7 * 2 * 4 * 5 * 5


def saved(case):
    """Return the FLOPs that ours saves for one example forward: 5 of 9 in convolutions of repeated values."""
    widths = [case.channels * m for m in case.multipliers][1:] if case.family == "unet" else []
    sides = [case.shape[0] // 2**level for level in range(len(widths))]
    return sum(2 * (9 - 4) * w**2 * side**2 for w, side in zip(widths, sides, strict=True))


@pytest.mark.parametrize(
    "name", ["unet", *(pytest.param(n, marks=pytest.mark.slow) for n in ("dit", "edm56"))]
)
def test_plain_networks_are_the_same_work_as_ours(name):
    """But for convolutions of repeated inputs, of which ours do 4 of 9 multiplications."""
    case = case_of(name, "tiny")
    x = jax.ShapeDtypeStruct((1, *case.shape), jnp.float32)
    t = jax.ShapeDtypeStruct((1,), jnp.float32)
    found = []
    for net in (plain_flax.module_of(case), build("network", ours.network(case))):
        params = jax.eval_shape(net.init, jax.random.key(0), x, t)
        jaxpr = jax.make_jaxpr(net.apply)(params, x, t)
        number = sum(math.prod(v.shape) for v in jax.tree.leaves(params))
        found.append((number, product_flops(jaxpr.jaxpr)))
    (theirs, their_flops), (own, own_flops) = found
    assert theirs == own
    assert their_flops == own_flops + saved(case)


def test_distribution():
    assert distribution([]) == {}
    assert distribution([3.0]) == {"median": 3.0, "quartiles": [3.0, 3.0], "min": 3.0, "count": 1}
    told = distribution([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (told["median"], told["quartiles"], told["min"]) == (3.0, [2.0, 4.0], 1.0)


def test_slope_finds_the_exponent():
    x = [1.0, 2.0, 4.0, 8.0]
    assert scaling.slope(x, [3 * v**1.7 for v in x]) == pytest.approx(1.7, abs=1e-12)
    assert math.isnan(scaling.slope([2.0], [1.0]))


def test_table_is_aligned():
    rows = table(("who", "s"), [("a", 1.23456), ("a longer name", None)])
    assert len({len(row) for row in rows}) == 1
    assert "1.23 |" in rows[2]


def test_pieces_fill_the_least_time():
    assert pieces(0.1, 1.0) == 10
    assert pieces(5.0, 0.3) == 1
    assert pieces(0.0, 1.0, most=7) == 7


def test_utilization_is_flops_per_second_of_the_limit():
    limit = peak(
        [{"name": "a", "flops_per_second": [1e9, 2e9, 3e9]}, {"name": "b", "flops_per_second": []}]
    )
    assert limit["whose"] == "a"
    row = derived(
        {"values": [0.5], "flops": 4e8}, case_of("unet", "tiny"), limit["flops_per_second"]
    )
    assert row["mfu"] == pytest.approx(4e8 / 0.5 / 2e9)
    assert row["images_per_second"] == 8


def test_who_is_not_installed_is_listed():
    absent = Competitor("nobody", "nobody", ("a_module_that_nobody_has",))
    pythons = Interpreters.of((), [absent])
    tasks, records = tasks_of(case_of("unet", "tiny"), [absent], pythons)
    assert tasks == []
    assert "a_module_that_nobody_has" in records[0]["missing"]
    told = lines({"rows": records, "limit": peak([])}, case_of("unet", "tiny"))
    assert any(line.startswith("nobody: missing: not installed") for line in told)


def test_an_interpreter_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--peer_python"):
        Interpreters.of([str(tmp_path / "python")], TRAIN)


def test_only_takes_exact_names_before_beginnings():
    assert [c.name for c in chosen(TRAIN, ["diffusers"])] == ["diffusers"]
    assert all(c.name.startswith("k-") for c in chosen(OVERHEAD, ["k-diff"]))
    with pytest.raises(ValueError, match="fits nobody"):
        chosen(DRAW, ["nobody"])


@pytest.mark.parametrize("group", [TRAIN, OVERHEAD, DRAW])
def test_names_differ_and_modules_exist(group):
    from importlib.util import find_spec

    assert len({c.name for c in group}) == len(group)
    for c in group:
        assert find_spec(f"benchmarks.peers.{c.module}") is not None


def test_devices_divide_the_batch():
    assert devices_for(Case(batch=6), 8) == 2
    assert devices_for(Case(batch=6, devices=3), 8) == 3
    flags = dict(environment(2))["XLA_FLAGS"].split()  # behind what is set already
    assert flags[-1] == "--xla_force_host_platform_device_count=2"


def test_processes_are_measured_in_turn_and_failures_are_told():
    tiny = case_of("unet", "tiny").to_json()
    good = Task(name="product", module="matmul", work="jax", case=tiny)
    bad = Task(name="bad", module="matmul", work="no_such_work", case=tiny)
    first, second = measure([good, bad], QUICK)
    assert len(first["values"]) == 2
    assert all(v > 0 for v in first["values"])
    assert first["flops"] == 2 * 256**3
    assert first["peak_rss"] > 2**20
    assert "no_such_work" in second["failed"]


@pytest.mark.programs
def test_an_import_is_measured_and_written(tmp_path, capsys):
    out = tmp_path / "deep" / "import.json"
    assert main(["import", "--quick", "--rounds", "1", "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["benchmark"] == "import"
    assert {"cpu", "revision", "load"} <= set(found["machine"])
    assert {r["name"] for r in found["rows"]} == {"pass", importing.BASE}
    assert "CPU s" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_takes_what_its_module_asks_for(name):
    command = COMMANDS[name]
    module = importlib.import_module(f"benchmarks.{command.module}")
    assert set(inspect.signature(module.run).parameters) == set(command.takes)
    assert list(inspect.signature(module.lines).parameters)[1:] == ["case"] * (
        "case" in command.takes
    )


def test_files_do_not_say_where_things_lay(tmp_path):
    found = {
        "rows": [{"failed": "no module in /a/b-1/c_d.py, /x/y/z"}, {"path": ("/q/r.npz", 3, None)}],
        "command": ["scripts/a.py", "runs/b", "https://a.b/c/d", "1/2", "/", "not / or /"],
    }
    finish("kind", found, [], str(tmp_path / "out.json"))
    told = json.loads((tmp_path / "out.json").read_text())
    assert told["rows"] == [{"failed": "no module in c_d.py, z"}, {"path": ["r.npz", 3, None]}]
    assert told["command"] == found["command"]


def test_the_results_that_are_kept_do_not_either():
    files = list((ROOT / "benchmarks" / "results").glob("*.json"))
    assert files
    for file in files:
        found = json.loads(file.read_text())
        assert found == without_folders(found), file.name


@pytest.mark.programs
def test_bad_words_leave_with_one_line(capsys):
    assert main(["train", "--only", "nobody at all"]) == 2
    assert "fits nobody" in capsys.readouterr().err


@pytest.mark.programs
def test_help_imports_nothing_heavy():
    import subprocess

    code = (
        "import sys; from benchmarks.__main__ import parser; parser(); print('jax' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "False"


def test_machine_says_where():
    assert {"cpu", "cores", "date", "system"} <= set(machine())


@pytest.mark.programs
@pytest.mark.slow
def test_our_step_and_the_plain_one_run(tmp_path):
    out = tmp_path / "train.json"
    only = ["--only", "ours, one device", "--only", "plain Flax"]
    assert main(["train", "--quick", *only, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [r["name"] for r in rows] == ["ours, one device", "plain Flax"]
    assert not any("failed" in r for r in rows)
    assert rows[0]["parameters"] == rows[1]["parameters"]
    case = case_of("unet", "tiny")
    ours_and_saved = rows[0]["flops"] + 3 * case.batch * saved(case)  # forward, and two gradients
    assert ours_and_saved == pytest.approx(rows[1]["flops"], rel=0.001)
