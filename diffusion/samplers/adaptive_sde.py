"""The reverse SDE by the solvers of diffrax (Kidger, 2022)."""

import functools
from dataclasses import dataclass
from typing import Any, ClassVar, final

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.numerics import is_many, one_of, positive
from diffusion.processes import GaussianProcess, Process
from diffusion.processes.base import require_process
from diffusion.processes.dynamics import reverse_sde
from diffusion.registry import register
from diffusion.samplers.adaptive import DiffraxBase
from diffusion.types import Data, Key, Scalar

# Evaluations of the drift per step.
_SDE_COSTS = {
    "Euler": 1, "EulerHeun": 1, "Heun": 2, "Midpoint": 2, "Ralston": 2, "ItoMilstein": 1,
    "StratonovichMilstein": 1, "SEA": 1, "SRA1": 2, "ShARK": 2, "GeneralShARK": 2, "SlowRK": 2, "SPaRK": 3,
}  # fmt: skip


@register("sampler", "diffrax_sde")
@final
@dataclass(frozen=True, kw_only=True)
class DiffraxSDE(DiffraxBase):
    """The reverse SDE with noise lam g by a stochastic solver of diffrax, selected by name.

    dx = [f x - (1 + lam^2)/2 g^2 score] dt + lam g dW in the increasing time r = times[0] - t, because methods with
    Levy areas (ShARK, SRA1) are wrong for negative steps. The noise does not depend on x, so the Ito and
    Stratonovich interpretations agree. The Brownian path is a function of the key, or of each example's own key.
    """

    order: ClassVar[int] = 1  # weak
    stochastic: ClassVar[bool] = True
    requires: ClassVar[type[Process]] = GaussianProcess

    controller: str = "step_to"
    solver: str = "ShARK"
    lam: Scalar = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(lam=self.lam, hint="For the ODE use `diffrax`.")

    def make_solver(self) -> Any:
        """Return the diffrax solver.

        Raises:
            ValueError: the name is not that of a stochastic solver of known cost.
        """
        import diffrax

        one_of(sorted(_SDE_COSTS), solver=self.solver, hint="They are diffrax's SDE solvers.")
        return getattr(diffrax, self.solver)()

    def integrate(
        self, process: Any, model: Any, key: Any, x: Data, times: Array, save: bool
    ) -> tuple[Array, Array, Array]:
        require_process(process, self.requires, "the sampler DiffraxSDE")
        one = functools.partial(self._one, process, model, times, save)
        if not is_many(key):
            return one(key, x)
        ys, nfe, good = jax.vmap(lambda k, row: one(k, row[None]))(key, x)
        return jnp.moveaxis(ys[:, :, 0], 0, 1), nfe.max(), good.all()

    def _one(
        self, process: Any, model: Any, times: Array, save: bool, key: Key, x: Data
    ) -> tuple[Array, Array, Array]:
        import diffrax
        import lineax

        end = times[0]
        sde = reverse_sde(process, model, self.lam)
        clock = lambda r, y: end - jnp.asarray(r, y.dtype)

        def noise(r: Any, y: Array, args: Any) -> Any:
            return lineax.DiagonalLinearOperator(jnp.full_like(y, sde.diffusion(clock(r, y))))

        upward = end - times
        path = self._path(self.make_solver(), upward, key, x)
        terms = diffrax.MultiTerm(
            diffrax.ODETerm(lambda r, y, args: -sde.drift(y, clock(r, y))),
            diffrax.ControlTerm(noise, path),
        )
        ys, num_steps, good = self.solved(terms, x, upward, save)
        return ys, num_steps * _SDE_COSTS[self.solver], good

    def _path(self, solver: Any, upward: Array, key: Key, x: Data) -> Any:
        """Return the Brownian path, with a resolution finer than the steps."""
        import diffrax

        stages = isinstance(solver, diffrax.AbstractSRK)
        area = diffrax.SpaceTimeLevyArea if stages else diffrax.BrownianIncrement
        shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
        tol = jnp.min(jnp.diff(upward)) / 8
        return diffrax.VirtualBrownianTree(upward[0], upward[-1], tol, shape, key, levy_area=area)
