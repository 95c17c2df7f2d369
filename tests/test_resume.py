"""What may change when a run is resumed, and what may not: every field is one or the other."""

import dataclasses
import json
import shutil

import pytest

from diffusion.config.identity import as_stored
from diffusion.config.sections import FREE, IDENTITY, SECTIONS, ConfigError, TrainOptions
from diffusion.run import previous as earlier
from diffusion.run.previous import is_halfway, lost, record, refuse_anew, set_aside
from diffusion.run.workdir import Workdir
from diffusion.runtime.exits import CheckpointError

CONFIG = {
    "seed": 0,
    "process": {"name": "vp"},
    "network": {"name": "mlp", "width": 16},
    "data": {"name": "points2d", "kind": "moons", "batch_size": 64},
    "optimizer": {"name": "adam", "learning_rate": 1e-3, "schedule": "cosine"},
    "ema": ["0.999"],
    "train": {"num_steps": 20},
}

REFUSED = {
    "seed": 1,
    "process.beta_max": 15.0,
    "network.width": 32,
    "network.name": "dit",
    "data.batch_size": 128,
    "data.kind": "rings",
    "data.name": "digits",
    "optimizer.schedule": "linear",
    "optimizer.learning_rate": 1e-2,
    "ema": ["0.99"],
    "time.name": "log_normal",
    "train.label_dropout": 0.5,
    "train.spike_factor": 10.0,
}
ALLOWED = {
    "train.num_steps": 40,
    "train.checkpoint_every": 3,
    "train.keep": 1,
    "parallel.name": "pmap",
    "sampler.name": "heun",
    "grid.num_steps": 7,
    "evaluate.num_samples": 5,
    "data.data_dir": "elsewhere",
}


def changed(path, value):
    new = json.loads(json.dumps(CONFIG))
    section, _, field = path.partition(".")
    if field:
        new.setdefault(section, {})[field] = value
    else:
        new[section] = value
    return new


@pytest.fixture
def workdir(tmp_path):
    workdir = Workdir.of(tmp_path)
    workdir.write("config.json", CONFIG)
    return workdir


def test_every_field_is_fixed_or_free():
    fields = {f"train.{f.name}" for f in dataclasses.fields(TrainOptions)}
    assert sorted([*IDENTITY, *FREE]) == sorted(({*SECTIONS} - {"train"}) | fields)


@pytest.mark.parametrize(("path", "value"), REFUSED.items(), ids=REFUSED)
def test_what_must_not_change_is_refused_with_a_difference(workdir, path, value):
    with pytest.raises(ConfigError) as refusal:
        workdir.claim(changed(path, value))
    assert f"{path}: " in str(refusal.value)
    assert f"-> {value}" in str(refusal.value)
    assert "--restart" in str(refusal.value)


@pytest.mark.parametrize(("path", "value"), ALLOWED.items(), ids=ALLOWED)
def test_what_may_change_is_accepted(workdir, path, value):
    assert workdir.claim(changed(path, value))


def test_a_new_folder_is_nobodys(tmp_path):
    assert not Workdir.of(tmp_path / "new").claim(CONFIG)


def test_setting_aside_loses_nothing_and_leaves_nothing(workdir):
    (workdir.checkpoints / "5").mkdir(parents=True)
    (workdir.path / "notes.txt").write_text("mine")
    (workdir.path / "cache").mkdir()
    assert set_aside(workdir) == workdir.path / "earlier-1"
    assert sorted(p.name for p in workdir.path.iterdir()) == ["cache", "earlier-1", "notes.txt"]
    assert (workdir.path / "earlier-1" / "checkpoints" / "5").is_dir()
    assert Workdir.of(workdir.path / "earlier-1").read_config() == as_stored(CONFIG)
    assert set_aside(workdir) is None
    workdir.write("config.json", CONFIG)
    assert set_aside(workdir) == workdir.path / "earlier-2"


class DiedError(BaseException):
    """What stands for a kill: nothing handles it."""


