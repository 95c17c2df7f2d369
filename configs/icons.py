"""Desktop icons, 32x32, seven kinds in color: a class-conditional U-Net for two CPU cores.

    demolish train --config icons --workdir runs/icons
    demolish sample --workdir runs/icons --guidance 1.5 --out icons.png

The icons are those of Debian's package oxygen-icon-theme (docs/data.md). They are folded into 16x16 patches before the
first convolution, and not mirrored: arrows and letters would change their meaning. It has not been run to its end, and
no number of its samples is claimed.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return ConfigDict(
        dict(
            seed=0,
            process=dict(name="edm"),
            prediction=dict(name="edm", sigma_data=0.52),
            time=dict(name="log_normal", stratified=True),
            weight=dict(name="edm", sigma_data=0.52),
            network=dict(
                name="unet", channels=32, multipliers=(1, 2, 2), blocks=1, patch=2, attention=(8,)
            ),
            data=dict(name="icons", size=32, batch_size=64),
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
