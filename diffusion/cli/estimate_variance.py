"""Estimate the posterior variance of a trained run, for the sampler `ancestral` with variance=analytic.

Examples:
  demolish estimate_variance --workdir runs/digits
  demolish estimate_variance --workdir runs/digits --num_examples 5000 --kind noise
  demolish sample --workdir runs/digits --sampler ancestral --config.sampler.variance=analytic --num_steps 10

Computes the variance of x_0 given x_t per dimension, at times evenly spaced in log-SNR, from the training data and the
denoiser; no training is needed. Kinds: residual (the mean squared error; the most likely value for an imperfect
mean, Bao et al., 2022b), noise (Bao et al., 2022a), data (from the variance of the data). The table and its settings
are written to WORKDIR/variance.npz, where `demolish sample` and `demolish evaluate` look for it. A table is valid for
one checkpoint and one set of averaged weights.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffusion.cli.configs import stored_config
from diffusion.cli.machine import use_compilation_cache
from diffusion.cli.messages import check_writable, fail, progress, say
from diffusion.cli.parser import Parser, add_weights, check_positive, whole_number


def command_line() -> Parser:
    """Return the parser of the command line."""
    parser = Parser(__doc__, sections=("config",))
    parser.add_argument("--workdir", help="Work directory of the trained run.")
    parser.add_argument(
        "--num_examples",
        type=whole_number,
        default=1000,
        help="Number of training examples to use.",
    )
    parser.add_argument(
        "--num_levels", type=whole_number, default=100, help="Number of times in the table."
    )
    parser.add_argument("--kind", default="residual", help="The estimate: noise, data or residual.")
    parser.switch(
        "diagonal",
        "Keep one variance per dimension of the data instead of the mean over dimensions.",
    )
    add_weights(parser)
    parser.add_argument(
        "--batch_size", type=whole_number, default=100, help="Examples per compiled call."
    )
    parser.add_argument("--seed", type=whole_number, default=0, help="Seed of the noise.")
    parser.add_argument("--out", help="Where to write the table; by default WORKDIR/variance.npz.")
    return parser


def check_flags(flags: argparse.Namespace) -> None:
    """Exit with a message if a flag is invalid, before anything is loaded."""
    if flags.workdir is None:
        fail("--workdir is required: the run to measure. See --help.")
    check_positive(flags, "num_examples", "num_levels", "batch_size")
    if flags.out is not None and not flags.out.endswith(".npz"):
        fail(f"--out must end in .npz; got {flags.out!r}.")


def main(flags: argparse.Namespace) -> int:
    """Estimate the table, print some of its rows and write it."""
    check_flags(flags)
    from diffusion.run.variance_file import write_variance
    from diffusion.run.workdir import Workdir, open_run
    from diffusion.runtime.provenance import provenance

    workdir = Workdir.of(flags.workdir)
    out = Path(flags.out) if flags.out else workdir.variance
    check_writable(out)
    # no sampler is run here, so the config's sampler, which may need the table, is replaced
    config = stored_config(flags, workdir, [*flags.overrides, ("sampler.name", "ddim")])
    use_compilation_cache()

    import jax
    import numpy as np

    from diffusion.config.recording import check_contents
    from diffusion.models.variance import estimate_variance
    from diffusion.numerics import on_host

    run = open_run(workdir, config, flags.ema, flags.step, allow_code=flags.allow_code)
    experiment = run.experiment
    process: Any = experiment.process
    if not experiment.affine:
        fail(f"{type(process).__name__} has no posterior of x_0 to estimate.")
    check_contents(experiment)
    size = experiment.spec.size
    count = flags.num_examples if size is None else min(flags.num_examples, size)
    times = process.default_times(max(flags.num_levels - 1, 1))[: flags.num_levels]
    times = times[np.isfinite(on_host(process.log_snr, times))]

    def batches() -> Iterator[Any]:
        show = progress("estimating", count)
        for start in range(0, count, flags.batch_size):
            yield experiment.dataset.examples(start, min(flags.batch_size, count - start))
            show(min(start + flags.batch_size, count))

    values = estimate_variance(
        process, experiment.base_model(run.params), batches(), times,
        jax.random.key(flags.seed), kind=flags.kind, diagonal=flags.diagonal,
    )  # fmt: skip
    card = {
        "step": run.step, "ema": run.ema, "kind": flags.kind, "diagonal": flags.diagonal,
        "num_examples": count, "seed": flags.seed, "process": experiment.resolved()["process"],
        **provenance(),
    }  # fmt: skip
    write_variance(out, times, values, card)
    for k in np.linspace(0, len(times) - 1, min(len(times), 9)).astype(int):
        say(f"  t {times[k]:.4g}: variance {values[k].mean():.4g}")
    described = json.dumps({k: card[k] for k in ("kind", "num_examples")})
    say(f"wrote {out}: {len(times)} times of step {run.step}, weights {run.ema}, {described}")
    return 0
