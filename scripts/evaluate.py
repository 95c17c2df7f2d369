"""Measure a trained run on held-out data.

Examples:
  python scripts/evaluate.py --workdir runs/digits
  python scripts/evaluate.py --workdir runs/digits --metrics loss_by_level,bits_per_dim,frechet --num_samples 5000
  python scripts/evaluate.py --workdir runs/digits --ema raw --config.sampler.name=heun

Every number is printed with the counts it was made from, and written with the sampler, the weights, the
versions and the command to WORKDIR/evaluation.json (or --out), metric by metric: after a kill or a signal the
same command measures what is missing. Generated examples are made once for all metrics; until the end they
lie in shards in EVALUATION.json.parts. --fresh measures all anew.
"""

import contextlib
import dataclasses
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import _command
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "The run to measure.")
flags.DEFINE_string("metrics", None, "Comma-separated names of metrics, in place of the config's.")
flags.DEFINE_integer("num_samples", None, "Generated examples, in place of the config's.")
flags.DEFINE_string(
    "ema", "", "Which average of the weights, or 'raw'; by default the config's first."
)
flags.DEFINE_integer("seed", 0, "Seed of all random numbers.")
flags.DEFINE_string("out", None, "Where to write the results; by default WORKDIR/evaluation.json.")
flags.DEFINE_bool("fresh", False, "Measure all anew, whatever was measured before.")


