"""Clip art, 5,278 color drawings of 19 subjects: a class-conditional U-Net for two CPU cores, at 32x32.

    demolish train --config openclipart --workdir runs/openclipart
    demolish sample --workdir runs/openclipart --labels food --guidance 1.5 --out food.png

The drawings are those of Debian's package openclipart-png (docs/data.md). They are folded into 16x16 patches before the
first convolution. On an accelerator take the preset at 64x64, with four times the width:

    demolish train --config openclipart:gpu --workdir runs/openclipart

Neither has been run to its end, and no number of their samples is claimed.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "cpu") -> ConfigDict:
    if arg not in ("cpu", "gpu"):
        raise ValueError(f"configs/openclipart.py:{arg}: the word is cpu or gpu.")
    gpu = arg == "gpu"
    small = dict(name="unet", channels=32, multipliers=(1, 2, 2), blocks=1, patch=2, attention=(8,))
    large = dict(
        name="unet",
        channels=128,
        multipliers=(1, 2, 2, 2),
        blocks=2,
        attention=(16, 8),
        dropout=0.1,
        dtype="bfloat16",
    )
    return ConfigDict(
        dict(
            seed=0,
            process=dict(name="edm"),
            prediction=dict(name="edm", sigma_data=0.65),
            time=dict(name="log_normal", stratified=True),
            weight=dict(name="edm", sigma_data=0.65),
            network=large if gpu else small,
            data=dict(name="openclipart", size=64 if gpu else 32, batch_size=256 if gpu else 64),
            optimizer=dict(
                name="adam",
                learning_rate=5e-4 if gpu else 2e-3,
                warmup=1000 if gpu else 200,
                schedule="cosine",
                clip=1.0,
            ),
            ema=("0.999",),
            train=dict(
                num_steps=50_000 if gpu else 10_000, checkpoint_every=1000, sample_every=2500
            ),
            sampler=dict(name="heun"),
            grid=dict(name="karras", num_steps=18),
            guidance=(),
            parallel=dict(name="mesh"),
            evaluate=dict(num_samples=1000),
        )
    )
