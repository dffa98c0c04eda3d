"""SciPy's integrators as the flow uses them: explicit Runge-Kutta methods in the maximum norm.

SciPy controls the root mean square of the errors of all components, so that in a system of n groups one
group's error may be √n times the tolerance. The explicit methods here control the largest error instead.
The implicit and multistep ones keep SciPy's norm, with tolerances divided by √n: the same guarantee, at
the cost of shorter steps.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.integrate import BDF, DOP853, LSODA, RK23, RK45, OdeSolver, Radau

from evodyn.arrays import FloatArray

__all__ = ["EXPLICIT", "ONE_STEP", "SOLVERS", "absolute_tolerance"]


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
