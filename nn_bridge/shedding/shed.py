"""What happens to a network as groups die: it becomes smaller, masses become weights, all is written back."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from nn_bridge.layers import population_layers, populations
from nn_bridge.modes import evaluation_mode
from nn_bridge.populate import populate
from nn_bridge.population import population_of
from nn_bridge.removal.compact import compact
from nn_bridge.removal.trace import chain

__all__ = ["check", "fold", "remember", "restore", "shed"]


def check(model: nn.Module, example: torch.Tensor) -> None:
    """Raise `ValueError` if a network has masses whose groups `shed` could not remove."""
    with evaluation_mode(model):
        try:
            populate(compact(model, example), example, populations(model).values())
        except ValueError as error:
            raise ValueError(f"model cannot become smaller while it trains: {error}") from error


def shed(model: nn.Module, example: torch.Tensor, optimizer: torch.optim.Optimizer) -> nn.Module:
    """Return the network without the groups of mass 0; those that live keep their masses.

    Parameters
    ----------
    model : torch.nn.Module
        A network with masses, whose place the new one takes together with the optimiser: its own masses are
        spoilt.
    example : Tensor, shape (samples, ...)
        Inputs.
    optimizer : torch.optim.Optimizer
        It goes on with what is left, see `compact`.

    Raises
    ------
    ValueError
        If what the dead send on is not 0, and the layer that reads them has no bias to take it.
    """
    names = list(populations(model).values())
    masses = [layer.masses.clone() for layer in population_layers(model)]
    for layer in population_layers(model):
        layer.masses.copy_(layer.masses > 0)  # so that no mass becomes part of a weight
    with evaluation_mode(model):
        small = compact(model, example, optimizer)
        _without_new_parameters(model, small)
        populate(small, example, names)
    small.train(model.training)
    for layer, mass in zip(population_layers(small), masses, strict=True):
        # A group of mass 0 that shares its place with living ones is still there.
        layer.masses.copy_(mass[mass > 0] if len(layer.masses) < len(mass) else mass)
    return small


def _without_new_parameters(model: nn.Module, small: nn.Module) -> None:
    """Refuse biases that only the smaller network has: nobody trains them, or knows where they came from."""
    known = {name for name, _ in model.named_parameters()}
    if new := [name for name, _ in small.named_parameters() if name not in known]:
        raise ValueError(
            f"{new[0].rpartition('.')[0] or 'model'} has no bias; expected one in a layer that reads groups "
            "through an activation which does not map 0 to 0: it takes what those that die send on."
        )


@torch.no_grad()
def fold(model: nn.Module) -> float:
    """Make masses of 1 of masses, as weights: √p on what enters a group and √p on what leaves it.

    Outputs stay, since what lies between is homogeneous: relu(√p z) = √p relu(z). Elsewhere nothing is done.

    Returns
    -------
    float
        The least factor by which the square of a weight's norm changed. At the same rate, steps in proportion
        to the weight are larger by its inverse: gradients grow as weights become small.
    """
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    before = [float(weight.square().sum()) for weight in weights]
    _fold(model)
    return min(
        (float(w.square().sum()) / norm for w, norm in zip(weights, before, strict=True) if norm), default=1.0
    )


def _fold(model: nn.Module) -> None:
    """Fold the masses of all modules."""
    try:
        links = [module for _, module in chain(model)]
    except ValueError:
        for module in population_layers(model):
            _fold_populated(module)
        return
    weighted = [k for k, module in enumerate(links) if hasattr(module, "weight")]
    for at, following in itertools.pairwise(weighted):
        layer: Any = links[at]
        reader: Any = links[following]
        if not hasattr(layer, "masses") or not all(map(_homogeneous, links[at + 1 : following])):
            continue
        if len(layer.masses) != reader.weight.shape[1]:
            continue
        roots = layer.masses.sqrt().to(layer.weight.dtype)
        layer.weight.mul_(roots[:, None])
        if layer.bias is not None:
            layer.bias.mul_(roots)
        reader.weight.mul_(roots)
        layer.masses.copy_(layer.masses > 0)


def _fold_populated(module: Any) -> None:
    """Fold the masses that `populate` gave a module."""
    population = population_of(module)
    if population is None or not population.readers:
        return
    if population.at == "heads":  # what attention shares out is scaled like what it puts out
        projections = (module.v_proj_weight,) if module.in_proj_weight is None else (module.in_proj_weight,)
        entering = [p.chunk(1 if p is module.v_proj_weight else 3)[-1] for p in projections]
        entering += [] if module.in_proj_bias is None else [module.in_proj_bias.chunk(3)[-1]]
    else:
        entering = [p for p in (module.weight, module.bias) if p is not None]
    if not entering:
        return
    roots = module.masses.sqrt()
    for part in entering:
        factors = roots.repeat_interleave(len(part) // len(roots)).to(part.dtype)
        part.mul_(factors.view([-1, *[1] * (part.ndim - 1)]))
    for member in population.readers:
        member.scale(roots)
    module.masses.copy_(module.masses > 0)


def _homogeneous(part: nn.Module) -> bool:
    """Tell whether twice as much in is exactly twice as much out."""
    probe = torch.linspace(-3.0, 3.0, 25)[None]
    with evaluation_mode(part):
        return torch.equal(part(2 * probe), 2 * part(probe))


def remember(optimizer: torch.optim.Optimizer) -> None:
    """Note in the state of every parameter which of its numbers is which, so that `restore` knows them."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            numbers = torch.arange(parameter.numel(), device=parameter.device)
            optimizer.state[parameter]["origin"] = numbers.view(parameter.shape)


@torch.no_grad()
def restore(
    model: nn.Module, small: nn.Module, optimizer: torch.optim.Optimizer, living: Sequence[torch.Tensor]
) -> None:
    """Write what is left of a network back to where it came from; groups that died are at mass 0 there.

    Their weights are 0, too: what an activation makes of 0 is part of the next bias already.

    Parameters
    ----------
    model : torch.nn.Module
        The network as it was when `remember` was called.
    small : torch.nn.Module
        What is left of it.
    optimizer : torch.optim.Optimizer
        That of the smaller network.
    living : sequence of Tensor
        For each layer with masses, the numbers of the groups that are left.
    """
    left = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    origins: dict[str, torch.Tensor] = {}
    for (name, old), new in zip(model.named_parameters(), left, strict=True):
        origins[name] = optimizer.state[new]["origin"].flatten()
        old.zero_().view(-1)[origins[name]] = new.flatten()
    buffers = dict(small.named_buffers())
    for name, buffer in model.named_buffers():
        if name not in buffers:
            continue  # masses
        if buffer.shape == buffers[name].shape:
            buffer.copy_(buffers[name])
        else:  # the statistics of a normalisation, in the order of its weights
            buffer[origins[f"{name.rpartition('.')[0]}.weight"]] = buffers[name]
    for layer, numbers in zip(population_layers(model), living, strict=True):
        layer.masses.zero_()
        layer.masses[numbers] = 1.0
