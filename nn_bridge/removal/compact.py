"""A smaller network without the groups of mass 0, and optimisers that go on with it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from evodyn.core import validation
from nn_bridge.layers import PopulationLayer, PopulationLinear, empty_linear
from nn_bridge.removal.prune import checked_masses
from nn_bridge.removal.trace import chain, flat_names

__all__ = ["compact"]

_Slices = dict[torch.Tensor, tuple[torch.Tensor, Callable[[torch.Tensor], torch.Tensor]]]
"""Old parameter -> (new parameter, what slices a tensor of the old one's shape to the new one's)."""


@torch.no_grad()
def compact(
    model: nn.Module,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    *,
    round_to: int = 1,
) -> nn.Sequential:
    """Return a new, smaller network without the groups of mass 0, masses folded into plain layers.

    Its outputs are those of `model` up to rounding. Where the activation does not map 0 to 0, what the
    removed groups sent on is folded into the next bias.

    Parameters
    ----------
    model : torch.nn.Module
        A chain (`nn.Sequential`, nested or not) of population layers, plain linear layers and
        element-wise modules; it is left as it is.
    optimizer : torch.optim.Optimizer or sequence of them, optional
        The optimisers of `model`, all of them, to go on training with. They are *re-pointed*, in place
        (learning-rate schedulers hold on to them), to the parameters of the new network; their state,
        momentum say, is sliced to what is left, so that nothing of a removed group comes back. It is not
        rescaled by the masses.
    round_to : int, optional
        Keep each layer's width a multiple of this where possible, with groups of zero weights: some
        devices are slower at odd widths.

    Returns
    -------
    torch.nn.Sequential
        Layers with the names of the old ones, dots replaced by underscores.

    Raises
    ------
    ValueError
        If a module cannot be traced (named), or a layer has no living group or masses that are negative or
        not finite. If an optimiser holds parameters that are not the model's, or state that cannot be sliced
        (LBFGS, Adafactor), or a parameter that requires a gradient is in none of the optimisers: they are
        then as they were.
    """
    validation.count("round_to", round_to)
    given = [] if optimizer is None else optimizer
    optimizers = [given] if isinstance(given, torch.optim.Optimizer) else list(given)
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    slices: _Slices = {}
    kept: torch.Tensor | None = None  # indices of the inputs that are left; None: all
    constant: torch.Tensor | None = None  # what the removed inputs send on, shape (inputs,)
    links = chain(model)
    for (name, module), flat in zip(links, flat_names(links), strict=True):
        part: nn.Module
        if isinstance(module, PopulationLinear | nn.Linear):
            rows = _living(name, module, round_to)
            part, mapping = _smaller(module, rows, kept, constant)
            if optimizers and mapping.keys() & slices.keys():
                raise ValueError(
                    f"{name} shares parameters with a layer before; an optimiser cannot follow them."
                )
            slices.update(mapping)
            # At mass 0 a group puts out 0, whatever its bias.
            removed = rows is not None and len(rows) < module.out_features
            kept = rows if removed else None
            constant = torch.zeros(module.out_features, dtype=module.weight.dtype) if removed else None
        elif isinstance(module, nn.Flatten) and kept is not None:
            raise ValueError(
                f"{name} is a Flatten after a layer with absent groups; expected it before all population "
                "layers: where the groups end up depends on the shape of the input."
            )
        else:
            part = copy.deepcopy(module)
            if constant is not None and not isinstance(module, nn.Dropout):
                constant = module(constant)
        part.train(module.training)
        parts[flat] = part
    if kept is not None:
        raise ValueError(
            "the last layer is a population layer with absent groups; expected a plain layer after it: "
            "removing them would remove outputs of the network."
        )
    small = nn.Sequential(parts)
    small.training = model.training
    if optimizers:
        _repoint(model, small, optimizers, slices)
    return small


def _living(name: str, module: nn.Module, round_to: int) -> torch.Tensor | None:
    """Return the indices of the groups to keep, None for a layer without masses."""
    if not isinstance(module, PopulationLayer):
        return None
    checked_masses(name or "model", module)
    alive = module.masses > 0
    count = int(alive.sum())
    if not count:
        raise ValueError(
            f"{name or 'model'} has no living group; expected at least one: "
            "the network's output is a constant."
        )
    width = min(-(-count // round_to) * round_to, module.groups)
    # Living groups first, then as many absent ones as the width needs; their mass of 0 stays folded in.
    order = torch.argsort(alive.to(torch.int8), descending=True, stable=True)
    return order[:width].sort().values


def _smaller(
    module: PopulationLinear | nn.Linear,
    rows: torch.Tensor | None,
    columns: torch.Tensor | None,
    constant: torch.Tensor | None,
) -> tuple[nn.Linear, _Slices]:
    weight = module.weight

    def sliced(matrix: torch.Tensor) -> torch.Tensor:
        matrix = matrix if rows is None else matrix[rows]
        return matrix.clone() if columns is None else matrix[:, columns].contiguous()

    def sliced_bias(vector: torch.Tensor) -> torch.Tensor:
        return vector.clone() if rows is None else vector[rows]

    mass = module.masses if isinstance(module, PopulationLayer) else weight.new_ones((), dtype=torch.float64)
    new_weight = sliced((weight.double() * (mass[:, None] if mass.ndim else mass)).to(weight.dtype))
    # In double precision, so that folding costs one rounding.
    offset = weight.new_zeros(module.out_features, dtype=torch.float64)
    if module.bias is not None:
        offset = offset + module.bias.double()
    if constant is not None and columns is not None:
        sent = constant.to(weight.device).double()
        sent[columns] = 0.0
        offset = offset + weight.double() @ sent
    with_bias = module.bias is not None or bool((offset != 0).any())
    out_features, in_features = new_weight.shape
    part = empty_linear(in_features, out_features, with_bias, device=weight.device, dtype=weight.dtype)
    part.weight.copy_(new_weight)
    mapping: _Slices = {weight: (part.weight, sliced)}
    if with_bias:
        part.bias.copy_(sliced_bias((offset * mass).to(weight.dtype)))
        if module.bias is not None:
            mapping[module.bias] = (part.bias, sliced_bias)
    for old, (new, _) in mapping.items():
        new.requires_grad_(old.requires_grad)
    return part, mapping


def _repoint(
    model: nn.Module, small: nn.Module, optimizers: Sequence[torch.optim.Optimizer], slices: _Slices
) -> None:
    """Point the optimisers to the parameters of the new network, all of them or none."""
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    states = [_sliced_state(optimizer, slices, names) for optimizer in optimizers]
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
            group["params"] = [slices[parameter][0] for parameter in group["params"]]
            if "param_names" in group:
                group["param_names"] = [new_names[parameter] for parameter in group["params"]]
        optimizer.state.clear()
        optimizer.state.update(state)


def _sliced_state(
    optimizer: torch.optim.Optimizer, slices: _Slices, names: Mapping[torch.Tensor, str]
) -> dict[torch.Tensor, dict[str, Any]]:
    """Return an optimiser's state for the new parameters; refuse by name what cannot be carried over."""
    kind = type(optimizer).__name__
    remedy = "make a new optimiser of the compacted network."
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    if not (held | optimizer.state.keys()) <= slices.keys():
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
    }


def _refers_to(value: object, parameters: Collection[torch.Tensor]) -> bool:
    """Tell whether an attribute is another optimiser, or parameters in a container or by themselves."""
    if isinstance(value, Mapping):
        return any(_refers_to(item, parameters) for pair in value.items() for item in pair)
    if isinstance(value, list | tuple | set):
        return any(_refers_to(item, parameters) for item in value)
    return isinstance(value, torch.optim.Optimizer) or (torch.is_tensor(value) and value in parameters)
