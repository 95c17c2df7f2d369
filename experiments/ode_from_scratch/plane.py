"""Points in the plane: every recipe trained, beside the exact field of the same points.

Trained network and exact field are built on the same 2,000 points and sampled with Heun, 64 steps, from the same
priors; the energy distance D of 16,384 samples is taken to as many fresh points of the distribution. The estimate is
unbiased, so D of fresh points is 0 on average and no ratio to it makes sense. The plain double sum, which
counts an example's distance from itself, is larger by `floor`, and the ratio

    (D of the trained network + floor) / (mean D of all exact fields + floor)

is 1 for a network that is as good as an exact field. These all end in the same 2,000 points, so that their mean is
a better estimate for each of them than its own D. A recipe's network and its exact field begin at the same draws of
the prior, though, whose chance both show: the ratio to its own is in the table as well.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from diffusion import build
from diffusion.config.experiment import Experiment
from diffusion.evaluation.energy import energy_distance
from diffusion.models.exact_field import exact_field
from diffusion.samplers.time_grids import Grid
from experiments.ode_from_scratch import store
from experiments.ode_from_scratch.recipes import PLANE, Recipe, exact_field_of
from experiments.ode_from_scratch.training import experiment_of, samples, trained

KINDS = ("8gaussians", "checkerboard")
NUM_POINTS, NUM_SAMPLES, NUM_FEW, SHOWN = 2000, 16_384, 4096, 1500
NUM_STEPS, BATCHES = 5000, (256, 2048)  # noise of the gradient is what separates the two
CURVED = ("linear_path", "parabola", "asinh_path")  # the first one is straight
BUDGETS = (4, 8, 16, 32)  # evaluations of the model

Say = Callable[[str], None]


def _experiment(kind: str, recipe: Recipe, batch_size: int = BATCHES[-1]) -> Experiment:
    changes = dict(
        data=dict(kind=kind, size=NUM_POINTS, batch_size=batch_size),
        train=dict(num_steps=NUM_STEPS, sample_every=0),
        # half the width and four times the rate of the file: measured better here, in half the time
        network=dict(width=64),
        optimizer=dict(learning_rate=8e-3),
        grid=dict(name="uniform_log_snr", num_steps=64),
    )
    return experiment_of("toy2d", recipe, changes)


def fresh(kind: str, start: int, count: int) -> np.ndarray:
    """Return points of the distribution that nothing was trained on."""
    dataset = build("dataset", dict(name="points2d", kind=kind, split="test"))
    return dataset.examples(start, count)["data"]


def noise_floor(kind: str, repetitions: int = 8) -> dict[str, float]:
    """Return what the energy distance of fresh points from fresh points is, and that of the training points."""
    y = fresh(kind, 0, NUM_SAMPLES)
    found = [
        energy_distance(fresh(kind, i * NUM_SAMPLES, NUM_SAMPLES), y).value
        for i in range(1, repetitions + 1)
    ]
    points = training_points(kind)
    apart = np.linalg.norm(y[: len(y) // 2] - y[len(y) // 2 :], axis=1).mean()
    return dict(
        rms=float(np.sqrt(np.mean(np.square(found)))),
        points=energy_distance(points, y).value,
        plain=float(apart * 2 / NUM_SAMPLES),
        repetitions=repetitions,
    )


def training_points(kind: str) -> np.ndarray:
    """Return the 2,000 points that everything here is built on."""
    dataset = build("dataset", dict(name="points2d", kind=kind, size=NUM_POINTS))
    return dataset.examples(0, NUM_POINTS)["data"]


def _distance(x: np.ndarray, kind: str) -> dict[str, float]:
    lost = float(np.mean(~np.isfinite(x).all(axis=1)))
    found = energy_distance(x[np.isfinite(x).all(axis=1)], fresh(kind, 0, len(x)))
    return dict(value=found.value, error=found.standard_error, lost=lost)


def _few_steps(experiment: Experiment, model_of: Any, kind: str) -> dict[str, dict[str, float]]:
    """Return energy distances by method, grid and evaluations."""
    found: dict[str, dict[str, float]] = {}
    for name, evaluations in (("euler", 1), ("heun", 2)):
        for grid in ("uniform", "uniform_log_snr"):
            sampler, spacing = build("sampler", name), build("grid", grid)
            assert isinstance(spacing, Grid)
            row = found[f"{name}, {grid}"] = {}
            for budget in BUDGETS:
                times = spacing(experiment.process, budget // evaluations)
                x = samples(experiment, model_of, NUM_FEW, sampler=sampler, times=times)
                row[str(budget)] = _distance(x, kind)["value"]
    return found


def of_exact_field(kind: str, name: str, recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Measure the exact field of the training points under one recipe."""
    given = recipe.exact if isinstance(recipe.exact, dict) else recipe.process
    process = build("process", given)
    field = exact_field(process, training_points(kind))
    experiment = _experiment(kind, recipe)
    began = time.monotonic()
    x = samples(experiment.replaced(process=process), lambda cond: field, NUM_SAMPLES)
    record: dict[str, Any] = dict(seconds=round(time.monotonic() - began, 1))
    store.keep_examples(folder, kind, name, "exact", x=x[:SHOWN])
    record["distance"] = _distance(x, kind)
    if name in CURVED:
        record["few_steps"] = _few_steps(experiment, lambda cond: field, kind)
    return record


def of_network(
    kind: str, name: str, recipe: Recipe, folder: Path, batch_size: int
) -> dict[str, Any]:
    """Train one recipe on one data set, with one size of batches, and measure it."""
    experiment = _experiment(kind, recipe, batch_size)
    params, record = trained(experiment)
    model_of = lambda cond: experiment.model(params, cond)
    began = time.monotonic()
    x = samples(experiment, model_of, NUM_SAMPLES)
    record["sampling_seconds"] = round(time.monotonic() - began, 1)
    record["distance"] = _distance(x, kind)
    if batch_size == BATCHES[-1]:
        store.keep_examples(folder, kind, name, x=x[:SHOWN])
        if name in CURVED:
            record["few_steps"] = _few_steps(experiment, model_of, kind)
    return record


def trained_on(batch_size: int) -> str:
    """Return the name of what was measured with one size of batches."""
    return f"batches of {batch_size}"


def parts_of(kind: str, name: str, recipe: Recipe, folder: Path) -> dict[str, Callable[[], Any]]:
    """Return what is measured of a recipe on one data set, by name."""
    network = partial(of_network, kind, name, recipe, folder)
    parts = {trained_on(size): partial(network, size) for size in BATCHES}
    exact = {"exact": partial(of_exact_field, kind, name, recipe, folder)}
    return parts | (exact if exact_field_of(name) == name else {})


def run(folder: Path, say: Say) -> None:
    """Measure whatever is missing."""
    for kind in KINDS:
        if store.get("plane", kind, "floor") is None:
            store.keep("plane", kind, "floor", record=noise_floor(kind))
        for name, recipe in PLANE.items():
            for part, call in parts_of(kind, name, recipe, folder).items():
                if store.get("plane", kind, part, name) is None:
                    record = store.keep("plane", kind, part, name, record=call())
                    say(f"{kind}, {name}, {part}: {record['distance']}, {record['seconds']} s")
