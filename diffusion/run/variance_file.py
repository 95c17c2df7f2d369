"""Tables of posterior variances, from `demolish estimate_variance`, in the work directory of their run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.config.experiment import Experiment
from diffusion.config.sections import ConfigError
from diffusion.models.variance import WithVariance, with_variance
from diffusion.runtime.npz import read_arrays, save_arrays
from diffusion.runtime.reading import check_plain, parse_json


def write_variance(path: Path, times: np.ndarray, values: np.ndarray, card: Mapping) -> None:
    """Write a table of posterior variances and its card atomically.

    Args:
        path: an .npz file.
        times: (levels,).
        values: from `diffusion.models.variance.estimate_variance` at these times.
        card: step, ema and process of the model, and provenance of the numbers.
    """
    save_arrays(path, {"times": times, "values": values}, card)


def read_variance(file: Path, experiment: Experiment, step: int, ema: str) -> WithVariance:
    """Read the table of posterior variances that belongs to a checkpoint, from the work directory of its run.

    Raises:
        ConfigError: there is no table, or it was made from other weights or for another process; the message
            contains the command that makes it.
    """
    command = f"demolish estimate_variance --workdir {file.parent} --ema {ema}"
    if not check_plain(file):
        raise ConfigError(
            f"variance='analytic' needs a table of variances; {file} does not exist. Make it: {command}"
        )
    try:
        arrays = read_arrays(file, ("times", "values", "card"), links=False)
        times, values = arrays["times"], arrays["values"]
        card = parse_json(str(arrays["card"]).encode(), file)
        made, process = (card["step"], card["ema"]), card["process"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} is damaged ({str(error)[:200]}). Make it anew: {command}"
        ) from None
    wanted = (step, ema)
    if made != wanted:
        raise ConfigError(
            f"{file} belongs to step {made[0]}, weights {made[1]}, not {step}, {ema}. Make it anew: {command}"
        )
    if process != experiment.resolved()["process"]:
        raise ConfigError(f"{file} belongs to another process. Make it anew: {command}")
    affine: Any = experiment.process
    return with_variance(None, affine, times, values)
