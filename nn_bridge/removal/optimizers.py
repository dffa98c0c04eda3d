"""Optimisers that go on with the parameters that are left."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

__all__ = ["Slices", "repoint"]

Slices = dict[torch.Tensor, tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]]
"""Old parameter -> (new parameter, what slices a tensor of the old one's shape to the new one's)."""


def repoint(
    model: nn.Module,
    small: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    slices: Slices,
    gone: Collection[torch.Tensor] = (),
) -> None:
    """Point the optimisers to the parameters of the new network, all of them or none, without those gone."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    states = [_sliced_state(optimizer, slices, names, gone) for optimizer in optimizers]
    held = {p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    left = [names[old] for old in slices if old.requires_grad and old not in held]
    if left:
        raise ValueError(
            f"optimizer does not hold {', '.join(left)}; expected every parameter that requires a gradient: "
            "pass all optimisers of the model as a list, and freeze what is not trained with "
            "requires_grad_(False)."
        )
    new_names: dict[torch.Tensor, str] = {p: name for name, p in small.named_parameters()}
    for optimizer, state in zip(optimizers, states, strict=True):
        for group in optimizer.param_groups:
            group["params"] = [slices[old][0] for old in group["params"] if old in slices]
            if "param_names" in group:
                group["param_names"] = [new_names[parameter] for parameter in group["params"]]
        optimizer.state.clear()
        optimizer.state.update(state)


def _sliced_state(
    optimizer: torch.optim.Optimizer,
    slices: Slices,
    names: Mapping[torch.Tensor, str],
    gone: Collection[torch.Tensor],
) -> dict[torch.Tensor, dict[str, Any]]:
    """Return an optimiser's state for the new parameters; refuse by name what cannot be carried over."""
    kind = type(optimizer).__name__
    remedy = "make a new optimiser of the compacted network."
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if not (held | optimizer.state.keys()) <= slices.keys() | set(gone):
        raise ValueError(
            "optimizer holds parameters that are not the model's; expected an optimiser of this model alone."
        )
    for name, value in vars(optimizer).items():
        if name not in ("param_groups", "state", "defaults") and _refers_to(value, held):
            raise ValueError(
                f"optimizer is {kind}, which refers to the parameters in {name} as well; expected parameter "
                f"groups and state alone: {remedy}"
            )

    def carried(old: torch.Tensor, key: str, value: Any) -> Any:
        if torch.is_tensor(value) and value.shape == old.shape:
            return slices[old][1](value)
        if (
            value is None
            or isinstance(value, int | float | str)
            or (torch.is_tensor(value) and not value.ndim)
        ):
            return value
        shape = f"of shape {tuple(value.shape)}" if torch.is_tensor(value) else f"a {type(value).__name__}"
        raise ValueError(
            f"optimizer is {kind}, which keeps {key!r} of {names[old]}, {shape}; expected a number or the "
            f"parameter's shape, {tuple(old.shape)}, of which the part that is left is known: {remedy}"
        )

    return {
        slices[old][0]: {key: carried(old, key, value) for key, value in state.items()}
        for old, state in optimizer.state.items()
        if old in slices
    }


def _refers_to(value: object, parameters: Collection[torch.Tensor]) -> bool:
    """Tell whether an attribute is another optimiser, or parameters in a container or by themselves."""
    if isinstance(value, Mapping):
        return any(_refers_to(item, parameters) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set):
        return any(_refers_to(item, parameters) for item in value)
    return isinstance(value, torch.optim.Optimizer) or (torch.is_tensor(value) and value in parameters)
