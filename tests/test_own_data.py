"""Data of one's own: where it lies is free, what it is is not; a tenth is held out; old runs mean what they meant."""

import json
import shutil

import jax
import numpy as np
import pytest

from diffusion.config.checks import check_training
from diffusion.config.experiment import Experiment
from diffusion.config.identity import as_stored, differences
from diffusion.config.recording import continued, recorded
from diffusion.config.sections import ConfigError
from diffusion.data import ArrayFile, Folder, MissingDataError
from diffusion.evaluation.metrics import numbers_of
from diffusion.registry import build
from diffusion.run import runner
from diffusion.run.workdir import Workdir, open_run

POINTS = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)


def config_of(path, steps=2, **data):
    return dict(
        process="vp",
        network=dict(name="mlp", width=8, depth=1),
        data=dict(name="array", path=str(path), batch_size=8, **data),
        train=dict(num_steps=steps, sample_every=0, checkpoint_every=2),
        grid=dict(num_steps=2),
        evaluate=dict(num_samples=20),
    )


def train(workdir, config, capsys=None):
    state = runner.run(Experiment.from_config(config), workdir)
    return state, capsys.readouterr().err if capsys else ""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A current folder with points in arr/x.npy."""
    (tmp_path / "arr").mkdir()
    np.save(tmp_path / "arr" / "x.npy", POINTS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_where_data_lies_is_free_and_what_it_is_is_not(place, monkeypatch, capsys):
    """Started with a relative path; gone on with from another folder, with another file of the same content."""
    workdir = Workdir.of("run")
    _, said = train(workdir, config_of("arr/x.npy"), capsys)
    assert "held out: 4 of 40 examples" in said
    kept = json.loads((workdir.path / "config.json").read_text())["data"]
    assert kept["path"] == str(place / "arr" / "x.npy")
    assert kept["test_fraction"] == 0.1
    assert kept["content"]["data"].startswith("40 examples, SHA-256 ")

    (place / "moved").mkdir()
    np.savez(place / "moved" / "y.npz", data=POINTS.astype(np.float64))
    monkeypatch.chdir(place / "moved")
    with pytest.raises(MissingDataError, match=rf"no file arr/x\.npy in {place / 'moved'}"):
        Experiment.from_config(config_of("arr/x.npy"))
    _, said = train(workdir, config_of("y.npz", steps=4), capsys)
    assert "resumed from step 2" in said

    np.save("z.npy", np.concatenate([POINTS[:-1], POINTS[:1]]))
    wanted = (
        r"content of data is another: 40 examples, SHA-256 \w{12} -> 40 examples, SHA-256 \w{12}"
    )
    with pytest.raises(ConfigError, match=wanted):
        train(workdir, config_of("z.npy", steps=6))

    config = workdir.read_config()
    run = open_run(workdir, config)  # measured from here
    assert run.experiment.eval_inputs(run.params).held_out.spec.size == 4
    other = open_run(workdir, {**config, "data": {**config["data"], "path": "z.npy"}})
    with pytest.raises(
        ConfigError, match=rf"{wanted} \(data\.path is z\.npy\).*--config\.data\.path"
    ):
        other.experiment.eval_inputs(other.params)


@pytest.mark.slow
def test_the_checkpoint_remembers_the_content_too(place):
    workdir = Workdir.of("run")
    train(workdir, config_of("arr/x.npy"))
    (workdir.path / "config.json").unlink()
    np.save("arr/x.npy", POINTS[::-1])
    with pytest.raises(ConfigError, match="content of data is another"):
        train(workdir, config_of("arr/x.npy", steps=4))
    np.save("arr/x.npy", POINTS)
    train(workdir, config_of("arr/x.npy", steps=4))


# ---- runs of before -----------------------------------------------------------------------------


@pytest.fixture
def old_run(place, monkeypatch):
    """A run as it was left before anything was held out or recorded: its config is silent."""
    with monkeypatch.context() as patch:
        patch.setattr(runner, "recorded", lambda experiment, stored: experiment)
        workdir, config = Workdir.of("old"), config_of("arr/x.npy")
        then = Experiment.from_config(as_stored(config))
        assert then.dataset.spec.size == 40
        runner.run(then.replaced(config=Experiment.from_config(config).config), workdir)
    assert set(json.loads((workdir.path / "config.json").read_text())["data"]) == {
        "name", "path", "batch_size"
    }  # fmt: skip
    return workdir


@pytest.mark.slow
@pytest.mark.parametrize("lost", [False, True])
def test_an_old_run_goes_on_as_it_would_have(place, old_run, lost, capsys):
    """Trained on everything, to the last bit; also where only the checkpoint still has the config."""
    if lost:
        (old_run.path / "config.json").unlink()
    resumed, said = train(old_run, config_of("arr/x.npy", steps=4), capsys)
    assert "resumed from step 2" in said
    assert "nothing (data.test_fraction=0)" in said
    assert old_run.read_config()["data"]["test_fraction"] == 0.0
    whole, _ = train(Workdir.of("whole"), config_of("arr/x.npy", steps=4, test_fraction=0.0))
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    with pytest.raises(ConfigError, match=r"data.test_fraction: 0.0 -> 0.1"):
        train(old_run, config_of("arr/x.npy", steps=4, test_fraction=0.1))


@pytest.mark.slow
def test_an_old_run_is_measured_against_its_training_data_by_name(old_run, monkeypatch):
    monkeypatch.chdir(old_run.path)
    config = old_run.read_config()
    config["data"]["path"] = "../arr/x.npy"
    run = open_run(old_run, config)
    subject, metric = run.experiment.eval_inputs(run.params), build("metric", "energy_distance")
    assert not subject.has_training_data
    assert list(numbers_of(metric, subject)) == ["energy_distance@20_against_20_on_training_data"]
    assert metric.card(subject)["reference"]["split"] == "training data"


def test_a_config_that_says_nothing_differs_from_no_run():
    silent = config_of("x.npy")
    for fraction in (0.0, 0.1):
        assert differences(config_of("x.npy", test_fraction=fraction), silent) == []
    assert differences(silent, config_of("y.npy", test_fraction=0.1)) == [
        "data.test_fraction: 0.0 -> 0.1"
    ]


def test_places_and_defaults_of_nested_sections_are_known():
    prior = lambda **data: {"name": "data", "dataset": {"name": "array", **data}}
    config = {"process": {"name": "bridge", "prior": prior(path="a.npy")}}
    assert as_stored(config)["process"]["prior"]["dataset"]["test_fraction"] == 0.0
    other = {"process": {"name": "bridge", "prior": prior(path="b.npy", test_fraction=0.0)}}
    assert differences(config, other) == []
    stored = {"coupling": {"name": "stored", "path": "a.npz"}}
    assert differences(stored, {"coupling": {"name": "stored", "path": "b.npz"}}) == []


def test_stored_pairs_belong_to_all_examples_of_one_data_set(place):
    """Pairs go by number, and a set of which some are held out has other numbers."""
    np.savez("pairs.npz", data=POINTS, noise=POINTS)
    with_pairs = lambda **data: {
        **config_of("pairs.npz", **data), "coupling": {"name": "stored", "path": "pairs.npz"}
    }  # fmt: skip
    e = Experiment.from_config(with_pairs())
    check_training(e)
    assert e.spec.size == 40
    found = recorded(e).config
    assert found["coupling"]["path"] == str(place / "pairs.npz")
    assert set(found["data"]["content"]) == {"data", "coupling"}
    with pytest.raises(ConfigError, match=r"noise for 40 examples, and the data set has 30"):
        check_training(Experiment.from_config(with_pairs(test_fraction=0.25)))


def test_going_on_takes_what_the_run_meant_before_anything_is_read(place, old_run):
    """What today's rules refuse, the run was trained on; so they must not be asked."""
    gray = np.random.default_rng(0).uniform(0, 1, (40, 4, 4, 1)).astype(np.float32)
    np.save("arr/gray.npy", gray)
    config = config_of("arr/gray.npy")
    with pytest.raises(ConfigError, match=r"must lie in \[-1, 1\]"):
        Experiment.from_config(config)
    stored = runner.stored_config(old_run)
    then = continued(config, stored)[0]
    assert (then["data"]["rules"], then["data"]["test_fraction"]) == (1, 0.0)
    np.testing.assert_array_equal(
        Experiment.from_config(then).dataset.examples(0, 40)["data"], gray
    )
    assert continued(then, stored)[0] == then
    assert continued(config, None)[0] == config
    assert runner.stored_config(Workdir.of("nowhere")) is None


