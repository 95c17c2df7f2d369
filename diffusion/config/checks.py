"""Checks of whether the sections of a config fit together, and warnings before a run starts.

A check raises ConfigError before anything is computed. A note is a warning: a function of an Experiment that returns
one sentence, or None. `TRAINING` and `SAMPLING` list the notes; the commands print them to standard error.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.config.sections import DEFAULTS, ConfigError, config_errors, section_of
from diffusion.guidance import check_entries
from diffusion.models.prediction import error_gain
from diffusion.numerics import is_traced, on_host
from diffusion.processes import AffineProcess, GaussianProcess, Process
from diffusion.processes.base import require_process
from diffusion.samplers import StepSampler, sample

Note = Callable[[Any], str | None]

LARGE_GAIN = 100  # amplification of errors above which there is a note
FEW_STEPS = 10  # number of sampling steps up to which a grid is tested
NORMAL_STD = 0.5  # standard deviation of the test data
TOO_WIDE = 3  # ratio of standard deviations above which there is a note


def check_parts(experiment: Any) -> None:
    """Raise ConfigError if the parts of an Experiment do not fit together."""
    train, process = experiment.train, experiment.process
    with config_errors("config.sampler"):
        who = f"the sampler {type(experiment.sampler).__name__}"
        require_process(process, getattr(experiment.sampler, "requires", Process), who)
    with config_errors("config.guidance"):
        check_entries(
            experiment.guidance, process, experiment.spec.shape,
            conditional=experiment.conditional, dropout=train.label_dropout,
        )  # fmt: skip
    learned = experiment.weight.wrap(experiment.network) is not experiment.network
    extras = experiment.loss_target or train.batch_target or train.learn_variance or learned
    if not experiment.affine and extras:
        raise ConfigError(
            f"{type(process).__name__} trains a velocity: train.loss_target, train.batch_target, train.learn_variance "
            "and the weight learned_uncertainty belong to processes with alpha(t) and sigma(t)."
        )
    if "learned" in experiment.variances and not train.learn_variance:
        raise ConfigError(
            "config.sampler.variance: 'learned' needs train.learn_variance=True; else take posterior, beta, analytic."
        )
    if train.learn_variance:
        _check_learned_variance(experiment)


def _check_learned_variance(experiment: Any) -> None:
    if not isinstance(experiment.process, GaussianProcess):
        raise ConfigError(
            f"config.train.learn_variance needs normal noise, which {type(experiment.process).__name__} has not."
        )
    x = jax.ShapeDtypeStruct((1, *experiment.spec.shape), jnp.float32)
    params, cond = jax.eval_shape(experiment.init_params), experiment.example_cond(1)
    y = jax.eval_shape(experiment.network.apply, params, x, jnp.zeros(1), cond)
    if y.shape != (*x.shape[:-1], 2 * x.shape[-1]):
        raise ConfigError(
            f"config.train.learn_variance needs twice the outputs (field `outputs`); this makes {y.shape} of {x.shape}."
        )


def check_training(experiment: Any) -> None:
    """Raise ConfigError for settings that need a model that is already trained."""
    with config_errors("config.grid"):
        times = experiment.times()
    if experiment.train.sample_every and isinstance(experiment.sampler, StepSampler):
        # such as noise beyond what the steps of the grid allow
        with config_errors("config.sampler"):
            experiment.sampler.prepare(experiment.process, times)
    with config_errors("config.time"):
        experiment.time.quantile(experiment.process, jnp.linspace(0.1, 0.9, 3))
    with config_errors("config.coupling"):
        getattr(experiment.coupling, "check", lambda size: None)(experiment.spec.size)
    if experiment.train.sample_every and experiment.task == "generator":
        # grids of samples take some conditions from held-out data
        with config_errors("config.data"):
            experiment.conditions_in_turn(np.arange(1))
    if (
        experiment.train.sample_every
        and "analytic" in experiment.variances
        and experiment.variance is None
    ):
        raise ConfigError(
            "config.sampler.variance: 'analytic' needs a table that is estimated from the trained model. Train with "
            "another sampler or train.sample_every=0, run `demolish estimate_variance --workdir`, and sample with it."
        )


# ---- notes --------------------------------------------------------------------------------------


def unused_sections(experiment: Any) -> str | None:
    """Return a note about sections of the config that the task or the process does not use."""
    if experiment.task == "generator" and experiment.affine:
        return None
    given = {
        section: section_of(experiment.config, section)
        for section in ("prediction", "weight")
        if section_of(experiment.config, section) != DEFAULTS[section]
    }
    if not given:
        return None
    named = " and ".join(f"config.{k} ({v['name']})" for k, v in given.items())
    if experiment.task != "generator":
        what = f"a {experiment.task.replace('_', ' ')}, whose loss is config.classifier_loss"
    else:
        what = f"{type(experiment.process).__name__}, whose network predicts the velocity with weight 1"
    return f"{named} {'is' if len(given) == 1 else 'are'} not used by {what}."


def endless_noise_level(experiment: Any) -> str | None:
    """Return a note if the network's noise conditioning is not finite at t_max, so that its output is not either."""
    process = experiment.process
    if is_traced(process):
        return None
    level = float(on_host(process.noise_conditioning, float(process.t_max)))
    if np.isfinite(level):
        return None
    return (
        f"at t_max = {float(process.t_max):g} the noise level that the network sees is {level:g}, so samples are not "
        f"finite: end a little earlier, such as config.process.t_max={0.999 * float(process.t_max):g}; "
        "`demolish check` tells more."
    )


