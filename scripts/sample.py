r"""Generate examples from a trained run.

Examples:
  python scripts/sample.py --workdir runs/digits --out samples.png
  python scripts/sample.py --workdir runs/digits --num_samples 64 --sampler ddim --num_steps 50 \
      --guidance 2.0 --labels 0,1,2 --seed 0 --out samples.png
  python scripts/sample.py --workdir runs/digits --num_samples 50000 --out samples.npz
  python scripts/sample.py --workdir runs/digits --sampler ancestral --config.sampler.eta=0.5

The sections sampler, grid and guidance of the run's config can be replaced by flags, and any of their
fields by --config.section.field=value. Example i depends on the seed and on i alone, not on the batch size
or the number of devices. Guidance scale 1 is the conditional model, 0 the unconditional one, above 1
extrapolates. Without --labels a model of labelled data generates all classes in turn.

--out names a .png (a grid), a .npz (arrays x and label), or a folder (one PNG each).
"""

import json
import os
from pathlib import Path

import _command
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "The run to sample from.")
flags.DEFINE_integer("num_samples", 64, "How many examples.")
flags.DEFINE_string("sampler", None, "A sampler by name, in place of the config's.")
flags.DEFINE_integer("num_steps", None, "Sampling steps, in place of the config's.")
flags.DEFINE_string("grid", None, "A time grid by name, in place of the config's.")
flags.DEFINE_float(
    "guidance", None, "Scale of classifier-free guidance, in place of the config's guidance."
)
flags.DEFINE_string(
    "labels", None, "Comma-separated labels to go through in turn; 'none' for unconditional."
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


def parse_labels(conditional: bool, classes: object) -> list[int] | None:
    """Return the labels to go through in turn, or None for unconditional generation."""
    if FLAGS.labels is None:
        return list(range(classes)) if conditional and isinstance(classes, int) else None
    if FLAGS.labels.strip().lower() == "none":
        return None
    try:
        return [int(word) for word in FLAGS.labels.split(",")]
    except ValueError:
        _command.fail(
            f"--labels must be whole numbers with commas between, or 'none'; got {FLAGS.labels!r}."
        )


def main(overrides: list[tuple[str, str]]) -> int:
    """Sample and write."""
    out = check_flags()
    from diffusion.config import apply_overrides
    from diffusion.workdir import Workdir, open_run

    workdir = Workdir.of(FLAGS.workdir)
    config = apply_overrides(workdir.read_config(), sampling_overrides(overrides))
    if FLAGS.guidance is not None:
        others = [g for g in config.get("guidance", []) if g.get("name") != "classifier_free"]
        config["guidance"] = [{"name": "classifier_free", "scale": FLAGS.guidance}, *others]
    _command.use_all_cores(min(FLAGS.batch_size, FLAGS.num_samples))
    _command.use_compilation_cache(str(workdir.path))

    import numpy as np

    from diffusion.evaluation import generate, generate_batch, pictures
    from diffusion.guidance import ClassifierFree

    run = open_run(workdir, config, FLAGS.ema)
    experiment = run.experiment
    spec = experiment.spec
    labels = parse_labels(experiment.conditional, spec.num_classes)
    if FLAGS.guidance not in (None, 1.0) and (not experiment.conditional or labels is None):
        _command.fail(
            "--guidance extrapolates from the unconditional to the conditional model; this run has "
            + (
                "no labels to use: omit --labels none."
                if experiment.conditional
                else "no labels at all."
            )
        )
    if labels is None:
        experiment = experiment.replaced(
            guidance=tuple(g for g in experiment.guidance if not isinstance(g, ClassifierFree))
        )
    else:
        experiment.check_labels(np.array(labels))

    def cond_of(indices: np.ndarray) -> object:
        if labels is None:
            return experiment.conditions(None, len(indices))
        return experiment.conditions(np.array(labels)[indices % len(labels)], len(indices))

    arguments = (
        experiment.sampler,
        experiment.process,
        lambda cond: experiment.model(run.params, cond),
    )
    progress = _command.Progress("sampling", FLAGS.num_samples)
    parts, done = [], 0
    for x in generate(
        *arguments, FLAGS.seed, FLAGS.num_samples, spec.shape, experiment.times(), cond_of,
        batch_size=FLAGS.batch_size, start=FLAGS.start,
    ):  # fmt: skip
        parts.append(x)
        done += len(x)
        progress(done)
    x, indices = np.concatenate(parts), np.arange(FLAGS.start, FLAGS.start + FLAGS.num_samples)
    if not np.isfinite(x).all():
        bad = indices[~np.isfinite(x.reshape(len(x), -1)).all(axis=1)]
        _command.fail(
            f"{len(bad)} examples are not finite, the first is number {bad[0]}; try more steps.", 1
        )
    picked = None if labels is None else np.array(labels)[indices % len(labels)]
    write(out, x, picked, spec, made_of(run, config))
    if FLAGS.trajectory or FLAGS.gif:
        rows = 8 if labels is None else min(len(labels), 10)
        few = indices[: rows if spec.kind == "image" else 1000]
        states = generate_batch(
            *arguments, FLAGS.seed, few, spec.shape, experiment.times(), cond_of(few), save=True
        ).trajectory
        if FLAGS.trajectory:
            pictures.save_trajectory(FLAGS.trajectory, np.asarray(states, np.float32), spec)
        if FLAGS.gif:
            pictures.save_animation(
                FLAGS.gif, np.asarray(states, np.float32), spec, columns=len(few)
            )
    written = ", ".join(filter(None, (FLAGS.out, FLAGS.trajectory, FLAGS.gif)))
    _command.say(f"wrote {written}: {len(x)} examples of step {run.step}, weights {run.ema}")
    return 0


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
    kinds = list(dict.fromkeys(labels.tolist()))
    rows = [np.flatnonzero(labels == k) for k in kinds]
    columns = min(len(r) for r in rows) if count % len(kinds) == 0 else max(len(r) for r in rows)
    if len({len(r) for r in rows}) > 1:  # unequal rows: no names, in order
        return np.concatenate(rows), max(1, round(count**0.5)), []
    names = [spec.class_names[k] if k >= 0 and spec.class_names else str(k) for k in kinds]
    return np.concatenate(rows), columns, names


if __name__ == "__main__":
    _command.run(main, __doc__)
