"""Fashion-MNIST, 60,000 garments of 28x28: a class-conditional U-Net for two CPU cores.

    demolish train --config fashion_mnist --workdir runs/fashion
    demolish sample --workdir runs/fashion --guidance 1.5 --out fashion.png

The images are folded into 14x14 patches before the first convolution, which costs a quarter of the work at full
resolution. They are not flipped, since the shoes of this data set point to the left. The lowest noise levels are
lower than usual for images, since bits per dimension depend on them. The preset `half_hour` trains 9,000 steps
instead of 5,000: 30 minutes on two idle cores. Its results, and the effect of each choice, are in
experiments/fashion_mnist.

On an accelerator use the preset with full resolution and four times the width (not measured):

    demolish train --config fashion_mnist:gpu --workdir runs/fashion
"""

from ml_collections import ConfigDict


def get_config(arg: str = "cpu") -> ConfigDict:
    if arg not in ("cpu", "half_hour", "gpu"):
        raise ValueError(f"configs/fashion_mnist.py:{arg}: the word is cpu, half_hour or gpu.")
    small = dict(name="unet", channels=32, multipliers=(1, 2), blocks=1, patch=2, attention=(7,))
    large = dict(
        name="unet",
        channels=128,
        multipliers=(1, 2, 2),
        blocks=2,
        attention=(14, 7),
        dropout=0.1,
        dtype="bfloat16",
    )
    gpu = arg == "gpu"
    return ConfigDict(
        dict(
            seed=0,
            process=dict(name="edm"),
            prediction=dict(name="edm", sigma_data=0.7),
            time=dict(name="log_normal", mean=-1.8, std=1.8, stratified=True),
            weight=dict(name="edm", sigma_data=0.7),
            network=large if gpu else small,
            data=dict(name="fashion_mnist", batch_size=256 if gpu else 64, flip=False),
            optimizer=dict(
                name="adam", learning_rate=2e-3, warmup=200, schedule="cosine", clip=1.0
            ),
            ema=("0.999",),
            train=dict(
                num_steps={"cpu": 5000, "half_hour": 9000, "gpu": 40_000}[arg],
                checkpoint_every=1000,
                sample_every=2500,
            ),
            sampler=dict(name="heun"),
            grid=dict(name="karras", num_steps=18),
            guidance=(),
            parallel=dict(name="mesh"),
            evaluate=dict(num_samples=1000),
        )
    )
