"""Changes in time that nobody has declared: found by sampling a velocity at fixed masses."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from evodyn.core.arrays import FloatArray

__all__ = ["SEEN", "SampledTimes", "first_jump", "overlooked"]

SEEN = 1 / 101
"""What is on for this part of the time span, or longer, is seen: any hundredth holds one sample."""

Velocity = Callable[[float], FloatArray]
"""The velocity at fixed masses as a function of time, shape (n,)."""


@dataclasses.dataclass(frozen=True)
class SampledTimes:
    """The times of a run at which to look at what may be on for a while.

    Examples
    --------
    >>> SampledTimes(0.0, 101.0).within(2.0, 5.0)
    array([3., 4.])
    """

    start: float
    end: float

    @property
    def spacing(self) -> float:
        """The time between two samples."""
        return SEEN * (self.end - self.start)

    def within(self, first: float, last: float) -> FloatArray:
        """Return the samples strictly within (first, last)."""
        low = math.floor((first - self.start) / self.spacing)
        high = math.ceil((last - self.start) / self.spacing)
        times: FloatArray = np.asarray(self.start + self.spacing * np.arange(low, high + 1), dtype=np.float64)
        return times[(times > first) & (times < last)]


def first_jump(at: Velocity, samples: SampledTimes, start: float, end: float) -> float | None:
    """Return the first jump of a velocity between two times that samples show, or None."""
    earlier, before = start, at(start)
    for time in (*samples.within(start, end), end):
        here = at(time)
        if not np.array_equal(here, before, equal_nan=True):
            change = _onset(at, earlier, time, before, here)
            if change is not None and start < change:
                return change
        earlier, before = time, here
    return None


def overlooked(
    at: Velocity, samples: SampledTimes, start: float, end: float, *, least: FloatArray
) -> float | None:
    """Return where something begins that is on between two times but not at them, else None.

    Differences below `least`, shape (n,), or below the change from the start to the end, do not count.
    """
    after = at(end)
    earlier, before = start, None
    for time in samples.within(start, end):
        here = at(time)
        if not np.array_equal(here, after, equal_nan=True):
            if before is None:
                before = at(start)
            beyond = _beyond(here, before, after)
            if not (beyond <= np.maximum(least, np.abs(after - before))).all():
                change = _onset(at, earlier, float(time), before, here)
                return float(time) if change is None else change
        earlier = float(time)
    return None


def _beyond(here: FloatArray, before: FloatArray, after: FloatArray) -> FloatArray:
    """Return how far `here` lies outside the range of `before` and `after`, NaN where it is not finite."""
    return np.maximum(here - np.maximum(before, after), np.minimum(before, after) - here).clip(min=0.0)


def _onset(at: Velocity, off: float, on: float, before: FloatArray, here: FloatArray) -> float | None:
    """Return where a jump between the times `off` and `on` is, by bisection, or None for a smooth change.

    It is the first float at which the change is on.
    """
    begin = on
    while True:
        middle = 0.5 * (off + begin)
        if not off < middle < begin:
            return begin
        value = at(middle)
        to_before, to_here = np.nansum(np.abs(value - before)), np.nansum(np.abs(value - here))
        if min(to_before, to_here) > 0.1 * max(to_before, to_here):
            return None
        if to_here < to_before or not np.isfinite(value).all():
            begin = middle
        else:
            off = middle
