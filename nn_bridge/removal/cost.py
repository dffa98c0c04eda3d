"""What a network costs: parameters, operations, bytes, time."""

from __future__ import annotations

import dataclasses
import statistics
import time

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from evodyn.core import validation
from evodyn.core.extras import extra
from nn_bridge.modes import evaluation_mode
from nn_bridge.removal.record import exact

__all__ = ["Cost", "cost"]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a network costs.

    Parameters
    ----------
    parameters : int
        Number of weights and biases.
    macs : int
        Multiply-accumulates of its matrix products for one sample.
    file_bytes : int
        Size of its weights in a file; shared ones count once, as in `parameters`.
    latency : float
        Median time of one forward pass of the sample batch, in seconds.
    """

    parameters: int
    macs: int
    file_bytes: int
    latency: float


@torch.no_grad()
def cost(model: nn.Module, example: torch.Tensor, *, repeats: int = 50) -> Cost:
    """Return parameters, multiply-accumulates, file size and latency of a network.

    Parameters
    ----------
    model : torch.nn.Module
        A network.
    example : Tensor, shape (samples, ...)
        The batch for the latency.
    repeats : int, optional
        Number of timed forward passes, after three that are not.

    Returns
    -------
    Cost
        The four figures.

    Raises
    ------
    ValueError
        If `repeats` is not a positive whole number.
    """
    with extra("nn", user="cost"):
        from safetensors.torch import save

    validation.count("repeats", repeats)
    waits = example.device.type == "cuda"
    times = []
    with evaluation_mode(model):
        # The counter does not know attention that is fused, as it is on a CPU.
        with exact(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(example[:1])
        for _ in range(repeats + 3):
            start = time.perf_counter()
            model(example)
            if waits:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - start)
    return Cost(
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        macs=counter.get_total_flops() // 2,
        file_bytes=len(save(_weights(model))),
        latency=statistics.median(times[3:]),
    )


def _weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return what a file of the network's weights holds; what two modules share is there once."""
    once = {id(value): (name, value) for name, value in model.state_dict(keep_vars=True).items()}
    return {name: _stored(value) for name, value in once.values()}


def _stored(value: torch.Tensor) -> torch.Tensor:
    """Return a copy for a file: safetensors refuses tensors that lie in the same memory."""
    return value.detach().cpu().clone(memory_format=torch.contiguous_format)
