"""L0 regularisation by hard-concrete gates (Louizos, Welling and Kingma, ICLR 2018, arXiv 1712.01312)."""

from __future__ import annotations

import math

import torch
from torch import nn

from nn_bridge.baselines.gates import GatedLinear
from nn_bridge.layers import PopulationLinear

__all__ = ["HardConcrete"]

TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1
"""β, γ and ζ of the paper."""


class HardConcrete(GatedLinear):
    """Gates that are random in training, and 0 or 1 with positive probability.

    z = min(1, max(0, (ζ - γ) σ((ln u - ln(1 - u) + a)/β) + γ)) with u uniform in (0, 1), one draw a gate
    and pass; in evaluation, u = 1/2 and β = 1. The penalty is the expected number of gates that are open,
    Σ P(z_i > 0) = Σ σ(a_i - β ln(-γ/ζ)).

    Parameters
    ----------
    layer : PopulationLinear
        Whose parameters it takes over.
    start : float, optional
        a at the start; P(z > 0) is 0.83 at 0.
    seed : int, optional
        Of the draws.
    """

    # z = 0 in evaluation, where σ(a) <= -γ/(ζ - γ).
    closed = 1 / (1 + (HIGH / -LOW) * (-LOW / HIGH) ** TEMPERATURE)

    def __init__(self, layer: PopulationLinear, *, start: float = 2.0, seed: int = 0) -> None:
        super().__init__(layer)
        self.generator = torch.Generator().manual_seed(seed)
        self.openness = nn.Parameter(torch.full((self.groups,), start))

    def gates(self) -> torch.Tensor:
        argument: torch.Tensor = self.openness
        if self.training:
            uniform = torch.rand(self.groups, generator=self.generator).clamp(1e-6, 1 - 1e-6)
            argument = (torch.logit(uniform) + argument) / TEMPERATURE
        return (torch.sigmoid(argument) * (HIGH - LOW) + LOW).clamp(0.0, 1.0)

    def penalties(self) -> torch.Tensor:
        return torch.sigmoid(self.openness - TEMPERATURE * math.log(-LOW / HIGH))

    def scores(self) -> torch.Tensor:
        return self.penalties()
