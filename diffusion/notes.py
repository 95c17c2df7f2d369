"""What a person should know of a run before it costs anything, though nothing of it is an error.

A note is a function of an Experiment that returns one sentence, or nothing. `TRAINING` and `SAMPLING` list them; the
programs say them on standard error when they start.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from diffusion.config import DEFAULTS, section_of
from diffusion.numerics import is_traced, on_host

Note = Callable[[Any], str | None]


def unused_sections(experiment: Any) -> str | None:
    """Say which sections were given and are not used, because of what is trained."""
    if experiment.task == "generator" and experiment.affine:
        return None
    given = {
        section: section_of(experiment.config, section)
        for section in ("prediction", "weight")
        if section_of(experiment.config, section) != DEFAULTS[section]
    }
    if not given:
        return None
    named = " and ".join(f"config.{k} ({v['name']})" for k, v in given.items())
    if experiment.task != "generator":
        what = f"a {experiment.task.replace('_', ' ')}, whose loss is config.classifier_loss"
    else:
        what = f"{type(experiment.process).__name__}, whose network predicts the velocity with weight 1"
    return f"{named} {'is' if len(given) == 1 else 'are'} not used by {what}."


def endless_noise_level(experiment: Any) -> str | None:
    """Say where the number that tells the network of the noise is not finite: no output of it will be."""
    process = experiment.process
    if is_traced(process):
        return None
    level = float(on_host(process.noise_level, float(process.t_max)))
    if np.isfinite(level):
        return None
    return (
        f"at t_max = {float(process.t_max):g} the noise level that the network sees is {level:g}, so samples are not "
        f"finite: end a little earlier, such as config.process.t_max={0.999 * float(process.t_max):g}; "
        "scripts/check.py tells more."
    )


TRAINING: tuple[Note, ...] = (unused_sections,)
SAMPLING: tuple[Note, ...] = (endless_noise_level,)


def notes(experiment: Any, of: tuple[Note, ...] = TRAINING + SAMPLING) -> list[str]:
    """Return the notes that apply to this experiment."""
    return [said for note in of if (said := note(experiment))]
