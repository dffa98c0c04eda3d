"""The flow in the coordinates in which it is integrated: logarithms of the living groups' masses.

The masses of a block are P·softmax(u). That is a parametrisation, not a repair: positivity and shares are
exact at every stage, step and interpolated time, and where the total mass P is known in closed form so is
the total. A common drift of u is then without meaning. Where P is not known (a clip acts, the rate varies
in time, or selection is of the general kind) it is P(start)·Σ exp(u), with the error control of u.

Two kinds of groups are not in logarithms. Absent groups without inflow are held out of the state. Groups
far below their mutation floor have an (almost) infinite logarithmic slope, du/dt = g + μ m/p; they are
*reviving*: their masses themselves are integrated until they come within a hundredth of that floor.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray, real
from evodyn.model.dynamics import Dynamics, cap_of
from evodyn.model.fitness import LandscapeFunction
from evodyn.model.populations import Segments
from evodyn.simulate.revival import finite
from evodyn.simulate.shares import Shares, log_sum_exp, shares_of
from evodyn.solvers.scipy_methods import SMALLEST_RTOL

__all__ = ["Flow", "NotFiniteError", "State", "culprits", "log_sum_exp", "shares_of"]

BoolArray = npt.NDArray[np.bool_]

_TINY = float(np.finfo(np.float64).tiny)

_ROUNDING = 1e-13
"""Relative differences below this are rounding (of a total against its cap, say)."""


class NotFiniteError(Exception):
    """A landscape returned a non-finite fitness for living groups, during integration."""

    def __init__(self, time: float, groups: tuple[int, ...]) -> None:
        super().__init__(time, groups)
        self.time = time
        self.groups = groups


@dataclasses.dataclass(frozen=True)
class State:
    """A point of the flow: time, log-masses (-inf if absent), and which groups are removed for good."""

    t: float
    log_masses: FloatArray
    removed: BoolArray


def _one_per_group(fitness: Any, masses: FloatArray, time: float) -> FloatArray:
    values = real(fitness)
    if values.shape != masses.shape:
        raise ValueError(f"landscape returned shape {values.shape} at t = {time:g}; expected {masses.shape}.")
    return values


def culprits(present: BoolArray, masses: FloatArray, fitness: FloatArray, result: FloatArray) -> BoolArray:
    """Return the groups that made a result wrong: through the mean, one group's fitness spoils all."""
    wrong = present & ~np.isfinite(fitness)
    if wrong.any():
        return wrong
    wrong = present & ~np.isfinite(result)
    with np.errstate(over="ignore", invalid="ignore"):
        weight = np.where(present, np.abs(masses * fitness), 0.0)
    if (wrong == present).all() and not np.isnan(weight).any():
        wrong = weight == weight.max()
    return wrong


@dataclasses.dataclass(frozen=True)
class _Block:
    """One block's groups and how its total mass is known."""

    groups: slice
    log_start: float
    """ln P at the start of the phase; -inf if the block is dead."""
    relaxation: tuple[float, float] | None
    """Rate and target of the total mass, P = M + (P0 - M) exp(-μt), where it is known in closed form."""
    cap: float
    capped: bool


