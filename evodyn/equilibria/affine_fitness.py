"""Fitness that is affine in the masses, φ = a + Bp: rest points are solutions of linear systems."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize

from evodyn.core.arrays import FloatArray
from evodyn.core.specifications import Specification
from evodyn.equilibria.stability import tangent_basis
from evodyn.model.fitness import LandscapeFunction, affine

__all__ = ["AffineFitness", "affine_fitness", "fitted"]

BoolArray = npt.NDArray[np.bool_]
_BLOCK_PIVOTS = 50  # exchanges of all groups that are wrong at once: fast, and almost always enough
_SINGLE_PIVOTS = 20  # exchanges of one, per group
_RANK_TOLERANCE = 1e-11
_MOST_PROBED = 200  # groups: each is one more question
_MOST_UNITS = 5  # of mass, tried one after another
_FIT = 1e-11  # relative deviations below this are rounding of what was asked
_POSITIVE = 1e-13  # relative to the block's total mass; below it a mass is rounding


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class AffineFitness(Specification):
    """Fitness φ = intercept + slope @ p for masses in one or several blocks of given total mass.

    Parameters
    ----------
    intercept : array, shape (N,)
        a.
    slope : array, shape (N, N)
        B = ∂φ/∂p.
    blocks : tuple of slice
        The groups that share a total mass.
    totals : array, shape (K,)
        Total mass of each block. NaN where the rest point decides: fitness itself is then 0 at rest, not
        only equal among groups.
    probed : bool
        Whether the form was not declared, but is what random masses show.
    """

    intercept: FloatArray
    slope: FloatArray
    blocks: tuple[slice, ...]
    totals: FloatArray
    probed: bool = False

    @functools.cached_property
    def _unit(self) -> float:
        """All mass, or where that is not given the mass at which slope and intercept matter alike."""
        total = float(self.totals.sum())
        return _balance(self.intercept, self.slope) if math.isnan(total) else total

    def rest_point(self, present: BoolArray) -> tuple[FloatArray | None, int]:
        """Return the rest point in which exactly the groups `present` (a mask) have mass.

        Returns
        -------
        masses : array, shape (N,), or None
            None if there is no such point. Of a continuum, one with all its masses well above zero.
        nullity : int
            Dimension of the continuum of such points; 0 if the point is isolated.
        """
        matrix, right = self._bordered(present)
        k = int(present.sum())
        solution, _, rank, _ = scipy.linalg.lstsq(matrix, right, cond=_RANK_TOLERANCE)
        consistent = np.abs(matrix @ solution - right).max() <= _RANK_TOLERANCE**0.75 * np.abs(right).max()
        nullity = len(right) - int(rank)
        shares = solution[:k]
        if consistent and nullity and (shares <= _POSITIVE).any():
            shares = _most_central(matrix, right, k)
        masses = np.zeros(len(self.intercept))
        masses[present] = shares * self._unit
        if not consistent or not (masses[present] > _POSITIVE * self._own_totals(masses)[present]).all():
            return None, nullity
        return masses, nullity

    def attractor(self, present: BoolArray) -> FloatArray | None:
        """Return the one global attractor of starts with exactly the groups `present`, if it is certain.

        It is certain where the slope is negative definite on the tangent space of those groups: fitness
        differences then always pull back. The point satisfies φ_i = ν for survivors and φ_i <= ν for the
        others, and is found by principal pivoting. None also if a block whose total is free dies out.
        """
        basis = self.tangent(present)
        slope = self.slope[np.ix_(present, present)]
        form = basis.T @ slope @ basis
        # Rounding is of the size of the slope, of which the form may keep nothing.
        rounding = _RANK_TOLERANCE * float(np.abs(slope).max())
        if form.size and np.linalg.eigvalsh((form + form.T) / 2).max() >= -rounding:
            return None
        alive = present.copy()
        for pivot in range(_BLOCK_PIVOTS + _SINGLE_PIVOTS * len(present)):
            masses, gain = self._on(alive)
            lasting = masses > _POSITIVE * self._own_totals(masses)
            wrong = np.where(alive, ~lasting, present & (gain > self._rounding(masses)))
            if not wrong.any():
                return masses if all(alive[block].any() for block in self.blocks) else None
            if pivot >= _BLOCK_PIVOTS:
                # The first alone: unlike all at once, that never comes round to the same groups again.
                wrong[int(wrong.argmax()) + 1 :] = False
            alive = alive ^ wrong
        return None

    def balanced(self, present: BoolArray) -> FloatArray:
        """Return weights of the groups `present` with which every two blocks act equally on each other.

        It is the same within a block, and 1 where blocks do not act on each other. Zero-sum games whose
        payoffs or total masses differ in scale are antisymmetric with these weights.
        """
        # Across the mean of each block nothing matters but differences.
        blocks = [np.flatnonzero(present[block]) + block.start for block in self.blocks]
        sizes = np.zeros((len(blocks), len(blocks)))
        for a, rows in enumerate(blocks):
            for b, columns in enumerate(blocks):
                part = self.slope[np.ix_(rows, columns)]
                part = part - part.mean(axis=0)
                sizes[a, b] = np.linalg.norm(part - part.mean(axis=1, keepdims=True))
        weights = np.zeros(len(blocks))
        for first in range(len(blocks)):
            if weights[first]:
                continue
            weights[first], waiting = 1.0, [first]
            while waiting:
                a = waiting.pop()
                for other in np.flatnonzero((weights == 0) & (sizes[a] > 0) & (sizes[:, a] > 0)).tolist():
                    weights[other] = weights[a] * sizes[a, other] / sizes[other, a]
                    waiting.append(other)
        return np.repeat(weights, [len(groups) for groups in blocks])

    def _on(self, alive: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Return masses, of any sign, at which the groups `alive` are equally fit, and all φ_i - ν."""
        matrix, right = self._bordered(alive)
        masses = np.zeros(len(alive))
        masses[alive] = np.linalg.solve(matrix, right)[: alive.sum()] * self._unit
        fitness = self.intercept + self.slope @ masses
        gain = np.zeros(len(alive))
        for block, total in zip(self.blocks, self.totals, strict=True):
            gain[block] = fitness[block] - (0.0 if math.isnan(total) else fitness[block][alive[block]].mean())
        return masses, gain

    def _rounding(self, masses: FloatArray) -> float:
        terms = np.abs(self.intercept).max() + np.abs(self.slope).max() * np.abs(masses).sum()
        return _RANK_TOLERANCE * float(terms)

    def undominated(self, present: BoolArray) -> BoolArray:
        """Return the groups left when strictly dominated ones are removed, again and again.

        A group is dominated if another of its block is fitter whatever the masses; selection removes it
        from every interior start.
        """
        alive = present.copy()
        own = np.repeat(self.totals, [block.stop - block.start for block in self.blocks])
        while True:
            removed = False
            for block in self.blocks:
                for i in np.flatnonzero(alive[block]) + block.start:
                    rivals = np.flatnonzero(alive[block]) + block.start
                    advantage = self.intercept[rivals] - self.intercept[i]
                    gradient = self.slope[rivals] - self.slope[i]
                    for other in self.blocks:
                        # The least of a linear function on a scaled simplex is at one of its corners.
                        weighed = (gradient[:, other] * own[other])[
                            :, alive[other]
                        ]  # NaN: no bound, no verdict
                        advantage = advantage + weighed.min(axis=1)
                    if (advantage > 0).any():
                        alive[i], removed = False, True
            if not removed:
                return alive

    def tangent(self, present: BoolArray) -> FloatArray:
        """Return an orthonormal basis of the directions that leave every given total mass unchanged."""
        bases = []
        for block, total in zip(self.blocks, self.totals, strict=True):
            size = int(present[block].sum())
            if size:
                bases.append(np.eye(size) if math.isnan(total) else tangent_basis(np.ones(size)))
        return scipy.linalg.block_diag(*bases)

    def _own_totals(self, masses: FloatArray) -> FloatArray:
        """Return for each group the total mass of its block."""
        totals = np.zeros(len(masses))
        for block, total in zip(self.blocks, self.totals, strict=True):
            totals[block] = np.abs(masses[block]).sum() if math.isnan(total) else total
        return totals

    def _bordered(self, present: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Return the system φ_i = ν_b, Σ_b p = P_b for masses in their unit, and the levels ν_b.

        Where a block's total mass is not given it has no such row, and its level is 0.
        """
        k = int(present.sum())
        given = np.flatnonzero(~np.isnan(self.totals))
        member = np.zeros((len(present), len(given)))
        for column, b in enumerate(given):
            member[self.blocks[b], column] = 1.0
        member = member[present]
        slope = self.slope[np.ix_(present, present)] * self._unit
        intercept = self.intercept[present]
        if len(given) == len(self.blocks):
            # Only differences of fitness matter: without what is common, the levels are of the slope's size.
            intercept = intercept - intercept.mean()
        # No group at all is a stage on the way where total masses are free.
        size = max(float(np.abs(slope).max(initial=0.0)), float(np.abs(intercept).max(initial=0.0))) or 1.0
        matrix = np.zeros((k + len(given), k + len(given)))
        matrix[:k, :k] = slope / size
        matrix[:k, k:] = -member
        matrix[k:, :k] = member.T
        return matrix, np.concatenate((-intercept / size, self.totals[given] / self._unit))


def _most_central(matrix: FloatArray, right: FloatArray, k: int) -> FloatArray:
    """Return the solution whose least share is greatest."""
    n = len(right)
    result = scipy.optimize.linprog(
        np.append(np.zeros(n), -1.0),
        A_ub=np.hstack((-np.eye(k, n), np.ones((k, 1)))),
        b_ub=np.zeros(k),
        A_eq=np.hstack((matrix, np.zeros((n, 1)))),
        b_eq=right,
        bounds=[(None, None)] * n + [(None, 1.0)],  # of masses that sum to nothing given there is no greatest
    )
    return np.zeros(k) if result.x is None else result.x[:k]


def affine_fitness(
    landscape: LandscapeFunction, blocks: tuple[slice, ...], totals: FloatArray
) -> AffineFitness | None:
    """Return `landscape` as affine fitness, or None if it does not say that it is affine in the masses.

    Examples
    --------
    >>> from evodyn import landscapes
    >>> import numpy as np
    >>> game = landscapes.MatrixGame([[0.0, 3.0], [1.0, 2.0]])
    >>> affine_fitness(game, (slice(0, 2),), np.array([2.0])).slope
    array([[0. , 1.5],
           [0.5, 1. ]])
    """
    form = affine(landscape, blocks[-1].stop, float(totals.sum()))
    return None if form is None else AffineFitness(*form, blocks, totals)


def fitted(
    function: Callable[[FloatArray], FloatArray], blocks: tuple[slice, ...], totals: FloatArray
) -> AffineFitness | None:
    """Return a function of the masses as affine fitness if, at random masses, it is affine to rounding.

    What all groups of a block of given total mass have in common does not count, for only differences
    matter there. None if the function is not affine, or has too many groups to find out.

    Parameters
    ----------
    function : callable
        Masses, shape (N,), to values, shape (N,).
    blocks, totals
        As for `AffineFitness`; the masses asked for have these totals.

    Examples
    --------
    >>> import numpy as np
    >>> def function(masses):
    ...     return np.array([3 * masses[1], 1.0]) + masses[0] ** 2
    >>> found = fitted(function, (slice(0, 2),), np.ones(1))
    >>> found.rest_point(np.array([True, True]))[0].round(12)
    array([0.66666667, 0.33333333])
    """
    if blocks[-1].stop > _MOST_PROBED:
        return None
    unit = 1.0
    for _ in range(_MOST_UNITS):
        found = _fitted_at(function, blocks, totals, unit)
        if found is None or not np.isnan(totals).any():
            return found
        # Free masses are of the size at which they matter, and that must have been asked about.
        balance = _balance(found.intercept, found.slope)
        if unit / 10 <= balance <= unit * 10:
            return found
        unit = balance
    return None


def _fitted_at(
    function: Callable[[FloatArray], FloatArray],
    blocks: tuple[slice, ...],
    totals: FloatArray,
    unit: float,
) -> AffineFitness | None:
    """Return `function` as affine in masses of the given totals, or else about as large as `unit`."""
    n = blocks[-1].stop
    rng = np.random.default_rng(0)
    points = np.empty((2 * n + 8, n))
    for block, total in zip(blocks, totals, strict=True):
        # From even to very uneven masses: what is affine only near the middle is not affine.
        for k, spread in enumerate(np.geomspace(0.1, 10.0, len(points))):
            weights = rng.gamma(1.0 / spread, size=block.stop - block.start) + 1e-9
            own = unit * len(weights) * 10 ** rng.uniform(-1, 1) if math.isnan(total) else total
            points[k, block] = own * weights / weights.sum()
    try:
        with np.errstate(all="ignore"):
            values = np.array([function(point) for point in points], dtype=float)
    except Exception:
        return None  # not made for all masses with these totals
    if not np.isfinite(values).all():
        return None
    size = float(np.abs(values).max())
    for block, total in zip(blocks, totals, strict=True):
        if not math.isnan(total):
            values[:, block] -= values[:, block].mean(axis=1, keepdims=True)
    scale = float(points.sum(axis=1).mean())
    columns = np.column_stack((np.ones(len(points)), points / scale))
    coefficients = np.linalg.lstsq(columns, values, rcond=None)[0]
    if not np.abs(columns @ coefficients - values).max() <= _FIT * size:
        return None
    return AffineFitness(coefficients[0], coefficients[1:].T / scale, blocks, totals, probed=True)


def _balance(intercept: FloatArray, slope: FloatArray) -> float:
    """Return the mass at which slope and intercept are of one size; 1 if there is no such."""
    sizes = float(np.abs(intercept).max()), float(np.abs(slope).max())
    return sizes[0] / sizes[1] if all(sizes) else 1.0
