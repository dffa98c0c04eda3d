"""Solving the flow: the closed form where there is one, integration in logarithms elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray
from evodyn.core.progress import Progress, Report, reporting
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction
from evodyn.model.normal_form import NormalForm
from evodyn.simulate import closed_form
from evodyn.simulate.compiled import Passage
from evodyn.simulate.course import Course
from evodyn.simulate.dense import DenseOutput
from evodyn.simulate.events import Event, validated_events
from evodyn.simulate.extinction import Extinction, Ledger
from evodyn.simulate.flow import State
from evodyn.simulate.integration import integrate
from evodyn.simulate.method import Solver, chosen_method
from evodyn.simulate.occasions import Occasions
from evodyn.simulate.problem import (
    check_kinds,
    check_memory,
    check_start,
    validated_masses,
    validated_save_times,
    validated_span,
)
from evodyn.simulate.run import EndState, Run, SolveError, interrupted
from evodyn.simulate.settling import validated_settle
from evodyn.simulate.status import Stats, Termination
from evodyn.simulate.straight import straight
from evodyn.simulate.trajectory import Outcome, Table, Trajectory
from evodyn.solvers.scipy_methods import METHODS

__all__ = ["run_from", "solve"]

_DEFAULT = Solver()


def solve(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    p0: npt.ArrayLike,
    t_span: tuple[float, float],
    *,
    save_at: npt.ArrayLike | None = None,
    extinction: Extinction | None = None,
    solver: Solver | None = None,
    settle: float | None = None,
    events: Sequence[Event] | None = None,
    dense: bool = False,
    progress: Progress = None,
    throw: bool = True,
) -> Run:
    """Integrate a selection dynamics on a fitness landscape (Eqs. 5-8).

    Parameters
    ----------
    dynamics : Dynamics
        `Replicator`, `NormalizedGrowth`, `SelectionMutation`, `Selection`, or `Populations` of them.
    landscape : callable
        ``landscape(t, masses) -> fitness``; see `evodyn.landscapes`. What is on for 1 % of `t_span` or
        longer is seen; shorter changes need declared breakpoints or a `Solver` with a `max_step`.
    p0 : array_like, shape (N,)
        Initial masses >= 0 with a positive sum (in every block). A zero stays zero without mutation.
    t_span : (float, float)
        Start and end, in units of 1/fitness.
    save_at : array_like, shape (T,), optional
        Increasing times within `t_span` at which to save; 101 equally spaced ones by default.
    extinction : Extinction, optional
        Threshold and policy. Every crossing within the run is found, not only at saved times.
    solver : Solver, optional
        Method and tolerances.
    settle : float, optional
        A rate, in units of fitness. The run ends, as ``Termination.SETTLED``, when no living group's ln p
        grows faster and none at or above its threshold falls faster (without an `extinction`: when no share
        changes faster), and no times of events are to come. The rates are looked at between steps. A stiff
        integration does not reach rates below about its tolerance times the largest rate of the problem.
    events : sequence of Event, optional
        What is to be recorded, changed (invasion, removal, dilution) or ended at given times or where a
        function of the masses changes its sign. A saved time that is an event's has the masses after it.
    dense : bool, optional
        Keep what `Run.at` needs to return the masses at any time, some ten numbers for every group and
        step. The compiled methods do not keep it, so that those in NumPy are used.
    progress : bool or callable, optional
        True for a bar (rich, of the extra "studies"), or a function of the fraction of the time span that is
        done. Results do not depend on it.
    throw : bool, optional
        Raise `SolveError` if the run cannot be finished, and `KeyboardInterrupt` if it is interrupted, with
        the partial result as its attribute ``run``; with False the partial result is returned, and its
        `termination` says why it ended.

    Returns
    -------
    Run

    Raises
    ------
    ValueError
        If an argument is outside its range, or the landscape is wrong at the start. The message names
        argument, value, expectation and remedy.
    SolveError
        If the landscape or the integrator fails later, or a step limit is reached. It carries the partial
        result, the time and the groups concerned.
    KeyboardInterrupt
        If Ctrl-C interrupts it; the attribute ``run`` is the run so far, which `evodyn.extend` continues.
    MemoryError
        If the saved trajectory would not fit into memory.

    Notes
    -----
    The state is the logarithms of the living groups' masses, and masses are P·softmax of it. Masses are
    therefore never negative, at any tolerance and with any method; shares are exact; the total is exact
    where it is known in closed form; and the unit of mass changes nothing. The signal clip acts in the
    flow as in the map, and breaks conservation. At a mass cap the growth rates lose the positive part of
    their mass-weighted mean.

    Examples
    --------
    >>> import numpy as np
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 5.0),
    ...                save_at=[0.0, 5.0], extinction=ed.Extinction(threshold=0.1))
    >>> run.masses.round(4)
    array([[1.    , 1.    ],
           [1.9866, 0.0134]])
    >>> run.extinction_time.round(4)     # ln 19
    array([   inf, 2.9444])
    >>> run.stats.method
    'closed_form'
    """
    if not isinstance(solver, Solver | None):
        raise ValueError(f"solver is {solver!r}; expected Solver(method=...) or None.")
    solver = solver or _DEFAULT
    check_kinds(dynamics, landscape, extinction)
    start, end = validated_span(t_span)
    masses = validated_masses(p0, dynamics)
    times = validated_save_times(save_at, start, end)
    check_memory(len(times), len(masses))
    with np.errstate(divide="ignore"):
        state = State(start, np.log(masses), np.zeros(len(masses), dtype=bool))
    form = check_start(dynamics, landscape, state)
    ledger = Ledger(extinction, start, state.log_masses)
    settle = validated_settle(settle, dynamics, landscape, masses, (start, end))
    planned = validated_events(events, (start, end), masses)
    with reporting(progress, "Solving") as report:
        return run_from(
            dynamics, landscape, state, masses, times, end, ledger, solver, form=form, throw=throw,
            settle=settle, events=planned, dense=dense, report=report,
        )  # fmt: skip


def run_from(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    state: State,
    masses: FloatArray,
    times: FloatArray,
    end: float,
    ledger: Ledger,
    solver: Solver,
    *,
    form: NormalForm | None,
    throw: bool,
    known: Passage | None = None,
    settle: float | None = None,
    events: tuple[Event, ...] = (),
    dense: bool = False,
    report: Report | None = None,
) -> Run:
    """Solve from `state` to `end` by the closed form or by integration, and assemble the result.

    `form` is the kernel of the landscape at the start. What compiled methods make of the beginning may be
    `known`.
    """
    start = state.t
    saved = Trajectory(times, [block for block, _ in dynamics.blocks(len(masses))])
    occasions, output = Occasions(events, dynamics, solver.tolerance), DenseOutput() if dense else None
    exact = closed_form.applies(dynamics, landscape, len(masses)) and not occasions.functions
    if solver.method == "closed_form" and not exact:
        raise ValueError(
            f"method is 'closed_form' and there is none for {type(dynamics).__name__} here; expected "
            "constant or recorded fitness without density dependence, clip or mutation, and no events where "
            "a function changes its sign: use method='auto'."
        )
    outcome: Outcome | None = None
    with np.errstate(all="ignore"):
        if exact and solver.method in ("auto", "closed_form"):
            wanted = closed_form.Wanted(occasions, settle, report, output)
            outcome = closed_form.run(dynamics, landscape, state, end, saved, ledger, wanted)
        elif not (form is None or occasions.events or settle or dense):
            outcome, known = straight(
                dynamics, landscape, form, state, end, saved, ledger, solver, known, report
            )
        if outcome is None:
            method, reason = chosen_method(dynamics, len(masses), solver)
            course = Course(
                dynamics, landscape, state, end, saved, ledger, solver, method, reason, occasions,
                form=form, passage=known, settle=settle, report=report, dense=output,
            )  # fmt: skip
            outcome = integrate(course, state)
        if outcome.termination is Termination.ALL_EXTINCT:
            # Nothing is left to happen: the rest of the run is known.
            outcome.state = dataclasses.replace(outcome.state, t=end)
        run = _result(dynamics, landscape, start, saved, ledger, solver, outcome, occasions, settle, output)
    # After Ctrl-C nothing is done that may take long.
    if outcome.termination is not Termination.INTERRUPTED and form is None:
        run.mean_fitness  # noqa: B018 - what a function of a user's raises is raised here
    if throw and isinstance(outcome.cause, KeyboardInterrupt):
        raise interrupted(outcome.cause, run)
    if throw and not run.succeeded:
        at = f"at t = {outcome.state.t:g}"
        who = f" Groups: {', '.join(map(str, outcome.groups[:10]))}." if outcome.groups else ""
        stiff = (
            outcome.termination is Termination.STEP_LIMIT
            and outcome.method in METHODS
            and METHODS[outcome.method].explicit
        )
        advice = " If the problem is stiff, method='LSODA' takes longer steps." if stiff else ""
        raise SolveError(
            f"{run.termination.value}{advice} Reached {at} with {outcome.method}.{who} "
            f"{outcome.message}".strip(),
            result=run,
            time=outcome.state.t,
            groups=outcome.groups,
        ) from outcome.cause
    return run


def _result(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    start: float,
    saved: Trajectory,
    ledger: Ledger,
    solver: Solver,
    outcome: Outcome,
    occasions: Occasions,
    settle: float | None,
    output: DenseOutput | None,
) -> Run:
    final = outcome.state
    times, shares = saved.ended(final, outcome.termination)
    partial = outcome.termination is not Termination.COMPLETED
    table = Table(dynamics, landscape, times, shares, partial=partial)
    return Run.with_pending(
        {
            "native": table.native,
            "total_mass": table.total_mass,
            "log_total_mass": table.log_total_mass,
            "mean_fitness": table.mean_fitness,
        },
        dynamics=dynamics,
        landscape=landscape,
        extinction=ledger.extinction,
        settings=solver,
        t_span=(start, final.t),
        t=table.times,
        extinction_time=ledger.first,
        extinct_at_end=ledger.below if ledger.watching else final.log_masses == -np.inf,
        crossings=ledger.crossings,
        absorbed_mass=ledger.absorbed_mass,
        termination=outcome.termination,
        stats=Stats(
            method=outcome.method,
            reason=outcome.reason,
            steps=outcome.steps,
            evaluations=outcome.evaluations,
            restarts=outcome.restarts,
            message=outcome.message,
        ),
        end_state=EndState(final.t, final.log_masses, np.exp(final.log_masses), final.removed),
        stores_log_shares=True,
        events=occasions.table,
        planned_events=occasions.events,
        settle=settle,
        dense_output=output,
    )
