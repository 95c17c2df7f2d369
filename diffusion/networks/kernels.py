"""The choice between implementations of attention, made while a network is traced.

cuDNN's flash attention never stores the matrix of weights, and is the fastest on NVIDIA GPUs from the Ampere
generation on (compute capability 8.0). It needs 16-bit numbers and heads of at most 128 features, a multiple of 8, and
has one reverse derivative but no forward one; see `diffusion.numerics.forward_derivatives`. In all other cases XLA
is used. Softmax and sums are float32 in both. Reference: Dao et al. 2022.
"""

import re
from typing import Any, Literal

import jax
import jax.numpy as jnp

from diffusion.numerics import forward_derivatives_wanted

Implementation = Literal["xla", "cudnn"]
LARGEST_HEAD = 128
CAPABILITY = (8, 0)


def choose_attention(
    platform: str, capability: str, dtype: Any, head: int, forward: bool
) -> Implementation:
    """Return the implementation of attention for one kind of device and input.

    Args:
        platform: JAX's name of the platform of the device: "cpu", "gpu" or "tpu".
        capability: compute capability, such as "9.0"; other text means that the device is not an NVIDIA GPU.
        dtype: dtype of queries, keys and values.
        head: number of features of a head.
        forward: whether derivatives other than a single one in reverse mode may be taken.
    """
    found = re.fullmatch(r"([0-9]+)\.([0-9]+)", capability)
    able = (
        platform in ("gpu", "cuda")
        and found is not None
        and (int(found[1]), int(found[2])) >= CAPABILITY
    )
    fits = jnp.dtype(dtype) in (jnp.bfloat16, jnp.float16) and head % 8 == 0
    return "cudnn" if able and fits and 0 < head <= LARGEST_HEAD and not forward else "xla"


def current_device() -> Any:
    """Return the default device of the current trace, which computes unless arrays are placed elsewhere."""
    device: Any = getattr(jax.config, "jax_default_device", None)  # missing in JAX's type stubs
    return jax.devices(device)[0] if device is None or isinstance(device, str) else device


def attention_implementation(dtype: Any, head: int) -> Implementation:
    """Return the implementation of attention for the current device and `forward_derivatives`."""
    device = current_device()
    capability = str(getattr(device, "compute_capability", ""))
    return choose_attention(device.platform, capability, dtype, head, forward_derivatives_wanted())
