"""Our data sets: batches as they are made, and as a run gets them."""

import dataclasses
from typing import Any

import jax

from benchmarks.cases import Case
from benchmarks.peers.jax_tools import versions
from benchmarks.peers.ours import config, experiment_of
from benchmarks.worker import Work
from diffusion.config.experiment import Experiment
from diffusion.data import MissingDataError
from diffusion.run.step import batches_of


def _experiment(case: Case, name: str) -> Experiment:
    if name == "array":
        return experiment_of(case, examples=8192)
    narrow = {"name": "unet", "channels": 8, "multipliers": (1,), "blocks": 1}  # it is not run
    sections = config(case, "") | {"network": narrow}
    return Experiment.from_config(sections | {"data": {"name": name, "batch_size": case.batch}})


def batches(case: Case, variant: str) -> Work:
    """Return the making of batches of a data set: NAME:made in this thread, NAME:placed as a run gets them.

    A run gets them from a thread that is up to two ahead, already on the devices.
    """
    name, how = variant.split(":")
    try:
        experiment = _experiment(case, name)
        experiment.dataset.batch(0, case.batch, seed=0)
    except MissingDataError as error:
        raise SystemExit(f"no data: {' '.join(str(error).split())}") from None
    facts = versions("demolish") | {"spec": dataclasses.asdict(experiment.spec)}
    run = _made(experiment) if how == "made" else _placed(experiment)
    return Work(run=run, facts=facts)


def _made(experiment: Experiment) -> Any:
    step = [0]

    def run(n: int) -> None:
        for _ in range(n):
            experiment.dataset.batch(step[0], experiment.batch_size, seed=0)
            step[0] += 1

    return run


def _placed(experiment: Experiment) -> Any:
    source = batches_of(experiment, 0, 10**9)

    def run(n: int) -> None:
        for _ in range(n):
            jax.block_until_ready(experiment.parallel.place_batch(next(source)))

    return run
