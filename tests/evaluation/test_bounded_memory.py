"""Many examples never lie in memory together."""

import tracemalloc

import numpy as np

from diffusion import build
from diffusion.data import Dataset, DataSpec, to_float
from diffusion.evaluation import EvalInputs


class Endless(Dataset):
    """Images of 12 x 12 drawn when they are asked for: a finite set that is held nowhere."""

    def __init__(self, size, split):
        self.size, self.split = size, split

    @property
    def spec(self):
        return DataSpec(shape=(12, 12, 1), size=self.size)

    def batch(self, step, batch_size, seed=0, index=None, train=True, rows=None):
        return self.examples(step * batch_size, batch_size)

    def examples(self, start, count):
        rng = np.random.default_rng((len(self.split), start))
        count = min(count, self.size - start)
        return {"data": to_float(rng.integers(0, 256, (count, 12, 12, 1), np.uint8))}


def peak_of(name, num_samples):
    train, held_out = Endless(1500, "train"), Endless(1000, "test")

    def generate(count, start=0):
        for i in range(0, count, 250):
            yield held_out.examples(i % 1000, min(250, count - i))["data"]

    inputs = EvalInputs(
        generate=generate, train=train, held_out=held_out, num_samples=num_samples, batch_size=250
    )
    tracemalloc.start()
    results = build("metric", name)(inputs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return results, peak


def test_frechet_streams():
    """8,000 images of 144 floats are 5 MB as float32 and 9 MB as features; what 1,000 need is enough."""
    small, large = peak_of("frechet", 1000), peak_of("frechet", 8000)
    assert any("@8000_against_1000" in key for key in large[0])
    assert large[1] < 1.1 * small[1] + 1e6


def test_what_holds_features_holds_no_more_than_it_says():
    """With at most 500 examples of each set, ten times as many generated ones need no more memory."""
    spec = dict(name="kid", max_examples=500, exact_below=100, num_subsets=10)
    small, large = peak_of(spec, 1000), peak_of(spec, 10_000)
    assert any("@500_against_500" in key for key in large[0])
    assert large[1] < 1.1 * small[1] + 1e6
