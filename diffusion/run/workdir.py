"""A work directory: what a run leaves behind, and how others open it.

config.json     the config as it was given
resolved.json   the same with every default written out
data.json       what the data is: shape, classes, range; sampling needs no more of it
run.json        command, versions, device, and how the run went
metrics.jsonl   one line of metrics per logging period; damaged ones go to metrics.jsonl.damaged
bad_steps/      reports of steps that did not count
rollbacks.json  where the run went back to after many of them
checkpoints/    states
newest.json     the step of the newest of them that was completed
samples/        grids of generated examples
variance.npz    posterior variances of a checkpoint, from `demolish estimate_variance`
evaluation.json what `demolish evaluate` measured, with a card for every number; pictures beside it
report.html     the same for people, with the curves of training
lock.json       the process that trains here, while it does
earlier-1/      an earlier run, moved aside by --restart
"""

import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusion.config.experiment import Experiment
from diffusion.config.identity import as_stored, differences
from diffusion.config.sections import PARAMETERS, ConfigError
from diffusion.data import DataSpec
from diffusion.evaluation import replicated
from diffusion.registry import nearest
from diffusion.run.guides import TrainedClassifier
from diffusion.run.trust import refuse_code
from diffusion.run.variance_file import read_variance
from diffusion.run.vetting import checked_spec, experiment_of, refuse_mislabeled, shapes_of
from diffusion.runtime.exits import CheckpointError
from diffusion.runtime.files import located, write_atomically
from diffusion.runtime.reading import check_plain, read_json
from diffusion.types import Params


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _json(file: Path) -> Any:
    """Read a JSON file that may come from anywhere."""
    try:
        return read_json(file)
    except ValueError as error:
        raise ConfigError(str(error)) from None


