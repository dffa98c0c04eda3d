"""Iterating the discrete maps (Eqs. 12-14) with the same result and extinction record as the flow."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import FloatArray, real
from evodyn.core.progress import Progress, Report, reporting
from evodyn.core.specifications import Specification
from evodyn.model.dynamics import MAPS, Dynamics, Scheme
from evodyn.model.fitness import LandscapeFunction
from evodyn.simulate.compiled_maps import many_steps
from evodyn.simulate.events import event_table
from evodyn.simulate.extinction import Extinction, Ledger, emptied
from evodyn.simulate.flow import State, culprits
from evodyn.simulate.problem import check_kinds, check_memory, check_start, validated_masses
from evodyn.simulate.run import EndState, Run, SolveError, interrupted, mean_fitness_along
from evodyn.simulate.status import Stats, Termination

__all__ = ["MapSettings", "iterate", "run_steps"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MapSettings(Specification):
    """How a map was iterated.

    Parameters
    ----------
    step_size : float
        η_p > 0.
    scheme : {"euler", "exponential", "ratio"}
        See `Dynamics.step`.
    save_every : int
        Steps between saved states.
    steps : int
        Steps taken so far; step k begins at time t_start + k·step_size.
    t_start : float
        Time of the first step.
    """

    step_size: float
    scheme: Scheme
    save_every: int
    steps: int
    t_start: float


def iterate(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    p0: npt.ArrayLike,
    n_steps: int,
    step_size: float,
    *,
    save_every: int = 1,
    extinction: Extinction | None = None,
    scheme: Scheme = "euler",
    t_start: float = 0.0,
    progress: Progress = None,
    throw: bool = True,
) -> Run:
    """Iterate the discrete map of a dynamics (Eqs. 12-14).

    Parameters
    ----------
    dynamics, landscape, p0, extinction, progress, throw
        As for `solve`. Masses above a mass cap are rescaled by the first step.
    n_steps : int
        Number of steps, at least 1.
    step_size : float
        η_p > 0. Step k takes the masses from time t_start + k·step_size to the next.
    save_every : int, optional
        Steps between saved states; the start and the end are always saved. A million steps need no more
        memory than what is saved.
    scheme : {"euler", "exponential", "ratio"}, optional
        See `Dynamics.step`. With "ratio" a step is a generation and `step_size` is 1.
    t_start : float, optional
        Time of the first step.

    Returns
    -------
    Run
        With masses as the native quantity. A crossing has the time of the first state on its new side;
        `stats.projections` counts how often the projection acted. The last mean fitness is NaN if the
        landscape fails at the end, where no step needs it (a table with one row per step, say).

    Raises
    ------
    ValueError, SolveError, KeyboardInterrupt, MemoryError
        As for `solve`.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.iterate(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], 1000, 0.01,
    ...                  save_every=500)
    >>> run.masses[:, 0].round(4)
    array([1.    , 1.9869, 1.9999])
    """
    check_kinds(dynamics, landscape, extinction)
    n_steps = validation.count("n_steps", n_steps)
    settings = MapSettings(
        validation.positive("step_size", step_size),
        validation.choice("scheme", scheme, MAPS),  # type: ignore[arg-type]
        validation.count("save_every", save_every),
        0,
        validation.finite("t_start", t_start),
    )
    masses = validated_masses(p0, dynamics, within_cap=False)
    check_memory(n_steps // settings.save_every + 2, len(masses))
    with np.errstate(divide="ignore"):
        logs = np.log(masses)
    check_start(dynamics, landscape, State(settings.t_start, logs, np.zeros(len(masses), dtype=bool)))
    if settings.scheme == "ratio":  # not every dynamics has it, nor for every fitness
        dynamics.step(
            masses, real(landscape(settings.t_start, masses)), settings.step_size, scheme=settings.scheme
        )
    ledger = Ledger(extinction, settings.t_start, logs)
    with reporting(progress, "Iterating") as report:
        return run_steps(
            dynamics,
            landscape,
            masses,
            n_steps,
            settings,
            ledger,
            save_start=True,
            throw=throw,
            report=report,
        )


def run_steps(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    masses: FloatArray,
    n_steps: int,
    settings: MapSettings,
    ledger: Ledger,
    *,
    save_start: bool,
    throw: bool,
    report: Report | None = None,
) -> Run:
    """Iterate `n_steps` further steps from `masses`, and assemble the result of these."""
    first = settings.steps
    h, start = settings.step_size, settings.t_start
    absorb, stop = ledger.policy_is("absorb"), ledger.policy_is("stop")
    if absorb:
        masses = _absorb(masses, np.flatnonzero(ledger.below & ~ledger.removed), ledger)
    rows: list[FloatArray] = [masses] if save_start else []
    times: list[float] = [start + first * h] if save_start else []
    projections, step = 0, first
    termination, message = Termination.COMPLETED, ""
    groups: tuple[int, ...] = ()
    cause: BaseException | None = None
    below = ledger.below.copy()
    done = first  # the step that `masses` come from
    every, last = max(1, n_steps // 200), first + n_steps
    many = None
    if settings.scheme == "euler":
        many = many_steps(dynamics, landscape, ledger, start + first * h, len(masses), n_steps)
    single = wait = 1  # steps until the next compiled call, where each ends soon
    try:
        with np.errstate(all="ignore"):
            while step < last:
                if report is not None and (step - first) % every == 0:
                    report((step - first) / n_steps)
                if many is not None and single == 0:
                    most = last - step
                    if report is not None:
                        most = min(most, every - (step - first) % every)
                    until_saved = settings.save_every - step % settings.save_every
                    further, taken, saved = many(
                        masses, h, most, until_saved, settings.save_every, ledger.removed
                    )
                    rows.extend(saved)
                    times.extend(
                        start + k * h
                        for k in range(step + until_saved, step + taken + 1, settings.save_every)
                    )
                    masses = further
                    step = done = step + taken
                    wait = 1 if taken > 2 * wait else min(2 * wait, 64)
                    if taken == most:
                        continue
                    single = wait
                single, step = max(single - 1, 0), step + 1
                time = start + (step - 1) * h
                try:
                    fitness = real(landscape(time, masses))
                    if fitness.shape != masses.shape:
                        raise ValueError(
                            f"landscape returned shape {fitness.shape} at t = {time:g}; expected "
                            f"{masses.shape}."
                        )
                    new = dynamics.step(masses, fitness, h, time=time, scheme=settings.scheme)
                except Exception as failure:  # whatever a landscape raises, the partial result survives
                    termination, message = Termination.SOLVER_FAILED, f"{type(failure).__name__}: {failure}"
                    cause, step = failure, step - 1
                    break
                total = float(new.sum())
                # A mean fitness that overflows would take all masses below zero, and the projection back.
                if not (math.isfinite(total) and math.isfinite(masses @ np.where(masses > 0, fitness, 0.0))):
                    termination = Termination.FITNESS_NOT_FINITE
                    spoilt = new if not math.isfinite(total) else np.full_like(new, np.nan)
                    bad = culprits(masses > 0, masses, fitness, spoilt)
                    groups = tuple(int(i) for i in np.flatnonzero(bad if bad.any() else ~np.isfinite(new)))
                    message, step = f"The masses after step {step} would not be finite.", step - 1
                    break
                if ledger.removed.any():
                    new = emptied(new, ledger.removed)  # no inflow into absorbed groups
                gone = (new == 0) & (masses > 0)
                if gone.any():
                    projections += int(np.count_nonzero(gone)) if settings.scheme == "euler" else 0
                    if not ledger.watching:
                        ledger.first[gone] = np.minimum(ledger.first[gone], start + step * h)
                stopped = False
                if ledger.extinction is not None:
                    now_below = ledger.extinction.below(new)
                    changed = now_below != below
                    if changed.any():
                        changed &= ~ledger.removed
                        now = start + step * h
                        fallen = np.flatnonzero(changed & now_below)
                        crossed = np.flatnonzero(changed)
                        ledger.cross(crossed, now, np.where(now_below[crossed], -1, 1))
                        if absorb:
                            new = _absorb(new, fallen, ledger)
                        below = ledger.extinction.below(new)
                        stopped = stop and len(fallen) > 0
                if step % settings.save_every == 0 and not stopped:
                    rows.append(new)
                    times.append(start + step * h)
                masses, done = new, step
                if stopped:
                    termination = Termination.STOPPED_AT_EXTINCTION
                    break
                if total == 0 or (absorb and not masses.any()):
                    termination = Termination.ALL_EXTINCT
                    break
    except KeyboardInterrupt as interruption:
        termination, cause, step = Termination.INTERRUPTED, interruption, done
        times = [time for time in times if time <= start + done * h]
        rows = rows[: len(times)]
        with np.errstate(divide="ignore"):
            reached = start + done * h
            ledger.rewind(reached, np.log(masses), ledger.removed & (ledger.first <= reached))
    t_end = start + step * h
    if termination is Termination.ALL_EXTINCT:
        # Nothing is left to happen: all later states are known.
        later = [k for k in range(step + 1, last + 1) if k % settings.save_every == 0]
        rows += [np.zeros_like(masses)] * len(later)
        times += [start + k * h for k in later]
        step, t_end = last, start + last * h
    if not times or times[-1] < t_end:
        rows.append(masses)
        times.append(t_end)
    t, native = np.array(times), np.array(rows)
    with np.errstate(all="ignore"):
        logs = np.log(native)
        blocks = dynamics.blocks(native.shape[-1])
        totals = dynamics.shaped(np.stack([native[:, block].sum(axis=1) for block, _ in blocks], axis=1))
    with np.errstate(divide="ignore"):
        log_totals = np.log(totals)

    def mean_fitness() -> FloatArray:
        # No step asks for the fitness at the end, and where a step has failed there is none.
        with np.errstate(all="ignore"):
            return mean_fitness_along(dynamics, landscape, t, native, logs, partial=True)

    run = Run.with_pending(
        {"mean_fitness": mean_fitness},
        dynamics=dynamics,
        landscape=landscape,
        extinction=ledger.extinction,
        settings=dataclasses.replace(settings, steps=step),
        t_span=(start + first * h, t_end),
        t=t,
        native=native,
        total_mass=totals,
        log_total_mass=log_totals,
        extinction_time=ledger.first,
        extinct_at_end=ledger.below if ledger.watching else masses == 0,
        crossings=ledger.crossings,
        absorbed_mass=ledger.absorbed_mass,
        termination=termination,
        stats=Stats(
            method=settings.scheme,
            reason="the discrete map itself",
            steps=step - first,
            evaluations=step - first,
            projections=projections,
            message=message,
        ),
        end_state=EndState(t_end, logs[-1], masses, ledger.removed),
        stores_log_shares=False,
        events=event_table([]),
        planned_events=(),
        settle=None,
        dense_output=None,
    )
    if termination is not Termination.INTERRUPTED:  # after Ctrl-C nothing is done that may take long
        run.mean_fitness  # noqa: B018
    if throw and isinstance(cause, KeyboardInterrupt):
        raise interrupted(cause, run)
    if throw and not run.succeeded:
        raise SolveError(
            f"{termination.value} Reached t = {t_end:g} after {step} steps. {message}".strip(),
            result=run,
            time=t_end,
            groups=groups,
        ) from cause
    return run


def _absorb(masses: FloatArray, groups: npt.NDArray[np.intp], ledger: Ledger) -> FloatArray:
    if not len(groups):
        return masses
    ledger.absorb(groups, masses)
    absorbed: FloatArray = emptied(masses, ledger.removed)
    return absorbed
