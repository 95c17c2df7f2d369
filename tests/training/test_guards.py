"""Steps that do not count, their reports, and going back: parameters stay finite whatever comes."""

import functools
import json
import shutil
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import build
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.config.experiment import Experiment
from diffusion.run import hooks, runner
from diffusion.run.rollbacks import Rollbacks, bad_step, report_bad_step
from diffusion.run.workdir import Workdir
from diffusion.runtime.exits import DivergedError
from diffusion.runtime.watchdog import Watchdog
from diffusion.training import SpikeRule

from .poisoned import PoisonedPoints
from .problem import make, make_batch
from .test_step import assert_equal

CONFIG = {
    "seed": 0,
    "process": "vp",
    "prediction": "v",
    "network": {"name": "mlp", "width": 8, "depth": 1},
    "data": {"name": f"{PoisonedPoints.__module__}:PoisonedPoints", "kind": "moons", "batch_size": 16},
    "optimizer": {"name": "adam", "learning_rate": 1e-3},
    "ema": ("0.9",),
    "parallel": {"name": "mesh", "num_devices": 1},
    "train": {
        "num_steps": 30, "checkpoint_every": 5, "sample_every": 0, "log_every": 5,
        "max_bad_steps": 4, "max_rollbacks": 2, "keep": 9,
    },
}  # fmt: skip


def experiment(data, **training):
    train = CONFIG["train"] | training
    return Experiment.from_config(CONFIG | {"data": CONFIG["data"] | data, "train": train})


def finite(tree):
    return all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(tree))


def fed(rule, norms):
    """Return which norms the rule calls spikes, one after another."""
    known, found = rule.init(), []
    for norm in norms:
        norm = jnp.asarray(norm, jnp.float32)
        spike = rule.is_spike(known, norm)
        known = rule.update(known, norm, jnp.isfinite(norm), spike)
        found.append(bool(spike))
    return found


def test_one_spike_is_skipped_and_nothing_else():
    rule = SpikeRule(factor=10.0, window=16)
    norms = [1.0, 2.0, 3.0, 1.0, 2.0, 2000.0, 1.5, 2.0]
    assert fed(rule, norms) == [n == 2000 for n in norms]


