"""The events of a run in progress: what is due, what changes its sign, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.model.dynamics import Dynamics
from evodyn.simulate.dense import Dense
from evodyn.simulate.events import Action, Condition, Event, EventTable, event_table, value_of
from evodyn.simulate.extinction import Ledger
from evodyn.simulate.flow import State
from evodyn.simulate.problem import validated_masses
from evodyn.simulate.status import Termination
from evodyn.simulate.step import Step
from evodyn.simulate.trajectory import Trajectory, absorbed
from evodyn.solvers.crossings import find_crossings, may_cross

__all__ = ["Occasions"]

_NEARLY_ZERO = 1e-6
"""What part of its size within a step a function may have just behind its own zero, or more by tolerance."""


class Occasions:
    """The events of a run in progress: which are due, and what has happened."""

    def __init__(self, events: Sequence[Event], dynamics: Dynamics, tolerance: float) -> None:
        self._nearly = max(_NEARLY_ZERO, 100 * tolerance)
        self.events = tuple(events)
        self.dynamics = dynamics
        self.times = sorted((t, k) for k, event in enumerate(self.events) for t in event.times)
        self.functions = [k for k, event in enumerate(events) if callable(event.when)]
        self._to_come = len(self.times)
        self.happened: list[tuple[int, float]] = []
        self.acting = False
        """Whether what fails now is an event's."""
        self._negative = np.zeros(len(self.functions), dtype=bool)
        self._size = np.zeros(len(self.functions))

    @property
    def ahead(self) -> bool:
        """Whether times of events are still to come."""
        return self._to_come > 0

    def due(self, t: float) -> list[int]:
        """Return the events at the time `t`."""
        return [k for time, k in self.times if time == t]

    def _values(self, t: float, log_masses: FloatArray) -> FloatArray:
        masses = np.exp(log_masses)
        return np.array(
            [value_of(k, cast(Condition, self.events[k].when), t, masses) for k in self.functions]
        )

    def look_at(self, state: State) -> None:
        """Take note of the signs from which changes count: at the start, and where masses have jumped.

        Just behind its own zero a function has the sign to which it was on its way.
        """
        if self.functions:
            values = self._values(state.t, state.log_masses)
            self._negative = np.where(np.abs(values) > self._nearly * self._size, values < 0, self._negative)

    def within(self, step: Step, limit: float) -> tuple[list[tuple[float, int]], bool]:
        """Return times and events of the changes of sign in a step, up to `limit`.

        They end with the first that alters the run; whether there is such a one comes second.
        """
        if not self.functions:
            return [], False

        def curves(dense: Dense) -> Dense:
            def values(t: FloatArray) -> FloatArray:
                rows = [self._values(float(s), logs) for s, logs in zip(t, dense(t), strict=True)]
                return np.array(rows).reshape(len(t), len(self.functions))

            return values

        start, end = step.t_old, step.t_new
        first = curves(step.coarse)
        self._size = np.abs(first(np.linspace(start, end, 3))).max(axis=0)
        if not len(may_cross(first, start, end)):
            return [], False
        found = []
        for time, place, direction in find_crossings(curves(step.fine()), start, end):
            if time > limit or self._negative[place] == (direction < 0):
                continue
            k = self.functions[place]
            found.append((time, k))
            if self.events[k].terminal or self.events[k].action is not None:
                return found, True
        return found, False

    def record(self, found: Sequence[tuple[float, int]]) -> None:
        """Enter changes of sign, in order of time."""
        for time, k in found:
            place = self.functions.index(k)
            self._negative[place] = ~self._negative[place]
            self.happened.append((k, time))

    def happen(
        self, due: Sequence[int], state: State, ledger: Ledger, saved: Trajectory
    ) -> tuple[State, Termination | None]:
        """Let events act on a state, one after the other; return what comes of it, and what ends the run."""
        if not due:
            return state, None
        ended = None
        self.acting = True
        for k in due:
            event = self.events[k]
            if event.action is not None:
                state, fell = self._changed(k, event.action, state, ledger)
                if fell and ledger.policy_is("stop"):
                    ended = Termination.STOPPED_AT_EXTINCTION
            if not callable(event.when):
                self._to_come -= 1
                self.happened.append((k, state.t))
            if event.terminal:
                ended = ended or Termination.STOPPED_AT_EVENT
            if ended is not None:
                break
        saved.replace(state)
        self.look_at(state)
        self.acting = False
        return state, ended

    def _changed(self, k: int, action: Action, state: State, ledger: Ledger) -> tuple[State, bool]:
        before = np.exp(state.log_masses)
        returned = action(before.copy())
        if returned is None:
            return state, False
        if np.shape(returned) != before.shape:
            raise ValueError(
                f"events[{k}].action returned shape {np.shape(returned)} at t = {state.t:g}; expected "
                f"{before.shape}, one mass for each group."
            )
        masses = validated_masses(returned, self.dynamics, name=f"what events[{k}].action returned")
        with np.errstate(divide="ignore"):
            logs = np.where(masses == before, state.log_masses, np.log(masses))
        fell = ledger.jump(state.t, state.log_masses, logs)
        changed = State(state.t, logs, ledger.removed.copy())
        if ledger.policy_is("absorb"):
            changed = absorbed(changed, np.flatnonzero(ledger.below & ~changed.removed), ledger)
        return changed, fell

    def rewind(self, t: float) -> None:
        """Forget what happened after `t`."""
        self.happened = [(k, time) for k, time in self.happened if time <= t]

    @property
    def table(self) -> EventTable:
        """The table of what has happened so far."""
        return event_table(self.happened)
