"""An interval of constant fitness: masses, the times of crossings and of rest, all exactly."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray
from evodyn.model.populations import Segments
from evodyn.simulate.extinction import Ledger
from evodyn.simulate.shares import Shares, few_rows, log_sum_exp
from evodyn.solvers.crossings import Interpolant, interpolants

__all__ = ["Piece", "peaks", "roots", "time_of_rest"]

_CHUNK = 4_000_000
"""Largest intermediate array, in numbers."""
_FEW = 20_000
"""So many numbers are summed in less time than it takes to make an interpolant."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """An interval of constant fitness that begins at log-masses `base`."""

    start: float
    stop: float
    base: FloatArray
    fitness: FloatArray
    blocks: tuple[slice, ...]

    def shares(self, t: FloatArray) -> Shares:
        """Return log-shares, shape (len(t), N), and ln P of every block, shape (len(t), K)."""
        elapsed = np.asarray(t) - self.start
        log_shares, log_totals = np.empty((len(t), len(self.base))), np.empty((len(t), len(self.blocks)))
        for k, block in enumerate(self.blocks):
            base, fitness = self.base[block], self.fitness[block]
            log_totals[:, k] = total = self._log_total(block)
            if self._rests(block):
                log_shares[:, block] = base - (total if np.isfinite(total) else 0.0)
                continue
            for rows in few_rows(log_shares):
                part = log_shares[rows, block]
                np.multiply.outer(elapsed[rows], fitness, out=part)
                part += base
                if np.isfinite(total):
                    # The largest first: the total must not be rounded at the size of c·t.
                    part -= part.max(axis=-1, keepdims=True)
                    part -= np.log(np.exp(part).sum(axis=-1, keepdims=True))
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


def roots(piece: Piece, outside: float, groups: npt.NDArray[np.intp], level: FloatArray) -> FloatArray:
    """Return where ln p of each group reaches its `level`, by Newton's method from `outside`.

    The curves are concave and negative (relative to the level) at `outside`: from there the tangents
    approach the nearest root monotonically, from the left for a rise and from the right for a fall.
    """
    t = np.full(len(groups), outside)
    active = np.ones(len(groups), dtype=bool)
    for _ in range(200):
        if not active.any():
            break
        values, slopes = piece.of_groups(t[active], groups[active])
        step = (values - level[active]) / slopes
        new = t[active] - step
        moved = np.isfinite(step) & (np.abs(step) > 2 * np.spacing(np.abs(new))) & (values < level[active])
        t[active] = np.where(np.isfinite(step) & (values < level[active]), new, t[active])
        active[np.flatnonzero(active)[~moved]] = False
    return t


def peaks(piece: Piece, stop: float, groups: npt.NDArray[np.intp]) -> FloatArray:
    """Return where each group's ln p is largest, φ̄(t) = c_i, by bisection (φ̄ increases)."""
    low = np.full(len(groups), piece.start)
    high = np.full(len(groups), stop)
    for _ in range(60):
        middle = 0.5 * (low + high)
        rising = piece.of_groups(middle, groups)[1] > 0
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    found: FloatArray = 0.5 * (low + high)
    return found


def time_of_rest(piece: Piece, rate: float, ledger: Ledger) -> float | None:
    """Return the first time within a piece at which `settling.at_rest` holds, None if there is none."""
    return _fallen_to_rest(piece, rate, ledger) if ledger.watching else _mixed_to_rest(piece, rate)


def _fallen_to_rest(piece: Piece, rate: float, ledger: Ledger) -> float | None:
    """Do so for runs with a threshold.

    All growth rates c_i - φ̄ decrease. Once none is above `rate`, a group that falls faster does so until it
    is below its threshold.
    """
    living = np.isfinite(piece.base)

    def grows(t: float) -> bool:
        return bool((piece.falls(t)[living] > rate).any())

    t = piece.start
    if grows(piece.stop):
        return None
    if grows(t):
        t = _first(lambda s: not grows(s), t, piece.stop)
    waiting = living.copy()
    while True:
        high = piece.log_masses(np.array([t]))[0] >= ledger.levels
        movers = np.flatnonzero(waiting & high & (piece.falls(t) < -rate))
        if not len(movers):
            return t
        levels = ledger.levels[movers]
        if (piece.log_masses(np.array([piece.stop]))[0][movers] >= levels).any():
            return None
        t = max(t, float(roots(piece, piece.stop, movers, levels).max()))
        waiting[movers] = False


def _mixed_to_rest(piece: Piece, rate: float) -> float | None:
    """Do so where changes of shares, x_i (c_i - φ̄), are what counts.

    ln|x_i (c_i - φ̄)| changes at the rate c_i - φ̄ - Var(c)/(c_i - φ̄), which says how soon the fastest change
    could have slowed down.
    """

    def fastest(t: float) -> tuple[float, float]:
        """Return the fastest change, and how fast its logarithm changes at the most."""
        log_shares, slopes = piece.shares(np.array([t]))[0][0], piece.falls(t)
        change, pace = 0.0, 0.0
        for block in piece.blocks:
            shares = np.exp(log_shares[block])
            moves = np.where(shares > 0, np.abs(shares * slopes[block]), 0.0)
            k = int(moves.argmax())
            if moves[k] > change:
                slope = abs(float(slopes[block][k]))
                change, pace = float(moves[k]), slope + float(shares @ slopes[block] ** 2) / slope
        return change, pace

    t = earlier = piece.start
    while True:
        change, pace = fastest(t)
        if change <= rate:
            return t if t == piece.start else _first(lambda s: fastest(s)[0] <= rate, earlier, t)
        if t == piece.stop:
            return None
        earlier, t = t, min(t + 0.5 * max(0.1, math.log(change / rate)) / pace, piece.stop)


def _first(holds: Callable[[float], bool], before: float, after: float) -> float:
    """Return where something begins to hold, by bisection between times when it does not and does."""
    while True:
        middle = 0.5 * (before + after)
        if not before < middle < after:
            return after
        before, after = (before, middle) if holds(middle) else (middle, after)
