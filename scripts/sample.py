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
or the number of devices. Guidance has one convention: scale 1 is the conditional model, 0 the unconditional
one, above 1 extrapolates (omega = scale - 1). Without --labels a model of labelled data generates all classes in
turn.

--out names a .png (a grid), a .npz (arrays x and label), or a folder (one PNG each).
"""

import dataclasses
import json
import os
from pathlib import Path

import _command
import _guidance
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
    "Comma-separated labels to go through in turn; colons join the attributes of one example, '+' those that hold of "
    "a multi-hot condition; 'none' for unconditional.",
)
flags.DEFINE_integer("seed", 0, "Seed of the examples.")
flags.DEFINE_string("out", "samples.png", "Where to write: .png, .npz or a folder.")
flags.DEFINE_string(
    "ema", "", "Which average of the weights, or 'raw'; by default the config's first."
)
flags.DEFINE_integer("batch_size", 100, "Examples per compiled call.")
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
    for name in ("num_samples", "batch_size"):
        if getattr(FLAGS, name) < 1:
            _command.fail(f"--{name} must be at least 1; got {getattr(FLAGS, name)}.")
    if FLAGS.num_steps is not None and FLAGS.num_steps < 1:
        _command.fail(f"--num_steps must be at least 1; got {FLAGS.num_steps}.")
    if FLAGS.start < 0 or FLAGS.seed < 0:
        _command.fail(
            f"--start and --seed must not be negative; got {FLAGS.start} and {FLAGS.seed}."
        )
    out = Path(FLAGS.out)
    if out.suffix not in (".png", ".npz", ""):
        _command.fail(f"--out must end in .png or .npz, or name a folder; got {FLAGS.out!r}.")
    for path in filter(None, (FLAGS.out, FLAGS.trajectory, FLAGS.gif)):
        _command.check_writable(path)
    return out


def labels_of(speaker: object) -> object:
    """Return the labels to go through in turn, an array, or None for unconditional generation."""
    import numpy as np

    from diffusion.conditions import parse_labels

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
    from diffusion.config import apply_overrides
    from diffusion.workdir import Workdir, open_run

    workdir = Workdir.of(FLAGS.workdir)
    config = apply_overrides(workdir.read_config(), sampling_overrides(overrides))
    config["guidance"] = _guidance.section(config.get("guidance", []))
    _command.use_all_cores(min(FLAGS.batch_size, FLAGS.num_samples))
    _command.use_compilation_cache(str(workdir.path))

    run = open_run(workdir, config, FLAGS.ema)
    helpers = _guidance.open_helpers(run.experiment)
    labels = labels_of(helpers.speaker)
    _guidance.check_labels(run.experiment, told(labels, helpers.speaker))
    plan = Plan(run, helpers, labels)
    x = generated(plan)
    picked = None if labels is None else labels[plan.indices % len(labels)]
    write(out, x, picked, plan.spec, made_of(run, config) | helpers.card)
    save_ways(plan)
    written = ", ".join(filter(None, (FLAGS.out, FLAGS.trajectory, FLAGS.gif)))
    _command.say(f"wrote {written}: {len(x)} examples of step {run.step}, weights {run.ema}")
    return 0


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
        self.indices = np.arange(FLAGS.start, FLAGS.start + FLAGS.num_samples)
        shape = output_shape(experiment.guidance, experiment.spec.shape)
        self.spec = dataclasses.replace(experiment.spec, shape=shape)
        model_of = lambda cond: experiment.model(run.params, cond)
        self.arguments = experiment.sampler, experiment.process, model_of, FLAGS.seed
        model_of(
            self.cond_of(self.indices[:1])
        )  # what does not fit is said before anything is compiled

    def cond_of(self, indices: object) -> object:
        """Return the conditions of these examples."""
        if not told(self.labels, self.speaker):
            return self.speaker.conditions(None, len(indices))
        labels = None if self.labels is None else self.labels[indices % len(self.labels)]
        return self.speaker.conditions_in_turn(indices, asked=labels)


def generated(plan: Plan) -> object:
    """Generate all examples, batch by batch, or leave if some are not finite."""
    import numpy as np

    from diffusion.evaluation import generate

    progress = _command.Progress("sampling", FLAGS.num_samples)
    parts, done = [], 0
    for x in generate(
        *plan.arguments, FLAGS.num_samples, plan.spec.shape, plan.experiment.times(), plan.cond_of,
        batch_size=FLAGS.batch_size, start=FLAGS.start,
    ):  # fmt: skip
        parts.append(x)
        done += len(x)
        progress(done)
    x = np.concatenate(parts)
    if not np.isfinite(x).all():
        bad = plan.indices[~np.isfinite(x.reshape(len(x), -1)).all(axis=1)]
        _command.fail(
            f"{len(bad)} examples are not finite, the first is number {bad[0]}; try more steps.", 1
        )
    return x


def save_ways(plan: Plan) -> None:
    """Write the way of a few examples from noise to data, if that was asked for."""
    if not FLAGS.trajectory and not FLAGS.gif:
        return
    import numpy as np

    from diffusion.evaluation import generate_batch, pictures

    rows = 8 if plan.labels is None else min(len(plan.labels), 10)
    few = plan.indices[: rows if plan.spec.kind == "image" else 1000]
    states = generate_batch(
        *plan.arguments, few, plan.spec.shape, plan.experiment.times(), plan.cond_of(few), save=True
    ).trajectory
    states = np.asarray(states, np.float32)
    if FLAGS.trajectory:
        pictures.save_trajectory(FLAGS.trajectory, states, plan.spec)
    if FLAGS.gif:
        pictures.save_animation(FLAGS.gif, states, plan.spec, columns=len(few))


def made_of(run: object, config: dict) -> dict:
    """Return what the examples were made of."""
    from diffusion.workdir import provenance

    sections = {k: config.get(k) for k in ("process", "sampler", "grid", "guidance")}
    return {"step": run.step, "ema": run.ema, "seed": FLAGS.seed, **sections, **provenance()}


def write(out: Path, x: object, labels: object, spec: object, card: dict) -> None:
    """Write a grid, arrays or single files, whole or not at all."""
    import numpy as np

    from diffusion.evaluation import images, pictures

    if out.suffix == ".npz":
        out.parent.mkdir(parents=True, exist_ok=True)
        arrays = {"x": x} if labels is None else {"x": x, "label": labels}
        temporary = out.with_name(f".{out.name}.{os.getpid()}.npz")
        np.savez(temporary, card=np.array(json.dumps(card, default=str)), **arrays)
        temporary.replace(out)
    elif out.suffix == ".png":
        order, columns, names = arrange(labels, len(x), spec)
        pictures.save_examples(out, x[order], spec, columns, names)
    else:
        if spec.kind != "image":
            _command.fail(
                f"--out names a folder of images, but this data is made of {spec.kind}: use .npz."
            )
        out.mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images.to_uint8(x), FLAGS.start):
            images.save_png(out / f"{i:06d}.png", image)
        (out / "card.json").write_text(json.dumps(card, indent=2, default=str) + "\n")


def arrange(labels: object, count: int, spec: object) -> tuple[object, int, list[str]]:
    """Put the examples of one label into one row: return their order, the columns and the rows' names."""
    import numpy as np

    if labels is None:
        return np.arange(count), max(1, round(count**0.5)), []
    if labels.ndim > 1:  # several attributes: told apart, and named, by all of them
        words = np.array([":".join(map(str, row)) for row in labels])
        names_of, labels = str, words
    else:
        names = spec.class_names
        names_of = lambda k: names[k] if k >= 0 and names else str(k)
    kinds = list(dict.fromkeys(labels.tolist()))
    rows = [np.flatnonzero(labels == k) for k in kinds]
    columns = min(len(r) for r in rows) if count % len(kinds) == 0 else max(len(r) for r in rows)
    if len({len(r) for r in rows}) > 1:  # unequal rows: no names, in order
        return np.concatenate(rows), max(1, round(count**0.5)), []
    return np.concatenate(rows), columns, [names_of(k) for k in kinds]


if __name__ == "__main__":
    _command.run(main, __doc__)
