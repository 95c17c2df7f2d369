"""Guidance from the command line: what the flags do, and what they refuse in one line."""

import json

import numpy as np
import programs
import pytest
from programs import run

TINY = [
    "--config.train.num_steps=4",
    "--config.train.checkpoint_every=4",
    "--config.train.sample_every=0",
    "--config.network.channels=8",
    "--config.network.multipliers=(1,)",
    "--config.network.attention=()",
    "--config.network.middle_attention=False",
    "--config.data.batch_size=8",
    "--config.grid.num_steps=2",
]


def error_of(*words):
    """Run sample.py where it must fail with exit code 2; return the one line that it says."""
    code, message = programs.error_of("sample", *words)
    assert code == 2, message
    return message


def trained(folder, name, *words):
    path = folder / name
    config = (
        "configs/digits_classifier.py" if name.startswith("classifier") else "configs/digits.py"
    )
    code, _, err = run(
        "train.py", "--config", config, "--workdir", path, *TINY, *words,
        DEMOLISH_DATA=str(folder / "data"),
    )  # fmt: skip
    assert code == 0, err
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Tiny runs: a model, a weaker one, one of another process, one without labels, a classifier."""
    folder = tmp_path_factory.mktemp("runs")
    runs = {
        "model": trained(folder, "model"),
        "weak": trained(folder, "weak", "--config.network.channels=4"),
        "edm": trained(folder, "edm", "--config.network.channels=4", "--config.process.name=edm"),
        "classifier": trained(folder, "classifier"),
    }
    points = folder / "points"
    code, _, err = run(
        "train.py", "--config", "configs/toy2d.py", "--workdir", points, *TINY[:3],
        "--config.data.batch_size=8", "--config.grid.num_steps=2",
    )  # fmt: skip
    assert code == 0, err
    return runs | {"points": points}


def sampled(runs, out, *words):
    code, _, err = run(
        "sample.py", "--workdir", runs["model"], "--num_samples", 3, "--labels", "3,1,4", "--out", out,
        "--batch_size", 3, *words,
    )  # fmt: skip
    assert code == 0, err
    with np.load(out) as found:
        return found["x"], json.loads(str(found["card"]))


@pytest.mark.slow
def test_every_flag_changes_what_is_generated(runs, tmp_path):
    plain, card = sampled(runs, tmp_path / "a.npz", "--guidance", 1)
    assert card["guidance"] == [{"name": "classifier_free", "scale": 1.0}]
    changed = {
        "scale": ["--guidance", 3],
        "nowhere": ["--guidance", 3, "--guidance_interval", "t:0.999,1.001"],
        "interval": ["--guidance", 3, "--guidance_interval=-30,30"],
        "classifier": ["--classifier", runs["classifier"], "--classifier_scale", 5],
        "guide": ["--guidance", 3, "--guide", runs["weak"]],
    }
    x = {k: sampled(runs, tmp_path / f"{k}.npz", *words) for k, words in changed.items()}
    for name, (images, _) in x.items():
        assert np.isfinite(images).all()
        assert not np.allclose(images, plain), name
    np.testing.assert_allclose(
        x["interval"][0], x["scale"][0], atol=1e-4
    )  # it holds all of the way
    assert x["guide"][1]["guide"]["workdir"] == str(runs["weak"])
    assert x["classifier"][1]["classifier"]["step"] == 4
    named = {k: [g["name"] for g in card["guidance"]] for k, (_, card) in x.items()}
    assert named["guide"] == ["autoguidance"]
    assert named["interval"] == ["interval"]
    assert named["classifier"] == ["classifier"]


@pytest.mark.slow
def test_a_classifier_guides_a_model_without_labels(runs, tmp_path):
    """An unlabeled model learns its classes from the classifier, whose labels are gone through in turn."""
    images = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 1)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    words = ["--config.data.name=array", f"--config.data.path={tmp_path / 'images.npy'}"]
    path = trained(runs["model"].parent, "blank", *words)
    out = tmp_path / "x.npz"
    words = [
        "--workdir",
        path,
        "--classifier",
        runs["classifier"],
        "--num_samples",
        12,
        "--out",
        out,
    ]
    code, _, err = run("sample.py", *words)
    assert code == 0, err
    np.testing.assert_array_equal(np.load(out)["label"], np.arange(12) % 10)


@pytest.mark.slow
def test_bad_guidance_is_one_line_and_writes_nothing(runs, tmp_path):
    out = tmp_path / "x.png"
    model = ["--workdir", runs["model"], "--out", out, "--num_samples", 2]
    points = ["--workdir", runs["points"], "--out", out, "--num_samples", 2]
    cases = [
        ([*model, "--labels", "3,12"], "0 ... 9"),
        ([*model, "--labels", "none", "--guidance", 2], "--guidance"),
        ([*points, "--guidance", 2], "trained under conditions"),
        ([*model, "--guide", runs["edm"], "--guidance", 2], "trained for the process EDM"),
        ([*model, "--guide", runs["points"], "--guidance", 2], "shape (2,)"),
        ([*model, "--guide", runs["classifier"]], "--classifier"),
        ([*model, "--guide", tmp_path / "none"], "config.json is missing"),
        ([*model, "--classifier", runs["weak"]], "a generator, not a classifier"),
        (["--workdir", runs["edm"], "--out", out, "--classifier", runs["classifier"]], "another process"),
        ([*points, "--classifier", runs["classifier"]], "(8, 8, 1)"),
        ([*model, "--labels", "none", "--classifier", runs["classifier"]], "omit --labels none"),
    ]  # fmt: skip
    for words, said in cases:
        assert said in error_of(*words), words
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--guidance_interval=2,-2", "--guidance", "2"], "LOW below HIGH"),
        (["--guidance_interval=2", "--guidance", "2"], "LOW,HIGH"),
        (["--guidance_interval", "sigma:1,2"], "LOW,HIGH"),
        (["--guidance", "-1"], "must not be negative"),
        (["--guidance", "nan"], "must not be negative"),
        (["--guidance", "1e30"], "nor above 10,000"),
        (["--classifier_scale", "2"], "--classifier"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else None,
)
def test_flags_that_cannot_be_meant(words, said, tmp_path):
    """Said before anything is loaded: the work directory need not exist."""
    assert said in error_of("--workdir", tmp_path / "none", *words)


def test_the_convention_is_in_the_help():
    _, out, _ = run("sample", "--help")
    text = " ".join(out.split())
    for said in (
        "scale 1 is the conditional model",
        "omega = scale - 1",
        "--guidance_interval: LOW,HIGH",
        "log-SNR",
        "t:LOW,HIGH",
        "--guide:",
        "--classifier_scale:",
    ):
        assert said in text
