"""Members of an ensemble that compiled methods integrate together, each as if it were alone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray
from evodyn.model.dynamics import Dynamics, clip_acts
from evodyn.model.fitness import LandscapeFunction, breakpoints, kernel
from evodyn.model.normal_form import NormalForm
from evodyn.model.populations import Segments
from evodyn.simulate import closed_form
from evodyn.simulate.compiled import (
    Ending,
    Passage,
    Passages,
    compiled_forms,
    most_members,
    most_steps,
    part_of,
    travel,
)
from evodyn.simulate.extinction import Extinction, Ledger
from evodyn.simulate.flow import Flow, State, log_sum_exp, shares_of
from evodyn.simulate.method import Solver
from evodyn.simulate.problem import check_kinds, check_start, validated_masses
from evodyn.simulate.run import Run
from evodyn.simulate.runs import Runs, put_shared
from evodyn.simulate.solve import run_from
from evodyn.simulate.status import Termination
from evodyn.simulate.straight import begun, left, may_absorb, may_begin

__all__ = ["Cohort", "Members", "Posed", "arrived", "cohorts_of", "integrated", "run_of"]

_ARRIVED = (Ending.ARRIVED.value, Ending.EMPTIED.value)

_PARTS = 4
"""Parts of the members for each thread, so that none waits long for the slowest."""

Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Posed:
    """Members as they are posed.

    Attributes
    ----------
    dynamics, landscapes, extinction, solver
        As for `solve`, with a landscape for each member.
    masses : numpy.ndarray, shape (M, N)
        At the start.
    times : numpy.ndarray, shape (T,)
        The saved times.
    span : (float, float)
    """

    dynamics: Dynamics
    landscapes: Sequence[LandscapeFunction]
    extinction: Extinction | None
    solver: Solver
    masses: FloatArray
    times: FloatArray
    span: tuple[float, float]

    @property
    def due(self) -> Bools:
        """Which saved times come after the start, shape (T,)."""
        return self.times > self.span[0]

    @property
    def absorbs(self) -> bool:
        """Whether groups are absorbed."""
        return self.extinction is not None and self.extinction.policy == "absorb"

    def begin(self, member: int) -> tuple[State, Ledger]:
        """Return the state in which a member begins, and its record."""
        masses = self.masses[member]
        with np.errstate(divide="ignore"):
            state = State(self.span[0], np.log(masses), np.zeros(len(masses), dtype=bool))
        return state, Ledger(self.extinction, self.span[0], state.log_masses)


@dataclasses.dataclass(frozen=True)
class Cohort:
    """Members of whom the same groups live, and whose fitness is of one kind: integrated in one go.

    Attributes
    ----------
    members : numpy.ndarray of int, shape (m,)
        Their numbers, in order.
    flow : Flow
        The first member's.
    forms : Forms
    logs : numpy.ndarray, shape (m, N)
        ln p at the start, behind an absorption.
    log_totals : numpy.ndarray, shape (m, K)
        ln P then.
    below : numpy.ndarray of bool, shape (m, N)
        Who starts extinct.
    parts : list of Passages
        What came of it, members in order.
    """

    members: npt.NDArray[np.intp]
    flow: Flow
    forms: Any
    logs: FloatArray
    log_totals: FloatArray
    below: Bools
    parts: list[Passages]

    @property
    def reached(self) -> npt.NDArray[np.intp]:
        """The members that were integrated."""
        return self.members[: sum(map(len, self.parts))]

    @property
    def endings(self) -> npt.NDArray[np.int64]:
        """How these ended: values of `Ending`."""
        return np.concatenate([np.empty(0, np.int64), *(part.found.endings for part in self.parts)])

    def passage(self, row: int) -> Passage:
        """Return what came of the member of a row."""
        for part in self.parts:
            if row < len(part):
                return part[row]
            row -= len(part)
        raise IndexError(row)

    def journey(self, posed: Posed, rows: slice) -> Passages:
        """Integrate the members of some rows."""
        living, ledger = self.flow.log_living, posed.begin(int(self.members[0]))[1]
        with np.errstate(invalid="ignore"):  # of blocks without mass
            u = (self.logs[rows] - self.flow.segments.spread(self.log_totals[rows]))[:, living]
        return travel(
            part_of(self.forms, rows),
            u,
            *posed.span,
            posed.times[posed.due],
            first=0.0,
            most=min(posed.solver.max_steps, most_steps(self.forms)),
            solver=posed.solver,
            level=ledger.one_level or 0.0,
            below=self.below[rows][:, living],
            halts=ledger.halts,
            absorbs=posed.absorbs,
        )

    def record(self, posed: Posed) -> dict[str, npt.NDArray[Any]]:
        """Return first times below the threshold, who is at the end, and what was absorbed; see `Ledger`."""
        m, living = len(self.reached), self.flow.log_living
        below = self.below[:m].copy()
        first = np.where(below, posed.span[0], np.inf)
        absorbed = (
            np.where(below, posed.masses[self.reached], 0.0) if posed.absorbs else np.zeros(below.shape)
        )
        row = 0
        for part in self.parts:
            found, rows, groups = part.found, part.found.members + row, living[part.found.groups]
            falls = found.directions < 0
            np.minimum.at(first, (rows[falls], groups[falls]), found.times[falls])
            below[rows, groups] = falls  # of several, the last remains
            if posed.absorbs:
                absorbed[row : row + len(part), living] += part.absorbed
            row += len(part)
        return {"extinction_time": first, "extinct_at_end": below, "absorbed_mass": absorbed}

    def shares(self, posed: Posed) -> tuple[FloatArray, FloatArray]:
        """Return log-shares, shape (m, T, N), and ln P of blocks, shape (m, T, K)."""
        flow, m, due = self.flow, len(self.reached), posed.due
        log_shares = np.full((m, len(due), self.logs.shape[1]), -np.inf)
        log_totals = np.full((m, len(due), self.log_totals.shape[1]), -np.inf)
        log_shares[:, ~due], log_totals[:, ~due] = shares_of(self.logs[:m, None], flow.segments)
        row, later = 0, np.flatnonzero(due)
        alive = np.flatnonzero([np.isfinite(block.log_start) for block in flow.blocks])
        for part in self.parts:
            rows = np.arange(row, row + len(part))
            log_shares[np.ix_(rows, later, flow.log_living)] = part.states
            if posed.absorbs:
                log_totals[np.ix_(rows, later, alive)] = part.log_totals[:, :-1]
            row += len(part)
        if not posed.absorbs:
            log_totals[:, due] = flow.relaxed(self.log_totals[:m, None, :], posed.times[due])
        return log_shares, log_totals


class Members(Runs):
    """Members of which many were integrated together; the runs of these are made when somebody looks at them.

    Parameters
    ----------
    posed : Posed
    cohorts : sequence of Cohort
    made : mapping of int to Run
        The runs of all that are not in a cohort, or did not come to the end there.
    """

    def __init__(self, posed: Posed, cohorts: Sequence[Cohort], made: Mapping[int, Run]) -> None:
        super().__init__()
        self._posed, self._cohorts, self._made = posed, cohorts, made
        self._places = {
            int(member): (cohort, row)
            for cohort in cohorts
            for row, member in enumerate(cohort.reached)
            if int(member) not in made
        }

    def __len__(self) -> int:
        return len(self._posed.masses)

    def make(self, member: int) -> Run:
        if member in self._made:
            return self._made[member]
        cohort, row = self._places[member]
        return run_of(self._posed, member, cohort.passage(row), throw=False)

    @property
    def groups(self) -> int:
        return int(self._posed.masses.shape[1])

    @property
    def termination(self) -> tuple[Termination, ...]:
        found = dict.fromkeys(range(len(self)), Termination.COMPLETED)
        for cohort in self._cohorts:
            emptied = cohort.reached[cohort.endings == Ending.EMPTIED.value]
            found |= dict.fromkeys(emptied.tolist(), Termination.ALL_EXTINCT)
        found |= {member: run.termination for member, run in self._made.items()}
        return tuple(found.values())

    @property
    def ends(self) -> FloatArray:
        ends = np.full(len(self), self._posed.span[1])
        for member, run in self._made.items():
            ends[member] = run.t_span[1]
        return ends

    def of_members(self, name: str) -> npt.NDArray[Any]:
        if name not in ("extinction_time", "extinct_at_end", "absorbed_mass"):
            return super().of_members(name)
        found = np.empty(self._posed.masses.shape, dtype=bool if name == "extinct_at_end" else float)
        for cohort in self._cohorts:
            found[cohort.reached] = cohort.record(self._posed)[name]
        for member, run in self._made.items():
            found[member] = getattr(run, name)
        return found

    def along(self, name: str, times: FloatArray) -> FloatArray:
        if name not in ("masses", "log_masses", "total_mass"):
            return super().along(name, times)
        posed = self._posed
        blocks = [block for block, _ in posed.dynamics.blocks(self.groups)]
        spread = Segments(blocks).spread
        found = np.full((len(self), len(times), len(blocks) if name == "total_mass" else self.groups), np.nan)
        with np.errstate(all="ignore"):  # rows of members that did not come to the end hold anything
            for cohort in self._cohorts:
                log_shares, log_totals = cohort.shares(posed)
                if name == "total_mass":
                    found[cohort.reached] = np.exp(log_totals)
                elif name == "log_masses":
                    found[cohort.reached] = log_shares + spread(log_totals)
                else:
                    found[cohort.reached] = np.exp(log_shares) * spread(np.exp(log_totals))
        found = posed.dynamics.shaped(found) if name == "total_mass" else found
        for member, run in self._made.items():
            found[member] = np.nan
            put_shared(found[member], run, getattr(run, name), times)
        return found


def run_of(posed: Posed, member: int, passage: Passage, *, throw: bool) -> Run:
    """Return the run of a member, which goes on by itself where the passage does not come to the end."""
    state, ledger = posed.begin(member)
    masses, landscape = posed.masses[member], posed.landscapes[member]
    return run_from(
        posed.dynamics,
        landscape,
        state,
        masses,
        posed.times,
        posed.span[1],
        ledger,
        posed.solver,
        form=kernel(landscape, posed.span[0], len(masses)),
        throw=throw,
        known=passage,
    )


@np.errstate(all="ignore")
def cohorts_of(posed: Posed) -> list[Cohort]:
    """Return those members that compiled methods know in one phase, in cohorts; the others are in none.

    They clip nothing, know of no breakpoints, and have nobody who is to revive by what flows in.
    """
    dynamics, solver, extinction = posed.dynamics, posed.solver, posed.extinction
    check_kinds(dynamics, posed.landscapes[0], extinction)
    validated_masses(posed.masses[0], dynamics)
    n = posed.masses.shape[1]
    blocks, inflow = dynamics.blocks(n), dynamics.steady_inflow(n)
    clipped = any(clip_acts(member) for _, member in blocks)
    if not solver.compiles or clipped or inflow is None or len(breakpoints(dynamics, posed.span)):
        return []
    state, ledger = posed.begin(0)
    if ledger.one_level is None or posed.span[1] - posed.span[0] < 100 * np.spacing(posed.span[1]):
        return []
    check_start(dynamics, posed.landscapes[0], state)
    logs = np.log(posed.masses)
    below = logs < ledger.one_level if extinction else np.isneginf(logs)
    after = np.where(below, -np.inf, logs) if posed.absorbs else logs
    able = may_begin(inflow, after)
    kinds: dict[Any, list[tuple[int, NormalForm]]] = {}
    for member in np.flatnonzero(able).tolist():
        landscape = posed.landscapes[member]
        form = kernel(landscape, posed.span[0], n)
        if form is None or closed_form.applies(dynamics, landscape, n):
            continue
        if len(breakpoints(landscape, posed.span)) or (posed.absorbs and not may_absorb(form, inflow)):
            continue
        living = after[member] > -np.inf
        matrices = tuple(matrix is not None for matrix in (form.payoff, form.competition))
        kinds.setdefault((living.tobytes(), len(form.swings), matrices), []).append((member, form))
    cohorts = (_cohort(posed, kind, logs, after, below, inflow) for kind in kinds.values())
    return [cohort for cohort in cohorts if cohort is not None]


def _cohort(
    posed: Posed,
    kind: list[tuple[int, NormalForm]],
    logs: FloatArray,
    after: FloatArray,
    below: Bools,
    inflow: FloatArray,
) -> Cohort | None:
    """Return the cohort of members of one kind, None if compiled methods do not know them."""
    flow: Flow | None = None
    chosen: list[tuple[int, NormalForm]] = []
    for member, form in kind:
        if flow is not None and not inflow.any():
            chosen.append((member, form))
            continue
        state = State(posed.span[0], logs[member], np.zeros(len(inflow), dtype=bool))
        state = left(state, below[member]) if posed.absorbs else state
        own = begun(posed.dynamics, posed.landscapes[member], state, posed.span[1], inflow > 0)
        if not len(own.reviving):
            flow = flow or own
            chosen.append((member, form))
    if flow is None:
        return None
    members = np.array([member for member, _ in chosen])
    blocks = [block for block, _ in posed.dynamics.blocks(len(inflow))]
    log_totals = np.concatenate([log_sum_exp(after[members][:, block]) for block in blocks], axis=1)
    forms = compiled_forms(flow, [form for _, form in chosen], log_totals)
    if forms is None or not all(np.isfinite(part).all() for part in forms):
        return None
    return Cohort(members, flow, forms, after[members], log_totals, below[members], [])


def integrated(posed: Posed, cohorts: Sequence[Cohort], tell: Callable[[int], object]) -> None:
    """Integrate cohorts in threads, and say after each part of one how many members it had."""
    threads = os.cpu_count() or 1
    number = sum(len(cohort.members) for cohort in cohorts)
    jobs: list[tuple[Cohort, slice]] = []
    for cohort in cohorts:
        size = max(1, min(most_members(cohort.forms), number // (_PARTS * threads)))
        jobs += [(cohort, slice(k, k + size)) for k in range(0, len(cohort.members), size)]
    pool = ThreadPoolExecutor(threads)
    try:
        passages = pool.map(lambda job: job[0].journey(posed, job[1]), jobs)
        for (cohort, _), found in zip(jobs, passages, strict=True):
            cohort.parts.append(found)
            tell(len(found))
    finally:
        pool.shutdown(cancel_futures=True)


def arrived(cohorts: Sequence[Cohort]) -> dict[int, tuple[Cohort, int, bool]]:
    """Return the places of members that were integrated, and whether they came to the end."""
    return {
        int(member): (cohort, row, ending in _ARRIVED)
        for cohort in cohorts
        for row, (member, ending) in enumerate(zip(cohort.reached, cohort.endings.tolist(), strict=True))
    }
