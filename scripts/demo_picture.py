"""Draw the picture of the quick start: raw and guided samples of each class, and the way from noise.

Examples:
  python scripts/demo_picture.py --workdir runs/digits --out runs/digits/demo.png

The left block has the conditional model (guidance 1), the middle one guidance 2, one row per class and the
same noise in both; the right block is the way of the first guided sample of each row from noise to data.
"""

import _command
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "A run on labelled images.")
flags.DEFINE_string("out", None, "The PNG to write; by default WORKDIR/demo.png.")
flags.DEFINE_float("guidance", 2.0, "Scale of the guided block.")
flags.DEFINE_integer("columns", 6, "Examples per class and block.")
flags.DEFINE_integer("seed", 0, "Seed of the examples.")
_command.define_trust()


def main(overrides: list[tuple[str, str]]) -> int:
    """Sample twice and draw."""
    if FLAGS.workdir is None:
        _command.fail("--workdir is required: a run on labelled images. See --help.")
    from diffusion.run.workdir import Workdir, open_run

    workdir = Workdir.of(FLAGS.workdir)
    config = _command.stored_config(workdir, overrides)
    _command.use_all_cores(10 * FLAGS.columns)
    _command.use_compilation_cache()

    import numpy as np

    from diffusion import build
    from diffusion.evaluation import generate_batch, images, pictures

    run = open_run(workdir, config, allow_code=FLAGS.allow_code)
    experiment, spec = run.experiment, run.experiment.spec
    if spec.kind != "image" or not isinstance(spec.num_classes, int) or spec.num_classes < 2:
        _command.fail(f"the picture needs images with one label each; this run has {spec}.")
    rows = min(spec.num_classes, 10)
    indices = np.arange(rows * FLAGS.columns)
    cond = experiment.conditions(indices // FLAGS.columns, len(indices))
    blocks, states = [], None
    for scale in (1.0, FLAGS.guidance):
        guided = experiment.replaced(
            guidance=(build("guidance", dict(name="classifier_free", scale=scale)),)
        )
        solution = generate_batch(
            guided.sampler, guided.process, lambda c, g=guided: g.model(run.params, c), FLAGS.seed,
            indices, spec.shape, guided.times(), cond, save=True,
        )  # fmt: skip
        blocks.append(np.asarray(solution.x, np.float32).reshape(rows, FLAGS.columns, *spec.shape))
        states = np.asarray(solution.trajectory, np.float32)
    chosen = np.linspace(0, len(states) - 1, FLAGS.columns).round().astype(int)
    strip = states[chosen][:, :: FLAGS.columns]  # the first sample of each row
    peak = np.maximum(1.0, np.abs(strip).max(axis=tuple(range(1, strip.ndim)), keepdims=True))
    blocks.append((strip / peak).swapaxes(0, 1))
    names = spec.class_names or tuple(str(k) for k in range(rows))
    canvases = [pictures.grid(b.reshape(-1, *spec.shape), spec, FLAGS.columns) for b in blocks]
    canvases[0] = images.label_rows(canvases[0], names[:rows])
    gap = np.full((canvases[0].shape[0], 12, canvases[0].shape[2]), 255, np.uint8)
    out = FLAGS.out or str(workdir.path / "demo.png")
    images.save_png(out, np.concatenate([canvases[0], gap, canvases[1], gap, canvases[2]], axis=1))
    _command.say(
        f"wrote {out}: guidance 1 | guidance {FLAGS.guidance:g} | from noise to data; step {run.step}"
    )
    return 0


if __name__ == "__main__":
    _command.run(main, __doc__)
