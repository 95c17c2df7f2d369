"""CIFAR-10, 32x32: the DDPM++ network and the EDM recipe (Karras et al., 2022, tables 1 and 7).

    demolish data prepare cifar10
    demolish train --config cifar10 --workdir runs/cifar10
    demolish train --config cifar10:unconditional --workdir runs/cifar10_uncond

56 M parameters, 200 M images: days on one accelerator; the published cost is about two days on eight V100.
We have not trained this recipe and claim no results for it. The published recipe also uses augmentations beyond
flips; this config does not.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    return ConfigDict(
        dict(
            seed=0,
            process=dict(name="edm"),
            prediction=dict(name="edm", sigma_data=0.5),
            time=dict(name="log_normal", mean=-1.2, std=1.2),
            weight=dict(name="edm", sigma_data=0.5),
            network=dict(name="unet", family="ddpmpp", dtype="bfloat16"),
            data=dict(name="cifar10", batch_size=512, flip=True),
            optimizer=dict(name="adam", learning_rate=1e-3, warmup=20_000, clip=1.0),
            ema=("0.9999", "half_life_500000"),
            train=dict(
                num_steps=0,
                num_images=200_000_000,
                checkpoint_every=5000,
                sample_every=5000,
                label_dropout=1.0 if arg == "unconditional" else 0.1,
            ),
            sampler=dict(name="heun"),
            grid=dict(name="karras", num_steps=17),
            guidance=(),
            parallel=dict(name="mesh"),
            evaluate=dict(num_samples=10_000, batch_size=500),
        )
    )
