"""The loop: exact resume, logs, hooks, signals, divergence."""

import errno
import io
import itertools
import os
import signal
import time

import jax
import numpy as np
import pytest

from diffusion import build
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.runtime import exits
from diffusion.runtime.exits import DivergedError, Stopped
from diffusion.runtime.progress import Progress, Terminal, duration, heartbeat
from diffusion.training import Hook, JsonLines, LoopOptions, MeshLayout, Monitor, train
from diffusion.training.ledger import level_names, summarize
from diffusion.training.metrics import read_jsonl
from diffusion.training.step import NUM_LEVELS

from .problem import batches, make
from .test_step import assert_equal

NUM_STEPS = 6
SIZE = 16


class Run:
    """One layout and one compiled step for all tests of this file."""

    def __init__(self):
        optimizer = build(
            "optimizer",
            {"name": "adamw", "learning_rate": 1e-2, "schedule": "cosine", "clip": 1.0},
            total_steps=NUM_STEPS,
        )
        self.layout = MeshLayout(num_devices=1)
        self.initial, step = make(optimizer, ema=("0.9", "power_0.1"), label_dropout=0.2)
        self.template = self.layout.template(self.initial)
        self.step = self.layout.compile(step)

    def train(self, state=None, num_steps=NUM_STEPS, data=None, **options):
        state = self.layout.place_state(self.initial if state is None else state)
        data = batches(int(state.step), SIZE) if data is None else data
        place = self.layout.place_batch
        options = {"batch_size": SIZE, "place": place, **options}
        return train(self.step, state, data, num_steps=num_steps, **options)


@pytest.fixture(scope="module")
def run():
    return Run()


@pytest.fixture
def open_log(tmp_path):
    """Open logs by name; all are closed in the end."""
    opened = []

    def open_it(name="log", step=0):
        opened.append(JsonLines(tmp_path / f"{name}.jsonl", step))
        return opened[-1]

    yield open_it
    for log in opened:
        log.close()


def saver(checkpoints):
    return lambda step, state, block=False: checkpoints.save(step, state, {}, block=block)


def drop_rate(records):
    return [{k: v for k, v in r.items() if k != "images_per_second"} for r in records]


def test_a_resumed_run_is_the_uninterrupted_run(run, tmp_path, open_log):
    """Bitwise, from every step: parameters, optimizer, averages, counters, key, log."""
    options = LoopOptions(checkpoint_every=1, log_every=1)
    with Checkpoints(tmp_path / "whole", keep=NUM_STEPS) as whole:
        log = open_log("whole")
        final = run.train(save=saver(whole), writers=[log], options=options)
        expected = drop_rate(read_jsonl(tmp_path / "whole.jsonl"))
        assert whole.steps() == (1, 2, 3, 4, 5, 6)
        for k in range(1, NUM_STEPS):
            log = open_log("whole", k)
            resumed = run.train(whole.restore(k, run.template), writers=[log], options=options)
            assert_equal(resumed, final)
            assert drop_rate(read_jsonl(tmp_path / "whole.jsonl")) == expected
        assert_equal(whole.restore(NUM_STEPS, run.template), final)


def test_the_log_holds_means_over_its_steps(run, tmp_path, open_log):
    every, third = open_log("1"), open_log("3")
    run.train(writers=[every], options=LoopOptions(log_every=1))
    run.train(writers=[third], options=LoopOptions(log_every=3))
    fine, coarse = (read_jsonl(tmp_path / f"{k}.jsonl") for k in (1, 3))
    assert [r["step"] for r in fine] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in coarse] == [3, 6]
    for name in ("loss", "grad_norm"):
        mean = np.mean([r[name] for r in fine[:3]])
        assert coarse[0][name] == pytest.approx(mean, rel=1e-12)
    assert coarse[1]["learning_rate"] == fine[5]["learning_rate"]
    assert any(name in coarse[0] for name in level_names())


def test_loss_by_noise_level():
    names = level_names()
    assert len(names) == NUM_LEVELS
    assert names[0] == "loss_log_snr/-inf..-8"
    total, count = np.zeros(NUM_LEVELS), np.zeros(NUM_LEVELS)
    total[2], count[2] = 6.0, 3.0
    one = {"loss": 1.0, "grad_norm": 2.0, "level_sum": total, "level_count": count}
    bad = {**one, "loss": np.nan, "level_sum": 0 * total, "level_count": 0 * count}
    record = summarize([one, bad, one])
    assert record == {"loss": 1.0, "grad_norm": 2.0, names[2]: 2.0}
    assert np.isnan(summarize([bad])["loss"])


