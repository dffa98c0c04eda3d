"""Whether a step of selection counts, decided where the masses are: no device is waited for."""

from __future__ import annotations

import math

import torch

__all__ = ["all_finite", "chosen"]

_OF_NUMPY = (torch.float32, torch.float64)


def all_finite(values: torch.Tensor, where: torch.Tensor | None = None) -> bool | torch.Tensor:
    """Return whether all values, or those where masses are positive, are finite.

    On a CPU as a bool; elsewhere as a tensor, so that no device is waited for.
    """
    on_cpu = values.is_cpu
    if on_cpu and values.dtype in _OF_NUMPY:
        numbers = values.numpy()
        if math.isfinite(numbers.dot(numbers)):  # one pass, which seldom overflows
            return True
    if where is not None:  # the fitness of absent groups may be infinite
        values = torch.where(where > 0, values, 0.0)
    finite = torch.isfinite(values).all()
    return bool(finite) if on_cpu else finite


def chosen(sound: bool | torch.Tensor, new: torch.Tensor, old: torch.Tensor | float | None) -> torch.Tensor:
    """Return `new` if the step is sound, else `old`, where None is zero."""
    if sound is True:
        return new
    return torch.where(torch.as_tensor(sound, device=new.device), new, 0.0 if old is None else old)
