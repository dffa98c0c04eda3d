"""The flow in the coordinates in which it is integrated: logarithms of the living groups' masses.

The masses of a block are P·softmax(u). That is a parametrisation, not a repair: positivity and shares are
exact at every stage, step and interpolated time, and where the total mass P is known in closed form so is
the total. A common drift of u is then without meaning. Where P is not known (a clip acts, the rate varies
in time, or selection is of the general kind) it is P(start)·Σ exp(u), with the error control of u.

Two kinds of groups are not in logarithms. Absent groups without inflow are held out of the state. Groups
far below their mutation floor have an (almost) infinite logarithmic slope, du/dt = g + μ m/p; they are
*reviving*: their masses themselves are integrated until they come within a thousandth of that floor.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.arrays import FloatArray
from evodyn.dynamics import Dynamics, NormalizedGrowth, Replicator, SelectionMutation, cap_of
from evodyn.landscapes import LandscapeFunction

__all__ = ["Flow", "NotFiniteError", "State", "revival_floor"]

BoolArray = npt.NDArray[np.bool_]

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


def clip_acts(dynamics: Dynamics) -> bool:
    """Tell whether a finite clip can break mass conservation."""
    clip = getattr(dynamics, "signal_clip", None)
    return clip is not None and math.isfinite(clip)


def log_sum_exp(values: FloatArray) -> FloatArray:
    """Return ln Σ exp over the last axis, keeping it; -inf for no mass at all."""
    top = np.max(values, axis=-1, keepdims=True)
    top = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        total: FloatArray = top + np.log(np.sum(np.exp(values - top), axis=-1, keepdims=True))
    return total


def _targets(dynamics: Dynamics, n: int) -> FloatArray:
    """Return every group's mutation target, 0 without mutation."""
    targets = np.zeros(n)
    for block, member in dynamics.blocks(n):
        if isinstance(member, SelectionMutation) and member.mutation_rate != 0:
            targets[block] = member.target_masses(targets[block])
    return targets


def revival_floor(
    dynamics: Dynamics, n: int, removed: BoolArray, fitness: FloatArray, log_masses: FloatArray, times: Any
) -> tuple[FloatArray, BoolArray]:
    """Return each group's revival floor, 1e-3·μ m_i/(range of fitness + μ), and who receives inflow at all.

    The rate is the largest among `times`, so that a rate about to rise is seen coming.
    """
    floor = np.zeros(n)
    inflow = (_targets(dynamics, n) > 0) & ~removed
    for block, member in dynamics.blocks(n):
        if not isinstance(member, SelectionMutation) or not inflow[block].any():
            continue
        rate = max(float(member.rate(t)) for t in times)
        present = fitness[block][np.isfinite(log_masses[block]) & np.isfinite(fitness[block])]
        spread = float(np.ptp(present)) if present.size else 0.0
        if rate > 0:
            floor[block] = 1e-3 * rate / (spread + rate) * np.asarray(member.target_masses(floor[block]))
    floor[~inflow] = 0.0
    return floor, inflow


