"""Likelihood: by the probability-flow ODE, by a variational bound, and of integer data.

`log_prob` integrates the divergence along the ODE, for every process with a prior density. `elbo` is the
variational bound of the diffusion chain of a Gaussian process. A dequantization turns integers into
continuous data and applies the change of variables.
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
