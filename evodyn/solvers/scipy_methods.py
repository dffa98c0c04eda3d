"""SciPy's integrators as the flow uses them: explicit Runge-Kutta methods in the maximum norm.

SciPy controls the root mean square of the errors of all components, so that in a system of n groups one
group's error may be √n times the tolerance. The explicit methods here control the largest error instead.
The implicit and multistep ones keep SciPy's norm, with tolerances divided by √n: the same guarantee, at
the cost of shorter steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from scipy.integrate import BDF, DOP853, LSODA, RK23, RK45, OdeSolver, Radau

from evodyn.core.arrays import FloatArray
from evodyn.model.structure import DiagonalPlusLowRank

__all__ = [
    "EXPLICIT",
    "LARGEST_DENSE",
    "ONE_STEP",
    "SOLVERS",
    "WATCHED",
    "StiffnessWatch",
    "absolute_tolerance",
    "solve_by_structure",
    "structure_arguments",
]

LARGEST_DENSE = 300
"""Most components for which an implicit method measures a dense Jacobian though the structure is known."""

Jacobian = Callable[[float, FloatArray], DiagonalPlusLowRank]


class _MaximumNorm:
    """Replaces the norm of an embedded pair's error estimate."""

    drift_free = False
    """Whether an error common to all components has no meaning; their range is then what counts."""

    def _estimate_error_norm(self, K: FloatArray, h: float, scale: FloatArray) -> float:
        error: FloatArray = self._estimate_error(K, h)  # type: ignore[attr-defined]
        return _rounded(self._size(error / scale))

    def _size(self, error: FloatArray) -> float:
        if self.drift_free:
            return float(error.max(initial=0.0) - error.min(initial=0.0))
        return float(np.abs(error).max(initial=0.0))


def _rounded(norm: float) -> float:
    """Return `norm` to eight binary digits.

    The length of the next step depends on it. Rounding errors, which differ with the unit of mass, a shift
    of fitness or the order of groups, must not change where the steps end.
    """
    mantissa, exponent = math.frexp(norm)
    return math.ldexp(round(256 * mantissa) / 256, exponent) if math.isfinite(norm) else norm


class MaximumRK23(_MaximumNorm, RK23):
    """Bogacki-Shampine 3(2)."""


class MaximumRK45(_MaximumNorm, RK45):
    """Dormand-Prince 5(4)."""


class MaximumDOP853(_MaximumNorm, DOP853):
    """Dormand-Prince 8(5,3), its two error estimates combined as in SciPy's."""

    def _estimate_error_norm(self, K: FloatArray, h: float, scale: FloatArray) -> float:
        fifth, third = self._size(np.dot(K.T, self.E5) / scale), self._size(np.dot(K.T, self.E3) / scale)
        return _rounded(abs(h) * fifth**2 / math.hypot(fifth, 0.1 * third)) if fifth else 0.0


SOLVERS: dict[str, type[OdeSolver]] = {
    "RK45": MaximumRK45,
    "RK23": MaximumRK23,
    "DOP853": MaximumDOP853,
    "Radau": Radau,
    "BDF": BDF,
    "LSODA": LSODA,
}
"""The integrators by the names that SciPy gives them."""

EXPLICIT = ("RK45", "RK23", "DOP853")
"""Methods that control the largest error, and reject a step in which a velocity is NaN."""

ONE_STEP = (*EXPLICIT, "Radau")
"""Methods whose interpolants are less accurate than the ends of their steps."""


def absolute_tolerance(method: str, tolerance: float, n: int) -> float:
    """Return the `atol` with which a method keeps the error of each of `n` components below `tolerance`."""
    return tolerance if method in EXPLICIT else tolerance / math.sqrt(max(n, 1))


_STABLE = {"RK45": 3.25, "DOP853": 6.1}
"""Where the negative real axis leaves each pair's region of stability, about."""

WATCHED = tuple(_STABLE)
"""Methods whose steps show whether the problem is stiff."""


class StiffnessWatch:
    """Tells from its steps that an explicit method is held back by stability, not by accuracy.

    The two last stages of a Dormand-Prince step stand at the same time: the difference of their slopes
    over that of their arguments estimates the largest rate. Steps as long as stability allows, fifteen of
    them without six others in a row, are a sign of stiffness (Hairer and Wanner 1996, section IV.2).
    """

    def __init__(self, method: str) -> None:
        self.limit = _STABLE[method]
        self.stiff = self.others = 0

    def sees(self, stepper: Any) -> bool:
        """Take the step that `stepper` has just made into account; tell whether the problem is stiff."""
        h, last = stepper.h_previous, stepper.n_stages - 1
        argument = stepper.y_old + h * (stepper.K[:last].T @ stepper.A[last, :last])
        slopes = stepper._size(stepper.f - stepper.K[last])
        apart = stepper._size(stepper.y - argument)
        if h * slopes > self.limit * apart:
            self.stiff, self.others = self.stiff + 1, 0
        else:
            self.others += 1
            if self.others == 6:
                self.stiff = 0
        return self.stiff >= 15


class _Matrix:
    """diag + left @ right.T as SciPy's implicit methods combine it: multiples and differences."""

    __array_ufunc__ = None  # NumPy's scalars leave the product to `__rmul__`

    def __init__(self, diagonal: Any, left: Any, right: Any) -> None:
        self.diagonal, self.left, self.right = diagonal, left, right

    def __rmul__(self, factor: complex) -> _Matrix:
        return _Matrix(factor * self.diagonal, factor * self.left, self.right)

    def __sub__(self, other: _Matrix) -> _Matrix:
        return _Matrix(
            self.diagonal - other.diagonal,
            np.hstack((self.left, -other.left)),
            np.hstack((self.right, other.right)),
        )

    def factorised(self) -> Callable[[Any], Any]:
        """Return what solves a linear system with this matrix (Sherman-Morrison-Woodbury)."""
        scaled = self.left / self.diagonal[:, None]
        inverse = scaled @ np.linalg.inv(np.eye(scaled.shape[1]) + self.right.T @ scaled)

        def solve(vector: Any) -> Any:
            solution = vector / self.diagonal
            return solution - inverse @ (self.right.T @ solution)

        return solve


def structure_arguments(method: str, jacobian: Jacobian, n: int) -> dict[str, Any]:
    """Return what keeps SciPy's constructor of an implicit method from measuring a dense Jacobian."""
    if method != "LSODA":
        return {"jac": scipy.sparse.csc_array((n, n))}

    def diagonal(t: float, y: FloatArray) -> FloatArray:
        structure = jacobian(t, y)
        own: FloatArray = structure.diagonal + (structure.left * structure.right).sum(axis=1)
        return own[None]

    # The diagonal has to be given: measured by moving all components at once it would be the row sums.
    return {"lband": 0, "uband": 0, "jac": diagonal}


def solve_by_structure(stepper: Any, jacobian: Jacobian) -> None:
    """Let BDF or Radau solve its linear systems by the structure of the Jacobian, in O(N)."""

    def matrix(t: float, y: FloatArray, f: Any = None) -> _Matrix:
        structure = jacobian(t, y)
        return _Matrix(structure.diagonal, structure.left, structure.right)

    n = stepper.n
    stepper.jac, stepper.J = matrix, matrix(stepper.t, stepper.y)
    stepper.I = _Matrix(np.ones(n), np.zeros((n, 0)), np.zeros((n, 0)))
    stepper.lu = _Matrix.factorised
    stepper.solve_lu = lambda solve, vector: solve(vector)
