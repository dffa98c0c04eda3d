"""A trajectory in the making, and how far it got."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray
from evodyn.simulate.extinction import Ledger
from evodyn.simulate.flow import State
from evodyn.simulate.status import Termination

__all__ = ["Outcome", "Trajectory", "absorbed"]


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

    def record(self, state: State) -> None:
        """Fill the rows due at a state with it."""
        rows = self.due(state.t)
        if rows.start < rows.stop:
            self.fill(rows, state.log_masses)


def absorbed(state: State, groups: npt.NDArray[np.intp], ledger: Ledger) -> State:
    """Return `state` with `groups` set to exactly zero, for good, and book it."""
    if not len(groups):
        return state
    ledger.absorb(groups, np.exp(state.log_masses))
    logs, removed = np.array(state.log_masses), np.array(state.removed)
    logs[groups], removed[groups] = -np.inf, True
    return State(state.t, logs, removed)


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