@pytest.mark.parametrize("moved", [1, 2, 3, 4])
def test_setting_aside_that_was_killed_is_finished(workdir, monkeypatch, moved):
    def die(place):
        assert place == "mid_restart"
        times.append(place)
        if len(times) == moved:
            raise DiedError

    times = []
    (workdir.checkpoints / "5").mkdir(parents=True)
    workdir.metrics.write_text(json.dumps({"step": 5}))
    record(workdir, 5)
    monkeypatch.setattr(earlier, "failpoint", die)
    with pytest.raises(DiedError):
        set_aside(workdir)
    monkeypatch.undo()
    assert is_halfway(workdir)
    assert not (workdir.path / "earlier-1").exists()
    workdir.write("evaluation.json", {})  # by whoever measured meanwhile
    assert set_aside(workdir) == workdir.path / "earlier-1"
    names = {"checkpoints", "config.json", "metrics.jsonl", "newest.json", "evaluation.json"}
    assert {p.name for p in (workdir.path / "earlier-1").iterdir()} == names
    assert [p.name for p in workdir.path.iterdir()] == ["earlier-1"]


def test_what_was_made_since_is_not_written_over(workdir):
    (workdir.path / earlier.HALFWAY).mkdir()
    (workdir.path / earlier.HALFWAY / "config.json").write_text("first")
    assert set_aside(workdir) == workdir.path / "earlier-2"
    assert (workdir.path / "earlier-1" / "config.json").read_text() == "first"
    assert Workdir.of(workdir.path / "earlier-2").read_config() == as_stored(CONFIG)


def lose(workdir, way, tmp_path):
    """Lose the checkpoints of a run."""
    if way == "missing":
        shutil.rmtree(workdir.checkpoints)
    elif way == "empty":
        shutil.rmtree(workdir.checkpoints / "5")
    elif way == "half":
        (workdir.checkpoints / "5").rename(workdir.checkpoints / ".saving-5")
    elif way == "link to nothing":
        workdir.checkpoints.rename(tmp_path / "elsewhere")
        workdir.checkpoints.symlink_to(tmp_path / "nothing")


@pytest.mark.parametrize("way", ["missing", "empty", "half", "link to nothing"])
@pytest.mark.parametrize("proof", ["record", "log", "finished", "damaged record"])
def test_a_run_that_had_a_checkpoint_is_not_begun_anew(workdir, tmp_path, way, proof):
    (workdir.checkpoints / "5").mkdir(parents=True)
    assert not refuse_anew(workdir)  # there is one: others judge it
    if proof == "record":
        record(workdir, 5)
    elif proof == "finished":
        workdir.write("run.json", {"steps": 5})
    else:
        workdir.metrics.write_text('{"step": 4}\n{"step": 5}\n')
        if proof == "damaged record":
            (workdir.path / "newest.json").write_text('{"stup": null}')
    lose(workdir, way, tmp_path)
    before = sorted(workdir.path.rglob("*"))
    with pytest.raises(CheckpointError, match=r"step 5|5 steps") as refusal:
        refuse_anew(workdir)
    assert "--restart" in str(refusal.value)
    assert refusal.value.exit_code == 4
    assert sorted(workdir.path.rglob("*")) == before


def test_a_run_that_never_had_one_begins_again(workdir):
    assert not refuse_anew(workdir)  # a config alone
    record(workdir, None)
    workdir.metrics.write_text('{"step": 4}\n')
    assert refuse_anew(workdir)
    (workdir.checkpoints / ".saving-5").mkdir(parents=True)
    assert refuse_anew(workdir)


def test_a_newer_checkpoint_that_is_gone_is_said(workdir):
    (workdir.checkpoints / "5").mkdir(parents=True)
    assert lost(workdir, 5) == ""
    record(workdir, 9)
    assert "step 9 was completed and is gone; step 5 is used, 4 before it" in lost(workdir, 5)
    (workdir.checkpoints / "9.damaged-size-1").mkdir()
    assert lost(workdir, 5) == ""  # it was said why


def test_files_of_processes_that_died_are_swept(workdir):
    workdir.samples.mkdir()
    for name in (
        ".config.json.123",
        ".lock.json.host.7",
        ".variance.npz.9.tmp",
        "samples/.a.png.9.tmp",
    ):
        (workdir.path / name).write_text("{")
    (workdir.path / ".keep.json").write_text("{}")
    workdir.sweep()
    assert sorted(p.name for p in workdir.path.iterdir()) == [
        ".keep.json",
        "config.json",
        "samples",
    ]
    assert not list(workdir.samples.iterdir())
