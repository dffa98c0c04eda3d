"""SciPy's integrators as the flow uses them: explicit Runge-Kutta methods in the maximum norm.

SciPy controls the root mean square of the errors of all components, so that in a system of n groups one
group's error may be √n times the tolerance. The explicit methods here control the largest error instead.
The implicit and multistep ones keep SciPy's norm, with tolerances divided by √n: the same guarantee, at
the cost of shorter steps.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
from scipy.integrate import BDF, DOP853, LSODA, RK23, RK45, OdeSolver, Radau

from evodyn.core.arrays import FloatArray
from evodyn.solvers.protocol import Jacobian, System

__all__ = ["LARGEST_DENSE", "METHODS", "SMALLEST_RTOL", "ScipyMethod", "ScipyStepper"]

LARGEST_DENSE = 300
"""Most components for which an implicit method measures a dense Jacobian though the structure is known."""

SMALLEST_RTOL = 100 * float(np.finfo(np.float64).eps)
"""SciPy's smallest; it multiplies |ln p|, which says nothing about the accuracy of p."""


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


@dataclasses.dataclass(frozen=True)
class ScipyMethod:
    """One of SciPy's integrators, or a class of a user's own that is built like them.

    Parameters
    ----------
    name : str
    solver : type of scipy.integrate.OdeSolver
    explicit, one_step : bool
        See `evodyn.solvers.protocol.Method`.
    stability : float, optional
        Where the negative real axis leaves the region of stability, about, if it ends with two stages at
        the same time.
    """

    name: str
    solver: type[OdeSolver]
    explicit: bool = False
    one_step: bool = True
    stability: float = math.inf

    @property
    def tells_stiffness(self) -> bool:
        """Whether steps show that stability held them back."""
        return math.isfinite(self.stability)

    def tolerance(self, bound: float, n: int, *, drift_free: bool) -> float:
        """Return the tolerance with which the error of each of `n` components stays below `bound`."""
        if self.explicit:
            return bound
        tolerance = bound / math.sqrt(max(n, 1))
        # An error of ln p_i is that of u_i less the mean over all, which may be as large again.
        return 0.5 * tolerance if drift_free else tolerance

    def start(
        self,
        system: System,
        t: float,
        y: FloatArray,
        stop: float,
        *,
        longest: float = math.inf,
        first: float | None = None,
    ) -> ScipyStepper:
        """Begin at `t` and `y`, to go to `stop` in steps of at most `longest`, `first` the first."""
        multistep = self.solver is LSODA
        arguments: dict[str, Any] = {
            "rtol": system.rtol if multistep else SMALLEST_RTOL,
            "atol": system.atol,
            "max_step": min(system.max_step, longest),
        }
        if first is not None:
            arguments["first_step"] = first
        structure = None if self.explicit else system.jacobian
        if structure is not None:
            unused = scipy.sparse.csc_array((len(y), len(y)))
            arguments |= _banded(structure) if multistep else {"jac": unused}
        inner: Any = self.solver(system.rhs, t, y, stop, **arguments)
        if not multistep:
            # SciPy's constructors of the implicit methods take a single number only.
            inner.rtol = system.rtol
            if structure is not None:
                _solve_by_structure(inner, structure)
        if self.explicit:
            inner.drift_free = system.drift_free
            inner.fun = system.rhs  # without SciPy's two wrappers: ours counts, and returns arrays
        return ScipyStepper(inner, self, warns=multistep)


class ScipyStepper:
    """A SciPy integrator at work."""

    def __init__(self, inner: Any, method: ScipyMethod, *, warns: bool) -> None:
        self.inner = inner
        self.name, self.again = method.name, method
        self.stability = method.stability
        self.warns = warns
        self.looked: tuple[float, ...] = tuple(inner.C[1:]) if method.explicit else ()

    @property
    def t(self) -> float:
        """Where it stands."""
        return float(self.inner.t)

    @property
    def y(self) -> FloatArray:
        """The state there, shape (n,)."""
        return np.array(self.inner.y)

    @property
    def status(self) -> str:
        """Either "running", "finished" or "failed"."""
        return str(self.inner.status)

    def step(self) -> str:
        """Take one step; return what the method has to say, empty if nothing."""
        if not self.warns:
            return self.inner.step() or ""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            message = self.inner.step()
        return message or "; ".join(str(w.message) for w in caught)

    def interpolant(self) -> Callable[[FloatArray], FloatArray]:
        """Return the states, shape (m, n), at times, shape (m,), within the last step."""
        return functools.partial(_rows, self.inner.dense_output())

    def held_back(self) -> bool:
        """Tell whether the last step was as long as stability allows.

        The two last stages of a Dormand-Prince step stand at the same time: the difference of their slopes
        over that of their arguments estimates the largest rate.
        """
        inner = self.inner
        h, last = inner.h_previous, inner.n_stages - 1
        argument = inner.y_old + h * (inner.K[:last].T @ inner.A[last, :last])
        slopes = inner._size(inner.f - inner.K[last])
        apart = inner._size(inner.y - argument)
        return bool(h * slopes > self.stability * apart)


def _rows(output: Any, t: FloatArray) -> FloatArray:
    """Return what SciPy gives as columns, in a function that can be pickled."""
    rows: FloatArray = output(t).T
    return rows


METHODS: dict[str, ScipyMethod] = {
    method.name: method
    for method in (
        ScipyMethod("RK45", MaximumRK45, explicit=True, stability=3.25),
        ScipyMethod("RK23", MaximumRK23, explicit=True),
        ScipyMethod("DOP853", MaximumDOP853, explicit=True, stability=6.1),
        ScipyMethod("Radau", Radau),
        ScipyMethod("BDF", BDF, one_step=False),
        ScipyMethod("LSODA", LSODA, one_step=False),
    )
}
"""The integrators by the names that SciPy gives them."""


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


def _banded(jacobian: Jacobian) -> dict[str, Any]:
    """Return what keeps LSODA from measuring a dense Jacobian: it is given the diagonal alone.

    Measured by moving all components at once, the diagonal would be the row sums.
    """

    def diagonal(t: float, y: FloatArray) -> FloatArray:
        structure = jacobian(t, y)
        own: FloatArray = structure.diagonal + (structure.left * structure.right).sum(axis=1)
        return own[None]

    return {"lband": 0, "uband": 0, "jac": diagonal}


def _solve_by_structure(stepper: Any, jacobian: Jacobian) -> None:
    """Let BDF or Radau solve its linear systems by the structure of the Jacobian, in O(N)."""

    def matrix(t: float, y: FloatArray, f: Any = None) -> _Matrix:
        structure = jacobian(t, y)
        return _Matrix(structure.diagonal, structure.left, structure.right)

    n = stepper.n
    stepper.jac, stepper.J = matrix, matrix(stepper.t, stepper.y)
    stepper.I = _Matrix(np.ones(n), np.zeros((n, 0)), np.zeros((n, 0)))
    stepper.lu = _Matrix.factorised
    stepper.solve_lu = lambda solve, vector: solve(vector)
