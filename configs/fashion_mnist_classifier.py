"""A classifier of noisy garments, to guide the model of configs/fashion_mnist.py: same process, same times.

    demolish train --config fashion_mnist_classifier --workdir runs/fashion_classifier
    demolish evaluate --workdir runs/fashion_classifier

The images are folded into 14x14 patches, like those of the generator.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    return ConfigDict(
        dict(
            seed=0,
            task="classifier",
            process=dict(name="edm"),
            time=dict(name="log_normal", stratified=True),
            network=dict(
                name="unet_encoder",
                channels=32,
                multipliers=(1, 2),
                blocks=1,
                patch=2,
                attention=(7,),
            ),
            classifier_loss=dict(name="cross_entropy"),
            data=dict(name="fashion_mnist", batch_size=64, flip=True),
            optimizer=dict(
                name="adam", learning_rate=2e-3, warmup=100, schedule="cosine", clip=1.0
            ),
            ema=("0.999",),
            train=dict(num_steps=2000, checkpoint_every=500, log_every=100),
            parallel=dict(name="mesh"),
            evaluate=dict(batch_size=200),
        )
    )
