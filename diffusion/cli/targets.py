"""Targets of `demolish evaluate`: a run in its work directory, or examples in a file, and their card entries."""

import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffusion.cli.machine import versions
from diffusion.cli.messages import fail, progress

CONFIG_ONLY = ("metrics", "trend_every", "trend_samples", "trend_metrics")  # affect no metric


@dataclass(kw_only=True)
class Target:
    """Subject of an evaluation, with the entries that its cards share.

    Attributes:
        inputs: inputs of the metrics; reading its examples or data checks for signals.
        title: title of the report.
        made_of: everything that the results depend on.
        about: further information for the report.
        model: card entry of the model; None for examples from a file.
        generated: function from a number of examples to the card entry that describes them.
        read: read(first, count) returns examples that exist already, as those of a metric that was just measured.
        requested: numbers of examples that metrics have requested.
    """

    inputs: Any
    title: str
    made_of: Mapping[str, Any]
    about: Mapping[str, Any]
    model: Mapping[str, Any] | None
    generated: Callable[[int], Mapping[str, Any]]
    read: Callable[[int, int], Any]
    requested: list[int] = field(default_factory=list)

    def card(self, metric: Any) -> dict[str, Any]:
        """Return the card of a metric that was just measured."""
        from diffusion.evaluation.cards import make_card

        about = {k: self.about[k] for k in ("versions", "python", "device", "devices", "commit")}
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        return make_card(
            metric.card(self.inputs), seed=self.inputs.seed, model=self.model,
            generated=self.generated(max(self.requested)) if self.requested else None,
            made_by={**about, "date": now, "command": " ".join(map(str, self.about["command"]))},
        )  # fmt: skip


def metrics_of(given: Any) -> dict[str, Any]:
    """Build metrics; the keys are their names on the command line."""
    from diffusion.evaluation.metrics import parse, written
    from diffusion.registry import build

    specs = [parse(one) for one in given]
    return {written(spec): build("metric", spec) for spec in specs}


def versions_of(made_of: Mapping[str, Any]) -> dict[str, Any]:
    """Add versions and devices to a description of everything that results depend on."""
    return {**made_of, "made_by": versions()}


# ---- a run --------------------------------------------------------------------------------------


def of_run(run: Any, seed: int, folder: Path, poll: Callable[[], None], stop: Any) -> Target:
    """Return the target of a trained run; examples are generated once and kept in shards in `folder`."""
    from diffusion.config.identity import config_digest, without_places
    from diffusion.runtime.digests import digest_of
    from diffusion.runtime.provenance import provenance

    config, card = run.experiment.resolved(), provenance()
    seen = {"step": run.step, "ema": run.ema, "seed": seed}
    weights = digest_of(run.params)
    kept = without_places(config)
    kept = {k: v for k, v in kept.items() if k not in ("parallel", "optimizer", "train")}
    kept["evaluate"] = {k: v for k, v in config["evaluate"].items() if k not in CONFIG_ONLY}
    made_of = versions_of({
        **seen, "weights_sha256": weights, "variance_sha256": digest_of(run.experiment.variance),
        "commit": card["commit"], "config": kept,
    })  # fmt: skip
    model = {
        "step": run.step, "ema": run.ema, "weights_sha256": weights, "config_sha256": config_digest(config),
        "data": config["data"]["name"], "process": config["process"]["name"],
        "network": config["network"]["name"],
    }  # fmt: skip
    requested: list[int] = []
    inputs, read = _with_shards(
        run.experiment.eval_inputs(run.params, seed), folder, made_of, poll, stop, requested
    )
    names = [str(model[k]) for k in ("data", "process", "network")]
    return Target(
        inputs=inputs, title=f"{names[0]}: {names[1]}, {names[2]}", made_of=made_of,
        about={**seen, "config": config, **card}, model=model, read=read, requested=requested,
        generated=_recipe(run, config),
    )  # fmt: skip


def _recipe(run: Any, config: Mapping[str, Any]) -> Callable[[int], dict[str, Any]]:
    """Return the function `generated` of a run; the NFE is counted once, on the first call."""
    import functools

    import numpy as np

    from diffusion.evaluation.counting import evaluations_per_example

    e = run.experiment

    @functools.cache
    def evaluations() -> int | str:
        found = evaluations_per_example(
            e.sampler, e.process, e.network, lambda n, c: e.replaced(network=n).model(run.params, c),
            e.spec.shape, e.times(), e.conditions_in_turn(np.arange(1)),
        )  # fmt: skip
        return "adaptive" if found is None else found

    def made(count: int) -> dict[str, Any]:
        grid = {k: v for k, v in config["grid"].items() if k != "num_steps"}
        return {
            "count": count, "sampler": config["sampler"], "grid": grid, "num_steps": e.num_steps,
            "nfe": evaluations(), "guidance": config["guidance"],
        }  # fmt: skip

    return made


