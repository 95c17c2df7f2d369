"""CFG++: the guided posterior mean with the unconditional noise (Chung et al., 2025).

    x_s = alpha_s [uncond + scale (cond - uncond)] + sigma_s (x_t - alpha_t uncond) / sigma_t

A denoiser takes t but not s, so this is not a function of (x_t, t) alone. But it is the DDIM step of

    x_0 = uncond + scale / (1 - rho) (cond - uncond),   rho = alpha_t sigma_s / (alpha_s sigma_t)

which is classifier-free guidance at a scale that depends on the grid. So the entry needs the sampling times, which
an Experiment passes in; with `ddim` on these times it is CFG++ exactly, and other samplers use the same scale(t).
At the last time, where no noise is added again, rho = 0.
"""

from dataclasses import dataclass
from types import MethodType
from typing import Any, ClassVar, final

import numpy as np
from jaxtyping import Array

from diffusion.guidance.base import Guidance, given
from diffusion.guidance.extrapolation import Extrapolated
from diffusion.guidance.model import ConditionalModel
from diffusion.guidance.scales import Stepped, is_number
from diffusion.numerics import finite, in_interval, on_host, value_and_ddt
from diffusion.processes import AffineProcess, Process
from diffusion.processes.base import require_process
from diffusion.registry import register, takes_names
from diffusion.types import Denoiser, Scalar, Time


def _scales(process: AffineProcess, t: Time) -> tuple[Array, Array]:
    """Return alpha and sigma, each shaped like t."""
    return value_and_ddt(process.alpha, t)[0], value_and_ddt(process.sigma, t)[0]


@takes_names
def cfg_pp_scale(process: AffineProcess, times: Any, scale: Scalar = 0.6) -> Stepped:
    """Return t -> scale / (1 - rho), with which a DDIM step on these times is a CFG++ step.

    Args:
        process: the process to which the times refer.
        times: decreasing, (num_steps + 1,).
        scale: scale of the posterior mean: 0 unconditional, 1 conditional; above 1 is allowed, but rarely useful.
    """
    require_process(process, AffineProcess, "CFG++")
    finite(scale=scale)
    times = np.asarray(times, np.float64)
    alpha, sigma = on_host(MethodType(_scales, process), times)
    rho = np.append(alpha[:-1] * sigma[1:] / (alpha[1:] * sigma[:-1]), 0.0)
    factors, up = (1 / (1 - rho))[::-1], times[::-1]
    return Stepped((up[1:] + up[:-1]) / 2, scale * factors)


@register("guidance", "cfg_pp")
@final
@dataclass(frozen=True, kw_only=True)
class CFGPlusPlus(Guidance):
    """x_0 = uncond + scale / (1 - rho) (cond - uncond), rho = alpha_t sigma_s / (alpha_s sigma_t).

    With the sampler ddim: x_s = alpha_s [uncond + scale (cond - uncond)] + sigma_s z_uncond, CFG++ (Chung et al.,
    2025). The scale interpolates between 0, the unconditional model, and 1; scale 1 is stronger than the
    conditional model, since the noise is still the unconditional one.
    """

    requires: ClassVar[type[Process]] = AffineProcess
    needs_cond: ClassVar[bool] = True
    needs_null: ClassVar[bool] = True

    scale: Scalar = 0.6

    def __post_init__(self) -> None:
        in_interval("[0, 1]", scale=self.scale, of="cfg_pp", hint="classifier_free goes above 1.")

    def guide(self, model: ConditionalModel) -> Denoiser:
        if is_number(self.scale) and self.scale == 0:
            return model.unconditional
        times = given(model, "times", self)
        process: Any = model.process
        times = times() if callable(times) else times
        return Extrapolated(model.both(), cfg_pp_scale(process, times, self.scale))
