"""Extinction by a stated threshold: the policy and the record."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import Array, FloatArray, array_namespace
from evodyn.core.specifications import Specification

__all__ = ["Crossings", "Extinction", "Ledger", "columns", "crossing_table", "emptied"]

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
    threshold : float or array_like, shape (N,)
        ε > 0, in units of mass: one for all groups, or one for each.
    policy : {"observe", "absorb", "stop"}, optional
        "observe" records every crossing in both directions and changes nothing. "absorb" sets a group to
        exactly 0 from its first moment below the threshold on, stops its inflow, and books the mass
        removed. "stop" ends the run at the first downward crossing.

    Raises
    ------
    ValueError
        If a threshold is not a positive number or the policy is unknown.

    Examples
    --------
    >>> Extinction(threshold=1e-3)
    Extinction(threshold=0.001, policy='observe')
    >>> Extinction(threshold=[1e-3, 0.1], policy="absorb").threshold
    array([0.001, 0.1  ])
    """

    threshold: float | npt.ArrayLike
    policy: Policy = "observe"

    def __post_init__(self) -> None:
        threshold = self.threshold
        if np.ndim(threshold):
            threshold = validation.finite_array("threshold", threshold, ndim=1)
            if not threshold.size:
                raise ValueError("threshold is empty; expected one number, or one for each group.")
            if not (threshold > 0).all():
                k = int(np.argmin(threshold > 0))
                raise ValueError(
                    f"threshold is {float(threshold[k])!r} at index {k}; expected numbers > 0, one for each "
                    "group: a tiny one for a group that is never to count as extinct."
                )
        else:
            threshold = validation.positive("threshold", threshold)
        self._set(threshold=threshold, policy=validation.choice("policy", self.policy, POLICIES))

    @property
    def log_threshold(self) -> float | FloatArray:
        """Natural logarithm of the threshold, or of each group's."""
        return np.log(self.threshold) if np.ndim(self.threshold) else math.log(cast(float, self.threshold))

    def check(self, n: int) -> None:
        """Raise `ValueError` unless there is a threshold for each of `n` groups, or one for all."""
        if np.ndim(self.threshold) and len(cast(FloatArray, self.threshold)) != n:
            raise ValueError(
                f"extinction has {len(cast(FloatArray, self.threshold))} thresholds and p0 has {n} groups; "
                "expected one for each group, or a single number."
            )

    def below(self, masses: Array) -> Array:
        """Return which groups are extinct at these masses, a mask of any array-API library."""
        level = self.threshold
        return masses < (array_namespace(masses).asarray(level) if np.ndim(level) else level)


def emptied(masses: Array, removed: Array) -> Array:
    """Return the masses with exactly 0 in the groups that `removed`, a mask, marks: what "absorb" does."""
    return array_namespace(masses).where(removed, 0.0, masses)


def crossing_table(rows: list[tuple[int, float, int]]) -> Crossings:
    """Return crossings as a table sorted by time, then group."""
    return _sorted(np.array(rows, dtype=_COLUMNS))


def _sorted(table: npt.NDArray[np.void]) -> Crossings:
    table = table[np.lexsort((table["group"], table["time"]))]
    table.flags.writeable = False
    return table.view(np.recarray)


_NONE = crossing_table([])


def columns(crossings: list[tuple[float, int, int]]) -> tuple[list[int], list[float], list[int]]:
    """Return groups, times and directions."""
    return [row[1] for row in crossings], [row[0] for row in crossings], [row[2] for row in crossings]


class Ledger:
    """The extinction record of a run in progress.

    The one mutable object of a run; `solve` and `iterate` write to it as they go and freeze what it
    holds into the result.
    """

    def __init__(self, extinction: Extinction | None, t: float, log_masses: FloatArray) -> None:
        n = len(log_masses)
        self.extinction = extinction
        if extinction is not None:
            extinction.check(n)
        self._level = extinction.log_threshold if extinction else -math.inf
        self.one_level = None if isinstance(self._level, np.ndarray) else self._level
        """The logarithm of the threshold, where all groups have the same."""
        # Without a threshold, extinct means exactly zero.
        self.below: npt.NDArray[np.bool_] = (
            log_masses < self._level if extinction else log_masses == -math.inf
        )
        self.first = np.where(self.below, t, math.inf)
        self.absorbed_mass = np.zeros(n)
        self.removed = np.zeros(n, dtype=bool)
        self.parts: list[Crossings] = []

    @functools.cached_property
    def levels(self) -> FloatArray:
        """The logarithms of the thresholds, shape (N,)."""
        return np.broadcast_to(self._level, len(self.first))

    @property
    def watching(self) -> bool:
        """Whether there is a threshold to watch."""
        return self.extinction is not None

    @property
    def halts(self) -> bool:
        """Whether a phase ends at the first extinction."""
        return self.extinction is not None and self.extinction.policy != "observe"

    def policy_is(self, policy: Policy) -> bool:
        """Tell whether the run's policy is `policy`."""
        return self.extinction is not None and self.extinction.policy == policy

    def cross(self, groups: npt.ArrayLike, times: npt.ArrayLike, directions: npt.ArrayLike) -> None:
        """Enter crossings, in order of time."""
        if isinstance(groups, list) and not groups:
            return
        groups = np.atleast_1d(np.asarray(groups, dtype=np.int64))
        part = np.empty(len(groups), dtype=_COLUMNS)
        part["group"], part["time"], part["direction"] = groups, times, directions
        self.parts.append(part.view(np.recarray))
        falls = part["direction"] < 0
        self.below[groups] = falls  # of several, the last remains
        np.minimum.at(self.first, groups[falls], part["time"][falls])

    def jump(self, t: float, before: FloatArray, after: FloatArray) -> bool:
        """Enter what it means that log-masses jump at a time; tell whether a group has fallen.

        Who was absorbed and has a mass again is alive again.
        """
        self.removed = self.removed & np.isneginf(after)
        if self.extinction is None:
            gone = np.isneginf(after)
            fallen = gone & ~np.isneginf(before)
            self.first[fallen] = np.minimum(self.first[fallen], t)
            self.below = gone
            return bool(fallen.any())
        below = after < self.levels
        changed = np.flatnonzero((below != self.below) & ~self.removed)
        self.cross(changed, t, np.where(below[changed], -1, 1))
        return bool(below[changed].any())

    def rewind(self, t: float, log_masses: FloatArray, removed: npt.NDArray[np.bool_]) -> None:
        """Go back to the record of a state, after an interruption that may have come while it was written."""
        self.parts = [part[part["time"] <= t].view(np.recarray) for part in self.parts]
        self.first = np.where(self.first > t, math.inf, self.first)
        self.absorbed_mass = np.where(self.removed & ~removed, 0.0, self.absorbed_mass)
        self.removed = removed.copy()
        self.below = log_masses < self.levels if self.watching else np.isneginf(log_masses)

    def absorb(self, groups: npt.NDArray[np.intp], masses: FloatArray) -> None:
        """Book the removal of `groups`."""
        self.absorbed_mass[groups] += masses[groups]
        self.removed[groups] = True
        self.below[groups] = True

    @property
    def crossings(self) -> Crossings:
        """The table of all crossings so far."""
        return _sorted(np.concatenate([np.empty(0, dtype=_COLUMNS), *self.parts])) if self.parts else _NONE