def test_hooks_are_called_when_due(run):
    called = {"two": [], "four": [], "plain": []}

    def note(name):
        return lambda step, state, metrics: called[name].append((step, int(state.step)))

    run.train(
        hooks=[
            Hook(call=note("two"), every=2),
            Hook(call=note("four"), every=4),
            Hook(call=note("plain"), every=4, at_end=False),
        ]
    )
    assert called == {"two": [(2, 2), (4, 4), (6, 6)], "four": [(4, 4), (6, 6)], "plain": [(4, 4)]}


def test_nothing_is_read_beyond_the_last_step(run):
    data = batches(0, SIZE)
    run.train(data=data)
    np.testing.assert_array_equal(next(data)["data"], next(batches(NUM_STEPS, SIZE))["data"])


def test_data_that_ends_is_an_error(run):
    with pytest.raises(ValueError, match="after step 3 of 6"):
        run.train(data=itertools.islice(batches(0, SIZE), 3))


def test_a_finished_run_has_nothing_to_do(run):
    lines = []
    final = run.train()
    assert_equal(run.train(final, monitor=Monitor(say=lines.append)), final)
    assert lines == ["Nothing to do: 6 of 6 steps are done."]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, exits.TERMINATED),
        (signal.SIGINT, exits.INTERRUPTED),
        (signal.SIGHUP, exits.HANGUP),
    ],
)
def test_a_signal_saves_and_leaves(run, tmp_path, number, code):
    handler = signal.getsignal(number)
    kill = Hook(call=lambda step, *_: os.kill(os.getpid(), number), every=3, at_end=False)
    with Checkpoints(tmp_path) as checkpoints:
        with pytest.raises(Stopped) as stopped:
            run.train(hooks=[kill], save=saver(checkpoints))
        assert stopped.value.code == code
        assert stopped.value.step == 3
        assert "step 3" in str(stopped.value)
        assert checkpoints.latest_step() == 3
        resumed = run.train(checkpoints.restore(3, run.template))
    assert_equal(resumed, run.train())
    assert signal.getsignal(number) is handler


def test_a_second_signal_leaves_at_once(run, monkeypatch):
    class LeftError(Exception):
        pass

    def leave(code):
        raise LeftError(code)

    monkeypatch.setattr("diffusion.runtime.stop.os._exit", leave)

    def twice(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(LeftError, match=str(exits.ABANDONED)):
        run.train(hooks=[Hook(call=twice, every=2)])


def test_a_terminal_that_is_closed_may_say_so_several_times(run, tmp_path):
    def hang_up(*_):
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGHUP):
            os.kill(os.getpid(), number)

    with Checkpoints(tmp_path) as checkpoints, pytest.raises(Stopped) as stopped:
        run.train(hooks=[Hook(call=hang_up, every=2)], save=saver(checkpoints))
    assert (stopped.value.code, stopped.value.step) == (129, 2)


