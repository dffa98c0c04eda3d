"""How many groups survive at equilibrium, for a law of contributions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.optimize
import scipy.stats

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.model.laws import KINDS, pareto_shape, two_class_levels

__all__ = ["equilibrium_sparsity"]

_NODES = 200


@dataclasses.dataclass(frozen=True)
class _Law:
    """A law of contributions: its distribution, and the mean of (c - ν)_+ as a function of ν."""

    cdf: Callable[[float], float]
    below: Callable[[float], float]  # P(c < x), which differs at atoms
    quantile: Callable[[FloatArray], FloatArray]
    mean_excess: Callable[[float], float]


def _law(kind: str, heterogeneity: float, fraction: float) -> _Law:
    if heterogeneity == 0:
        return _atoms((1.0,), (1.0,))
    if kind == "two_class":
        return _atoms(two_class_levels(heterogeneity, fraction), (1 - fraction, fraction))
    if kind == "uniform":
        half = math.sqrt(3) * heterogeneity
        top = 1 + half

        def uniform(level: float) -> float:
            return 1 - level if level <= 1 - half else max(top - level, 0.0) ** 2 / (4 * half)

        return _continuous(scipy.stats.uniform(1 - half, 2 * half), uniform)
    if kind == "gaussian":
        normal = scipy.stats.norm()

        def gaussian(level: float) -> float:
            z = (level - 1) / heterogeneity
            return heterogeneity * float(normal.pdf(z) - z * normal.sf(z))

        return _continuous(scipy.stats.norm(1, heterogeneity), gaussian)
    if kind == "lognormal":
        spread = math.sqrt(math.log1p(heterogeneity**2))
        normal = scipy.stats.norm()

        def lognormal(level: float) -> float:
            if level <= 0:
                return 1 - level
            z = -math.log(level) / spread
            return float(normal.cdf(z + spread / 2) - level * normal.cdf(z - spread / 2))

        return _continuous(scipy.stats.lognorm(spread, scale=math.exp(-(spread**2) / 2)), lognormal)
    shape = pareto_shape(heterogeneity)
    least = (shape - 1) / shape

    def pareto(level: float) -> float:
        return 1 - level if level <= least else least**shape * level ** (1 - shape) / (shape - 1)

    return _continuous(scipy.stats.pareto(shape, scale=least), pareto)


def _atoms(values: tuple[float, ...], weights: tuple[float, ...]) -> _Law:
    places, shares = np.array(values), np.array(weights)
    ends = np.cumsum(shares)
    return _Law(
        cdf=lambda x: float(shares[places <= x].sum()),
        below=lambda x: float(shares[places < x].sum()),
        quantile=lambda u: places[np.minimum(np.searchsorted(ends, u), len(places) - 1)],
        mean_excess=lambda level: float(shares @ np.maximum(places - level, 0.0)),
    )


def _continuous(distribution: Any, mean_excess: Callable[[float], float]) -> _Law:
    return _Law(
        cdf=lambda x: float(distribution.cdf(x)),
        below=lambda x: float(distribution.cdf(x)),
        quantile=lambda u: np.asarray(distribution.ppf(u), dtype=np.float64),
        mean_excess=mean_excess,
    )


def equilibrium_sparsity(
    kind: str,
    *,
    heterogeneity: float,
    decay: float,
    mean_mass: float = 1.0,
    threshold: float = 0.0,
    mutation_rate: float = 0.0,
    fraction: float = 0.5,
) -> float:
    """Return the share of groups that are extinct at equilibrium, in the limit of many groups.

    With Eq. 10 the equilibrium is p = (c - ν)_+/λ with E p = P/N: one equation for the water level ν, in
    which the law of the contributions enters through E(c - ν)_+ alone. With mutation (Eq. 8, every target
    equal to the mean mass) it is the soft water filling, and one quadrature more.

    Parameters
    ----------
    kind : {"uniform", "gaussian", "lognormal", "pareto", "two_class", "neutral"}
        The law, as for `evodyn.landscapes.contributions`.
    heterogeneity : float
        Its coefficient of variation.
    decay : float
        λ > 0.
    mean_mass : float, optional
        P/N, M/N under mutation.
    threshold : float, optional
        ε >= 0: extinct is p < ε, or p = 0 where ε is 0.
    mutation_rate : float, optional
        μ.
    fraction : float, optional
        Share of the higher class of "two_class".

    Returns
    -------
    float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    Contributions uniform on [0, 2] and λP/N = 1/4 leave the upper half of them.

    >>> round(equilibrium_sparsity("uniform", heterogeneity=3**-0.5, decay=0.25), 12)
    0.5
    """
    validation.choice("kind", kind, KINDS)
    heterogeneity = validation.non_negative("heterogeneity", heterogeneity)
    decay = validation.positive("decay", decay)
    mean_mass = validation.positive("mean_mass", mean_mass)
    threshold = validation.non_negative("threshold", threshold)
    mutation_rate = validation.non_negative("mutation_rate", mutation_rate)
    fraction = validation.positive("fraction", fraction)
    if fraction >= 1:
        raise ValueError(f"fraction is {fraction!r}; expected a number between 0 and 1, both excluded.")
    if kind == "neutral" and heterogeneity:
        raise ValueError(f"heterogeneity is {heterogeneity!r} and kind 'neutral'; expected 0.")
    law = _law(kind, heterogeneity, fraction)
    inflow = mutation_rate * mean_mass
    level = _level(law, decay * mean_mass, decay * inflow)
    if threshold == 0:
        # Mutation keeps every group above 0; without it, groups at the level are absent too.
        return 0.0 if inflow else law.cdf(level)
    return law.below(level + decay * threshold - inflow / threshold)


def _level(law: _Law, volume: float, softness: float) -> float:
    """Return θ with E s(c - θ) = volume, s(e) = [e + √(e² + 4·softness)]/2."""

    def surplus(level: float) -> float:
        filled = law.mean_excess(level)
        if softness:
            filled += _softening(law, level, softness)
        return filled - volume

    high, width = 1.0, volume + 1.0
    while surplus(high) > 0:
        high += width
        width *= 2
    low, width = 1 - volume, volume + 1.0  # E(c - ν)_+ >= 1 - ν
    while surplus(low) < 0:
        low -= width
        width *= 2
    return float(scipy.optimize.brentq(surplus, low, high, xtol=1e-14, rtol=1e-14))


def _softening(law: _Law, level: float, softness: float) -> float:
    """Return E[s(e) - e_+], which is bounded, with a kink at the level and tails at both ends of the law."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    place = (nodes + 1) / 2
    # The cubic takes the nodes closer to the ends of each part.
    place, weights = place**2 * (3 - 2 * place), weights * 3 * place * (1 - place)
    edge = law.cdf(level)
    total = 0.0
    for start, width in ((0.0, edge), (edge, 1 - edge)):
        if width > 0:
            excess = np.abs(law.quantile(start + width * place) - level)
            total += width * float(weights @ (2 * softness / (excess + np.sqrt(excess**2 + 4 * softness))))
    return total
