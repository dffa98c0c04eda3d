"""A trajectory in the making, and how far it got."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction
from evodyn.simulate.extinction import Ledger
from evodyn.simulate.flow import State, log_sum_exp
from evodyn.simulate.run import mean_fitness_along
from evodyn.simulate.status import Termination

__all__ = ["Outcome", "Table", "Trajectory", "absorbed"]

_MOST_PENDING = 32
"""Parts of a trajectory that may wait; each may hold the state of the flow it comes from."""

_SMALL = 1e-280
"""Totals above it lose nothing to the underflow of the masses summed."""


class Trajectory:
    """The rows of the trajectory, entered as the run proceeds and computed when they are looked at."""

    def __init__(self, times: FloatArray, groups: int) -> None:
        self.times = times
        self.groups = groups
        self.next = 0
        self._filled: FloatArray | None = None
        self._later: list[tuple[slice, Callable[[], FloatArray]]] = []

    @property
    def log_masses(self) -> FloatArray:
        """Log-masses of all rows, shape (T, N); NaN where none were entered."""
        if self._filled is None:
            self._filled = np.full((len(self.times), self.groups), np.nan)
        with np.errstate(all="ignore"):
            for rows, log_masses in self._later:
                self._filled[rows] = log_masses()
        self._later = []
        return self._filled

    def due(self, t: float) -> slice:
        """Return the rows not yet filled whose times are at most `t`."""
        return slice(self.next, int(self.times.searchsorted(t, side="right")))

    def fill(self, rows: slice, log_masses: FloatArray | Callable[[], FloatArray]) -> None:
        """Fill the rows that were due with log-masses, or with what a function will return."""
        if rows.start >= rows.stop:
            return
        self._later.append((rows, log_masses if callable(log_masses) else lambda: log_masses))
        self.next = max(self.next, rows.stop)
        if len(self._later) > _MOST_PENDING:
            self.log_masses  # noqa: B018 - lets go of what the functions hold

    def record(self, state: State) -> None:
        """Fill the rows due at a state with it."""
        self.fill(self.due(state.t), state.log_masses)


class Table:
    """What results hold of saved times, computed when it is looked at.

    Parameters
    ----------
    dynamics, landscape
        What was run.
    times : array, shape (T,)
    source : callable
        Returns log-masses, shape (T, N).
    partial : bool
        Whether what the landscape raises makes a row NaN.
    """

    def __init__(
        self,
        dynamics: Dynamics,
        landscape: LandscapeFunction,
        times: FloatArray,
        source: Callable[[], FloatArray],
        *,
        partial: bool,
    ) -> None:
        self.dynamics = dynamics
        self.landscape = landscape
        self.times = times
        self.source = source
        self.partial = partial

    @functools.cached_property
    def log_masses(self) -> FloatArray:
        """Log-masses, shape (T, N)."""
        return self.source()

    @functools.cached_property
    def masses(self) -> FloatArray:
        """Masses, shape (T, N)."""
        with np.errstate(over="ignore"):  # beyond the largest float masses are infinite; logarithms are not
            return np.exp(self.log_masses)

    @functools.cached_property
    def _block_log_totals(self) -> FloatArray:
        groups = [block for block, _ in self.dynamics.blocks(self.log_masses.shape[-1])]
        totals = [_log_totals(self.masses[:, part], self.log_masses[:, part]) for part in groups]
        return np.concatenate(totals, axis=1)

    def native(self) -> FloatArray:
        """Return log-shares, shape (T, N)."""
        native = np.array(self.log_masses)
        for k, (block, _) in enumerate(self.dynamics.blocks(native.shape[-1])):
            total = self._block_log_totals[:, k : k + 1]
            native[:, block] -= np.where(np.isfinite(total), total, 0.0)
        return native

    def log_total_mass(self) -> FloatArray:
        """Return ln P, shape (T,) or (T, K)."""
        return self.dynamics.shaped(self._block_log_totals)

    def total_mass(self) -> FloatArray:
        """Return P, shape (T,) or (T, K)."""
        with np.errstate(over="ignore"):
            return self.dynamics.shaped(np.exp(self._block_log_totals))

    def mean_fitness(self) -> FloatArray:
        """Return Σ p φ / P, shape (T,) or (T, K)."""
        with np.errstate(all="ignore"):
            return mean_fitness_along(
                self.dynamics, self.landscape, self.times, self.masses, self.log_masses, partial=self.partial
            )


def _log_totals(masses: FloatArray, logs: FloatArray) -> FloatArray:
    """Return ln P, shape (T, 1), from the masses themselves where no sum over- or underflows."""
    totals: FloatArray = masses.sum(axis=-1, keepdims=True)
    if (totals > _SMALL).all() and np.isfinite(totals).all():
        return np.log(totals)
    return log_sum_exp(logs)


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
