"""Mutation among offspring: the replicator-mutator, or quasispecies, dynamics."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from evodyn.core.arrays import Array, FloatArray, array_namespace, host, is_foreign, like
from evodyn.model.dynamics import Dynamics, next_generation, offspring, weighted_mean
from evodyn.model.games import matrix_times, square_matrix

__all__ = ["ReplicatorMutator"]

_ROUNDING = 1e-9
"""How far a column may sum from 1."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ReplicatorMutator(Dynamics):
    """Selection with mutation among offspring.

    dp_i/dt = Σ_j Q_ij φ_j p_j - φ̄ p_i, with φ̄ = Σ p_j φ_j / Σ p_j.

    Fitness is the rate at which a group has offspring, and Q_ij the part of j's offspring that is born
    into i. Total mass is conserved. Adding a constant to all fitness makes mutation faster: that is no
    symmetry here, unless Q is the identity, with which this is the `Replicator`.

    Parameters
    ----------
    matrix : array_like, shape (N, N)
        Q >= 0, whose columns sum to 1: column j says where the offspring of j are born. (Where rows sum to
        1 by convention, give the transpose.)

    Raises
    ------
    ValueError
        If `matrix` is not such a matrix; later, if a group with mass has negative fitness, unless Q is the
        identity. Fitness in arrays of other libraries than NumPy is not checked, so that no device is
        waited for.

    Notes
    -----
    As growth and inflow the equation is dp_i/dt = p_i (Q_ii φ_i - φ̄) + Σ_{j≠i} Q_ij φ_j p_j. Its Euler map
    conserves total mass, its exponential map is positive for any step, and its map with ``scheme="ratio"``
    is p_i ← Σ_j Q_ij φ_j p_j / φ̄. With constant fitness the rest point is the Perron vector of Q diag(φ).
    An absorbed group is born no more: what mutation would send there is lost.

    Examples
    --------
    A fifth of the offspring of the fitter group are born into the other, and none the other way.

    >>> import evodyn as ed
    >>> dynamics = ed.ReplicatorMutator([[0.8, 0.0], [0.2, 1.0]])
    >>> run = ed.solve(dynamics, ed.landscapes.Constant([2.0, 1.0]), [1.0, 0.0], (0.0, 60.0))
    >>> run.masses[-1].round(6)
    array([0.6, 0.4])
    >>> ed.equilibrium(dynamics, ed.landscapes.Constant([2.0, 1.0])).masses.round(6)
    array([0.6, 0.4])
    """

    autonomous = True
    matrix: Array

    def __post_init__(self) -> None:
        matrix = square_matrix("matrix", self.matrix, least=0.0)
        if not is_foreign(matrix):
            sums = matrix.sum(axis=0)
            k = int(np.abs(sums - 1).argmax())
            if abs(sums[k] - 1) > _ROUNDING:
                rows = np.abs(matrix.sum(axis=1) - 1).max() <= _ROUNDING
                remedy = "its rows do, so give its transpose" if rows else "divide each column by its sum"
                raise ValueError(f"matrix has column {k} with sum {sums[k]:g}; expected 1: {remedy}.")
        self._set(matrix=matrix)

    @property
    def groups(self) -> int:
        """Number of groups that the matrix is for."""
        return int(self.matrix.shape[0])

    def check(self, n: int) -> None:
        if n != self.groups:
            raise ValueError(f"matrix is for {self.groups} groups; expected {n}, the number of groups.")

    @functools.cached_property
    def _faithful(self) -> FloatArray:
        """Q_ii, the part of a group's offspring that stay in it."""
        return np.diagonal(host(self.matrix)).copy()

    @functools.cached_property
    def _mutants(self) -> FloatArray:
        """Q without its diagonal: apart from it, rare mutants are not lost in rounding."""
        mutants = np.array(host(self.matrix))
        np.fill_diagonal(mutants, 0.0)
        return mutants

    @functools.cached_property
    def compares_with_mean(self) -> bool:  # type: ignore[override]
        """Whether growth rates are φ_i - φ̄: without any mutant."""
        return not self._mutants.any()

    def rates_against(self, fitness: Array, mean: Array | float, *, time: float = 0.0) -> Array:
        """Return the growth rates of groups with finite `fitness`, given its mean, without mutants."""
        return fitness - mean

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        xp = array_namespace(masses)
        fitness = xp.where(masses > 0, fitness, 0.0)
        mean = weighted_mean(xp, masses, fitness)
        if self.compares_with_mean:
            return self.rates_against(fitness, mean)
        offspring(masses, fitness)  # which has to be of one sign
        return like(self._faithful, masses) * fitness - mean

    def inflow(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array | float:
        if self.compares_with_mean:
            return 0.0
        # Of any fitness: who is fed is also asked far from where the masses are.
        births = masses * array_namespace(masses).where(masses > 0, fitness, 0.0)
        return matrix_times(like(self._mutants, masses), births)

    def mutation_losses(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array | float:
        leaving = like(self._mutants.sum(axis=0), masses)
        return leaving * array_namespace(masses).where(masses > 0, fitness, 0.0)

    def _ratio_step(self, masses: Array, fitness: Array) -> Array:
        births = offspring(masses, fitness)
        born = like(self._faithful, masses) * births + matrix_times(like(self._mutants, masses), births)
        return next_generation(masses, born)

    def mass_law(self, n: int) -> tuple[float, float]:
        return 0.0, 0.0

    def steady_inflow(self, n: int) -> FloatArray | None:
        return np.zeros(n) if self.compares_with_mean else None
