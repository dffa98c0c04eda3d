"""The laws from which contributions are drawn: mean 1 and a chosen coefficient of variation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from evodyn.core import validation
from evodyn.core.arrays import FloatArray

__all__ = ["KINDS", "contributions"]


def _uniform(rng: np.random.Generator, n: int, cv: float, fraction: float) -> FloatArray:
    half_width = math.sqrt(3) * cv
    return rng.uniform(1 - half_width, 1 + half_width, n)


def _gaussian(rng: np.random.Generator, n: int, cv: float, fraction: float) -> FloatArray:
    return rng.normal(1.0, cv, n)


def _lognormal(rng: np.random.Generator, n: int, cv: float, fraction: float) -> FloatArray:
    variance = math.log1p(cv**2)
    return rng.lognormal(-variance / 2, math.sqrt(variance), n)


def _pareto(rng: np.random.Generator, n: int, cv: float, fraction: float) -> FloatArray:
    # In terms of 1/a, which stays finite as the spread vanishes.
    index = 1 / pareto_shape(cv)
    return np.exp(index * rng.standard_exponential(n)) * (1 - index)


def _two_class(rng: np.random.Generator, n: int, cv: float, fraction: float) -> FloatArray:
    low, high = two_class_levels(cv, fraction)
    return np.where(rng.random(n) < fraction, high, low)


def _neutral(rng: np.random.Generator, n: int, cv: float, fraction: float) -> FloatArray:
    return np.ones(n)


def pareto_shape(heterogeneity: float) -> float:
    """Return the Pareto exponent a > 2 whose coefficient of variation, 1/√(a(a-2)), is `heterogeneity`."""
    return 1 + math.hypot(1, 1 / heterogeneity)


def two_class_levels(heterogeneity: float, fraction: float) -> tuple[float, float]:
    """Return the low and the high contribution of the two-class law."""
    odds = math.sqrt(fraction / (1 - fraction))
    return 1 - heterogeneity * odds, 1 + heterogeneity / odds


_DRAWS: dict[str, Callable[[np.random.Generator, int, float, float], FloatArray]] = {
    "uniform": _uniform,
    "gaussian": _gaussian,
    "lognormal": _lognormal,
    "pareto": _pareto,
    "two_class": _two_class,
    "neutral": _neutral,
}
KINDS = tuple(_DRAWS)
"""The names of the laws."""


def contributions(
    kind: str, *, n: int, heterogeneity: float, rng: Any = None, fraction: float = 0.5
) -> FloatArray:
    """Draw the contributions c_i of `n` groups from a law with mean 1 and a chosen spread.

    Mean and coefficient of variation are those of the *law*; the sample is never rescaled, so that its
    members stay independent.

    Parameters
    ----------
    kind : {"uniform", "gaussian", "lognormal", "pareto", "two_class", "neutral"}
        The law. "gaussian" can go negative at every heterogeneity h > 0, "uniform" above h = 1/√3, and
        "two_class" above h = √((1 - fraction)/fraction); "lognormal" and "pareto" (exponent
        1 + √(1 + 1/h²) > 2) are positive always. "two_class" takes two values, the higher with
        probability `fraction`. "neutral" is 1 for every group.
    n : int
        Number of groups, at least 1.
    heterogeneity : float
        Coefficient of variation h >= 0 (standard deviation over mean). 0 gives ones for every law.
    rng : optional
        Anything that `numpy.random.default_rng` takes: a seed, a `SeedSequence`, a `Generator`.
    fraction : float, optional
        Share of the higher class of "two_class", between 0 and 1 exclusive.

    Returns
    -------
    numpy.ndarray, shape (n,)
        Contributions, in units of fitness.

    Raises
    ------
    ValueError
        If an argument is outside its range, `kind` is unknown, or a "neutral" law is asked to vary.

    Examples
    --------
    >>> contributions("lognormal", n=100_000, heterogeneity=0.5, rng=0).std().round(2)
    np.float64(0.5)
    >>> contributions("pareto", n=3, heterogeneity=0.0, rng=0)
    array([1., 1., 1.])
    """
    validation.choice("kind", kind, KINDS)
    n = validation.count("n", n)
    heterogeneity = validation.non_negative("heterogeneity", heterogeneity)
    fraction = validation.positive("fraction", fraction)
    if fraction >= 1:
        raise ValueError(f"fraction is {fraction!r}; expected a number between 0 and 1, both excluded.")
    if kind == "neutral" and heterogeneity:
        raise ValueError(
            f"heterogeneity is {heterogeneity!r} and kind 'neutral'; expected 0, "
            "for neutral groups do not differ: choose another kind."
        )
    if heterogeneity == 0:
        return np.ones(n)
    return _DRAWS[kind](np.random.default_rng(rng), n, heterogeneity, fraction)
