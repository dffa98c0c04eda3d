"""Intervals of a few independent values: of their mean, and of one more value; of a mean fraction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["Interval", "interval", "interval_of_fraction"]

_FEW = 10  # counted in all, below which an interval is that of a count


@dataclasses.dataclass(frozen=True)
class Interval:
    """Mean of several values, with its interval and that of one further value.

    Parameters
    ----------
    mean : float
        The mean.
    of_mean : tuple of float
        Confidence interval of the mean.
    of_next : tuple of float
        Prediction interval of one further value: a single value of others is to be judged by this one.
    """

    mean: float
    of_mean: tuple[float, float]
    of_next: tuple[float, float]


def interval(values: npt.ArrayLike | Sequence[float], *, level: float = 0.95) -> Interval:
    """Return mean and intervals of independent values, by Student's t (exact for normal values).

    Parameters
    ----------
    values : array_like, shape (n,)
        At least two.
    level : float, optional
        Probability of both intervals.

    Raises
    ------
    ValueError
        If there are fewer than two values.

    Examples
    --------
    >>> interval([1.0, 3.0]).of_mean
    (-10.706..., 14.706...)
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values has shape {values.shape}; expected at least two values of one axis.")
    n = len(values)
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    quantile = float(stats.t.ppf((1 + level) / 2, n - 1))

    half = quantile * (deviation / math.sqrt(n))
    half_of_next = quantile * deviation * math.sqrt(1 + 1 / n)
    return Interval(mean, (mean - half, mean + half), (mean - half_of_next, mean + half_of_next))


def interval_of_fraction(counts: npt.ArrayLike, of: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return a confidence interval of the mean fraction of groups over independent populations.

    Student's t; where fewer than ten groups are counted, or left out, in all populations together, the exact
    interval of a count, which is wider than need be where groups vary less than if they were independent.

    Parameters
    ----------
    counts : array_like of int, shape (n,)
        How many groups of each population.
    of : int
        Groups of a population.
    level : float, optional
        Probability of the interval.

    Returns
    -------
    low, high : float
        Its ends, between 0 and 1; NaN for a single population of which many groups are counted.

    Examples
    --------
    >>> low, high = interval_of_fraction([0, 0, 0], 20)
    >>> low, round(high, 6) == round(1 - 0.025 ** (1 / 60), 6)      # nobody of 60
    (0.0, True)
    """
    counts = np.asarray(counts)
    count, total = int(counts.sum()), of * len(counts)
    if min(count, total - count) < _FEW:
        tail = (1 - level) / 2
        low = stats.beta.ppf(tail, count, total - count + 1) if count else 0.0
        high = stats.beta.ppf(1 - tail, count + 1, total - count) if count < total else 1.0
        return float(low), float(high)
    if len(counts) < 2:
        return float("nan"), float("nan")
    low, high = interval(counts / of, level=level).of_mean
    return max(low, 0.0), min(high, 1.0)
