"""A trajectory in the making, and how far it got."""

from __future__ import annotations

import dataclasses

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.simulate.flow import State
from evodyn.simulate.status import Termination

__all__ = ["Outcome", "Trajectory"]


class Trajectory:
    """The rows of the trajectory, filled as the run proceeds."""

    def __init__(self, times: FloatArray, groups: int) -> None:
        self.times = times
        self.log_masses = np.full((len(times), groups), np.nan)
        self.next = 0

    def due(self, t: float) -> slice:
        """Return the rows not yet filled whose times are at most `t`."""
        return slice(self.next, int(self.times.searchsorted(t, side="right")))

    def fill(self, rows: slice, log_masses: FloatArray) -> None:
        """Fill the rows that were due."""
        self.log_masses[rows] = log_masses
        self.next = max(self.next, rows.stop)


@dataclasses.dataclass
class Outcome:
    """How far the integration got, and how."""

    state: State
    termination: Termination
    method: str
    reason: str
    steps: int = 0
    evaluations: int = 0
    restarts: int = 0
    message: str = ""
    groups: tuple[int, ...] = ()
    cause: BaseException | None = None
