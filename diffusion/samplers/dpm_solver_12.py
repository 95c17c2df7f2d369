"""DPM-Solver-12: adaptive steps, controlled by the difference between orders 1 and 2."""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, final

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from diffusion.numerics import (
    as_pytree,
    converged,
    in_interval,
    is_static,
    is_traced,
    one_of,
    positive,
    require,
    sum_features,
)
from diffusion.numerics.programs import Programs
from diffusion.numerics.shapes import checked
from diffusion.processes import AffineProcess, Process
from diffusion.processes.base import require_process
from diffusion.registry import register
from diffusion.samplers.base import Callback, Sampler, Solution, replayed
from diffusion.samplers.levels import levels, noise_left
from diffusion.types import Data, Key

_NORMS = ("batch", "sample")


class _Walk(NamedTuple):
    """State of the adaptive loop: lambda, the state, the next step, the last accepted x, the cost."""

    u: Array
    x: Array
    h: Array
    before: Array
    nfe: Int[Array, ""]


@register("sampler", "dpm_solver_12")
@final
@dataclass(frozen=True, kw_only=True)
class DPMSolver12(Sampler):
    """DPM-Solver-2 with steps h in lambda, accepted while E = max over the batch of |(x_2 - x_1)/delta| <= 1.

    x_1 is DPM-Solver-1 and x_2 DPM-Solver-2 (r = 1/2) over the same step; |.| is the root mean square over an
    example, delta = max(atol, rtol max(|x_1|, |x_before|)); then h <- theta h E^(-1/2), at most the rest of the
    interval (Lu et al., 2022a, appendix C). Two evaluations per attempted step. `norm="sample"` gives each
    example its own steps.

    The first and last of the given times are the interval; a trajectory also stops at the times between. A last
    interval that ends where sigma = 0 is a single step to the posterior mean.
    """

    order: ClassVar[int] = 2
    requires: ClassVar[type[Process]] = AffineProcess

    rtol: float = 0.05
    atol: float = 0.0078
    theta: float = 0.9
    h_init: float = 0.05
    max_steps: int = 10_000
    norm: str = "batch"

    def __post_init__(self) -> None:
        positive(rtol=self.rtol, atol=self.atol, of="dpm_solver_12")
        positive(h_init=self.h_init, max_steps=self.max_steps, of="dpm_solver_12")
        in_interval("(0, 1)", theta=self.theta)
        one_of(_NORMS, norm=self.norm)

    @property
    def coupled(self) -> bool:
        """Whether the step size depends on the error of the whole batch."""
        return self.norm == "batch"

    def solve(
        self,
        process: Any,
        model: Any,
        key: Key | None,
        x: Data,
        times: Any,
        save: bool,
        callback: Callback | None = None,
    ) -> Solution:
        """Take x from times[0] to times[-1]; `nfe` is per example, with norm="sample" that of the slowest one."""
        if callback is not None:
            solution = self.solve(process, model, key, x, times, save=True)
            return replayed(solution, times, save, callback)
        require_process(process, self.requires, "the sampler DPMSolver12")
        at = levels(process, times, "the sampler DPMSolver12")
        end_clean = not noise_left(process, times)
        u = at.log_ratio[: len(at.t) - end_clean]
        if not is_traced(u):
            require(
                bool(np.isfinite(u).all()),
                f"dpm_solver_12 steps in log(alpha/sigma), infinite at times[0]; start later than {float(at.t[0]):g}.",
            )
        nfe, path = jnp.asarray(0), x[None]
        if len(u) > 1:
            # the lambdas of all times, or of both ends only
            ladder = jnp.asarray(u if save else u[:: len(u) - 1], x.dtype)
            run = _compiled if is_static(self, process) else _march
            path, nfe, reached = run(self, process, as_pytree(model), x, ladder)
            self._complain(reached)
        if end_clean:
            last = at.t[-2]
            path = jnp.concatenate(
                [path, checked(model)(path[-1], jnp.asarray(last, x.dtype))[None]]
            )
            nfe = nfe + 1
        return Solution(path[-1], path if save else None, nfe)

    def _complain(self, reached: Array) -> None:
        converged(reached, "dpm_solver_12", self)


