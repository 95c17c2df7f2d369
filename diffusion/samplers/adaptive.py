"""Adaptive integration of the generative ODE by diffrax."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.numerics import as_pytree, is_static, is_traced, require
from diffusion.processes import Process
from diffusion.registry import nearest, register
from diffusion.samplers.base import Sampler, Solution
from diffusion.samplers.levels import host_times, noise_left
from diffusion.types import Key

Data = Float[Array, "batch *data"]
_NORMS = ("batch", "sample")


@register("sampler", "diffrax")
@final
@dataclass(frozen=True, kw_only=True)
class Diffrax(Sampler):
    """dx/dt = v(x, t) by any explicit adaptive solver of diffrax, by name (Kidger, 2022).

    The first and last of the given times are the interval; the others say where the trajectory is
    reported, not how many steps are taken. `norm="batch"` controls the error of the batch as one state;
    "sample" gives each example its own step sizes, so that it does not depend on its neighbours, and the
    work lasts until the slowest one ends.
    """

    order: ClassVar[int] = 5  # of the default solver; adaptive, so not seen in a fixed-grid test

    solver: str = "Tsit5"
    rtol: float = 1e-4
    atol: float = 1e-4
    max_steps: int = 4096
    norm: str = "batch"

    def __post_init__(self) -> None:
        require(
            self.rtol > 0 and self.atol >= 0,
            f"`rtol` must be positive and `atol` not negative; got {self.rtol}, {self.atol}.",
        )
        require(
            self.norm in _NORMS,
            f"`norm` must be one of {', '.join(_NORMS)}; got {self.norm!r}.{nearest(self.norm, _NORMS)}",
        )

    def make_solver(self) -> Any:
        """Return the diffrax solver.

        Raises:
            ValueError: diffrax has no explicit Runge-Kutta solver of this name.
        """
        import diffrax

        explicit = diffrax.AbstractERK
        known = [
            k for k, v in vars(diffrax).items()
            if isinstance(v, type) and issubclass(v, explicit) and v is not explicit
        ]  # fmt: skip
        if self.solver not in known:
            raise ValueError(
                f"`solver` must be an explicit Runge-Kutta method of diffrax; got {self.solver!r}."
                f"{nearest(self.solver, known)} Known: {', '.join(sorted(known))}."
            )
        return getattr(diffrax, self.solver)()

    def solve(
        self, process: Process, model: Any, key: Key | None, x: Data, times: Any, save: bool
    ) -> Solution:
        """Integrate from times[0] to times[-1].

        `nfe` counts the stages of accepted and rejected steps; the few repeated first stages that diffrax
        does not report are missing from it.

        Where no noise is left at times[-1] the velocity there is 0/0, so the last interval is one step
        to the posterior mean.
        """
        self.make_solver()
        times = host_times(process, times)
        if noise_left(process, times):
            return self._integrated(process, model, x, times, save)
        before = self._integrated(process, model, x, times[:-1], save)
        end = model(before.x, jnp.asarray(times[-2], x.dtype))
        path = before.trajectory
        return Solution(
            end, None if path is None else jnp.append(path, end[None], 0), before.nfe + 1
        )

    def _integrated(
        self, process: Process, model: Any, x: Data, times: Any, save: bool
    ) -> Solution:
        if len(times) == 1:
            return Solution(x, x[None] if save else None, 0)
        run = _compiled if is_static(self, process) else _integrate
        ys, nfe, good = run(self, process, save, as_pytree(model), x, jnp.asarray(times, x.dtype))
        _complain(self, good)
        return Solution(ys[-1], ys if save else None, nfe)


def _integrate(
    sampler: Diffrax, process: Process, save: bool, model: Any, x: Data, times: Array
) -> tuple[Array, Array, Array]:
    if sampler.norm == "batch":
        return _solve(sampler, process, save, model, x, times)
    one = lambda x: _solve(sampler, process, save, model, x[None], times)
    ys, nfe, good = jax.vmap(one)(x)
    return jnp.moveaxis(ys[:, :, 0], 0, 1), nfe, good.all()


def _solve(
    sampler: Diffrax, process: Process, save: bool, model: Any, x: Data, times: Array
) -> tuple[Array, Array, Array]:
    import diffrax

    solver = sampler.make_solver()
    velocity = process.flow(model).velocity
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: velocity(y, jnp.asarray(t, y.dtype))),
        solver,
        t0=times[0],
        t1=times[-1],
        dt0=times[1] - times[0],
        y0=x,
        saveat=diffrax.SaveAt(ts=times) if save else diffrax.SaveAt(t1=True),
        stepsize_controller=diffrax.PIDController(rtol=sampler.rtol, atol=sampler.atol),
        max_steps=sampler.max_steps,
        throw=False,
    )
    steps = solution.stats["num_steps"]
    stages = solver.tableau.num_stages
    # a method whose last stage is the first of the next step evaluates it once more at the start
    nfe = steps * (stages - 1) + 1 if solver.tableau.fsal else steps * stages
    good = solution.result == diffrax.RESULTS.successful
    return jnp.asarray(solution.ys), nfe, good


_compiled = functools.partial(jax.jit, static_argnums=(0, 1, 2))(_integrate)


def _complain(sampler: Diffrax, good: Array) -> None:
    if not is_traced(good) and not bool(good):
        raise RuntimeError(
            f"{sampler.solver} did not reach the end within {sampler.max_steps} steps at rtol="
            f"{sampler.rtol:g}, atol={sampler.atol:g}. Loosen the tolerances, raise "
            "`max_steps`, or stop at a larger t_min."
        )
