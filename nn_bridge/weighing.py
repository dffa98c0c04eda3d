"""How masses act: p times what the groups put out, or, where that is less work, p times their weights.

What a convolution puts out is hundreds of times as large as its weights, and so is what a linear layer makes
of all elements of a sequence. There p·(Wx + b) = (p·W)x + p·b, and autograd finds ∂L/∂p from the gradients of
the weights, without a pass over activations; also where p_i is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

__all__ = ["Form", "columns", "form_of", "linear", "measured"]

Form = Callable[[Any, Any, torch.Tensor], "torch.Tensor | None"]
"""Receives population, module and input."""

_WORTH = 4
"""Activations for each weight from which on masses act on the weights."""


def measured(population: Any, dtype: torch.dtype) -> torch.Tensor:
    """Return the masses, and let the backward pass enter ∂L/∂p_i in the probe."""
    masses: torch.Tensor = population.masses.to(dtype) + population.probe
    return masses


def _masses_for(population: Any, weight: Any, x: torch.Tensor, activations: int) -> torch.Tensor | None:
    """Return the masses that weights are to be multiplied by, None where activations are."""
    if population.observer is None or population.probe is None or not torch.is_grad_enabled():
        return None
    if weight is None or not weight.requires_grad or weight.numel() * _WORTH > activations:
        return None
    # In low precision a product p·W may be 0 where p·(Wx + b) is not.
    if weight.dtype != x.dtype or x.itemsize < 4 or x.is_nested or torch.is_autocast_enabled(x.device.type):
        return None
    return measured(population, weight.dtype)


def form_of(module: nn.Module) -> Form | None:
    """Return how a module computes with masses in its weights, None if it is not known for its code."""
    return None if "forward" in vars(module) else _FORMS.get(type(module).forward)


def linear(population: Any, module: Any, x: torch.Tensor) -> torch.Tensor | None:
    """Return what a linear layer puts out with the masses of its outputs in its weights.

    None where they are not to be there. So do the others here.
    """
    weight = module.weight
    masses = _masses_for(population, weight, x, x.numel() // weight.shape[1] * weight.shape[0])
    if masses is None:
        return None
    bias = module.bias
    return nn.functional.linear(x, weight * masses[:, None], None if bias is None else bias * masses)


def _convolution(population: Any, module: Any, x: torch.Tensor) -> torch.Tensor | None:
    weight = module.weight
    places = x.numel() // (weight.shape[1] * module.groups)
    for stride in module.stride:
        places //= stride
    masses = _masses_for(population, weight, x, places * weight.shape[0])
    if masses is None:
        return None
    bias, shape = module.bias, (-1, *[1] * (weight.ndim - 1))
    y: torch.Tensor = module._conv_forward(
        x, weight * masses.view(shape), None if bias is None else bias * masses
    )
    return y


def _normalisation(population: Any, module: Any, x: torch.Tensor) -> torch.Tensor | None:
    weight = module.weight
    masses = _masses_for(population, weight, x, x.numel())
    if masses is None:
        return None
    module._check_input_dim(x)
    share = 0.0 if module.momentum is None else module.momentum
    if module.training and module.track_running_stats and module.num_batches_tracked is not None:
        module.num_batches_tracked.add_(1)
        if module.momentum is None:  # the mean over all batches so far
            share = 1.0 / float(module.num_batches_tracked)
    remembers = not module.training or module.track_running_stats
    return nn.functional.batch_norm(
        x,
        module.running_mean if remembers else None,
        module.running_var if remembers else None,
        weight * masses,
        module.bias * masses,
        module.training or (module.running_mean is None and module.running_var is None),
        share,
        module.eps,
    )


_FORMS: dict[Any, Form] = {
    nn.Linear.forward: linear,
    nn.Conv1d.forward: _convolution,
    nn.Conv2d.forward: _convolution,
    nn.Conv3d.forward: _convolution,
    nn.BatchNorm2d.forward: _normalisation,
}
"""By the code that a module runs, which a subclass may have replaced."""


def columns(population: Any, module: Any, z: torch.Tensor) -> torch.Tensor | None:
    """Return what a linear layer makes of inputs with masses, in its weights."""
    weight = module.weight
    masses = _masses_for(population, weight, z, z.numel())
    if masses is None:
        return None
    if population.unit > 1:
        masses = masses.repeat_interleave(population.unit)
    return nn.functional.linear(z, weight * masses, module.bias)
