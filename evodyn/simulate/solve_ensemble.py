"""Many members of one problem are solved, each as if it were alone."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import os
import warnings
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.extras import extra
from evodyn.core.generators import Seed, member_rng, seed_of
from evodyn.core.processes import held
from evodyn.core.progress import Progress, Report, reporting
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import Landscape, LandscapeFunction
from evodyn.simulate.ensemble import Ensemble
from evodyn.simulate.events import Event
from evodyn.simulate.extinction import Extinction
from evodyn.simulate.members import Cohort, Members, Posed, arrived, cohorts_of, integrated, run_of
from evodyn.simulate.method import Solver
from evodyn.simulate.problem import (
    check_kinds,
    check_memory,
    check_size,
    validated_save_times,
    validated_span,
)
from evodyn.simulate.run import Run, interrupted
from evodyn.simulate.solve import solve
from evodyn.simulate.status import Termination
from evodyn.simulate.stored import Folder, identity, solved_in_parts

__all__ = ["solve_ensemble"]

Draw = Callable[[np.random.Generator], LandscapeFunction]


def solve_ensemble(
    dynamics: Dynamics,
    landscape: LandscapeFunction | Sequence[LandscapeFunction] | Draw,
    p0: npt.ArrayLike,
    t_span: tuple[float, float],
    *,
    save_at: npt.ArrayLike | None = None,
    extinction: Extinction | None = None,
    solver: Solver | None = None,
    members: int | None = None,
    rng: Any = None,
    workers: int = 1,
    settle: float | None = None,
    events: Sequence[Event] | None = None,
    dense: bool = False,
    directory: str | os.PathLike[str] | None = None,
    progress: Progress = None,
    throw: bool = True,
) -> Ensemble:
    """Solve one problem for many members: other landscapes, other initial masses, or other draws.

    Every member is integrated on its own, with its own error control: its result is bit for bit what
    `solve` gives for it alone, whatever the batch and the number of workers.

    Parameters
    ----------
    dynamics, t_span, extinction, solver
        As for `solve`, shared by all members.
    landscape : callable, sequence of callables, or function of a generator
        One landscape for all members, one for each, or, with `members` given, a function
        ``draw(generator) -> landscape``; member k's generator is spawn key k of `rng`.
    p0 : array_like, shape (N,) or (M, N)
        Initial masses, shared or one row per member.
    save_at : array_like, shape (T,), optional
        Times to save, shared by all members; 101 equally spaced ones by default.
    members : int, optional
        Number of members M; needed to draw landscapes.
    rng : optional
        Seed of the draws: anything that `numpy.random.default_rng` takes. From a generator 128 bits are
        drawn, once, so that the next ensemble made with it is another.
    workers : int, optional
        Processes to use (through joblib, of the "studies" extra). Landscapes must then be picklable.
    settle : float, optional
        As for `solve`: what follows the rest of a member is NaN in the ensemble's tables.
    events : sequence of Event, optional
        As for `solve`, of every member by itself; what occurred is in ``ensemble[k].events``. Members are
        then solved one after another, or each in a process, and not together.
    dense : bool, optional
        As for `solve`: every member keeps what `Ensemble.at` needs. Files do not hold it.
    directory : path-like, optional
        A folder in which members are saved as they are finished, in files of some of them, so that there may
        be more than memory holds. What is there is not solved again: the same call goes on after Ctrl-C,
        which loses nothing that was finished, and after a kill, which loses some ten seconds. With
        ``rng=None`` it goes on with the seed of the folder. The ensemble reads its members when somebody
        looks at them, and `evodyn.load` does so later. Members that fail are not saved unless
        ``throw=False``.
    progress : bool or callable, optional
        As for `solve`, of the fraction of members that are finished.
    throw : bool, optional
        Raise the first member's `SolveError`, and the `KeyboardInterrupt` of Ctrl-C, whose attribute ``run``
        is the ensemble so far; with False every member's outcome is in `termination`. Members that were not
        begun are interrupted at their start.

    Returns
    -------
    Ensemble

    Raises
    ------
    ValueError, SolveError, MemoryError
        As for `solve`, or if the numbers of landscapes, rows of `p0` and members disagree, or if the folder
        has an ensemble of another problem; the argument that differs is named.
    FolderInUseError
        If another process is writing to the folder.

    Examples
    --------
    >>> import numpy as np
    >>> import evodyn as ed
    >>> def draw(generator):
    ...     return ed.landscapes.Constant(
    ...         ed.landscapes.contributions("lognormal", n=5, heterogeneity=1.0, rng=generator))
    >>> ensemble = ed.solve_ensemble(ed.Replicator(), draw, np.ones(5), (0.0, 10.0), members=3, rng=0)
    >>> ensemble.masses.shape
    (3, 101, 5)
    """
    start, end = validated_span(t_span)
    times = validated_save_times(save_at, start, end)
    workers = validation.count("workers", workers)
    initial = validation.finite_array("p0", p0, least=0.0)
    if initial.ndim not in (1, 2):
        raise ValueError(f"p0 has shape {initial.shape}; expected (N,), or (M, N) with one row per member.")
    posed = _Landscapes.posed(landscape, members)
    counts = {posed.number} if posed.number is not None else set()
    counts |= {initial.shape[0]} if initial.ndim == 2 else set()
    counts |= {members} if members is not None else set()
    if len(counts) != 1:
        raise ValueError(
            f"members is {members!r}, p0 has shape {initial.shape} and there are {posed.number or 1} "
            "landscapes; expected one number of members M: give members=M, M landscapes, or p0 with M rows."
        )
    number = counts.pop()
    check_memory(len(times), initial.shape[-1], number if directory is None else 1)
    if not isinstance(solver, Solver | None):
        raise ValueError(f"solver is {solver!r}; expected Solver(method=...) or None.")
    if dense and directory is not None:
        raise ValueError(
            "dense is True and there is a directory, whose files hold saved times only; expected one."
        )
    rows = initial if initial.ndim == 2 else np.broadcast_to(initial, (number, len(initial)))
    task = functools.partial(
        solve,
        dynamics,
        t_span=(start, end),
        save_at=times,
        extinction=extinction,
        solver=solver,
        settle=settle,
        events=events,
        dense=dense,
        throw=throw,
    )
    together = workers == 1 and settle is None and not events and not dense

    def solved(some: range, report: Report | None, *, throw: bool) -> Ensemble:
        landscapes = posed.of(some, seed)
        for one in landscapes:
            check_size(one, initial.shape[-1])
        part = Posed(
            dynamics,
            landscapes,
            extinction,
            solver or Solver(),
            rows[some.start : some.stop],
            times,
            (start, end),
        )
        return _solved(part, functools.partial(task, throw=throw), seed, together, workers, report, throw)

    with contextlib.ExitStack() as stack:
        report = stack.enter_context(reporting(progress, "Solving members"))
        if directory is None:
            seed = seed_of(rng) if posed.drawn else None
            return solved(range(number), report, throw=throw)
        path = stack.enter_context(held(directory))
        there = Folder.read(path)
        seed = None
        if posed.drawn:
            seed = there.seed if rng is None and there is not None and there.seed else seed_of(rng)

        first = posed.of(range(1), seed)
        check_kinds(dynamics, first[0], extinction)

        def alone(member: int, **options: Any) -> Run:
            (one,) = posed.of(range(member, member + 1), seed)
            return task(one, p0=rows[member], **options)

        asked = {
            "dynamics": dynamics,
            "landscape": posed.given,
            "p0": initial,
            "t_span": (start, end),
            "save_at": times,
            "extinction": extinction,
            "solver": solver or Solver(),
            "number of members": number,
            "rng": seed,
            "first draw": first,
            "settle": settle,
            "events": tuple(events or ()),
        }
        folder = Folder(
            path,
            number,
            initial.shape[-1],
            times,
            seed,
            {name: identity(value) for name, value in asked.items()},
        )
        ensemble, interruption = solved_in_parts(
            folder,
            functools.partial(solved, throw=False),
            alone,
            functools.partial(alone, progress=_interrupt, throw=False),
            report,
            throw=throw,
        )
    if interruption is not None and throw:
        raise interrupted(interruption, ensemble)
    return ensemble


@dataclasses.dataclass(frozen=True)
class _Landscapes:
    """The landscapes of members.

    Attributes
    ----------
    given : callable, or list of callables
        What the user gave.
    number : int or None
        How many there are; None if all members share one, or each draws its own.
    drawn : bool
        Whether they are drawn.
    """

    given: Any
    number: int | None
    drawn: bool

    @classmethod
    def posed(cls, landscape: Any, members: int | None) -> _Landscapes:
        """Return the landscapes that a user means."""
        if isinstance(landscape, Sequence):
            if not len(landscape):
                raise ValueError("landscape is empty; expected one landscape for each member.")
            return cls(list(landscape), len(landscape), drawn=False)
        if not callable(landscape):
            raise ValueError(
                f"landscape is {landscape!r}; expected a landscape, a sequence of them, or a function."
            )
        if members is not None:
            validation.count("members", members)
        drawn = (
            members is not None and not isinstance(landscape, Landscape) and _takes_one_argument(landscape)
        )
        return cls(landscape, None, drawn)

    def of(self, members: range, seed: Seed | None) -> list[LandscapeFunction]:
        """Return the landscapes of some members."""
        if self.number is not None:
            return self.given[members.start : members.stop]  # type: ignore[no-any-return]
        if seed is None:
            return [self.given] * len(members)
        return [self.given(member_rng(seed, member)) for member in members]


def _solved(
    posed: Posed,
    task: Callable[..., Run],
    seed: Seed | None,
    together: bool,
    workers: int,
    report: Report | None,
    throw: bool,
) -> Ensemble:
    """Solve all members: in cohorts where they may be and can be, then each of the others by itself."""
    number, done = len(posed.masses), 0
    runs: dict[int, Run] = {}
    cohorts: list[Cohort] = []
    interruption: KeyboardInterrupt | None = None
    member = -1

    def tell(members: int) -> None:
        nonlocal done
        done += members
        if report is not None:
            report(done / number)

    try:
        cohorts = cohorts_of(posed) if together else []
        integrated(posed, cohorts, tell)
        places = arrived(cohorts)
        unfinished = [member for member, (_, _, at_end) in places.items() if not at_end]
        for member in unfinished:
            cohort, row, _ = places[member]
            runs[member] = _heard(run_of(posed, member, cohort.passage(row), throw=throw))
        others = [member for member in range(number) if member not in places]
        jobs = [(posed.landscapes[member], posed.masses[member]) for member in others]
        with contextlib.closing(
            _elsewhere(task, jobs, workers) if workers > 1 else _here(task, jobs)
        ) as found:
            for member in others:
                runs[member] = _heard(next(found))
                tell(1)
    except KeyboardInterrupt as caught:
        interruption = caught
        under_way = getattr(caught, "run", None)
        if under_way is not None:
            runs[member] = under_way
        ended = {member for member, (_, _, at_end) in arrived(cohorts).items() if at_end}
        for member in sorted(set(range(number)) - ended - set(runs)):
            runs[member] = task(
                posed.landscapes[member], p0=posed.masses[member], progress=_interrupt, throw=False
            )
    ensemble = Ensemble(Members(posed, cohorts, runs), posed.times, seed)
    if interruption is not None and throw:
        raise interrupted(interruption, ensemble)
    return ensemble


def _heard(run: Run) -> Run:
    """Return a run, unless Ctrl-C ended it."""
    if run.termination is Termination.INTERRUPTED:
        raise interrupted(KeyboardInterrupt(), run)
    return run


def _interrupt(fraction: float) -> None:
    """Let a run be interrupted at its start."""
    raise KeyboardInterrupt


def _elsewhere(task: Callable[..., Run], jobs: list[Any], workers: int) -> Generator[Run, None, None]:
    """Yield the runs of all members, in order, from processes."""
    with extra("studies", user="solve_ensemble with workers > 1"):
        joblib: Any = importlib.import_module("joblib")
    with warnings.catch_warnings():
        # What becomes of members under way when it is interrupted.
        warnings.filterwarnings("ignore", r"\s*\d+ tasks (have been|which were still)", UserWarning)
        parallel = joblib.Parallel(n_jobs=workers, return_as="generator")
        with contextlib.closing(parallel(joblib.delayed(task)(one, p0=row) for one, row in jobs)) as runs:
            yield from runs


def _here(task: Callable[..., Run], jobs: list[Any]) -> Generator[Run, None, None]:
    """Yield the runs of all members, in order."""
    yield from (task(one, p0=row) for one, row in jobs)


def _takes_one_argument(function: Callable[..., Any]) -> bool:
    """Tell a function of a generator from a landscape, which takes a time and masses."""
    import inspect

    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    return True
