"""A phase of a run, between two restarts of its method: steps, and what happens within a step."""

from __future__ import annotations

import functools
import math
from typing import cast

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray
from evodyn.model.dynamics import cap_of, clip_acts
from evodyn.model.fitness import kernel
from evodyn.model.normal_form import NormalForm
from evodyn.model.structure import DiagonalPlusLowRank
from evodyn.simulate.changes import SEEN, Changes
from evodyn.simulate.compiled import compiled_form
from evodyn.simulate.course import Course
from evodyn.simulate.dense import Dense, StepPiece
from evodyn.simulate.extinction import columns
from evodyn.simulate.flow import Flow, State, log_sum_exp
from evodyn.simulate.jacobian import Slopes
from evodyn.simulate.revival import ahead, revival_floor
from evodyn.simulate.settling import flow_at_rest
from evodyn.simulate.status import Termination
from evodyn.simulate.step import Step
from evodyn.simulate.trajectory import absorbed
from evodyn.simulate.travel import travelled
from evodyn.solvers.crossings import find_crossings, may_cross
from evodyn.solvers.protocol import RightHandSide, StalledError, Stepper, StiffnessWatch, System
from evodyn.solvers.scipy_methods import LARGEST_DENSE

__all__ = ["Phase"]

_FAR_BELOW = -1e12

_WORTH = 200
"""Fewest steps still to come for which a change to an implicit method, which starts slowly, pays."""

_LARGEST_MEASURED = 1000
"""Most components for which the change is made where a dense Jacobian has to be measured."""


