"""Where curves cross zero: many curves at once, each by its own Chebyshev interpolant.

A curve that is smooth over an interval is a short sum of Chebyshev polynomials there. The sum of its
coefficients' sizes bounds it, which leaves out all curves that cannot reach zero, and the others are refined
together, at a cost that does not depend on how many curves there are in all.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray

__all__ = ["Interpolant", "find_crossings", "interpolants", "may_cross"]

Curves = Callable[[FloatArray], FloatArray]
Crossing = tuple[float, int, int]

_DEGREE = 10
_SAMPLES = 33  # between which a resolved curve turns at most once
_HALVINGS = 40
_ROUGH = 5  # halvings after which a curve is left to bisection: it has a kink, or rises from nothing


def _places(count: int) -> FloatArray:
    """Return Chebyshev's places in [-1, 1], both ends among them."""
    return np.asarray(np.cos(np.pi * np.arange(count - 1, -1, -1) / (count - 1)), dtype=np.float64)


def _vandermonde(x: FloatArray) -> FloatArray:
    return np.asarray(np.polynomial.chebyshev.chebvander(x, _DEGREE), dtype=np.float64)


@functools.cache
def _tables() -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return nodes, the matrix from values at them to coefficients, and samples with the matrix to values."""
    nodes, samples = _places(_DEGREE + 1), _places(_SAMPLES)
    inverse: FloatArray = np.asarray(np.linalg.inv(_vandermonde(nodes)), dtype=np.float64)
    return nodes, inverse, samples, _vandermonde(samples)


@dataclasses.dataclass(frozen=True, eq=False)
class Interpolant:
    """Chebyshev sums of some curves on [left, right].

    Parameters
    ----------
    left, right : float
        The interval.
    curves : array of int, shape (G,)
        Which curves.
    coefficients : array, shape (K, G)
        One column for each.
    values : array, shape (K, G)
        The curves themselves at the nodes, both ends among them.
    resolved : array of bool, shape (G,)
        Whether the sums are the curves to the resolution asked for.
    """

    left: float
    right: float
    curves: npt.NDArray[np.intp]
    coefficients: FloatArray
    values: FloatArray
    resolved: npt.NDArray[np.bool_]

    def times(self, x: FloatArray) -> FloatArray:
        """Return times for places in [-1, 1]."""
        return self.left + (self.right - self.left) * (0.5 * (1 + x))

    def part(self, mask: npt.NDArray[np.bool_]) -> Interpolant:
        """Return the interpolants of some of the curves."""
        kept = self.curves[mask], self.coefficients[:, mask], self.values[:, mask], self.resolved[mask]
        return Interpolant(self.left, self.right, *kept)

    def at(self, t: FloatArray, columns: Any = slice(None)) -> tuple[FloatArray, FloatArray]:
        """Return values and slopes of columns at one time each."""
        width = self.right - self.left
        x = np.clip(2 * (t - self.left) / width - 1, -1.0, 1.0)
        chosen = self.coefficients[:, columns]
        return _sum(chosen, x), _sum(_derivative(chosen), x) * (2 / width)


def _sum(coefficients: FloatArray, x: FloatArray) -> FloatArray:
    """Return each column's sum at its own place, by Clenshaw's recurrence."""
    later = np.zeros(np.broadcast_shapes(coefficients.shape[1:], np.shape(x)))
    last = later
    for row in coefficients[:0:-1]:
        later, last = row + 2 * x * later - last, later
    value: FloatArray = coefficients[0] + x * later - last
    return value


def _derivative(coefficients: FloatArray) -> FloatArray:
    return np.asarray(np.polynomial.chebyshev.chebder(coefficients, axis=0), dtype=np.float64)


def interpolants(
    curves: Curves,
    start: float,
    end: float,
    *,
    wanted: Callable[[FloatArray], npt.NDArray[np.bool_]] | None = None,
    halvings: int = _HALVINGS,
    resolution: float = 1e-13,
) -> Iterator[Interpolant]:
    """Return interpolants that resolve `curves` on [start, end], in order of time.

    Parameters
    ----------
    curves : callable
        Curves of shape (len(t), N) at an array of times.
    start, end : float
        The interval.
    wanted : callable, optional
        Coefficients, shape (K, N), to a mask of the curves to go on with; all by default.
    halvings : int, optional
        How often the interval may be halved where a curve is not resolved.
    resolution : float, optional
        What is left of the last coefficients, relative to the largest, or to 1 where that is less.
    """
    nodes, to_coefficients, _, _ = _tables()
    everything: npt.NDArray[np.intp] | None = None
    pending = [(start, end, everything, 0)]
    while pending:
        left, right, chosen, depth = pending.pop()
        times = left + (right - left) * (0.5 * (1 + nodes))
        times[0], times[-1] = left, right
        values = curves(times)
        if chosen is None:
            chosen = np.arange(values.shape[1])
        else:
            values = values[:, chosen]
        with np.errstate(invalid="ignore"):
            coefficients = to_coefficients @ values
            kept = np.isfinite(coefficients).all(axis=0)
            if wanted is not None:
                kept &= wanted(coefficients)
            size = np.abs(coefficients)
            rough = kept & (size[-2:].max(axis=0) > resolution * np.maximum(size.max(axis=0), 1.0))
        middle = 0.5 * (left + right)
        final = depth >= halvings or not left < middle < right
        if rough.any() and not final:
            pending.append((middle, right, chosen[rough], depth + 1))
            pending.append((left, middle, chosen[rough], depth + 1))
        done = kept if final else kept & ~rough
        if done.any():
            yield Interpolant(left, right, chosen[done], coefficients[:, done], values[:, done], ~rough[done])


def _reaches_zero(coefficients: FloatArray) -> npt.NDArray[np.bool_]:
    reach = np.abs(coefficients[1:]).sum(axis=0)
    return np.asarray(np.abs(coefficients[0]) <= reach * (1 + 1e-9))


def may_cross(curves: Curves, start: float, end: float) -> npt.NDArray[np.intp]:
    """Return which curves may change sign in (start, end], in order."""
    pieces = [piece.curves for piece in interpolants(curves, start, end, wanted=_reaches_zero, halvings=0)]
    return np.concatenate([np.empty(0, dtype=np.intp), *pieces])


def find_crossings(curves: Curves, start: float, end: float, *, resolution: float = 1e-13) -> list[Crossing]:
    """Find where smooth curves change sign in (start, end], pairs of crossings close together included.

    Parameters
    ----------
    curves : callable
        Curves of shape (len(t), N) at an array of times; a curve is below where it is < 0.
    start, end : float
        The interval, such as one step of an integrator.
    resolution : float, optional
        Error of the curves that does not matter, relative to their size, or to 1 where that is less.

    Returns
    -------
    list of (time, curve, direction)
        Sorted by time; direction -1 downwards, +1 upwards.

    Examples
    --------
    >>> import numpy as np
    >>> parabola = lambda t: ((t - 0.55) ** 2 - 1e-6)[:, None]
    >>> [(round(t, 6), d) for t, _, d in find_crossings(parabola, 0.0, 1.0)]
    [(0.549, -1), (0.551, 1)]
    """
    found: list[Crossing] = []
    pieces = interpolants(curves, start, end, wanted=_reaches_zero, halvings=_ROUGH, resolution=resolution)
    for piece in pieces:
        found += _crossings(piece.part(piece.resolved)) + _bisected(piece.part(~piece.resolved), curves)
    return sorted(found)


def _bisected(piece: Interpolant, curves: Curves) -> list[Crossing]:
    """Return changes of sign between the nodes, refined on the curves themselves."""
    nodes = _tables()[0]
    below = piece.values < 0
    row, column = np.nonzero(below[1:] != below[:-1])
    if not len(row):
        return []
    times = piece.times(nodes)
    times[0], times[-1] = piece.left, piece.right

    def value(t: FloatArray, curve: npt.NDArray[np.intp]) -> FloatArray:
        picked: FloatArray = curves(t)[np.arange(len(t)), curve]
        return picked

    roots = _refined(value, times[row], times[row + 1], piece.curves[column])
    falls = below[row + 1, column]
    return list(
        zip(roots.tolist(), piece.curves[column].tolist(), np.where(falls, -1, 1).tolist(), strict=True)
    )


def _crossings(piece: Interpolant) -> list[Crossing]:
    _, _, samples, to_values = _tables()
    values = to_values @ piece.coefficients
    values[[0, -1]] = piece.values[[0, -1]]  # known better than any sum tells
    below = values < 0
    row, column = np.nonzero(below[1:] != below[:-1])
    left, right, falls = samples[row], samples[row + 1], below[row + 1, column]
    # Between two samples of one sign the curve may turn beyond zero and back.
    slopes = to_values[:, :-1] @ _derivative(piece.coefficients)
    towards = np.where(below, slopes > 0, slopes < 0)
    turns = (below[1:] == below[:-1]) & towards[:-1] & ~towards[1:]
    k, i = np.nonzero(turns)
    if len(k):
        turning = _turning_points(piece, samples[k], samples[k + 1], i)
        beyond = (_sum(piece.coefficients[:, i], turning) < 0) != below[k, i]
        k, i, turning = k[beyond], i[beyond], turning[beyond]
        left = np.concatenate((left, samples[k], turning))
        right = np.concatenate((right, turning, samples[k + 1]))
        column = np.concatenate((column, i, i))
        falls = np.concatenate((falls, ~below[k, i], below[k, i]))
    if not len(left):
        return []
    times = piece.times(_roots(piece, left, right, column))
    return list(
        zip(times.tolist(), piece.curves[column].tolist(), np.where(falls, -1, 1).tolist(), strict=True)
    )


def _turning_points(
    piece: Interpolant, left: FloatArray, right: FloatArray, columns: npt.NDArray[np.intp]
) -> FloatArray:
    slopes = _derivative(piece.coefficients[:, columns])
    rising = _sum(slopes, left) > 0
    for _ in range(52):
        middle = 0.5 * (left + right)
        before = (_sum(slopes, middle) > 0) == rising
        left, right = np.where(before, middle, left), np.where(before, right, middle)
    return 0.5 * (left + right)


def _roots(
    piece: Interpolant, left: FloatArray, right: FloatArray, columns: npt.NDArray[np.intp]
) -> FloatArray:
    return _refined(lambda x, column: _sum(piece.coefficients[:, column], x), left, right, columns)


def _refined(
    value: Callable[[FloatArray, npt.NDArray[np.intp]], FloatArray],
    left: FloatArray,
    right: FloatArray,
    which: npt.NDArray[np.intp],
) -> FloatArray:
    """Refine all brackets together by Chandrupatla's method."""
    from scipy.optimize.elementwise import find_root

    roots: Any = find_root(value, (left, right), args=(which,))
    if roots.success.all():
        return np.asarray(roots.x, dtype=np.float64)
    # An end where the curve is zero to rounding is no bracket: the root is there.
    nearest = np.where(np.abs(value(left, which)) <= np.abs(value(right, which)), left, right)
    return np.where(roots.success, roots.x, nearest)
