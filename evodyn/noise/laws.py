"""Laws of the noisy models: long-run growth, hitting times and stationary odds."""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt
import scipy.stats

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.noise.environment import CALCULI, Calculus
from evodyn.noise.runs import per_group

__all__ = ["hitting_time_law", "long_run_growth", "stationary_odds_law"]


def long_run_growth(contribution: npt.ArrayLike, noise: npt.ArrayLike, calculus: Calculus) -> FloatArray:
    """Return the long-run growth rate of ln X_i under constant fitness with noise: who survives.

    c_i - σ_i²/2 in Itô's calculus, c_i in Stratonovich's; the group with the greatest rate takes all, and
    the share of i decays at the difference.

    Parameters
    ----------
    contribution : array_like, shape (N,)
        c_i.
    noise : float or array_like, shape (N,)
        σ_i.
    calculus : {"ito", "stratonovich"}

    Returns
    -------
    numpy.ndarray, shape (N,)

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> long_run_growth([0.1, 0.3], [0.0, 1.0], "ito")
    array([ 0.1, -0.2])
    """
    validation.choice("calculus", calculus, CALCULI)
    c = validation.finite_array("contribution", contribution, ndim=1)
    sigma = per_group("noise", noise, len(c))
    return c - sigma**2 / 2 if calculus == "ito" else c.copy()


def hitting_time_law(*, share: float, threshold: float, drift: float, noise: tuple[float, float]) -> Any:
    """Return the law of the time at which the share of the worse of two groups first reaches a threshold.

    The log-ratio of the two is Brownian motion with drift; the time is inverse Gaussian with mean a/v and
    shape a²/(σ_1² + σ_2²), a = ln(x/(1 - x)) - ln(ε/(1 - ε)).

    Parameters
    ----------
    share : float
        Initial share x of the group that declines.
    threshold : float
        ε < x.
    drift : float
        v > 0, the difference of the long-run growth rates.
    noise : (float, float)
        σ of both groups, independent.

    Returns
    -------
    scipy.stats frozen distribution

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> import numpy as np
    >>> law = hitting_time_law(share=0.5, threshold=0.1, drift=0.2, noise=(0.3, 0.4))
    >>> bool(abs(law.mean() - np.log(9) / 0.2) < 1e-12)
    True
    """
    share, threshold = validation.positive("share", share), validation.positive("threshold", threshold)
    drift = validation.positive("drift", drift)
    if not threshold < share < 1:
        raise ValueError(f"threshold is {threshold!r} and share {share!r}; expected threshold < share < 1.")
    variance = sum(validation.non_negative("noise", sigma) ** 2 for sigma in noise)
    if not variance:
        raise ValueError("noise is zero in both groups; expected some: without it the time is a number.")
    # ln[x/(1 - x)] - ln[ε/(1 - ε)], also where x and ε are close.
    distance = math.log1p((share - threshold) / (threshold * (1 - share)))
    mean, shape = distance / drift, distance**2 / variance
    return scipy.stats.invgauss(mean / shape, scale=shape)


def stationary_odds_law(
    contribution: npt.ArrayLike,
    noise: npt.ArrayLike,
    calculus: Calculus,
    *,
    mutation_rate: float,
    target: npt.ArrayLike = (0.5, 0.5),
) -> Any:
    """Return the law that the odds x_1/x_2 of two groups settle into under fitness noise and mutation.

    With constant fitness, P = M and target shares q = m/M, the log-odds z follow
    dz = (Δ + μq_1/x_1 - μq_2/x_2)dt + s dW, Δ the difference of the long-run growth rates and
    s² = σ_1² + σ_2². Their stationary density is proportional to
    exp[(2/s²)((Δ + μ(q_1 - q_2))z - μq_1 e^{-z} - μq_2 e^{z})]: the odds are generalised inverse Gaussian.
    The chance that group 1 is below a share ε is the distribution function at ε/(1 - ε).

    Parameters
    ----------
    contribution, noise, calculus
        As for `long_run_growth`, of two groups.
    mutation_rate : float
        μ > 0.
    target : array_like, shape (2,), optional
        Proportional to q, both positive.

    Returns
    -------
    scipy.stats frozen distribution

    Raises
    ------
    ValueError
        If an argument is outside its range, or there is no noise.

    Examples
    --------
    Between equal groups the odds and their inverse have one law; rare mutation leaves a group rare for long.

    >>> often = stationary_odds_law([0.0, 0.0], 0.3, "ito", mutation_rate=1.0)
    >>> rarely = stationary_odds_law([0.0, 0.0], 0.3, "ito", mutation_rate=0.001)
    >>> [round(float(law.cdf(0.01 / 0.99)), 3) for law in (often, rarely)]
    [0.0, 0.055]
    """
    growth = long_run_growth(contribution, noise, calculus)
    if len(growth) != 2:
        raise ValueError(f"contribution has {len(growth)} entries; expected two groups.")
    variance = float((per_group("noise", noise, 2) ** 2).sum())
    if not variance:
        raise ValueError("noise is zero in both groups; expected some: without it the odds are a number.")
    rate = validation.positive("mutation_rate", mutation_rate)
    targets = validation.finite_array("target", target, ndim=1, least=0.0)
    if len(targets) != 2 or not targets.all():
        raise ValueError(f"target is {targets.tolist()}; expected two positive masses.")
    q = targets / targets.sum()
    order = 2 * (growth[0] - growth[1] + rate * (q[0] - q[1])) / variance
    return scipy.stats.geninvgauss(
        order, 4 * rate * math.sqrt(q[0] * q[1]) / variance, scale=math.sqrt(q[0] / q[1])
    )
