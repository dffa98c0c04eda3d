"""A phase by compiled methods, in stretches, between which signals are heard and rest is looked for."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.core.interruptions import postponed
from evodyn.simulate.compiled import Ending, Passage, most_steps, travel
from evodyn.simulate.extinction import columns
from evodyn.simulate.status import Termination
from evodyn.solvers.protocol import RightHandSide

__all__ = ["travelled"]


def travelled(phase: Any, form: Any, rhs: RightHandSide) -> Termination | None:
    """Integrate a `Phase` in compiled calls; return what ends the run, or None where only the phase ends."""
    course, ledger, saved = phase.course, phase.ledger, phase.course.saved
    limit = most_steps(form, looks_for_rest=course.settle is not None)
    step = phase.last_step if course.phases > 1 else 0.0
    t, y = phase.state.t, phase.flow.initial
    while True:
        # An interruption waits until what the call has done is on record.
        with postponed():
            most = min(limit, phase.solver.max_steps - course.steps)
            go = functools.partial(_passage, phase, form, t, y, step)
            passage, rests = _until_rest(phase, go, most, rhs)
            course.travel(passage)
            rhs.evaluations += passage.evaluations
            t, y, step = passage.t, passage.y, passage.step
            rows = slice(saved.next, saved.next + len(passage.states))
            saved.fill(rows, functools.partial(phase.flow.normal, saved.times[rows], passage.states))
            phase.last_step, phase.latest = step, (t, y)
            living = phase.flow.log_living
            crossings = [(time, int(living[k]), direction) for time, k, direction in passage.crossings]
            if passage.ending is Ending.FALLEN:
                phase.flush()
                ended: Termination | None = phase.fallen(phase.state, crossings)[1]
                return ended
            ledger.cross(*columns(crossings))
            course.tell(t)
        if rests:
            return Termination.SETTLED
        if passage.ending is not Ending.LIMITED:
            break
        if course.steps >= phase.solver.max_steps:
            return Termination.STEP_LIMIT
    if passage.ending is Ending.STIFF:
        course.turn_stiff(passage.t, structured=phase.structured)
    elif passage.ending is Ending.LOST:
        phase.flow.velocity(passage.t, passage.y)  # which says whose fitness it is that is not finite
        phase.message = f"No step from t = {passage.t:g} was accepted."
        return Termination.SOLVER_FAILED
    return None


def _passage(phase: Any, forms: Any, t: float, y: FloatArray, first: float, most: int) -> Passage:
    """Return what at most so many compiled steps make of log-shares `y` at `t`, unless that is known."""
    course, ledger = phase.course, phase.ledger
    if course.passage is not None:
        known: Passage = course.passage
        course.passage = None
        return known
    return travel(
        forms,
        y[None],
        t,
        phase.stop,
        np.array(course.saved.times[course.saved.due(phase.stop)]),
        first=first,
        most=most,
        solver=phase.solver,
        level=ledger.one_level,
        below=ledger.below[None, phase.flow.log_living],
        halts=ledger.halts,
    )[0]


def _until_rest(
    phase: Any, go: Callable[[int], Passage], most: int, rhs: RightHandSide
) -> tuple[Passage, bool]:
    """Return what comes of at most so many compiled steps, and whether they end where rest begins."""
    passage = go(most)
    if passage.ending is Ending.FALLEN or not phase.rests(rhs, passage.t, passage.y):
        return passage, False
    moving, resting = 0, passage.steps
    while resting - moving > 1:
        middle = (moving + resting) // 2
        earlier = go(middle)
        if phase.rests(rhs, earlier.t, earlier.y):
            passage, resting = earlier, middle
        else:
            moving = middle
    return passage, True
