"""The limit: one large matrix product of the dtype of a case, in JAX or in PyTorch."""

from typing import Any

from benchmarks.cases import Case
from benchmarks.worker import Work


def _side(case: Case, on_cpu: bool) -> int:
    if case.shape[0] < 16:  # a test
        return 256
    return 2048 if on_cpu else 8192


def jax(case: Case, variant: str) -> Work:
    """Return a product by XLA."""
    del variant
    import jax as jx
    import jax.numpy as jnp

    from benchmarks.peers.jax_tools import peak_memory, versions

    n = _side(case, jx.default_backend() == "cpu")
    a = jx.random.normal(jx.random.key(0), (n, n)).astype(case.dtype)
    product = jx.jit(jnp.matmul)

    def run(times: int) -> None:
        results = [product(a, a) for _ in range(times)]
        jx.block_until_ready(results[-1])

    return Work(run=run, facts=_facts(n) | versions(), memory=peak_memory)


def torch(case: Case, variant: str) -> Work:
    """Return a product by PyTorch."""
    del variant
    import torch as th

    from benchmarks.peers.torch_tools import device, peak_memory, versions, wait

    where = device()
    n = _side(case, where.type == "cpu")
    a = th.randn(n, n, device=where).to(getattr(th, case.dtype))

    def run(times: int) -> None:
        for _ in range(times):
            th.mm(a, a)
        wait()

    return Work(run=run, facts=_facts(n) | versions(), memory=peak_memory)


def _facts(n: int) -> dict[str, Any]:
    return {"flops": 2.0 * n**3, "side": n}
