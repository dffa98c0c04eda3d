"""Constant fitness, exactly: p_i(t) = P·softmax(ln p_i0 + c_i t), one piece after another."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray, real
from evodyn.model.dynamics import Dynamics, clip_acts
from evodyn.model.fitness import LandscapeFunction, breakpoints
from evodyn.model.populations import Segments
from evodyn.simulate.extinction import Ledger
from evodyn.simulate.flow import Shares, State, log_sum_exp
from evodyn.simulate.status import Termination
from evodyn.simulate.trajectory import Outcome, Trajectory, absorbed
from evodyn.solvers.crossings import Interpolant, interpolants

__all__ = ["applies", "run"]

_CHUNK = 4_000_000
"""Largest intermediate array, in numbers."""
_FEW = 20_000
"""So many numbers are summed in less time than it takes to make an interpolant."""


def applies(dynamics: Dynamics, landscape: LandscapeFunction, n: int) -> bool:
    """Tell whether fitness is constant between breakpoints and selection pure and unclipped."""
    piecewise_constant = getattr(landscape, "piecewise_constant", False)
    return piecewise_constant and all(_pure(*block) for block in dynamics.blocks(n))


def _pure(groups: slice, member: Dynamics) -> bool:
    """Tell whether the growth rates of a block are φ - φ̄ and nothing flows in."""
    inflow = member.steady_inflow(groups.stop - groups.start)
    return member.compares_with_mean and not clip_acts(member) and inflow is not None and not inflow.any()


@dataclasses.dataclass(frozen=True)
class _Piece:
    """An interval of constant fitness that begins at log-masses `base`."""

    start: float
    stop: float
    base: FloatArray
    fitness: FloatArray
    blocks: tuple[slice, ...]

    def shares(self, t: FloatArray) -> Shares:
        """Return log-shares, shape (len(t), N), and ln P of every block, shape (len(t), K)."""
        log_shares: FloatArray = self.base + np.multiply.outer(np.asarray(t) - self.start, self.fitness)
        log_totals = np.empty((len(t), len(self.blocks)))
        for k, block in enumerate(self.blocks):
            part = log_shares[:, block]
            log_totals[:, k] = total = self._log_total(block)
            if self._rests(block):
                part[:] = self.base[block] - (total if np.isfinite(total) else 0.0)
            elif np.isfinite(total):
                # The largest first: the total must not be rounded at the size of c·t.
                part -= part.max(axis=-1, keepdims=True)
                part -= log_sum_exp(part)
        return log_shares, log_totals

    def log_masses(self, t: FloatArray) -> FloatArray:
        """Return ln p_i(t), shape (len(t), N)."""
        log_shares, log_totals = self.shares(t)
        logs: FloatArray = log_shares + Segments(self.blocks).spread(log_totals)
        for block in self.blocks:
            if self._rests(block):
                logs[:, block] = self.base[block]  # not even rounding takes it across a threshold
        return logs

    def _rests(self, block: slice) -> bool:
        """Tell whether the living groups of a block are all equally fit."""
        living = self.fitness[block][np.isfinite(self.base[block])]
        return not len(living) or bool((living == living[0]).all())

    @functools.cached_property
    def _totals(self) -> tuple[tuple[FloatArray, list[Interpolant]], ...]:
        """For each block the ends and interpolants of ln Σ exp(u), with u growing as c_i less the best c."""
        found = []
        for block in self.blocks:
            base, growth = self.base[block], self._relative[block]

            def total(t: FloatArray, base: FloatArray = base, growth: FloatArray = growth) -> FloatArray:
                rows = max(1, _CHUNK // len(base))
                parts = [
                    log_sum_exp(base + np.multiply.outer(t[k : k + rows] - self.start, growth))
                    for k in range(0, len(t), rows)
                ]
                return np.concatenate(parts)

            alive = np.isfinite(base).any()
            pieces = list(interpolants(total, self.start, self.stop)) if alive else []
            found.append((np.array([piece.right for piece in pieces[:-1]]), pieces))
        return tuple(found)

    @functools.cached_property
    def _relative(self) -> FloatArray:
        """Fitness less the best living one of each block: what all share would only be rounded."""
        relative = np.array(self.fitness)
        for block in self.blocks:
            living = np.isfinite(self.base[block])
            relative[block] -= self.fitness[block][living].max() if living.any() else 0.0
        return relative

    def of_groups(self, t: FloatArray, groups: npt.NDArray[np.intp]) -> tuple[FloatArray, FloatArray]:
        """Return ln p and its slope c - φ̄ of one group at one time each, shape (len(t),).

        Of many groups total growth is interpolated: to sum it anew for every group would take N² operations.
        """
        if len(t) * len(self.base) <= _FEW:
            logs = self.log_masses(t)
            values, slopes = logs[np.arange(len(groups)), groups], np.array(self.fitness[groups])
            for block in self.blocks:
                inside = (groups >= block.start) & (groups < block.stop)
                weights = np.exp(logs[inside, block] - log_sum_exp(logs[inside, block]))
                slopes[inside] -= weights @ self.fitness[block]
            return values, slopes
        values = self.base[groups] + self._relative[groups] * (t - self.start)
        slopes = np.array(self._relative[groups])
        for block, (ends, pieces) in zip(self.blocks, self._totals, strict=True):
            inside = np.flatnonzero((groups >= block.start) & (groups < block.stop))
            which = np.searchsorted(ends, t[inside])
            for k in np.unique(which):
                mine = inside[which == k]
                total, growth = pieces[k].at(t[mine], np.zeros(len(mine), dtype=np.intp))
                values[mine] += self._log_total(block) - total
                slopes[mine] -= growth
        return values, slopes

    def _log_total(self, block: slice) -> float:
        return float(log_sum_exp(self.base[block])[0])

    def falls(self, t: float) -> FloatArray:
        """Return the slopes c_i - φ̄(t) of all groups."""
        logs = self.log_masses(np.array([t]))[0]
        slopes = np.empty(len(logs))
        for block in self.blocks:
            shares = np.exp(logs[block] - log_sum_exp(logs[block]))
            slopes[block] = self.fitness[block] - shares @ self.fitness[block]
        return slopes


def run(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    state: State,
    end: float,
    saved: Trajectory,
    ledger: Ledger,
) -> Outcome:
    """Evaluate the closed form from `state` to `end`, keeping `saved` and `ledger`."""
    n = len(state.log_masses)
    blocks = tuple(groups for groups, _ in dynamics.blocks(n))
    starts = [state.t, *breakpoints(landscape, (state.t, end))]
    pieces = restarts = 0
    if ledger.policy_is("absorb"):
        state = absorbed(state, np.flatnonzero(ledger.below & ~state.removed), ledger)
    saved.record(state)
    for begin, stop in zip(starts, [*starts[1:], end], strict=True):
        fitness = real(landscape(begin, np.exp(state.log_masses)))
        while state.t < stop:
            if not np.isfinite(state.log_masses).any():
                return _outcome(state, Termination.ALL_EXTINCT, pieces, restarts)
            piece = _Piece(state.t, stop, state.log_masses, fitness, blocks)
            pieces += 1
            until, tied = stop, np.empty(0, dtype=np.intp)
            if ledger.watching:
                if ledger.policy_is("absorb"):
                    until, tied = _first_fall(piece, stop, ledger)
                else:
                    until, tied = _record(piece, stop, ledger)
            rows = saved.due(np.nextafter(until, -np.inf))
            saved.fill(rows, functools.partial(piece.shares, saved.times[rows]))
            state = State(until, piece.log_masses(np.array([until]))[0], state.removed)
            if len(tied):
                ledger.cross(tied, until, -1)
                if ledger.policy_is("absorb"):
                    state = absorbed(state, tied, ledger)
                    restarts += 1
            saved.record(state)
            if len(tied) and ledger.policy_is("stop"):
                return _outcome(state, Termination.STOPPED_AT_EXTINCTION, pieces, restarts)
    if not np.isfinite(state.log_masses).any():
        return _outcome(state, Termination.ALL_EXTINCT, pieces, restarts)
    return _outcome(state, Termination.COMPLETED, pieces, restarts)


def _outcome(state: State, termination: Termination, pieces: int, restarts: int) -> Outcome:
    reason = "fitness is constant between breakpoints: ln p is known at every time"
    return Outcome(state, termination, "closed_form", reason, steps=pieces, restarts=restarts)


def _first_fall(piece: _Piece, stop: float, ledger: Ledger) -> tuple[float, npt.NDArray[np.intp]]:
    """Return when the first group falls below the threshold, and all that fall together.

    Every living group starts at or above the threshold and ln p_i is concave, so their minimum is concave
    too, and Newton's method from the right descends to its one root.
    """
    living = np.isfinite(piece.base)
    heights = np.where(living, piece.log_masses(np.array([stop]))[0] - ledger.level, np.inf)
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
        heights = np.where(living, piece.log_masses(np.array([t]))[0] - ledger.level, np.inf)
        if heights.min() >= 0 or step <= np.spacing(t):
            break
    lowest = int(np.argmin(heights))
    # Groups whose heights differ by no more than rounding fall together, if they are falling.
    tied = np.flatnonzero(heights <= max(heights[lowest], 0.0) + 1e-13 * (1 + abs(ledger.level)))
    falling = tied[piece.falls(t)[tied] < 0]
    return t, falling if len(falling) else np.array([lowest])


def _record(piece: _Piece, stop: float, ledger: Ledger) -> tuple[float, npt.NDArray[np.intp]]:
    """Enter all crossings of the piece; under policy "stop", return the first fall and who fell."""
    level = ledger.level
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
        peaks = _peaks(piece, stop, both)
        both = both[piece.of_groups(peaks, both)[0] >= level]
    upwards, downwards = np.concatenate((both, rises)), np.concatenate((falls, both))
    groups = np.concatenate((upwards, downwards))
    times = np.concatenate(
        (_roots(piece, piece.start, upwards, level), _roots(piece, stop, downwards, level))
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


def _roots(piece: _Piece, outside: float, groups: npt.NDArray[np.intp], level: float) -> FloatArray:
    """Return where ln p of each group reaches `level`, by Newton's method from `outside`.

    The curves are concave and negative (relative to the level) at `outside`: from there the tangents
    approach the nearest root monotonically, from the left for a rise and from the right for a fall.
    """
    t = np.full(len(groups), outside)
    active = np.ones(len(groups), dtype=bool)
    for _ in range(200):
        if not active.any():
            break
        values, slopes = piece.of_groups(t[active], groups[active])
        step = (values - level) / slopes
        new = t[active] - step
        moved = np.isfinite(step) & (np.abs(step) > 2 * np.spacing(np.abs(new))) & (values < level)
        t[active] = np.where(np.isfinite(step) & (values < level), new, t[active])
        active[np.flatnonzero(active)[~moved]] = False
    return t


def _peaks(piece: _Piece, stop: float, groups: npt.NDArray[np.intp]) -> FloatArray:
    """Return where each group's ln p is largest, φ̄(t) = c_i, by bisection (φ̄ increases)."""
    low = np.full(len(groups), piece.start)
    high = np.full(len(groups), stop)
    for _ in range(60):
        middle = 0.5 * (low + high)
        rising = piece.of_groups(middle, groups)[1] > 0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    peaks: FloatArray = 0.5 * (low + high)
    return peaks
