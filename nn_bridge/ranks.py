"""The ranks of a distributed run: what each has measured becomes the same for all."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import distributed

__all__ = ["over_ranks"]


def over_ranks(values: torch.Tensor, how: Literal["mean", "sum"], group: Any = None) -> torch.Tensor:
    """Return mean or sum of `values` over the ranks, the same bits on each; `values` where there is one.

    Parameters
    ----------
    values : Tensor
        Of this rank; overwritten.
    how : {"mean", "sum"}
        Which of the two.
    group : ProcessGroup, optional
        The ranks; by default all.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return values
    ranks = distributed.get_world_size(group)
    if ranks == 1:
        return values
    distributed.all_reduce(values, group=group)
    return values / ranks if how == "mean" else values