def test_a_lasting_rise_is_accepted_once_it_fills_half_of_the_window():
    window = 16
    found = fed(SpikeRule(factor=10.0, window=window), [1.0] * window + [1000.0] * 2 * window)
    assert found[window : window + window // 2] == [True] * (window // 2)
    assert not any(found[window + window // 2 + 1 :])


def test_what_is_not_finite_is_no_spike_and_is_forgotten():
    rule = SpikeRule(factor=10.0, window=8)
    assert fed(rule, [np.nan] * 20 + [1.0, 1.0, 1.0]) == [False] * 23
    assert fed(rule, [1.0] * 4 + [np.nan, np.inf] * 8 + [1.0, 100.0]) == [False] * 21 + [True]


def test_a_rule_that_skips_none_keeps_nothing():
    assert SpikeRule().init() == ()
    assert not SpikeRule().is_spike((), jnp.asarray(1e30))


@pytest.mark.parametrize("factor", [1.0, -3.0, 0.5])
def test_a_factor_that_would_skip_everything_is_refused(factor):
    with pytest.raises(ValueError, match="factor"):
        SpikeRule(factor=factor)
    with pytest.raises(ValueError, match="spike_factor"):
        experiment({}, spike_factor=factor)


def test_a_spike_changes_nothing_but_counters():
    rule = SpikeRule(factor=5.0, window=8)
    state, step = make(build("optimizer", "adam"), ema=("0.9",), spikes=rule)
    state, step = state._replace(guard=rule.init()), jax.jit(step)
    for k in range(4):
        state, metrics = step(state, make_batch(k))
        assert metrics["counted"]
    state = state._replace(guard=state.guard | {"norms": state.guard["norms"] / 1e3})
    after, metrics = step(state, make_batch(4))  # a thousand times as large as those before
    assert not metrics["counted"]
    for name in ("params", "opt_state", "ema"):
        assert_equal(getattr(after, name), getattr(state, name))
    assert (int(after.bad_steps), int(after.bad_run), int(metrics["spikes"])) == (1, 0, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("first", [0, 3])
def test_poison_never_reaches_the_state(value, first):
    """Asserted after every step, from the first one on and later."""
    state, step = make(build("optimizer", "adam"), ema=("0.9",))
    step = jax.jit(step)
    for k in range(8):
        batch = make_batch(k)
        if k >= first and k % 2:
            batch["data"][3] = value
        state, metrics = step(state, batch)
        assert finite((state.params, state.opt_state, state.ema))
        if not np.isfinite(batch["data"]).all():
            assert not metrics["counted"]


def test_rollbacks_change_the_data_from_their_step_on(tmp_path):
    once = Rollbacks().and_back(left_at=19, to=10)
    assert once.seed(7, 9) == 7
    assert once.seed(7, 10) == once.seed(7, 25) != 7
    twice = once.and_back(left_at=31, to=20)
    assert [twice.seed(7, k) for k in (9, 19)] == [7, once.seed(7, 19)]
    assert twice.seed(7, 20) not in (7, once.seed(7, 20))
    workdir = Workdir(tmp_path)
    twice.write(workdir)
    assert Rollbacks.read(workdir) == twice


@pytest.mark.parametrize("content", ["", "{", "3", '[{"to": 1}]', '[{"to": "x", "left_at": 1}]'])
def test_a_history_that_cannot_be_understood_is_refused(tmp_path, content):
    (tmp_path / "rollbacks.json").write_text(content)
    with pytest.raises(ValueError, match=r"rollbacks\.json cannot be understood"):
        Rollbacks.read(Workdir(tmp_path))


@pytest.mark.slow
def test_a_run_goes_back_and_is_the_same_run_when_resumed(tmp_path):
    """Data that fail under the first order alone: one rollback, and a resumed run repeats it exactly."""
    trained = experiment({"first": 12, "only_seed": 0})
    workdir = Workdir.of(tmp_path / "run")
    final = runner.run(trained, workdir)
    assert finite((final.params, final.opt_state, final.ema))
    assert json.loads((workdir.path / "rollbacks.json").read_text()) == [{"left_at": 16, "to": 10}]
    assert len(list((workdir.path / "bad_steps").iterdir())) == 4
    log = [json.loads(line) for line in workdir.metrics.read_text().splitlines()]
    assert [r["step"] for r in log] == [5, 10, 15, 20, 25, 30]
    shutil.copytree(workdir.path, tmp_path / "again")
    again = Workdir.of(tmp_path / "again")
    with Checkpoints(again.checkpoints) as checkpoints:
        assert checkpoints.go_back_to(7) == 5
    assert_equal(runner.run(trained, again), final)


@pytest.mark.slow
def test_a_run_that_always_fails_stops(tmp_path):
    with pytest.raises(DivergedError, match="gone back 2 times"):
        runner.run(experiment({"first": 12}), Workdir.of(tmp_path))
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        state = checkpoints.restore(10, experiment({}).init_state())
    assert finite((state.params, state.opt_state, state.ema))


def test_a_run_without_rollbacks_stops_at_once(tmp_path):
    with pytest.raises(DivergedError) as stopped:
        runner.run(experiment({"first": 12}, max_rollbacks=0), Workdir.of(tmp_path))
    assert (stopped.value.step, stopped.value.good) == (16, 12)
    assert not (tmp_path / "rollbacks.json").exists()


@pytest.mark.parametrize(("allowance", "codes"), [(20.0, []), (1.0, [8])])
def test_a_sample_grid_that_is_slower_than_the_limit_is_no_hang(
    tmp_path, monkeypatch, allowance, codes
):
    """The second case shows that the first sees the difference."""
    left, draw = [], hooks._grid_of
    patient = {"start": 1e3, "compile": 1e3, "training": 1e3, "hook": allowance}
    monkeypatch.setattr(hooks, "_grid_of", lambda *given: (time.sleep(3), draw(*given))[1])
    with open(tmp_path / "said", "w") as stream:
        dog = functools.partial(
            Watchdog, allowances=patient, totals={}, leave=left.append, stream=stream
        )
        monkeypatch.setattr(runner, "Watchdog", dog)
        trained = experiment({}, num_steps=2, sample_every=2, watchdog_seconds=1)
        runner.run(trained, Workdir.of(tmp_path / "run"))
    assert left == codes


def test_a_report_names_the_examples_and_the_noise(tmp_path):
    rows = {"row": np.arange(4), "log_snr": np.array([-9.0, 0.5, 0.6, 9.0])}
    rows["loss"] = np.array([1.0, np.nan, 3.0, 2.0])
    metrics = {"loss": np.nan, "grad_norm": np.nan, "rows": rows}
    report = bad_step(13, metrics, np.array([40, 41, 42, 43]))
    assert [e["index"] for e in report["worst_examples_first"]] == [41, 42, 43, 40]
    assert report["worst_examples_first"][0]["loss"] == "nan"
    assert [b["examples"] for b in report["loss_by_log_snr"]] == [1, 2, 1]
    assert [b["not_finite"] for b in report["loss_by_log_snr"]] == [0, 1, 0]
    assert report["loss_by_log_snr"][1]["mean_loss"] == 3.0
    assert report_bad_step(Workdir(tmp_path), 13, metrics, np.arange(4))
    written = json.loads((tmp_path / "bad_steps" / "00000013.json").read_text())
    assert written["reason"] == "the loss was not finite"
