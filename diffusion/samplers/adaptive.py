"""The generative ODE by the solvers of diffrax (Kidger, 2022), and the base class that the SDE shares with it."""

import abc
import functools
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import as_pytree, at_least, converged, is_static, one_of, positive
from diffusion.numerics.programs import Programs, unshared
from diffusion.numerics.shapes import checked
from diffusion.processes import Process
from diffusion.registry import register
from diffusion.samplers.base import Callback, Sampler, Solution, replayed
from diffusion.samplers.levels import host_times, noise_left
from diffusion.types import Data, Key

_NORMS = ("batch", "sample")
_CONTROLLERS = ("pid", "step_to", "constant")

# Evaluations per step of diffrax solvers without a Butcher tableau.
_ODE_COSTS = {"Euler": 1, "LeapfrogMidpoint": 1, "ReversibleHeun": 1}


@dataclass(frozen=True, kw_only=True)
class DiffraxBase(Sampler):
    """Base class of the diffrax samplers: step sizes, norms, and the last step to sigma = 0.

    `controller` is "pid" (adaptive, with rtol, atol and the coefficients of diffrax's PIDController),
    "step_to" (exactly the given times) or "constant" (equal steps in t, as many as the grid has).
    """

    rtol: float = 1e-4
    atol: float = 1e-4
    controller: str = "pid"
    pcoeff: float = 0.0
    icoeff: float = 1.0
    dcoeff: float = 0.0
    max_steps: int = 4096

    def __post_init__(self) -> None:
        positive(rtol=self.rtol)
        at_least(0, atol=self.atol)
        at_least(1, max_steps=self.max_steps)
        one_of(_CONTROLLERS, controller=self.controller)

    @abc.abstractmethod
    def make_solver(self) -> Any:
        """Return the diffrax solver, or raise ValueError."""

    @abc.abstractmethod
    def integrate(
        self, process: Any, model: Any, key: Key | None, x: Data, times: Array, save: bool
    ) -> tuple[Array, Array, Array]:
        """Return the states, the evaluations, and whether the end was reached."""

    def solve(
        self,
        process: Process,
        model: Any,
        key: Key | None,
        x: Data,
        times: Any,
        save: bool,
        callback: Callback | None = None,
    ) -> Solution:
        """Integrate from times[0] to times[-1].

        If sigma = 0 at times[-1] the velocity there is 0/0, so the last interval is a single step to the
        posterior mean.
        """
        if callback is not None:
            solution = self.solve(process, model, key, x, times, save=True)
            return replayed(solution, times, save, callback)
        self._check()
        times = host_times(process, times)
        key = key if self.stochastic else None
        if noise_left(process, times):
            return self._integrated(process, model, key, x, times, save)
        before = self._integrated(process, model, key, x, times[:-1], save)
        end = checked(model)(before.x, jnp.asarray(times[-2], x.dtype))
        path = before.trajectory
        return Solution(
            end, None if path is None else jnp.append(path, end[None], 0), before.nfe + 1
        )

    def _check(self) -> None:
        import diffrax

        solver = self.make_solver()
        if self.controller == "pid" and not isinstance(solver, diffrax.AbstractAdaptiveSolver):
            raise ValueError(
                f"`controller` of {type(solver).__name__} must be step_to or constant: it estimates no error for pid."
            )

    def _integrated(
        self, process: Process, model: Any, key: Key | None, x: Data, times: Any, save: bool
    ) -> Solution:
        if len(times) == 1:
            return Solution(x, x[None] if save else None, 0)
        run = _compiled if is_static(self, process) else _integrate
        ys, nfe, good = run(
            self, process, save, as_pytree(model), key, x, jnp.asarray(times, x.dtype)
        )
        _complain(self, good)
        return Solution(ys[-1], ys if save else None, nfe)

    def stepping(self, times: Array) -> dict[str, Any]:
        """Return the step-size arguments of diffeqsolve; `times` may increase or decrease."""
        import diffrax

        found: dict[str, Any] = {"t0": times[0], "t1": times[-1], "dt0": times[1] - times[0]}
        if self.controller == "step_to":
            found |= {"dt0": None, "stepsize_controller": diffrax.StepTo(times)}
        elif self.controller == "constant":
            found["dt0"] = (times[-1] - times[0]) / (len(times) - 1)
        else:
            found["stepsize_controller"] = diffrax.PIDController(
                rtol=self.rtol, atol=self.atol,
                pcoeff=self.pcoeff, icoeff=self.icoeff, dcoeff=self.dcoeff,
            )  # fmt: skip
        return found

    def solved(self, terms: Any, x: Data, times: Array, save: bool) -> tuple[Array, Array, Array]:
        """Return the states, the number of attempted steps, and whether the end was reached."""
        import diffrax

        @jax.jit
        def run(x: Data, times: Array) -> tuple[Array, Array, Array]:
            solution = unshared(diffrax.diffeqsolve)(
                terms,
                self.make_solver(),
                y0=x,
                saveat=diffrax.SaveAt(ts=times) if save else diffrax.SaveAt(t1=True),
                max_steps=self.max_steps,
                throw=False,
                **self.stepping(times),
            )
            good = solution.result == diffrax.RESULTS.successful
            return jnp.asarray(solution.ys), solution.stats["num_steps"], good

        return run(x, times)


