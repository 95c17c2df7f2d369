"""Posterior variance of x_0 given x_t, and the variance of a reverse step.

A step of a chain from t to s < t draws x_s = keep x_t + pull x_0 + noise. Replacing x_0 by its posterior
mean omits pull^2 Var[x_0 | x_t], which matters if steps are few. With rho = SNR_t / SNR_s:

    posterior variance of the step   sigma_s^2 (1 - rho)    exact when x_0 is known
    forward variance of the step     sigma_t^2 (1 - rho)    exact for N(0, I) data
    in general                       sigma_s^2 (1 - rho) + pull^2 sbar^2,  pull = alpha_s (1 - rho)

sbar^2(t) is the variance of x_0 given x_t per dimension. It is estimated from a trained denoiser without further
training (`estimate_variance`). Alternatively, an interpolation between the first two is learned (`LearnedVariance`).

References: Nichol and Dhariwal 2021 (learned), Bao et al. 2022a (analytic), 2022b (NPR, SN), Su, kexue.fm
9245, 9246.
"""

from diffusion.models.variance.analytic import (
    StatesVariance,
    WithVariance,
    estimate_variance,
    stated_variance,
    with_variance,
)
from diffusion.models.variance.learned import (
    LearnedVariance,
    LearnsVariance,
    MeanWithVarianceOutput,
    learned_variance,
    split_output,
)

__all__ = [
    "LearnedVariance",
    "LearnsVariance",
    "MeanWithVarianceOutput",
    "StatesVariance",
    "WithVariance",
    "estimate_variance",
    "learned_variance",
    "split_output",
    "stated_variance",
    "with_variance",
]
