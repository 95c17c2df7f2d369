"""Flags of guidance: their effect on a config, and the other trained runs (classifier, guide) that they open."""

import argparse
import dataclasses
from collections.abc import Mapping
from typing import Any

from diffusion.cli.messages import fail
from diffusion.cli.parser import Parser, real_number


def add_flags(parser: Parser) -> None:
    """Add the guidance flags to a parser."""
    parser.add_argument(
        "--guidance",
        type=real_number,
        help="Scale of classifier-free guidance, or with --guide of autoguidance, instead of the config's: 1 is the "
        "conditional model, 0 the unconditional model (or the guide), above 1 extrapolates; omega (w) of some papers "
        "is scale - 1.",
    )
    parser.add_argument(
        "--guidance_interval",
        help="LOW,HIGH: guide only while the log-SNR, log(alpha^2 / sigma^2), is in this interval (noise has low "
        "log-SNR); or t:LOW,HIGH for an interval of the process time. No guidance, and no extra cost, elsewhere.",
    )
    parser.add_argument(
        "--classifier",
        help="Work directory of a classifier for classifier guidance. A classifier of clean data is applied to the "
        "predicted x_0.",
    )
    parser.add_argument(
        "--classifier_scale",
        type=real_number,
        help="Scale of --classifier: 0 disables it; 1, the default, is Bayes' rule for an unconditional model "
        "(--guidance 0).",
    )
    parser.add_argument(
        "--guide",
        help="Work directory of a weaker version of the model, smaller or less trained, for autoguidance; the scale "
        "is --guidance, by default 2.",
    )


STEERING = ("classifier_free", "autoguidance", "negative", "cfg_pp", "classifier", "similarity")


def check_flags(flags: argparse.Namespace) -> None:
    """Exit with a message if a guidance flag is invalid, before anything is loaded."""
    interval(flags)
    for name in ("guidance", "classifier_scale"):
        value = getattr(flags, name)
        if value is not None and not 0 <= value <= 10_000:  # NaN fails as well
            fail(
                f"--{name} must not be negative, nor above 10,000; got {value}. 1 is all of it, and more than 20 "
                "is rarely meant."
            )
    if flags.classifier_scale is not None and flags.classifier is None:
        fail("--classifier_scale is the scale of --classifier, which was not given.")


def interval(flags: argparse.Namespace) -> tuple[str, float, float] | None:
    """Return the variable (log-SNR or t) and the bounds of --guidance_interval."""
    if flags.guidance_interval is None:
        return None
    by, _, bounds = flags.guidance_interval.rpartition(":")
    try:
        low, high = (float(word) for word in bounds.split(","))
    except ValueError:
        low = high = float("nan")
    if by not in ("", "t", "log_snr") or low != low or high != high:
        fail(
            "--guidance_interval must be LOW,HIGH in log-SNR, or t:LOW,HIGH in time, such as -2,2.5; got "
            f"{flags.guidance_interval!r}."
        )
    if low >= high:
        fail(
            f"--guidance_interval must have LOW below HIGH; got {low:g},{high:g}. Noise has the lower log-SNR, "
            "and the higher t."
        )
    return by or "log_snr", low, high


def _named(spec: Any) -> dict[str, Any]:
    return {"name": spec} if isinstance(spec, str) else dict(spec)


def _innermost(spec: Mapping[str, Any]) -> str:
    """Return the name of a guidance entry, or of the innermost entry that it wraps."""
    while "inner" in spec:
        spec = _named(spec["inner"])
    return spec["name"]


def section(flags: argparse.Namespace, given: Any) -> list[dict[str, Any]]:
    """Return the section `guidance` of a config with the entries that the flags replace."""
    entries = [_named(g) for g in given]
    front: list[dict[str, Any]] = []
    if flags.guide is not None:
        scale = 2.0 if flags.guidance is None else flags.guidance
        front.append({"name": "autoguidance", "scale": scale})
    elif flags.guidance is not None:
        front.append({"name": "classifier_free", "scale": flags.guidance})
    if front:
        replaced = ("classifier_free", "autoguidance")
        entries = [e for e in entries if _innermost(e) not in replaced]
    if flags.classifier is not None:
        from diffusion.run.workdir import Workdir

        entries = [e for e in entries if _innermost(e) != "classifier"]
        task = Workdir.of(flags.classifier).read_config().get("task")
        scale = 1.0 if flags.classifier_scale is None else flags.classifier_scale
        through = "x_0" if task == "clean_classifier" else "x_t"
        front.append({"name": "classifier", "scale": scale, "through": through})
    return within(interval(flags), [*front, *entries])


def within(
    bounds: tuple[str, float, float] | None, entries: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Restrict the entries that steer the model to --guidance_interval."""
    if bounds is None:
        return entries
    if not any(_innermost(e) in STEERING for e in entries):
        fail(
            "--guidance_interval says where to guide, and nothing guides: give --guidance, --guide or --classifier."
        )
    by, low, high = bounds
    around = {"name": "interval", "low": low, "high": high, "by": by}
    wrapped = []
    for entry in entries:
        inner = _named(entry["inner"]) if entry["name"] == "interval" else entry
        wrapped.append({**around, "inner": inner} if _innermost(entry) in STEERING else entry)
    return wrapped


@dataclasses.dataclass(frozen=True)
class Helpers:
    """The runs that the flags name, opened and checked; `label_source` is the experiment that defines the labels."""

    given: Mapping[str, Any]
    label_source: Any
    card: Mapping[str, Any]
    params: Mapping[str, Any]


def open_helpers(flags: argparse.Namespace, experiment: Any) -> Helpers:
    """Open the classifier and the guide; exit with a message if they do not fit the model."""
    from diffusion.run.guides import check_guide
    from diffusion.run.workdir import Workdir, open_classifier, open_run

    given, card, params, label_source = {}, {}, {}, experiment
    if flags.classifier is not None:
        found = open_classifier(flags.classifier, allow_code=flags.allow_code)
        spec, own = experiment.spec, found.experiment.spec
        if not experiment.conditional:  # only the classifier knows the classes
            known = ("num_classes", "multi_hot_dim", "class_names")
            spec = dataclasses.replace(spec, **{k: getattr(own, k) for k in known})
            label_source = found.experiment
        given["classifier"] = found.log_probs(experiment.process, spec)
        params["classifier"] = found.params
        card["classifier"] = {"workdir": found.where, "step": found.step, "ema": found.ema}
    if flags.guide is not None:
        workdir = Workdir.of(flags.guide)
        run = open_run(workdir, workdir.read_config(), allow_code=flags.allow_code)
        check_guide(experiment, run.experiment, str(workdir.path))
        conditional = run.experiment.conditional
        given["guide"] = lambda cond: run.experiment.base_model(
            run.params, cond if conditional else None
        )
        params["guide"] = run.params
        card["guide"] = {"workdir": str(workdir.path), "step": run.step, "ema": run.ema}
    return Helpers(given, label_source, card, params)


def check_labels(flags: argparse.Namespace, experiment: Any, conditional: bool) -> None:
    """Exit with a message if guidance needs labels and there are none."""
    if conditional:
        return
    if flags.classifier is not None:
        fail("--classifier guides to labels, and there are none: omit --labels none.")
    if flags.guide is None and flags.guidance not in (None, 1.0):
        fail(
            "--guidance extrapolates from the unconditional to the conditional model; this run has "
            + (
                "no labels to use: omit --labels none."
                if experiment.conditional
                else "no labels at all. Without labels there is --guide."
            )
        )
