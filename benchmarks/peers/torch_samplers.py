"""PyTorch's samplers around a denoiser that costs one multiplication: 0.9 x_t stands for E[x_0 | x_t].

The variant is LIBRARY:SAMPLER. All run under inference mode with their progress bars off, called as their
manuals do; the loops are their own Python loops.
"""

from collections.abc import Callable
from typing import Any

import torch

from benchmarks.cases import Case
from benchmarks.peers.torch_tools import device, peak_memory, versions, wait
from benchmarks.worker import Work

SHARE = 0.9


def k_diffusion(case: Case, name: str) -> Callable[[Any], Any]:
    """Return a call of k-diffusion, on sigmas of the usual VP schedule."""
    from k_diffusion import sampling

    sigmas = sampling.get_sigmas_vp(case.steps, device=device())
    sampler = getattr(sampling, f"sample_{name}")
    return lambda x: sampler(lambda x_t, sigma: SHARE * x_t, x, sigmas, disable=True)


def diffusers(case: Case, name: str) -> Callable[[Any], Any]:
    """Return the loop of a pipeline of diffusers around one of its schedulers."""
    import diffusers as library

    kind = getattr(library, f"{name}Scheduler")
    scheduler = kind(num_train_timesteps=1000, prediction_type="sample", clip_sample=False)

    def call(x: Any) -> Any:
        scheduler.set_timesteps(case.steps, device=x.device)
        for t in scheduler.timesteps:
            x = scheduler.step(SHARE * x, t, x).prev_sample
        return x

    return call


def azula(case: Case, name: str) -> Callable[[Any], Any]:
    """Return a call of azula."""
    from azula import sample as library
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import VPSchedule

    class Shrink(Denoiser):
        def __init__(self):
            super().__init__()
            self.schedule = VPSchedule()

        def forward(self, x_t: Any, t: Any) -> Any:
            del t
            return DiracPosterior(mean=SHARE * x_t)

    return getattr(library, f"{name}Sampler")(Shrink(), steps=case.steps, silent=True)


LIBRARIES = {"k-diffusion": k_diffusion, "diffusers": diffusers, "azula": azula}


def overhead(case: Case, variant: str) -> Work:
    """Return calls of a sampler, `case.steps` steps each."""
    library, name = variant.split(":")
    call = LIBRARIES[library](case, name)
    x = torch.randn(case.batch, case.shape[-1], *case.shape[:-1], device=device())

    def run(n: int) -> None:
        with torch.inference_mode():
            for _ in range(n):
                y = call(x)
        assert torch.isfinite(y).all()
        wait()

    return Work(run=run, facts=versions(library) | {"devices_used": 1}, memory=peak_memory)
