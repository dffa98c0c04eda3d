"""Basins of attraction: which rest points random starts lead to, and how many of them."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import special

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.progress import Progress, reporting
from evodyn.core.specifications import Specification
from evodyn.equilibria.conditions import RestPointProblem
from evodyn.equilibria.equilibrium import Equilibrium, equilibrium
from evodyn.equilibria.newton import NoRestPointError
from evodyn.equilibria.stability import Stability
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction
from evodyn.simulate.solve import solve
from evodyn.simulate.status import Termination

__all__ = ["Basins", "basins"]

_SAME = 1e-6  # distance, relative to total mass, within which two rest points are one

_ALIKE = 0.05  # how far apart, relative to their range, two turns of one cycle may be

_TRANSIENT = 400.0  # time, relative to the fastest rate, after which a flow is on its cycle

_TIMES = 4000  # at which a flow is looked at for returns


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Basins(Specification):
    """Where random starts led; `basins` makes it. Arrays are read-only.

    Attributes
    ----------
    equilibria : tuple of Equilibrium, length K
        The rest points that were reached, by falling number of starts. One stands for a whole continuum.
    counts : array of int, shape (K,)
        How many starts led to each.
    cycles, unsettled : int
        How many starts led to a closed orbit, and how many to nothing that could be named: an orbit that
        never closes, growth without bound, or a rest point that is approached too slowly.
    starts : array, shape (M, N)
        The masses at the start.
    ends : array of int, shape (M,)
        Which rest point each start led to; -1 for a cycle, -2 where unsettled.
    level : float
        Probability of the intervals.

    Examples
    --------
    >>> import evodyn as ed
    >>> game = ed.landscapes.MatrixGame([[3.0, 0.0], [0.0, 1.0]])
    >>> ed.basins(ed.Replicator(), game, starts=10, rng=0)
    Basins(10 starts: [9, 1] to 2 rest points, 0 to cycles, 0 unsettled)
    """

    equilibria: tuple[Equilibrium, ...]
    counts: npt.NDArray[np.int_]
    cycles: int
    unsettled: int
    starts: FloatArray
    ends: npt.NDArray[np.int_]
    level: float

    def __repr__(self) -> str:
        reached = f"{self.counts.tolist()} to {len(self.equilibria)} rest points"
        others = f"{self.cycles} to cycles, {self.unsettled} unsettled"
        return f"Basins({len(self.starts)} starts: {reached}, {others})"

    @property
    def shares(self) -> FloatArray:
        """Shares of all starts that led to each rest point, shape (K,)."""
        return self.counts / len(self.starts)

    @property
    def intervals(self) -> FloatArray:
        """Wilson's confidence intervals of the shares, one by one, shape (K, 2)."""
        m, z = len(self.starts), float(special.ndtri((1 + self.level) / 2))
        middle = (self.counts + z**2 / 2) / (m + z**2)
        half = z * np.sqrt(self.counts * (m - self.counts) / m + z**2 / 4) / (m + z**2)
        # At 0 and at m one end is 0 or 1, but for rounding.
        low = np.where(self.counts == 0, 0.0, middle - half)
        high = np.where(self.counts == m, 1.0, middle + half)
        return np.stack((low, high), axis=-1)


