"""Groups that inflow brings back: who they are, and below which mass their logarithms are of no use.

Far below the mass at which inflow balances growth, a logarithm has an (almost) infinite slope, g + f/p.
Inflow is asked of the dynamics itself, so that a mutation matrix of a user's own is treated like the rest.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray, real
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction, fitness_at_log_masses

__all__ = ["ahead", "receivers", "revival_floor"]

BoolArray = npt.NDArray[np.bool_]

_TINY = float(np.finfo(np.float64).tiny)

_GENERATIONS = 20
"""How far inflow is followed from group to group, each the source of the next."""


def finite(fitness: Any) -> FloatArray:
    """Return fitness with zeros for what is not finite: of absent groups, where it has no meaning."""
    values = real(fitness)
    return values if np.isfinite(values).all() else np.where(np.isfinite(values), values, 0.0)


def receivers(
    dynamics: Dynamics, landscape: LandscapeFunction, t: float, log_masses: FloatArray, times: FloatArray
) -> BoolArray:
    """Return which groups inflow may reach at one of `times`, asked where no group is absent."""
    n = len(log_masses)
    steady = dynamics.steady_inflow(n)
    if steady is not None:
        return steady > 0
    masses = np.exp(log_masses)
    for groups, _ in dynamics.blocks(n):
        part = masses[groups]
        part[part == 0] = part.mean() or 1.0
    # Fitness of 1, too: that at the start may be zero by chance.
    fitness = [np.ones(n), finite(fitness_at_log_masses(landscape, t, np.log(masses)))]
    found = np.zeros(n, dtype=bool)
    for time in times:
        for phi in fitness:
            found |= np.asarray(dynamics.inflow(masses, phi, time=float(time))) > 0
        if found.all():
            break
    return found


def revival_floor(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    t: float,
    log_masses: FloatArray,
    receives: BoolArray,
    times: FloatArray,
) -> FloatArray:
    """Return each group's revival floor: a hundredth of its inflow over the fastest growth rate.

    The floor is the largest over `times`, so that it is high enough for a rate that is about to rise.
    An absent group counts with the mass of its floor, which is where its logarithm begins.
    """
    n = len(log_masses)
    floor = np.zeros(n)
    if not receives.any():
        return floor
    blocks = [groups for groups, _ in dynamics.blocks(n)]
    trial = log_masses
    for _ in range(_GENERATIONS):
        fitness = finite(fitness_at_log_masses(landscape, t, trial))
        masses = np.where(np.isneginf(trial), 0.0, np.maximum(np.exp(trial), _TINY))
        found = np.zeros(n)
        for time in times:
            inflow = np.where(receives, dynamics.inflow(masses, fitness, time=float(time)), 0.0)
            growth = np.where(masses > 0, dynamics.growth_rates(masses, fitness, time=float(time)), 0.0)
            for groups in blocks:
                fastest = float(np.nan_to_num(np.abs(growth[groups])).max())
                # Where nothing grows, inflow itself is the fastest there is.
                total = masses[groups].sum()
                fastest = fastest or (float(inflow[groups].sum() / total) if total > 0 else 0.0)
                if fastest > 0:
                    found[groups] = np.maximum(found[groups], 1e-2 * inflow[groups] / fastest)
        known = np.array_equal(found > 0, floor > 0)
        floor = found
        raised = np.maximum(trial, np.log(floor))
        if known or np.array_equal(raised, trial):
            break
        trial = raised
    return floor


def ahead(t: float, step: float, last_time: float) -> FloatArray:
    """Return times up to ten steps ahead, because steps may grow tenfold while a rate rises."""
    return np.minimum(t + step * np.array([0.0, 1.0, 3.0, 10.0]), last_time)
