"""A trajectory in the making, and how far it got."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction
from evodyn.model.populations import Segments
from evodyn.simulate.extinction import Ledger
from evodyn.simulate.flow import State
from evodyn.simulate.run import mean_fitness_along
from evodyn.simulate.shares import Shares, few_rows, shares_of
from evodyn.simulate.status import Termination

__all__ = ["Outcome", "Table", "Trajectory", "absorbed"]

_MOST_PENDING = 32
"""Parts of a trajectory that may wait; each may hold the state of the flow it comes from."""


class Trajectory:
    """The rows of the trajectory, entered as the run proceeds and computed when they are looked at.

    Parameters
    ----------
    times : array, shape (T,)
    blocks : sequence of slice
        The groups that share a total.
    """

    def __init__(self, times: FloatArray, blocks: Sequence[slice]) -> None:
        self.times = times
        self.groups, self.blocks = blocks[-1].stop, len(blocks)
        self.next = 0
        self._segments = Segments(blocks)
        self._filled: Shares | None = None
        self._later: list[tuple[slice, FloatArray | Callable[[], Shares]]] = []

    def shares(self) -> Shares:
        """Return log-shares and log-totals of all rows; NaN where none were entered."""
        if self._filled is None:
            rows = len(self.times)
            self._filled = np.empty((rows, self.groups)), np.empty((rows, self.blocks))
            for table in self._filled:
                table[self.next :] = np.nan
        with np.errstate(all="ignore"):
            for rows_due, source in self._later:
                found = source() if callable(source) else shares_of(source, self._segments)
                for table, values in zip(self._filled, found, strict=True):
                    table[rows_due] = values
        self._later = []
        return self._filled

    def due(self, t: float) -> slice:
        """Return the rows not yet filled whose times are at most `t`."""
        return slice(self.next, int(self.times.searchsorted(t, side="right")))

    def fill(self, rows: slice, source: FloatArray | Callable[[], Shares]) -> None:
        """Fill the rows that were due with log-masses, or with shares that a function will return."""
        if rows.start >= rows.stop:
            return
        self._later.append((rows, source))
        self.next = max(self.next, rows.stop)
        if len(self._later) > _MOST_PENDING:
            self.shares()  # which lets go of what the functions hold

    def record(self, state: State) -> None:
        """Fill the rows due at a state with it."""
        self.fill(self.due(state.t), state.log_masses)

    def replace(self, state: State) -> None:
        """Fill the row of a state that has changed once more, and the rows due at it."""
        if self.next and self.times[self.next - 1] == state.t:
            self.next -= 1
        self.record(state)

    def rewind(self, t: float) -> None:
        """Forget the rows after `t`."""
        self.next = min(self.next, int(self.times.searchsorted(t, side="right")))

    def ended(self, state: State, termination: Termination) -> tuple[FloatArray, Callable[[], Shares]]:
        """Return the times of a run that ended at a state, and what returns their rows."""
        if termination is Termination.COMPLETED:
            return self.times, self.shares
        if termination is Termination.ALL_EXTINCT:
            nothing = np.full(self.groups, -np.inf)
            self.fill(slice(self.next, len(self.times)), nothing)
            return self.times, self.shares
        rows = self.next
        times = self.times[:rows]
        if len(times) and times[-1] >= state.t:
            return times, lambda: (self.shares()[0][:rows], self.shares()[1][:rows])
        last = shares_of(state.log_masses[None], self._segments)
        return np.append(times, state.t), lambda: (
            np.vstack((self.shares()[0][:rows], last[0])),
            np.vstack((self.shares()[1][:rows], last[1])),
        )


class Table:
    """What results hold of saved times, computed when it is looked at.

    Parameters
    ----------
    dynamics, landscape
        What was run.
    times : array, shape (T,)
    source : callable
        Returns `Shares`.
    partial : bool
        Whether what the landscape raises makes a row NaN.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        landscape: LandscapeFunction,
        times: FloatArray,
        source: Callable[[], Shares],
        *,
        partial: bool,
    ) -> None:
        self.dynamics = dynamics
        self.landscape = landscape
        self.times = times
        self.source = source
        self.partial = partial

    @functools.cached_property
    def _shares(self) -> Shares:
        found = self.source()
        for table in found:
            table.flags.writeable = False  # nobody else has it, so that results need no copy
        return found

    def native(self) -> FloatArray:
        """Return log-shares, shape (T, N)."""
        return self._shares[0]

    def log_total_mass(self) -> FloatArray:
        """Return ln P, shape (T,) or (T, K)."""
        return self.dynamics.shaped(self._shares[1])

    def total_mass(self) -> FloatArray:
        """Return P, shape (T,) or (T, K)."""
        with np.errstate(over="ignore"):  # beyond the largest float masses are infinite; logarithms are not
            return self.dynamics.shaped(np.exp(self._shares[1]))

    def mean_fitness(self) -> FloatArray:
        """Return Σ p φ / P, shape (T,) or (T, K)."""
        log_shares, log_totals = self._shares
        groups = [block for block, _ in self.dynamics.blocks(log_shares.shape[-1])]
        with np.errstate(all="ignore"):
            spread = Segments(groups).spread
            means = np.empty((len(self.times), *self.dynamics.shaped(log_totals).shape[1:]))
            for rows in few_rows(log_shares):
                logs = log_shares[rows] + spread(log_totals[rows])
                means[rows] = mean_fitness_along(
                    self.dynamics, self.landscape, self.times[rows], np.exp(logs), logs, partial=self.partial
                )
            return means


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
