"""Measure a trained run on held-out data.

Examples:
  python scripts/evaluate.py --workdir runs/digits
  python scripts/evaluate.py --workdir runs/digits --metrics loss_by_level,bits_per_dim,frechet --num_samples 5000
  python scripts/evaluate.py --workdir runs/digits --ema raw --config.sampler.name=heun

Every number is printed with the counts it was made from, and written with the sampler, the weights, the
versions and the command to WORKDIR/evaluation.json (or --out).
"""

import json
from pathlib import Path

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


def main(overrides: list[tuple[str, str]]) -> int:
    """Measure, print and write."""
    if FLAGS.workdir is None:
        _command.fail("--workdir is required: the run to measure. See --help.")
    if FLAGS.num_samples is not None and FLAGS.num_samples < 2:
        _command.fail(f"--num_samples must be at least 2; got {FLAGS.num_samples}.")
    from diffusion.config import apply_overrides
    from diffusion.workdir import Workdir, open_run, provenance

    workdir = Workdir.of(FLAGS.workdir)
    short = [] if FLAGS.num_samples is None else [("evaluate.num_samples", str(FLAGS.num_samples))]
    config = apply_overrides(workdir.read_config(), short + overrides)
    if FLAGS.metrics is not None:
        names = [n.strip() for n in FLAGS.metrics.split(",") if n.strip()]
        config.setdefault("evaluate", {})["metrics"] = names
    _command.use_compilation_cache(str(workdir.path))

    from diffusion import build

    run = open_run(workdir, config, FLAGS.ema or config.get("evaluate", {}).get("ema", ""))
    metrics = {name: build("metric", name) for name in run.experiment.evaluate.metrics}
    subject = run.experiment.subject(run.params, FLAGS.seed)
    results = {}
    for name, metric in metrics.items():
        _command.say(f"{name} ...")
        for key, value in metric(subject).items():
            results[key] = value
            show(key, value)
    out = Path(FLAGS.out) if FLAGS.out else workdir.path / "evaluation.json"
    made_of = {
        "step": run.step,
        "ema": run.ema,
        "seed": FLAGS.seed,
        "config": run.experiment.resolved(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        json.dumps({"results": results, **made_of, **provenance()}, indent=2, default=str) + "\n"
    )
    _command.say(f"wrote {out}")
    return 0


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
