"""hackable_diffusion: its Unet in the hand-written loop of `plain_flax`, and its samplers.

Its library modules are imported one by one: its top module would import its trainer and TensorFlow.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from hackable_diffusion.lib.architecture import arch_typing, unet, unet_blocks
from hackable_diffusion.lib.corruption import gaussian, schedules
from hackable_diffusion.lib.sampling import gaussian_step_sampler, sampling, time_scheduling

from benchmarks.cases import Case
from benchmarks.peers.jax_tools import called, peak_memory, versions
from benchmarks.peers.plain_flax import Embed, trainer
from benchmarks.worker import Work

NONE = arch_typing.INVALID_INT
WIDTH = 28  # instead of 32: its blocks cost more; with these the FLOPs agree


class Network(nn.Module):
    """The U-Net nearest to that of the case, behind an embedding of the noise level."""

    case: Case

    @nn.compact
    def __call__(self, x: Any, level: Any, train: bool) -> Any:
        """Return the predicted noise."""
        c, count = self.case, len(self.case.multipliers)
        sides = [c.shape[0] // 2**i for i in range(count)]
        width = 4 * round(c.channels * WIDTH / 32 / 4)
        backbone = unet.Unet(
            base_channels=width,
            channels_multiplier=c.multipliers,
            num_residual_blocks=(c.blocks,) * count,
            downsample_fn=unet_blocks.AvgPoolDownsample(),
            upsample_fn=unet_blocks.ImageResizeUpsample(),
            dropout_rate=(c.dropout,) * count,
            bottleneck_dropout_rate=c.dropout,
            self_attention_bool=tuple(side in c.attention for side in sides),
            cross_attention_bool=(False,) * count,
            attention_num_heads=1,
            attention_head_dim=NONE,
            attention_normalize_qk=False,
            attention_use_rope=False,
            attention_rope_positions_fn=None,
            normalization_type="group_norm",
            normalization_num_groups=width // 4,
            activation="silu",
            skip_connection_fn=unet_blocks.UnnormalizedAddSkip(),
            dtype=jnp.dtype(c.dtype),
        )
        emb = Embed(4 * c.channels)(level)
        return backbone(x, {"adaptive_norm": emb}, is_training=train).astype(jnp.float32)


def train(case: Case, variant: str) -> Work:
    """Return the step of its U-Net."""
    del variant
    module, x = Network(case), jnp.zeros((1, *case.shape))

    def apply(params: Any, x: Any, level: Any, key: Any) -> Any:
        return module.apply(params, x, level, True, rngs={"dropout": key})

    work = trainer(case, apply, lambda key: module.init(key, x, jnp.zeros(1), False))
    told = {"differs": "0.875 times as wide, skips are added, fixed resampling"}
    facts = work.facts | versions("hackable-diffusion", "optax") | told
    return Work(run=work.run, facts=facts, memory=work.memory)


def overhead(case: Case, variant: str) -> Work:
    """Return calls of a sampler: NAME under the user's own `jax.jit`, or NAME:eager, as it stands."""
    name, _, how = variant.partition(":")
    process = gaussian.GaussianProcess(schedule=schedules.CosineSchedule())
    kinds = {
        "DDIM": lambda: gaussian_step_sampler.DDIMStep(corruption_process=process, stoch_coeff=0.0),
        "SDE": lambda: gaussian_step_sampler.SdeStep(corruption_process=process, churn=1.0),
    }
    sampler = sampling.DiffusionSampler(
        time_schedule=time_scheduling.UniformTimeSchedule(), stepper=kinds[name](),
        num_steps=case.steps, store_trajectory=False,
    )  # fmt: skip
    key_x, key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(key_x, (case.batch, *case.shape))

    def infer(time: Any, xt: Any, conditioning: Any = None, **_: Any) -> Any:
        del time, conditioning
        return {"x0": 0.9 * xt}

    def once(x: Any, key: Any) -> Any:
        return sampler(inference_fn=infer, rng=key, initial_noise=x)[0].xt

    call = once if how else jax.jit(once)

    return Work(
        run=called(call, x, key),
        facts=versions("hackable-diffusion") | {"devices_used": 1},
        memory=peak_memory,
    )
