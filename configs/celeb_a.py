"""CelebA faces, 128x128, with the settings of Jianlin Su's reference code (kexue.fm 9119, 9152).

    demolish data prepare celeb_a
    demolish train --config celeb_a --workdir runs/celeb_a

The chain has T = 1000 and alpha_k = sqrt(1 - 0.02 k/T); the network predicts the noise, with the squared error
*summed* over pixels and t uniform; LAMB with peak 1e-3, warmed up over 4,000 steps, halved at 20,000, a tenth
from 40,000; EMA 0.9999; batch 64; width 128 x (1, 1, 2, 2, 4, 4), two blocks per level, no attention. Ancestral
sampling takes all 1,000 steps without clipping x_0, like the reference code. `--sampler ddim --num_steps 50` is
faster, and `--config.guidance=clip` keeps the estimates of x_0 in the range of pixels.

The reference code trains on CelebA-HQ; the data here are CelebA's aligned faces, cropped to the center. On one
24 GB accelerator it reports recognizable faces after half a day and good ones after three. We have not trained this
recipe.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return ConfigDict(
        dict(
            seed=0,
            process=dict(name="proportional_beta", num_chain_steps=1000, rate=0.02),
            prediction=dict(name="noise"),
            time=dict(name="uniform"),
            weight=dict(name="simple"),
            network=dict(
                name="unet",
                channels=128,
                multipliers=(1, 1, 2, 2, 4, 4),
                blocks=2,
                middle_attention=False,
                adaptive_scale=False,
            ),
            data=dict(name="celeb_a", size=128, batch_size=64, flip=True),
            optimizer=dict(name="lamb", learning_rate=1e-3, schedule="piecewise"),
            ema=("0.9999",),
            train=dict(
                num_steps=500_000, checkpoint_every=2000, sample_every=2000, reduction="sum"
            ),
            sampler=dict(name="ancestral", variance="beta"),
            grid=dict(name="chain", spacing="linspace", num_steps=999),
            parallel=dict(name="mesh"),
            evaluate=dict(num_samples=1000, batch_size=50),
        )
    )
