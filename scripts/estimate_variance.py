"""Estimate the posterior variance of a trained run, for the sampler ancestral with variance=analytic.

Examples:
  python scripts/estimate_variance.py --workdir runs/digits
  python scripts/estimate_variance.py --workdir runs/digits --num_examples 5000 --kind noise
  python scripts/sample.py --workdir runs/digits --sampler ancestral --config.sampler.variance=analytic --num_steps 10

The variance of x_0 given x_t per dimension at times evenly spaced in log-SNR, from the training data and the
denoiser, without more training. Kinds: residual (the mean squared error; the most likely value for an imperfect
mean, Bao et al., 2022b), noise (Bao et al., 2022a), data (from the variance of the data). The table and what it
was made of go to WORKDIR/variance.npz, where sample.py and evaluate.py find it; it belongs to one checkpoint and
one average.
"""

import json
from pathlib import Path

import _command
from absl import flags

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "The run to measure.")
flags.DEFINE_integer("num_examples", 1000, "Training examples to estimate from.")
flags.DEFINE_integer("num_levels", 100, "Times in the table.")
flags.DEFINE_string("kind", "residual", "The estimate: noise, data or residual.")
flags.DEFINE_bool(
    "diagonal", False, "One variance per dimension of the data instead of their mean."
)
_command.define_weights()
flags.DEFINE_integer("batch_size", 100, "Examples per compiled call.")
flags.DEFINE_integer("seed", 0, "Seed of the noise.")
flags.DEFINE_string("out", None, "Where to write the table; by default WORKDIR/variance.npz.")


def check_flags() -> None:
    """Check what can be checked before anything is loaded."""
    if FLAGS.workdir is None:
        _command.fail("--workdir is required: the run to measure. See --help.")
    for name in ("num_examples", "num_levels", "batch_size"):
        if getattr(FLAGS, name) < 1:
            _command.fail(f"--{name} must be at least 1; got {getattr(FLAGS, name)}.")
    if FLAGS.out is not None and not FLAGS.out.endswith(".npz"):
        _command.fail(f"--out must end in .npz; got {FLAGS.out!r}.")


def main(overrides: list[tuple[str, str]]) -> int:
    """Estimate, print and write."""
    check_flags()
    from diffusion.run.variance_file import write_variance
    from diffusion.run.workdir import Workdir, open_run
    from diffusion.runtime.provenance import provenance

    workdir = Workdir.of(FLAGS.workdir)
    out = Path(FLAGS.out) if FLAGS.out else workdir.variance
    _command.check_writable(out)
    # no sampler is run: one that needs the table must not ask for it here
    config = _command.stored_config(workdir, [*overrides, ("sampler.name", "ddim")])
    _command.use_compilation_cache()

    import jax
    import numpy as np

    from diffusion.config.recording import check_contents
    from diffusion.models.variance import estimate_variance
    from diffusion.numerics import on_host

    run = open_run(workdir, config, FLAGS.ema, FLAGS.step, allow_code=FLAGS.allow_code)
    experiment = run.experiment
    if not experiment.affine:
        _command.fail(f"{type(experiment.process).__name__} has no posterior of x_0 to estimate.")
    check_contents(experiment)
    size = experiment.spec.size
    count = FLAGS.num_examples if size is None else min(FLAGS.num_examples, size)
    times = experiment.process.natural_times(max(FLAGS.num_levels - 1, 1))[: FLAGS.num_levels]
    times = times[np.isfinite(on_host(experiment.process.log_snr, times))]

    def batches() -> object:
        progress = _command.progress("estimating", count)
        for start in range(0, count, FLAGS.batch_size):
            yield experiment.dataset.examples(start, min(FLAGS.batch_size, count - start))
            progress(min(start + FLAGS.batch_size, count))

    values = estimate_variance(
        experiment.process, experiment.base_model(run.params), batches(), times,
        jax.random.key(FLAGS.seed), kind=FLAGS.kind, diagonal=FLAGS.diagonal,
    )  # fmt: skip
    card = {
        "step": run.step, "ema": run.ema, "kind": FLAGS.kind, "diagonal": FLAGS.diagonal,
        "num_examples": count, "seed": FLAGS.seed, "process": experiment.resolved()["process"],
        **provenance(),
    }  # fmt: skip
    write_variance(out, times, values, card)
    for k in np.linspace(0, len(times) - 1, min(len(times), 9)).astype(int):
        _command.say(f"  t {times[k]:.4g}: variance {values[k].mean():.4g}")
    described = json.dumps({k: card[k] for k in ("kind", "num_examples")})
    _command.say(
        f"wrote {out}: {len(times)} times of step {run.step}, weights {run.ema}, {described}"
    )
    return 0


if __name__ == "__main__":
    _command.run(main, __doc__)
