r"""Generate examples from a trained run.

Examples:
  python scripts/sample.py --workdir runs/digits --out samples.png
  python scripts/sample.py --workdir runs/digits --num_samples 64 --sampler ddim --num_steps 50 \
      --guidance 2.0 --labels 0,1,2 --seed 0 --out samples.png
  python scripts/sample.py --workdir runs/digits --num_samples 50000 --out samples.npz
  python scripts/sample.py --workdir runs/digits --sampler ancestral --config.sampler.eta=0.5
  python scripts/sample.py --workdir runs/digits --guidance 3 --guidance_interval=-2,2.5
  python scripts/sample.py --workdir runs/digits --guidance 0 --classifier runs/digits_classifier
  python scripts/sample.py --workdir runs/digits --guidance 2 --guide runs/digits_small

The sections sampler, grid and guidance of the run's config can be replaced by flags, and any of their
fields by --config.section.field=value. Example i depends on the seed and on i alone, not on the batch size
or the number of devices (--block is what a device computes at once). Guidance has one convention: scale 1
is the conditional model, 0 the unconditional one, above 1 extrapolates (omega = scale - 1). Without --labels
a model of labelled data generates all classes in turn.

--out names a .png (a grid), a .npz (arrays x and label), or a folder (one PNG each).

More than --shard_size examples, and folders, are made in shards of that size, in OUT.parts or FOLDER/.shards:
after a kill, or a signal, the same command goes on where it was. Damaged shards are made anew; a folder of
another command is refused.
"""

import dataclasses
import functools
import signal
import sys
from pathlib import Path

import _command
import _guidance
import _output
from _errors import exits
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "The run to sample from.")
flags.DEFINE_integer("num_samples", 64, "How many examples.")
flags.DEFINE_string("sampler", None, "A sampler by name, in place of the config's.")
flags.DEFINE_integer("num_steps", None, "Sampling steps, in place of the config's.")
flags.DEFINE_string("grid", None, "A time grid by name, in place of the config's.")
flags.adopt_module_key_flags(_guidance)
flags.DEFINE_string(
    "labels",
    None,
    "Comma-separated labels, by name or number, to go through in turn; colons join the attributes of one example, '+' "
    "those that hold of a multi-hot condition; 'none' for unconditional.",
)
flags.DEFINE_integer("seed", 0, "Seed of the examples.")
flags.DEFINE_string("out", "samples.png", "Where to write: .png, .npz or a folder.")
_command.define_weights()
flags.DEFINE_integer(
    "batch_size", 100, "Examples between looks at signals and the clock; changes no bit of any."
)
flags.DEFINE_integer(
    "block",
    None,
    "Examples that a device computes at once; by default 32, or 256 of few values each.",
)
flags.DEFINE_integer("shard_size", 1000, "Examples that are kept at once while many are made.")
flags.DEFINE_integer("start", 0, "Global index of the first example.")
flags.DEFINE_string("trajectory", None, "Also write a strip from noise to data to this PNG.")
flags.DEFINE_string("gif", None, "Also write an animation to this GIF.")


