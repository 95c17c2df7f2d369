r"""Measure a trained run, or examples in a folder or a file, against held-out data.

Examples:
  python scripts/evaluate.py --workdir runs/digits
  python scripts/evaluate.py --workdir runs/digits --num_samples 5000 \
      --metrics 'frechet[classifier],kid[pixels],precision_recall[classifier],memorisation,bits_per_dim'
  python scripts/evaluate.py --workdir runs/digits --ema raw --config.sampler.name=heun
  python scripts/evaluate.py --images samples.npz --data digits
  python scripts/evaluate.py --images my_pictures --config configs/fashion_mnist.py
  python scripts/evaluate.py --compare runs/a runs/b
  python scripts/evaluate.py --workdir runs/digits --report_only

Every number is printed with its card in one line, and written with the whole card to WORKDIR/evaluation.json (or
--out), metric by metric: after a kill or a signal the same command measures what is missing. Generated examples
are made once for all metrics; until the end they lie in shards in EVALUATION.json.parts. --fresh measures all
anew. At the end a page for people is written, WORKDIR/report.html, or --out with the suffix .html. A metric that
cannot be measured is told and left out; the exit code is then that of the first such error.

--images takes a folder of pictures, an .npz or an .npy, against the data set of --data or --config; metrics that
need a model are refused. --compare takes two work directories or files of results, and says of each number by how
much they differ, or why they may not be compared.
"""

import shutil
import sys
from pathlib import Path
from typing import Any

import _command
import _report
from _errors import exits, tell
from absl import flags
from ml_collections import config_flags

FLAGS = flags.FLAGS
config_flags.DEFINE_config_file(
    "config",
    None,
    "With --images: the config whose data the examples are compared with.",
    lock_config=False,
    sys_argv=[],  # _command applies the overrides
)
flags.DEFINE_string("workdir", None, "The run to measure.")
flags.DEFINE_string("images", None, "Examples to measure: a folder of pictures, an .npz or .npy.")
flags.DEFINE_string("data", None, "With --images: the data set by name, in place of --config.")
flags.DEFINE_multi_string("compare", None, "Two work directories or files of results.")
flags.DEFINE_bool("verbose", False, "With --compare: also show what agrees.")
flags.DEFINE_bool("report_only", False, "Measure nothing; write the page of what there is.")
flags.DEFINE_string("metrics", None, "Comma-separated metrics, in place of the config's.")
flags.DEFINE_integer("num_samples", None, "Generated examples, in place of the config's.")
_command.define_weights()
flags.DEFINE_integer("seed", 0, "Seed of all random numbers.")
flags.DEFINE_string(
    "out",
    None,
    "Where to write the results; by default WORKDIR/evaluation.json, of a --step evaluation-STEP.json.",
)
flags.DEFINE_bool("fresh", False, "Measure all anew, whatever was measured before.")