def basins(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    *,
    total_mass: float | npt.ArrayLike | None = None,
    starts: int | npt.ArrayLike = 100,
    rng: Any,
    level: float = 0.95,
    progress: Progress = None,
) -> Basins:
    """Return which rest points random starts lead to, and what share of them each attracts.

    Parameters
    ----------
    dynamics, landscape
        As for `equilibrium`; cycles are recognised, and counted as such.
    total_mass : float or array of shape (K,), optional
        Total mass of the starts, of every block with K blocks; needed where `equilibrium` needs it, and where
        the dynamics does not conserve it.
    starts : int or array_like of shape (M, N), optional
        How many starts are drawn, uniformly among all masses with that total (in every block by itself), or
        the starts themselves.
    rng : int, Generator, SeedSequence, ...
        What `numpy.random.default_rng` takes.
    level : float, optional
        Probability of the intervals of the shares.
    progress : bool or callable, optional
        True for a bar (rich, of the extra "studies"), or a function of the fraction of starts that is done.

    Returns
    -------
    Basins

    Raises
    ------
    ValueError
        As for `equilibrium`.

    Notes
    -----
    Every start is followed until its flow has settled at a rest point, as `equilibrium` does with `start`,
    which takes about a tenth of a second each, and seconds where it cycles. Where a share is 0, the rule of
    three holds: up to 3/M of all starts may lead elsewhere.

    Examples
    --------
    Three conventions: whoever is common enough at the start wins.

    >>> import numpy as np
    >>> from evodyn import Replicator, basins, landscapes
    >>> game = landscapes.MatrixGame(np.diag([1.0, 2.0, 3.0]))
    >>> found = basins(Replicator(), game, starts=20, rng=0)
    >>> [(point.masses.round(6).tolist(), int(count)) for point, count in zip(found.equilibria, found.counts)]
    [([0.0, 1.0, 0.0], 10), ([0.0, 0.0, 1.0], 9), ([1.0, 0.0, 0.0], 1)]
    >>> found.intervals[0].round(2)
    array([0.3, 0.7])
    """
    if not 0 < validation.finite("level", level) < 1:
        raise ValueError(f"level is {level!r}; expected a probability between 0 and 1.")
    generator = np.random.default_rng(rng)
    if np.ndim(starts):
        masses = validation.finite_array("starts", starts, ndim=2, least=0.0)
    else:
        masses = _drawn(dynamics, landscape, total_mass, validation.count("starts", starts), generator)
    reached: list[Equilibrium] = []
    ends = np.full(len(masses), -2)
    with reporting(progress, "Following starts") as report:
        for k, start in enumerate(masses):
            if report is not None:
                report(k / len(masses))
            try:
                point = equilibrium(dynamics, landscape, start=start)
            except NoRestPointError:
                ends[k] = -1 if _cycles(dynamics, landscape, start) else -2
                continue
            known = (index for index, other in enumerate(reached) if _same(point, other))
            ends[k] = next(known, len(reached))
            if ends[k] == len(reached):
                reached.append(point)
    counts = np.array([np.count_nonzero(ends == index) for index in range(len(reached))], dtype=int)
    order = np.argsort(-counts, kind="stable")
    place = np.empty(len(order), dtype=int)
    place[order] = np.arange(len(order))
    ends[ends >= 0] = place[ends[ends >= 0]]
    counts = counts[order]
    for array in (counts, ends):
        array.flags.writeable = False
    return Basins(
        equilibria=tuple(reached[index] for index in order),
        counts=counts,
        cycles=int(np.count_nonzero(ends == -1)),
        unsettled=int(np.count_nonzero(ends == -2)),
        starts=masses,
        ends=ends,
        level=level,
    )


def _drawn(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    total_mass: Any,
    count: int,
    rng: np.random.Generator,
) -> FloatArray:
    """Return masses drawn uniformly among those with the total mass of every block, shape (count, N)."""
    problem = RestPointProblem.of(dynamics, landscape, total_mass, selectable=False)
    totals = np.where(np.isnan(problem.totals), problem.asked, problem.totals)
    if np.isnan(totals).any():
        raise ValueError(
            "total_mass is not given, and the dynamics does not conserve total mass; expected the total mass "
            "with which to start (one for each block), or starts themselves."
        )
    masses = np.empty((count, problem.n))
    for (block, _), total in zip(problem.blocks, totals, strict=True):
        masses[:, block] = total * rng.dirichlet(np.ones(block.stop - block.start), size=count)
    masses.flags.writeable = False
    return masses


def _same(one: Equilibrium, other: Equilibrium) -> bool:
    """Tell whether two rest points are the same, or two of one continuum."""
    if not np.array_equal(one.survivors, other.survivors):
        return False
    if one.stability is other.stability is Stability.NEUTRAL:
        return True
    return bool(np.abs(one.masses - other.masses).max() <= _SAME * other.masses.sum())


def _cycles(dynamics: Dynamics, landscape: LandscapeFunction, start: FloatArray) -> bool:
    """Tell whether the flow comes back to where it was: turn by turn, without drifting.

    Masses that swing ever closer to 0, as on the way round a heteroclinic cycle, do not: their logarithms
    range ever wider.
    """
    problem = RestPointProblem.of(dynamics, landscape, None, None, start)
    length = _TRANSIENT / problem.rate_scale(np.log(problem.equal_start()[problem.present]))
    times = np.linspace(length, 2 * length, _TIMES)
    run = solve(dynamics, landscape, start, (0.0, float(times[-1])), save_at=times, throw=False)
    if run.termination is not Termination.COMPLETED:
        return False
    logs = run.log_masses[:, problem.present]
    halves = [np.ptp(half, axis=0).max() for half in np.array_split(logs, 2)]
    if not math.isclose(halves[0], halves[1], rel_tol=_ALIKE) or not halves[1] > _SAME:
        return False
    away = np.abs(logs - logs[-1]).max(axis=1) / halves[1]
    left = np.flatnonzero(away > 2 * _ALIKE)
    return bool(len(left)) and bool((away[: left[-1]] < _ALIKE).any())
