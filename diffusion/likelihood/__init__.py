"""Likelihood: through the probability-flow ODE, as a variational bound, and of integers.

`log_prob` integrates the divergence along the ODE and holds for every process with a prior density;
`elbo` is the bound of the noise-and-denoise chain of a Gaussian process; a dequantization turns integers
into a density and owns the change of variables.
"""

from diffusion.likelihood.decoders import Decoder, DiscretizedDecoder, GaussianDecoder
from diffusion.likelihood.dequantization import (
    Dequantization,
    Dequantizer,
    LogisticDequantizer,
    PixelNetwork,
    VariationalDequantization,
)
from diffusion.likelihood.divergence import exact_divergence, hutchinson_divergence
from diffusion.likelihood.elbo import ELBO, elbo
from diffusion.likelihood.flow import LogProb, integrate_flow, log_prob, log_prob_estimate

__all__ = [
    "ELBO",
    "Decoder",
    "Dequantization",
    "Dequantizer",
    "DiscretizedDecoder",
    "GaussianDecoder",
    "LogProb",
    "LogisticDequantizer",
    "PixelNetwork",
    "VariationalDequantization",
    "elbo",
    "exact_divergence",
    "hutchinson_divergence",
    "integrate_flow",
    "log_prob",
    "log_prob_estimate",
]
