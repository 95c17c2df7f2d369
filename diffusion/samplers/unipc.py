"""UniPC: a predictor and a corrector that share all evaluations (Zhao et al., 2023)."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import one_of
from diffusion.processes import AffineProcess, Process
from diffusion.registry import register
from diffusion.samplers.base import StepSampler
from diffusion.samplers.exponential import by_knowledge, linear_part, padded, places, previous
from diffusion.samplers.levels import Levels, levels, namespace
from diffusion.types import Key

_VARIANTS = ("bh1", "bh2")


class Corrected(NamedTuple):
    """The predicted state, the previous corrected state, and earlier evaluations, newest first."""

    x: Array
    before: Array
    past: tuple[Array, ...]


class UniPCRow(NamedTuple):
    """Coefficients of one step: correct the state at t, then predict the state at s; y_0 is the evaluation at t.

    x_t <- stay x_t + keep_c x_before + sum over j of correct[j] y_j
    x_s  = keep x_t + sum over j of predict[j] y_j
    """

    t: Any
    stay: Any
    keep_c: Any
    correct: Any  # (steps, order + 1)
    keep: Any
    predict: Any  # (steps, order)


def _moments(xp: Any, hh: Any, b: Any, count: int) -> list[Any]:
    """Return k! phi_(k + 1)(hh) hh / B, k = 1 .. count, where phi_1 = (e^hh - 1)/hh (their eq. 3)."""
    phi, factorial, found = xp.expm1(hh) / hh - 1, 1.0, []
    for k in range(1, count + 1):
        found.append(phi * factorial / b)
        factorial *= k + 1
        phi = phi / hh - 1 / factorial
    return found


@register("sampler", "unipc")
@final
@dataclass(frozen=True, kw_only=True)
class UniPC(StepSampler):
    """x_s = sigma_s/sigma_t x_t + alpha_s [(1 - e^-h) x_0 - B(h) sum over k of a_k D_k / r_k].

    D_k = x_0(k steps back) - x_0, r_k its distance in units of h; B = -h (bh1) or e^-h - 1 (bh2); the a_k match the
    integral to degree `order`. The corrector adds the evaluation at s, which the next step needs anyway, as one
    more D with r = 1. One evaluation; the predictor has order `order`, the corrected method one order more.
    Zhao et al. (2023), algorithms 1 and 2, in data prediction, multistep. A step that ends where sigma = 0
    is of first order, and the last state is not corrected.
    """

    gains: ClassVar[int] = 1  # from the corrector
    memory: ClassVar[bool] = True
    requires: ClassVar[type[Process]] = AffineProcess

    order: int = 2  # pyright: ignore[reportIncompatibleVariableOverride]
    variant: str = "bh2"

    def __post_init__(self) -> None:
        one_of((1, 2, 3), order=self.order, of="unipc")
        one_of(_VARIANTS, variant=self.variant)

    def init(self, x: Array) -> Corrected:
        return Corrected(x, jnp.zeros_like(x), (jnp.zeros_like(x),) * self.order)

    def _weights(self, at: Levels, known: int, steps: slice) -> tuple[Any, Any]:
        """Return the weights of predictor and corrector that use `known` evaluations, newest first."""
        xp = namespace(at.t)
        start, h, _ = places(at)
        h_s, alpha = h[steps], at.alpha[1:][steps]
        r = [((previous(start, k) - start)[steps]) / h_s for k in range(1, known)]
        nodes = xp.stack([*r, xp.ones_like(h_s)], axis=-1)  # (steps, known)
        hh = -h_s
        b = hh if self.variant == "bh1" else xp.expm1(hh)
        powers = xp.stack([nodes**k for k in range(known)], axis=-2)
        right = xp.stack(_moments(xp, hh, b, known), axis=-1)
        half = xp.full((len(h_s), 1), 0.5)
        solve = lambda a, y: xp.linalg.solve(a, y[..., None])[..., 0]
        a_c = half if known == 1 else solve(powers, right)
        # order 1 has no difference, order 2 has one with the weight 1/2
        a_p = half[:, :0] if known == 1 else half
        if known > 2:
            a_p = solve(powers[:, :-1, :-1], right[:, :-1])
        d_c, d_p = a_c / nodes, a_p / nodes[:, :-1]
        pull, scale = -alpha * xp.expm1(hh), -alpha * b
        new_p = xp.stack([pull - scale * d_p.sum(axis=-1), *(scale * c for c in d_p.T)], axis=-1)
        new_c = xp.stack(
            [scale * d_c[:, -1], pull - scale * d_c.sum(axis=-1), *(scale * c for c in d_c[:, :-1].T)],
            axis=-1,
        )  # fmt: skip
        return (
            xp.pad(new_p, ((0, 0), (0, self.order - known))),
            xp.pad(new_c, ((0, 0), (0, self.order - known))),
        )

    def prepare(self, process: Process, times: Any) -> UniPCRow:
        at = levels(process, times, "the sampler UniPC")
        xp, num_steps = namespace(at.t), len(at.t) - 1
        keep, pull = linear_part(at)
        parts = [self._weights(at, k, steps) for k, steps in by_knowledge(self.order, num_steps)]
        predict, correct = (xp.concatenate(p) for p in zip(*parts, strict=True))
        _, _, endless = places(at)
        predict = xp.where(endless[:, None], padded(pull, self.order), predict)
        # a state is corrected with the coefficients of the step that ended there, hence one row later; not
        # after a step of infinite length, which is of first order
        shift = lambda c: xp.concatenate([xp.zeros_like(c[:1]), c[:-1]])
        stay = (xp.arange(num_steps) == 0) | shift(endless)
        keep_c = xp.where(stay, 0.0, shift(keep))
        correct = xp.where(stay[:, None], 0.0, shift(correct))
        return UniPCRow(at.t[:-1], xp.where(stay, 1.0, 0.0), keep_c, correct, keep, predict)

    def step(
        self, process: Process, model: Any, key: Key | None, state: Corrected, row: UniPCRow
    ) -> Corrected:
        y = (model(state.x, row.t), *state.past)
        x_t = row.stay * state.x + row.keep_c * state.before
        x_t = x_t + sum(row.correct[j] * y[j] for j in range(self.order + 1))
        x_s = row.keep * x_t + sum(row.predict[j] * y[j] for j in range(self.order))
        return Corrected(x_s, x_t, y[:-1])
