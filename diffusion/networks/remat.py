"""Rematerialization: which values of a block are stored for the backward pass, and which are computed again.

    none   stores all values
    dots   stores products with weights and convolutions; all else, including attention, is computed again
    full   stores the inputs of blocks only; the memory does not depend on their insides, for one more forward pass

Values, gradients and names of parameters are the same, so a run can be resumed with another choice.
Reference: Chen et al. 2016.
"""

from typing import Any

import flax.linen as nn
import jax

from diffusion.numerics import one_of

REMATS = ("none", "dots", "full")


def remat_name(remat: bool | str) -> str:
    """Return the name in `REMATS`; False means "none", True means "full".

    Raises:
        ValueError: the name is unknown.
    """
    name = {"false": "none", "true": "full"}.get(str(remat).lower(), str(remat))
    one_of(REMATS, remat=name, hint="True is 'full'.")
    return name


def _products(primitive: Any, *inputs: Any, **fields: Any) -> Any:
    """Return whether "dots" stores a result; the large matrices of attention weights are not stored."""
    if primitive.name == "conv_general_dilated":
        return True
    return jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *inputs, **fields)


def rematerialized(block: Any, remat: bool | str, *, in_loop: bool = False) -> Any:
    """Return the module class with rematerialization as selected by `remat`.

    Args:
        block: a Linen module class; name its instances explicitly, so that their names do not change.
        remat: one of `REMATS`.
        in_loop: whether the block is the body of a loop, where the compiler cannot undo the recomputation.
    """
    name = remat_name(remat)
    if name == "none":
        return block
    return nn.remat(block, prevent_cse=not in_loop, policy=_products if name == "dots" else None)