def gain_of_errors(experiment: Any) -> str | None:
    """Return a note if the prediction amplifies errors of the network at t_max, where sampling starts."""
    if experiment.task != "generator" or not experiment.affine or is_traced(experiment.process):
        return None
    t = float(experiment.process.t_max)
    gain = error_gain(experiment.process, experiment.prediction, t)
    if gain <= LARGE_GAIN:
        return None
    name = section_of(experiment.config, "prediction")["name"]
    return (
        f"at t_max = {t:g}, where samples start, an error of the prediction {name} counts {gain:.3g} times in the "
        "data: predict v or data, or bound the estimate by the guidance clip."
    )


def long_warmup(experiment: Any) -> str | None:
    """Return a note if the learning rate never reaches its peak."""
    steps = experiment.train.steps(experiment.batch_size)
    warmup = getattr(experiment.optimizer, "warmup", 0)
    if warmup <= steps:
        return None
    return (
        f"the warm-up of {warmup} steps is longer than the run of {steps}: the learning rate gets to "
        f"{steps / warmup:.0%} of config.optimizer.learning_rate."
    )


def coarse_grid(experiment: Any) -> str | None:
    """Return a note if a sampler with so few steps leaves or adds noise even on easy data.

    Measured on normal data with a standard deviation of 0.5, whose denoiser is linear, from draws at t_max.
    """
    sampler, process = experiment.sampler, experiment.process
    stepping = isinstance(sampler, StepSampler) and isinstance(process, AffineProcess)
    # the sampler needs more than a denoiser
    asks_more = {"analytic", "learned"} & experiment.variances
    generates = experiment.task == "generator" and not asks_more
    if not generates or not stepping or experiment.num_steps > FEW_STEPS:
        return None
    found = spread_on_normal_data(sampler, process, experiment.times())
    if found <= TOO_WIDE * NORMAL_STD:
        return None
    name = section_of(experiment.config, "sampler")["name"]
    many = "1 step" if experiment.num_steps == 1 else f"{experiment.num_steps} steps"
    return (
        f"{name} with {many} of this grid ends on normal data of standard deviation {NORMAL_STD} with one of "
        f"{found:.3g}: take more steps, or ddim or dpm_solver_pp_2m."
    )


def spread_on_normal_data(sampler: StepSampler, process: Any, times: np.ndarray) -> float:
    """Return the standard deviation of samples for the data distribution N(0, 0.5^2); infinite for a NaN."""

    def denoise(x: Any, t: Any) -> Any:
        c = process.coefficients(t, x)
        signal = NORMAL_STD**2 * c.alpha
        return signal / (signal * c.alpha + c.sigma**2) * x

    alpha, sigma = (float(on_host(f, float(times[0]))) for f in (process.alpha, process.sigma))
    z = np.random.default_rng(0).standard_normal((256, 1))
    x = jnp.asarray(np.hypot(NORMAL_STD * alpha, sigma) * z / z.std(), jnp.float32)
    found = float(np.std(np.asarray(sample(sampler, process, denoise, 0, x, times), np.float64)))
    return found if np.isfinite(found) else float("inf")


TRAINING: tuple[Note, ...] = (
    unused_sections, long_warmup, endless_noise_level, gain_of_errors,
)  # fmt: skip
SAMPLING: tuple[Note, ...] = (endless_noise_level, gain_of_errors, coarse_grid)


def notes(experiment: Any, of: tuple[Note, ...] = TRAINING + SAMPLING) -> list[str]:
    """Return the notes that apply to this experiment, each once."""
    return [said for note in dict.fromkeys(of) if (said := note(experiment))]
