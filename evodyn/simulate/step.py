"""One accepted step of a flow: what the masses are within it, and at times to which it is taken again."""

from __future__ import annotations

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.simulate.dense import Dense
from evodyn.simulate.flow import Flow, State
from evodyn.solvers.protocol import Stepper, System

__all__ = ["Step"]

_PARTS = 8
"""Into how many steps a step is divided; interpolation errors fall by 8^4 at the least."""


class Step:
    """The step that a stepper has just made.

    Parameters
    ----------
    flow : Flow
    system : System
    stepper : Stepper
        After the step.
    before : State
    y_old : numpy.ndarray, shape (n,)
        Where the step began.
    """

    def __init__(
        self, flow: Flow, system: System, stepper: Stepper, before: State, y_old: FloatArray
    ) -> None:
        self.flow = flow
        self.method = stepper.again
        self.system = system
        self.stepper = stepper
        self.t_old, self.y_old = before.t, y_old
        self.logs_old = before.log_masses
        self.t_new, self.y_new = stepper.t, stepper.y
        self.logs_new = flow.log_masses(self.t_new, self.y_new)
        self._interpolant: Dense | None = None

    def states(self, t: FloatArray) -> FloatArray:
        """Return the interpolated state vectors, shape (m, n)."""
        if self._interpolant is None:
            self._interpolant = self.stepper.interpolant()
        return self._interpolant(t)

    def log_masses(self, t: FloatArray) -> FloatArray:
        """Return the interpolated log-masses, shape (m, N)."""
        return self.flow.log_masses(t, self.states(t))

    def coarse(self, t: FloatArray) -> FloatArray:
        """Return log-masses, shape (m, N), interpolated, but at the ends of the step what they are there."""
        return self._exact_at_ends(t, self.log_masses(t))

    def fine(self) -> Dense:
        """Return the same from the best interpolants there are."""
        dense = self.finer() if self.method.one_step else self.log_masses
        return lambda t: self._exact_at_ends(t, dense(t))

    def _exact_at_ends(self, t: FloatArray, logs: FloatArray) -> FloatArray:
        logs[t <= self.t_old], logs[t >= self.t_new] = self.logs_old, self.logs_new
        return logs

    def state_at(self, t: float) -> FloatArray:
        """Return the state vector at `t` by stepping there from the start of the step."""
        if t <= self.t_old:
            return self.y_old
        first = t - self.t_old if self.method.one_step else None
        stepper = self.method.start(self.system, self.t_old, self.y_old, t, first=first)
        while stepper.status == "running":
            self.system.rhs.next_step()
            stepper.step()
        return stepper.y

    def finer(self) -> Dense:
        """Take the step again in eight, for interpolants that are worse than the ends of steps."""
        part = (self.t_new - self.t_old) / _PARTS
        stepper = self.method.start(self.system, self.t_old, self.y_old, self.t_new, longest=part, first=part)
        ends: list[float] = []
        pieces: list[Dense] = []
        while stepper.status == "running":
            self.system.rhs.next_step()
            stepper.step()
            ends.append(stepper.t)
            pieces.append(stepper.interpolant())

        def dense(t: FloatArray) -> FloatArray:
            which = np.minimum(np.searchsorted(ends, t), len(ends) - 1)
            y = np.empty((len(t), len(self.y_old)))
            for piece in np.unique(which):
                mine = which == piece
                y[mine] = pieces[piece](t[mine])
            return self.flow.log_masses(t, y)

        return dense
