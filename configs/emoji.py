"""Emoji, 1,490 color pictures of 32x32 in nine classes: a class-conditional U-Net for two CPU cores.

    demolish train --config emoji --workdir runs/emoji
    demolish sample --workdir runs/emoji --guidance 1.5 --out emoji.png

The pictures are rendered on first use from an installed font (docs/data.md). They are folded into 16x16 patches before
the first convolution. A step takes half a second of processor time, so that the run needs about 25 minutes on two
free cores; it has not been run to its end, and we claim no results for it.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    return ConfigDict(
        dict(
            seed=0,
            process=dict(name="edm"),
            prediction=dict(name="edm", sigma_data=0.63),
            time=dict(name="log_normal", stratified=True),
            weight=dict(name="edm", sigma_data=0.63),
            network=dict(
                name="unet", channels=32, multipliers=(1, 2, 2), blocks=1, patch=2, attention=(8,)
            ),
            data=dict(name="emoji", batch_size=64),
            optimizer=dict(
                name="adam", learning_rate=2e-3, warmup=200, schedule="cosine", clip=1.0
            ),
            ema=("0.999",),
            train=dict(num_steps=5000, checkpoint_every=1000, sample_every=2500),
            sampler=dict(name="heun"),
            grid=dict(name="karras", num_steps=18),
            guidance=(),
            parallel=dict(name="mesh"),
            evaluate=dict(num_samples=1000),
        )
    )
