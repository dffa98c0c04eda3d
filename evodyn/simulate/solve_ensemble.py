"""Many members of one problem are solved, each as if it were alone."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.generators import seed_of
from evodyn.core.processes import held
from evodyn.core.progress import Progress, Report, reporting
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction
from evodyn.simulate.apart import elsewhere, here
from evodyn.simulate.draws import Draw, Landscapes
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
    `solve` gives for it alone, whatever the batch and the number of workers. Members that compiled methods
    know from start to end are integrated together, in threads; those with a clip, breakpoints, a closed form,
    groups that mutation revives, mutation with absorption, several thresholds, `settle`, `events` or `dense`
    output are solved one after another, so that `workers` pay.

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
    landscapes = Landscapes.meant(landscape, members)
    counts = {landscapes.number} if landscapes.number is not None else set()
    counts |= {initial.shape[0]} if initial.ndim == 2 else set()
    counts |= {members} if members is not None else set()
    if len(counts) != 1:
        raise ValueError(
            f"members is {members!r}, p0 has shape {initial.shape} and there are {landscapes.number or 1} "
            "landscapes; expected one number of members M: give members=M, M landscapes, or p0 with M rows."
        )
    number = validation.count("the number of members", counts.pop())
    check_memory(len(times), initial.shape[-1], number if directory is None else 1)
    if not isinstance(solver, Solver | None):
        raise ValueError(f"solver is {solver!r}; expected Solver(method=...) or None.")
    if dense and directory is not None:
        raise ValueError(
            f"dense is True and directory {str(directory)!r}, whose files hold saved times only; expected "
            "one of them."
        )
    rows = initial if initial.ndim == 2 else np.broadcast_to(initial, (number, len(initial)))
    problem = _Problem(
        dynamics, landscapes, rows, (start, end), times, extinction, solver or Solver(), settle,
        tuple(events or ()), dense, workers,
    )  # fmt: skip
    with contextlib.ExitStack() as stack:
        report = stack.enter_context(reporting(progress, "Solving members"))
        if directory is None:
            seed = seed_of(rng) if landscapes.drawn else None
            return problem.drawn_from(seed).solved(range(number), report, throw=throw)
        path = stack.enter_context(held(directory))
        before, seed = Folder.read(path), None
        if landscapes.drawn:
            seed = seed_of(rng) if rng is not None or before is None else before.seed
        problem = problem.drawn_from(seed)
        hashes = {name: identity(value) for name, value in problem.arguments().items()}
        folder = Folder(path, number, initial.shape[-1], times, seed, hashes)
        ensemble, interruption = solved_in_parts(
            folder,
            before,
            functools.partial(problem.solved, throw=False),
            functools.partial(problem.alone, throw=True),
            functools.partial(problem.alone, progress=_interrupt, throw=False),
            report,
            throw=throw,
        )
    if interruption is not None and throw:
        raise interrupted(interruption, ensemble)
    return ensemble


@dataclasses.dataclass(frozen=True)
class _Problem:
    """What is asked of `solve_ensemble`."""

    dynamics: Dynamics
    landscapes: Landscapes
    masses: FloatArray
    span: tuple[float, float]
    times: FloatArray
    extinction: Extinction | None
    solver: Solver
    settle: float | None
    events: tuple[Event, ...]
    dense: bool
    workers: int

    def drawn_from(self, seed: Any) -> _Problem:
        """Return the problem with landscapes that are drawn from a seed, if they are drawn."""
        return dataclasses.replace(self, landscapes=dataclasses.replace(self.landscapes, seed=seed))

    def arguments(self) -> dict[str, Any]:
        """Return what makes the results, by the names that users know."""
        first = self.landscapes.of(range(1))
        check_kinds(self.dynamics, first[0], self.extinction)
        return {
            "dynamics": self.dynamics,
            "landscape": self.landscapes.given,
            "number of members": len(self.masses),
            "p0": self.masses if self.masses.strides[0] else self.masses[0],  # which all share
            "t_span": self.span,
            "save_at": self.times,
            "extinction": self.extinction,
            "solver": self.solver,
            "settle": self.settle,
            "events": self.events,
            "rng": self.landscapes.seed,
            "first draw": first,
        }

    def task(self, *, throw: bool) -> Callable[..., Run]:
        """Return what solves one member, given its landscape and masses."""
        return functools.partial(
            solve,
            self.dynamics,
            t_span=self.span,
            save_at=self.times,
            extinction=self.extinction,
            solver=self.solver,
            settle=self.settle,
            events=self.events,
            dense=self.dense,
            throw=throw,
        )

    def alone(self, member: int, *, throw: bool, progress: Progress = None) -> Run:
        """Return the run of one member."""
        (landscape,) = self.landscapes.of(range(member, member + 1))
        return self.task(throw=throw)(landscape, p0=self.masses[member], progress=progress)

    def solved(self, members: range, report: Report | None, *, throw: bool) -> Ensemble:
        """Solve some members: in cohorts where they can be, then each of the others by itself."""
        landscapes = self.landscapes.of(members)
        for one in landscapes:
            check_size(one, self.masses.shape[1])
        posed = Posed(
            self.dynamics, landscapes, self.extinction, self.solver,
            self.masses[members.start : members.stop], self.times, self.span,
        )  # fmt: skip
        number, done = len(members), 0
        runs: dict[int, Run] = {}
        cohorts: list[Cohort] = []
        interruption: KeyboardInterrupt | None = None
        task, member = self.task(throw=throw), -1

        def tell(more: int) -> None:
            nonlocal done
            done += more
            if report is not None:
                report(done / number)

        try:
            if self.workers == 1 and self.settle is None and not self.events and not self.dense:
                cohorts = cohorts_of(posed)
            integrated(posed, cohorts, tell)
            places = arrived(cohorts)
            for member in [member for member, (_, _, at_end) in places.items() if not at_end]:
                cohort, row, _ = places[member]
                runs[member] = _heard(run_of(posed, member, cohort.passage(row), throw=throw))
            others = [member for member in range(number) if member not in places]
            jobs = [(landscapes[member], posed.masses[member]) for member in others]
            if self.workers > 1:
                arriving = elsewhere(task, jobs, self.workers)
            else:
                arriving = here(task, jobs, posed, threads=not self.events and not self.dense)
            with contextlib.closing(arriving) as found:
                for member in others:
                    runs[member] = _heard(next(found))
                    tell(1)
        except KeyboardInterrupt as caught:
            interruption = caught
            under_way = getattr(caught, "run", None)
            if under_way is not None:
                runs[member] = under_way
            ended = {member for member, (_, _, at_end) in arrived(cohorts).items() if at_end}
            task = self.task(throw=False)
            for missing in sorted(set(range(number)) - ended - set(runs)):
                runs[missing] = task(landscapes[missing], p0=posed.masses[missing], progress=_interrupt)
        ensemble = Ensemble(Members(posed, cohorts, runs), self.times, self.landscapes.seed)
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
