"""Residual connections of transformer blocks, and the scale of their initial updates as a function of depth.

    adaptive     h + g F(norm(h)), the gate g linear in the embedding and initially 0 (AdaLN-zero)
    pre_norm     h + (1 + g) F(norm(h))
    post_norm    norm(h + (1 + g) F(h))
    deep_norm    norm(a h + (1 + g) F(h)), initial weights of F multiplied by c
    deep_pre     pre_norm with initial weights of F multiplied by c

For N blocks, hence 2N updates, the first optimizer step changes the output independently of N with the factors (a, c)

    deep_norm    sgd (2N)^(1/4), (2N)^(-1/4)   adam (2N)^(1/2), (2N)^(-1/2)   lamb 1, (2N)^(-1/2)
    deep_pre     sgd 1, (2N)^(-1/2)            adam 1, 1/(2N)                 lamb 1, (2N)^(-1/2)

(Wang et al., 2022; Su, kexue.fm 8978). c applies to values, outputs of attention and both layers of the perceptron.
"""

from typing import NamedTuple

from diffusion.numerics import one_of

RESIDUALS = ("adaptive", "pre_norm", "post_norm", "deep_norm", "deep_pre")
OPTIMIZERS = ("sgd", "adam", "lamb")

# exponents of 2N: of the factors on the stream and on the weights
_POWERS = {
    "deep_norm": {"sgd": (0.25, -0.25), "adam": (0.5, -0.5), "lamb": (0.0, -0.5)},
    "deep_pre": {"sgd": (0.0, -0.5), "adam": (0.0, -1.0), "lamb": (0.0, -0.5)},
}


class Depth(NamedTuple):
    """The factor `a` on the residual stream, and the factor `c` on the initial weights."""

    stream: float
    weights: float


def depth_factors(residual: str, depth: int, optimizer: str = "adam") -> Depth:
    """Return the two factors for a network of `depth` blocks.

    Raises:
        ValueError: the kind of residual or the optimizer is unknown.
    """
    one_of(RESIDUALS, residual=residual)
    one_of(OPTIMIZERS, depth_for=optimizer)
    if residual not in _POWERS:
        return Depth(1.0, 1.0)
    stream, weights = _POWERS[residual][optimizer]
    return Depth((2 * depth) ** stream, (2 * depth) ** weights)
