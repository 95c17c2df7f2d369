"""Likelihood: through the probability-flow ODE, as a variational bound, and of integers.

`log_prob` integrates the divergence along the ODE and holds for every process with a prior density;
`elbo` is the bound of the noise-and-denoise chain of a Gaussian process; a dequantisation turns integers
into a density and owns the change of variables.
"""

from diffusion.likelihood.decoders import Decoder, DiscretisedDecoder, GaussianDecoder
from diffusion.likelihood.dequantisation import (
    Dequantisation,
    Dequantiser,
    LogisticDequantiser,
    PixelNetwork,
    VariationalDequantisation,
)
from diffusion.likelihood.divergence import exact_divergence, hutchinson_divergence
from diffusion.likelihood.elbo import ELBO, elbo
from diffusion.likelihood.flow import LogProb, carry, log_prob, log_prob_estimate

__all__ = [
    "ELBO",
    "Decoder",
    "Dequantisation",
    "Dequantiser",
    "DiscretisedDecoder",
    "GaussianDecoder",
    "LogProb",
    "LogisticDequantiser",
    "PixelNetwork",
    "VariationalDequantisation",
    "carry",
    "elbo",
    "exact_divergence",
    "hutchinson_divergence",
    "log_prob",
    "log_prob_estimate",
]