@dataclasses.dataclass(frozen=True)
class _Block:
    """One block's groups and how its total mass is known."""

    groups: slice
    log_start: float
    """ln P at the start of the phase; -inf if the block is dead."""
    log_total: Callable[[FloatArray], FloatArray] | None
    """ln P at an array of times, where it is known in closed form."""
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
    scale: FloatArray
    """Floor of the reviving groups over P(start) of their block."""
    blocks: tuple[_Block, ...]
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
        masses = np.exp(start.log_masses)
        living = np.isfinite(start.log_masses) & ~start.removed
        low = inflow & ((masses < floor) | ~living)
        blocks = []
        scale = np.ones(n)
        for (groups, member), at_cap in zip(dynamics.blocks(n), capped, strict=True):
            log_start = float(log_sum_exp(start.log_masses[groups])[0])
            total = math.exp(log_start) if math.isfinite(log_start) else 0.0
            cap = cap_of(member)
            if at_cap:
                log_start = math.log(cap)
            known = (
                _known_log_total(member, start.t, log_start, inflow[groups])
                if not at_cap
                else (lambda t, value=log_start: np.full(np.shape(t), value))
            )
            blocks.append(_Block(groups, log_start, known, cap, at_cap))
            # A floor of zero (no mutation yet) needs some unit all the same.
            scale[groups] = np.where(floor[groups] > 0, floor[groups], 1e-3 * total or 1.0) / (total or 1.0)
        reviving = np.flatnonzero(low)
        return cls(
            dynamics,
            landscape,
            start,
            np.flatnonzero(living & ~low),
            reviving,
            scale[reviving],
            tuple(blocks),
            last_time,
        )

    @property
    def initial(self) -> FloatArray:
        """The state vector at the start of the phase."""
        u = self.start.log_masses - self._log_starts()
        return np.concatenate((u[self.log_living], np.exp(u[self.reviving]) / self.scale))

    def tolerances(self, tolerance: float) -> FloatArray:
        """Return SciPy's `atol` that keeps the local error of every ln p_i below `tolerance`.

        SciPy bounds the root mean square of errors over tolerances; dividing by √n bounds each of them.
        Reviving masses are held to a thousandth of that, in units of their floor.
        """
        n = len(self.log_living) + len(self.reviving)
        atol = np.full(n, tolerance / math.sqrt(max(n, 1)))
        atol[len(self.log_living) :] *= 1e-3
        return atol

    def _log_starts(self) -> FloatArray:
        if len(self.blocks) == 1:
            return np.full(1, self.blocks[0].log_start)
        starts = np.empty(len(self.start.log_masses))
        for block in self.blocks:
            starts[block.groups] = block.log_start if math.isfinite(block.log_start) else 0.0
        return starts

    def log_masses(self, t: FloatArray, y: FloatArray) -> FloatArray:
        """Return ln p_i, shape (len(t), N), for states `y` of shape (len(t), n) at times `t`."""
        n = len(self.start.log_masses)
        if len(self.log_living) == n:
            logs = np.array(y)
        else:
            logs = np.full((len(t), n), -np.inf)
            split = len(self.log_living)
            logs[:, self.log_living] = y[:, :split]
            if len(self.reviving):
                with np.errstate(divide="ignore"):
                    logs[:, self.reviving] = np.log(np.maximum(y[:, split:], 0.0) * self.scale)
        for block in self.blocks:
            part = logs[:, block.groups]
            if block.log_total is None:
                part += block.log_start
            elif math.isfinite(block.log_start):
                part += block.log_total(t)[:, None] - log_sum_exp(part)
        return logs

    def growth(self, t: float, logs: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return masses and per-capita growth rates at log-masses `logs`, shape (N,) each.

        Raises
        ------
        NotFiniteError
            If the fitness of a living group is not finite.
        """
        masses = np.exp(logs)
        time = min(t, self.last_time)
        method: Any = getattr(self.landscape, "at_log_masses", None)
        fitness = np.asarray(
            self.landscape(time, masses) if method is None else method(time, logs), dtype=np.float64
        )
        growth: FloatArray = self.dynamics.growth_rates(masses, fitness, time=time)
        if not math.isfinite(growth.sum()):
            present = np.isfinite(logs)
            bad = present & ~(np.isfinite(fitness) & np.isfinite(growth))
            if bad.any():
                raise NotFiniteError(t, tuple(int(i) for i in np.flatnonzero(bad)))
            growth = np.where(np.isfinite(growth), growth, 0.0)
        return masses, growth

    def velocity(self, t: float, y: FloatArray) -> FloatArray:
        """Return dy/dt."""
        logs = self.log_masses(np.array([t]), y[None, :])[0]
        masses, growth = self.growth(t, logs)
        inflow = self.dynamics.inflow(masses, time=min(t, self.last_time))
        if isinstance(inflow, float) and inflow == 0.0:
            return growth if len(self.log_living) == len(growth) else growth[self.log_living]
        inflow = np.where(self.start.removed, 0.0, inflow)
        living, reviving = self.log_living, self.reviving
        with np.errstate(divide="ignore", over="ignore"):
            slope = growth[living] + np.where(inflow[living] > 0, inflow[living] * np.exp(-logs[living]), 0.0)
        if not len(reviving):
            return slope
        starts = np.broadcast_to(self._log_starts(), logs.shape)[reviving]
        unit = self.scale * np.exp(starts)
        return np.concatenate((slope, (masses[reviving] * growth[reviving] + inflow[reviving]) / unit))

    def mass_drift(self, t: float, logs: FloatArray) -> FloatArray:
        """Return Σ x_i g_i of each block, shape (K,): the rate at which a capped block presses on its cap."""
        masses, growth = self.growth(t, logs)
        drift = np.zeros(len(self.blocks))
        for k, block in enumerate(self.blocks):
            part = masses[block.groups]
            total = part.sum()
            if total > 0:
                w = float(part @ growth[block.groups]) / total
                # Zero up to rounding is zero: a conserved mass neither presses on a cap nor leaves it.
                drift[k] = w if abs(w) > _ROUNDING * float(np.abs(growth[block.groups]).max()) else 0.0
        return drift


def _known_log_total(
    member: Dynamics, start: float, log_start: float, inflow: BoolArray
) -> Callable[[FloatArray], FloatArray] | None:
    """Return ln P(t) of a block where it has a closed form, else None."""
    if clip_acts(member):
        return None
    if isinstance(member, Replicator | NormalizedGrowth) or (
        isinstance(member, SelectionMutation) and member.mutation_rate == 0
    ):
        return lambda t: np.full(np.shape(t), log_start)
    if isinstance(member, SelectionMutation) and not callable(member.mutation_rate):
        rate = member.mutation_rate
        targets = np.where(inflow, member.target_masses(np.zeros(len(inflow))), 0.0)
        target, total = float(targets.sum()), math.exp(log_start)

        def relaxing(t: FloatArray) -> FloatArray:
            # P = M + (P0 - M) exp(-μt), as a sum of non-negative terms.
            elapsed = np.asarray(t) - start
            return np.log(total * np.exp(-rate * elapsed) - target * np.expm1(-rate * elapsed))

        # Without inflow the sum underflows where its logarithm need not.
        return relaxing if target > 0 else lambda t: log_start - rate * (np.asarray(t) - start)
    return None
