"""U-Net and transformers on digits, trained by one config that differs in the network alone."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffusion.config.experiment import Experiment
from diffusion.evaluation.frechet import Moments, frechet_distance
from diffusion.evaluation.held_out import loss_by_level
from diffusion.networks.base import count_parameters
from experiments._common import config_of, samples
from experiments.ode_from_scratch.training import trained

LEVELS = 7
ENLARGED = (1, 1.5, 2, 3, 4)  # sides, in units of that of training


def experiment_of(file: str, network: dict[str, Any], num_steps: int) -> Experiment:
    """Return a config file's experiment with another network."""
    config = config_of(file)
    config["network"] = network
    config["train"] |= dict(num_steps=num_steps, sample_every=0)
    return Experiment.from_config(config)


def rows(x: np.ndarray) -> Moments:
    """Return the moments of images."""
    x = np.clip(np.nan_to_num(x), -1, 1)
    return Moments.empty(x[0].size).add(x.reshape(len(x), -1))


def cost(experiment: Experiment) -> dict[str, float]:
    """Return parameters, and millions of operations for one image forward."""
    params = jax.eval_shape(experiment.init_params)
    x, cond = jnp.zeros((1, *experiment.spec.shape)), experiment.example_cond(1)
    lowered = jax.jit(experiment.network.apply).lower(params, x, jnp.zeros(1), cond)
    found: Any = lowered.cost_analysis()
    return dict(parameters=count_parameters(params), megaflops=found["flops"] / 1e6)


@dataclass(frozen=True)
class Contest:
    """One network on one data set."""

    file: str
    network: dict[str, Any]
    num_steps: int
    drawn: int

    def measure(self) -> dict[str, Any]:
        """Train; return costs, errors by level and the Frechet distance on pixels.

        A transformer is then asked at larger sizes as well.
        """
        experiment = experiment_of(self.file, self.network, self.num_steps)
        params, record = trained(experiment)
        model_of = lambda cond: experiment.model(params, cond)
        held_out = experiment.held_out()
        process: Any = experiment.process
        levels = loss_by_level(process, model_of, held_out, num_examples=359, num_levels=LEVELS)
        real = held_out.examples(0, min(held_out.spec.size or 5000, 5000))["data"]
        x = samples(experiment, model_of, self.drawn)
        found = dict(
            **cost(experiment), seconds=record["seconds"],
            frechet=frechet_distance(rows(x), rows(real)),
            levels={f"{e.log_snr:.2f}": e.error for e in levels},
            level_errors={f"{e.log_snr:.2f}": e.standard_error for e in levels},
        )  # fmt: skip
        if self.network["name"] == "dit":
            found["enlarged"] = self.enlarged(experiment, params)
        return found

    def enlarged(self, experiment: Experiment, params: Any) -> dict[str, Any]:
        """Return E|x_0 - x_0_hat|^2 per pixel of enlarged images, without and with log n, by side and log-SNR.

        Pixels are interpolated; the noise per pixel is that of training, so that a larger image is the easier to
        recover and only two numbers of one size compare.
        """
        side, process = experiment.spec.shape[0], experiment.process
        batch = experiment.held_out().examples(0, 100)
        cond = experiment.conditions(batch["cond"]["label"], 100)
        tokens = (side // self.network["patch"]) ** 2
        scaled = experiment_of(self.file, self.network | dict(train_tokens=tokens), 1)
        models = {
            "plain": experiment.base_model(params, cond),
            "log n": scaled.base_model(params, cond),
        }
        found: dict[str, Any] = {}
        for share in ENLARGED:
            pixels = int(share * side)
            shape = (100, pixels, pixels, *experiment.spec.shape[2:])
            x_0 = jax.image.resize(jnp.asarray(batch["data"]), shape, "linear")
            found[str(pixels)] = {n: _errors(process, m, x_0) for n, m in models.items()}
        return found


@functools.partial(jax.jit, static_argnums=0)
def _error(process: Any, model: Any, x_0: Any, t: Any) -> Any:
    z = jax.random.normal(jax.random.key(3), x_0.shape)
    return ((model(process.interpolate(x_0, z, t), t) - x_0) ** 2).mean()


def _errors(process: Any, model: Any, x_0: Any) -> dict[str, float]:
    """Return E|x_0 - x_0_hat|^2 per number by log-SNR."""
    at = lambda level: jnp.full(len(x_0), process.time_of_log_snr(level), jnp.float32)
    return {f"{v:g}": float(_error(process, model, x_0, at(v))) for v in (-2.0, 0.0, 2.0)}
