"""Parts of evaluation that need no trained run: counted evaluations, trends, and what their options refuse."""

import json

import jax
import numpy as np
import pytest

from diffusion.config.experiment import Experiment
from diffusion.config.sections import ConfigError, EvaluateOptions
from diffusion.evaluation.counting import evaluations_per_example
from diffusion.evaluation.generate import generate_batch
from diffusion.run.hooks import sample_grids, trend
from diffusion.run.workdir import Workdir
from diffusion.training import Monitor
from diffusion.training.metrics import JsonLines

TOY = {
    "process": {"name": "vp"},
    "network": {"name": "mlp", "width": 8},
    "data": {"name": "points2d", "kind": "moons", "label": True, "batch_size": 8},
    "grid": {"name": "uniform_log_snr", "num_steps": 5},
}


def experiment(**sections):
    return Experiment.from_config({**TOY, **sections})


def counted(one):
    params = one.init_params()
    model_of = lambda network, cond: one.replaced(network=network).model(params, cond)
    return evaluations_per_example(
        one.sampler, one.process, one.network, model_of, one.spec.shape, one.times(),
        one.conditions_in_turn(np.arange(1)),
    )  # fmt: skip


@pytest.mark.parametrize("sampler", ["ddim", "heun", "unipc", "ancestral", "rk4"])
def test_counted_evaluations_are_those_that_samplers_report(sampler):
    one = experiment(sampler={"name": sampler})
    params = one.init_params()
    found = generate_batch(
        one.sampler, one.process, lambda cond: one.model(params, cond), 0, np.arange(2), one.spec.shape,
        one.times(), one.conditions_in_turn(np.arange(2)),
    )  # fmt: skip
    assert counted(one) == int(np.max(found.nfe))


def test_guidance_is_counted_as_it_is():
    cfg = {"name": "classifier_free", "scale": 2.0}
    plain = counted(experiment(sampler={"name": "ddim"}))
    assert counted(experiment(sampler={"name": "ddim"}, guidance=[cfg])) == 2 * plain
    inside = {"name": "interval", "low": -1e9, "high": 1e9, "by": "log_snr", "inner": cfg}
    outside = {**inside, "low": 1e8}
    assert counted(experiment(sampler={"name": "ddim"}, guidance=[inside])) == 2 * plain
    assert counted(experiment(sampler={"name": "ddim"}, guidance=[outside])) == plain


def test_adaptive_samplers_have_no_number():
    assert counted(experiment(sampler={"name": "diffrax"})) is None


# ---- trends -------------------------------------------------------------------------------------


def test_options_of_a_trend_are_checked():
    for bad in ({"trend_every": -1}, {"trend_samples": 1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            EvaluateOptions(**bad)
    with pytest.raises(ConfigError, match=r"trend_sample'.*Did you mean 'trend_samples'"):
        experiment(evaluate={"trend_sample": 3})


@pytest.mark.parametrize(
    ("evaluate", "words"),
    [
        ({"trend_metrics": ["frechets"]}, "Did you mean 'frechet'"),
        ({"trend_metrics": ["frechet[pixel]"]}, "Did you mean 'pixels'"),
        ({"ema": "0.5"}, "must be one of 0.999, raw"),
    ],
)
def test_a_trend_that_cannot_be_measured_is_refused_before_training(evaluate, words):
    one = experiment(evaluate={"trend_every": 1, **evaluate})
    with pytest.raises(ConfigError, match=words):
        trend(one, [], Monitor())


def test_a_trend_that_does_not_fit_is_said_once_and_ends_nothing(tmp_path):
    """One is of classifiers, and this is a generator; the other is measured at every step."""
    metrics = ["accuracy_by_level", "frechet"]
    one = experiment(evaluate={"trend_every": 1, "trend_samples": 20, "trend_metrics": metrics})
    said = []
    with JsonLines(tmp_path / "log.jsonl") as log:
        hook = trend(one, [log], Monitor(say=said.append))
        for step in (3, 4):
            hook(step, one.init_state(), {})
    refused = [line for line in said if "left out" in line]
    assert len(refused) == 1
    assert refused[0].startswith("step 3  the trend of accuracy_by_level cannot be measured")
    written = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in written] == [3, 4]
    assert all(set(line) == {"step", "frechet_pixels@20_against_20"} for line in written)


def test_a_trend_is_measured_of_the_average_and_logged(tmp_path):
    one = experiment(
        evaluate={"trend_every": 1, "trend_samples": 20, "trend_metrics": ["frechet", "energy_distance"]},
    )  # fmt: skip
    said = []
    with JsonLines(tmp_path / "log.jsonl") as log:
        hook = trend(one, [log], Monitor(say=said.append))
        log.scalars(3, {"loss": 1.0})
        for step in (3, 4):
            hook(step, one.init_state(), {})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [3, 3, 4]
    names = {"frechet_pixels@20_against_20", "energy_distance@20_against_20"}
    assert set(lines[1]) == {"step", *names}
    assert lines[1] == lines[2] | {"step": 3}  # the same weights, the same examples
    assert said[0].startswith("step 3  frechet_pixels@20_against_20 ")
    JsonLines(tmp_path / "log.jsonl", step=3).close()  # a run goes on from step 3
    left = (tmp_path / "log.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in left] == lines[:2]


def test_trends_and_grids_give_signs_of_life(tmp_path):
    one = experiment(
        evaluate={"trend_every": 1, "trend_samples": 30, "batch_size": 10, "trend_metrics": ["energy_distance"]},
    )  # fmt: skip
    told = []
    monitor = Monitor(alive=told.append)
    trend(one, [], monitor)(3, one.init_state(), {})
    assert told
    assert set(told) == {"hook, trend of step 3"}
    told.clear()
    sample_grids(one, Workdir.of(tmp_path), monitor)(3, one.init_state(), {})
    devices = len(jax.local_devices())
    blocks = -(-1000 // (256 * devices))
    assert told == ["hook, grids of step 3"] * blocks * 2  # of the raw and the averaged weights
