"""The integrator's loop over phases, from one restart of its method to the next."""

from __future__ import annotations

import numpy as np

from evodyn.simulate.course import Course
from evodyn.simulate.flow import NotFiniteError, State
from evodyn.simulate.phase import Phase
from evodyn.simulate.status import Termination
from evodyn.simulate.trajectory import Outcome, absorbed
from evodyn.solvers.protocol import StalledError

__all__ = ["integrate"]


def integrate(course: Course, state: State) -> Outcome:
    """Integrate from `state` to the end of the course, or to what ends the run before."""
    ledger, occasions = course.ledger, course.occasions
    lookahead = min(course.stops[0] - state.t, course.solver.max_step, 1e-3 * (course.end - state.t))
    capped: tuple[bool, ...] | None = None
    if ledger.policy_is("absorb"):
        state = absorbed(state, np.flatnonzero(ledger.below & ~state.removed), ledger)
    course.saved.record(state)
    phase: Phase | None = None
    reached = state
    try:
        course.tell(state.t)
        occasions.look_at(state)
        state, ended = occasions.happen(occasions.due(state.t), state, ledger, course.saved)
        reached = state
        if ended is not None:
            return _outcome(course, state, ended)
        while state.t < course.end:
            if not _any_mass(state):
                return _outcome(course, state, Termination.ALL_EXTINCT)
            stop = course.next_stop(state.t)
            course.phases += 1
            phase = Phase(course, state, stop, capped, lookahead)
            state, ended = phase.run()
            capped, lookahead = phase.capped_next, phase.last_step
            if ended is None and state.t == stop:
                if stop < course.end:
                    # What was stiff need not be so after a jump.
                    course.method, course.resumes = course.begun_with, None
                state, ended = occasions.happen(occasions.due(stop), state, ledger, course.saved)
                phase.state = state
            reached = state
            if ended is not None:
                return _outcome(course, state, ended, message=phase.message)
    except KeyboardInterrupt as interruption:
        reached = phase.state if phase else reached
        ledger.rewind(reached.t, reached.log_masses, reached.removed)
        course.saved.rewind(reached.t)
        occasions.rewind(reached.t)
        return _outcome(course, reached, Termination.INTERRUPTED, cause=interruption)
    except NotFiniteError as failure:
        return _outcome(
            course,
            phase.state if phase else reached,
            Termination.FITNESS_NOT_FINITE,
            message=f"Fitness was not finite at t = {failure.time:g}.",
            groups=failure.groups,
            cause=failure,
        )
    except StalledError as failure:
        return _outcome(
            course,
            phase.state if phase else reached,
            Termination.SOLVER_FAILED,
            message="One step took thousands of evaluations without being accepted.",
            cause=failure,
        )
    except Exception as failure:  # whatever a user's landscape raises, the partial result survives
        return _outcome(
            course,
            phase.state if phase else reached,
            Termination.SOLVER_FAILED,
            message=f"{type(failure).__name__}: {failure}",
            cause=failure,
        )
    return _outcome(course, state, Termination.COMPLETED if _any_mass(state) else Termination.ALL_EXTINCT)


def _any_mass(state: State) -> bool:
    return bool(np.maximum.reduce(state.log_masses) > -np.inf)


def _outcome(
    course: Course,
    state: State,
    termination: Termination,
    *,
    message: str = "",
    groups: tuple[int, ...] = (),
    cause: BaseException | None = None,
) -> Outcome:
    return Outcome(
        state,
        termination,
        *course.ran_on,
        course.steps,
        course.evaluations,
        max(course.phases - 1, 0),
        message,
        groups,
        cause,
    )