def _with_shards(
    inputs: Any, folder: Path, made_of: Any, poll: Callable, stop: Any, requested: list[int]
) -> tuple[Any, Callable[[int, int], Any]]:
    """Return inputs that check for signals and keep generated examples in shards, and a function to read those."""
    import contextlib

    import numpy as np

    from diffusion.evaluation.shards import ArrayShards, ShardsError
    from diffusion.runtime.progress import Terminal

    shards = ArrayShards(folder=folder, manifest=made_of, size=1024, say=Terminal(sys.stderr).say)

    def make(first: int, count: int) -> Iterator[np.ndarray]:
        return inputs.generate(count, first)

    def generate(count: int) -> Iterator[np.ndarray]:
        requested.append(count)
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(shards.opened())
            except ShardsError:  # left behind by an evaluation of another model or config
                shutil.rmtree(folder)
                stack.enter_context(shards.opened())
            stopping = lambda: stop.received is not None
            shards.fill(0, count, make, stopping, progress("generating", count))
            poll()
            yield from shards.read(0, count)

    def read(first: int, count: int) -> Any:
        return np.concatenate(list(shards.read(first, first + count)))

    sets = {k: _watched(getattr(inputs, k), poll) for k in ("train", "held_out")}
    return dataclasses.replace(inputs, generate=generate, **sets), read


# ---- examples from a file -----------------------------------------------------------------------


def of_examples(
    path: Path, config: Mapping[str, Any], seed: int, num_samples: int | None, poll: Callable
) -> Target:
    """Return the target of examples in a folder or a file, to be compared with the data set of a config.

    Raises:
        ValueError: an example does not fit the data set, or there are fewer than `num_samples`.
    """
    import numpy as np

    from diffusion.config.build import dataset_of, options
    from diffusion.config.identity import without_places
    from diffusion.config.sections import EvaluateOptions, section_of
    from diffusion.evaluation.metrics import EvalInputs
    from diffusion.evaluation.sources import open_examples
    from diffusion.runtime.provenance import provenance

    dataset, evaluate = (
        dataset_of(config),
        options(EvaluateOptions, "evaluate", config.get("evaluate", {})),
    )
    examples = open_examples(path, dataset.spec)
    count = examples.count if num_samples is None else num_samples
    if count > examples.count:
        raise ValueError(f"--num_samples {count}: {path} holds {examples.count} examples.")
    requested: list[int] = []

    def generate(count: int, first: int = 0) -> Iterator[np.ndarray]:
        requested.append(count)
        for x in examples.read(count, first):
            poll()
            yield x

    inputs = EvalInputs(
        generate=generate, train=_watched(dataset, poll), held_out=_watched(dataset.held_out(), poll),
        num_samples=count, batch_size=evaluate.batch_size, seed=seed,
    )  # fmt: skip
    data = section_of(without_places(config), "data")
    data = {k: v for k, v in data.items() if k != "batch_size"}
    card = provenance()
    found = {k: v for k, v in examples.card().items() if k != "from"}
    made_of = {"examples": found, "num_samples": count, "data": data, "seed": seed}
    made_of["commit"] = card["commit"]
    return Target(
        inputs=inputs, title=f"{path.name} against {data['name']}", made_of=versions_of(made_of),
        about={"seed": seed, "examples": examples.card(), "data": data, **card}, model=None, requested=requested,
        generated=lambda count: {"count": count, **examples.card()},
        read=lambda first, count: np.concatenate(list(examples.read(count, first))),
    )  # fmt: skip


def refuse_those_of_runs(metrics: Mapping[str, Any]) -> None:
    """Exit with a message if a metric needs a model, not only examples."""
    needing = [name for name, metric in metrics.items() if metric.needs_run]
    if needing:
        fail(
            f"{', '.join(needing)} cannot be measured on examples alone: they need the model, or the labels that the "
            "examples were generated for. Give --workdir, or other --metrics."
        )


def _watched(dataset: Any, poll: Callable[[], None]) -> Any:
    """Return a data set that checks for signals before every batch."""
    from diffusion.data import Dataset

    class Watched(Dataset):
        wrapped = dataset  # read by reference statistics, which need the original data set
        spec = property(lambda self: dataset.spec)

        def batch(self, *given: Any, **named: Any) -> Any:
            poll()
            return dataset.batch(*given, **named)

        def examples(self, start: int, count: int) -> Any:
            poll()
            return dataset.examples(start, count)

        def held_out(self) -> Any:
            return _watched(dataset.held_out(), poll)

    return Watched()
