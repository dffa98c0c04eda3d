"""When groups fall below a threshold under constant fitness: exactly, and asymptotically."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import FloatArray

__all__ = ["asymptotic_extinction_times", "exact_extinction_times"]

_NEWTON_STEPS = 100

_ROWS = 256  # extinction times found at once: rows of an array with one column per group


def exact_extinction_times(contribution: npt.ArrayLike, p0: npt.ArrayLike, threshold: float) -> FloatArray:
    """Return when each mass first falls strictly below `threshold` under Eq. 6 with constant fitness.

    p_i(t) = P p_i(0) exp(c_i t)/Σ_j p_j(0) exp(c_j t), and ln p_i is concave in t: a group that starts
    above falls through the threshold at most once, at a root to which Newton's iteration from the
    asymptotic time, an upper bound, descends without fail.

    Parameters
    ----------
    contribution : array_like, shape (N,)
        c_i.
    p0 : array_like, shape (N,)
        Initial masses >= 0.
    threshold : float
        ε > 0.

    Returns
    -------
    numpy.ndarray, shape (N,)
        Times from the start; 0 for groups that start below the threshold, inf for those that never fall.

    Raises
    ------
    ValueError
        If the shapes differ, a value is out of range, or no group has mass.

    Examples
    --------
    Two equal groups with a gap of 1: p_2 = 2/(1 + e^t) reaches 0.1 at t = ln 19.

    >>> exact_extinction_times([1.0, 0.0], [1.0, 1.0], 0.1).round(6)
    array([     inf, 2.944439])
    """
    c, logs, total, log_threshold = _constant_fitness(contribution, p0, threshold)
    times = asymptotic_extinction_times(contribution, p0, threshold)
    room = math.log(total) - log_threshold
    extinct = np.asarray(p0) < threshold
    times[extinct] = 0.0
    pending = np.flatnonzero(np.isfinite(times) & ~extinct)
    for rows in np.array_split(pending, max(1, -(-len(pending) // _ROWS))):
        times[rows] = _newton_roots(times[rows], c, logs, rows, room)
    return times


def _newton_roots(
    times: FloatArray, c: FloatArray, logs: FloatArray, rows: npt.NDArray[np.intp], room: float
) -> FloatArray:
    """Return the roots of ln p_i(t) = ln ε, from times at or after them."""
    for _ in range(_NEWTON_STEPS):
        exponents = logs + np.multiply.outer(times, c)
        top = exponents.max(axis=1, keepdims=True)
        weights = np.exp(exponents - top)
        sums = weights.sum(axis=1)
        heights = room + exponents[np.arange(len(rows)), rows] - top[:, 0] - np.log(sums)
        slopes = c[rows] - (weights @ c) / sums
        following = np.where(slopes < 0, times - heights / np.where(slopes < 0, slopes, -1.0), times)
        following = np.maximum(following, 0.0)
        if (np.abs(following - times) <= 4e-16 * np.abs(times)).all():
            break
        times = following
    return times


def asymptotic_extinction_times(
    contribution: npt.ArrayLike, p0: npt.ArrayLike, threshold: float
) -> FloatArray:
    """Return [ln(p_i(0)/p_*(0)) + ln(P/ε)]/(c_* - c_i), the time to `threshold` when only the best count.

    p_*(0) is the mass of all groups that tie for best. The exact time is never later, and the difference
    vanishes as ε does.

    Parameters
    ----------
    contribution, p0, threshold
        As for `exact_extinction_times`.

    Returns
    -------
    numpy.ndarray, shape (N,)
        Times; inf for the best groups, at least 0.

    Raises
    ------
    ValueError
        As for `exact_extinction_times`.

    Examples
    --------
    >>> asymptotic_extinction_times([1.0, 0.0], [1.0, 1.0], 0.1).round(6)
    array([     inf, 2.995732])
    """
    c, logs, total, log_threshold = _constant_fitness(contribution, p0, threshold)
    present = np.isfinite(logs)
    best = present & (c == c[present].max())
    gap = c[best][0] - c
    height = logs - np.logaddexp.reduce(logs[best]) + math.log(total) - log_threshold
    times = np.full(len(c), math.inf)
    falling = gap > 0
    times[falling] = np.maximum(height[falling], 0.0) / gap[falling]
    times[~present] = 0.0
    return times


def _constant_fitness(
    contribution: npt.ArrayLike, p0: npt.ArrayLike, threshold: float
) -> tuple[FloatArray, FloatArray, float, float]:
    c = validation.finite_array("contribution", contribution, ndim=1)
    masses = validation.finite_array("p0", p0, ndim=1, least=0.0)
    if masses.shape != c.shape:
        raise ValueError(f"p0 has shape {masses.shape}; expected {c.shape}, one mass for each contribution.")
    total = float(masses.sum())
    if total == 0:
        raise ValueError("p0 is 0 for every group; expected some mass.")
    with np.errstate(divide="ignore"):
        logs = np.log(masses)
    return c - c.max(), logs - math.log(total), total, math.log(validation.positive("threshold", threshold))
