"""The same features, judged by torch-fidelity and pytorch-fid where these are installed."""

import warnings

import numpy as np
import pytest

from diffusion.evaluation.frechet import Sample, frechet_of_samples
from diffusion.evaluation.kernel import unbiased_mmd
from diffusion.evaluation.metrics.scores import class_score
from diffusion.evaluation.neighbors import overlap


@pytest.fixture(scope="module")
def features():
    """Generated and real features, as a layer of rectified units would give them."""
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(24, 24))
    made = np.maximum(rng.normal(size=(300, 24)) @ mix, 0)
    return made, np.maximum(0.2 + rng.normal(size=(200, 24)) @ mix, 0)


def ours(features):
    return frechet_of_samples(*(Sample.of([x], x.shape[1]) for x in features))


def test_frechet_of_torch_fidelity(features):
    fid = pytest.importorskip("torch_fidelity.metric_fid", reason="torch-fidelity is not installed")
    import torch

    given = [fid.fid_features_to_statistics(torch.from_numpy(x)) for x in features]
    found = fid.fid_statistics_to_metric(*given, False)["frechet_inception_distance"]
    np.testing.assert_allclose(ours(features), found, rtol=1e-6)


def test_frechet_of_pytorch_fid(features):
    fid = pytest.importorskip("pytorch_fid.fid_score", reason="pytorch-fid is not installed")
    given = [m for x in features for m in (x.mean(axis=0), np.cov(x.T))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an argument of scipy that is going away
        found = fid.calculate_frechet_distance(*given)
    np.testing.assert_allclose(ours(features), found, rtol=1e-6)


def test_kernel_distance_of_torch_fidelity(features):
    kid = pytest.importorskip("torch_fidelity.metric_kid", reason="torch-fidelity is not installed")
    x, y = (f[:200] for f in features)
    options = dict(kid_kernel_poly_degree=3, kid_kernel_poly_gamma=None, kid_kernel_poly_coef0=1)
    kernels = [kid.kernel_poly(a, b, **options) for a, b in ((x, x), (x, y), (y, y))]
    np.testing.assert_allclose(unbiased_mmd(x, y), kid.mmd2(*kernels), rtol=1e-10)


def test_precision_and_recall_of_torch_fidelity(features):
    prc = pytest.importorskip("torch_fidelity.metric_prc", reason="torch-fidelity is not installed")
    import torch

    given = [torch.from_numpy(x) for x in features]
    options = dict(prc_neighborhood=3, prc_batch_size=50, save_cpu_ram=False, verbose=False)
    found = prc.prc_features_to_metric(*given, **options)
    mine = overlap(features[1], features[0], 3)
    np.testing.assert_allclose(
        (mine.precision, mine.recall), (found["precision"], found["recall"]), rtol=1e-6
    )  # theirs is the mean in float32


def test_class_score_of_torch_fidelity(features):
    isc = pytest.importorskip("torch_fidelity.metric_isc", reason="torch-fidelity is not installed")
    import torch

    logits = features[0]
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    found = isc.isc_features_to_metric(torch.from_numpy(logits), splits=10, shuffle=False)
    score = class_score([log_probs[:170], log_probs[170:]], 300, 10)
    np.testing.assert_allclose(score.mean_over_parts, found["inception_score_mean"], rtol=1e-6)
