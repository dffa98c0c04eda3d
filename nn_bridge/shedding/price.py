"""A price that adapts: what groups pay rises as long as more of them live than there is room for."""

from __future__ import annotations

import math

__all__ = ["AdaptivePrice"]


class AdaptivePrice:
    """The price c of dc/dt = κ ln(A/K), bounded by 0 and a limit; 0 as soon as A is at most K.

    It is the multiplier of the constraint A <= K, as a market finds it.

    Parameters
    ----------
    capacity : float
        K > 0.
    rate : float
        κ, in units of fitness per unit of time.
    limit : float
        The highest price, in units of fitness: a size that no price brings about does not drive it up for
        ever.

    Attributes
    ----------
    value : float
        c.

    Examples
    --------
    >>> price = AdaptivePrice(capacity=10.0, rate=0.5, limit=2.0)
    >>> for amount in (27.2, 27.2, 10.0):
    ...     price.update(amount, 0.1)
    ...     print(round(price.value, 3))
    0.05
    0.1
    0.0
    """

    def __init__(self, capacity: float, rate: float, limit: float) -> None:
        self.capacity, self.rate, self.limit, self.value = capacity, rate, limit, 0.0

    def update(self, amount: float, elapsed: float) -> None:
        """Let the price follow the amount A that there is for a time."""
        if amount <= self.capacity:
            self.value = 0.0
        else:
            rise = self.rate * math.log(amount / self.capacity) * elapsed
            self.value = min(self.value + rise, self.limit)