def _march(
    sampler: DPMSolver12, process: AffineProcess, model: Any, x: Data, ladder: Array
) -> tuple[Array, Array, Array]:
    """Return the states at every lambda of the ladder, the cost, and whether the end was reached."""
    model = checked(model)
    if sampler.norm == "batch":
        return _climb(sampler, process, model, x, ladder)
    one = lambda x: _climb(sampler, process, model, x[None], ladder)
    path, nfe, reached = jax.vmap(one)(x)
    return jnp.moveaxis(path[:, :, 0], 0, 1), nfe.max(), reached.all()


def _climb(
    sampler: DPMSolver12, process: AffineProcess, model: Any, x: Data, ladder: Array
) -> tuple[Array, Array, Array]:
    def segment(walk: _Walk, goal: Array) -> tuple[_Walk, tuple[Array, Array]]:
        unfinished = lambda w: (w.u < goal) & (w.nfe < 2 * sampler.max_steps)
        walk = jax.lax.while_loop(
            unfinished, lambda w: _attempt(sampler, process, model, w, goal), walk
        )
        return walk, (walk.x, walk.u >= goal)

    h = jnp.asarray(sampler.h_init, x.dtype)
    start = _Walk(ladder[0], x, h, x, jnp.asarray(0))
    walk, (path, reached) = jax.lax.scan(segment, start, ladder[1:])
    return jnp.concatenate([x[None], path]), walk.nfe, reached.all()


def _attempt(
    sampler: DPMSolver12, process: AffineProcess, model: Any, walk: _Walk, goal: Array
) -> _Walk:
    """Attempt one step; accept it if the two orders agree."""
    h = jnp.minimum(walk.h, goal - walk.u)
    last = h >= goal - walk.u
    end = jnp.where(last, goal, walk.u + h)
    x_1, x_2 = _pair(process, model, walk.x, walk.u, h)
    delta = jnp.maximum(
        sampler.atol, sampler.rtol * jnp.maximum(jnp.abs(x_1), jnp.abs(walk.before))
    )
    square = sum_features(((x_2 - x_1) / delta) ** 2) / x_1[0].size
    error = jnp.sqrt(square.max())
    good = error <= 1
    proposed = sampler.theta * h * jnp.maximum(error, 1e-10) ** -0.5
    # a step shortened to end at the goal is no reason to propose less than the previously planned length
    longer = jnp.where(last & good, jnp.maximum(proposed, walk.h), proposed)
    return _Walk(
        jnp.where(good, end, walk.u),
        jnp.where(good, x_2, walk.x),
        longer,
        jnp.where(good, x_1, walk.before),
        walk.nfe + 2,
    )


def _pair(process: AffineProcess, model: Any, x: Data, u: Array, h: Array) -> tuple[Data, Data]:
    """Return the steps of order 1 and 2 from lambda = u to u + h."""

    def at(v: Array) -> tuple[Array, Array, Array]:
        t = process.time_of_log_snr(2 * v)
        return t, jnp.asarray(process.alpha(t)), jnp.asarray(process.sigma(t))

    (t, a_t, s_t), (m, a_m, s_m), (_, a_s, s_s) = at(u), at(u + h / 2), at(u + h)
    noise = (x - a_t * model(x, t)) / s_t
    x_1 = a_s / a_t * x - s_s * jnp.expm1(h) * noise
    middle = a_m / a_t * x - s_m * jnp.expm1(h / 2) * noise
    noise_m = (middle - a_m * model(middle, m)) / s_m
    return x_1, a_s / a_t * x - s_s * jnp.expm1(h) * noise_m


_compiled = Programs(_march, 2)
