"""Members of an ensemble that compiled methods integrate together, each as if it were alone."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray
from evodyn.core.progress import Report
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
from evodyn.simulate.solve import run_from
from evodyn.simulate.status import Termination
from evodyn.simulate.straight import may_absorb

__all__ = ["ALONG", "Members", "integrated_together"]

ALONG = ("masses", "log_masses", "total_mass")
"""What an ensemble computes of all members at once."""

_ARRIVED = {Ending.ARRIVED.value, Ending.EMPTIED.value}

_PARTS = 4
"""Parts of the members for each thread, so that none waits long for the slowest."""


@dataclasses.dataclass(frozen=True)
class Members:
    """Members that were integrated; their runs are assembled when somebody looks at them.

    Attributes
    ----------
    dynamics, landscapes, extinction, solver
        What was integrated.
    masses : numpy.ndarray, shape (M, N)
        At the start.
    times : numpy.ndarray, shape (T,)
        The saved times.
    span : (float, float)
    flow : Flow
        The first member's.
    log_totals : numpy.ndarray, shape (M, K)
        ln P at the start.
    parts : list of Passages
        What came of it, members in order.
    interruption : KeyboardInterrupt or None
        What came in between, before the last part.
    """

    dynamics: Dynamics
    landscapes: Sequence[LandscapeFunction]
    extinction: Extinction | None
    solver: Solver
    masses: FloatArray
    times: FloatArray
    span: tuple[float, float]
    flow: Flow
    log_totals: FloatArray
    parts: list[Passages]
    interruption: KeyboardInterrupt | None

    @property
    def due(self) -> npt.NDArray[np.bool_]:
        """Which saved times come after the start, shape (T,)."""
        return self.times > self.span[0]

    @property
    def arrived(self) -> bool:
        """Whether all of them came to the end."""
        return all(set(part.found.endings.tolist()) <= _ARRIVED for part in self.parts)

    def runs(self, *, throw: bool) -> tuple[Run, ...]:
        """Return every member's run, which goes on by itself where the member did not come to the end."""
        passages = (part[m] for part in self.parts for m in range(len(part)))
        return tuple(self._run(member, passage, throw=throw) for member, passage in enumerate(passages))

    def until_interrupted(self) -> Generator[Run, None, None]:
        """Yield the runs of those that were finished, then raise what came in between."""
        yield from self.runs(throw=False)
        if self.interruption is not None:
            raise self.interruption

    def _run(self, member: int, passage: Passage, *, throw: bool) -> Run:
        masses = self.masses[member]
        state = State(self.span[0], np.log(masses), np.zeros(len(masses), dtype=bool))
        ledger = Ledger(self.extinction, self.span[0], state.log_masses)
        return run_from(
            self.dynamics,
            self.landscapes[member],
            state,
            masses,
            self.times,
            self.span[1],
            ledger,
            self.solver,
            form=kernel(self.landscapes[member], self.span[0], len(masses)),
            throw=throw,
            known=passage,
        )

    def at_end(self) -> dict[str, Any]:
        """Return what an ensemble holds of members that came to the end."""
        first, below = self._record()
        absorbed = np.zeros_like(self.masses)
        endings = [ending for part in self.parts for ending in part.found.endings]
        if self._absorbs:
            absorbed = np.concatenate([part.absorbed for part in self.parts])
        return {
            "extinction_time": first,
            "extinct_at_end": below,
            "absorbed_mass": absorbed,
            "termination": tuple(
                Termination.ALL_EXTINCT if ending == Ending.EMPTIED.value else Termination.COMPLETED
                for ending in endings
            ),
        }

    @property
    def _absorbs(self) -> bool:
        return self.extinction is not None and self.extinction.policy == "absorb"

    def _record(self) -> tuple[FloatArray, npt.NDArray[np.bool_]]:
        """Return first times below the threshold and who is below it at the end; see `Ledger`."""
        below = _below(self.extinction, np.log(self.masses))
        first = np.where(below, self.span[0], np.inf)
        begun = 0
        for part in self.parts:
            found, members = part.found, part.found.members + begun
            falls = found.directions < 0
            np.minimum.at(first, (members[falls], found.groups[falls]), found.times[falls])
            below[members, found.groups] = falls  # of several, the last remains
            begun += len(part)
        return first, below

    def along(self, name: str) -> FloatArray:
        """Return one of `ALONG` of all members, as `Run` has it, shape (M, T, ...)."""
        values = self._along[name]
        values.flags.writeable = False
        return values

    @functools.cached_property
    def _along(self) -> dict[str, FloatArray]:
        segments = Segments([block.groups for block in self.flow.blocks])
        log_shares = np.empty((len(self.masses), len(self.times), self.masses.shape[1]))
        log_totals = np.empty((*log_shares.shape[:2], self.log_totals.shape[1]))
        due = self.due
        log_shares[:, ~due], log_totals[:, ~due] = shares_of(np.log(self.masses)[:, None], segments)
        log_shares[:, due] = np.concatenate([part.states for part in self.parts])
        if self._absorbs:
            log_totals[:, due] = np.concatenate([part.log_totals[:, :-1] for part in self.parts])
        else:
            log_totals[:, due] = self.flow.relaxed(self.log_totals[:, None, :], self.times[due])
        totals = np.exp(log_totals)
        logs = log_shares + segments.spread(log_totals)
        masses = np.exp(log_shares) * segments.spread(totals)
        return {"masses": masses, "log_masses": logs, "total_mass": self.dynamics.shaped(totals)}


