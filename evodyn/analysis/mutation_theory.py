"""What mutation keeps alive: the floor of masses, the rate that protects, the error threshold."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.stats

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.equilibria import closed_forms as rest_points

__all__ = ["error_threshold", "mutation_mass_floor", "protective_mutation_rate"]


def mutation_mass_floor(
    contribution: npt.ArrayLike,
    mutation_rate: float,
    *,
    target: npt.ArrayLike = 1.0,
    decay: float = 0.0,
) -> FloatArray:
    """Return a lower bound of every group's mass at the equilibrium of Eq. 8, and in its long-time limit.

    μm_i/(c_max + μ - c_i) for constant fitness, since no mean fitness exceeds the best; less with a decay,
    for which it is the soft water filling at the highest level there can be.

    Parameters
    ----------
    contribution : array_like, shape (N,)
        c_i.
    mutation_rate : float
        μ >= 0.
    target : float or array_like, shape (N,), optional
        m_i.
    decay : float, optional
        λ >= 0.

    Returns
    -------
    numpy.ndarray, shape (N,)

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> mutation_mass_floor([1.0, 0.0], 0.25)
    array([1. , 0.2])
    """
    c = validation.finite_array("contribution", contribution, ndim=1)
    rate = validation.non_negative("mutation_rate", mutation_rate)
    inflow = rate * np.broadcast_to(validation.finite_array("target", target, least=0.0), c.shape)
    decay = validation.non_negative("decay", decay)
    margin = c.max() + rate - c
    if decay:
        margin = (margin + np.sqrt(margin**2 + 4 * decay * inflow)) / 2
    floor: FloatArray = inflow / np.where(margin > 0, margin, 1.0)
    return floor


def protective_mutation_rate(
    contribution: npt.ArrayLike,
    threshold: float,
    *,
    target: float = 1.0,
    decay: float = 0.0,
) -> float:
    """Return the least mutation rate at which no group is below `threshold` at the equilibrium of Eq. 8.

    Mutation prevents extinction above this rate and only there; it is the rate at which the least fit
    group's equilibrium mass is the threshold.

    Parameters
    ----------
    contribution : array_like, shape (N,)
        c_i.
    threshold : float
        ε, between 0 and the target.
    target : float, optional
        m, the same for every group.
    decay : float, optional
        λ >= 0.

    Returns
    -------
    float
        μ; 0 if selection alone leaves all groups above the threshold.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> rate = protective_mutation_rate([1.0, 0.0], 0.1)
    >>> round(rate, 6)      # μ/(Λ - 0) = 0.1 with μ/(Λ - 1) + μ/Λ = 2
    0.105556
    """
    c = validation.finite_array("contribution", contribution, ndim=1)
    threshold = validation.positive("threshold", threshold)
    target = validation.positive("target", target)
    decay = validation.non_negative("decay", decay)
    if threshold >= target:
        raise ValueError(
            f"threshold is {threshold!r} and target {target!r}; expected a threshold below the "
            "target, for no mutation rate lifts all groups above it."
        )
    total = target * len(c)

    def margin(log_rate: float) -> float:
        inflow = np.full(len(c), math.exp(log_rate) * target)
        if decay:
            masses, _ = rest_points.soft_water_filling(c, decay, inflow, total)
        else:
            masses, _ = rest_points.mutation_balance(c, inflow, total)
        return math.log(float(masses.min())) - math.log(threshold)

    if np.ptp(c) == 0:
        return 0.0
    if decay:
        alone, _ = rest_points.water_filling(c, decay, total)
        if alone.min() >= threshold:
            return 0.0
    # p_i >= μm/(range + μ + λP) brackets the root from above.
    high = math.log(threshold * (np.ptp(c) + decay * total) / (target - threshold))
    low = high - 1.0
    while margin(low) > 0:
        low -= 1.0 + high - low
    while margin(high) < 0:
        high += 1.0
    return math.exp(scipy.optimize.brentq(margin, low, high, xtol=1e-14, rtol=1e-14))


def error_threshold(contribution: npt.ArrayLike, *, target: npt.ArrayLike = 1.0, decay: float = 0.0) -> float:
    """Return the mutation rate beyond which the best groups no longer persist by selection (Eq. 8).

    It is the rate at which the other groups, held down by the growth rate of the best, c_* = φ̄ + μ, would
    by themselves make up the whole mass: Σ μm_i/(c_* - c_i) = M for constant fitness, hence
    μ_c = M/Σ m_i/(c_* - c_i) with sums over the others and M = Σ m_i over all. Best groups that mutation
    does not feed persist below μ_c and vanish at it. Best groups that it feeds keep a share that no number
    of groups makes small below μ_c, close to 1 - μ/μ_c, and above it only what mutation brings: the error
    threshold of quasispecies theory, rounded where the best groups' part of the target, m_*/M, is not
    small.

    Parameters
    ----------
    contribution : array_like, shape (N,)
        c_i.
    target : float or array_like, shape (N,), optional
        m_i >= 0.
    decay : float, optional
        λ >= 0 of Eq. 10, with which no group holds much of the mass when there are many: μ_c is then where
        best groups that mutation does not feed vanish.

    Returns
    -------
    float
        μ_c > 0; inf if no group but the best receives mutants.

    Raises
    ------
    ValueError
        If an argument is outside its range, or the target is 0 for every group.

    Examples
    --------
    One peak of height 0.5 above 99 equal groups: μ_c is the advantage over the chance to miss the peak.

    >>> round(error_threshold([1.5] + 99 * [1.0]), 6)
    0.505051
    """
    c = validation.finite_array("contribution", contribution, ndim=1)
    targets = np.broadcast_to(validation.finite_array("target", target, least=0.0), c.shape)
    decay = validation.non_negative("decay", decay)
    total = float(targets.sum())
    if total == 0:
        raise ValueError(
            "target is 0 for every group; expected a positive one: mutants need somewhere to go."
        )
    others = (c < c.max()) & (targets > 0)
    if not others.any():
        return math.inf
    gap, fed = c.max() - c[others], targets[others]
    unregulated = total / float((fed / gap).sum())
    if not decay:
        return unregulated

    def surplus(log_rate: float) -> float:
        inflow = math.exp(log_rate) * fed
        return math.log(float((2 * inflow / (gap + np.sqrt(gap**2 + 4 * decay * inflow))).sum()) / total)

    # The decay takes from every group's mass, so that more mutation is needed.
    low = high = math.log(unregulated)
    while surplus(high) < 0:
        high += 1.0
    return math.exp(scipy.optimize.brentq(surplus, low, high, xtol=1e-14, rtol=1e-14))
