"""Training what learns beside the mean: variance, uncertainty, times by importance; another loss target."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import programs
import pytest

import diffusion
from diffusion import build, registered
from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.config.experiment import Experiment
from diffusion.config.overrides import apply_overrides
from diffusion.config.sections import ConfigError
from diffusion.run.runner import run
from diffusion.run.step import compiled_step
from diffusion.run.workdir import Workdir, open_run
from diffusion.runtime.exits import CheckpointError
from diffusion.training import make_train_step
from diffusion.training.state import keys_to_data

from .problem import make

ALL = {
    "train.learn_variance": "True",
    "train.loss_target": "velocity",
    "weight.name": "learned_uncertainty",
    "time.name": "importance",
    "time.num_bins": "4",
    "time.warmup": "2",
}


def config(**changes):
    base = dict(
        process=dict(name="vp"),
        network=dict(name="mlp", width=8, depth=1),
        data=dict(name="points2d", kind="moons", batch_size=16),
        train=dict(num_steps=6, log_every=2, checkpoint_every=3, sample_every=0),
        grid=dict(name="uniform_log_snr", num_steps=3),
    )
    return apply_overrides(base, list(changes.items()))


def assert_equal(a, b):
    for x, y in zip(
        jax.tree.leaves(keys_to_data(a)), jax.tree.leaves(keys_to_data(b)), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.slow
def test_everything_learns_together_and_resumes_exactly(tmp_path):
    """Six steps at once, and three with three more: the same state, statistics included."""
    whole = run(Experiment.from_config(config(**ALL)), Workdir.of(tmp_path / "whole"))
    parts = Workdir.of(tmp_path / "parts")
    run(Experiment.from_config(config(**ALL | {"train.num_steps": "3"})), parts)
    assert_equal(run(Experiment.from_config(config(**ALL)), parts), whole)
    assert float(whole.statistics["seen"].sum()) == 6 * 16
    assert np.abs(whole.params["uncertainty"]).max() > 0
    lines = (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
    assert all(np.isfinite(json.loads(line)["loss"]) for line in lines)

    resolved = json.loads((tmp_path / "whole" / "resolved.json").read_text())
    assert resolved["network"]["outputs"] == 2
    assert resolved["time"]["base"]["name"] == "uniform"
    assert resolved["weight"]["weight"]["name"] == "edm"

    sampled = config(**ALL | {"sampler.name": "ancestral", "sampler.variance": "learned"})
    trained = open_run(Workdir.of(tmp_path / "whole"), sampled)
    model = trained.experiment.model(trained.params)
    x = jnp.ones((4, 2))
    assert model.mean_and_variance_output(x, 0.5)[1].shape == x.shape
    end = diffusion.sample(
        trained.experiment.sampler, trained.experiment.process, model, jax.random.key(0), x,
        trained.experiment.times(),
    )  # fmt: skip
    assert np.isfinite(end).all()
    clip = lambda models: diffusion.clipped(models.conditional)
    guided = trained.experiment.replaced(guidance=(clip,)).model(trained.params)
    np.testing.assert_allclose(guided(x, 0.5), jnp.clip(model(x, 0.5), -1, 1), rtol=1e-6)
    np.testing.assert_array_equal(
        guided.mean_and_variance_output(x, 0.5)[1], model.mean_and_variance_output(x, 0.5)[1]
    )

    other = config(**ALL | {"train.loss_target": "data"})
    with pytest.raises(ConfigError, match=r"train.loss_target: velocity -> data"):
        run(Experiment.from_config(other), parts)
    with pytest.raises(ConfigError, match=r"train.learn_variance"):
        open_run(parts, config(**ALL | {"train.learn_variance": "False"}))


def test_a_checkpoint_without_statistics_has_no_place_for_them(tmp_path):
    """So that files from before there were any still open, and the other way round."""
    state, _ = make(build("optimizer", "adam"))
    with Checkpoints(tmp_path, asynchronous=False) as checkpoints:
        checkpoints.save(1, state, {})
        assert "statistics" not in checkpoints._stored(1)
        template = build("parallel", "mesh").template(state)
        assert_equal(checkpoints.restore(1, template), state)
        tracking = template._replace(statistics={"moment": jax.ShapeDtypeStruct((3,), jnp.float32)})
        with pytest.raises(CheckpointError, match="missing: statistics/moment"):
            checkpoints.restore(1, tracking)


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_statistics_are_those_of_the_global_batch(accumulate):
    """The sums of squared losses per bin, whatever the micro-batches; a bad step changes nothing."""
    fields = {"time.name": "importance", "time.num_bins": "3", "train.accumulate": str(accumulate)}
    experiment = Experiment.from_config(config(**fields))
    step, state = jax.jit(make_step(experiment)), experiment.init_state()
    batch = experiment.dataset.batch(0, 16)
    batch = dict(data=batch["data"], row=np.arange(16, dtype=np.int32))
    after, metrics = step(state, batch)
    key, _ = jax.random.split(jax.random.fold_in(state.key, 0))
    each, aux = experiment.loss()(
        state.params, key, jax.tree.map(jnp.asarray, batch) | dict(statistics=state.statistics)
    )
    np.testing.assert_allclose(each, aux["plain"])  # nothing is known before the first step
    for k in range(3):
        of_bin = np.asarray(aux["plain"])[np.asarray(aux["bin"]) == k]
        np.testing.assert_allclose(after.statistics["moment"][k], (of_bin**2).mean(), rtol=1e-5)
        assert after.statistics["seen"][k] == len(of_bin)
    np.testing.assert_allclose(metrics["level_sum"].sum(), each.sum(), rtol=1e-5)
    batch["data"] = np.full_like(batch["data"], np.nan)
    assert_equal(step(after, batch)[0].statistics, after.statistics)


def make_step(experiment):
    return make_train_step(
        experiment.loss(), experiment.optimizer, experiment.ema,
        accumulate=experiment.train.accumulate, time=experiment.time,
    )  # fmt: skip


@pytest.mark.parametrize("name", registered("parallel"))
def test_layouts_on_one_device_carry_statistics(name):
    experiment = Experiment.from_config(config(**ALL | {"parallel.name": name}))
    layout = experiment.parallel
    batch = experiment.dataset.batch(0, 16)
    batch = dict(data=batch["data"], row=np.arange(16, dtype=np.int32))
    state, _ = compiled_step(experiment)(
        layout.place_state(experiment.init_state()), layout.place_batch(batch)
    )
    assert float(layout.fetch(state).statistics["seen"].sum()) == 16


@pytest.mark.programs
@pytest.mark.slow
def test_statistics_agree_on_two_devices():
    """Ten steps on a mesh of two, under pmap on two, and on one device: the same shares and weights."""
    command = [sys.executable, "-m", "training.importance_program"]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    for name in ("mesh", "pmap"):
        assert report[name] < 1e-12  # float64, some 1e3 roundings
    assert report["largest_share"] > 0.3  # the shares had differed by then


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.loss_target": "velocty"}, "Did you mean 'velocity'"),
        ({"train.variance_step": "0.0"}, "variance_step"),
        ({"train.variance_weight": "-1.0"}, "variance_weight"),
        ({"sampler.name": "ancestral", "sampler.variance": "learned"}, "learn_variance=True"),
        ({"train.learn_variance": "True", "process.name": "poisson_flow"}, "normal noise"),
        (
            {"train.learn_variance": "True", "network.name": "training.test_learning_parts:Fixed"},
            "twice the outputs",
        ),
        ({"time.name": "importance", "time.base": "unifrm"}, "Did you mean 'uniform'"),
        ({"weight.name": "learned_uncertainty", "weight.weight": "emd"}, "Did you mean 'edm'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent))
    with pytest.raises(ConfigError, match=message):
        Experiment.from_config(config(**changes))


class Fixed:
    """A network of one's own without a field `outputs`."""

    def init(self, key, x, log_snr, cond=None):
        return jnp.zeros(())

    def apply(self, params, x, log_snr, cond=None, key=None):
        return params * x


