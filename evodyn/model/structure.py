"""Jacobians that are diagonal plus low rank: what makes implicit steps and eigenvalue bounds cheap."""

from __future__ import annotations

import dataclasses

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.core.specifications import Specification

__all__ = ["DiagonalPlusLowRank"]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class DiagonalPlusLowRank(Specification):
    """The matrix diag(diagonal) + left @ right.T.

    Parameters
    ----------
    diagonal : array, shape (N,)
    left, right : array, shape (N, r)
        r may be 0.

    Raises
    ------
    ValueError
        If the shapes do not agree.

    Examples
    --------
    >>> import numpy as np
    >>> J = DiagonalPlusLowRank(np.array([1.0, 2.0]), np.ones((2, 1)), np.ones((2, 1)))
    >>> J.to_dense()
    array([[2., 1.],
           [1., 3.]])
    >>> J.solve(np.array([3.0, 4.0]))
    array([1., 1.])
    """

    diagonal: FloatArray
    left: FloatArray
    right: FloatArray

    def __post_init__(self) -> None:
        n = np.shape(self.diagonal)
        if len(n) != 1 or np.shape(self.left) != np.shape(self.right) or np.shape(self.left)[:1] != n:
            raise ValueError(
                f"diagonal, left and right have shapes {n}, {np.shape(self.left)} and "
                f"{np.shape(self.right)}; expected (N,), (N, r) and (N, r)."
            )

    @classmethod
    def diagonal_only(cls, diagonal: FloatArray) -> DiagonalPlusLowRank:
        """Return the diagonal matrix."""
        nothing = np.zeros((len(diagonal), 0))
        return cls(diagonal, nothing, nothing)

    def __add__(self, other: DiagonalPlusLowRank) -> DiagonalPlusLowRank:
        return DiagonalPlusLowRank(
            self.diagonal + other.diagonal,
            np.hstack((self.left, other.left)),
            np.hstack((self.right, other.right)),
        )

    def __matmul__(self, vector: FloatArray) -> FloatArray:
        product: FloatArray = self.diagonal * vector + self.left @ (self.right.T @ vector)
        return product

    def to_dense(self) -> FloatArray:
        """Return the matrix itself, shape (N, N)."""
        dense: FloatArray = np.diag(self.diagonal) + self.left @ self.right.T
        return dense

    def solve(self, vector: FloatArray) -> FloatArray:
        """Solve the linear system by Sherman-Morrison-Woodbury, in O(N r²).

        Raises
        ------
        ZeroDivisionError, numpy.linalg.LinAlgError
            If the diagonal has a zero or the matrix is singular.
        """
        if not self.diagonal.all():
            raise ZeroDivisionError("the diagonal has a zero entry; use numpy.linalg.solve on to_dense()")
        scaled = vector / self.diagonal
        if not self.left.shape[1]:
            return scaled
        inner = np.eye(self.left.shape[1]) + self.right.T @ (self.left / self.diagonal[:, None])
        solution: FloatArray = scaled - (self.left / self.diagonal[:, None]) @ np.linalg.solve(
            inner, self.right.T @ scaled
        )
        return solution
