"""ImageNet, 64x64, class-conditional: the ADM network and the EDM recipe (Karras et al., 2022, table 7).

    demolish data prepare imagenet_resized
    demolish train --config imagenet64 --workdir runs/imagenet64

296 M parameters and 2.5 G images: the published cost is 13 days on 32 A100. We have not trained this recipe and claim
no results for it. On several devices the state is sharded over `config.parallel.fsdp` of them.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    del arg
    return ConfigDict(
        dict(
            seed=0,
            process=dict(name="edm"),
            prediction=dict(name="edm", sigma_data=0.5),
            time=dict(name="log_normal", mean=-1.2, std=1.2),
            weight=dict(name="edm", sigma_data=0.5),
            network=dict(name="unet", family="adm", dtype="bfloat16"),
            data=dict(name="imagenet_resized", batch_size=4096),
            optimizer=dict(name="adam", learning_rate=1e-4, warmup=2500, clip=1.0),
            ema=("0.9999", "half_life_50000000"),
            train=dict(
                num_steps=0, num_images=2_500_000_000, checkpoint_every=1000, sample_every=5000
            ),
            sampler=dict(name="heun"),
            grid=dict(name="karras", num_steps=39),
            guidance=(),
            parallel=dict(name="mesh", fsdp=1),
            evaluate=dict(num_samples=50_000, batch_size=512),
        )
    )
