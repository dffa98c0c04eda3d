"""Log-shares and the logarithms of totals, which is what trajectories hold."""

from __future__ import annotations

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.model.populations import Segments

__all__ = ["Shares", "few_rows", "log_sum_exp", "shares_of"]

_PART = 1 << 14
"""Numbers that are worked on at a time."""


def log_sum_exp(values: FloatArray) -> FloatArray:
    """Return ln Σ exp over the last axis, keeping it; -inf for no mass at all."""
    top = values.max(axis=-1, keepdims=True)
    if not np.isfinite(top).all():
        top = np.where(np.isfinite(top), top, 0.0)
    shares = values - top
    np.exp(shares, out=shares)
    with np.errstate(divide="ignore"):
        total: FloatArray = top + np.log(shares.sum(axis=-1, keepdims=True))
    return total


def few_rows(table: FloatArray) -> list[slice]:
    """Return parts of a table, small enough that what is made of one stays in the processor's cache."""
    size = max(1, _PART // table.shape[-1])
    if table.ndim < 2 or len(table) <= size:
        return [slice(None)]
    return [slice(row, row + size) for row in range(0, len(table), size)]


Shares = tuple[FloatArray, FloatArray]
"""Log-shares, shape (T, N), and ln P of every block, shape (T, K)."""


def shares_of(log_masses: FloatArray, segments: Segments) -> Shares:
    """Return the shares that groups have in their blocks, and the totals of these."""
    top = segments.reduced(np.maximum, log_masses)
    top = np.where(np.isfinite(top), top, 0.0)
    log_shares = log_masses - segments.spread(top)
    with np.errstate(divide="ignore"):
        own = np.concatenate(
            [np.log(segments.reduced(np.add, np.exp(log_shares[rows]))) for rows in few_rows(log_shares)]
        )
    log_shares -= segments.spread(np.where(np.isfinite(own), own, 0.0))
    return log_shares, top + own
