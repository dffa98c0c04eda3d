"""Network slimming: an L1 penalty on scales (Liu et al., ICCV 2017, arXiv 1708.06519)."""

from __future__ import annotations

import torch
from torch import nn

from nn_bridge.baselines.gates import GatedLinear
from nn_bridge.layers import PopulationLinear

__all__ = ["Slimming"]


class Slimming(GatedLinear):
    """Gates without bounds, which start at 1; the penalty is Σ |z_i|. No batch norm is needed for them.

    Parameters
    ----------
    layer : PopulationLinear
        Whose parameters it takes over.
    """

    def __init__(self, layer: PopulationLinear) -> None:
        super().__init__(layer)
        self.scales = nn.Parameter(torch.ones(self.groups))

    def gates(self) -> torch.Tensor:
        return self.scales

    def penalties(self) -> torch.Tensor:
        return self.scales.abs()

    def scores(self) -> torch.Tensor:
        return self.scales.abs()
