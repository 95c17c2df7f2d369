r"""Evaluate a trained run, or examples in a folder or a file, against held-out data.

Examples:
  demolish evaluate --workdir runs/digits
  demolish evaluate --workdir runs/digits --num_samples 5000 \
      --metrics 'frechet[classifier],kid[pixels],precision_recall[classifier],memorization,bits_per_dim'
  demolish evaluate --workdir runs/digits --ema raw --config.sampler.name=heun
  demolish evaluate --images samples.npz --data digits
  demolish evaluate --images my_pictures --config fashion_mnist
  demolish evaluate --compare runs/a runs/b
  demolish evaluate --workdir runs/digits --report_only

Every number is printed with a one-line card that records how it was measured, and written with the full card to
WORKDIR/evaluation.json (or --out) after each metric. After an interruption, the same command measures only the missing
metrics; --fresh measures all of them again. Examples are generated once for all metrics and kept in shards in
EVALUATION.json.parts until the end. Finally a report is written to WORKDIR/report.html, or to --out with the suffix
.html. A metric that cannot be measured is reported and skipped; the exit code is then that of the first such error.

--images compares a folder of pictures, an .npz or an .npy file with the data set of --data or --config; metrics that
need a model are refused. --compare takes two work directories or files of results and prints, for each number, the
difference or the reason why the two cannot be compared.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from diffusion.cli.configs import add_config, load_config, stored_config
from diffusion.cli.machine import use_all_cores, use_compilation_cache, use_fixed_sums
from diffusion.cli.messages import check_writable, fail, say, tell
from diffusion.cli.parser import Parser, add_weights, whole_number
from diffusion.cli.results import compare, save_pictures, show, write_page
from diffusion.runtime import exits


def command_line() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__, sections=("config",), in_pairs=("compare",))
    add_config(parser, "With --images: the config whose data set is the reference")
    parser.add_argument("--workdir", help="Work directory of the run to evaluate.")
    parser.add_argument(
        "--images", help="Examples to evaluate: a folder of pictures, an .npz or .npy file."
    )
    parser.add_argument(
        "--data", help="With --images: name of the reference data set, instead of --config."
    )
    parser.add_argument(
        "--compare", action="append", help="Two work directories or files of results."
    )
    parser.switch("verbose", "With --compare: also show entries that agree.")
    parser.switch("report_only", "Measure nothing; write the report from existing results.")
    parser.add_argument("--metrics", help="Comma-separated metrics, instead of the config's.")
    parser.add_argument(
        "--num_samples",
        type=whole_number,
        help="Number of generated examples, instead of the config's.",
    )
    add_weights(parser)
    parser.add_argument("--seed", type=whole_number, default=0, help="Seed of all random numbers.")
    parser.add_argument(
        "--out",
        help="File of the results; by default WORKDIR/evaluation.json, or evaluation-STEP.json with --step.",
    )
    parser.switch("fresh", "Measure all metrics again, ignoring earlier results.")
    return parser


def main(flags: argparse.Namespace) -> int:
    """Compare results, write the report, or evaluate; return the exit code."""
    check_flags(flags)
    if flags.compare:
        first, second = map(Path, flags.compare)
        return compare(first, second, flags.verbose)
    out = out_of(flags)
    check_writable(out)
    if flags.report_only:
        say(f"wrote {write_page(out, flags.workdir)}")
        return 0
    config = config_of(flags)
    count = config.get("evaluate", {}).get("num_samples", 1000)
    use_fixed_sums()
    use_all_cores(blocks=-(-count // 32) if isinstance(count, int) else 1)
    if flags.workdir is not None:
        use_compilation_cache()
    return measured(flags, out, config)


def check_flags(flags: argparse.Namespace) -> None:
    """Exit with a message if a flag is invalid, before anything is loaded."""
    given = [f"--{k}" for k in ("workdir", "images", "compare") if getattr(flags, k)]
    if len(given) > 1:
        fail(f"give one of --workdir, --images and --compare; got {', '.join(given)}.")
    if not given:
        fail("--workdir is required: the run to measure; or --images, or --compare. See --help.")  # fmt: skip
    if flags.compare and len(flags.compare) != 2:
        fail(f"--compare takes two results: --compare A B; got {len(flags.compare)}.")
    if flags.num_samples is not None and flags.num_samples < 2:
        fail(f"--num_samples must be at least 2; got {flags.num_samples}.")
    if flags.images and bool(flags.data) == (flags.config is not None):
        fail("--images needs what to compare with: one of --data NAME and --config FILE.")
    if not flags.images and (flags.data or flags.config is not None):
        fail("--data and --config go with --images; a run has its own.")


def out_of(flags: argparse.Namespace) -> Path:
    """Return the file of the results."""
    from diffusion.runtime.files import located

    if flags.out:
        return Path(flags.out)
    if flags.images:
        images = located(flags.images)
        return images.with_name(f"{images.name}.evaluation.json")
    name = "evaluation" if flags.step is None else f"evaluation-{flags.step}"
    return located(flags.workdir) / f"{name}.json"


def config_of(flags: argparse.Namespace) -> dict[str, Any]:
    """Return the config of the run, of --config or of --data, with the overrides of the flags."""
    from diffusion.config.overrides import apply_overrides
    from diffusion.evaluation.metrics import parse_list, written
    from diffusion.run.workdir import Workdir

    short = [] if flags.num_samples is None else [("evaluate.num_samples", str(flags.num_samples))]
    if flags.workdir is not None:
        config = stored_config(flags, Workdir.of(flags.workdir), short + flags.overrides)
    elif flags.data:
        config = apply_overrides({"data": {"name": flags.data}}, short + flags.overrides)
    else:
        config = load_config(flags, short + flags.overrides)
    if flags.metrics is not None or flags.images:
        names = [written(spec) for spec in parse_list(flags.metrics or "frechet")]
        config.setdefault("evaluate", {})["metrics"] = names
    return config


def measured(flags: argparse.Namespace, out: Path, config: dict[str, Any]) -> int:
    """Evaluate, write the results and the report; return the exit code."""
    from diffusion.evaluation.results import ResultsFile
    from diffusion.runtime.progress import Terminal
    from diffusion.runtime.stop import StopFlag, StopRequestedError

    folder = out.with_name(f"{out.name}.parts")
    with StopFlag() as stop:

        def poll() -> None:
            if stop.received is not None:
                raise StopRequestedError

        metrics, target = opened(flags, config, folder, poll, stop)
        warn = Terminal(sys.stderr).say
        file = ResultsFile(path=out, made_of=target.made_of, card=target.about, say=warn)
        there = {} if flags.fresh else file.read()
        if flags.fresh and folder.is_dir():
            shutil.rmtree(folder)
        try:
            code = measure(metrics, there, target, file, poll, flags.debug)
        except StopRequestedError:
            left, number = ", ".join(name for name in metrics if name not in there), stop.received
            assert number is not None
            Terminal(sys.stderr).say(
                f"stopped by {number.name}: {left} not measured yet; the same command goes on."
            )
            return 128 + number
    if there:
        save_pictures(out, target, {k: v.results for k, v in there.items()})
        say(f"wrote {out} and {write_page(out, flags.workdir, target.title)}")
    if folder.is_dir():
        shutil.rmtree(folder)
    return code


def opened(
    flags: argparse.Namespace, config: dict[str, Any], folder: Path, poll: Any, stop: Any
) -> tuple[Any, Any]:
    """Open the run or the examples; return the metrics by name, and the evaluation target."""
    from diffusion.cli import targets
    from diffusion.run.workdir import Workdir, open_run
    from diffusion.runtime.files import expanded

    if flags.images:
        metrics = targets.metrics_of(config["evaluate"]["metrics"])
        targets.refuse_those_of_runs(metrics)
        path, count = expanded(flags.images), flags.num_samples
        return metrics, targets.of_examples(path, config, flags.seed, count, poll)
    ema = flags.ema or config.get("evaluate", {}).get("ema", "")
    workdir = Workdir.of(flags.workdir)
    run = open_run(workdir, config, ema, flags.step, allow_code=flags.allow_code)
    metrics = targets.metrics_of(run.experiment.evaluate.metrics)
    return metrics, targets.of_run(run, flags.seed, folder, poll, stop)


def measure(metrics: Any, there: Any, target: Any, file: Any, poll: Any, debug: bool) -> int:
    """Measure the metrics that are missing from `there`, write after each one, and print all.

    A metric that cannot be measured, such as one that does not fit the data, is reported and skipped.

    Returns:
        The exit code: that of the first metric that could not be measured.
    """
    from diffusion.runtime.exits import LockedError
    from diffusion.runtime.files import WriteError
    from diffusion.runtime.stop import StopRequestedError

    if not target.inputs.has_training_data:
        say(
            "nothing is held out of this data: numbers compare with the training data, and their names say so"
        )
    code = exits.OK
    for name, metric in metrics.items():
        poll()
        try:
            measure_one(name, metric, there, target, file)
        except (StopRequestedError, WriteError, LockedError):
            # these would affect every later metric
            raise
        except Exception as error:
            there.pop(name, None)
            left_with = tell(error, debug, f"{name} cannot be measured: ")
            code = code or left_with
    return code


def measure_one(name: str, metric: Any, there: Any, target: Any, file: Any) -> None:
    """Measure one metric unless its result exists, write it, and print it."""
    from diffusion.evaluation.cards import one_line, still_holds
    from diffusion.evaluation.metrics import numbers_of
    from diffusion.evaluation.results import Entry
    from diffusion.runtime.failpoints import failpoint

    kept = name in there and still_holds(there[name].card, metric.card(target.inputs))
    say(f"{name} ..." + (" measured before (--fresh: anew)" if kept else ""))
    if not kept:
        before, target.requested[:] = list(target.requested), []
        try:
            results = numbers_of(metric, target.inputs)
            there[name] = Entry(results, target.card(metric))
        except BaseException:
            target.requested[:] = before
            raise
        target.requested[:] = before + target.requested
        failpoint("in_eval")
        file.write(there)
    for key, value in there[name].results.items():
        show(key, value)
    say(f"    {one_line(there[name].card)}")
