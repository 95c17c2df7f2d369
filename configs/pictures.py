"""A folder of your own pictures: a class for each subfolder, or no classes where the pictures lie in one folder.

    demolish train --config pictures --config.data.path=my_pictures --workdir runs/mine
    demolish train --config pictures:32 --config.data.path=my_pictures --workdir runs/mine

The word is the size: 32, 64 or 128, 64 if none is given. The network, for two CPU cores, folds the pictures into 16x16
patches before the first convolution, so that the sizes cost about the same. On an accelerator gpu32, gpu64 and gpu128
are wider and fold to 64x64 at most:

    demolish train --config pictures:gpu64 --config.data.path=my_pictures --workdir runs/mine

Pictures are not mirrored; `--config.data.flip=True` does it, which suits photographs and not letters. docs/pictures.md
goes from the folder to a report. The presets for accelerators have not been run to their end.
"""

from ml_collections import ConfigDict

SIZES = ("32", "64", "128")


def get_config(arg: str = "64") -> ConfigDict:
    gpu, word = arg.startswith("gpu"), arg.removeprefix("gpu")
    if word not in SIZES:
        words = ", ".join([*SIZES, *(f"gpu{size}" for size in SIZES)])
        raise ValueError(f"configs/pictures.py:{arg}: the word is one of {words}.")
    size = int(word)
    small = dict(
        name="unet",
        channels=32,
        multipliers=(1, 2, 2),
        blocks=1,
        patch=size // 16,
        attention=(8,),
        dropout=0.1,
    )
    large = dict(
        name="unet",
        channels=128,
        multipliers=(1, 2, 2, 2),
        blocks=2,
        patch=max(1, size // 64),
        attention=(16, 8),
        dropout=0.1,
        dtype="bfloat16",
    )
    return ConfigDict(
        dict(
            seed=0,
            process=dict(name="edm"),
            prediction=dict(name="edm", sigma_data=0.5),
            time=dict(name="log_normal", stratified=True),
            weight=dict(name="edm", sigma_data=0.5),
            network=large if gpu else small,
            data=dict(name="folder", path="pictures", size=size, batch_size=128 if gpu else 32),
            optimizer=dict(
                name="adam",
                learning_rate=5e-4 if gpu else 2e-3,
                warmup=1000 if gpu else 200,
                schedule="cosine",
                clip=1.0,
            ),
            ema=("0.999",),
            train=dict(num_steps=50_000 if gpu else 5000, checkpoint_every=1000, sample_every=1000),
            sampler=dict(name="heun"),
            grid=dict(name="karras", num_steps=18),
            guidance=(),
            parallel=dict(name="mesh"),
            evaluate=dict(num_samples=1000),
        )
    )
