"""Classifiers of noisy data as their readers run them: train, resume, evaluate, open, and their errors."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import error_of, run
from test_programs import SMALL

from diffusion import build
from diffusion.config.sections import ConfigError
from diffusion.run.workdir import open_classifier

pytestmark = pytest.mark.slow
TRAIN = ["--config", "configs/digits_classifier.py", *SMALL]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data_dir):
    """A tiny run, trained once for all tests of this file."""
    path = tmp_path_factory.mktemp("run") / "classifier"
    code, _, err = run("train.py", *TRAIN, "--workdir", path, data_dir=data_dir)
    assert code == 0, err
    return path


def test_a_run_logs_and_goes_on_like_any_other(workdir, data_dir, tmp_path):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]
    np.testing.assert_allclose(lines[0]["loss"], np.log(10), rtol=0.05)  # undecided at the start
    assert any(key.startswith("loss_log_snr/") for key in lines[0])
    assert not (workdir / "samples").exists()
    resolved = json.loads((workdir / "resolved.json").read_text())
    assert (resolved["task"], resolved["classifier_loss"]["name"]) == (
        "classifier",
        "cross_entropy",
    )
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    longer = ["--workdir", copy, "--config.train.num_steps=8"]
    code, _, err = run("train.py", *TRAIN, *longer, data_dir=data_dir)
    assert code == 0
    assert "resumed from step 6" in err


def test_evaluation_tells_accuracy_by_noise_level(workdir, data_dir):
    code, out, err = run("evaluate.py", "--workdir", workdir, data_dir=data_dir)
    assert code == 0, err
    results = json.loads((workdir / "evaluation.json").read_text())["results"]
    (levels,) = [v for k, v in results.items() if k.startswith("classifier_by_log_snr@")]
    assert len(levels) == 10
    assert [row["level"] for row in levels] == sorted(row["level"] for row in levels)
    (accuracy,) = [v for k, v in results.items() if k.startswith("accuracy@")]
    np.testing.assert_allclose(accuracy, np.mean([row["accuracy"] for row in levels]))
    assert "accuracy@359x10_levels" in out
    assert "cross_entropy@359x10_levels" in out
    code, message = error_of(
        "evaluate.py", "--workdir", workdir, "--metrics", "frechet", data_dir=data_dir
    )
    assert code == 2
    assert "generates nothing" in message


def test_programs_refuse_what_a_classifier_is_not(workdir, data_dir, tmp_path):
    out = tmp_path / "x.png"
    code, message = error_of("sample.py", "--workdir", workdir, "--out", out, data_dir=data_dir)
    assert code == 2
    assert "classifier, which generates nothing" in message
    assert not out.exists()
    for change, expected in [
        ("--config.task=clasifier", "Did you mean 'classifier'"),
        ("--config.classifier_loss.name=zpr", "Did you mean 'zlpr'"),
        ("--config.data.name=points2d", "this data set has none"),
    ]:
        fresh = tmp_path / "fresh"
        code, message = error_of("train.py", *TRAIN, change, "--workdir", fresh, data_dir=data_dir)
        assert code == 2
        assert expected in message
        assert not (fresh / "config.json").exists()


def test_an_opened_classifier_fits_its_process_and_data_or_says_why_not(workdir):
    opened = open_classifier(workdir)
    process, spec = build("process", "vp"), opened.experiment.spec
    log_probs = opened.log_probs(process, spec)
    x_t = jnp.zeros((3, 8, 8, 1))
    answer = jax.jit(lambda f, x: f(x, jnp.full(3, 0.5)))(log_probs, x_t)
    np.testing.assert_allclose(jnp.exp(answer).sum(axis=-1), 1, rtol=1e-5)
    assert not opened.clean
    assert opened.columns.sizes == (10,)
    for other, message in [
        ("edm", "process.name: vp -> edm"),
        (dict(name="vp", t_max=0.5), "process.t_max: 1.0 -> 0.5"),
        (dict(name="vp", beta_max=10.0), "process.beta_max: 20.0 -> 10.0"),
    ]:
        with pytest.raises(ConfigError, match=f"another process .*{message}"):
            opened.log_probs(build("process", other), spec)
    for field, value in dict(shape=(28, 28, 1), num_classes=11, multi_hot_dim=4).items():
        with pytest.raises(ConfigError, match="Train a classifier on the model's data"):
            opened.log_probs(process, dataclasses.replace(spec, **{field: value}))


def test_what_is_no_classifier_is_not_opened(workdir, tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        open_classifier(tmp_path)
    config = json.loads((workdir / "config.json").read_text())
    config["task"] = "generator"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=r"holds a generator.*digits_classifier"):
        open_classifier(tmp_path)
