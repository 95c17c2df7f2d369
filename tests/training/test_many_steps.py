"""Several steps per dispatch: the same parameters, log, hooks and checkpoints as one at a time."""

import itertools
import os
import signal

import jax
import numpy as np
import pytest

from diffusion import build
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.config.experiment import Experiment
from diffusion.run import runner
from diffusion.run import step as run_step
from diffusion.run.workdir import Workdir
from diffusion.runtime.exits import DivergedError, Stopped
from diffusion.runtime.watchdog import Watchdog
from diffusion.training import Hook, JsonLines, LoopOptions, Monitor, train
from diffusion.training.loop import Plan
from diffusion.training.metrics import read_jsonl
from diffusion.training.state import keys_to_data

from .poisoned import PoisonedPoints
from .problem import make, make_batch
from .test_step import assert_equal

SIZE, NUM_STEPS = 16, 10
# In float64: ten AdamW steps of rate 1e-2 on numbers of order one make some 1e3 roundings of 1e-16. A step that is
# left out or taken twice, or a draw that belongs to another step, shows at 1e-3.
ROUNDOFF = 1e-12


def assert_close(a, b, atol=ROUNDOFF):
    pairs = zip(jax.tree.leaves(keys_to_data(a)), jax.tree.leaves(keys_to_data(b)), strict=True)
    for x, y in pairs:
        np.testing.assert_allclose(np.asarray(x, float), np.asarray(y, float), rtol=0, atol=atol)


class Run:
    """The tiny problem under one layout, with programs for one step and for several."""

    def __init__(self, layout="mesh", accumulate=1):
        fields = {"learning_rate": 1e-2, "clip": 1.0, "warmup": 3, "weight_decay": 0.1}
        self.layout = build("parallel", {"name": layout, "num_devices": 1})
        self.initial, step = make(
            build("optimizer", {"name": "adamw", **fields}),
            ema=("0.9", "half_life_64", "power_0.1"), dtype=np.float64, label_dropout=0.3,
            accumulate=accumulate, reduce=self.layout.reduce,
        )  # fmt: skip
        self.template = self.layout.template(self.initial)
        self.one, self.many = self.layout.compile(step), self.layout.compile_many(step)

    def train(self, most, state=None, num_steps=NUM_STEPS, data=None, **given):
        """Return the final state on the host, and how many steps each dispatch took."""
        state = self.initial if state is None else state
        start, lengths = int(state.step), []

        def place(batches):
            lengths.append(1 if most == 1 else len(batches))
            one, many = self.layout.place_batch, self.layout.place_batches
            return one(batches) if most == 1 else many(batches)

        options = LoopOptions(steps_per_dispatch=most, **given.pop("options", {}))
        final = train(
            self.one if most == 1 else self.many, self.layout.place_state(state),
            batches(start) if data is None else data, num_steps=num_steps, batch_size=SIZE,
            place=place, options=options, **given,
        )  # fmt: skip
        return self.layout.fetch(final), lengths


def batches(start=0):
    return (make_batch(k, SIZE, np.float64) for k in itertools.count(start))


@pytest.fixture(scope="module")
def run():
    with jax.enable_x64(True):
        yield Run()


@pytest.fixture(autouse=True)
def in_float64(x64):
    """All of this file."""


def logged(path, train_it, **options):
    """Return the final state, the records of the log without speeds, and the reports of bad steps."""
    reports = []
    with JsonLines(path) as log:
        final = train_it(
            writers=[log], options={"log_every": 1, **options},
            report=lambda step, metrics: reports.append((step, metrics)),
        )  # fmt: skip
    records = [{k: v for k, v in r.items() if k != "images_per_second"} for r in read_jsonl(path)]
    return final, records, reports


