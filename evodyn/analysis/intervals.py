"""Intervals of a few independent values: of their mean, and of one more value."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

__all__ = ["Interval", "interval"]


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