@dataclasses.dataclass(frozen=True)
class Flow:
    """The ordinary differential equation of one phase: from one restart of the integrator to the next.

    The state vector y holds u = ln(p/P(start)) for the living groups, then the reviving masses in units
    of their floor.
    """

    dynamics: Dynamics
    landscape: LandscapeFunction
    start: State
    log_living: npt.NDArray[np.intp]
    reviving: npt.NDArray[np.intp]
    unit: FloatArray
    """The unit of mass of each reviving group: its floor."""
    blocks: tuple[_Block, ...]
    flows_in: bool
    """Whether any group receives inflow."""
    last_time: float
    """Latest time at which the landscape may be asked: just before the next breakpoint."""

    @classmethod
    def begin(
        cls,
        dynamics: Dynamics,
        landscape: LandscapeFunction,
        start: State,
        *,
        floor: FloatArray,
        inflow: BoolArray,
        last_time: float,
        capped: tuple[bool, ...],
    ) -> Flow:
        """Choose coordinates for the phase that begins at `start`."""
        n = len(start.log_masses)
        living, absent = np.isfinite(start.log_masses), start.removed.any()
        if absent:
            living &= ~start.removed
        flows_in = bool(inflow.any())
        blocks = []
        unit = floor
        if flows_in:
            unit = np.where(floor > 0, floor, 1.0)
        for (groups, member), at_cap in zip(dynamics.blocks(n), capped, strict=True):
            log_start = float(log_sum_exp(start.log_masses[groups])[0])
            cap = cap_of(member)
            if at_cap:
                log_start = math.log(cap)
            known = (0.0, 0.0) if at_cap else member.mass_law(groups.stop - groups.start)
            if absent and known is not None and start.removed[groups].any():
                # What an absorbed group no longer receives is missing from the target, or lost to all.
                steady = member.steady_inflow(groups.stop - groups.start)
                if steady is None:
                    known = None
                elif known[0] > 0:
                    known = known[0], float(steady[~start.removed[groups]].sum()) / known[0]
            blocks.append(_Block(groups, log_start, known, cap, at_cap))
            if flows_in:
                # A floor of zero (no mutation yet) needs some unit all the same.
                total = math.exp(log_start) if math.isfinite(log_start) else 0.0
                unit[groups] = np.where(floor[groups] > 0, floor[groups], 1e-3 * total or 1.0)
        reviving = np.empty(0, dtype=np.intp)
        if flows_in:
            low = inflow & ((np.exp(start.log_masses) < floor) | ~living)
            living &= ~low
            reviving = low.nonzero()[0]
        return cls(
            dynamics, landscape, start, living.nonzero()[0], reviving, unit[reviving], tuple(blocks),
            flows_in, last_time,
        )  # fmt: skip

    @functools.cached_property
    def plain(self) -> bool:
        """Whether there is one block, its total known, and every group that lives is in logarithms."""
        return (
            self.dynamics.compares_with_mean
            and len(self.blocks) == 1
            and self.blocks[0].relaxation is not None
            and not self.blocks[0].capped
            and not len(self.reviving)
        )

    @functools.cached_property
    def from_logs(self) -> Any:
        """The landscape's own formula in log-masses, or None."""
        return getattr(self.landscape, "at_log_masses", None)

    @functools.cached_property
    def full(self) -> bool:
        """Whether all groups are in logarithms."""
        return len(self.log_living) == len(self.start.log_masses)

    def _all(self, of_living: FloatArray) -> FloatArray:
        """Return values of all groups, 0 where none is in logarithms."""
        values = np.zeros(len(self.start.log_masses))
        values[self.log_living] = of_living
        return values

    @functools.cached_property
    def initial(self) -> FloatArray:
        """The state vector at the start of the phase."""
        logs = self.start.log_masses
        if self.plain and self.full:
            return logs - self.blocks[0].log_start
        u = logs - self._log_starts()
        return np.concatenate((u[self.log_living], np.exp(logs[self.reviving]) / self.unit))

    def tolerances(self, tolerance: float) -> tuple[FloatArray, FloatArray]:
        """Return every component's absolute and relative tolerance.

        They are `tolerance` and next to nothing for logarithms; for reviving masses a thousandth of it, in
        units of their floor, and itself.
        """
        logs, n = len(self.log_living), len(self.log_living) + len(self.reviving)
        atol, rtol = np.full(n, tolerance), np.full(n, SMALLEST_RTOL)
        atol[logs:] *= 1e-3
        rtol[logs:] = max(tolerance, SMALLEST_RTOL)
        return atol, rtol

    @functools.cached_property
    def segments(self) -> Segments:
        """The blocks, as parts of the last axis."""
        return Segments([block.groups for block in self.blocks])

    @functools.cached_property
    def _totals(self) -> tuple[FloatArray, FloatArray, FloatArray, BoolArray]:
        """Each block's ln P at the start, 0 if it is dead, rate and target; whether its total is known."""
        if self.plain and self.full:
            only = self.blocks[0]
            rate, target = only.relaxation or (0.0, 0.0)
            return (*np.array([[only.log_start], [rate], [target]]), np.ones(1, dtype=bool))
        starts = np.array([block.log_start for block in self.blocks])
        alive = np.isfinite(starts)
        relaxations = np.array([block.relaxation or (0.0, 0.0) for block in self.blocks])
        known = alive & [block.relaxation is not None for block in self.blocks]
        return np.where(alive, starts, 0.0), relaxations[:, 0], relaxations[:, 1], known

    @functools.cached_property
    def steady(self) -> bool:
        """Whether no known total changes."""
        return not self._totals[1].any()

    def _log_starts(self) -> FloatArray:
        return self.segments.spread(self._totals[0])

    def log_totals(self, t: Any) -> FloatArray:
        """Return ln P of every block at times `t`, shape (..., K), where it is known."""
        return self.relaxed(self._totals[0], t)

    def relaxed(self, log_starts: FloatArray, t: Any) -> FloatArray:
        """Return what ln P becomes of `log_starts` at times `t`, shape (..., K), where its law is known."""
        _, rates, targets, _ = self._totals
        if self.steady:
            return log_starts
        elapsed = np.asarray(t)[..., None] - self.start.t
        with np.errstate(divide="ignore"):
            # A sum of non-negative terms. Without inflow it underflows where its logarithm need not.
            relaxing = np.log(
                np.exp(log_starts) * np.exp(-rates * elapsed) - targets * np.expm1(-rates * elapsed)
            )
        return np.where(targets > 0, relaxing, log_starts - rates * elapsed)

    def _relative(self, y: FloatArray) -> FloatArray:
        """Return ln p_i less ln P of its block at the start, shape (..., N)."""
        n = len(self.start.log_masses)
        if len(self.log_living) == n:
            return np.array(y)
        logs = np.full((*y.shape[:-1], n), -np.inf)
        split = len(self.log_living)
        logs[..., self.log_living] = y[..., :split]
        if len(self.reviving):
            with np.errstate(divide="ignore"):
                masses = np.maximum(y[..., split:], 0.0) * self.unit
                starts = np.broadcast_to(self._log_starts(), n)[self.reviving]
                logs[..., self.reviving] = np.log(masses) - starts
        return logs

    def log_masses(self, t: Any, y: FloatArray) -> FloatArray:
        """Return ln p_i, shape (..., N), for states `y` of shape (..., n) at times `t` of shape (...)."""
        if y.ndim == 1 and self.plain and self.full:
            # The same as below without masks.
            alone: FloatArray = y - np.maximum.reduce(y)
            total = self._total_at(t)
            log_total = math.log(total) if total > 1e-290 else float(self.log_totals(t)[0])
            alone += log_total - math.log(np.add.reduce(np.exp(alone)))
            return alone
        logs = self._relative(y)
        segments, (log_starts, _, _, known) = self.segments, self._totals
        if known.any():
            # The largest first: the total must not be rounded at the size of a drift.
            logs -= segments.spread(np.where(known, segments.reduced(np.maximum, logs), 0.0))
            own = np.log(segments.reduced(np.add, np.exp(logs)))
            logs += segments.spread(np.where(known, self.log_totals(t) - own, log_starts))
        else:
            logs += segments.spread(log_starts)
        return logs

    def shares(self, t: FloatArray, y: FloatArray) -> Shares:
        """Return states, shape (T, n), at times, shape (T,), as log-shares and ln P of every block."""
        log_starts, _, _, known = self._totals
        log_shares, own = shares_of(y if self.full else self._relative(y), self.segments)
        return log_shares, np.where(known, self.log_totals(t), log_starts + own)

    def normal(self, t: FloatArray, log_shares: FloatArray) -> Shares:
        """Return log-shares of the living, shape (T, n), at times as those of all, and ln P of blocks."""
        _, _, _, known = self._totals
        if not self.full:
            living, log_shares = log_shares, np.full((len(t), len(self.start.log_masses)), -np.inf)
            log_shares[:, self.log_living] = living
        return log_shares, np.where(known, self.log_totals(t), -np.inf)

    def velocity(self, t: float, y: FloatArray) -> FloatArray:
        """Return dy/dt.

        Raises
        ------
        NotFiniteError
            If the fitness of a living group is not finite.
        """
        if not math.isfinite(y @ y):
            # A trial step went astray (a rate that jumps meets a tiny mass): the integrator rejects NaN.
            return np.full_like(y, np.nan)
        masses, fitness, growth = self.growth(t, y)
        if not self.flows_in:
            return growth if len(y) == len(growth) else growth[self.log_living]
        inflow = self.inflow(t, masses, fitness)
        living, reviving = self.log_living, self.reviving
        slope = growth[living] + inflow[living] / masses[living]
        if not len(reviving):
            return slope
        return np.concatenate((slope, (masses[reviving] * growth[reviving] + inflow[reviving]) / self.unit))

    @functools.cached_property
    def fastest_velocity(self) -> Callable[[float, FloatArray], FloatArray]:
        """`velocity`, or what returns the same sooner.

        That is where all groups are in one block, in logarithms, and what flows in, if anything, is steady.
        """
        known = not self.flows_in or self._steady_inflow is not None
        simple = self.plain and self.full and self.from_logs is None and known
        return self._simple_velocity if simple else self.velocity

    def _simple_velocity(self, t: float, y: FloatArray) -> FloatArray:
        """Return dy/dt where most evaluations are made: as elsewhere, in fewer operations."""
        sizes = np.exp(y)
        total = float(np.add.reduce(sizes))
        if not 1e-100 < total < 1e100:
            top = float(np.maximum.reduce(y))
            if not math.isfinite(top):
                return np.full_like(y, np.nan)
            sizes = np.exp(y - top)
            total = float(np.add.reduce(sizes))
        time = min(t, self.last_time)
        masses = sizes * (self._total_at(t) / total)
        fitness = self.landscape(time, masses)
        if type(fitness) is not np.ndarray or fitness.dtype != np.float64 or fitness.shape != masses.shape:
            fitness = _one_per_group(fitness, masses, time)
        mean = float(fitness.dot(sizes)) / total
        if not math.isfinite(mean):
            return self.growth(t, y)[2]  # which says whose it is
        loss = self._loss
        if loss is None:
            growth: FloatArray = self.dynamics.rates_against(fitness, mean, time=time)  # type: ignore[attr-defined]
        else:
            growth = fitness - (mean + loss)
        if self.flows_in:
            inflow: Any = self._steady_inflow
            growth += inflow / (np.maximum(masses, _TINY) if self._feeds_some else masses)
        return growth

    @functools.cached_property
    def _loss(self) -> float | None:
        """The mutation rate of unclipped growth, where it is always the same."""
        dynamics, n = self.dynamics, len(self.start.log_masses)
        form = dynamics.comparison(n, self.start.t) if dynamics.autonomous else None
        return None if form is None or form.clip < math.inf else float(form.rate)

    @functools.cached_property
    def _feeds_some(self) -> bool:
        """Whether nothing flows into some groups: their masses may be too small to divide by."""
        return self._steady_inflow is not None and not self._steady_inflow.all()

    def _total_at(self, t: float) -> float:
        """Return the total of the only block; see `relaxed`."""
        start, rate, target = self._law
        if not rate:
            return start
        elapsed = rate * (t - self.start.t)
        return start * math.exp(-elapsed) - target * math.expm1(-elapsed)

    @functools.cached_property
    def _law(self) -> tuple[float, float, float]:
        """The total of the only block at the start, the rate at which it relaxes, and its target."""
        log_start, rate, target, _ = (float(part[0]) for part in self._totals)
        start = math.exp(log_start)
        return start, 0.0 if abs(start - target) <= 1e-15 * start else rate, target

    @functools.cached_property
    def _steady_inflow(self) -> FloatArray | None:
        """The inflow of every group, shape (N,), where it is always the same."""
        inflow = self.dynamics.steady_inflow(len(self.start.log_masses))
        return None if inflow is None else np.where(self.start.removed, 0.0, inflow)

    def inflow(self, t: float, masses: FloatArray, fitness: FloatArray) -> FloatArray:
        """Return the inflow of every group, shape (N,)."""
        if self._steady_inflow is not None:
            return self._steady_inflow
        inflow = self.dynamics.inflow(masses, finite(fitness), time=min(t, self.last_time))
        return np.where(self.start.removed, 0.0, inflow)

    def fitness_at(self, t: float, y: FloatArray) -> Callable[[float], FloatArray]:
        """Return the fitness of the groups in `y` at its masses as a function of time."""
        logs = self.log_masses(t, y)
        groups = np.concatenate((self.log_living, self.reviving))
        function, point = (self.landscape, np.exp(logs)) if self.from_logs is None else (self.from_logs, logs)
        # Each call has an array of its own: what a function does to it stays there.
        if self.full:
            return lambda time: real(function(min(time, self.last_time), point.copy()))
        return lambda time: real(function(min(time, self.last_time), point.copy()))[groups]

    def growth(self, t: float, y: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Return masses, fitness and per-capita growth rates, shape (N,) each.

        Living groups whose masses underflow count with the smallest float, not as absent.
        """
        time = min(t, self.last_time)
        dynamics, living = self.dynamics, self.log_living
        method = self.from_logs
        if self.plain:
            # The same as below without masks, where most evaluations are made.
            shares = np.exp(y - np.maximum.reduce(y))
            shares /= np.add.reduce(shares)
            masses = math.exp(self.log_totals(t)[0]) * (shares if self.full else self._all(shares))
            fitness = self.landscape(time, masses) if method is None else method(time, self.log_masses(t, y))
            fitness = _one_per_group(fitness, masses, time)
            own = fitness if self.full else fitness[living]
            # The weighted mean: against any other, u would drift, and rounding at its size end the run.
            mean = own @ shares
            finite = math.isfinite(mean)  # one value that is not spoils the mean
            growth: FloatArray = dynamics.rates_against(own, mean, time=time)  # type: ignore[attr-defined]
            if not self.full:
                growth = self._all(growth)
            if self.flows_in:
                masses[living] = np.maximum(masses[living], _TINY)
        else:
            logs = self.log_masses(t, y)
            masses = np.exp(logs)
            masses[living] = np.maximum(masses[living], _TINY)
            fitness = self.landscape(time, masses) if method is None else method(time, logs)
            fitness = _one_per_group(fitness, masses, time)
            growth = dynamics.growth_rates(masses, fitness, time=time)
            finite = math.isfinite(growth @ growth)
        if not finite:
            present = masses > 0
            present[living] = True
            bad = culprits(present, masses, fitness, growth)
            if bad.any():
                raise NotFiniteError(t, tuple(int(i) for i in np.flatnonzero(bad)))
            growth = np.where(np.isfinite(growth), growth, 0.0)
        return masses, fitness, growth

    def mass_drift(self, t: float, y: FloatArray) -> FloatArray:
        """Return Σ x_i g_i of each block, shape (K,): the rate at which a capped block presses on its cap."""
        masses, _, growth = self.growth(t, y)
        drift = np.zeros(len(self.blocks))
        for k, block in enumerate(self.blocks):
            part = masses[block.groups]
            total = part.sum()
            if total > 0:
                w = float(part @ growth[block.groups]) / total
                # Drift of the size of rounding counts as none: conserved mass does not leave its cap.
                drift[k] = w if abs(w) > _ROUNDING * float(np.abs(growth[block.groups]).max()) else 0.0
        return drift

    def outgrown(self, y: FloatArray, masses: FloatArray, floor: FloatArray, inflow: BoolArray) -> bool:
        """Tell whether a group has revived enough for its logarithm, or fallen too low for it.

        Parameters
        ----------
        y : array
            The state.
        masses, floor : array, shape (N,)
            Masses, and those below which logarithms are of no use (`revival_floor`).
        inflow : bool array, shape (N,)
            Who may receive something.
        """
        reviving = y[len(self.log_living) :]
        lowest = floor[self.reviving]
        waiting = (reviving <= 0) & (lowest == 0)
        revived = (reviving > 0) & (masses[self.reviving] >= lowest)
        if revived.any() and ((revived | waiting).all() or (revived & (reviving > 100)).any()):
            return True
        # The unit is the floor of a while ago, by now too coarse for what flows in.
        stale = ~revived & (lowest > 0) & (self.unit > 10 * lowest)
        # A group that has just revived does not sink at once: what it sinks below is ten times lower.
        sunk = inflow[self.log_living] & (masses[self.log_living] < 0.1 * floor[self.log_living])
        return bool(stale.any() or sunk.any())
