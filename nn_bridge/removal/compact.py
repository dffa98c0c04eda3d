"""A smaller network without the groups of mass 0, and optimisers that go on with it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from evodyn.core import validation
from nn_bridge.layers import PopulationLayer, PopulationLinear, empty_linear
from nn_bridge.population import population_of
from nn_bridge.removal.optimizers import Slices, repoint
from nn_bridge.removal.prune import checked_masses
from nn_bridge.removal.shrink import shrink
from nn_bridge.removal.trace import chain, flat_names

__all__ = ["compact"]


def compact(
    model: nn.Module,
    example_inputs: Any = None,
    optimizer: torch.optim.Optimizer | Sequence[torch.optim.Optimizer] | None = None,
    *,
    round_to: int = 1,
) -> nn.Module:
    """Return a new, smaller network without the groups of mass 0, masses folded into plain modules.

    Its outputs are those of `model` up to rounding. Where the activation does not map 0 to 0, what the
    removed groups sent on is folded into the next bias.

    Parameters
    ----------
    model : torch.nn.Module
        A network with masses; it is left as it is.
    example_inputs : Tensor, tuple or dict, optional
        What the model is called with, see `populate`. A chain (`nn.Sequential`, nested or not) of linear
        layers and element-wise modules needs none; the optimiser may then be given in its place.
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
    torch.nn.Module
        With an example, a model of the same class with the same names, whose modules are smaller; code
        that computes with a number of heads gets the new one in its attribute, or becomes a
        `torch.fx.GraphModule`. Without one, `nn.Sequential` of layers with the names of the old ones, dots
        replaced by underscores.

    Raises
    ------
    ValueError
        If the groups of a layer cannot be removed because of a module that cannot be traced (named), or a
        layer has no living group or masses that are negative or not finite. If an optimiser holds parameters
        that are not the model's, or state that cannot be sliced (LBFGS, Adafactor), or a parameter that
        requires a gradient is in none of the optimisers: they are then as they were. If the outputs of the
        smaller network differ on the example.

    Notes
    -----
    A group of mass 0 that shares its place with living ones, a channel of a residual link say, stays, with
    weights of 0, until all of them are at 0.

    Examples
    --------
    >>> import nn_bridge as nb
    >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 2))
    >>> images = torch.ones(1, 1, 6, 6)
    >>> report = nb.prune_to_sparsity(nb.populate(model, images), 0.5)
    >>> compact(model, images)[0]
    Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1))
    """
    validation.count("round_to", round_to)
    if optimizer is None and _are_optimizers(example_inputs):
        example_inputs, optimizer = None, example_inputs
    given = [] if optimizer is None else optimizer
    optimizers = [given] if isinstance(given, torch.optim.Optimizer) else list(given)
    if example_inputs is None and any(population_of(module) for module in model.modules()):
        first = next(part for _, part in chain(model) if isinstance(part, nn.Linear | PopulationLinear))
        draw = torch.Generator().manual_seed(0)
        example_inputs = torch.randn(2, first.in_features, generator=draw).to(first.weight)
    if example_inputs is None:
        return _compact_chain(model, optimizers, round_to)
    return shrink(model, example_inputs, optimizers, round_to)


def _are_optimizers(value: object) -> bool:
    parts = value if isinstance(value, list | tuple) else [value]
    return bool(parts) and all(isinstance(part, torch.optim.Optimizer) for part in parts)


@torch.no_grad()
def _compact_chain(
    model: nn.Module, optimizers: Sequence[torch.optim.Optimizer], round_to: int
) -> nn.Sequential:
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    slices: Slices = {}
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
            if constant is not None and not isinstance(module, nn.modules.dropout._DropoutNd):
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
        repoint(model, small, optimizers, slices)
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
) -> tuple[nn.Linear, Slices]:
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
    mapping: Slices = {weight: (part.weight, sliced)}
    if with_bias:
        part.bias.copy_(sliced_bias((offset * mass).to(weight.dtype)))
        if module.bias is not None:
            mapping[module.bias] = (part.bias, sliced_bias)
    for old, (new, _) in mapping.items():
        new.requires_grad_(old.requires_grad)
    return part, mapping
