"""The integral of the likelihood by an adaptive solver of diffrax."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import at_least, converged, one_of, positive, whole
from diffusion.numerics.programs import unshared


@dataclass(frozen=True, kw_only=True)
class Adaptive:
    """The name of an explicit Runge-Kutta method of diffrax, with its tolerances (Kidger, 2022)."""

    solver: str = "Tsit5"
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 4096

    def __post_init__(self) -> None:
        positive(rtol=self.rtol)
        at_least(0, atol=self.atol)
        whole(1, max_steps=self.max_steps)
        self.make_solver()

    def make_solver(self) -> Any:
        """Return the diffrax solver, or raise ValueError if there is no explicit method of this name."""
        import diffrax

        explicit = diffrax.AbstractERK
        known = {
            k: v for k, v in vars(diffrax).items()
            if isinstance(v, type) and issubclass(v, explicit) and v is not explicit
        }  # fmt: skip
        one_of(sorted(known), solver=self.solver)
        return known[self.solver]()

    def complain(self, good: bool) -> None:
        """Raise RuntimeError unless the solver reached the end."""
        converged(good, self.solver, self)


def integrate(
    adaptive: Adaptive, field: Callable[[Any, Any], Any], state: Any, times: Array
) -> tuple[Any, Array, Array]:
    """Integrate a pytree from times[0] to times[-1]; return it, the evaluations, and whether the end was reached.

    The evaluations count the stages of accepted and rejected steps, without the few repeated first stages,
    which diffrax does not report.
    """
    import diffrax

    solver = adaptive.make_solver()
    dtype = times.dtype

    @jax.jit
    def run(state: Any, times: Array) -> tuple[Any, Array, Array]:
        solution = unshared(diffrax.diffeqsolve)(
            diffrax.ODETerm(lambda t, y, args: field(y, jnp.asarray(t, dtype))),
            solver,
            t0=times[0],
            t1=times[-1],
            dt0=times[1] - times[0],
            y0=state,
            stepsize_controller=diffrax.PIDController(rtol=adaptive.rtol, atol=adaptive.atol),
            max_steps=adaptive.max_steps,
            throw=False,
        )
        good = solution.result == diffrax.RESULTS.successful
        return solution.ys, solution.stats["num_steps"], good

    (ys, steps, good), stages = run(state, times), solver.tableau.num_stages
    # if the last stage is the first one of the next step (FSAL), only the first step evaluates all stages
    nfe = steps * (stages - 1) + 1 if solver.tableau.fsal else steps * stages
    return jax.tree.map(lambda y: y[-1], ys), nfe, good