# ---- what is held out ---------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "held_out"), [(19, 0), (20, 2), (40, 4), (104, 10)])
def test_a_tenth_is_held_out_but_of_tiny_sets(tmp_path, size, held_out):
    np.save(tmp_path / "x.npy", np.arange(2.0 * size).reshape(size, 2))
    data = ArrayFile(path=str(tmp_path / "x.npy"))
    assert data.spec.size == size - held_out
    rest = data.held_out()
    assert (rest is data) == (held_out == 0)
    assert data.decided() == {"test_fraction": 0.1 if held_out else 0.0}
    assert ("fewer than 20" in data.division()) == (held_out == 0)
    whole = {tuple(r) for d in (data, rest) for r in d.examples(0, size)["data"]}
    assert len(whole) == size
    if held_out:
        assert rest.spec.size == held_out
        same = ArrayFile(path=data.path, split="test", test_fraction=0.1)
        np.testing.assert_array_equal(rest.examples(0, 99)["data"], same.examples(0, 99)["data"])
        everything = ArrayFile(path=data.path, split="all")
        assert everything.held_out() is everything


def test_folders_are_divided_and_digested_alike(tmp_path):
    from PIL import Image

    for i in range(30):
        (tmp_path / "a" / f"c{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), i).save(tmp_path / "a" / f"c{i % 2}" / f"{i:02d}.png")
    data = Folder(path=str(tmp_path / "a"), size=4, channels=1)
    assert (data.spec.size, data.held_out().spec.size) == (27, 3)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copy = Folder(path=str(tmp_path / "b"), size=4, channels=1, split="test")
    assert copy.content() == data.content()
    (tmp_path / "b" / "c1").rename(tmp_path / "b" / "c2")
    renamed = Folder(path=str(tmp_path / "b"), size=4, channels=1)
    assert renamed.content() != data.content()
    file = tmp_path / "a" / "c0" / "00.png"
    file.write_bytes(file.read_bytes().replace(b"IDAT", b"IDAX"))
    assert Folder(path=str(tmp_path / "a"), size=4, channels=1).content() != data.content()
