"""Constant fitness, exactly: p_i(t) = P·softmax(ln p_i0 + c_i t), one piece after another."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import real
from evodyn.core.progress import Report
from evodyn.model.dynamics import Dynamics, clip_acts
from evodyn.model.fitness import LandscapeFunction, breakpoints
from evodyn.simulate.constant_fitness import Piece, peaks, roots, time_of_rest
from evodyn.simulate.dense import DenseOutput
from evodyn.simulate.extinction import Ledger
from evodyn.simulate.flow import State
from evodyn.simulate.occasions import Occasions
from evodyn.simulate.status import Termination
from evodyn.simulate.trajectory import Outcome, Trajectory, absorbed

__all__ = ["Wanted", "applies", "run"]


def applies(dynamics: Dynamics, landscape: LandscapeFunction, n: int) -> bool:
    """Tell whether fitness is constant between breakpoints and selection pure and unclipped."""
    piecewise_constant = getattr(landscape, "piecewise_constant", False)
    return piecewise_constant and all(_pure(*block) for block in dynamics.blocks(n))


def _pure(groups: slice, member: Dynamics) -> bool:
    """Tell whether the growth rates of a block are φ - φ̄ and nothing flows in."""
    inflow = member.steady_inflow(groups.stop - groups.start)
    return member.compares_with_mean and not clip_acts(member) and inflow is not None and not inflow.any()


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is asked for beside the trajectory; see `solve`."""

    occasions: Occasions
    settle: float | None
    report: Report | None
    dense: DenseOutput | None


def run(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    state: State,
    end: float,
    saved: Trajectory,
    ledger: Ledger,
    wanted: Wanted,
) -> Outcome:
    """Evaluate the closed form from `state` to `end`, keeping `saved` and `ledger`."""
    progress = _Progress(state)
    try:
        termination = _run(dynamics, landscape, end, saved, ledger, wanted, progress)
    except KeyboardInterrupt as interruption:
        state = progress.state
        ledger.rewind(state.t, state.log_masses, state.removed)
        saved.rewind(state.t)
        wanted.occasions.rewind(state.t)
        return progress.outcome(Termination.INTERRUPTED, interruption)
    except Exception as failure:
        if not wanted.occasions.acting:
            raise
        return progress.outcome(Termination.SOLVER_FAILED, failure)
    return progress.outcome(termination)