@dataclass(frozen=True)
class Workdir:
    """The paths of one run."""

    path: Path

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> "Workdir":
        """Return the work directory at a path, which need not exist."""
        return cls(located(path))

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.path / "checkpoints"

    @property
    def samples(self) -> Path:
        """The folder of the sample grids."""
        return self.path / "samples"

    @property
    def metrics(self) -> Path:
        """The file of metrics."""
        return self.path / "metrics.jsonl"

    @property
    def variance(self) -> Path:
        """The file of posterior variances."""
        return self.path / "variance.npz"

    def read_config(self) -> dict[str, Any]:
        """Return the config of the run; it says what it meant where defaults have changed since.

        Raises:
            ConfigError: there is no run, or its config is not readable.
        """
        file = self.path / "config.json"
        if not check_plain(file):
            raise ConfigError(
                f"no run in {self.path}: config.json is missing. Train one with `demolish train --workdir`."
            )
        config = _json(file)
        if not isinstance(config, dict):
            raise ConfigError(f"{file} holds no sections.")
        return as_stored(config)

    def read_spec(self) -> DataSpec | None:
        """Return what the data of the run is, if that was written down.

        Raises:
            ConfigError: the file cannot be understood.
        """
        file = self.path / "data.json"
        if not check_plain(file):
            return None
        fields = _json(file)
        try:
            for key in ("shape", "num_classes", "class_names"):  # JSON has lists for tuples
                fields[key] = _tuples(fields[key])
            return checked_spec(DataSpec(**fields))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise ConfigError(f"{file} does not describe data: {error}") from None

    def write(self, name: str, content: Mapping | Sequence) -> None:
        """Write a JSON file, whole or not at all."""
        write_atomically(
            self.path / name, (json.dumps(content, indent=2, default=str) + "\n").encode()
        )

    def claim(self, config: Mapping) -> bool:
        """Say whether a run of this config is being resumed; refuse a folder of another config.

        Raises:
            ConfigError: the folder holds a run that differs in what must not change.
        """
        if not check_plain(self.path / "config.json"):
            return False
        self.refuse_another(self.read_config(), config)
        return True

    def refuse_another(self, old: Mapping, new: Mapping) -> None:
        """Refuse to go on with a config that differs in what must not change.

        Raises:
            ConfigError: the message says in what.
        """
        if changed := differences(old, new):
            raise ConfigError(
                f"{self.path} holds a run of another config ({'; '.join(changed)}). Give another "
                "--workdir, the config it was started with, or --restart to move the old run aside."
            )

    def sweep(self) -> None:
        """Delete temporary files of processes that died; only the owner may."""
        mark = re.compile(
            r".*(\.[0-9]+\.tmp|\.json(\..*)?\.[0-9]+)"
        )  # second: a lock, earlier versions
        for folder in (self.path, self.samples, self.path / "bad_steps"):
            for file in folder.glob(".*"):
                if mark.fullmatch(file.name):
                    file.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A run that was opened for use: its experiment, parameters and where they come from."""

    experiment: Experiment
    params: Params
    step: int
    ema: str


def open_run(
    workdir: Workdir,
    config: Mapping[str, Any],
    ema: str = "",
    step: int | None = None,
    *,
    allow_code: bool = False,
) -> Trained:
    """Open a checkpoint of a run, on whatever devices there are.

    Nothing is written; a line on standard error says if a newer one is damaged.

    Args:
        workdir: where the run was trained.
        config: its config, perhaps with other sampling sections.
        ema: the name of an average, "raw" for the parameters themselves, "" for the first average.
        step: of the checkpoint; the newest that is whole if it is None.
        allow_code: let the stored config import modules by name, which runs their code; without it only those
            that this user's own training has recorded.

    Raises:
        ConfigError: the config differs in what the checkpoint depends on, or names code, or the average is unknown.
        CheckpointError: there is no checkpoint, none is whole, or the newest does not fit the config, or was trained
            with another one than the folder's.
    """
    from diffusion.checkpoints.reader import CheckpointReader
    from diffusion.runtime.progress import Terminal

    stored = workdir.read_config()
    refuse_code(stored, str(workdir.path), used=config, allow_code=allow_code)
    _refuse_other(stored, config, [key for key in PARAMETERS if key != "data"])
    experiment = experiment_of(config, workdir.read_spec())
    _refuse_other(
        stored, config, ["data"]
    )  # now classes from elsewhere are loaded, and tell their fields
    names = [*experiment.ema, "raw"]
    ema = ema or names[0]
    if ema not in names:
        known = ", ".join(names)
        raise ConfigError(f"`ema` must be one of {known}; got {ema!r}.{nearest(ema, names)}")
    with CheckpointReader(workdir.checkpoints, say=Terminal(sys.stderr).say) as checkpoints:
        step = checkpoints.recover() if step is None else step
        if step is None:
            raise CheckpointError(f"{workdir.checkpoints} has no complete checkpoint; train on.")
        refuse_mislabeled(workdir.path, stored, checkpoints.meta(step)["config"], step)
        abstract = shapes_of(experiment, checkpoints.count_arrays(step), str(workdir.path))
        like = abstract.params if ema == "raw" else abstract.ema[ema]
        params = replicated(checkpoints.restore_params(step, None if ema == "raw" else ema, like))
    if "analytic" in experiment.variances:
        table = read_variance(workdir.variance, experiment, step, ema)
        experiment = experiment.replaced(variance=table)
    return Trained(experiment=experiment, params=params, step=step, ema=ema)


def _refuse_other(old: Mapping, new: Mapping, keys: Sequence[str]) -> None:
    """Raise ConfigError where these sections are not what a checkpoint was trained with."""
    kept = [line for line in differences(old, new, keys) if not line.startswith("data.batch_size")]
    if kept:
        raise ConfigError(f"the checkpoint was trained with another {'; '.join(kept)}.")


def open_classifier(
    path: str | os.PathLike[str], ema: str = "", *, allow_code: bool = False
) -> TrainedClassifier:
    """Open the newest checkpoint of a classifier.

    Args:
        path: the work directory that it was trained in.
        ema: the name of an average, "raw" for the parameters themselves, "" for the first average.
        allow_code: as of `open_run`.

    Raises:
        ConfigError: there is no run, or it trained something else.
        CheckpointError: there is no checkpoint.
    """
    workdir = Workdir.of(path)
    config = workdir.read_config()
    task = config.get("task", "generator")
    if task == "generator":
        raise ConfigError(
            f"{workdir.path} holds a generator, not a classifier; train one, as configs/digits_classifier.py does."
        )
    run = open_run(workdir, config, ema, allow_code=allow_code)
    return TrainedClassifier(
        experiment=run.experiment,
        params=run.params,
        step=run.step,
        ema=run.ema,
        where=str(workdir.path),
    )
