"""D-Gating: weight decay on D factors of a group, a non-convex group penalty (arXiv 2509.23898)."""

from __future__ import annotations

import torch
from torch import nn

from nn_bridge.baselines.gates import GatedLinear
from nn_bridge.layers import PopulationLinear

__all__ = ["DGating"]


class DGating(GatedLinear):
    """D - 1 gates a group, whose product is its gate: with the weights, a product of D factors.

    The penalty of a group is ‖w_i‖² + b_i² + Σ_d z_id². At a given effective norm s = ‖(w_i, b_i)‖ Π_d |z_id|
    it is least where all factors are alike, D s^(2/D): smooth in the factors, and the same minima as a
    penalty of the group's norm to the power of 2/D.

    Parameters
    ----------
    layer : PopulationLinear
        Whose parameters it takes over.
    depth : int
        D >= 2: 2 is the group lasso.
    """

    def __init__(self, layer: PopulationLinear, *, depth: int) -> None:
        super().__init__(layer)
        if depth < 2:
            raise ValueError(f"depth is {depth}; expected D >= 2, the number of factors.")
        self.factors = nn.Parameter(torch.ones(depth - 1, self.groups))

    def gates(self) -> torch.Tensor:
        return self.factors.prod(0)

    def _squared_norms(self) -> torch.Tensor:
        norms = self.weight.square().sum(1)
        return norms if self.bias is None else norms + self.bias.square()

    def penalties(self) -> torch.Tensor:
        return self._squared_norms() + self.factors.square().sum(0)

    def scores(self) -> torch.Tensor:
        return self.gates().abs() * self._squared_norms().sqrt()
