"""dewml: its Unet in the hand-written loop of `plain_flax`, and its samplers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from dew.diffusion import presets
from dew.diffusion.process import Process
from dew.diffusion.schedules import CosineNoiseScheduler
from dew.diffusion.transforms import DirectPredictionTransform, ScheduleWeighting
from dew.nn.attention import Stage
from dew.nn.backbones.unet import Unet
from dew.sampling import sample, solvers

from benchmarks.cases import Case
from benchmarks.peers.jax_tools import called, peak_memory, versions
from benchmarks.peers.plain_flax import trainer
from benchmarks.worker import Work


def network(case: Case) -> nn.Module:
    """Return the U-Net nearest to that of the case."""
    width = 8 * round(
        case.channels * 5 / 32
    )  # it halves the channels late; with these the FLOPs agree
    widths = tuple(width * m for m in case.multipliers)
    sides = [case.shape[0] // 2**i for i in range(len(widths))]
    stages = [
        Stage(heads=1) if side in case.attention or i + 1 == len(sides) else None
        for i, side in enumerate(sides)
    ]
    return Unet(
        output_channels=case.shape[-1], feature_depths=widths, attention_configs=tuple(stages),
        num_res_blocks=case.blocks, emb_features=4 * case.channels, dtype=jnp.dtype(case.dtype),
    )  # fmt: skip


def train(case: Case, variant: str) -> Work:
    """Return the step of its U-Net."""
    del variant
    module, x = network(case), jnp.zeros((1, *case.shape))
    apply = lambda params, x, level, key: module.apply(params, x, level).astype(jnp.float32)
    work = trainer(case, apply, lambda key: module.init(key, x, jnp.zeros(1)))
    told = {
        "differs": "1.25 times as wide, as many blocks up as down, attention in all of the lowest"
    }
    return Work(
        run=work.run, facts=work.facts | versions("dewml", "optax") | told, memory=work.memory
    )


class Shrink(nn.Module):
    """Stand for a network that predicts the data: one multiplication."""

    @nn.compact
    def __call__(self, x: Any, t: Any) -> Any:
        """Return 0.9 x."""
        del t
        return 0.9 * x


def overhead(case: Case, variant: str) -> Work:
    """Return calls of `sample`: NAME under the user's own `jax.jit`, or NAME:eager, as it stands.

    The solvers that integrate over sigma run on Karras' grid, the others on the cosine table.
    """
    name, _, how = variant.partition(":")
    if name in ("Euler", "Heun", "EulerAncestral"):
        process = presets.Karras()()
    else:
        process = Process(
            schedule=CosineNoiseScheduler(1000), prediction=DirectPredictionTransform(),
            weighting=ScheduleWeighting(),
        )  # fmt: skip
    denoiser, solver = process.denoiser(Shrink(), {}, {}), getattr(solvers, name)()
    key_x, key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(key_x, (case.batch, *case.shape))

    def once(x: Any, key: Any) -> Any:
        return sample(denoiser, x, case.steps, solver=solver, key=key, final_denoise=False)

    call = once if how else jax.jit(once)

    return Work(
        run=called(call, x, key), facts=versions("dewml") | {"devices_used": 1}, memory=peak_memory
    )
