"""Explicit Runge-Kutta pairs in NumPy: how a step is made from its stages, its error, and its interpolant.

References
----------
Tsitouras, Ch. (2011). Runge-Kutta pairs of order 5(4) satisfying only the first column simplifying
assumption. Computers & Mathematics with Applications 62, 770-775.

Hairer, E., Nørsett, S. P. and Wanner, G. (1993). Solving Ordinary Differential Equations I, section II.5.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import numpy as np
from scipy.integrate import DOP853 as SCIPY_DOP853

from evodyn.core.arrays import FloatArray
from evodyn.solvers.protocol import RightHandSide
from evodyn.solvers.tableaus import TSIT5 as TABLEAU

__all__ = ["DOP853", "TSIT5", "Pair"]

_QUARTIC = np.array(
    [
        [1.0, -2.763706197274826, 2.9132554618219126, -1.0530884977290216],
        [0.0, 0.1317, -0.2234, 0.1017],
        [0.0, 3.930296236894751, -5.941033872131505, 2.490627285651253],
        [0.0, -12.411077166933676, 30.338188630282318, -16.548102889244902],
        [0.0, 37.50931341651104, -88.1789048947664, 47.37952196281928],
        [0.0, -27.896526289197286, 65.09189467479368, -34.87065786149661],
        [0.0, 1.5, -4.0, 2.5],
    ]
)
"""Weights of the stages of Tsit5 at a place within the step, by the powers of the place, from the first."""


Interpolant = Callable[[FloatArray], FloatArray]


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """An explicit pair whose last stage is the first of the next step; the last two are at its end.

    Attributes
    ----------
    name : str
    order : int
        Of the error that is estimated, in powers of the step.
    a : numpy.ndarray, shape (s, s)
        Weights of the stages; those of the step itself in the last row.
    c : tuple of float, length s
        Places of the stages within the step.
    errors : numpy.ndarray, shape (e, s)
        Weights of the estimates of the error.
    looked : tuple of float
        Places that tell what a step sees of a change in time.
    stability : float
        Where the negative real axis leaves the region of stability, about.
    inside : callable
        ``inside(rhs, t, h, y, new, stages)`` returns the interpolant of a step: the states, shape (m, n), at
        times, shape (m,), within it.
    """

    name: str
    order: int
    a: FloatArray
    c: tuple[float, ...]
    errors: FloatArray
    looked: tuple[float, ...]
    stability: float
    inside: Callable[..., Interpolant]

    def error(self, sizes: list[float]) -> float:
        """Return the size of the error from those of its estimates."""
        if len(sizes) == 1:
            return sizes[0]
        fifth, third = sizes
        return fifth**2 / math.hypot(fifth, 0.1 * third) if fifth else 0.0


def _inside_tsit5(
    rhs: RightHandSide, t: float, h: float, y: FloatArray, new: FloatArray, stages: FloatArray
) -> Interpolant:
    return functools.partial(_of_powers, t, h, y, np.dot(h * _QUARTIC.T, stages))


def _inside_dop853(
    rhs: RightHandSide, t: float, h: float, y: FloatArray, new: FloatArray, stages: FloatArray
) -> Interpolant:
    weights, places = SCIPY_DOP853.A_EXTRA, SCIPY_DOP853.C_EXTRA
    more = np.empty((16, len(y)))
    more[:13] = stages
    for k in range(3):
        argument = np.dot(h * weights[k, : 13 + k], more[: 13 + k])
        argument += y
        more[13 + k] = rhs(t + places[k] * h, argument)
    parts = np.empty((7, len(y)))
    parts[0] = new - y
    parts[1] = h * stages[0] - parts[0]
    parts[2] = 2.0 * parts[0] - h * (stages[12] + stages[0])
    np.dot(h * SCIPY_DOP853.D, more, out=parts[3:])
    return functools.partial(_of_both_ends, t, h, y, parts)


def _of_powers(t: float, h: float, y: FloatArray, parts: FloatArray, times: FloatArray) -> FloatArray:
    """Return y + Σ θ^k part_k, from k = 1 on."""
    place = (times - t) / h
    states: FloatArray = np.dot(place[:, None] ** np.arange(1, 5), parts)
    states += y
    return states


def _of_both_ends(t: float, h: float, y: FloatArray, parts: FloatArray, times: FloatArray) -> FloatArray:
    """Return y + θ (part_0 + (1 - θ) (part_1 + θ (part_2 + ...)))."""
    place = (times - t) / h
    weights = np.cumprod([place, 1.0 - place] * 3 + [place], axis=0)
    states: FloatArray = np.dot(weights.T, parts)
    states += y
    return states


TSIT5 = Pair(
    "Tsit5", 5, TABLEAU.a, tuple(TABLEAU.c.tolist()), TABLEAU.error[None], (0.327, 0.9), 3.25, _inside_tsit5
)

_EIGHTH = np.zeros((13, 13))
_EIGHTH[:12, :12], _EIGHTH[12, :12] = SCIPY_DOP853.A, SCIPY_DOP853.B

DOP853 = Pair(
    "DOP853",
    8,
    _EIGHTH,
    (*SCIPY_DOP853.C.tolist(), 1.0),
    np.stack((SCIPY_DOP853.E5, SCIPY_DOP853.E3)),
    tuple(SCIPY_DOP853.C[[4, 8]].tolist()),
    6.1,
    _inside_dop853,
)
