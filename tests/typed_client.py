"""A program of somebody else's that uses the public names of the package; a type checker must know all of them."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from diffusion import (
    GaussianProcess,
    build,
    check_process,
    exact_field,
    log_prob,
    probability_flow,
    registered,
    sample,
    solve,
)
from diffusion.cli import main
from diffusion.config.experiment import Experiment
from diffusion.run.workdir import Workdir, open_run
from diffusion.samplers import StepSampler
from diffusion.types import Time


@dataclass(frozen=True, kw_only=True)
class Quadratic(GaussianProcess):
    """x_t = (1 - t^2) x_0 + t z."""

    t_max: float = 0.99

    def alpha(self, t: Time) -> jax.Array:
        return 1 - jnp.square(t)

    def sigma(self, t: Time) -> jax.Array:
        return jnp.abs(t)


def generated(count: int) -> jax.Array:
    process = Quadratic()
    check_process(process)
    denoise = exact_field(process, np.zeros((4, 2), np.float32))
    sampler: StepSampler = build("sampler", {"name": "heun"})
    times = process.default_times(8)
    prior = process.sample_prior(jax.random.key(0), (count, 2))
    velocity = probability_flow(process, denoise).velocity
    found = solve(sampler, process, denoise, jax.random.key(1), prior, times)
    density = log_prob(process, denoise, found.x, key=jax.random.key(2))
    return (
        sample(sampler, process, denoise, jax.random.key(1), prior, times)
        + velocity(prior, 0.5)
        + density[:, None]
    )


def trained(folder: str) -> Experiment:
    names: list[str] = list(registered("process"))
    code: int = main(["train", "--config", "toy2d", f"--config.process.name={names[0]}"])
    workdir = Workdir.of(folder)
    return open_run(workdir, workdir.read_config() | {"seed": code}).experiment
