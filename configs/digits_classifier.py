"""A classifier of noisy digits, to guide the model of configs/digits.py: same process, same times.

demolish train --config digits_classifier --workdir runs/digits_classifier
demolish evaluate --workdir runs/digits_classifier

Measured on two CPU cores under other load: 81 s for 2,000 steps. The accuracy on the 359 held-out digits at ten noise
levels is 57.6 %: 12 % at log-SNR -9 (chance is 10 %), 41 % at -1.4, 85 % at 0.5, 98 % at 2.4, 99 % above.

With --config.task=clean_classifier the same network learns clean images only, to be applied to the predicted x_0.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "") -> ConfigDict:
    return ConfigDict(
        dict(
            seed=0,
            task="classifier",
            process=dict(name="vp"),
            time=dict(name="uniform", stratified=True),
            network=dict(
                name="unet_encoder", channels=16, multipliers=(1, 2), blocks=1, attention=(4,)
            ),
            classifier_loss=dict(name="cross_entropy"),
            data=dict(name="digits", batch_size=64),
            optimizer=dict(
                name="adam", learning_rate=2e-3, warmup=100, schedule="cosine", clip=1.0
            ),
            ema=("0.995",),
            train=dict(num_steps=2000, checkpoint_every=500, log_every=100),
            parallel=dict(name="mesh"),
        )
    )
