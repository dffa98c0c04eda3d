"""Landscapes from games: fitness is the payoff against the shares of all groups."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import Array, FloatArray, array_namespace, array_of, host, like
from evodyn.model.fitness import Landscape
from evodyn.model.normal_form import NormalForm
from evodyn.model.structure import DiagonalPlusLowRank

__all__ = ["MatrixGame"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MatrixGame(Landscape):
    """A symmetric two-player game, φ = A x with shares x = p/P.

    It acts on shares: with masses in their place everything would run P times faster.

    Parameters
    ----------
    payoff : array_like, shape (N, N)
        A_ij, what i earns against j. Adding a constant to a column changes no share.

    Raises
    ------
    ValueError
        If `payoff` is not a square matrix of finite numbers.

    Examples
    --------
    >>> import numpy as np
    >>> MatrixGame([[0.0, 3.0], [1.0, 2.0]])(0.0, np.array([1.0, 3.0]))
    array([2.25, 1.75])
    """

    autonomous = True
    payoff: Array

    def __post_init__(self) -> None:
        self._set(payoff=square_matrix("payoff", self.payoff))

    def __call__(self, t: float, masses: Array) -> Array:
        masses = array_of(masses)
        xp = array_namespace(masses)
        total = (np.add.reduce if xp is np else xp.sum)(masses, axis=-1, keepdims=True)
        shares = masses / xp.where(total > 0, total, 1.0)
        return matrix_times(like(self.payoff, masses), shares)

    def linearization(self, t: float, log_masses: FloatArray) -> DiagonalPlusLowRank:
        shares = np.exp(log_masses - np.logaddexp.reduce(log_masses))
        fitness = self.payoff @ shares
        return DiagonalPlusLowRank(np.zeros(len(shares)), self.payoff - fitness[:, None], np.diag(shares))

    def kernel(self, t: float, n: int) -> NormalForm:
        return NormalForm(np.zeros(n), payoff=host(self.payoff))

    def affine(self, n: int, total: float) -> tuple[FloatArray, FloatArray]:
        return np.zeros(n), host(self.payoff) / total

    def potential(self, masses: FloatArray, log_masses: FloatArray) -> FloatArray | None:
        payoff = host(self.payoff)
        if not np.array_equal(payoff, payoff.T):
            return None
        value: FloatArray = ((masses @ payoff) * masses).sum(axis=1) / (2 * masses.sum(axis=1))
        return value


def square_matrix(name: str, value: npt.ArrayLike, *, least: float = -math.inf) -> Array:
    """Return a square matrix of finite numbers >= `least`, read-only.

    Raises
    ------
    ValueError
        If it is something else.
    """
    matrix = validation.specification_array(name, value, ndim=2, least=least)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(
            f"{name} has shape {tuple(matrix.shape)}; expected a square matrix, one row per group."
        )
    return matrix


def matrix_times(matrix: Array, vectors: Array) -> Array:
    """Return matrix @ vector for every vector of a batch of shape (..., N)."""
    xp = array_namespace(vectors)  # whose matmul takes two precisions, which torch's own operator does not
    if vectors.ndim == 1:
        return xp.matmul(matrix, vectors)
    return xp.matmul(vectors, xp.permute_dims(matrix, (1, 0)))
