"""Extinction without simulation: how fast groups decay, when they cross a threshold, and how many survive.

A group is extinct when its mass is below a stated threshold ε: the flow itself never reaches zero.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.stats

from evodyn.analysis.records import Record, record_of
from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.specifications import Specification
from evodyn.equilibria import closed_forms as rest_points
from evodyn.equilibria.equilibrium import Equilibrium, equilibrium
from evodyn.model.laws import KINDS, pareto_shape, two_class_levels
from evodyn.simulate.run import Run

if TYPE_CHECKING:
    import xarray

__all__ = [
    "ExtinctionRates",
    "asymptotic_extinction_times",
    "equilibrium_sparsity",
    "error_threshold",
    "exact_extinction_times",
    "extinction_rates",
    "mutation_mass_floor",
    "protective_mutation_rate",
]

_NEWTON_STEPS = 100
_NODES = 200
_ROWS = 256  # extinction times found at once: rows of an array with one column per group


# --- Times to a threshold, for constant fitness --------------------------------------------------------


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
        times[rows] = _descended(times[rows], c, logs, rows, room)
    return times


def _descended(
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


# --- How many survive, in the limit of many groups -----------------------------------------------------


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


# --- Mutation ------------------------------------------------------------------------------------------


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


# --- Measured against theory ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ExtinctionRates(Specification):
    """Decay rates -d ln p_i/dt, measured and theoretical. Arrays have shape (N,) and are read-only.

    Attributes
    ----------
    theoretical : array
        Minus the invasion rate at the equilibrium that the trajectory approaches: its long-time decay rate.
        0 for survivors, NaN for groups absent from the start and where dynamics and landscape are unknown.
    measured : array
        Least-squares slope of -ln p_i against t in the window; NaN where nothing was measured (an
        equilibrium, absent groups).
    interval : array, shape (N, 2)
        95 % interval of the slope by Student's t; for noise-free trajectories it reflects curvature.
    dying : array of bool
        The groups that are absent from the equilibrium, as far as it is known.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.5]), [1.0, 1.0], (0.0, 100.0))
    >>> rates = ed.extinction_rates(run)
    >>> rates.theoretical, rates.measured.round(6)[1], rates.dying
    (array([0. , 0.5]), np.float64(0.5), array([False,  True]))
    """

    theoretical: FloatArray
    measured: FloatArray
    interval: FloatArray
    dying: npt.NDArray[np.bool_]

    @property
    def relative_error(self) -> FloatArray:
        """(measured - theoretical)/theoretical of the dying groups, NaN elsewhere."""
        known = self.dying & (self.theoretical > 0)
        return np.where(known, self.measured / np.where(known, self.theoretical, 1.0) - 1, math.nan)


def extinction_rates(
    run_or_equilibrium: Run | xarray.Dataset | Equilibrium, *, window: tuple[float, float] = (0.5, 1.0)
) -> ExtinctionRates:
    """Return extinction rates, measured on a trajectory and in theory, side by side.

    Parameters
    ----------
    run_or_equilibrium : Run, xarray.Dataset or Equilibrium
        A dataset has the names of the saved schema; without its specification only the measured rates are
        known. Of an equilibrium only the theoretical ones are.
    window : (float, float), optional
        Part of the time span in which to measure, by default its second half.

    Returns
    -------
    ExtinctionRates

    Raises
    ------
    ValueError
        If fewer than three saved times are in the window, or the trajectory approaches no rest point that
        `equilibrium` finds.

    Examples
    --------
    >>> import numpy as np
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.5, 0.0]), np.ones(3), (0.0, 100.0))
    >>> rates = extinction_rates(run)
    >>> rates.theoretical, rates.measured.round(6)
    (array([0. , 0.5, 1. ]), array([-0. , 0.5, 1. ]))
    """
    if isinstance(run_or_equilibrium, Equilibrium):
        point = run_or_equilibrium
        nothing = np.full(len(point.masses), math.nan)
        return _frozen_rates(0.0 - point.invasion_rates, nothing, np.full((len(nothing), 2), math.nan), point)
    record = record_of(run_or_equilibrium)
    measured, interval = _slopes(record, window)
    if record.dynamics is None or record.landscape is None:
        return _frozen_rates(np.full(len(measured), math.nan), measured, interval, None)
    dynamics, landscape = record.dynamics, record.landscape
    start = record.masses[0]
    present = np.isfinite(record.log_masses[0])
    clipped = any(
        getattr(member, "signal_clip", None) is not None for _, member in dynamics.blocks(len(start))
    )
    # What conserves mass may have lost some to absorption: the end counts, with the groups still there.
    remaining = np.where(np.isfinite(record.log_masses[-1]), start, 0.0)
    if not clipped:
        for block in record.blocks:
            if remaining[block].any():
                remaining[block] *= record.masses[-1, block].sum() / remaining[block].sum()
    point = equilibrium(dynamics, landscape, start=remaining, eigenvalues=False)
    theoretical = np.where(present, 0.0 - point.invasion_rates, math.nan)
    return _frozen_rates(theoretical, measured, interval, point)


def _frozen_rates(
    theoretical: FloatArray, measured: FloatArray, interval: FloatArray, point: Equilibrium | None
) -> ExtinctionRates:
    known = ~np.isnan(theoretical)
    dying = known if point is None else known & ~point.survivors
    for array in (theoretical, measured, interval, dying):
        array.flags.writeable = False
    return ExtinctionRates(theoretical, measured, interval, dying)


def _slopes(record: Record, window: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    begin, end = record.t[0] + np.array(window) * (record.t[-1] - record.t[0])
    inside = (record.t >= begin) & (record.t <= end)
    if inside.sum() < 3:
        raise ValueError(
            f"window {window} holds {int(inside.sum())} saved times; expected at least 3: "
            "widen it or save more."
        )
    t, logs = record.t[inside], record.log_masses[inside]
    measurable = np.isfinite(logs).all(axis=0)
    centred = t - t.mean()
    spread = float(centred @ centred)
    values = np.where(measurable, logs, 0.0)
    slopes = centred @ values / spread
    residuals = values - values.mean(axis=0) - np.outer(centred, slopes)
    freedom = len(t) - 2
    error = np.sqrt((residuals**2).sum(axis=0) / freedom / spread)
    half = scipy.stats.t.ppf(0.975, freedom) * error
    rates = np.where(measurable, -slopes, math.nan)
    return rates, np.stack((rates - half, rates + half), axis=1)