def sampling_overrides(overrides: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Turn flags into overrides; those of the form --config.* come after them."""
    short = []
    if FLAGS.sampler is not None:
        short.append(("sampler.name", FLAGS.sampler))
    if FLAGS.grid is not None:
        short.append(("grid.name", FLAGS.grid))
    if FLAGS.num_steps is not None:
        short.append(("grid.num_steps", str(FLAGS.num_steps)))
    return short + overrides


def check_flags() -> Path:
    """Check what can be checked before anything is loaded; return the output path."""
    if FLAGS.workdir is None:
        _command.fail("--workdir is required: the run to sample from. See --help.")
    for name in ("num_samples", "batch_size", "block", "shard_size"):
        if getattr(FLAGS, name) is not None and getattr(FLAGS, name) < 1:
            _command.fail(f"--{name} must be at least 1; got {getattr(FLAGS, name)}.")
    if FLAGS.num_steps is not None and FLAGS.num_steps < 1:
        _command.fail(f"--num_steps must be at least 1; got {FLAGS.num_steps}.")
    if FLAGS.start < 0 or FLAGS.seed < 0:
        _command.fail(
            f"--start and --seed must not be negative; got {FLAGS.start} and {FLAGS.seed}."
        )
    out = Path(FLAGS.out)
    _output.check(out)
    for path in filter(None, (FLAGS.trajectory, FLAGS.gif)):
        _command.check_writable(path)
    return out


def labels_of(speaker: object) -> object:
    """Return the labels to go through in turn, an array, or None for unconditional generation."""
    import numpy as np

    from diffusion.data.conditions import parse_labels

    spec = speaker.spec
    if FLAGS.labels is not None:
        return parse_labels(FLAGS.labels, spec)
    one = isinstance(spec.num_classes, int) and spec.num_classes
    return np.arange(spec.num_classes) if one else None


def told(labels: object, speaker: object) -> bool:
    """Say whether examples get conditions: labels, or others that the held-out data has."""
    return labels is not None or (FLAGS.labels is None and speaker.conditional)


def main(overrides: list[tuple[str, str]]) -> int:
    """Sample and write."""
    out = check_flags()
    _guidance.check_flags()
    from diffusion.config.checks import SAMPLING, notes
    from diffusion.run.workdir import Workdir, open_run

    workdir = Workdir.of(FLAGS.workdir)
    config = _command.stored_config(workdir, sampling_overrides(overrides))
    config["guidance"] = _guidance.section(config.get("guidance", []))
    _command.use_fixed_sums()
    _command.use_all_cores(blocks=-(-FLAGS.num_samples // (FLAGS.block or 32)))
    _command.use_compilation_cache()
    from diffusion.runtime.stop import StopFlag

    with StopFlag() as stop:
        run = open_run(workdir, config, FLAGS.ema, FLAGS.step, allow_code=FLAGS.allow_code)
        helpers = _guidance.open_helpers(run.experiment)
        labels = labels_of(helpers.speaker)
        _guidance.check_labels(run.experiment, told(labels, helpers.speaker))
        plan = Plan(run, helpers, labels)
        for text in notes(plan.experiment, SAMPLING):
            _command.note(text)
        done = made(out, plan, made_of(run, config) | helpers.card, stop)
        if stop.received is not None and done < FLAGS.num_samples:
            return stopped(out, done, stop.received)
        save_ways(plan)
    written = ", ".join(filter(None, (FLAGS.out, FLAGS.trajectory, FLAGS.gif)))
    _command.say(f"wrote {written}: {done} examples of step {run.step}, weights {run.ema}")
    return 0


def stopped(out: Path, done: int, number: signal.Signals) -> int:
    """Say how to go on; return the exit code of the signal."""
    from diffusion.runtime.progress import Terminal

    folder = _output.kept_in(out)
    kept = (
        f"{done} of {FLAGS.num_samples} examples are kept in {folder}; the same command goes on from there"
        if folder.is_dir()
        else "so few examples are not kept; the same command begins again"
    )
    Terminal(sys.stderr).say(f"stopped by {number.name}: {kept}.")
    return 128 + number


class Plan:
    """What is generated, from what: the arguments that all calls of the sampler share."""

    def __init__(self, run: object, helpers: object, labels: object):
        import numpy as np

        from diffusion.guidance import output_shape, without_condition

        experiment = run.experiment.replaced(given=helpers.given)
        if not told(labels, helpers.speaker):
            guidance = without_condition(experiment.guidance)
            experiment = experiment.replaced(guidance=guidance)
        self.experiment, self.labels, self.speaker = experiment, labels, helpers.speaker
        self.run, self.helpers = run, helpers
        self.indices = np.arange(FLAGS.start, FLAGS.start + FLAGS.num_samples)
        shape = output_shape(experiment.guidance, experiment.spec.shape)
        self.spec = dataclasses.replace(experiment.spec, shape=shape)
        self.model_of = functools.partial(experiment.model, run.params)
        # what does not fit is said before anything is compiled
        self.model_of(self.cond_of(self.indices[:1]))

    def cond_of(self, indices: object) -> object:
        """Return the conditions of these examples."""
        if not told(self.labels, self.speaker):
            return self.speaker.conditions(None, len(indices))
        labels = None if self.labels is None else self.labels[indices % len(self.labels)]
        return self.speaker.conditions_in_turn(indices, asked=labels)

    def manifest(self) -> dict:
        """Return all that determines the examples; not the batch size or the devices."""
        from diffusion.runtime.digests import digest_of

        sections = ("process", "prediction", "network", "data", "sampler", "grid", "guidance")
        config = {k: v for k, v in self.experiment.resolved().items() if k in sections}
        config["data"] = {k: v for k, v in config["data"].items() if k in ("name", "kind", "split")}
        return {
            "format": 1, "step": self.run.step, "weights": self.run.ema,
            "weights_sha256": digest_of(self.run.params),
            "helpers_sha256": {k: digest_of(v) for k, v in self.helpers.params.items()},
            "variance_sha256": digest_of(self.experiment.variance), "config": config,
            "labels": None if self.labels is None else self.labels.tolist(),
            "conditions": told(self.labels, self.speaker), "shape": list(self.spec.shape),
            "seed": FLAGS.seed, "start": FLAGS.start, "block": self.block, "made_by": _command.versions(),
        }  # fmt: skip

    @property
    def block(self) -> int:
        """How many examples a device computes at once."""
        from diffusion.evaluation.generate import block_size

        return FLAGS.block or block_size(self.spec.shape)

    def batches(self, first: int, count: int) -> object:
        """Generate a range of examples, batch by batch, or leave if some are not finite."""
        import numpy as np

        for x in self.experiment.generate(
            self.model_of, count, seed=FLAGS.seed, start=first, cond_of=self.cond_of,
            shape=self.spec.shape, batch_size=FLAGS.batch_size, block=self.block,
        ):  # fmt: skip
            bad = np.flatnonzero(~np.isfinite(x.reshape(len(x), -1)).all(axis=1))
            if len(bad):
                _command.fail(
                    f"{len(bad)} of {len(x)} examples are not finite, the first is number {first + bad[0]}; "
                    "try more steps.",
                    exits.DIVERGED,
                )
            yield x
            first += len(x)


def made(out: Path, plan: Plan, card: dict, stop: object) -> int:
    """Make all examples and write them, unless a signal comes; return how many there are."""
    import numpy as np

    labels = None if plan.labels is None else plan.labels[plan.indices % len(plan.labels)]
    first, end = FLAGS.start, FLAGS.start + FLAGS.num_samples
    stopping = lambda: stop.received is not None
    if out.suffix and FLAGS.num_samples <= FLAGS.shard_size:
        progress, parts = _command.progress("sampling", FLAGS.num_samples), []
        batches = plan.batches(first, FLAGS.num_samples)
        while not stopping() and (x := next(batches, None)) is not None:
            parts.append(x)
            progress(sum(map(len, parts)))
        done = sum(map(len, parts))
        if done == FLAGS.num_samples:
            _output.write(out, np.concatenate(parts), labels, plan.spec, card)
        return done
    if not out.suffix and plan.spec.kind != "image":
        _command.fail(
            f"--out names a folder of images, but this data is of kind {plan.spec.kind}: use .npz."
        )
    size = -(-FLAGS.shard_size // plan.block) * plan.block  # no block is made twice
    with _output.shards_of(out, plan.manifest(), size).opened() as shards:
        there = FLAGS.num_samples - sum(b - a for a, b in shards.missing(first, end))
        if there:
            _command.say(f"{there} of {FLAGS.num_samples} examples are there already")
        progress = _command.progress("sampling", FLAGS.num_samples, there)
        done = shards.fill(first, end, plan.batches, stopping, progress)
        if done == FLAGS.num_samples:
            _output.finish(out, shards, first, end, plan.spec, labels, card)
    return done


def save_ways(plan: Plan) -> None:
    """Write the way of a few examples from noise to data, if that was asked for."""
    if not FLAGS.trajectory and not FLAGS.gif:
        return
    import numpy as np

    from diffusion.evaluation import generate_batch, pictures

    rows = 8 if plan.labels is None else min(len(plan.labels), 10)
    few = plan.indices[: rows if plan.spec.pictured else 1000]
    e = plan.experiment
    states = generate_batch(
        e.sampler, e.process, plan.model_of, FLAGS.seed, few, plan.spec.shape, e.times(),
        plan.cond_of(few), save=True,
    ).trajectory  # fmt: skip
    states = np.asarray(states, np.float32)
    if FLAGS.trajectory:
        pictures.save_trajectory(FLAGS.trajectory, states, plan.spec)
    if FLAGS.gif:
        pictures.save_animation(FLAGS.gif, states, plan.spec, columns=len(few))


def made_of(run: object, config: dict) -> dict:
    """Return what the examples were made of."""
    from diffusion.runtime.provenance import provenance

    sections = {k: config.get(k) for k in ("process", "sampler", "grid", "guidance")}
    if names := run.experiment.spec.class_names:
        sections["class_names"] = names
    return {"step": run.step, "ema": run.ema, "seed": FLAGS.seed, **sections, **provenance()}


if __name__ == "__main__":
    _command.run(main, __doc__)
