"""Draw the picture of the quick start: unguided and guided samples of each class, and trajectories from noise.

Examples:
  python scripts/demo_picture.py --workdir runs/digits --out runs/digits/demo.png

The left block shows the conditional model (guidance 1), the middle block guidance 2, with one row per class and the
same noise in both; the right block is the trajectory of the first guided sample of each row from noise to data.
"""

import argparse
import sys

import _demolish  # noqa: F401 puts the checkout on the search path, and removes this folder

from diffusion.cli.configs import stored_config
from diffusion.cli.machine import use_all_cores, use_compilation_cache
from diffusion.cli.messages import fail, say
from diffusion.cli.parser import Parser, add_trust, real_number, whole_number
from diffusion.cli.program import run as run_program


def command_line() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__, sections=("config",))
    parser.add_argument("--workdir", help="A run on labeled images.")
    parser.add_argument("--out", help="The PNG to write; by default WORKDIR/demo.png.")
    parser.add_argument(
        "--guidance", type=real_number, default=2.0, help="Scale of the guided block."
    )
    parser.add_argument(
        "--columns", type=whole_number, default=6, help="Examples per class and block."
    )
    parser.add_argument("--seed", type=whole_number, default=0, help="Seed of the examples.")
    add_trust(parser)
    return parser


def main(flags: argparse.Namespace) -> int:
    """Sample twice and draw."""
    if flags.workdir is None:
        fail("--workdir is required: a run on labeled images. See --help.")
    from diffusion.run.workdir import Workdir, open_run

    workdir = Workdir.of(flags.workdir)
    config = stored_config(flags, workdir, flags.overrides)
    use_all_cores(10 * flags.columns)
    use_compilation_cache()

    import numpy as np

    from diffusion import build
    from diffusion.evaluation import generate_batch, images, pictures

    run = open_run(workdir, config, allow_code=flags.allow_code)
    experiment, spec = run.experiment, run.experiment.spec
    if spec.kind != "image" or not isinstance(spec.num_classes, int) or spec.num_classes < 2:
        fail(f"the picture needs images with one label each; this run has {spec}.")
    rows = min(spec.num_classes, 10)
    indices = np.arange(rows * flags.columns)
    cond = experiment.conditions(indices // flags.columns, len(indices))
    blocks, states = [], None
    for scale in (1.0, flags.guidance):
        guided = experiment.replaced(
            guidance=(build("guidance", dict(name="classifier_free", scale=scale)),)
        )
        solution = generate_batch(
            guided.sampler, guided.process, lambda c, g=guided: g.model(run.params, c), flags.seed,
            indices, spec.shape, guided.times(), cond, save=True,
        )  # fmt: skip
        blocks.append(np.asarray(solution.x, np.float32).reshape(rows, flags.columns, *spec.shape))
        states = np.asarray(solution.trajectory, np.float32)
    chosen = np.linspace(0, len(states) - 1, flags.columns).round().astype(int)
    strip = states[chosen][:, :: flags.columns]  # the first sample of each row
    peak = np.maximum(1.0, np.abs(strip).max(axis=tuple(range(1, strip.ndim)), keepdims=True))
    blocks.append((strip / peak).swapaxes(0, 1))
    names = spec.class_names or tuple(str(k) for k in range(rows))
    canvases = [pictures.grid(b.reshape(-1, *spec.shape), spec, flags.columns) for b in blocks]
    canvases[0] = images.label_rows(canvases[0], names[:rows])
    gap = np.full((canvases[0].shape[0], 12, canvases[0].shape[2]), 255, np.uint8)
    out = flags.out or str(workdir.path / "demo.png")
    images.save_png(out, np.concatenate([canvases[0], gap, canvases[1], gap, canvases[2]], axis=1))
    say(
        f"wrote {out}: guidance 1 | guidance {flags.guidance:g} | from noise to data; step {run.step}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_program(command_line(), main, sys.argv[1:]))
