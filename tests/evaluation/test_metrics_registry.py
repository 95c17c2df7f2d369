"""What every registered metric must do, by itself: finite numbers with honest names, a card, purity, batches."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest
from subjects import damaged, digits, images, points, subject_of

from diffusion import build, registered
from diffusion.evaluation import Extractor
from diffusion.evaluation.metrics import parse, parse_list, written
from diffusion.registry import lookup

RUN = {
    "loss_by_level",
    "bits_per_dim",
    "accuracy_by_level",
    "label_agreement",
}  # tested with a model elsewhere
LABELS = {"class_score"}  # and so images with labels
METRICS = [name for name in registered("metric") if name not in RUN]
FEATURES = ("pixels", "random_conv", "classifier")


def spec(name):
    """The metric with features that are at hand: others need weights from a file."""
    return {"name": name}


def values(results):
    """All numbers, however they are packed."""
    for value in results.values():
        for part in value if isinstance(value, list) else [value]:
            yield from part.values() if isinstance(part, dict) else [part]


@pytest.fixture(scope="module")
def made():
    x, labels = images()
    return {
        "digits": damaged(x[:400], labels[:400], "noise0.3"),
        "points": points().batch(3, 400, seed=1)["data"] + np.float32(0.1),
    }


def subject(kind, made, **given):
    return subject_of(made[kind], digits() if kind == "digits" else points(), **given)


def close(a, b):
    """Equal numbers, to round-off of features of order 1 that are summed in another order."""
    a, b = list(values(a)), list(values(b))
    assert len(a) == len(b)
    for one, two in zip(a, b, strict=True):
        assert one == two or (
            not isinstance(one, str) and math.isclose(one, two, rel_tol=1e-6, abs_tol=1e-8)
        ), (one, two)


def test_all_metrics_are_covered():
    assert set(registered("metric")) >= RUN
    assert all(
        lookup("metric", name).needs_run or name in RUN - {"label_agreement"} for name in RUN
    )


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("kind", ["digits", "points"])
def test_metric(name, kind, made):
    """Finite, counted, described, pure, and independent of the batch size."""
    if kind == "points" and name in LABELS:
        with pytest.raises(ValueError, match="classifier"):
            build("metric", spec(name))(subject(kind, made))
        return
    metric = build("metric", spec(name))
    given = subject(kind, made)
    results = metric(given)
    for number in values(results):
        assert isinstance(number, str) or math.isfinite(number)
    held_out = given.held_out.spec.size
    for key in results:
        counts = [int(n) for n in re.findall(r"\d+", key.partition("@")[2])]
        assert counts, f"{key} says no counts"
        assert set(counts) <= {400, held_out, given.train.spec.size, given.num_samples}
    card = metric.card(given)
    assert card == json.loads(json.dumps(card))
    assert card["metric"] == name
    assert card["version"] >= 1
    assert card["reference"]["count"] == held_out
    assert re.fullmatch(r"[0-9a-f]{64}", card["reference"]["sha256"])
    fields = {f.name for f in dataclasses.fields(metric)}
    assert ("features" in card) == ("features" in fields)
    if "features" in card:
        assert re.fullmatch(r"[0-9a-f]{64}", card["features"]["sha256"])
        assert all(card["features"]["name"] in key for key in results)
    assert metric(given) == results
    close(metric(subject(kind, made, batch_size=37)), results)


@pytest.mark.slow
@pytest.mark.parametrize("name", METRICS)
def test_features_are_named(name, made):
    """Every metric that compares features takes all of ours, and says which."""
    if "features" not in {f.name for f in dataclasses.fields(lookup("metric", name))}:
        return
    given = subject("digits", made)
    for features in ("random_conv", "classifier"):
        if name == "class_score" and features != "classifier":
            continue
        if name == "frechet_infinity" and features == "random_conv":
            continue  # 192 features of 400 examples: refused, see below
        metric = build("metric", parse(f"{name}[{features}]"))
        found = given.extractor(metric.features).name
        assert found in ("random_conv[3 seeds]", "classifier[digits]")
        assert all(found in key for key in metric(given))


@pytest.mark.parametrize("name", sorted(RUN))
def test_metrics_of_a_run_refuse_examples_alone(name, made):
    if name == "label_agreement":
        return
    with pytest.raises(ValueError, match=name):
        build("metric", name)(subject("digits", made))


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda x: np.full_like(x, np.nan), "finite"),
        (lambda x: x[:, :4], "shape"),
        (lambda x: (x + 1) / 2, r"\[0, 1\]"),
        (lambda x: np.round((x + 1) * 127.5), "8-bit"),
        (lambda x: np.round((x + 1) * 127.5).astype(np.uint8), "uint8"),
        (lambda x: x[:0], "needs? at least"),
        (lambda x: x[:1], "needs? at least"),
    ],
    ids=["nan", "size", "zero_to_one", "levels", "uint8", "empty", "single"],
)
def test_bad_examples_are_refused(name, spoil, words, made):
    if name == "energy_distance" and words not in ("finite", "needs? at least"):
        return  # takes the values of anything, as they are
    x = spoil(np.clip(made["digits"], -1, 1))
    with pytest.raises(ValueError, match=words):
        build("metric", name)(subject_of(x, digits()))


def test_few_examples_are_named(made):
    """Fewer examples than features: computed, and the name says so."""
    x = made["digits"][:50]
    for name in ("frechet", "gaussian"):
        keys = list(build("metric", name)(subject_of(x, digits())))
        assert keys[0] == f"{name}_pixels_rank_deficient@50_against_359"
    keys = list(build("metric", "frechet")(subject_of(x, digits())))
    assert keys[1] == "frechet_pixels_rank_deficient_of_training_data@50_against_359"
    with pytest.raises(ValueError, match="extrapolation over 64 features"):
        build("metric", "frechet_infinity")(subject_of(x, digits()))


def test_the_reserved_words():
    """Inception features and 50,000 examples make FID; one of them does not."""
    from diffusion.evaluation.metrics.frechet import named
    from diffusion.evaluation.metrics.kernel import named as kernel_named

    class Fake(Extractor):
        name, dim, sha256 = "inception", 2048, ""
        rows = None

    fake = Fake()
    assert named("frechet", fake, 50_000, 10_000) == "fid@50000_against_10000"
    assert named("frechet", fake, 10_000, 10_000) == "frechet_inception@10000_against_10000"
    training = named("frechet", fake, 50_000, 10_000, "_of_training_data")
    assert training == "frechet_inception_of_training_data@50000_against_10000"
    assert kernel_named(fake, 10_000, 50_000, 10_000) == "kid@10000_against_10000"
    assert kernel_named(fake, 10_000, 10_000, 10_000).startswith("kernel_distance_inception@")
    fake.name = "classifier[digits]"
    assert named("frechet", fake, 50_000, 10_000).startswith("frechet_classifier[digits]@")
    assert kernel_named(fake, 10_000, 50_000, 10_000).startswith("kernel_distance_classifier")


def test_command_lines():
    """Every form is read, and written so that it is read back."""
    forms = {
        "frechet": {"name": "frechet"},
        "frechet[classifier]": {"name": "frechet", "features": "classifier"},
        "kid[random_conv,seeds=(1, 2)]": {
            "name": "kid", "features": {"name": "random_conv", "seeds": (1, 2)},
        },
        "precision_recall[pixels,precision_recall.k=4]": {
            "name": "precision_recall", "features": "pixels", "k": 4,
        },
        "bits_per_dim[bits_per_dim.num_steps=8]": {"name": "bits_per_dim", "num_steps": 8},
    }  # fmt: skip
    for text, expected in forms.items():
        assert parse(text) == expected
        assert parse(written(parse(text))) == expected
        build("metric", expected)
    assert parse_list(", ".join(forms)) == list(forms.values())
    assert parse_list(["frechet", {"name": "kid"}]) == [{"name": "frechet"}, {"name": "kid"}]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("frechett", KeyError, "frechet"),
        ("frechet[clasifier]", KeyError, "classifier"),
        ("energy_distance[pixels]", ValueError, "compares no features"),
        ("frechet[pixels", ValueError, "cannot read"),
        ("frechet[seeds=3]", ValueError, "comes first"),
        ("frechet[pixels,seeds]", ValueError, "field=value"),
    ],
)
def test_wrong_command_lines(text, error, words):
    with pytest.raises(error, match=words):
        parse(text)
