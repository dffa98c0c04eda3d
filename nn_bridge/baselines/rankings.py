"""Rankings of the groups of a trained network: who is removed first."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from nn_bridge.baselines.gates import GatedLinear
from nn_bridge.layers import population_layers
from nn_bridge.modes import evaluation_mode
from nn_bridge.removal.prune import PruneReport, prune_to_sparsity
from nn_bridge.signals import Magnitude

__all__ = ["at_random", "by_gate", "by_magnitude", "by_mass", "by_sensitivity", "remove_lowest"]


def at_random(model: nn.Module, seed: int) -> torch.Tensor:
    """Return scores in random order, shape (groups,)."""
    count = sum(len(layer.masses) for layer in population_layers(model))
    return 1.0 + torch.randperm(count, generator=torch.Generator().manual_seed(seed)).double()


def by_magnitude(model: nn.Module) -> torch.Tensor:
    """Return the Euclidean norm of each group's incoming weights and bias, shape (groups,)."""
    return Magnitude().values(population_layers(model), torch.empty(0)).double()


def by_mass(model: nn.Module) -> torch.Tensor:
    """Return the masses, shape (groups,)."""
    return torch.cat([layer.masses for layer in population_layers(model)])


def by_gate(model: nn.Module) -> torch.Tensor:
    """Return the scores of layers with gates, shape (groups,)."""
    layers = [layer for layer in population_layers(model) if isinstance(layer, GatedLinear)]
    return torch.cat([layer.scores().detach() for layer in layers]).double()


def by_sensitivity(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, batch_size: int = 1000
) -> torch.Tensor:
    """Return the mean over the samples of |y_i ∂ℓ/∂y_i|, shape (groups,).

    That is how much, to first order, the loss of a sample changes without the group (Molchanov et al., ICLR
    2017, arXiv 1611.06440); the loss is the cross-entropy.
    """
    layers = population_layers(model)
    totals = [torch.zeros(len(layer.masses), dtype=torch.float64) for layer in layers]
    outputs: dict[int, torch.Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda module, inputs, y, k=k: outputs.__setitem__(k, y))
        for k, layer in enumerate(layers)
    ]
    try:
        with evaluation_mode(model):
            for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
                loss = nn.functional.cross_entropy(model(x), y, reduction="sum")
                found = [outputs[k] for k in range(len(layers))]
                for total, z, gradient in zip(totals, found, torch.autograd.grad(loss, found), strict=True):
                    total += (z.detach() * gradient).abs().sum(0).double()
    finally:
        for handle in handles:
            handle.remove()
    return torch.cat(totals) / len(images)


@torch.no_grad()
def remove_lowest(model: nn.Module, scores: torch.Tensor, fraction: float) -> PruneReport:
    """Set the mass of the groups with the lowest scores to 0, in place; the others keep theirs.

    Parameters
    ----------
    model : torch.nn.Module
        A network with population layers.
    scores : Tensor, shape (groups,)
        Not negative; groups with the score 0 are removed in any case.
    fraction : float
        Of all groups; see `prune_to_sparsity`, which keeps the last group of a layer.
    """
    layers = population_layers(model)
    before = [layer.masses.clone() for layer in layers]
    parts = scores.split([len(masses) for masses in before])
    for layer, masses, score in zip(layers, before, parts, strict=True):
        layer.masses.copy_(torch.where(masses > 0, score, 0.0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the report says which layers were protected
        report = prune_to_sparsity(model, fraction)
    for layer, masses in zip(layers, before, strict=True):
        layer.masses.copy_(torch.where(layer.masses > 0, masses, 0.0))
    return report
