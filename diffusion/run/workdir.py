"""A work directory: the files of a run, and opening a run from them.

config.json     the config that the run was started with
resolved.json   the config with all defaults filled in
data.json       description of the data: shape, classes, range; sufficient for sampling
run.json        command, versions, device, and outcome of the run
metrics.jsonl   one line of metrics per logging period; damaged lines are moved to metrics.jsonl.damaged
bad_steps/      reports about skipped steps
rollbacks.json  rollbacks after too many non-finite steps
checkpoints/    train states
newest.json     step of the newest completed checkpoint
samples/        grids of generated examples
variance.npz    posterior variances of a checkpoint, from `demolish estimate_variance`
evaluation.json results of `demolish evaluate`, with a card for every number, and pictures
report.html     report of the results, with the training curves
lock.json       the process that is training here
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
    """Read a JSON file from a possibly untrusted source."""
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
        """Return the config of the run, with old defaults filled in for fields whose default has changed since.

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
        """Return the description of the run's data; None if it was not recorded.

        Raises:
            ConfigError: the file is damaged.
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
        """Write a JSON file atomically."""
        write_atomically(
            self.path / name, (json.dumps(content, indent=2, default=str) + "\n").encode()
        )

    def claim(self, config: Mapping) -> bool:
        """Return whether the folder holds a run of this config, to be resumed; refuse a run of another config.

        Raises:
            ConfigError: the config of the run differs in fields that must not change.
        """
        if not check_plain(self.path / "config.json"):
            return False
        self.refuse_another(self.read_config(), config)
        return True

    def refuse_another(self, old: Mapping, new: Mapping) -> None:
        """Refuse to resume with a config that differs in fields that must not change.

        Raises:
            ConfigError: the message lists the differences.
        """
        if changed := differences(old, new):
            raise ConfigError(
                f"{self.path} holds a run of another config ({'; '.join(changed)}). Give another "
                "--workdir, the config it was started with, or --restart to move the old run aside."
            )

    def sweep(self) -> None:
        """Delete temporary files of dead processes; only the owner of the folder may call this."""
        # the second pattern is the lock of earlier versions
        mark = re.compile(r".*(\.[0-9]+\.tmp|\.json(\..*)?\.[0-9]+)")
        for folder in (self.path, self.samples, self.path / "bad_steps"):
            for file in folder.glob(".*"):
                if mark.fullmatch(file.name):
                    file.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """An opened run: its experiment, its parameters and their source."""

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
    """Open a checkpoint of a run, on any number of devices.

    No file is written; a warning on standard error names damaged newer checkpoints.

    Args:
        workdir: work directory of the run.
        config: its config, possibly with other sampling sections.
        ema: name of an average, "raw" for the parameters themselves, "" for the first average.
        step: step of the checkpoint; None for the newest intact one.
        allow_code: allow the stored config to import modules by name, which runs their code; otherwise only those
            recorded by this user's own training.

    Raises:
        ConfigError: the config differs in fields that the checkpoint depends on, or names code, or the average is
            unknown.
        CheckpointError: there is no checkpoint, none is intact, or the newest does not fit the config, or was trained
            with a config other than that of the folder.
    """
    from diffusion.checkpoints.reader import CheckpointReader
    from diffusion.runtime.progress import Terminal

    stored = workdir.read_config()
    refuse_code(stored, str(workdir.path), used=config, allow_code=allow_code)
    _refuse_other(stored, config, [key for key in PARAMETERS if key != "data"])
    experiment = experiment_of(config, workdir.read_spec())
    # by now the classes of trusted modules are imported, so that their fields are known
    _refuse_other(stored, config, ["data"])
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
    """Raise ConfigError if these sections differ from the config that a checkpoint was trained with."""
    kept = [line for line in differences(old, new, keys) if not line.startswith("data.batch_size")]
    if kept:
        raise ConfigError(f"the checkpoint was trained with another {'; '.join(kept)}.")


def open_classifier(
    path: str | os.PathLike[str], ema: str = "", *, allow_code: bool = False
) -> TrainedClassifier:
    """Open the newest checkpoint of a classifier.

    Args:
        path: work directory of the classifier.
        ema: name of an average, "raw" for the parameters themselves, "" for the first average.
        allow_code: as in `open_run`.

    Raises:
        ConfigError: there is no run, or its task is not a classifier.
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
