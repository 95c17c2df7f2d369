"""Measure the family of reverse SDEs against steps, what lambda mends, and the likelihood of each process.

    python -m experiments.sde_and_ode --tier small|full

results.json is written after every item; a later call measures only what is missing from it. table.md, the table
of README.md and the pictures are made from what there is.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from experiments._common import Call, command, write_pages
from experiments.sde_and_ode import pages, plane
from experiments.sde_and_ode.digits import RECIPES, Digits
from experiments.sde_and_ode.family import LAMBDAS, PROCESSES

HERE = Path(__file__).parent
WRONG = ("nothing", *(f"noise estimate, {band}" for band in plane.BANDS), "start")


@dataclass(frozen=True, kw_only=True)
class Tier:
    """Sizes of the study.

    Args:
        steps: on the mixture.
        many: steps where the solver is not to err.
        likelihood_steps: of the fourth-order method.
        digit_steps: on digits, under the process of training, for every lambda.
        more: (lambda, steps) there.
        others: (lambda, steps) on digits under the other processes.
        repeated: (lambda, steps) on digits from other noise.
        seeds: of that noise.
        drawn: digits per setting.
        bits_count: held-out digits for bits per dimension.
        bits_steps: of the fourth-order method there.
        recipes: trainings on digits whose likelihood is compared.
    """

    steps: tuple[int, ...] = (8, 16, 32, 64, 128, 256)
    many: int = 512
    likelihood_steps: tuple[int, ...] = (16, 32, 64, 128)
    digit_steps: tuple[int, ...] = (10, 20, 50)
    more: tuple[tuple[float, int], ...] = ((0.0, 100), (0.5, 100), (1.0, 100))
    others: tuple[tuple[float, int], ...] = ((0.0, 20), (1.0, 20))
    repeated: tuple[tuple[float, int], ...] = ((0.0, 50), (0.5, 50), (1.0, 50))
    seeds: tuple[int, ...] = (1, 2, 3)
    drawn: int = 500
    bits_count: int = 50
    bits_steps: int = 32
    recipes: tuple[str, ...] = ()


TIERS = {
    "small": Tier(),
    "full": Tier(
        steps=(8, 16, 32, 64, 128, 256, 512, 1024), many=4096, drawn=10_000, bits_count=359, bits_steps=128,
        digit_steps=(10, 20, 50, 100, 250, 1000), recipes=tuple(RECIPES),
    ),
}  # fmt: skip


def in_the_plane(call: Call, tier: Tier) -> None:
    """Measure everything that needs no training, in float64."""
    call.item("plane", "floor", make=plane.noise_floor)
    for name in PROCESSES:
        call.item("plane", "ends", name, make=lambda n=name: plane.ends(n))
        for steps in tier.likelihood_steps:
            make = lambda n=name, k=steps: plane.likelihood(n, k)
            call.item("plane", "likelihood", name, str(steps), make=make)
        draw = plane.Draw(plane.process_of(name), (plane.DRAWN, 2))
        model = plane.TARGET.denoiser(plane.process_of(name))
        for steps in tier.steps:
            for lam in LAMBDAS:
                make = lambda d=draw, m=model, k=steps, v=lam: plane.distance(d(m, v, k))
                call.item("plane", "family", name, f"{lam:g}", str(steps), make=make)
        jax.clear_caches()
    errors = plane.Errors("vp", tier.many)
    for case in WRONG:
        for lam in LAMBDAS:
            make = lambda c=case, v=lam: errors.mixture(c, v)
            call.item("plane", "wrong", case, f"{lam:g}", make=make)
            make = lambda c=case, v=lam: errors.gaussian(c, v)
            call.item("plane", "wrong gaussian", case, f"{lam:g}", make=make)


def on_digits(call: Call, tier: Tier) -> None:
    """Measure a trained network under every process, and networks trained under three."""
    digits = Digits(call.models)
    call.item("digits", "real", make=digits.of_training_images)
    for name in PROCESSES:
        make = lambda n=name: digits.bits(n, tier.bits_steps, tier.bits_count)
        call.item("digits", "bits", name, make=make)
    settings = [("vp", lam, steps) for steps in tier.digit_steps for lam in LAMBDAS]
    settings += [("vp", lam, steps) for lam, steps in tier.more]
    settings += [(name, lam, steps) for lam, steps in tier.others for name in PROCESSES]
    for name, lam, steps in settings:
        make = lambda n=name, v=lam, k=steps: digits.frechet(n, v, k, tier.drawn)
        call.item("digits", "family", name, f"{lam:g}", str(steps), make=make)
    for seed, (lam, steps) in itertools.product(tier.seeds, tier.repeated):
        make = lambda v=lam, k=steps, i=seed: digits.frechet("vp", v, k, tier.drawn, seed=i)
        call.item("digits", "other noise", str(seed), f"{lam:g}", str(steps), make=make)
    for recipe in tier.recipes:
        if call.results.get(call.tier, "digits", "recipes", recipe) is None:
            own = Digits(call.models, recipe)
            make = lambda o=own, r=recipe: o.bits(r, tier.bits_steps, tier.bits_count)
            call.item("digits", "recipes", recipe, make=make)
    file = call.models / f"sde_and_ode-{call.tier}.npy"
    if not file.is_file():
        x = [digits.drawn("vp", lam, tier.digit_steps[1], tier.drawn)[:20] for lam in LAMBDAS]
        np.save(file, np.stack(x))


def main() -> None:
    """Measure one tier and write the pages."""
    call = command(HERE, __doc__ or "")
    tier = TIERS[call.tier]
    with jax.enable_x64(True):
        in_the_plane(call, tier)
    on_digits(call, tier)
    write_pages(HERE, pages)
    pages.pictures(call.results.load(), call.models)
