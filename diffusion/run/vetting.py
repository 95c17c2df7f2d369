"""Checks of a stored config from an untrusted source against the data stored with it, before it is used."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusion.config.experiment import Experiment
from diffusion.config.identity import differences
from diffusion.data import DataSpec
from diffusion.networks.base import TooManyLayersError, layers_within
from diffusion.runtime.exits import CheckpointError
from diffusion.training import TrainState

MOST_VALUES = 2**28  # largest number of values of an example
MOST_WIDTH, MOST_LEVELS = 2**20, 1000  # largest width and number of levels of a network
MOST_LAYERS = 20_000  # largest number of layers, before the number of stored arrays is known


def checked_spec(spec: DataSpec) -> DataSpec:
    """Return a stored data spec; raise ValueError if it is impossible."""
    classes = spec.num_classes if isinstance(spec.num_classes, tuple) else (spec.num_classes,)
    counts = (*classes, spec.multi_hot_dim, spec.vector_dim, spec.image_channels, spec.size or 0)
    natural = lambda n: type(n) is int and 0 <= n < 2**53
    shaped = isinstance(spec.shape, tuple) and all(map(natural, spec.shape)) and 0 not in spec.shape
    if not shaped or not all(map(natural, counts)) or not isinstance(spec.class_names, tuple):
        raise ValueError("shape, classes and counts must be whole numbers")
    if (
        math.prod(spec.shape) * max(1, spec.image_channels) > MOST_VALUES
        or max(counts[:-1]) > MOST_VALUES
    ):
        raise ValueError(f"an example has more than {MOST_VALUES} values")
    return spec


def experiment_of(config: Mapping[str, Any], spec: DataSpec | None) -> Experiment:
    """Build the experiment of an untrusted config; see `Experiment.from_config`.

    Raises:
        CheckpointError: its network is implausibly large.
    """
    _check_size(config.get("network"), "config.network")
    try:
        with layers_within(MOST_LAYERS):
            return Experiment.from_config(config, spec)
    except TooManyLayersError as error:
        raise CheckpointError(f"config.network: {error}.") from None


def _check_size(value: Any, path: str) -> None:
    """Raise CheckpointError for sizes that would allocate large tables before any layer is counted."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            _check_size(inner, f"{path}.{str(key)[:40]}")
    elif isinstance(value, list | tuple):
        if len(value) > MOST_LEVELS:
            raise CheckpointError(f"{path} has {len(value)} entries, more than {MOST_LEVELS}.")
        for inner in value:
            _check_size(inner, path)
    elif isinstance(value, int | float) and abs(value) > MOST_WIDTH and abs(value) != math.inf:
        raise CheckpointError(f"{path} is {value:.3g}; no width or depth is above {MOST_WIDTH}.")


def shapes_of(experiment: Experiment, arrays: int, where: str) -> TrainState:
    """Return shapes and dtypes of the state of an untrusted config.

    Args:
        experiment: experiment of the config.
        arrays: number of stored parameter arrays, which bounds the number of layers that are traced.
        where: source of the config, for the message.

    Raises:
        CheckpointError: its network has far more layers than there are arrays.
    """
    try:
        with layers_within(64 + 8 * arrays):
            return experiment.abstract_state()
    except TooManyLayersError:
        raise CheckpointError(
            f"the network in the config of {where} has more layers than the {arrays} stored arrays can fill."
        ) from None


def refuse_mislabeled(folder: Path, config: Mapping, trained: Mapping, step: int) -> None:
    """Raise CheckpointError if config.json of a folder differs from the config that its checkpoint was trained with.

    Raises:
        CheckpointError: the message lists the differences.
    """
    if changed := differences(trained, config):
        raise CheckpointError(
            f"config.json in {folder} is not that of step {step} ({'; '.join(changed)[:500]}). Restore it."
        )