def main(overrides: list[tuple[str, str]]) -> int:
    """Compare, report, or measure, print and write."""
    check_flags()
    if FLAGS.compare:
        return _report.compare(*map(Path, FLAGS.compare), FLAGS.verbose)
    out = out_of()
    _command.check_writable(out)
    if FLAGS.report_only:
        _command.say(f"wrote {_report.write(out, FLAGS.workdir)}")
        return 0
    config = config_of(overrides)
    count = config.get("evaluate", {}).get("num_samples", 1000)
    _command.use_fixed_sums()
    _command.use_all_cores(blocks=-(-count // 32) if isinstance(count, int) else 1)
    if FLAGS.workdir is not None:
        _command.use_compilation_cache()
    return measured(out, config)


def check_flags() -> None:
    """Check what can be checked before anything is loaded."""
    given = [f"--{k}" for k in ("workdir", "images", "compare") if getattr(FLAGS, k)]
    if len(given) > 1:
        _command.fail(f"give one of --workdir, --images and --compare; got {', '.join(given)}.")
    if not given:
        _command.fail("--workdir is required: the run to measure; or --images, or --compare. See --help.")  # fmt: skip
    if FLAGS.compare and len(FLAGS.compare) != 2:
        _command.fail(f"--compare takes two results: --compare A B; got {len(FLAGS.compare)}.")
    if FLAGS.num_samples is not None and FLAGS.num_samples < 2:
        _command.fail(f"--num_samples must be at least 2; got {FLAGS.num_samples}.")
    if FLAGS.images and bool(FLAGS.data) == (FLAGS.config is not None):
        _command.fail("--images needs what to compare with: one of --data NAME and --config FILE.")
    if not FLAGS.images and (FLAGS.data or FLAGS.config is not None):
        _command.fail("--data and --config go with --images; a run has its own.")


def out_of() -> Path:
    """Return where the results go."""
    from diffusion.runtime.files import located

    if FLAGS.out:
        return Path(FLAGS.out)
    if FLAGS.images:
        images = located(FLAGS.images)
        return images.with_name(f"{images.name}.evaluation.json")
    name = "evaluation" if FLAGS.step is None else f"evaluation-{FLAGS.step}"
    return run_path() / f"{name}.json"


def run_path() -> Path:
    """Return the work directory."""
    from diffusion.runtime.files import located

    return located(FLAGS.workdir)


def images_path() -> Path:
    """Return where the examples lie."""
    from diffusion.runtime.files import expanded

    return expanded(FLAGS.images)


def config_of(overrides: list[tuple[str, str]]) -> dict[str, Any]:
    """Return the config of the run, or that of --config or --data, with what the flags say."""
    from diffusion.config.overrides import apply_overrides
    from diffusion.evaluation.metrics import parse_list, written
    from diffusion.run.workdir import Workdir

    short = [] if FLAGS.num_samples is None else [("evaluate.num_samples", str(FLAGS.num_samples))]
    if FLAGS.workdir is not None:
        config = _command.stored_config(Workdir.of(FLAGS.workdir), short + overrides)
    elif FLAGS.data:
        config = apply_overrides({"data": {"name": FLAGS.data}}, short + overrides)
    else:
        config = _command.load_config(short + overrides)
    if FLAGS.metrics is not None or FLAGS.images:
        names = [written(spec) for spec in parse_list(FLAGS.metrics or "frechet")]
        config.setdefault("evaluate", {})["metrics"] = names
    return config


def measured(out: Path, config: dict[str, Any]) -> int:
    """Measure, write, and make the page."""
    from diffusion.evaluation.results import ResultsFile
    from diffusion.runtime.progress import Terminal
    from diffusion.runtime.stop import StopFlag, StopRequestedError

    folder = out.with_name(f"{out.name}.parts")
    with StopFlag() as stop:

        def poll() -> None:
            if stop.received is not None:
                raise StopRequestedError

        metrics, target = opened(config, folder, poll, stop)
        say = Terminal(sys.stderr).say
        file = ResultsFile(path=out, made_of=target.made_of, card=target.about, say=say)
        there = {} if FLAGS.fresh else file.read()
        if FLAGS.fresh and folder.is_dir():
            shutil.rmtree(folder)
        try:
            code = measure(metrics, there, target, file, poll)
        except StopRequestedError:
            left = ", ".join(name for name in metrics if name not in there)
            Terminal(sys.stderr).say(
                f"stopped by {stop.received.name}: {left} not measured yet; the same command goes on."
            )
            return 128 + stop.received
    if there:
        _report.save_pictures(out, target, {k: v.results for k, v in there.items()})
        _command.say(f"wrote {out} and {_report.write(out, FLAGS.workdir, target.title)}")
    if folder.is_dir():
        shutil.rmtree(folder)
    return code


def opened(config: dict[str, Any], folder: Path, poll: Any, stop: Any) -> tuple[Any, Any]:
    """Open the run or the examples; return the metrics by name, and what they measure."""
    _evaluate = _command.part("_evaluate")
    from diffusion.run.workdir import Workdir, open_run

    if FLAGS.images:
        metrics = _evaluate.metrics_of(config["evaluate"]["metrics"])
        _evaluate.refuse_those_of_runs(metrics)
        path, count = images_path(), FLAGS.num_samples
        return metrics, _evaluate.of_examples(path, config, FLAGS.seed, count, poll)
    ema = FLAGS.ema or config.get("evaluate", {}).get("ema", "")
    workdir = Workdir.of(FLAGS.workdir)
    run = open_run(workdir, config, ema, FLAGS.step, allow_code=FLAGS.allow_code)
    metrics = _evaluate.metrics_of(run.experiment.evaluate.metrics)
    return metrics, _evaluate.of_run(run, FLAGS.seed, folder, poll, stop)


def measure(metrics: Any, there: Any, target: Any, file: Any, poll: Any) -> int:
    """Measure what is missing from `there`, write after every metric, and print all.

    A metric that cannot be measured, such as one that does not fit the data, is told and left out.

    Returns:
        The exit code: that of the first metric that could not be measured.
    """
    from diffusion.runtime.exits import LockedError
    from diffusion.runtime.files import WriteError
    from diffusion.runtime.stop import StopRequestedError

    if not target.subject.has_training_data:
        _command.say(
            "nothing is held out of this data: numbers compare with the training data, and their names say so"
        )
    code = exits.OK
    for name, metric in metrics.items():
        poll()
        try:
            measure_one(name, metric, there, target, file)
        except (StopRequestedError, WriteError, LockedError):  # those after it would meet the same
            raise
        except Exception as error:
            there.pop(name, None)
            left_with = tell(error, FLAGS.debug, f"{name} cannot be measured: ")
            code = code or left_with
    return code


def measure_one(name: str, metric: Any, there: Any, target: Any, file: Any) -> None:
    """Measure one metric unless it is there, write it, and print it."""
    from diffusion.evaluation.cards import one_line, still_holds
    from diffusion.evaluation.metrics import numbers_of
    from diffusion.evaluation.results import Entry
    from diffusion.runtime.failpoints import reach

    kept = name in there and still_holds(there[name].card, metric.card(target.subject))
    _command.say(f"{name} ..." + (" measured before (--fresh: anew)" if kept else ""))
    if not kept:
        before, target.asked[:] = list(target.asked), []
        try:
            results = numbers_of(metric, target.subject)
            there[name] = Entry(results, target.card(metric))
        except BaseException:
            target.asked[:] = before
            raise
        target.asked[:] = before + target.asked
        reach("in_eval")
        file.write(there)
    for key, value in there[name].results.items():
        _report.show(key, value)
    _command.say(f"    {one_line(there[name].card)}")


def in_pairs(words: list[str]) -> list[str]:
    """Read `--compare A B` as one flag with two values."""
    if "--compare" not in words:
        return words
    at = words.index("--compare")
    first, rest = words[at + 1 : at + 3], words[at + 3 :]
    return [*words[:at], *(f"--compare={word}" for word in first), *rest]


if __name__ == "__main__":
    sys.argv = in_pairs(sys.argv)
    _command.run(main, __doc__)