def _integrate(
    sampler: DiffraxBase, process: Process, save: bool, model: Any, key: Any, x: Data, times: Array
) -> tuple[Array, Array, Array]:
    return sampler.integrate(process, checked(model), key, x, times, save)


_compiled = Programs(_integrate, 3)


@register("sampler", "diffrax")
@final
@dataclass(frozen=True, kw_only=True)
class Diffrax(DiffraxBase):
    """dx/dt = v(x, t) by any explicit solver of diffrax, selected by name.

    With the controller "pid" the first and last of the given times are the interval, and the others are times at
    which the trajectory is reported. `norm="batch"` controls the error of the batch as one state; "sample" gives
    each example its own step sizes, so that it does not depend on the rest of the batch, and runs until the
    slowest example ends.

    `nfe` counts the stages of accepted and rejected steps, without the few repeated first stages, which diffrax
    does not report. Implicit solvers are refused, because diffrax does not report the cost of their iterations.
    """

    order: ClassVar[int] = 5  # of the default solver; steps are adaptive, so no test measures it

    solver: str = "Tsit5"
    norm: str = "batch"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of(_NORMS, norm=self.norm)

    @property
    def coupled(self) -> bool:
        """Whether the step size depends on the error of the whole batch."""
        return self.norm == "batch"

    def make_solver(self) -> Any:
        """Return the diffrax solver.

        Raises:
            ValueError: diffrax has no explicit solver of this name.
        """
        import diffrax

        explicit = diffrax.AbstractERK
        known = [
            k for k, v in vars(diffrax).items()
            if isinstance(v, type) and issubclass(v, explicit) and v is not explicit
        ] + list(_ODE_COSTS)  # fmt: skip
        one_of(sorted(known), solver=self.solver, hint="They are diffrax's explicit ODE solvers.")
        return getattr(diffrax, self.solver)()

    def _stages(self, steps: Array) -> Array:
        solver = self.make_solver()
        if self.solver in _ODE_COSTS:
            return steps * _ODE_COSTS[self.solver] + (self.solver == "ReversibleHeun")
        stages = solver.tableau.num_stages
        # if the last stage is the first one of the next step (FSAL), only the first step evaluates all stages
        return steps * (stages - 1) + 1 if solver.tableau.fsal else steps * stages

    def integrate(
        self, process: Process, model: Any, key: Key | None, x: Data, times: Array, save: bool
    ) -> tuple[Array, Array, Array]:
        one = functools.partial(self._one, process, model, times, save)
        if self.norm == "batch":
            return one(x)
        ys, nfe, good = jax.vmap(lambda row: one(row[None]))(x)
        return jnp.moveaxis(ys[:, :, 0], 0, 1), nfe, good.all()

    def _one(
        self, process: Process, model: Any, times: Array, save: bool, x: Data
    ) -> tuple[Array, Array, Array]:
        import diffrax

        velocity = process.flow(model).velocity
        field = diffrax.ODETerm(lambda t, y, args: velocity(y, jnp.asarray(t, y.dtype)))
        ys, num_steps, good = self.solved(field, x, times, save)
        return ys, self._stages(num_steps), good


def _complain(sampler: Any, good: Array) -> None:
    converged(good, sampler.solver, sampler)
