"""What the backward pass of a block finds stored, and what it computes again.

    none   everything is stored
    dots   results of products with weights and of convolutions; all else, attention included, is computed again
    full   the inputs of blocks alone; memory no longer grows with what is inside, for one more forward pass

Values and gradients are the same, parameters keep their names, and a run may go on with another choice.
Reference: Chen et al. 2016.
"""

from typing import Any

import flax.linen as nn
import jax

from diffusion.numerics import one_of

REMATS = ("none", "dots", "full")


def remat_name(remat: bool | str) -> str:
    """Return which of `REMATS` is meant; False is "none", True is "full".

    Raises:
        ValueError: it is none of them.
    """
    name = {"false": "none", "true": "full"}.get(str(remat).lower(), str(remat))
    one_of(REMATS, remat=name, hint="True is 'full'.")
    return name


def _products(primitive: Any, *inputs: Any, **fields: Any) -> Any:
    """Say whether a result is stored under "dots": matrices of attention weights, which are large, are not."""
    if primitive.name == "conv_general_dilated":
        return True
    return jax.checkpoint_policies.dots_with_no_batch_dims_saveable(primitive, *inputs, **fields)


def rematerialized(block: Any, remat: bool | str, *, in_loop: bool = False) -> Any:
    """Return a module class that stores for its backward pass what `remat` says.

    Args:
        block: a Linen module class; give its instances names, which then stay the same.
        remat: one of `REMATS`.
        in_loop: the block is the body of a loop, where the compiler cannot undo the recomputation.
    """
    name = remat_name(remat)
    if name == "none":
        return block
    return nn.remat(block, prevent_cse=not in_loop, policy=_products if name == "dots" else None)
