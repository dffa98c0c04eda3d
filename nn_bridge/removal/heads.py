"""Attention with fewer heads than its width would have."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from nn_bridge.population import attention

__all__ = ["RemainingHeads"]


class RemainingHeads(nn.MultiheadAttention):
    """`nn.MultiheadAttention` after some of its heads are gone, with the weights under the same names.

    Parameters
    ----------
    whole : torch.nn.MultiheadAttention
        The attention whose weights these are, already without the removed heads.
    heads : int
        How many are left.
    """

    def __init__(self, whole: nn.MultiheadAttention, heads: int) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(vars(whole))
        # That nn.TransformerEncoderLayer does not compute with the weights by itself, as with all heads.
        self._qkv_same_embed_dim = False
        self.num_heads = heads

    def forward(self, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return what `nn.MultiheadAttention` does."""
        return attention(self, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, head_dim={self.head_dim}"