class _Progress:
    """How far a run has got."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.pieces = self.restarts = 0

    def outcome(self, termination: Termination, cause: BaseException | None = None) -> Outcome:
        reason = "fitness is constant between breakpoints: ln p is known at every time"
        return Outcome(
            self.state,
            termination,
            "closed_form",
            reason,
            steps=self.pieces,
            restarts=self.restarts,
            message="" if cause is None else f"{type(cause).__name__}: {cause}",
            cause=cause,
        )


def _run(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    end: float,
    saved: Trajectory,
    ledger: Ledger,
    wanted: Wanted,
    progress: _Progress,
) -> Termination:
    state, start, occasions = progress.state, progress.state.t, wanted.occasions
    blocks = tuple(groups for groups, _ in dynamics.blocks(len(state.log_masses)))
    due = [t for t, _ in occasions.times if start < t < end]
    starts = [start, *np.union1d(breakpoints(landscape, (start, end)), due).tolist()]
    if ledger.policy_is("absorb"):
        state = absorbed(state, np.flatnonzero(ledger.below & ~state.removed), ledger)
    saved.record(state)
    for begin, stop in zip(starts, [*starts[1:], end], strict=True):
        if wanted.report is not None:
            wanted.report((begin - start) / (end - start))
        state, ended = occasions.happen(occasions.due(begin), state, ledger, saved)
        progress.state = state
        if ended is not None:
            return ended
        fitness = real(landscape(begin, np.exp(state.log_masses)))
        while state.t < stop:
            if not np.isfinite(state.log_masses).any():
                return Termination.ALL_EXTINCT
            piece = Piece(state.t, stop, state.log_masses, fitness, blocks)
            rest = None
            if wanted.settle is not None and not occasions.ahead:
                rest = time_of_rest(piece, wanted.settle, ledger)
            if rest is not None:
                piece = dataclasses.replace(piece, stop=rest)
            progress.pieces += 1
            until, tied = piece.stop, np.empty(0, dtype=np.intp)
            if ledger.watching and until > state.t:
                if ledger.policy_is("absorb"):
                    until, tied = _first_fall(piece, until, ledger)
                else:
                    until, tied = _record(piece, until, ledger)
            rows = saved.due(np.nextafter(until, -np.inf))
            saved.fill(rows, functools.partial(piece.shares, saved.times[rows]))
            if wanted.dense is not None:
                wanted.dense.add(until, piece.log_masses)
            state = State(until, piece.log_masses(np.array([until]))[0], state.removed)
            if len(tied):
                ledger.cross(tied, until, -1)
                if ledger.policy_is("absorb"):
                    state = absorbed(state, tied, ledger)
                    progress.restarts += 1
            saved.record(state)
            progress.state = state
            if len(tied) and ledger.policy_is("stop"):
                return Termination.STOPPED_AT_EXTINCTION
            if until == rest and not len(tied):
                return Termination.SETTLED
    if not np.isfinite(state.log_masses).any():
        return Termination.ALL_EXTINCT
    state, ended = occasions.happen(occasions.due(end), state, ledger, saved)
    progress.state = state
    if ended is not None:
        return ended
    return Termination.COMPLETED


def _first_fall(piece: Piece, stop: float, ledger: Ledger) -> tuple[float, npt.NDArray[np.intp]]:
    """Return when the first group falls below the threshold, and all that fall together.

    Every living group starts at or above the threshold and ln p_i is concave, so their minimum is concave
    too, and Newton's method from the right descends to its one root.
    """
    living = np.isfinite(piece.base)
    heights = np.where(living, piece.log_masses(np.array([stop]))[0] - ledger.levels, np.inf)
    if heights.min() >= 0:
        return stop, np.empty(0, dtype=np.intp)
    t = stop
    for _ in range(200):
        lowest = int(np.argmin(heights))
        slope = piece.falls(t)[lowest]
        new = max(piece.start, t - heights[lowest] / slope)
        if not new < t:
            break
        step, t = t - new, new
        heights = np.where(living, piece.log_masses(np.array([t]))[0] - ledger.levels, np.inf)
        if heights.min() >= 0 or step <= np.spacing(t):
            break
    lowest = int(np.argmin(heights))
    # Groups whose heights differ by no more than rounding fall together, if they are falling.
    tied = np.flatnonzero(heights <= max(heights[lowest], 0.0) + 1e-13 * (1 + np.abs(ledger.levels)))
    falling = tied[piece.falls(t)[tied] < 0]
    return t, falling if len(falling) else np.array([lowest])


def _record(piece: Piece, stop: float, ledger: Ledger) -> tuple[float, npt.NDArray[np.intp]]:
    """Enter all crossings of the piece; under policy "stop", return the first fall and who fell."""
    level = ledger.levels
    living = np.flatnonzero(np.isfinite(piece.base))
    ends = piece.log_masses(np.array([stop]))[0] - level
    above_end = ends >= 0
    above_start = ~ledger.below
    falls = living[above_start[living] & ~above_end[living]]
    rises = living[~above_start[living] & above_end[living]]
    # ln p_i is concave: a group that is below at both ends may have been above in between.
    both = living[~above_start[living] & ~above_end[living]]
    both = both[(piece.falls(piece.start)[both] > 0) & (piece.falls(stop)[both] < 0)]
    if len(both):
        summits = peaks(piece, stop, both)
        both = both[piece.of_groups(summits, both)[0] >= level[both]]
    upwards, downwards = np.concatenate((both, rises)), np.concatenate((falls, both))
    groups = np.concatenate((upwards, downwards))
    times = np.concatenate(
        (
            roots(piece, piece.start, upwards, level[upwards]),
            roots(piece, stop, downwards, level[downwards]),
        )
    )
    times = np.clip(times, piece.start, stop)
    directions = np.repeat([1, -1], [len(upwards), len(downwards)])
    order = np.lexsort((groups, -directions, times))
    groups, times, directions = groups[order], times[order], directions[order]
    if ledger.policy_is("stop"):
        first = float(times[directions < 0].min(initial=math.inf))
        fallen = groups[(directions < 0) & (times <= first)]
        before = times < first
        ledger.cross(groups[before], times[before], directions[before])
        return min(first, stop), fallen
    ledger.cross(groups, times, directions)
    return stop, np.empty(0, dtype=np.intp)
