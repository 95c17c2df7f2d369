"""What the PyTorch competitors share: one training step written as well as its users write it.

Adam with fused updates, the average of the weights by one `_foreach_lerp_`, gradients set to None. Variants,
which may be joined by "+": "channels_last" (memory format of pictures and weights), "compile"
(torch.compile of the network's forward and backward pass; optimizer and average stay eager and fused).
On CUDA, products of float32 may use TF32, as JAX allows itself by default.
"""

from collections.abc import Callable
from importlib import metadata
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.cases import Case
from benchmarks.worker import Work, cores

Predict = Callable[[Any, Any, Any], Any]  # (network, x_t, number of the time) -> noise


def device() -> torch.device:
    """Set threads and precision as they should be; return the device."""
    torch.manual_seed(0)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        return torch.device("cuda")
    torch.set_num_threads(cores())
    return torch.device("cpu")


def wait() -> None:
    """Wait for the device."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_memory() -> int | None:
    """Return the peak of the device's memory in bytes; None on a CPU."""
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None


def versions(*packages: str) -> dict[str, Any]:
    """Return versions, the kind of device and the threads."""
    on_gpu = torch.cuda.is_available()
    return {
        "versions": {name: metadata.version(name) for name in ("torch", *packages)},
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "platform": "gpu" if on_gpu else "cpu",
        "devices": 1,
        "threads": torch.get_num_threads(),
    }


def parameters(network: Any) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in network.parameters())


def _batches(case: Case, where: torch.device, layout: Any) -> list[Any]:
    size = (case.batch, case.shape[-1], *case.shape[:-1])
    draw = lambda seed: np.random.default_rng(seed).uniform(-1, 1, size).astype(np.float32)
    put = lambda x: torch.from_numpy(x).to(where).contiguous(memory_format=layout)
    return [put(draw(seed)) for seed in range(4)]


def _loss(predict: Predict, network: Any, case: Case, table: Any, x: Any) -> Any:
    t = torch.randint(0, len(table), (len(x),), device=x.device)
    alpha_bar = table[t].view(-1, 1, 1, 1)
    z = torch.randn_like(x)
    x_t = alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * z
    bf16 = case.dtype == "bfloat16"
    with torch.autocast(x.device.type, dtype=torch.bfloat16, enabled=bf16):
        y = predict(network, x_t, t)
    return torch.nn.functional.mse_loss(y.float(), z)


def _flops(loss: Callable[[Any], Any], x: Any) -> float:
    """Return the FLOPs of forward and backward pass, counted on two examples."""
    few = x[:2]
    with FlopCounterMode(display=False) as counter:
        loss(few).backward()
    return counter.get_total_flops() * len(x) / len(few)


def trainer(
    case: Case,
    variant: str,
    network: Any,
    predict: Predict,
    packages: tuple[str, ...],
    **facts: Any,
) -> Work:
    """Return the training step of a network.

    Args:
        case: what is trained.
        variant: see the module.
        network: a torch.nn.Module on pictures (batch, channels, height, width).
        predict: (network, x_t, t) -> noise, t whole numbers below 1000.
        packages: whose versions are told.
        facts: what else is told.
    """
    where, options = device(), set(filter(None, variant.split("+")))
    layout = torch.channels_last if "channels_last" in options else torch.contiguous_format
    network = network.to(where, memory_format=layout).train()
    table = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=where), 0)
    batches = _batches(case, where, layout)
    flops = _flops(lambda x: _loss(predict, network, case, table, x), batches[0])
    weights = list(network.parameters())
    averages = [p.detach().clone() for p in weights]
    optimizer = torch.optim.Adam(weights, lr=case.learning_rate, fused=True)
    called = torch.compile(network) if "compile" in options else network

    def run(n: int) -> None:
        for i in range(n):
            optimizer.zero_grad(set_to_none=True)
            _loss(predict, called, case, table, batches[i % len(batches)]).backward()
            optimizer.step()
            with torch.no_grad():
                torch._foreach_lerp_(averages, weights, 1 - case.ema_decay)
        wait()

    told = versions(*packages) | {"parameters": parameters(network), "flops": flops}
    return Work(run=run, facts=told | {"devices_used": 1} | facts, memory=peak_memory)
