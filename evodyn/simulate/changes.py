"""Changes in time that nobody has declared: found by sampling a velocity at fixed masses."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.simulate.flow import Flow
from evodyn.solvers.protocol import RightHandSide, Stepper

__all__ = ["SEEN", "Changes", "SampledTimes", "first_jump", "overlooked"]

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


class Changes:
    """The changes in time within the steps of a phase that nobody has declared.

    Parameters
    ----------
    samples : SampledTimes or None
        None where nothing can change.
    flow : Flow
    rhs : RightHandSide
        Which counts.
    atol : array, shape (n,)
        Absolute tolerances of the state.
    """

    def __init__(
        self, samples: SampledTimes | None, flow: Flow, rhs: RightHandSide, atol: FloatArray
    ) -> None:
        self.samples = samples
        self.flow = flow
        self.rhs = rhs
        if samples is not None:
            self.least = 10 * atol / samples.spacing
            self.least[len(flow.log_living) :] = 0.0

    def jump(self, t_old: float, t: float, y: FloatArray) -> float | None:
        """Return where there is a jump between two times, else None."""
        if self.samples is None:
            return None
        velocity = self.rhs.sampled(functools.partial(self.flow.velocity, y=y))
        return first_jump(velocity, self.samples, t_old, t)

    def overlooked(self, t_old: float, stepper: Stepper, *, one_step: bool) -> float | None:
        """Return where something begins that is on within the last step but not where it looked, else None.

        Fitness, or the velocity, is sampled at fixed masses, so that only time can make a difference.
        """
        t, y = stepper.t, stepper.y
        # The stages of one-step methods leave gaps of half a step, multistep methods look at its end only.
        gap = 0.5 if one_step else 1.0
        if self.samples is None or gap * (t - t_old) <= self.samples.spacing:
            return None
        steady = self.flow.dynamics.autonomous
        values = self.flow.fitness_at(t, y) if steady else functools.partial(self.flow.velocity, y=y)
        at = self.rhs.sampled(values)
        return overlooked(at, self.samples, t_old, t, looked=stepper.looked, least=self.least)


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
    at: Velocity,
    samples: SampledTimes,
    start: float,
    end: float,
    *,
    looked: Sequence[float],
    least: FloatArray,
) -> float | None:
    """Return where something begins that is on between two times but not where a step looked, else None.

    It `looked` at its ends, and at these places between, in units of the step. Differences below `least`,
    shape (n,), or below the range of what it has seen, do not count: a smooth change is no news to it.
    """
    after = at(end)
    earlier, before = start, None
    inner = list(looked)
    for time in samples.within(start, end):
        here = at(time)
        if not (here == after).all() and not np.array_equal(here, after, equal_nan=True):
            if before is None:
                before = at(start)
                lowest, highest = np.minimum(before, after), np.maximum(before, after)
            if _beyond(here, lowest, highest, least) and inner:
                # Most changes are seen from the ends alone, so that what lies between is asked for last.
                seen = np.array([lowest, highest, *(at(start + place * (end - start)) for place in inner)])
                lowest, highest, inner = seen.min(axis=0), seen.max(axis=0), []
            if _beyond(here, lowest, highest, least):
                change = _onset(at, earlier, float(time), before, here)
                return float(time) if change is None else change
        earlier = float(time)
    return None


def _beyond(here: FloatArray, lowest: FloatArray, highest: FloatArray, least: FloatArray) -> bool:
    """Tell whether values lie outside a range by more than it is wide; NaN does."""
    outside, allowed = np.maximum(here - highest, lowest - here), np.maximum(least, highest - lowest)
    return not (outside <= allowed).all()


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
