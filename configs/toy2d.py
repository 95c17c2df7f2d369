"""Points in the plane: an MLP on eight Gaussians. Measured: under a minute for 5,000 steps on two CPU cores.

    demolish train --config toy2d --workdir runs/toy2d
    demolish train --config toy2d:checkerboard --workdir runs/checkerboard
    demolish sample --workdir runs/toy2d --num_samples 2000 --out points.png

Sets: 8gaussians, moons, swiss_roll, checkerboard, spirals.
"""

from ml_collections import ConfigDict


def get_config(arg: str = "8gaussians") -> ConfigDict:
    return ConfigDict(
        dict(
            seed=0,
            process=dict(name="vp"),
            prediction=dict(name="v"),
            time=dict(name="default", stratified=True),
            weight=dict(name="simple"),
            network=dict(name="mlp", width=128, depth=3),
            data=dict(name="points2d", kind=arg or "8gaussians", batch_size=256),
            optimizer=dict(
                name="adam", learning_rate=2e-3, warmup=100, schedule="cosine", clip=1.0
            ),
            ema=("0.995",),
            train=dict(num_steps=5000, checkpoint_every=2500, sample_every=2500, log_every=500),
            sampler=dict(name="heun"),
            grid=dict(name="uniform_log_snr", num_steps=30),
            parallel=dict(name="mesh"),
            evaluate=dict(metrics=("loss_by_level",), num_samples=2000),
        )
    )
