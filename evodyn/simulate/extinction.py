"""Extinction by a stated threshold: the policy and the record."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import Array, FloatArray, array_namespace
from evodyn.core.specifications import Specification

__all__ = ["Crossings", "Extinction", "Ledger", "crossing_table", "emptied"]

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

    def below(self, masses: Array) -> Array:
        """Return which groups are extinct at these masses, a mask of any array-API library."""
        return masses < self.threshold


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
        self.parts: list[Crossings] = []

    @property
    def watching(self) -> bool:
        """Whether there is a threshold to watch."""
        return self.extinction is not None

    def policy_is(self, policy: Policy) -> bool:
        """Tell whether the run's policy is `policy`."""
        return self.extinction is not None and self.extinction.policy == policy

    def cross(self, groups: npt.ArrayLike, times: npt.ArrayLike, directions: npt.ArrayLike) -> None:
        """Enter crossings, in order of time."""
        groups = np.atleast_1d(np.asarray(groups, dtype=np.int64))
        if not len(groups):
            return
        part = np.empty(len(groups), dtype=_COLUMNS)
        part["group"], part["time"], part["direction"] = groups, times, directions
        self.parts.append(part.view(np.recarray))
        falls = part["direction"] < 0
        self.below[groups] = falls  # of several, the last remains
        np.minimum.at(self.first, groups[falls], part["time"][falls])

    def absorb(self, groups: npt.NDArray[np.intp], masses: FloatArray) -> None:
        """Book the removal of `groups`."""
        self.absorbed_mass[groups] += masses[groups]
        self.removed[groups] = True
        self.below[groups] = True

    @property
    def crossings(self) -> Crossings:
        """The table of all crossings so far."""
        return _sorted(np.concatenate([np.empty(0, dtype=_COLUMNS), *self.parts])) if self.parts else _NONE
