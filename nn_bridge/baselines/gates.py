"""Gates that are learnt with the weights: y_i = z_i (w_i·x + b_i), and a penalty that closes them."""

from __future__ import annotations

import copy
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import nn

from nn_bridge.layers import PopulationLinear, population_layers

__all__ = ["GatedLinear", "balanced", "closed", "folded", "gated", "penalty"]

SWEEPS = 20  # a layer changes the norms of its neighbours


class GatedLinear(PopulationLinear, ABC):
    """Base of the layers whose neurons have gates. Their masses say who lives: 1, or 0 for what was removed.

    Parameters
    ----------
    layer : PopulationLinear
        Whose parameters and masses the new layer takes over.
    """

    closed: ClassVar[float] = 0.01
    """The score below which a gate counts as closed."""

    def __init__(self, layer: PopulationLinear) -> None:
        super().__init__(1, 1, bias=layer.bias is not None)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias, self.masses = layer.weight, layer.bias, layer.masses

    @abstractmethod
    def gates(self) -> torch.Tensor:
        """Return the gates z_i of this pass, shape (groups,); random ones only in training."""

    @abstractmethod
    def penalties(self) -> torch.Tensor:
        """Return what each group adds to the loss, for a penalty of strength 1, shape (groups,)."""

    @abstractmethod
    def scores(self) -> torch.Tensor:
        """Return by what the groups are ranked, not negative, shape (groups,)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return y, shape (..., out_features), for x of shape (..., in_features)."""
        return self.scaled(self.gates() * nn.functional.linear(x, self.weight, self.bias))


def gated(model: nn.Sequential, layer: Callable[[PopulationLinear], GatedLinear]) -> nn.Sequential:
    """Return a copy of a network whose population layers have gates.

    Parameters
    ----------
    model : torch.nn.Sequential
        A network of `PopulationLinear` layers, such as `population_mlp` returns.
    layer : callable
        Makes the layer with gates of the one without: a class derived from `GatedLinear`.

    Examples
    --------
    >>> import nn_bridge as nb
    >>> from nn_bridge.baselines.slimming import Slimming
    >>> gated(nb.population_mlp((4, 3, 2)), Slimming).hidden1
    Slimming(in_features=4, out_features=3, bias=True)
    """
    twin = copy.deepcopy(model)
    for name, part in twin.named_children():
        if isinstance(part, PopulationLinear):
            setattr(twin, name, layer(part))
    return twin


def penalty(model: nn.Module) -> torch.Tensor:
    """Return the penalty of strength 1 on the living groups of all layers with gates, shape ()."""
    layers = [layer for layer in population_layers(model) if isinstance(layer, GatedLinear)]
    return torch.stack([(layer.penalties() * (layer.masses > 0)).sum() for layer in layers]).sum()


@torch.no_grad()
def closed(model: nn.Module) -> float:
    """Return the fraction of all groups whose gates are closed; 0 without gates."""
    layers = [layer for layer in population_layers(model) if isinstance(layer, GatedLinear)]
    shut = sum(int((layer.scores() < layer.closed).sum()) for layer in layers)
    return shut / sum(len(layer.masses) for layer in population_layers(model))


@torch.no_grad()
def folded(model: nn.Sequential) -> nn.Sequential:
    """Return a network of plain population layers whose weights hold the gates: same outputs in evaluation.

    A group whose gate is closed has the mass 0, unless no gate of its layer is open.
    """
    twin = copy.deepcopy(model).eval()
    for name, part in twin.named_children():
        if isinstance(part, GatedLinear):
            gates = part.gates()
            plain = PopulationLinear(
                part.in_features, part.out_features, part.bias is not None, dtype=part.weight.dtype
            )
            plain.weight.copy_(gates[:, None] * part.weight)
            if part.bias is not None and plain.bias is not None:
                plain.bias.copy_(gates * part.bias)
            open_ones = torch.where(gates == 0, 0.0, part.masses)
            plain.masses.copy_(open_ones if open_ones.any() else part.masses)
            setattr(twin, name, plain)
    return twin


@torch.no_grad()
def balanced(model: nn.Sequential) -> nn.Sequential:
    """Return the network with what enters a neuron as large as what it sends on: same outputs.

    Gates that are folded into weights leave small weights before large ones, which no learning rate suits.
    Between the linear layers of the chain there may be nothing but ReLU.
    """
    twin = copy.deepcopy(model)
    layers = [part for part in twin if isinstance(part, nn.Linear)]
    others = [part for part in twin if not isinstance(part, nn.Linear | nn.ReLU)]
    if others:
        raise ValueError(f"model has a {type(others[0]).__name__}; expected linear layers and ReLU alone.")
    for _ in range(SWEEPS):
        for layer, after in itertools.pairwise(layers):
            norms = layer.weight.square().sum(1)
            if layer.bias is not None:
                norms = norms + layer.bias.square()
            ratios = (after.weight.square().sum(0) / norms) ** 0.25
            ratios = torch.where((ratios > 0) & ratios.isfinite(), ratios, 1.0)
            layer.weight.mul_(ratios[:, None])
            if layer.bias is not None:
                layer.bias.mul_(ratios)
            after.weight.div_(ratios)
    return twin
