"""Fitness that is affine in the masses, φ = a + Bp: rest points are solutions of linear systems."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.linalg
import scipy.optimize

from evodyn import landscapes
from evodyn.arrays import FloatArray
from evodyn.specifications import Specification
from evodyn.stability import tangent_basis

__all__ = ["AffineFitness", "affine_fitness", "fitted"]

BoolArray = npt.NDArray[np.bool_]
_BLOCK_PIVOTS = 50
_RANK_TOLERANCE = 1e-11
_MOST_PROBED = 200  # groups: each is one more question
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
        Total mass of each block.
    """

    intercept: FloatArray
    slope: FloatArray
    blocks: tuple[slice, ...]
    totals: FloatArray

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
        masses[present] = shares * self.totals.sum()
        if not consistent or not (masses[present] > _POSITIVE * self._own_totals()[present]).all():
            return None, nullity
        return masses, nullity

    def attractor(self, present: BoolArray) -> FloatArray | None:
        """Return the one global attractor of starts with exactly the groups `present`, if it is certain.

        It is certain where the slope is negative definite on the tangent space of those groups: fitness
        differences then always pull back. The point satisfies φ_i = ν for survivors and φ_i <= ν for the
        others, and is found by an active-set method.
        """
        basis = self.tangent(present)
        slope = self.slope[np.ix_(present, present)]
        form = basis.T @ slope @ basis
        # Rounding is of the size of the slope, of which the form may keep nothing.
        rounding = _RANK_TOLERANCE * float(np.abs(slope).max())
        if form.size and np.linalg.eigvalsh((form + form.T) / 2).max() >= -rounding:
            return None
        alive = present.copy()
        for _ in range(_BLOCK_PIVOTS):
            # All exchanges at once: fast, and almost always enough.
            masses, gain = self._on(alive)
            keep = np.where(alive, masses > 0, present & (gain > self._rounding(masses)))
            if np.array_equal(keep, alive):
                return masses
            for block in self.blocks:
                if not keep[block].any():
                    keep[block.start + int(np.where(present[block], gain[block], -np.inf).argmax())] = True
            alive = keep
        return self._active_set(present)

    def _active_set(self, present: BoolArray) -> FloatArray | None:
        """Exchange one group at a time, with masses that stay non-negative on the way."""
        masses = np.zeros(len(self.intercept))
        for block, total in zip(self.blocks, self.totals, strict=True):
            members = np.flatnonzero(present[block]) + block.start
            masses[members] = total / len(members)
        for _ in range(10 * len(masses) + 50):
            alive = masses > 0
            target, gain = self._on(alive)
            falling = alive & (target <= 0)
            if falling.any():
                # As far towards the solution as masses stay non-negative; the first to vanish leaves.
                fraction = masses[falling] / (masses[falling] - target[falling])
                masses = np.maximum(masses + fraction.min() * (target - masses), 0.0)
                masses[np.flatnonzero(falling)[fraction == fraction.min()]] = 0.0
                continue
            gain[alive | ~present] = -np.inf
            if gain.max() <= self._rounding(target):
                return target
            masses = target
            masses[int(gain.argmax())] = np.finfo(float).tiny
        return None

    def _on(self, alive: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Return masses, of any sign, at which the groups `alive` are equally fit, and all φ_i - ν."""
        matrix, right = self._bordered(alive)
        masses = np.zeros(len(alive))
        masses[alive] = np.linalg.solve(matrix, right)[: alive.sum()] * self.totals.sum()
        fitness = self.intercept + self.slope @ masses
        gain = np.zeros(len(alive))
        for block in self.blocks:
            gain[block] = fitness[block] - fitness[block][alive[block]].mean()
        return masses, gain

    def _rounding(self, masses: FloatArray) -> float:
        return _RANK_TOLERANCE * float(np.abs(self.intercept + self.slope @ masses).max())

    def undominated(self, present: BoolArray) -> BoolArray:
        """Return the groups left when strictly dominated ones are removed, again and again.

        A group is dominated if another of its block is fitter whatever the masses; selection removes it
        from every interior start.
        """
        alive = present.copy()
        own = self._own_totals()
        while True:
            removed = False
            for block in self.blocks:
                for i in np.flatnonzero(alive[block]) + block.start:
                    rivals = np.flatnonzero(alive[block]) + block.start
                    advantage = self.intercept[rivals] - self.intercept[i]
                    gradient = self.slope[rivals] - self.slope[i]
                    for other in self.blocks:
                        # The least of a linear function on a scaled simplex is at one of its corners.
                        advantage = advantage + (gradient[:, other] * own[other])[:, alive[other]].min(axis=1)
                    if (advantage > 0).any():
                        alive[i], removed = False, True
            if not removed:
                return alive

    def tangent(self, present: BoolArray) -> FloatArray:
        """Return an orthonormal basis of the directions that leave every block's total mass unchanged."""
        sizes = [int(present[block].sum()) for block in self.blocks]
        return scipy.linalg.block_diag(*(tangent_basis(np.ones(size)) for size in sizes if size))

    def _own_totals(self) -> FloatArray:
        totals = np.zeros(len(self.intercept))
        for block, total in zip(self.blocks, self.totals, strict=True):
            totals[block] = total
        return totals

    def _bordered(self, present: BoolArray) -> tuple[FloatArray, FloatArray]:
        """Return the system φ_i = ν_b, Σ_b p = P_b for the shares of all mass, and the levels ν_b."""
        k, blocks, all_mass = int(present.sum()), len(self.blocks), self.totals.sum()
        member = np.zeros((len(present), blocks))
        for b, block in enumerate(self.blocks):
            member[block, b] = 1.0
        member = member[present]
        slope = self.slope[np.ix_(present, present)] * all_mass
        # Only differences of fitness matter: without what is common, the levels are of the slope's size.
        intercept = self.intercept[present] - self.intercept[present].mean()
        size = max(float(np.abs(slope).max()), float(np.abs(intercept).max())) or 1.0
        matrix = np.zeros((k + blocks, k + blocks))
        matrix[:k, :k] = slope / size
        matrix[:k, k:] = -member
        matrix[k:, :k] = member.T
        return matrix, np.concatenate((-intercept / size, self.totals / all_mass))


def _most_central(matrix: FloatArray, right: FloatArray, k: int) -> FloatArray:
    """Return the solution whose least share is greatest."""
    n = len(right)
    result = scipy.optimize.linprog(
        np.append(np.zeros(n), -1.0),
        A_ub=np.hstack((-np.eye(k, n), np.ones((k, 1)))),
        b_ub=np.zeros(k),
        A_eq=np.hstack((matrix, np.zeros((n, 1)))),
        b_eq=right,
        bounds=[(None, None)] * (n + 1),
    )
    return np.zeros(k) if result.x is None else result.x[:k]


def affine_fitness(
    landscape: landscapes.LandscapeFunction, blocks: tuple[slice, ...], totals: FloatArray
) -> AffineFitness | None:
    """Return `landscape` as affine fitness, or None if it does not say that it is affine in the masses.

    Examples
    --------
    >>> import numpy as np
    >>> game = landscapes.MatrixGame([[0.0, 3.0], [1.0, 2.0]])
    >>> affine_fitness(game, (slice(0, 2),), np.array([2.0])).slope
    array([[0. , 1.5],
           [0.5, 1. ]])
    """
    form = landscapes.affine(landscape, blocks[-1].stop, float(totals.sum()))
    return None if form is None else AffineFitness(*form, blocks, totals)


def fitted(
    function: Callable[[FloatArray], FloatArray], blocks: tuple[slice, ...], totals: FloatArray
) -> AffineFitness | None:
    """Return a function of the masses as affine fitness if, at random masses, it is affine to rounding.

    What all groups of a block have in common does not count, for only differences matter. None if the
    function is not affine, or has too many groups to find out.

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
    n = blocks[-1].stop
    if n > _MOST_PROBED:
        return None
    rng = np.random.default_rng(0)
    points = np.empty((2 * n + 8, n))
    for block, total in zip(blocks, totals, strict=True):
        # From even to very uneven masses: what is affine only near the middle is not affine.
        for k, spread in enumerate(np.geomspace(0.1, 10.0, len(points))):
            weights = rng.gamma(1.0 / spread, size=block.stop - block.start) + 1e-9
            points[k, block] = total * weights / weights.sum()
    try:
        with np.errstate(all="ignore"):
            values = np.array([function(point) for point in points], dtype=float)
    except Exception:
        return None  # not made for all masses with these totals
    if not np.isfinite(values).all():
        return None
    size = float(np.abs(values).max())
    for block in blocks:
        values[:, block] -= values[:, block].mean(axis=1, keepdims=True)
    columns = np.column_stack((np.ones(len(points)), points / totals.sum()))
    coefficients = np.linalg.lstsq(columns, values, rcond=None)[0]
    if not np.abs(columns @ coefficients - values).max() <= _FIT * size:
        return None
    return AffineFitness(coefficients[0], coefficients[1:].T / totals.sum(), blocks, totals)
