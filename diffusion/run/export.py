"""Export of a trained model to two files that other programs can read, and import into a new work directory.

    model.safetensors    the weights, named by their path in the tree: "Dense_0/kernel"
    model.json           config, data, step, average, versions; size and SHA-256 of the weights

Reading the files executes no code. A config may name code to import, however, such as "mymodule:MyProcess"; a config
from another source that does is refused unless the caller allows it.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion.checkpoints.checkpoint import Checkpoints
from diffusion.config.experiment import Experiment
from diffusion.config.identity import as_stored
from diffusion.config.sections import ConfigError
from diffusion.run.previous import record
from diffusion.run.trust import refuse_code
from diffusion.run.vetting import experiment_of, shapes_of
from diffusion.run.workdir import Workdir, open_run
from diffusion.runtime.digests import as_json, digest_of_file, digest_of_json
from diffusion.runtime.exits import CheckpointError, LockedError
from diffusion.runtime.files import MissingFileError, write_atomically
from diffusion.runtime.lock import Lock
from diffusion.runtime.provenance import provenance
from diffusion.runtime.reading import open_plain, read_json
from diffusion.runtime.tensors import read_header, read_tensors, write_tensors
from diffusion.training import TrainState

FORMAT = 1
KEYS = ("format", "weights", "config", "data", "step", "ema", "made_by")


def _named(params: Any) -> dict[str, Any]:
    """Return the leaves of a tree by path."""
    found = jax.tree_util.tree_leaves_with_path(params)
    named = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in found}
    if len(named) < len(found):
        raise ConfigError("two weights of this network have the same name; rename a layer.")
    return named


def _digest(card: Mapping[str, Any]) -> str:
    body = {k: v for k, v in card.items() if k != "self"}
    return digest_of_json(body)


def export_run(
    workdir: Workdir, out: Path, ema: str = "", step: int | None = None, *, allow_code: bool = False
) -> dict[str, Any]:
    """Write the weights of a checkpoint, and a description of them, to two files.

    Args:
        workdir: work directory of the run.
        out: file that ends in .safetensors; the description has the same name, ending in .json.
        ema: name of an average, "raw" for the weights themselves, "" for the first average.
        step: step of the checkpoint; None for the newest intact one.
        allow_code: allow the config of the run to import modules by name, which runs their code.

    Returns:
        The content of the JSON file.
    """
    config = workdir.read_config()
    # replaces a sampler that may need a table of variances
    sampling = {"sampler": {"name": "ddim"}}
    run = open_run(workdir, config | sampling, ema, step, allow_code=allow_code)
    tensors = {name: np.asarray(x) for name, x in _named(run.params).items()}
    digest = write_tensors(out, tensors, {"step": str(run.step), "ema": run.ema})
    card = {
        "format": FORMAT,
        "weights": {"file": out.name, "size": out.stat().st_size, "sha256": digest},
        "step": run.step,
        "ema": run.ema,
        "config": config,
        "data": dataclasses.asdict(run.experiment.spec),
        "made_by": provenance(),
    }
    card = as_json(card)
    card["self"] = _digest(card)
    write_atomically(out.with_suffix(".json"), (json.dumps(card, indent=2) + "\n").encode())
    return card


def read_card(path: Path) -> dict[str, Any]:
    """Read the JSON file that describes a file of weights, and check that the two belong together.

    Raises:
        MissingFileError: there is no file of weights.
        CheckpointError: the JSON file is missing or damaged, or belongs to other weights.
    """
    file = path.with_suffix(".json")
    try:
        card = read_json(file)
    except FileNotFoundError:
        if not path.is_file():
            raise MissingFileError(f"there is no file {path}.") from None
        raise CheckpointError(
            f"{path} has no {file.name} beside it, which says what its weights are: bring both files, or export again."
        ) from None
    except ValueError as error:
        raise CheckpointError(f"{error}.") from None
    if not isinstance(card, dict) or set(card) - {"self"} != set(KEYS):
        raise CheckpointError(f"{file} must have the entries {', '.join(KEYS)}.")
    if card["format"] != FORMAT:
        raise CheckpointError(f"{file} has format {str(card['format'])[:20]}, not {FORMAT}.")
    if "self" in card and card["self"] != _digest(card):
        raise CheckpointError(f"{file} is not what was written; if meant, delete its entry 'self'.")
    kinds = {
        "weights": dict,
        "config": dict,
        "data": dict,
        "step": int,
        "ema": str,
        "made_by": dict,
    }
    for key, kind in kinds.items():
        if type(card[key]) is not kind:
            raise CheckpointError(f"{file}: {key!r} has a value that it cannot have.")
    with open_plain(path, links=True) as content:
        size, digest = os.fstat(content.fileno()).st_size, card["weights"].get("sha256")
        same = size == card["weights"].get("size")
        same_bytes = same and digest_of_file(content) == digest
    if not same:
        raise CheckpointError(f"{path} has {size} bytes, not as many as {file} says.")
    if not same_bytes:
        raise CheckpointError(f"{path} is not what was written: its SHA-256 differs.")
    return card


def import_run(path: Path, workdir: Workdir, *, allow_code: bool = False) -> int:
    """Make a work directory from an exported model: step 0 of a new run, with these weights.

    The optimizer state is new, and every average starts at these weights; the run can be sampled, evaluated, and
    trained further with its config.

    Args:
        path: file that ends in .safetensors, next to its JSON file.
        workdir: work directory that does not exist, or is empty.
        allow_code: allow the config to import modules by name, which runs their code.

    Returns:
        The step that the weights had when they were exported.

    Raises:
        ConfigError: the work directory is not empty, or the config cannot be built or names code.
        CheckpointError: the files are damaged, or do not belong together.
    """
    if workdir.path.exists() and any(workdir.path.iterdir()):
        raise ConfigError(f"{workdir.path} is not empty; give another --workdir.")
    card = read_card(path)
    refuse_code(card["config"], str(path), allow_code=allow_code)
    workdir.path.parent.mkdir(parents=True, exist_ok=True)
    sweep_imports(workdir)
    made = Workdir(workdir.path.with_name(f".{workdir.path.name}.{os.getpid()}"))
    lock = Lock(made.path)
    lock.take()  # lets a later import see whether this process is still alive
    try:
        made.write("data.json", card["data"])
        experiment = experiment_of(as_stored(card["config"]), made.read_spec())
        state = _state_of(experiment, path)
        made.write("config.json", experiment.config)
        made.write("resolved.json", experiment.resolved())
        made.write(
            "run.json",
            provenance() | {"imported": {k: card[k] for k in ("step", "ema", "weights")}},
        )
        with Checkpoints(made.checkpoints, asynchronous=False) as checkpoints:
            checkpoints.save(0, state, experiment.config, block=True)
        record(made, 0)
        lock.release()
        made.path.replace(workdir.path)
    finally:
        shutil.rmtree(made.path, ignore_errors=True)
    return card["step"]


def sweep_imports(workdir: Workdir) -> None:
    """Delete leftovers of killed imports into a work directory; keep those of running processes."""
    left = re.compile(rf"\.{re.escape(workdir.path.name)}\.[0-9]+")
    for path in workdir.path.parent.iterdir():
        if left.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            # OSError: it belongs to another user, for instance
            with contextlib.suppress(LockedError, OSError):
                Lock(path).take()  # succeeds if its process is dead, or died before taking the lock
                shutil.rmtree(path, ignore_errors=True)


def _state_of(experiment: Experiment, path: Path) -> TrainState:
    """Return the state before the first step, with the weights of a file."""
    abstract = shapes_of(experiment, len(read_header(path)), str(path)).params
    named = read_tensors(path, {name: tuple(x.shape) for name, x in _named(abstract).items()})
    state = experiment.init_state()
    order = [named[name] for name in _named(abstract)]

    def fill(tree: Any) -> Any:
        leaves, structure = jax.tree.flatten(tree)
        return structure.unflatten(
            [jax.numpy.asarray(x, old.dtype) for x, old in zip(order, leaves, strict=True)]
        )

    averages = {name: fill(tree) for name, tree in state.ema.items()}
    return state._replace(params=fill(state.params), ema=averages)