def test_who_is_to_outlive_the_terminal_does(run, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        hook = Hook(call=lambda *_: os.kill(os.getpid(), signal.SIGHUP), every=2)
        assert int(run.train(hooks=[hook]).step) == NUM_STEPS
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_hooks_and_saves_are_told_as_what_they_are(run, tmp_path, monkeypatch):
    told, within, met = [], [], []
    monkeypatch.setattr(
        "diffusion.training.loop.together", lambda name: met.append((name, told[-1]))
    )
    hook = Hook(call=lambda *_: within.append(told[-1]), every=3)
    with Checkpoints(tmp_path, alive=told.append) as checkpoints:
        run.train(hooks=[hook], save=saver(checkpoints), monitor=Monitor(alive=told.append))
    assert within == ["hook, after step 3", "hook, after step 6"]
    assert met == [(f"hooks {word}", f"hook, {word}") for word in ("after step 3", "after step 6")]
    rest = [phase for phase in told if phase not in ("compile", "save")]
    assert rest[2:5] == ["training, after step 3", "hook, after step 3", "training, after step 3"]


def test_a_save_that_waits_for_the_disk_says_that_it_lives(run, tmp_path, monkeypatch):
    told = []
    with Checkpoints(tmp_path, alive=told.append) as checkpoints:
        finish = checkpoints._finish
        monkeypatch.setattr(checkpoints, "_finish", lambda step: (time.sleep(0.7), finish(step)))
        checkpoints.save(
            1, run.layout.saveable(run.layout.place_state(run.initial)), {}, block=True
        )
    assert set(told) == {"save"}
    assert len(told) >= 3


def poisoned(first, last):
    for k, batch in enumerate(batches(0, SIZE), start=1):
        if first <= k <= last:
            batch["data"][:] = np.nan
        yield batch


def test_a_short_bad_run_is_survived(run, tmp_path, open_log):
    log = open_log()
    options = LoopOptions(max_bad_steps=3, log_every=1)
    state = run.train(data=poisoned(2, 3), writers=[log], options=options)
    assert int(state.bad_steps) == 2
    records = read_jsonl(tmp_path / "log.jsonl")
    assert [r["loss"] is None for r in records] == [False, True, True, False, False, False]
    assert [r["bad_run"] for r in records] == [0, 1, 2, 0, 0, 0]


def test_a_long_bad_run_is_an_error(run, tmp_path, open_log):
    log = open_log()
    saved = []
    options = LoopOptions(max_bad_steps=3, log_every=50, checkpoint_every=2)
    with pytest.raises(DivergedError, match=r"3 steps in a row, up to step 5.*those of step 2"):
        run.train(
            num_steps=40,
            data=poisoned(3, 99),
            writers=[log],
            options=options,
            save=lambda step, state, block: saved.append(step),
        )
    assert saved[0] == 2
    assert max(saved) <= 8  # it is noticed a few steps later at most
    assert [r["step"] for r in read_jsonl(tmp_path / "log.jsonl")] == [5]
    assert DivergedError.exit_code == exits.DIVERGED


def test_it_says_that_it_compiles_and_how_far_it_is(run):
    lines = []
    run.train(monitor=Monitor(say=lines.append))
    assert lines[0].startswith("compiling")
    assert lines[1].startswith("compiled in")
    assert lines[-1].startswith("step 6/6")


def test_rate_and_time_left_leave_compiling_out():
    now, lines = [100.0], []
    progress = Progress(1, 11, 64, lines.append, clock=lambda: now[0])
    assert not progress.due()
    now[0] += 10.0
    assert progress.due()
    assert progress.rate(6) == 5 * 64 / 10
    progress.show(6, "loss 0.5")
    assert lines == ["step 6/11  loss 0.5  32 images/s  10 s left"]
    assert not progress.due()
    assert np.isnan(Progress(0, 1, 1).rate(0))


def test_durations():
    assert [duration(s) for s in (0.4, 59, 65, 7620)] == ["0 s", "59 s", "1 min 05 s", "2 h 07 min"]


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_rewrites_its_line():
    screen = Screen()
    terminal = Terminal(screen)
    terminal.rewrite("step 1")
    terminal.rewrite("step")
    terminal.say("done")
    assert screen.getvalue() == "\rstep 1\rstep  \r    \rdone\n"
    assert Terminal(io.StringIO()).rewrite is None


def test_a_terminal_where_nobody_reads_does_not_fail(tmp_path):
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as pipe:
        terminal = Terminal(pipe)
        for _ in range(3):
            terminal.say("x" * 10_000)

    class Closed(Screen):
        def write(self, text):
            raise OSError(errno.EIO, "Input/output error")

    Terminal(Closed()).rewrite("x")


def test_a_sign_of_life():
    lines = []
    with heartbeat("working", lines.append, every=0.01):
        deadline = itertools.count()
        while len(lines) < 3 and next(deadline) < 10_000:
            jax.block_until_ready(jax.numpy.ones(()))
    assert lines[0] == "working"
    assert lines[1].startswith("working 0 s")


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: LoopOptions(log_every=0), "log_every"),
        (lambda: LoopOptions(checkpoint_every=0), "checkpoint_every"),
        (lambda: Hook(call=print, every=0), "every"),
    ],
)
def test_wrong_options_are_explained(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()
