"""The integrator's loop: phases between restarts, steps, and what happens within a step."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from scipy.integrate import LSODA, OdeSolver

from evodyn.core.arrays import FloatArray
from evodyn.model.dynamics import Dynamics, cap_of, clip_acts
from evodyn.model.landscapes import LandscapeFunction, breakpoints
from evodyn.model.structure import DiagonalPlusLowRank
from evodyn.simulate.extinction import Ledger
from evodyn.simulate.flow import SMALLEST_RTOL, Flow, NotFiniteError, State, log_sum_exp
from evodyn.simulate.method import Solver
from evodyn.simulate.revival import receivers, revival_floor
from evodyn.simulate.status import Termination
from evodyn.simulate.trajectory import Outcome, Trajectory
from evodyn.solvers.crossings import find_crossings, may_cross
from evodyn.solvers.scipy_methods import (
    EXPLICIT,
    LARGEST_DENSE,
    ONE_STEP,
    SOLVERS,
    WATCHED,
    StiffnessWatch,
    absolute_tolerance,
    solve_by_structure,
    structure_arguments,
)

__all__ = ["Integration"]

_FAR_BELOW = -1e12

_SEEN = 1 / 101
"""What is on for this part of the time span, or longer, is seen: any hundredth holds one sample."""

_WORTH = 200
"""Fewest steps still to come for which a change to an implicit method, which starts slowly, pays."""

_LARGEST_MEASURED = 1000
"""Most components for which the change is made where a dense Jacobian has to be measured."""


class _StalledError(Exception):
    """One step used up its evaluations."""


class _Counted:
    """The right-hand side as SciPy calls it, counted and capped per step."""

    def __init__(self, flow: Flow, cap: int, *, rejects_nan: bool) -> None:
        self.flow = flow
        self.cap = cap
        self.rejects_nan = rejects_nan
        self.failure: Exception | None = None
        self.evaluations = 0
        self.allowed = cap
        self.latest = flow.start.t

    def __call__(self, t: float, y: FloatArray) -> FloatArray:
        self.evaluations += 1
        self.latest = t
        if self.evaluations > self.allowed:
            raise _StalledError
        try:
            return self.flow.velocity(t, y)
        except Exception as failure:
            if not self.rejects_nan:
                raise
            # The method shortens its step, and so gets as far as the landscape goes.
            self.failure = failure
            return np.full_like(y, np.nan)

    def next_step(self) -> None:
        """Grant the next step its evaluations."""
        self.allowed = self.evaluations + self.cap


Dense = Callable[[FloatArray], FloatArray]
"""Log-masses (len(t), N) at times within a step."""


class Integration:
    """The integrator's loop over phases (between restarts) and steps."""

    def __init__(
        self,
        dynamics: Dynamics,
        landscape: LandscapeFunction,
        end: float,
        saved: Trajectory,
        ledger: Ledger,
        solver: Solver,
        method: str,
        reason: str,
    ) -> None:
        self.dynamics = dynamics
        self.landscape = landscape
        self.end = end
        self.saved = saved
        self.ledger = ledger
        self.solver = solver
        self.method = method
        self.reason = reason
        self.begun_with = method
        self.steps = 0
        self.evaluations = 0
        self.phases = 0
        self.start = math.nan
        self.stops: list[float] = []
        self.receives: npt.NDArray[np.bool_] = np.empty(0, dtype=bool)

    @property
    def steady(self) -> bool:
        """Whether neither the landscape nor the dynamics depends on time."""
        return bool(getattr(self.landscape, "autonomous", None)) and bool(self.dynamics.autonomous)

    def sample_times(self, first: float, last: float) -> FloatArray:
        """Return the times strictly within (first, last) at which to look at what may be on for a while."""
        spacing = _SEEN * (self.end - self.start)
        low, high = math.floor((first - self.start) / spacing), math.ceil((last - self.start) / spacing)
        times: FloatArray = np.asarray(self.start + spacing * np.arange(low, high + 1), dtype=np.float64)
        return times[(times > first) & (times < last)]

    def turn_stiff(self, t: float, *, structured: bool) -> None:
        """Go on with an implicit method."""
        self.method = "BDF" if structured else "LSODA"
        self.reason = f"the problem is stiff: {self.begun_with} was held back by stability at t = {t:.3g}"

    def run(self, state: State) -> Outcome:
        """Integrate from `state` to the end, or to what ends the run before."""
        self.start = state.t
        span = (state.t, self.end)
        declared = np.union1d(breakpoints(self.landscape, span), breakpoints(self.dynamics, span))
        self.stops = [*declared.tolist(), self.end]
        stops = self.stops
        self.receives = self._receivers(state)
        lookahead = min(stops[0] - state.t, self.solver.max_step, 1e-3 * (self.end - state.t))
        capped: tuple[bool, ...] | None = None
        if self.ledger.policy_is("absorb"):
            state = self._absorbed(state, np.flatnonzero(self.ledger.below & ~state.removed))
        self._save_row(state)
        phase: _Phase | None = None
        try:
            while state.t < self.end:
                if not np.isfinite(state.log_masses).any():
                    return self._outcome(state, Termination.ALL_EXTINCT)
                stop = next(s for s in stops if s > state.t)
                self.phases += 1
                phase = _Phase(self, state, stop, capped, lookahead)
                state, ended = phase.run()
                if state.t == stop < self.end:
                    self.method = self.begun_with  # what was stiff need not be so after a jump
                capped, lookahead = phase.capped_next, phase.last_step
                if ended is not None:
                    return self._outcome(state, ended, message=phase.message)
        except NotFiniteError as failure:
            return self._outcome(
                phase.state if phase else state,
                Termination.FITNESS_NOT_FINITE,
                message=f"Fitness was not finite at t = {failure.time:g}.",
                groups=failure.groups,
                cause=failure,
            )
        except _StalledError as failure:
            return self._outcome(
                phase.state if phase else state,
                Termination.SOLVER_FAILED,
                message="One step took thousands of evaluations without being accepted.",
                cause=failure,
            )
        except Exception as failure:  # whatever a user's landscape raises, the partial result survives
            return self._outcome(
                phase.state if phase else state,
                Termination.SOLVER_FAILED,
                message=f"{type(failure).__name__}: {failure}",
                cause=failure,
            )
        if not np.isfinite(state.log_masses).any():
            return self._outcome(state, Termination.ALL_EXTINCT)
        return self._outcome(state, Termination.COMPLETED)

    def _receivers(self, state: State) -> npt.NDArray[np.bool_]:
        """Return which groups inflow may reach within the run."""
        if self.dynamics.autonomous:
            times = np.array([state.t])
        else:
            edges = np.array([state.t, *self.stops])
            middles = (edges[1:] + edges[:-1]) / 2
            times = np.concatenate((edges[:-1], middles, self.sample_times(state.t, self.end)))
        return receivers(self.dynamics, self.landscape, state.t, state.log_masses, times)

    def _outcome(
        self,
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
            self.method,
            self.reason,
            self.steps,
            self.evaluations,
            max(self.phases - 1, 0),
            message,
            groups,
            cause,
        )

    def _save_row(self, state: State) -> None:
        rows = self.saved.due(state.t)
        if rows.start < rows.stop:
            self.saved.fill(rows, state.log_masses)

    def _absorbed(self, state: State, groups: npt.NDArray[np.intp]) -> State:
        """Return `state` with `groups` set to exactly zero, for good."""
        if not len(groups):
            return state
        self.ledger.absorb(groups, np.exp(state.log_masses))
        logs = np.array(state.log_masses)
        logs[groups] = -np.inf
        removed = np.array(state.removed)
        removed[groups] = True
        return State(state.t, logs, removed)


