"""What stands in for published features is itself tested: it must rank damage in the right order.

Digits of the training split against those of the test split, undamaged and damaged more and more. Undamaged they
must lie at the floor, the distance of two real splits; every further step must lie higher.
"""

import numpy as np
import pytest
from subjects import damaged, digits, images, subject_of

from diffusion import build
from diffusion.evaluation.metrics import parse

LADDERS = {
    "noise": ("none", "noise0.2", "noise0.5", "noise1.0"),
    "blur": ("none", "blur1", "blur2", "blur4"),
    "modes": ("none", "classes8", "classes4", "classes1"),
}
METRICS = [f"{m}[{f}]" for m in ("frechet", "kid") for f in ("pixels", "random_conv", "classifier")]


def measured(text, kind):
    x, labels = images()
    results = build("metric", parse(text))(subject_of(damaged(x, labels, kind), digits()))
    value = next(iter(results.values()))
    return value["value"] if isinstance(value, dict) else value


@pytest.mark.slow
@pytest.mark.parametrize("ladder", LADDERS)
@pytest.mark.parametrize("text", METRICS)
def test_more_damage_is_further_away(text, ladder):
    values = [measured(text, kind) for kind in LADDERS[ladder]]
    assert (np.diff(values) > 0).all(), values


@pytest.mark.slow
@pytest.mark.parametrize("text", METRICS)
def test_real_against_real_is_at_the_floor(text):
    """The training split, put in the place of generated examples, has the distance of the training split."""
    x, _ = images()
    own, floor = build("metric", parse(text))(subject_of(x, digits())).values()
    assert own == pytest.approx(floor, rel=1e-9)
    if isinstance(own, dict):
        assert own["low"] <= 0 <= own["high"]


@pytest.mark.slow
def test_precision_and_recall_tell_damage_apart():
    """Noise takes precision and leaves little recall to lose; lost modes take recall and leave precision."""
    x, labels = images()
    metric = build("metric", parse("precision_recall[classifier]"))
    read = lambda kind: list(metric(subject_of(damaged(x, labels, kind), digits())).values())[:2]
    (precise, full), noisy, lost = read("none"), read("noise1.0"), read("classes3")
    assert noisy[0] < precise - 0.2
    assert lost[1] < full - 0.5
    assert lost[0] > precise - 0.15


@pytest.mark.slow
@pytest.mark.parametrize("features", ["pixels", "random_conv", "classifier"])
def test_copies_are_found(features):
    """Held-out digits pass; training digits do not, nor do they when slightly noisy, nor one in ten of them."""
    metric = build("metric", parse(f"memorization[{features}]"))
    train, test = images()[0], images("test")[0]
    mixed = np.concatenate([test[:270], train[:30]])
    verdict = lambda x: next(iter(metric(subject_of(x, digits())).values()))["verdict"]
    assert verdict(test) == "passes"
    for x in (train[:300], damaged(train[:300], None, "noise0.05"), mixed):
        assert verdict(x) != "passes"
    results = metric(subject_of(mixed, digits()))
    pairs = list(results.values())[1]
    assert sorted(p["generated"] for p in pairs) == [p["generated"] for p in pairs][: len(pairs)]
    assert all(p["generated"] - 270 == p["training"] for p in pairs if p["distance"] == 0)


@pytest.mark.slow
def test_class_score_falls_with_modes_and_noise():
    x, labels = images()
    metric = build("metric", "class_score")
    read = lambda kind: next(iter(metric(subject_of(damaged(x, labels, kind), digits())).values()))
    clean = read("none")["value"]
    assert clean > read("noise0.5")["value"]
    assert clean > read("classes8")["value"] > read("classes4")["value"]
