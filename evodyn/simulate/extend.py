"""Going on with a run that has ended, from where it stands."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.progress import Progress, reporting
from evodyn.model.fitness import kernel
from evodyn.simulate.events import Event, event_table, validated_events
from evodyn.simulate.extinction import Ledger
from evodyn.simulate.flow import State
from evodyn.simulate.iterate import MapSettings, run_steps
from evodyn.simulate.method import Solver
from evodyn.simulate.problem import validated_save_times
from evodyn.simulate.run import Run, SolveError, interrupted
from evodyn.simulate.solve import run_from
from evodyn.simulate.status import Termination

__all__ = ["extend"]

_GOES_ON = (Termination.COMPLETED, Termination.SETTLED, Termination.INTERRUPTED, Termination.ALL_EXTINCT)


def extend(
    run: Run,
    t_end: float,
    *,
    save_at: npt.ArrayLike | None = None,
    events: Sequence[Event] | None = None,
    progress: Progress = None,
    throw: bool = True,
) -> Run:
    """Continue a run to a later time.

    It goes on from the stored log-masses, so that groups far below the smallest float are not lost, and
    from the extinction record as it stands.

    Parameters
    ----------
    run : Run
        A result of `solve` or `iterate` that was not stopped by a failure: one that is complete, settled or
        interrupted.
    t_end : float
        New end, after the old one. For `iterate`, a whole number of steps later.
    save_at : array_like, optional
        Further times to save, after the old end (for `solve`); as many equally spaced ones as before, by
        default. A run of `iterate` goes on with its `save_every`.
    events : sequence of Event, optional
        What else may happen from now on (for `solve`). Those events of the run go on that have a function, or
        times still to come, as an interrupted run may have.
    progress, throw
        As for `solve`.

    Returns
    -------
    Run
        The whole run, from the first start to `t_end`.

    Raises
    ------
    ValueError
        If `t_end` is not after the run's end, or the run ended in a failure, at an extinction or an event.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 500.0))
    >>> longer = ed.extend(run, 1000.0)
    >>> longer.log_masses[-1].round(6).tolist()
    [0.693147, -999.306853]
    """
    if not isinstance(run, Run):
        raise ValueError(f"run is {type(run).__name__}; expected a Run, the result of solve or iterate.")
    if run.termination not in _GOES_ON:
        raise ValueError(
            f"run ended as {run.termination.name}; expected one that is complete, settled or interrupted. "
            f"{run.termination.value}"
        )
    t_end = validation.finite("t_end", t_end)
    if not t_end > run.t_span[1]:
        raise ValueError(f"t_end is {t_end!r}; expected a time after the run's end at {run.t_span[1]!r}.")
    if isinstance(run.settings, MapSettings):
        if save_at is not None:
            raise ValueError(
                "save_at is given for a run of iterate; expected None: it saves every save_every steps."
            )
        if events is not None:
            raise ValueError("events are given for a run of iterate; expected None: maps have none.")
        return _extend_steps(run, t_end, progress, throw=throw)
    start = run.t_span[1]
    times = (
        np.linspace(start, t_end, max(len(run.t), 2))[1:]
        if save_at is None
        else validated_save_times(save_at, start, t_end)
    )
    if len(times) and times[0] <= run.t[-1]:
        raise ValueError(
            f"save_at begins at {float(times[0])!r}; expected times after {float(run.t[-1])!r}, "
            "which is saved already."
        )
    state = State(start, run.end_state.log_masses, run.end_state.removed)
    ledger = _resumed_ledger(run, state.log_masses)
    if not isinstance(run.settings, Solver):
        raise ValueError(f"run.settings is {run.settings!r}; expected the Solver of a run of solve.")
    planned = validated_events((*_ahead(run, t_end), *(events or ())), (start, t_end), run.end_state.masses)
    with _keeping(run), reporting(progress, "Solving") as report:
        more = run_from(
            run.dynamics,
            run.landscape,
            state,
            run.end_state.masses,
            times,
            t_end,
            ledger,
            run.settings,
            form=kernel(run.landscape, start, len(state.log_masses)),
            throw=throw,
            events=planned,
            dense=run.dense_output is not None,
            report=report,
        )
    return _run_of_both(run, more)


def _ahead(run: Run, end: float) -> tuple[Event, ...]:
    """Return the events of a run, by their places, with those of their times that are still to come."""
    start = run.t_span[1]
    happened = {k for k, t in run.events.tolist() if t == start}

    def to_come(k: int, times: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(t for t in times if start < t <= end or (t == start and k not in happened))

    return tuple(
        event if callable(event.when) else dataclasses.replace(event, when=to_come(k, event.times))
        for k, event in enumerate(run.planned_events)
    )


def _extend_steps(run: Run, t_end: float, progress: Progress = None, *, throw: bool = True) -> Run:
    """Continue a run of `iterate` by whole steps, to `t_end`; bit for bit what one longer run gives."""
    settings = run.settings
    if not isinstance(settings, MapSettings):
        raise ValueError(f"run.settings is {settings!r}; expected the settings of a run of iterate.")
    further = (t_end - settings.t_start) / settings.step_size - settings.steps
    n_steps = round(further)
    if n_steps < 1 or abs(further - n_steps) > 1e-6 * max(1.0, further):
        raise ValueError(
            f"t_end is {t_end!r}, {further:g} steps after the run's end; expected a whole number of steps of "
            f"{settings.step_size!r}."
        )
    ledger = _resumed_ledger(run, run.end_state.log_masses)
    if settings.steps % settings.save_every:
        # The old end was saved only because it was the end.
        run = dataclasses.replace(
            run,
            t=run.t[:-1],
            native=run.native[:-1],
            total_mass=run.total_mass[:-1],
            log_total_mass=run.log_total_mass[:-1],
            mean_fitness=run.mean_fitness[:-1],
        )
    with _keeping(run), reporting(progress, "Iterating") as report:
        more = run_steps(
            run.dynamics,
            run.landscape,
            np.array(run.end_state.masses),
            n_steps,
            settings,
            ledger,
            save_start=False,
            throw=throw,
            report=report,
        )
    return _run_of_both(run, more)


@contextlib.contextmanager
def _keeping(run: Run) -> Iterator[None]:
    """Put what was there before in front of what a failing continuation has got."""
    try:
        yield
    except SolveError as error:
        whole = _run_of_both(run, error.result)
        raise SolveError(str(error), result=whole, time=error.time, groups=error.groups) from error.__cause__
    except KeyboardInterrupt as interruption:
        so_far = getattr(interruption, "run", None)
        raise interrupted(interruption, run if so_far is None else _run_of_both(run, so_far)) from None


def _resumed_ledger(run: Run, log_masses: FloatArray) -> Ledger:
    """Return the extinction record of `run`, ready to be continued."""
    ledger = Ledger(run.extinction, run.t_span[1], log_masses)
    ledger.first = np.array(run.extinction_time)
    ledger.below = np.array(run.extinct_at_end)
    ledger.absorbed_mass = np.array(run.absorbed_mass)
    ledger.removed = np.array(run.end_state.removed)
    ledger.parts = [run.crossings]
    return ledger


def _run_of_both(run: Run, more: Run) -> Run:
    """Return one run from a run and its continuation."""
    stats = dataclasses.replace(
        more.stats,
        steps=run.stats.steps + more.stats.steps,
        evaluations=run.stats.evaluations + more.stats.evaluations,
        restarts=run.stats.restarts + more.stats.restarts + 1,
        projections=run.stats.projections + more.stats.projections,
    )
    later = more.t > run.t[-1]  # where it began is saved already
    joined: dict[str, Any] = {
        name: np.concatenate((getattr(run, name), getattr(more, name)[later]))
        for name in ("t", "native", "total_mass", "log_total_mass", "mean_fitness")
    }
    dense = run.dense_output
    if dense is not None and more.dense_output is not None:
        dense = dense.followed_by(more.dense_output)
    return dataclasses.replace(
        more,
        t_span=(run.t_span[0], more.t_span[1]),
        stats=stats,
        planned_events=(*run.planned_events, *more.planned_events[len(run.planned_events) :]),
        events=event_table([*run.events.tolist(), *more.events.tolist()]),
        dense_output=dense,
        **joined,
    )