def integrated_together(
    dynamics: Dynamics,
    landscapes: Sequence[LandscapeFunction],
    masses: FloatArray,
    times: FloatArray,
    span: tuple[float, float],
    extinction: Extinction | None,
    solver: Solver,
    report: Report | None,
) -> Members | None:
    """Return members after their integration in threads, or None where each has to be solved by itself.

    They are integrated together where compiled methods know them all in one phase: nobody is absent, nothing
    flows in, or changes at breakpoints.
    """
    check_kinds(dynamics, landscapes[0], extinction)
    validated_masses(masses[0], dynamics)
    n = masses.shape[1]
    blocks, inflow = dynamics.blocks(n), dynamics.steady_inflow(n)
    clipped = any(clip_acts(member) for _, member in blocks)
    if not solver.compiles or clipped or inflow is None or inflow.any() or not (masses > 0).all():
        return None
    if len(breakpoints(dynamics, span)):
        return None
    forms: list[NormalForm] = []
    for landscape in landscapes:
        form = kernel(landscape, span[0], n)
        exact = closed_form.applies(dynamics, landscape, n)
        if form is None or exact or len(breakpoints(landscape, span)):
            return None
        forms.append(form)
    logs = np.log(masses)
    log_totals = np.concatenate([log_sum_exp(logs[:, block]) for block, _ in blocks], axis=1)
    if not np.isfinite(log_totals).all():
        return None
    state = State(span[0], logs[0], np.zeros(n, dtype=bool))
    check_start(dynamics, landscapes[0], state)
    nobody = np.zeros(n, dtype=bool)
    flow = Flow.begin(
        dynamics,
        landscapes[0],
        state,
        floor=np.zeros(n),
        inflow=nobody,
        last_time=span[1],
        capped=(False,) * len(blocks),
    )
    known = compiled_forms(flow, forms, log_totals)
    if known is None or not all(np.isfinite(part).all() for part in known):
        return None
    ledger = Ledger(extinction, span[0], logs[0])
    level, below = ledger.one_level, _below(extinction, logs)
    absorbs = ledger.policy_is("absorb")
    if level is None or (absorbs and not all(may_absorb(form, inflow, below) for form in forms)):
        return None
    u = logs - Segments([block for block, _ in blocks]).spread(log_totals)

    def part(members: slice) -> Passages:
        return travel(
            part_of(known, members),
            u[members],
            span[0],
            span[1],
            times[times > span[0]],
            first=0.0,
            most=min(solver.max_steps, most_steps(known)),
            solver=solver,
            level=level,
            below=below[members],
            halts=ledger.halts,
            absorbs=absorbs,
        )

    threads, number = os.cpu_count() or 1, len(masses)
    size = max(1, min(most_members(known), number // (_PARTS * threads)))
    parts: list[Passages] = []
    interruption: KeyboardInterrupt | None = None
    pool = ThreadPoolExecutor(threads)
    try:
        for found in pool.map(part, (slice(k, k + size) for k in range(0, number, size))):
            parts.append(found)
            if report is not None:
                report(min(1.0, len(parts) * size / number))
    except KeyboardInterrupt as caught:
        interruption = caught
    finally:
        pool.shutdown(cancel_futures=True)
    return Members(
        dynamics,
        landscapes,
        extinction,
        solver,
        masses,
        times,
        span,
        flow,
        log_totals,
        parts,
        interruption,
    )


def _below(extinction: Extinction | None, log_masses: FloatArray) -> npt.NDArray[np.bool_]:
    """Return which groups start extinct; see `Ledger`."""
    level = -np.inf if extinction is None else extinction.log_threshold
    below: npt.NDArray[np.bool_] = log_masses < level
    return below
