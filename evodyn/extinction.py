"""Extinction by a stated threshold: the policy, the record, and where a curve crosses a level."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from evodyn import validation
from evodyn.arrays import FloatArray
from evodyn.specifications import Specification

__all__ = ["Crossings", "Extinction", "Ledger", "crossing_table"]

Policy = Literal["observe", "absorb", "stop"]
POLICIES = ("observe", "absorb", "stop")

Crossings = np.recarray
"""A table with one row per crossing: group, time, direction (-1 downwards, +1 upwards)."""

_COLUMNS = [("group", np.int64), ("time", np.float64), ("direction", np.int8)]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Extinction(Specification):
    """What counts as extinct, and what to do about it.

    Under selection alone a positive mass never reaches zero, so extinction means a mass *strictly below*
    a threshold.

    Parameters
    ----------
    threshold : float
        ε > 0, in units of mass.
    policy : {"observe", "absorb", "stop"}, optional
        "observe" records every crossing in both directions and changes nothing. "absorb" sets a group to
        exactly 0 from its first moment below the threshold on, stops its inflow, and books the mass
        removed. "stop" ends the run at the first downward crossing.

    Raises
    ------
    ValueError
        If the threshold is not a positive number or the policy is unknown.

    Examples
    --------
    >>> Extinction(threshold=1e-3)
    Extinction(threshold=0.001, policy='observe')
    """

    threshold: float
    policy: Policy = "observe"

    def __post_init__(self) -> None:
        self._set(
            threshold=validation.positive("threshold", self.threshold),
            policy=validation.choice("policy", self.policy, POLICIES),
        )

    @property
    def log_threshold(self) -> float:
        """Natural logarithm of the threshold."""
        return math.log(self.threshold)


def crossing_table(rows: list[tuple[int, float, int]]) -> Crossings:
    """Return the crossings as a table sorted by time, then group."""
    table = np.array(sorted(rows, key=lambda row: (row[1], row[0])), dtype=_COLUMNS)
    table.flags.writeable = False
    return table.view(np.recarray)


class Ledger:
    """The extinction record of a run in progress.

    The one mutable object of a run; `solve` and `iterate` write to it as they go and freeze what it
    holds into the result.
    """

    def __init__(self, extinction: Extinction | None, t: float, log_masses: FloatArray) -> None:
        n = len(log_masses)
        self.extinction = extinction
        self.level = extinction.log_threshold if extinction else -math.inf
        # Without a threshold, extinct means exactly zero.
        self.below: npt.NDArray[np.bool_] = log_masses < self.level if extinction else np.isneginf(log_masses)
        self.first = np.where(self.below, t, math.inf)
        self.absorbed_mass = np.zeros(n)
        self.removed = np.zeros(n, dtype=bool)
        self.rows: list[tuple[int, float, int]] = []

    @property
    def watching(self) -> bool:
        """Whether there is a threshold to watch."""
        return self.extinction is not None

    def policy_is(self, policy: Policy) -> bool:
        """Tell whether the run's policy is `policy`."""
        return self.extinction is not None and self.extinction.policy == policy

    def cross(self, group: int, time: float, direction: int) -> None:
        """Enter one crossing."""
        self.rows.append((group, time, direction))
        self.below[group] = direction < 0
        if direction < 0 and time < self.first[group]:
            self.first[group] = time

    def absorb(self, groups: npt.NDArray[np.intp], masses: FloatArray) -> None:
        """Book the removal of `groups`."""
        self.absorbed_mass[groups] += masses[groups]
        self.removed[groups] = True
        self.below[groups] = True

    @property
    def crossings(self) -> Crossings:
        """The table of all crossings so far."""
        return crossing_table(self.rows)


# Where curves cross zero. All curves are sampled together: `curves(t)` returns shape (len(t), N).

Curves = Callable[[FloatArray], FloatArray]
Bracket = tuple[float, float, int]
# Besides even points, two next to the ends: an extremum there shows in no other triple of samples.
_SAMPLES = np.array([0.0, 1e-3, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1 - 1e-3, 1.0])


def find_crossings(curves: Curves, start: float, end: float) -> list[tuple[float, int, int]]:
    """Find where smooth curves change sign in (start, end], pairs of crossings between samples included.

    Parameters
    ----------
    curves : callable
        Curves of shape (len(t), N) at an array of times; a curve is below where it is < 0.
    start, end : float
        The interval, one step of an integrator: the curves bend little within an eighth of it.

    Returns
    -------
    list of (time, curve, direction)
        Sorted by time; direction -1 downwards, +1 upwards.

    Examples
    --------
    >>> import numpy as np
    >>> parabola = lambda t: ((t - 0.55) ** 2 - 1e-6)[:, None]
    >>> [(round(t, 6), d) for t, _, d in find_crossings(parabola, 0.0, 1.0)]
    [(0.549, -1), (0.551, 1)]
    """
    brackets = find_brackets(curves, start, end)
    return sorted(_roots(curves, brackets)) if brackets else []


def find_brackets(curves: Curves, start: float, end: float) -> list[Bracket]:
    """Return intervals (left, right, curve), each of which holds one change of sign."""
    times = start + (end - start) * _SAMPLES
    times[-1] = end
    values = curves(times)
    below = values < 0
    changes = np.argwhere(below[1:] != below[:-1])
    brackets: list[Bracket] = [(float(times[k]), float(times[k + 1]), int(i)) for k, i in changes]
    # A turning point towards zero between samples of one sign may hide two crossings.
    height = np.where(below, -values, values)
    inner = height[1:-1]
    same = (below[1:-1] == below[:-2]) & (below[1:-1] == below[2:])
    with np.errstate(invalid="ignore"):
        reach = np.maximum(height[:-2] - inner, height[2:] - inner)
        near = (inner <= height[:-2]) & (inner <= height[2:]) & (inner <= 4 * reach)
    for k, i in np.argwhere(near & same & np.isfinite(inner)):
        left, right = float(times[k]), float(times[k + 2])
        sign = -1.0 if below[k + 1, i] else 1.0
        turning = _turning_point(curves, int(i), sign, left, right)
        if bool(curves(np.array([turning]))[0, i] < 0) != bool(below[k + 1, i]):
            brackets += [(left, turning, int(i)), (turning, right, int(i))]
    return brackets


def _turning_point(curves: Curves, curve: int, sign: float, left: float, right: float) -> float:
    from scipy.optimize import minimize_scalar

    def height(t: float) -> float:
        return sign * float(curves(np.array([t]))[0, curve])

    result: Any = minimize_scalar(
        height, bounds=(left, right), method="bounded", options={"xatol": 1e-10 * (right - left)}
    )
    return float(result.x)


def _roots(curves: Curves, brackets: list[Bracket]) -> list[tuple[float, int, int]]:
    """Refine all brackets together by Chandrupatla's method."""
    from scipy.optimize.elementwise import find_root

    left, right = (np.array([bracket[k] for bracket in brackets], dtype=np.float64) for k in (0, 1))
    index = np.array([bracket[2] for bracket in brackets])

    def value(t: FloatArray, curve: npt.NDArray[np.intp]) -> FloatArray:
        picked: FloatArray = curves(t)[np.arange(len(t)), curve]
        return picked

    # A level met exactly is not yet below it: a root at the left end counts as above.
    falls = value(right, index) < 0
    roots: Any = find_root(value, (left, right), args=(index,))
    return [(float(t), int(i), -1 if fall else 1) for t, i, fall in zip(roots.x, index, falls, strict=True)]