def assert_same_records(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert (a[name] is None) == (b[name] is None)
            assert a[name] is None or a[name] == pytest.approx(b[name], rel=0, abs=ROUNDOFF)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["mesh", "pmap"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_length_of_a_dispatch_changes_roundoff_alone(tmp_path, layout, accumulate):
    """With label drop-out, three averages, clipping and weight decay; two dispatches of four, one of two."""
    run = Run(layout, accumulate)
    (one, lengths), records, _ = logged(tmp_path / "1.jsonl", lambda **o: run.train(1, **o))
    assert lengths == [1] * NUM_STEPS
    (four, lengths), found, _ = logged(tmp_path / "4.jsonl", lambda **o: run.train(4, **o))
    assert lengths == [4, 4, 2]
    assert int(four.step) == NUM_STEPS
    assert_close(four, one)
    assert max(abs(four.params["out"]["bias"])) > 1e-2  # it moved
    assert [r["step"] for r in found] == list(range(1, NUM_STEPS + 1))
    assert_same_records(found, records)


@pytest.mark.slow
def test_a_loop_and_steps_written_out_agree(run):
    """The loop is what accelerators run."""
    from diffusion.training.step import many_steps

    _, step = make(build("optimizer", "adam"), dtype=np.float64)
    batch = run.layout.place_batches([make_batch(k, SIZE, np.float64) for k in range(3)])
    state = run.initial._replace(opt_state=build("optimizer", "adam").init(run.initial.params))
    state = state._replace(ema={"0.9": state.ema["0.9"]})
    written, looped = (jax.jit(many_steps(step, unroll=u))(state, batch) for u in (True, False))
    assert_close(written, looped)
    assert written[1]["loss"].shape == (3,)


@pytest.mark.slow
def test_a_dispatch_ends_where_somebody_is_to_see_the_state(run):
    called = {most: [] for most in (1, 4)}
    for most, seen in called.items():
        note = lambda step, state, metrics, seen=seen: seen.append(
            (step, int(state.step), np.shape(metrics["loss"]))
        )
        save = lambda step, state, block, seen=seen: seen.append((step, int(state.step), block))
        hooks = [Hook(call=note, every=3), Hook(call=note, every=10**6, at_end=False)]
        _, lengths = run.train(most, hooks=hooks, save=save, options={"checkpoint_every": 4})
    assert lengths == [3, 1, 2, 2, 1, 1]
    assert called[4] == called[1]
    assert (3, 3, ()) in called[4]
    assert (8, 8, False) in called[4]


@pytest.mark.parametrize("periods", [(), (3,), (4, 6), (1,), (100, 25)])
def test_a_plan_passes_no_period_and_not_the_end(periods):
    plan, done, lengths = Plan(num_steps=103, most=8, periods=periods), 0, []
    while length := plan.length(done):
        assert 1 <= length <= 8
        assert not any(k % p == 0 for k in range(done + 1, done + length) for p in periods)
        done += length
        lengths.append(length)
        ended = done == 103 or any(done % p == 0 for p in periods)
        assert length == 8 or ended  # never shorter than need be
    assert done == 103
    assert plan.length(200) == 0


@pytest.mark.slow
def test_a_run_resumes_from_any_step(run, tmp_path):
    """Where a dispatch ended bit for bit; elsewhere to roundoff."""
    whole = lambda folder, most: run.train(
        most, save=lambda *a, **k: folder.save(*a, {}, **k), options={"checkpoint_every": 5}
    )
    with Checkpoints(tmp_path / "4", keep=9) as folder:
        final, lengths = whole(folder, 4)
        assert lengths == [4, 1, 4, 1]
        resumed, lengths = run.train(
            4, folder.restore(5, run.template), options={"checkpoint_every": 5}
        )
        assert lengths == [4, 1]
        assert_equal(resumed, final)
    for start in (1, 2, 3, 7):
        state, _ = run.train(1, num_steps=start)
        resumed, lengths = run.train(4, state)
        assert sum(lengths) == NUM_STEPS - start
        assert max(lengths) <= 4
        assert_close(resumed, final)


def poisoned(*bad):
    for k, batch in enumerate(batches(), start=1):
        if k in bad:
            batch["data"][3] = np.nan
        yield batch


def test_bad_steps_inside_a_dispatch_are_counted_and_told_of_one_by_one(run, tmp_path):
    bad = (2, 3, 7)
    told = {}
    for most in (1, 4):
        train_it = lambda most=most, **o: run.train(most, data=poisoned(*bad), **o)
        told[most] = logged(tmp_path / f"{most}.jsonl", train_it)
    (one, _), records, reports = told[1]
    (four, _), found, reports_of_four = told[4]
    assert [r["bad_run"] for r in records] == [0, 1, 2, 0, 0, 0, 1, 0, 0, 0]
    assert_same_records(found, records)
    assert_close(four, one)
    assert [step for step, _ in reports_of_four] == list(bad)
    for (_, a), (_, b) in zip(reports_of_four, reports, strict=True):
        assert np.isnan(a["loss"])
        assert np.shape(a["loss"]) == ()
        assert a["rows"].keys() == b["rows"].keys()
        for name in a["rows"]:
            np.testing.assert_allclose(a["rows"][name], b["rows"][name], atol=ROUNDOFF)
            assert a["rows"][name].shape == (SIZE,)


@pytest.mark.parametrize("most", [1, 4])
def test_a_long_bad_run_ends_at_the_same_step(run, tmp_path, most):
    """The third in a row is the second of its dispatch."""
    with JsonLines(tmp_path / "log.jsonl") as log, pytest.raises(DivergedError) as ended:
        run.train(
            most, num_steps=40, data=poisoned(*range(4, 99)), writers=[log],
            options={"max_bad_steps": 3, "log_every": 50},
        )  # fmt: skip
    assert (ended.value.step, ended.value.good) == (6, 3)
    assert [r["step"] for r in read_jsonl(tmp_path / "log.jsonl")] == [6]


def test_a_signal_is_heeded_after_the_dispatch(run):
    def data():
        for k, batch in enumerate(batches()):
            if k == 5:  # while the batches of the second dispatch are taken
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    saved = []
    with pytest.raises(Stopped) as stopped:
        run.train(4, data=data(), save=lambda step, state, block: saved.append((step, block)))
    assert stopped.value.step == 4
    assert saved == [(4, True)]


def test_data_that_end_within_a_dispatch_are_an_error(run):
    with pytest.raises(ValueError, match="after step 6 of 10"):
        run.train(4, data=itertools.islice(batches(), 6))


def test_every_length_is_compiled_once_and_said(run):
    lines, phases = [], []
    run.train(4, monitor=Monitor(say=lines.append, alive=phases.append))
    said = [line for line in lines if line.startswith("compiling")]
    assert said == ["compiling 4 training steps", "compiling 2 training steps"]
    after = [f"training, after step {n}" for n in (4, 8, 10)]
    assert phases == ["compile", *after[:2], "compile", after[2]]


def test_the_watchdog_waits_for_a_dispatch():
    dog = Watchdog(10.0, steps=8)
    assert dog.limit("training, after step 5") == 80
    assert dog.limit("compile") == 320
    assert dog.limit("start") == 40
    with pytest.raises(ValueError, match="steps"):
        Watchdog(1.0, steps=0)


# ---- whole runs ---------------------------------------------------------------------------------

GENERATOR = {
    "seed": 0,
    "process": "vp",
    "prediction": "v",
    "network": {"name": "mlp", "width": 8, "depth": 1, "dropout": 0.1},
    "data": {
        "name": f"{PoisonedPoints.__module__}:PoisonedPoints", "kind": "moons", "label": True,
        "batch_size": 16, "first": 5, "last": 5,
    },
    "optimizer": {"name": "adam", "learning_rate": 1e-3, "clip": 1.0},
    "ema": ("0.9",),
    "parallel": {"name": "mesh", "num_devices": 1},
    "train": {"num_steps": 10, "checkpoint_every": 6, "sample_every": 0, "log_every": 2},
}  # fmt: skip
CLASSIFIER = {k: v for k, v in GENERATOR.items() if k != "prediction"} | {"task": "classifier"}


def experiment(config, **training):
    return Experiment.from_config(config | {"train": config["train"] | training})


@pytest.mark.slow
@pytest.mark.parametrize("config", [GENERATOR, CLASSIFIER], ids=["generator", "classifier"])
def test_a_run_of_a_config_is_the_same_run(tmp_path, config):
    """One bad batch included; the network computes in float32, so a thousand roundings of 6e-8 may differ."""
    finals, logs = [], []
    for most in (1, 4):
        workdir = Workdir.of(tmp_path / str(most))
        finals.append(runner.run(experiment(config, steps_per_dispatch=most), workdir))
        logs.append(read_jsonl(workdir.metrics))
        assert [f.name for f in (workdir.path / "bad_steps").iterdir()] == ["00000006.json"]
        with Checkpoints(workdir.checkpoints) as checkpoints:
            assert checkpoints.steps() == (6, 10)
    assert_close(*finals, atol=6e-5)
    assert [r["step"] for r in logs[1]] == [r["step"] for r in logs[0]] == [2, 4, 6, 8, 10]
    for a, b in zip(*logs, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-4)


@pytest.mark.slow
def test_a_run_may_go_on_with_dispatches_of_another_length(tmp_path):
    workdir = Workdir.of(tmp_path)
    runner.run(experiment(GENERATOR, num_steps=3), workdir)
    state = runner.run(experiment(GENERATOR, steps_per_dispatch=4), workdir)
    assert int(state.step) == 10


@pytest.mark.parametrize(("most", "depth"), [(1, 2), (4, 4)])
def test_the_batches_of_the_next_dispatch_are_made_ahead(most, depth):
    with run_step.batches_of(experiment(GENERATOR, steps_per_dispatch=most), 0, 99) as ahead:
        assert len(ahead._ahead) == depth + 1


def test_no_steps_at_all_are_refused():
    with pytest.raises(ValueError, match="steps_per_dispatch"):
        experiment(GENERATOR, steps_per_dispatch=0)