class _Phase:
    """Integration between two restarts."""

    def __init__(
        self,
        integration: Integration,
        state: State,
        stop: float,
        capped: tuple[bool, ...] | None,
        lookahead: float,
    ) -> None:
        self.integration = integration
        self.ledger = integration.ledger
        self.solver = integration.solver
        self.state = state
        self.stop = stop
        self.message = ""
        n = len(state.log_masses)
        last_time = stop if stop == integration.end else float(np.nextafter(stop, -np.inf))
        inflow = integration.receives & ~state.removed
        floor = self._floor(state.t, state.log_masses, inflow, lookahead, last_time)

        def begin(modes: tuple[bool, ...]) -> Flow:
            return Flow.begin(
                integration.dynamics,
                integration.landscape,
                state,
                floor=floor,
                inflow=inflow,
                last_time=last_time,
                capped=modes,
            )

        blocks = integration.dynamics.blocks(n)
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
        self.capped_next: tuple[bool, ...] | None = None
        self.last_step = lookahead
        self.looked_until = state.t
        self.cap = 5_000 + 20 * len(self.flow.initial)
        # Nothing can happen within a step of a quiet phase: there are only rows to save.
        self.quiet = not (self.ledger.watching or any(self.may_cap) or self.flow.flows_in)
        self.kept: list[tuple[FloatArray, FloatArray]] = []
        self.latest: tuple[float, FloatArray] | None = None

    def _floor(
        self, t: float, log_masses: FloatArray, inflow: npt.NDArray[np.bool_], step: float, last_time: float
    ) -> FloatArray:
        """Return the revival floors from `t` on, with an eye on ten steps ahead."""
        integration = self.integration
        times = np.array([t]) if integration.dynamics.autonomous else _ahead(t, step, last_time)
        return revival_floor(integration.dynamics, integration.landscape, t, log_masses, inflow, times)

    def run(self) -> tuple[State, Termination | None]:
        """Step until the phase's end or the first event that needs a restart."""
        integration, flow = self.integration, self.flow
        y = flow.initial
        if not len(y):
            # Nothing lives and nothing flows in.
            self._finish_saves_without_mass()
            return State(self.stop, self.state.log_masses, self.state.removed), None
        rhs = _Counted(flow, self.cap, rejects_nan=integration.method in EXPLICIT)
        length = self.stop - self.state.t
        if length < 100 * np.spacing(self.stop):
            # Shorter than integrators take: one step of Euler's method is exact to rounding.
            y = y + length * flow.velocity(self.state.t, y)
            self.state = State(self.stop, flow.log_masses(self.stop, y), self.state.removed)
            integration._save_row(self.state)
            return self.state, None
        try:
            ended = self._steps(rhs, y)
        finally:
            integration.evaluations += rhs.evaluations
            self._flush()
        return self.state, ended

    def _steps(self, rhs: _Counted, y: FloatArray) -> Termination | None:
        """Take steps; return what ends the run, or None where only the phase ends."""
        integration, flow = self.integration, self.flow
        # With mutation, no step may outrun the look ahead.
        longest = self.stop - self.state.t
        first = min(self.last_step, longest) if flow.flows_in else None
        stepper = self._stepper(rhs, self.state.t, y, self.stop, first=first)
        watch = self._stiffness_watch()
        # A dense Jacobian is measured a few dozen times, by an evaluation for each component.
        worth = _WORTH if self.structured else max(_WORTH, 5 * len(y))
        beyond = -math.inf  # where a step that led nowhere would have ended
        while stepper.status == "running":
            t_old, y_old = stepper.t, np.array(stepper.y)
            if integration.steps >= self.solver.max_steps:
                return Termination.STEP_LIMIT
            rhs.next_step()
            try:
                self.message = self._advance(stepper) or ""
            except _StalledError:
                raise
            except Exception:
                # A method that cannot reject what is not a number: approach it in shorter steps.
                if self._ends_before_a_jump(rhs, t_old, rhs.latest, y_old):
                    return None
                beyond, longest = max(beyond, rhs.latest), 0.1 * min(rhs.latest - t_old, longest)
                if longest < 100 * np.spacing(max(abs(t_old), abs(self.stop))):
                    raise
                stepper = self._stepper(rhs, t_old, y_old, self.stop, longest=longest)
                continue
            if str(stepper.status) == "failed":
                if rhs.failure is not None:
                    raise rhs.failure
                return Termination.SOLVER_FAILED
            integration.steps += 1
            t_new, y_new = float(stepper.t), np.array(stepper.y)
            self.last_step = t_new - t_old
            if not math.isfinite(y_new @ y_new) or (y_new[len(flow.log_living) :] < 0).any():
                # LSODA accepts what is not a number, and a revived mass cannot be negative: take the
                # step again, in shorter ones.
                if self._ends_before_a_jump(rhs, t_old, t_new, y_old):
                    return None
                beyond, longest = max(beyond, t_new), 0.1 * min(self.last_step, longest)
                if longest < 10 * np.spacing(t_old):
                    return Termination.SOLVER_FAILED
                rhs.next_step()
                stepper = self._stepper(rhs, t_old, y_old, self.stop, longest=longest)
                continue
            change = self._overlooked(rhs, t_old, t_new, y_new)
            if change is not None:
                # Take the step again, to end where the change begins.
                self._stop_at(change)
                return None
            if self.quiet:
                self._keep(stepper, t_new, y_new)
            else:
                event = self._look_at_step(stepper, rhs, t_old, y_old, t_new, y_new)
                if event is not None:
                    return event[1]
            if watch is not None and watch.sees(stepper) and self.stop - t_new > worth * self.last_step:
                integration.turn_stiff(t_new, structured=self.structured)
                return None
            if t_new >= beyond > -math.inf and stepper.status == "running":
                # What was in the way is behind.
                beyond, longest = -math.inf, self.stop - t_new
                rhs.next_step()
                stepper = self._stepper(rhs, t_new, y_new, self.stop, first=min(self.last_step, longest))
        return None

    def _stop_at(self, change: float) -> None:
        """Let the next phase end at a change that has been found."""
        integration = self.integration
        integration.stops.append(change)
        integration.stops.sort()
        self.last_step = min(self.last_step, _SEEN * (integration.end - integration.start))

    def _ends_before_a_jump(self, rhs: _Counted, t_old: float, t: float, y: FloatArray) -> bool:
        """Let the next phase end at a jump between two times, if there is one; tell whether there is."""
        integration = self.integration
        if integration.steady:
            return False
        at = self._velocity_at(rhs, y)
        earlier, before = t_old, at(t_old)
        for time in (*integration.sample_times(t_old, t), t):
            here = at(time)
            if not np.array_equal(here, before, equal_nan=True):
                change = _onset(at, earlier, time, before, here)
                if change is not None and t_old < change < self.stop:
                    self._stop_at(change)
                    return True
            earlier, before = time, here
        return False

    def _velocity_at(self, rhs: _Counted, y: FloatArray) -> Callable[[float], FloatArray]:
        """Return the velocity at a fixed state, NaN where it cannot be had, as a function of time."""

        def at(t: float) -> FloatArray:
            rhs.evaluations += 1
            try:
                return self.flow.velocity(t, y)
            except Exception:  # the integrator will say what is wrong when it gets there
                return np.full_like(y, np.nan)

        return at

    def _stiffness_watch(self) -> StiffnessWatch | None:
        """Return what looks for stiffness, where "auto" has begun with an explicit method and may change."""
        method = self.integration.method
        if self.solver.method != "auto" or method not in WATCHED:
            return None
        if len(self.flow.initial) > _LARGEST_MEASURED and not self.structured:
            return None
        return StiffnessWatch(method)

    def _overlooked(self, rhs: _Counted, t_old: float, t_new: float, y: FloatArray) -> float | None:
        """Return where something begins that is on within the step but not at its ends, else None.

        The velocity is sampled at fixed masses, so that only what depends on time can make a difference.
        """
        integration = self.integration
        if integration.steady:
            return None
        # The stages of one-step methods leave gaps of half a step, multistep methods look at its end only.
        gap = 0.5 if integration.method in ONE_STEP else 1.0
        if gap * (t_new - t_old) <= _SEEN * (integration.end - integration.start):
            return None

        at = self._velocity_at(rhs, y)
        after = at(t_new)
        earlier, before = t_old, None
        least = 10 * self.tolerances[0] / (_SEEN * (integration.end - integration.start))
        least[len(self.flow.log_living) :] = 0.0
        for time in integration.sample_times(t_old, t_new):
            here = at(time)
            if not np.array_equal(here, after, equal_nan=True):
                if before is None:
                    before = at(t_old)
                beyond = _beyond(here, before, after)
                if not (beyond <= np.maximum(least, np.abs(after - before))).all():
                    change = _onset(at, earlier, float(time), before, here)
                    return float(time) if change is None else change
            earlier = float(time)
        return None

    def _keep(self, stepper: OdeSolver, t: float, y: FloatArray) -> None:
        """Keep the states of a step in which nothing can happen, for `_flush`."""
        saved = self.integration.saved
        rows = saved.due(t)
        times = saved.times[rows]
        if len(times):
            states = np.empty((len(times), len(y)))
            inside = times < t
            if inside.any():
                states[inside] = stepper.dense_output()(times[inside]).T
            states[~inside] = y
            self.kept.append((times, states))
            saved.next = rows.stop
        self.latest = (t, y)

    def _flush(self) -> None:
        """Turn what was kept into rows of the trajectory and the present state, all at once."""
        if self.latest is None:
            return
        t, y = self.latest
        if self.kept:
            times = np.concatenate([times for times, _ in self.kept])
            states = np.concatenate([states for _, states in self.kept])
            saved = self.integration.saved
            rows = slice(saved.next - len(times), saved.next)
            saved.log_masses[rows] = self.flow.log_masses(times, states)
        self.state = State(t, self.flow.log_masses(t, y), self.state.removed)
        self.kept, self.latest = [], None

    def _stepper(
        self,
        rhs: _Counted,
        t: float,
        y: FloatArray,
        stop: float,
        *,
        longest: float = math.inf,
        first: float | None = None,
    ) -> OdeSolver:
        method = self.integration.method
        kwargs: dict[str, Any] = {
            "rtol": self.tolerances[1] if method == "LSODA" else SMALLEST_RTOL,
            "atol": self.tolerances[0],
            "max_step": min(self.solver.max_step, longest),
        }
        if first is not None:
            kwargs["first_step"] = first
        structured = self.structured and method not in EXPLICIT
        if structured:
            kwargs |= structure_arguments(method, self._jacobian, len(y))
        stepper: Any = SOLVERS[method](rhs, t, y, stop, **kwargs)
        if structured and method != "LSODA":
            solve_by_structure(stepper, self._jacobian)
        if method != "LSODA":
            # SciPy's constructors of the implicit methods take a single number only.
            stepper.rtol = self.tolerances[1]
        if method in EXPLICIT:
            stepper.drift_free = self.flow.plain
            stepper.fun = rhs  # without SciPy's two wrappers: ours counts, and returns arrays
        return stepper  # type: ignore[no-any-return]

    @functools.cached_property
    def tolerances(self) -> tuple[FloatArray, FloatArray]:
        """Absolute and relative tolerance of every component of the state vector."""
        method, n = self.integration.method, len(self.flow.initial)
        tolerance = absolute_tolerance(method, self.solver.tolerance, n)
        if self.flow.plain and method not in EXPLICIT:
            # An error of ln p_i is that of u_i less the mean over all, which may be as large again.
            tolerance *= 0.5
        return self.flow.tolerances(tolerance)

    @functools.cached_property
    def structured(self) -> bool:
        """Whether there is a Jacobian that is diagonal plus low rank, where a dense one would be dear."""
        initial = self.flow.initial
        return len(initial) > LARGEST_DENSE and self.flow.jacobian(self.state.t, initial) is not None

    def _jacobian(self, t: float, y: FloatArray) -> DiagonalPlusLowRank:
        return cast(DiagonalPlusLowRank, self.flow.jacobian(t, y))  # asked only where there is one

    def _advance(self, stepper: OdeSolver) -> str | None:
        if not isinstance(stepper, LSODA):
            return stepper.step()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            message = stepper.step()
        return message or ("; ".join(str(w.message) for w in caught) or None)

    def _finish_saves_without_mass(self) -> None:
        rows = self.integration.saved.due(self.stop)
        self.integration.saved.fill(rows, self.state.log_masses)

    # What happened within an accepted step.

    def _look_at_step(
        self,
        stepper: OdeSolver,
        rhs: _Counted,
        t_old: float,
        y_old: FloatArray,
        t_new: float,
        y_new: FloatArray,
    ) -> tuple[State, Termination | None] | None:
        flow, ledger, saved = self.flow, self.ledger, self.integration.saved
        logs_new = flow.log_masses(t_new, y_new)
        rows = saved.due(t_new)
        dense: Dense | None = None
        if ledger.watching or any(self.may_cap) or rows.stop > rows.start:
            inner = stepper.dense_output()
            dense = lambda t: flow.log_masses(t, inner(t).T)  # noqa: E731
        switch = self._cap_switch(inner, t_old, t_new) if any(self.may_cap) else None
        limit = t_new if switch is None else switch[0]
        crossings: list[tuple[float, int, int]] = []
        if ledger.watching and dense is not None:
            crossings = self._crossings(dense, rhs, t_old, y_old, t_new, logs_new, limit)
        if not ledger.policy_is("observe"):
            first_fall = next((c for c in crossings if c[2] < 0), None)
            if first_fall is not None:
                return self._fall(rhs, t_old, y_old, dense, crossings, first_fall)
        ledger.cross(*_columns(crossings))
        if switch is not None:
            return self._switch_cap(rhs, t_old, y_old, dense, switch)
        self._save(dense, rows, t_new, logs_new)
        self.state = State(t_new, logs_new, self.state.removed)
        if self._needs_new_coordinates(t_new, y_new, logs_new):
            return self.state, None
        return None

    def _save(self, dense: Dense | None, rows: slice, t: float, logs: FloatArray) -> None:
        """Fill the rows due up to `t`: by dense output within the step, by the state itself at its end."""
        saved = self.integration.saved
        if rows.start >= rows.stop:
            return
        times = saved.times[rows]
        inside = times < t
        block = np.empty((len(times), len(logs)))
        if inside.any() and dense is not None:
            block[inside] = dense(times[inside])
        block[~inside] = logs
        saved.fill(rows, block)

    def _restepped(self, rhs: _Counted, t_old: float, y_old: FloatArray, t: float) -> FloatArray:
        """Return the state vector at `t` by stepping there from the start of the step."""
        if t <= t_old:
            return y_old
        first = t - t_old if self.integration.method in ONE_STEP else None
        stepper = self._stepper(rhs, t_old, y_old, t, first=first)
        while stepper.status == "running":
            rhs.next_step()
            self._advance(stepper)
        return np.array(stepper.y)

    def _state_at(self, rhs: _Counted, t_old: float, y_old: FloatArray, t: float) -> State:
        y = self._restepped(rhs, t_old, y_old, t)
        return State(t, self.flow.log_masses(t, y), self.state.removed)

    def _crossings(
        self,
        dense: Dense,
        rhs: _Counted,
        t_old: float,
        y_old: FloatArray,
        t_new: float,
        logs_new: FloatArray,
        limit: float,
    ) -> list[tuple[float, int, int]]:
        """Return the threshold crossings in (t_old, limit], consistent with the record so far."""
        level = self.ledger.level
        level_old = self.state.log_masses - level
        living = np.flatnonzero(~self.state.removed & (np.isfinite(logs_new)))
        if not len(living):
            return []

        def heights(curve: Dense, t: FloatArray) -> FloatArray:
            # An absent group is infinitely far below; a root needs numbers.
            values = np.maximum(curve(t)[:, living] - level, _FAR_BELOW)
            # The ends are known better than the interpolant tells.
            values[t <= t_old] = np.maximum(level_old[living], _FAR_BELOW)
            values[t >= t_new] = logs_new[living] - level
            return values

        living = living[may_cross(lambda t: heights(dense, t), t_old, t_new)]
        if not len(living):
            return []
        if self.integration.method in ONE_STEP:
            # Interpolants of one-step methods are worse than their steps: step to where things happen.
            dense = self._finer(rhs, t_old, y_old, t_new)
        tolerance = self.solver.tolerance
        found = find_crossings(lambda t: heights(dense, t), t_old, t_new, resolution=tolerance)
        result = []
        state = self.ledger.below[living]
        for time, k, direction in found:
            # A curve that sets out from the level exactly has already been counted on its side.
            if state[k] == (direction < 0) or time > limit:
                continue
            state[k] = direction < 0
            result.append((time, int(living[k]), direction))
        return result

    def _finer(self, rhs: _Counted, t_old: float, y_old: FloatArray, t_new: float) -> Dense:
        """Take the step again in eight: interpolation errors fall by 8^4 at the least."""
        part = (t_new - t_old) / 8
        stepper = self._stepper(rhs, t_old, y_old, t_new, longest=part, first=part)
        pieces: list[tuple[float, Any]] = []
        while stepper.status == "running":
            rhs.next_step()
            self._advance(stepper)
            pieces.append((float(stepper.t), stepper.dense_output()))
        ends = np.array([end for end, _ in pieces])

        def dense(t: FloatArray) -> FloatArray:
            which = np.minimum(np.searchsorted(ends, t), len(ends) - 1)
            y = np.empty((len(t), len(y_old)))
            for piece in np.unique(which):
                mine = which == piece
                y[mine] = pieces[piece][1](t[mine]).T
            return self.flow.log_masses(t, y)

        return dense

    def _fall(
        self,
        rhs: _Counted,
        t_old: float,
        y_old: FloatArray,
        dense: Dense | None,
        crossings: list[tuple[float, int, int]],
        first_fall: tuple[float, int, int],
    ) -> tuple[State, Termination | None]:
        """Cut the step at the first extinction, and stop or absorb."""
        ledger, integration = self.ledger, self.integration
        time = first_fall[0]
        at = self._state_at(rhs, t_old, y_old, time)
        falling = {group for t, group, direction in crossings if direction < 0}
        # Groups that cannot be told apart from the first at the tolerance fall with it.
        tied = [
            group
            for group in sorted(falling)
            if group == first_fall[1] or at.log_masses[group] - ledger.level <= self.solver.tolerance
        ]
        ledger.cross(*_columns([row for row in crossings if row[0] < time and row[1] not in tied]))
        ledger.cross(tied, time, -1)
        rows = integration.saved.due(np.nextafter(time, -np.inf))
        self._save(dense, rows, time, at.log_masses)
        if ledger.policy_is("absorb"):
            at = integration._absorbed(at, np.array(tied))
        integration._save_row(at)
        self.state = at
        stopped = Termination.STOPPED_AT_EXTINCTION if ledger.policy_is("stop") else None
        return at, stopped

    # The mass cap.

    def _cap_switch(
        self, inner: Callable[[FloatArray], FloatArray], t_old: float, t_new: float
    ) -> tuple[float, int] | None:
        """Return when and in which block the cap is first reached or left within the step."""
        flow = self.flow

        def margins(t: FloatArray) -> FloatArray:
            y = inner(t).T
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

        found = [c for c in find_crossings(margins, t_old, t_new) if c[2] < 0]
        return (found[0][0], found[0][1]) if found else None

    def _switch_cap(
        self, rhs: _Counted, t_old: float, y_old: FloatArray, dense: Dense | None, switch: tuple[float, int]
    ) -> tuple[State, Termination | None]:
        time, k = switch
        at = self._state_at(rhs, t_old, y_old, time)
        self._save(dense, self.integration.saved.due(np.nextafter(time, -np.inf)), time, at.log_masses)
        modes = [block.capped for block in self.flow.blocks]
        modes[k] = not modes[k]
        block = self.flow.blocks[k]
        if modes[k]:
            logs = np.array(at.log_masses)
            logs[block.groups] += math.log(block.cap) - log_sum_exp(logs[block.groups])
            at = State(at.t, logs, at.removed)
        self.integration._save_row(at)
        self.state = at
        self.capped_next = tuple(modes)
        return at, None

    # Revival.

    def _needs_new_coordinates(self, t: float, y: FloatArray, logs: FloatArray) -> bool:
        """Tell whether a group has revived enough for its logarithm, or fallen too low for it."""
        flow, integration = self.flow, self.integration
        if t >= self.stop or not flow.flows_in:
            return False
        if not len(flow.reviving) and t < self.looked_until:
            return False
        inflow = integration.receives & ~self.state.removed
        floor = self._floor(t, logs, inflow, self.last_step, flow.last_time)
        self.looked_until = t + 5 * self.last_step  # half of what was looked at: steps grow
        masses = np.exp(logs)
        reviving = y[len(flow.log_living) :]
        lowest = floor[flow.reviving]
        waiting = (reviving <= 0) & (lowest == 0)
        revived = (reviving > 0) & (masses[flow.reviving] >= lowest)
        if revived.any() and ((revived | waiting).all() or (revived & (reviving > 100)).any()):
            return True
        # The unit is the floor of a while ago, by now too coarse for what flows in.
        stale = ~revived & (lowest > 0) & (flow.unit > 10 * lowest)
        # A tenth: a group must not be sent back and forth.
        sunk = inflow[flow.log_living] & (masses[flow.log_living] < 0.1 * floor[flow.log_living])
        return bool(stale.any() or sunk.any())