def main(overrides: list[tuple[str, str]]) -> int:
    """Measure, print and write."""
    if FLAGS.workdir is None:
        _command.fail("--workdir is required: the run to measure. See --help.")
    if FLAGS.num_samples is not None and FLAGS.num_samples < 2:
        _command.fail(f"--num_samples must be at least 2; got {FLAGS.num_samples}.")
    from diffusion.config import apply_overrides
    from diffusion.workdir import Workdir, open_run

    workdir = Workdir.of(FLAGS.workdir)
    short = [] if FLAGS.num_samples is None else [("evaluate.num_samples", str(FLAGS.num_samples))]
    config = apply_overrides(workdir.read_config(), short + overrides)
    if FLAGS.metrics is not None:
        names = [n.strip() for n in FLAGS.metrics.split(",") if n.strip()]
        config.setdefault("evaluate", {})["metrics"] = names
    out = Path(FLAGS.out) if FLAGS.out else workdir.path / "evaluation.json"
    _command.check_writable(out)
    count = config.get("evaluate", {}).get("num_samples", 1000)
    _command.use_all_cores(blocks=-(-count // 32) if isinstance(count, int) else 1)
    _command.use_compilation_cache(str(workdir.path))

    from diffusion import build
    from diffusion.training.stop import StopFlag, StopRequestedError

    with StopFlag() as stop:
        run = open_run(workdir, config, FLAGS.ema or config.get("evaluate", {}).get("ema", ""))
        metrics = {name: build("metric", name) for name in run.experiment.evaluate.metrics}
        file = results_file(out, run)
        there = {} if FLAGS.fresh else file.read()
        folder = out.with_name(f"{out.name}.parts")
        if FLAGS.fresh and folder.is_dir():
            shutil.rmtree(folder)
        try:
            measure(metrics, there, run, file, folder, stop)
        except StopRequestedError:
            left = [name for name in metrics if name not in there]
            print(
                f"stopped by {stop.received.name}: {', '.join(left)} not measured yet; the same command goes on.",
                file=sys.stderr,
                flush=True,
            )
            return 128 + stop.received
    if folder.is_dir():
        shutil.rmtree(folder)
    _command.say(f"wrote {out}")
    return 0


def measure(metrics: Any, there: Any, run: Any, file: Any, folder: Path, stop: Any) -> None:
    """Measure what is missing from `there`, write after every metric, and print all."""
    from diffusion.training.faults import reach
    from diffusion.training.stop import StopRequestedError

    def poll() -> None:
        if stop.received is not None:
            raise StopRequestedError

    subject = watched(run.experiment.subject(run.params, FLAGS.seed), folder, file.made_of, poll)
    for name, metric in metrics.items():
        poll()
        kept = name in there
        _command.say(f"{name} ..." + (" measured before (--fresh: anew)" if kept else ""))
        if not kept:
            there[name] = metric(subject)
            reach("in_eval")
            file.write(there)
        for key, value in there[name].items():
            show(key, value)


def results_file(out: Path, run: Any) -> Any:
    """Return the file of the results, which knows what they are made of."""
    from diffusion.evaluation.records import digest_of
    from diffusion.evaluation.results import ResultsFile
    from diffusion.training.progress import Terminal
    from diffusion.workdir import provenance

    unseen = ("metrics",)  # a list of names says nothing about each
    config = run.experiment.resolved()
    config["evaluate"] = {k: v for k, v in config["evaluate"].items() if k not in unseen}
    config["data"] = {k: v for k, v in config["data"].items() if k != "data_dir"}
    card, seen = provenance(), {"step": run.step, "ema": run.ema, "seed": FLAGS.seed}
    made_of = {
        **seen, "weights_sha256": digest_of(run.params),
        "variance_sha256": digest_of(run.experiment.variance), "commit": card["commit"],
        "made_by": _command.versions(),
        "config": {k: v for k, v in config.items() if k not in ("parallel", "optimizer", "train")},
    }  # fmt: skip
    whole = {**seen, "config": run.experiment.resolved(), **card}
    return ResultsFile(path=out, made_of=made_of, card=whole, say=Terminal(sys.stderr).say)


def watched(subject: Any, folder: Path, made_of: Any, poll: Callable[[], None]) -> Any:
    """Return a subject that heeds signals, and whose generated examples are made once and kept in shards."""
    import numpy as np

    from diffusion.evaluation.shards import ArrayShards, ShardsError
    from diffusion.training.progress import Terminal
    from diffusion.training.stop import StopRequestedError

    shards = ArrayShards(folder=folder, manifest=made_of, size=1024, say=Terminal(sys.stderr).say)

    def stopping() -> bool:
        try:
            poll()
        except StopRequestedError:
            return True
        return False

    def make(first: int, count: int) -> Iterator[np.ndarray]:
        return subject.generate(count, first)

    def generate(count: int) -> Iterator[np.ndarray]:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(shards.opened())
            except ShardsError:  # what an evaluation of something else left behind
                shutil.rmtree(folder)
                stack.enter_context(shards.opened())
            shards.fill(0, count, make, stopping, _command.progress("generating", count))
            poll()
            yield from shards.read(0, count)

    sets = {k: watched_data(getattr(subject, k), poll) for k in ("train", "held_out")}
    return dataclasses.replace(subject, generate=generate, **sets)


def watched_data(dataset: Any, poll: Callable[[], None]) -> Any:
    """Return a data set that asks for signals before every batch."""
    from diffusion.data import Dataset

    class Watched(Dataset):
        spec = property(lambda self: dataset.spec)

        def batch(self, *given: Any, **named: Any) -> Any:
            poll()
            return dataset.batch(*given, **named)

        def examples(self, start: int, count: int) -> Any:
            poll()
            return dataset.examples(start, count)

    return Watched()


def show(key: str, value: object) -> None:
    """Print one result for people."""
    if isinstance(value, list):
        names = list(value[0])
        _command.say(f"  {key}: {', '.join(names)}")
        for row in value:
            first, *rest = (row[name] for name in names)
            cells = [f"{v:10.5f}" if isinstance(v, float) else f"{v:6d}" for v in rest]
            _command.say(f"    {first:8.2f}  {'  '.join(cells)}")
    elif isinstance(value, dict):
        inner = ", ".join(
            f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items()
        )
        _command.say(f"  {key}: {inner}")
    else:
        _command.say(f"  {key}: {value:.4f}" if isinstance(value, float) else f"  {key}: {value}")


if __name__ == "__main__":
    _command.run(main, __doc__)
