"""What most runs are: one phase of compiled methods, from start to end, without the loop over phases."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray
from evodyn.core.interruptions import postponed
from evodyn.core.progress import Report
from evodyn.model.dynamics import Dynamics, clip_acts
from evodyn.model.fitness import LandscapeFunction, breakpoints
from evodyn.model.normal_form import NormalForm
from evodyn.simulate.compiled import Ending, Passage, compiled_form, most_steps, travel
from evodyn.simulate.extinction import Ledger, columns
from evodyn.simulate.flow import Flow, State
from evodyn.simulate.method import Solver
from evodyn.simulate.revival import revival_floor
from evodyn.simulate.shares import Shares
from evodyn.simulate.status import Termination
from evodyn.simulate.trajectory import Outcome, Trajectory

__all__ = ["begun", "left", "may_absorb", "may_begin", "straight"]


_ARRIVED = (Ending.ARRIVED, Ending.EMPTIED)


@dataclasses.dataclass(frozen=True)
class _Part:
    """What compiled methods made of a flow."""

    flow: Flow
    passage: Passage

    def shares(self, times: FloatArray) -> Shares:
        """Return the log-shares of all groups at saved times, and ln P of all blocks."""
        flow, passage = self.flow, self.passage
        if not len(passage.log_totals):
            return flow.normal(times, passage.states)
        return self._of_all(passage.states, passage.log_totals[: len(times)])

    def _of_all(self, states: FloatArray, totals: FloatArray) -> Shares:
        flow = self.flow
        if flow.full:
            return states, totals
        log_shares = np.full((len(states), len(flow.start.log_masses)), -math.inf)
        log_totals = np.full((len(states), len(flow.blocks)), -math.inf)
        log_shares[:, flow.log_living] = states
        log_totals[:, [math.isfinite(block.log_start) for block in flow.blocks]] = totals
        return log_shares, log_totals

    def end(self) -> State:
        """Return the state at the end."""
        flow, passage = self.flow, self.passage
        if not len(passage.log_totals):
            return State(passage.t, flow.log_masses(passage.t, passage.y), flow.start.removed)
        log_shares, log_totals = self._of_all(passage.y[None], passage.log_totals[-1:])
        logs = log_shares[0] + flow.segments.spread(log_totals[0])
        return State(passage.t, logs, flow.start.removed | (flow.start.log_masses > logs) & np.isneginf(logs))

    def record(self, saved: Trajectory, ledger: Ledger) -> None:
        """Enter what happened."""
        flow, passage = self.flow, self.passage
        rows = slice(saved.next, saved.next + len(passage.states))
        saved.fill(rows, functools.partial(self.shares, saved.times[rows]))
        groups, times, directions = columns(passage.crossings)
        groups = flow.log_living[groups].tolist() if groups else []
        ledger.cross(groups, times, directions)
        if len(passage.absorbed) and groups:
            masses = np.zeros(len(flow.start.log_masses))
            masses[flow.log_living] = passage.absorbed
            ledger.absorb(np.array(groups), masses)


def straight(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    form: NormalForm,
    state: State,
    end: float,
    saved: Trajectory,
    ledger: Ledger,
    solver: Solver,
    known: Passage | None,
    report: Report | None,
) -> tuple[Outcome | None, Passage | None]:
    """Return the outcome of a run by compiled methods alone, None if it needs more.

    What the compiled methods make of the beginning may be `known`. It comes second where `integrate` can go
    on with it.
    """
    absorbs, now = ledger.policy_is("absorb"), int(saved.times[0] == state.t)
    before, state = state, left(state, ledger.below) if absorbs else state
    flow = _flow(dynamics, landscape, form, state, end, ledger) if solver.compiles else None
    forms = None if flow is None else compiled_form(flow, form)
    if flow is None or forms is None or ledger.one_level is None:
        return None, known
    parts: list[_Part] = []
    interruption, steps, rows, step = None, 0, now, 0.0
    try:
        if report is not None:
            report(0.0)
        while True:
            with postponed():
                passage = known or _passage(flow, forms, end, saved.times[rows:], step, steps, ledger, solver)
                parts.append(_Part(flow, passage))
            known, steps, rows = None, steps + passage.steps, rows + len(passage.states)
            if report is not None:
                report((passage.t - state.t) / (end - state.t))
            if not absorbs or passage.ending is not Ending.LIMITED or steps >= solver.max_steps:
                break
            step, at = passage.step, parts[-1].end()
            flow = begun(dynamics, landscape, at, end, np.zeros_like(flow.start.removed))
            forms = compiled_form(flow, form)
    except KeyboardInterrupt as caught:
        interruption = caught
    if interruption is None and parts[-1].passage.ending not in _ARRIVED:
        return None, None if absorbs else parts[-1].passage
    if absorbs:
        ledger.absorb(np.flatnonzero(ledger.below), np.exp(before.log_masses))
    if now:
        saved.record(state)
    for part in parts:
        if part.passage.ending in (*_ARRIVED, Ending.LIMITED):
            part.record(saved, ledger)
            state = part.end()
    emptied = not np.maximum.reduce(state.log_masses) > -math.inf
    ended = Termination.ALL_EXTINCT if emptied else Termination.COMPLETED
    return Outcome(
        state,
        ended if interruption is None else Termination.INTERRUPTED,
        " and ".join(dict.fromkeys(name for part in parts for name in part.passage.methods)) or "Tsit5",
        "compiled: fitness is in the normal form",
        steps,
        sum(part.passage.evaluations for part in parts),
        restarts=len({time for part in parts for time, _, _ in part.passage.crossings}) if absorbs else 0,
        cause=interruption,
    ), None


def _passage(
    flow: Flow,
    forms: Any,
    end: float,
    times: FloatArray,
    first: float,
    steps: int,
    ledger: Ledger,
    solver: Solver,
) -> Passage:
    return travel(
        forms,
        flow.initial[None],
        flow.start.t,
        end,
        np.array(times),
        first=first,
        most=min(most_steps(forms), solver.max_steps - steps),
        solver=solver,
        level=cast(float, ledger.one_level),
        below=ledger.below[None, flow.log_living],
        halts=ledger.halts,
        absorbs=ledger.policy_is("absorb"),
    )[0]


def left(state: State, below: npt.NDArray[np.bool_]) -> State:
    """Return what absorption leaves of a state at the start; `Ledger.absorb` books it."""
    return State(state.t, np.where(below, -math.inf, state.log_masses), state.removed | below)


def may_absorb(form: NormalForm, inflow: FloatArray) -> bool:
    """Tell whether compiled methods absorb: nothing flows in, and what groups do to others has one unit."""
    return not inflow.any() and (form.payoff is None or form.competition is None)


def may_begin(inflow: FloatArray, log_masses: FloatArray) -> npt.NDArray[np.bool_]:
    """Tell whether someone is there, and nobody is absent who receives something, shape (...)."""
    absent = np.isneginf(log_masses)
    revived = absent & (inflow > 0)
    return ~(np.logical_and.reduce(absent, axis=-1) | np.logical_or.reduce(revived, axis=-1))  # type: ignore[no-any-return]


def _flow(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    form: NormalForm,
    state: State,
    end: float,
    ledger: Ledger,
) -> Flow | None:
    """Return the flow, if nobody has to revive and nothing comes in between that would end its phase."""
    logs, span = state.log_masses, (state.t, end)
    blocks, inflow = dynamics.blocks(len(logs)), dynamics.steady_inflow(len(logs))
    if inflow is None or not may_begin(inflow, logs) or end - state.t < 100 * np.spacing(end):
        return None
    if any(clip_acts(member) for _, member in blocks):
        return None
    if ledger.policy_is("absorb") and not may_absorb(form, inflow):
        return None
    if len(breakpoints(dynamics, span)) or len(breakpoints(landscape, span)):
        return None
    return begun(dynamics, landscape, state, end, inflow > 0)


def begun(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    state: State,
    end: float,
    receives: npt.NDArray[np.bool_],
) -> Flow:
    """Return the flow that begins at a state, with as many groups in logarithms as can be."""
    return Flow.begin(
        dynamics,
        landscape,
        state,
        floor=revival_floor(dynamics, landscape, state.t, state.log_masses, receives, np.array([state.t])),
        inflow=receives,
        last_time=end,
        capped=(False,) * len(dynamics.blocks(len(state.log_masses))),
    )