def test_an_analytic_sampler_is_for_trained_models(tmp_path):
    fields = {
        "sampler.name": "ancestral",
        "sampler.variance": "analytic",
        "train.sample_every": "3",
    }
    with pytest.raises(ConfigError, match="estimate_variance"):
        run(Experiment.from_config(config(**fields)), Workdir.of(tmp_path))


@pytest.mark.programs
@pytest.mark.slow
def test_a_table_is_estimated_and_found(tmp_path):
    """The programs: train, estimate, sample; and what is said when the table is missing or stale."""

    def program(name, *words):
        code, out, err = programs.run(name, "--workdir", tmp_path / "run", *words)
        return code, out + err

    small = ["--config.network.width=8", "--config.network.depth=1", "--config.data.batch_size=16"]
    small += ["--config.train.sample_every=0", "--config.train.checkpoint_every=100"]
    train = ["--config", "configs/toy2d.py", *small, *(f"--config.{k}={v}" for k, v in ALL.items())]
    code, said = program("train.py", *train, "--config.train.num_steps=3")
    assert code == 0, said
    out = str(tmp_path / "x.npz")
    draw = ["--sampler", "ancestral", "--config.sampler.variance=analytic", "--num_steps", "3"]
    draw += ["--num_samples", "8", "--out", out]
    code, said = program("sample.py", *draw)
    assert code == 2
    assert "Make it: demolish estimate_variance --workdir" in said
    code, said = program("estimate_variance.py", "--num_examples", "64", "--num_levels", "5")
    assert code == 0, said
    with np.load(tmp_path / "run" / "variance.npz") as table:
        assert table["values"].shape == (5,)
        assert table["values"].dtype == np.float64
        card = json.loads(str(table["card"]))
        assert card["kind"] == "residual"
        assert {"step", "ema", "command", "versions", "commit"} <= set(card)
    code, said = program("sample.py", *draw)
    assert code == 0, said
    assert np.isfinite(np.load(out)["x"]).all()
    code, said = program("sample.py", *draw, "--ema", "raw")
    assert code == 2
    assert "belongs to step 3, weights 0.995" in said
    code, said = program("estimate_variance.py", "--kind", "nois")
    assert code == 2
    assert "Did you mean 'noise'" in said
