"""What most runs are: one phase of compiled methods, from start to end, without the loop over phases."""

from __future__ import annotations

import functools
import math

import numpy as np

from evodyn.core.interruptions import postponed
from evodyn.model.dynamics import Dynamics, clip_acts
from evodyn.model.fitness import LandscapeFunction, breakpoints
from evodyn.model.normal_form import NormalForm
from evodyn.simulate.compiled import Ending, Passage, compiled_form, most_steps, travel
from evodyn.simulate.extinction import Ledger, columns
from evodyn.simulate.flow import Flow, State
from evodyn.simulate.method import Solver
from evodyn.simulate.revival import revival_floor
from evodyn.simulate.status import Termination
from evodyn.simulate.trajectory import Outcome, Trajectory

__all__ = ["straight"]


def straight(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    form: NormalForm,
    state: State,
    end: float,
    saved: Trajectory,
    ledger: Ledger,
    solver: Solver,
) -> tuple[Outcome | None, Passage | None]:
    """Return the outcome of a run that is one compiled phase, None if it is not.

    What the compiled methods made of the beginning comes second, with which `integrate` goes on.
    """
    flow = _flow(dynamics, landscape, state, end, ledger) if solver.compiles else None
    known = None if flow is None else compiled_form(flow, form)
    if flow is None or known is None or ledger.one_level is None:
        return None, None
    begin = int(saved.times[0] == state.t)
    passage, interruption = None, None
    try:
        with postponed():
            passage = travel(
                known,
                flow.initial[None],
                state.t,
                end,
                np.array(saved.times[begin:]),
                first=0.0,
                most=min(most_steps(known), solver.max_steps),
                solver=solver,
                level=ledger.one_level,
                below=ledger.below[None],
                halts=ledger.halts,
            )[0]
    except KeyboardInterrupt as caught:
        interruption = caught
    if passage is not None and passage.ending is Ending.ARRIVED:
        if begin:
            saved.record(state)
        rows = slice(begin, len(saved.times))
        saved.fill(rows, functools.partial(flow.normal, saved.times[rows], passage.states))
        ledger.cross(*columns(passage.crossings))
        state = State(end, flow.log_masses(end, passage.y), state.removed)
    elif interruption is None:
        return None, passage
    methods, steps, evaluations = "none", 0, 0
    if passage is not None:
        methods, steps, evaluations = " and ".join(passage.methods), passage.steps, passage.evaluations
    termination = Termination.COMPLETED if interruption is None else Termination.INTERRUPTED
    reason = "compiled: fitness is in the normal form"
    return Outcome(state, termination, methods, reason, steps, evaluations, cause=interruption), None


def _flow(
    dynamics: Dynamics, landscape: LandscapeFunction, state: State, end: float, ledger: Ledger
) -> Flow | None:
    """Return the flow, if all groups live and nothing comes in between that would end its phase."""
    logs, span = state.log_masses, (state.t, end)
    blocks, inflow = dynamics.blocks(len(logs)), dynamics.steady_inflow(len(logs))
    if inflow is None or not np.minimum.reduce(logs) > -math.inf or end - state.t < 100 * np.spacing(end):
        return None
    if ledger.policy_is("absorb") or any(clip_acts(member) for _, member in blocks):
        return None
    if len(breakpoints(dynamics, span)) or len(breakpoints(landscape, span)):
        return None
    receives = inflow > 0
    floor = revival_floor(dynamics, landscape, state.t, logs, receives, np.array([state.t]))
    flow = Flow.begin(
        dynamics,
        landscape,
        state,
        floor=floor,
        inflow=receives,
        last_time=end,
        capped=(False,) * len(blocks),
    )
    return flow if flow.full else None