def _ahead(t: float, step: float, last_time: float) -> FloatArray:
    """Return times at which to ask for a rate that is about to rise: steps may grow tenfold."""
    return np.minimum(t + step * np.array([0.0, 1.0, 3.0, 10.0]), last_time)


def _beyond(here: FloatArray, before: FloatArray, after: FloatArray) -> FloatArray:
    """Return how far `here` lies outside the range of `before` and `after`, NaN where it is not finite."""
    return np.maximum(here - np.maximum(before, after), np.minimum(before, after) - here).clip(min=0.0)


def _onset(
    at: Callable[[float], FloatArray], off: float, on: float, before: FloatArray, here: FloatArray
) -> float | None:
    """Return where a jump between the times `off` and `on` is, by bisection, or None for a smooth change.

    It is the first float at which the change is on.
    """
    begin = on
    while True:
        middle = 0.5 * (off + begin)
        if not off < middle < begin:
            return begin
        value = at(middle)
        to_before, to_here = np.nansum(np.abs(value - before)), np.nansum(np.abs(value - here))
        if min(to_before, to_here) > 0.1 * max(to_before, to_here):
            return None
        if to_here < to_before or not np.isfinite(value).all():
            begin = middle
        else:
            off = middle


def _columns(crossings: list[tuple[float, int, int]]) -> tuple[list[int], list[float], list[int]]:
    """Return groups, times and directions."""
    return [row[1] for row in crossings], [row[0] for row in crossings], [row[2] for row in crossings]