class Phase:
    """Integration between two restarts."""

    def __init__(
        self,
        course: Course,
        state: State,
        stop: float,
        capped: tuple[bool, ...] | None,
        lookahead: float,
    ) -> None:
        self.course = course
        self.ledger = course.ledger
        self.solver = course.solver
        self.method = course.method
        self.state = state
        self.stop = stop
        self.message = ""
        n = len(state.log_masses)
        last_time = stop if stop == course.end else float(np.nextafter(stop, -np.inf))
        inflow = course.receives & ~state.removed
        floor = self._floor(state.t, state.log_masses, inflow, lookahead, last_time)

        def begin(modes: tuple[bool, ...]) -> Flow:
            return Flow.begin(
                course.dynamics,
                course.landscape,
                state,
                floor=floor,
                inflow=inflow,
                last_time=last_time,
                capped=modes,
            )

        blocks = course.dynamics.blocks(n)
        free = (False,) * len(blocks)
        self.flow = begin(free)
        self.may_cap = [clip_acts(member) and math.isfinite(cap_of(member)) for _, member in blocks]
        if any(self.may_cap):
            at_cap = capped or tuple(
                can and block.log_start >= math.log(block.cap) - 1e-13
                for can, block in zip(self.may_cap, self.flow.blocks, strict=True)
            )
            drift = self.flow.mass_drift(state.t, self.flow.initial)
            modes = tuple(bool(c and w >= 0) for c, w in zip(at_cap, drift, strict=True))
            if any(modes):
                self.flow = begin(modes)
        self.slopes = Slopes(self.flow)
        self.capped_next: tuple[bool, ...] | None = None
        self.last_step = lookahead
        self.looked_until = state.t
        self.cap = 5_000 + 20 * len(self.flow.initial)
        # Nothing can happen within a step of a quiet phase: there are rows to save, and groups to revive.
        self.quiet = not (self.ledger.watching or any(self.may_cap) or course.occasions.functions)
        self.kept: FloatArray | None = None
        self.first = 0
        self.latest: tuple[float, FloatArray] | None = None

    def _floor(
        self, t: float, log_masses: FloatArray, inflow: npt.NDArray[np.bool_], step: float, last_time: float
    ) -> FloatArray:
        """Return the revival floors from `t` on, with an eye on ten steps ahead."""
        course = self.course
        if not inflow.any():
            return np.zeros(len(log_masses))
        times = np.array([t]) if course.dynamics.autonomous else ahead(t, step, last_time)
        return revival_floor(course.dynamics, course.landscape, t, log_masses, inflow, times)

    def run(self) -> tuple[State, Termination | None]:
        """Step until the phase's end or the first event that needs a restart."""
        course, flow = self.course, self.flow
        y = np.array(flow.initial)
        if not len(y):
            # Nothing lives and nothing flows in.
            self._finish_saves_without_mass()
            return State(self.stop, self.state.log_masses, self.state.removed), None
        rhs = RightHandSide(flow.fastest_velocity, self.cap, rejects_nan=course.method.explicit)
        length = self.stop - self.state.t
        if length < 100 * np.spacing(self.stop):
            # Shorter than integrators take: one step of Euler's method is exact to rounding.
            y = y + length * flow.velocity(self.state.t, y)
            self.state = State(self.stop, flow.log_masses(self.stop, y), self.state.removed)
            course.saved.record(self.state)
            return self.state, None
        try:
            if self.rests(rhs, self.state.t, y):
                return self.state, Termination.SETTLED
            form = compiled_form(flow, self._kernel()) if course.compiles else None
            ended = self._steps(rhs, y) if form is None else travelled(self, form, rhs)
        finally:
            course.evaluations += rhs.evaluations + self.slopes.evaluations
            self.flush()
        return self.state, ended

    def _kernel(self) -> NormalForm | None:
        """Return the kernel of the landscape, which is known at the start of the run."""
        course, t = self.course, self.state.t
        if t == course.start:
            return course.form
        return kernel(course.landscape, t, len(self.state.log_masses))

    def rests(self, rhs: RightHandSide, t: float, y: FloatArray) -> bool:
        """Tell whether the run has come to rest, if that would end it."""
        course = self.course
        if course.settle is None or not course.may_settle:
            return False
        rhs.evaluations += 1
        return flow_at_rest(self.flow, t, y, self.ledger, course.settle)

    def _steps(self, rhs: RightHandSide, y: FloatArray) -> Termination | None:
        """Take steps; return what ends the run, or None where only the phase ends."""
        course, flow = self.course, self.flow
        # With mutation, no step may outrun the look ahead.
        longest = self.stop - self.state.t
        first = min(self.last_step, longest) if flow.flows_in else None
        system = self._system(rhs)
        begins = course.resumes or self.method
        stepper = begins.start(system, self.state.t, y, self.stop, first=first)
        watch = self._stiffness_watch()
        changes = Changes(course.watched, flow, rhs, self.tolerances[0])
        # A dense Jacobian is measured a few dozen times, by an evaluation for each component.
        worth = _WORTH if self.structured else max(_WORTH, 5 * len(y))
        beyond = -math.inf  # where a step that led nowhere would have ended
        while stepper.status == "running":
            t_old, y_old = stepper.t, stepper.y
            if course.steps >= self.solver.max_steps:
                return Termination.STEP_LIMIT
            rhs.next_step()
            try:
                self.message = stepper.step()
            except StalledError:
                if rhs.failure is not None:
                    raise rhs.failure from None  # which is why no step was accepted
                raise
            except Exception:
                # A method that cannot reject what is not a number: approach it in shorter steps.
                if self._stop_at(changes.jump(t_old, rhs.latest, y_old)):
                    return None
                beyond, longest = max(beyond, rhs.latest), 0.1 * min(rhs.latest - t_old, longest)
                if longest < 100 * np.spacing(max(abs(t_old), abs(self.stop))):
                    raise
                stepper = self.method.start(system, t_old, y_old, self.stop, longest=longest)
                continue
            if stepper.status == "failed":
                if rhs.failure is not None:
                    raise rhs.failure
                return Termination.SOLVER_FAILED
            course.stepped(stepper.name, stepper.t)
            rhs.failure = None  # of a step that was too long
            course.resumes = stepper.again
            t_new, y_new = stepper.t, stepper.y
            self.last_step = t_new - t_old
            if not math.isfinite(y_new @ y_new) or (y_new[len(flow.log_living) :] < 0).any():
                # LSODA accepts what is not a number, and a revived mass cannot be negative: take the
                # step again, in shorter ones.
                if self._stop_at(changes.jump(t_old, t_new, y_old)):
                    return None
                beyond, longest = max(beyond, t_new), 0.1 * min(self.last_step, longest)
                if longest < 10 * np.spacing(t_old):
                    return Termination.SOLVER_FAILED
                rhs.next_step()
                stepper = self.method.start(system, t_old, y_old, self.stop, longest=longest)
                continue
            if self._stop_at(changes.overlooked(t_old, stepper, one_step=self.method.one_step)):
                # Take the step again, to end where the change begins.
                return None
            piece = None if course.dense is None else StepPiece(flow, stepper.interpolant())
            event, outgrown = None, False
            if self.quiet:
                self._keep(stepper, t_new, y_new)
                outgrown = self._outgrown(t_new, y_new)
            else:
                event = self._look_at_step(Step(flow, system, stepper, self.state, y_old))
            if course.dense is not None and piece is not None:
                course.dense.add(t_new if event is None else self.state.t, piece)
            course.tell(t_new)
            if event is not None:
                return event[1]
            if outgrown:
                return None
            if self.rests(rhs, t_new, y_new):
                return Termination.SETTLED
            if (
                watch is not None
                and watch.sees(stepper.held_back())
                and self.stop - t_new > worth * self.last_step
            ):
                course.turn_stiff(t_new, structured=self.structured)
                return None
            if t_new >= beyond > -math.inf and stepper.status == "running":
                # What was in the way is behind.
                beyond, longest = -math.inf, self.stop - t_new
                rhs.next_step()
                stepper = self.method.start(
                    system, t_new, y_new, self.stop, first=min(self.last_step, longest)
                )
        return None

    def _stop_at(self, change: float | None) -> bool:
        """Let the next phase end at a change, if one was found; tell whether it does."""
        course = self.course
        if change is None or not self.state.t < change < self.stop:
            return False
        course.stop_at(change)
        self.last_step = min(self.last_step, SEEN * (course.end - course.start))
        return True

    def _stiffness_watch(self) -> StiffnessWatch | None:
        """Return what looks for stiffness, where "auto" has begun with a method that tells of it."""
        if self.solver.method != "auto" or not self.method.tells_stiffness:
            return None
        if len(self.flow.initial) > _LARGEST_MEASURED and not self.structured:
            return None
        return StiffnessWatch()

    def _keep(self, stepper: Stepper, t: float, y: FloatArray) -> None:
        """Keep the states of a step in which nothing can happen, for `flush`."""
        saved = self.course.saved
        if self.kept is None:
            self.first = saved.next
            self.kept = np.empty((saved.due(self.stop).stop - self.first, len(y)))
        rows = saved.due(t)
        if rows.start < rows.stop:
            times, states = saved.times[rows], self.kept[rows.start - self.first : rows.stop - self.first]
            inside = int(times.searchsorted(t))
            if inside:
                states[:inside] = stepper.interpolant()(times[:inside])
            states[inside:] = y
            saved.next = rows.stop
        self.latest = (t, y)

    def flush(self) -> None:
        """Turn what was kept into rows of the trajectory and the present state, all at once."""
        if self.latest is None:
            return
        t, y = self.latest
        saved = self.course.saved
        if self.kept is not None and self.first < saved.next:
            rows = slice(self.first, saved.next)
            states = self.kept[: saved.next - self.first]
            saved.fill(rows, functools.partial(self.flow.shares, saved.times[rows], states))
        self.state = State(t, self.flow.log_masses(t, y), self.state.removed)
        self.kept, self.latest = None, None

    def _system(self, rhs: RightHandSide) -> System:
        return System(
            rhs,
            *self.tolerances,
            max_step=self.solver.max_step,
            jacobian=self._jacobian if self.structured else None,
            drift_free=self.flow.plain,
            structure=self.slopes.stated_or_measured,
            steady=self.course.watched is None and self.flow.steady,
        )

    @functools.cached_property
    def tolerances(self) -> tuple[FloatArray, FloatArray]:
        """Absolute and relative tolerance of every component of the state vector."""
        n, drift_free = len(self.flow.initial), self.flow.plain
        return self.flow.tolerances(self.method.tolerance(self.solver.tolerance, n, drift_free=drift_free))

    def _jacobian(self, t: float, y: FloatArray) -> DiagonalPlusLowRank:
        return cast(DiagonalPlusLowRank, self.slopes.stated(t, y))  # asked only where there is one

    @functools.cached_property
    def structured(self) -> bool:
        """Whether there is a Jacobian that is diagonal plus low rank, where a dense one would be dear."""
        initial = self.flow.initial
        return len(initial) > LARGEST_DENSE and self.slopes.stated(self.state.t, initial) is not None

    def _finish_saves_without_mass(self) -> None:
        rows = self.course.saved.due(self.stop)
        self.course.saved.fill(rows, self.state.log_masses)

    # What happened within an accepted step.

    def _look_at_step(self, step: Step) -> tuple[State, Termination | None] | None:
        """Enter what happened within an accepted step; return the state and status that end the phase."""
        ledger = self.ledger
        rows = self.course.saved.due(step.t_new)
        switch = self._cap_switch(step) if any(self.may_cap) else None
        limit = step.t_new if switch is None else switch[0]
        happened, alters = self.course.occasions.within(step, limit)
        if alters:
            limit = happened[-1][0]
        crossings = self._crossings(step, limit) if ledger.watching else []
        if ledger.halts:
            first_fall = next((c for c in crossings if c[2] < 0), None)
            if first_fall is not None:
                self.course.occasions.record([one for one in happened if one[0] < first_fall[0]])
                return self.fallen(self._cut(step, first_fall[0]), crossings)
        ledger.cross(*columns(crossings))
        self.course.occasions.record(happened)
        if alters:
            return self._alter(step, *happened[-1])
        if switch is not None:
            return self._switch_cap(step, switch)
        self._save(step, rows, step.t_new, step.logs_new)
        self.state = State(step.t_new, step.logs_new, self.state.removed)
        return (self.state, None) if self._outgrown(step.t_new, step.y_new, step.logs_new) else None

    def _save(self, step: Step, rows: slice, t: float, logs: FloatArray) -> None:
        """Fill the rows due up to `t`: by dense output within the step, by the state itself at its end."""
        saved = self.course.saved
        if rows.start >= rows.stop:
            return
        times = saved.times[rows]
        inside = times < t
        block = np.empty((len(times), len(logs)))
        if inside.any():
            block[inside] = step.log_masses(times[inside])
        block[~inside] = logs
        saved.fill(rows, block)

    def _state_at(self, step: Step, t: float) -> State:
        return State(t, self.flow.log_masses(t, step.state_at(t)), self.state.removed)

    def _crossings(self, step: Step, limit: float) -> list[tuple[float, int, int]]:
        """Return the threshold crossings in (t_old, limit], consistent with the record so far."""
        levels = self.ledger.levels
        living = np.flatnonzero(~self.state.removed & (np.isfinite(step.logs_new)))
        if not len(living):
            return []

        def heights(curve: Dense, t: FloatArray) -> FloatArray:
            # An absent group is infinitely far below; a root needs numbers.
            return np.maximum(curve(t)[:, living] - levels[living], _FAR_BELOW)

        living = living[may_cross(lambda t: heights(step.coarse, t), step.t_old, step.t_new)]
        if not len(living):
            return []
        dense = step.fine()
        tolerance = self.solver.tolerance
        found = find_crossings(lambda t: heights(dense, t), step.t_old, step.t_new, resolution=tolerance)
        result = []
        state = self.ledger.below[living]
        for time, k, direction in found:
            # The record has a group that starts at the level exactly on the side to which it goes.
            if state[k] == (direction < 0) or time > limit:
                continue
            state[k] = direction < 0
            result.append((time, int(living[k]), direction))
        return result

    def _alter(self, step: Step, time: float, event: int) -> tuple[State, Termination | None]:
        """Cut the step at an event, and let it act."""
        course = self.course
        self._cut(step, time)
        self.state, ended = course.occasions.happen([event], self.state, self.ledger, course.saved)
        return self.state, ended

    def _cut(self, step: Step, time: float) -> State:
        """Return the state at a time within a step, with all rows before it saved."""
        at = self._state_at(step, time)
        rows = self.course.saved.due(np.nextafter(time, -np.inf))
        self._save(step, rows, time, at.log_masses)
        self.state = at
        return at

    def fallen(self, at: State, crossings: list[tuple[float, int, int]]) -> tuple[State, Termination | None]:
        """Stop or absorb at the first extinction among `crossings`, which leads to the state `at`."""
        ledger, course = self.ledger, self.course
        time, first = min((t, group) for t, group, direction in crossings if direction < 0)
        falling = {group for t, group, direction in crossings if direction < 0}
        # Groups that cannot be told apart from the first at the tolerance fall with it.
        tied = [
            group
            for group in sorted(falling)
            if group == first or at.log_masses[group] - ledger.levels[group] <= self.solver.tolerance
        ]
        ledger.cross(*columns([row for row in crossings if row[0] < time and row[1] not in tied]))
        ledger.cross(tied, time, -1)
        if ledger.policy_is("absorb"):
            at = absorbed(at, np.array(tied), ledger)
            course.occasions.look_at(at)
        course.saved.record(at)
        self.state = at
        stopped = Termination.STOPPED_AT_EXTINCTION if ledger.policy_is("stop") else None
        return at, stopped

    # The mass cap.

    def _cap_switch(self, step: Step) -> tuple[float, int] | None:
        """Return when and in which block the cap is first reached or left within the step."""
        flow = self.flow

        def margins(t: FloatArray) -> FloatArray:
            y = step.states(t)
            logs = flow.log_masses(t, y)
            columns = []
            for k, block in enumerate(flow.blocks):
                if not self.may_cap[k]:
                    columns.append(np.ones(len(t)))
                elif block.capped:
                    columns.append(
                        np.array([flow.mass_drift(s, row)[k] for s, row in zip(t, y, strict=True)])
                    )
                else:
                    total = log_sum_exp(logs[:, block.groups])[:, 0]
                    columns.append(math.log(block.cap) + 1e-13 - total)
            return np.stack(columns, axis=1)

        found = [c for c in find_crossings(margins, step.t_old, step.t_new) if c[2] < 0]
        return (found[0][0], found[0][1]) if found else None

    def _switch_cap(self, step: Step, switch: tuple[float, int]) -> tuple[State, Termination | None]:
        """Cut the step where a block reaches or leaves its cap."""
        time, k = switch
        at = self._cut(step, time)
        modes = [block.capped for block in self.flow.blocks]
        modes[k] = not modes[k]
        block = self.flow.blocks[k]
        if modes[k]:
            logs = np.array(at.log_masses)
            logs[block.groups] += math.log(block.cap) - log_sum_exp(logs[block.groups])
            at = State(at.t, logs, at.removed)
        self.course.saved.record(at)
        self.state = at
        self.capped_next = tuple(modes)
        return at, None

    # Revival.

    def _outgrown(self, t: float, y: FloatArray, logs: FloatArray | None = None) -> bool:
        """Tell whether a group has revived enough for its logarithm, or fallen too low for it."""
        flow, course = self.flow, self.course
        if t >= self.stop or not flow.flows_in:
            return False
        if not len(flow.reviving) and t < self.looked_until:
            return False
        logs = flow.log_masses(t, y) if logs is None else logs
        inflow = course.receives & ~self.state.removed
        floor = self._floor(t, logs, inflow, self.last_step, flow.last_time)
        self.looked_until = t + 5 * self.last_step  # half of what was looked at: steps grow
        return flow.outgrown(y, np.exp(logs), floor, inflow)
