"""What constant-fitness selection, fitted to a record, says: fitness, heterogeneity, shares, extinctions."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import numpy.typing as npt
from scipy import special
from scipy.optimize import brentq

from evodyn.analysis.extinction_times import exact_extinction_times
from evodyn.core import validation
from evodyn.core.arrays import FloatArray, frozen
from evodyn.core.specifications import Specification, summary

__all__ = ["Estimate", "FitnessFit"]

_HORIZON = 1e6  # lengths of the record, beyond which no crossing of a band is looked for
_GRID = 240  # times at which bands are compared with a threshold, evenly spaced in their logarithm


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Estimate(Specification):
    """Estimates with their confidence intervals. Arrays are read-only.

    Attributes
    ----------
    value : array
        The estimates.
    low, high : array
        Ends of the intervals, of the shape of `value`.

    Examples
    --------
    >>> print(Estimate(1.0, 0.5, 2.0))
    1 [0.5, 2]
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray

    def __post_init__(self) -> None:
        self._set(value=frozen(self.value), low=frozen(self.low), high=frozen(self.high))

    def covers(self, truth: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Tell of which of the true values the intervals hold."""
        value = np.asarray(truth, dtype=np.float64)
        return np.asarray((self.low <= value) & (value <= self.high))

    def __str__(self) -> str:
        if self.value.ndim:
            return repr(self)
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FitnessFit(Specification):
    """Constant-fitness selection fitted to a record; `fit_fitness` makes it. Arrays are read-only.

    Shares are x_i(t) = exp(a_i + c_i (t - t_0))/Σ_j exp(a_j + c_j (t - t_0)), t_0 the first time. Data
    fix only differences between groups, so a and c are 0 for the reference group.

    Attributes
    ----------
    times : array, shape (T,)
        When there were data.
    fitness : array, shape (N,)
        c_i, relative to the reference group, per unit of time.
    log_ratios : array, shape (N,)
        a_i, logarithm of the share at t_0 relative to that of the reference group.
    covariance : array, shape (2N, 2N)
        Of the estimates (a, c), dispersion included.
    reference : int
        The reference group.
    errors : str
        The law of the errors: "multinomial", "quasi_multinomial" or "log_ratio".
    level : float
        Probability of all intervals.
    deviance : float
        Twice the log-likelihood that is missing to a fit of every share by itself; under "log_ratio" the
        sum of squares that is left.
    degrees_of_freedom : int
        Data less parameters.
    p_value : float
        Probability of a deviance so large if the errors were multinomial, in the limit of many counts;
        NaN where there are no counts.
    dispersion : float
        Variance of the errors relative to the multinomial one (1 under "multinomial"), with frequencies for
        counts the inverse of an effective number of observations; under "log_ratio" the variance of ln p.

    Examples
    --------
    >>> from evodyn.inference import fit_fitness
    >>> fit_fitness([0.0, 1.0, 2.0], [[80, 20], [60, 40], [50, 50]])
    FitnessFit(2 groups, 3 times, quasi_multinomial, dispersion 1.24, fitness [0.      , 0.671695])
    """

    times: FloatArray
    fitness: FloatArray
    log_ratios: FloatArray
    covariance: FloatArray
    reference: int
    errors: str
    level: float
    deviance: float
    degrees_of_freedom: int
    p_value: float
    dispersion: float

    def __post_init__(self) -> None:
        names = ("times", "fitness", "log_ratios", "covariance")
        self._set(**{name: frozen(getattr(self, name)) for name in names})

    def __repr__(self) -> str:
        return (
            f"FitnessFit({len(self.fitness)} groups, {len(self.times)} times, {self.errors}, "
            f"dispersion {self.dispersion:.3g}, fitness {summary(self.fitness)})"
        )

    @functools.cached_property
    def quantile(self) -> float:
        """How many standard errors an interval reaches: Student's t where the dispersion is estimated."""
        tail = (1 + self.level) / 2
        exact = self.errors == "multinomial"
        return float(special.ndtri(tail) if exact else special.stdtrit(self.degrees_of_freedom, tail))

    def relative_to(self, group: int) -> Estimate:
        """Return fitness relative to another group, shape (N,), with its intervals (0 for that group).

        Examples
        --------
        >>> from evodyn.inference import fit_fitness
        >>> fit = fit_fitness([0.0, 1.0, 2.0], [[80, 20], [60, 40], [50, 50]], errors="multinomial")
        >>> fit.relative_to(1).value.round(3), fit.relative_to(1).low.round(3)
        (array([-0.672,  0.   ]), array([-0.977,  0.   ]))
        """
        n = len(self.fitness)
        if not -n <= group < n:
            raise ValueError(f"group is {group!r}; expected the index of one of {n} groups.")
        own = self.covariance[n:, n:]
        variance = np.diag(own) - 2 * own[:, group] + own[group, group]
        difference = self.fitness - self.fitness[group]
        half = self.quantile * np.sqrt(np.maximum(variance, 0.0))  # rounding, where groups are twins
        return Estimate(difference, difference - half, difference + half)

    @property
    def standard_errors(self) -> FloatArray:
        """Standard errors of `fitness`, shape (N,); 0 for the reference group."""
        n = len(self.fitness)
        return np.sqrt(np.diag(self.covariance)[n:])

    @property
    def heterogeneity(self) -> Estimate:
        """Standard deviation of fitness among the groups, with its interval.

        It is the coefficient of variation where mean fitness is 1, as in `landscapes.contributions`; from
        shares alone mean fitness is unknown. The errors of the estimates, which spread them too, are taken
        out: Σ(ĉ - mean)² exceeds Σ(c - mean)² by the trace of their covariance V on average, and has a
        variance of 2 tr V² + 4 cᵀVc. The interval holds the values from which the one that was found is not
        further than so many of their standard deviations; it begins at 0 where no difference is certain.
        """
        n = len(self.fitness)
        centring = np.eye(n) - 1 / n
        v = centring @ self.covariance[n:, n:] @ centring
        c = centring @ self.fitness
        squares, noise, z = float(c @ c), float(np.trace(v)), self.quantile
        slope = 2 * z**2 * float(c @ v @ c) / squares if squares else 0.0
        middle = squares - noise + slope
        half = math.sqrt(max(slope * (slope + 2 * (squares - noise)) + 2 * z**2 * float(np.sum(v * v)), 0.0))
        ends = np.maximum([squares - noise, middle - half, middle + half], 0.0)
        return Estimate(*np.sqrt(ends / (n - 1)))

    def predict(self, times: npt.ArrayLike) -> Estimate:
        """Return the shares at `times`, before, in or after the record, shape (T, N), with their intervals.

        The intervals are those of the shares themselves, without the errors of a new sample, and stay
        within 0 and 1: they come from ln x_i/(1 - x_i).

        Examples
        --------
        >>> from evodyn.inference import fit_fitness
        >>> fit = fit_fitness([0.0, 1.0, 2.0], [[80, 20], [60, 40], [50, 50]], errors="multinomial")
        >>> fit.predict([0.0, 10.0]).value.round(3)
        array([[0.779, 0.221],
               [0.004, 0.996]])
        """
        at = validation.finite_array("times", np.atleast_1d(np.asarray(times)), ndim=1)
        odds, errors = self._log_odds(at - self.times[0])
        half = self.quantile * errors
        return Estimate(*(special.expit(odds + sign * half) for sign in (0, -1, 1)))

    def extinction_times(self, threshold: float) -> Estimate:
        """Return when the share of each group first falls below `threshold`, shape (N,), with intervals.

        Times are those of the record; the first of them for a group that is below from the start. An interval
        holds the times at which the share may be at the threshold: it begins where the lower bound of
        ln x_i/(1 - x_i) falls below, and ends where the upper one does. It has no end (inf) for a group of
        which it is not certain that another one is fitter, and the time is inf for the fittest.

        Parameters
        ----------
        threshold : float
            Share, between 0 and 1, below which a group counts as extinct.

        Examples
        --------
        >>> from evodyn.inference import fit_fitness
        >>> fit = fit_fitness([0.0, 1.0, 2.0], [[80, 20], [60, 40], [50, 50]], errors="multinomial")
        >>> times = fit.extinction_times(1e-3)
        >>> times.value.round(1), times.low.round(1), times.high.round(1)
        (array([12.2,  inf]), array([8.7, inf]), array([21.4,  inf]))
        """
        if not 0 < validation.finite("threshold", threshold) < 1:
            raise ValueError(f"threshold is {threshold!r}; expected a share between 0 and 1.")
        value = exact_extinction_times(self.fitness, special.softmax(self.log_ratios), threshold)
        ends = [self._first_time_below(special.logit(threshold), sign) for sign in (-1, 1)]
        return Estimate(*(self.times[0] + times for times in (value, *ends)))

    def _first_time_below(self, level: float, sign: int) -> FloatArray:
        """Return when one bound of the log-odds of each group first falls below `level`, since t_0."""
        span = float(np.ptp(self.times))
        grid = np.concatenate(([0.0], np.geomspace(1e-3 * span, _HORIZON * span, _GRID)))

        def bound(times: FloatArray) -> FloatArray:
            odds, errors = self._log_odds(times)
            return odds + sign * self.quantile * errors - level

        below = bound(grid) < 0
        first = np.where(below.any(axis=0), below.argmax(axis=0), -1)

        def crossing(group: int) -> float:
            if first[group] < 0:
                return math.inf
            if first[group] == 0:
                return 0.0
            before, after = map(float, grid[first[group] - 1 : first[group] + 1])
            return float(brentq(lambda t: bound(np.array([t]))[0, group], before, after, rtol=1e-10))

        return np.array([crossing(group) for group in range(len(first))])

    def _log_odds(self, since: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return ln x_i/(1 - x_i) at times since t_0, and their standard errors, shape (T, N) both.

        The gradient is (e_i - x)/(1 - x_i) with respect to a, and t times that with respect to c.
        """
        n = len(self.fitness)
        rows = self.log_ratios + np.multiply.outer(since, self.fitness)
        every, t = np.arange(len(since)), since[:, None]
        top = rows.argmax(axis=1)
        cross = self.covariance[:n, n:]
        parts = (self.covariance[:n, :n], cross + cross.T, self.covariance[n:, n:])

        def along(x: FloatArray) -> FloatArray:
            """Return V x, V the covariance of the a_i + c_i t."""
            return x @ parts[0] + t * (x @ parts[1]) + t * t * (x @ parts[2])

        own = np.diag(parts[0]) + t * np.diag(parts[1]) + t * t * np.diag(parts[2])
        whole = np.logaddexp.reduce(rows, axis=1)[:, None]
        x = np.exp(rows - whole)
        masked = rows.copy()
        masked[every, top] = -math.inf
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            odds = rows - whole - np.log1p(-x)
            vx = along(x)
            variance = (own - 2 * vx + (x * vx).sum(axis=1, keepdims=True)) / (1 - x) ** 2
        # Of a share near 1 the rest is summed by itself.
        rest = np.logaddexp.reduce(masked, axis=1)
        odds[every, top] = rows[every, top] - rest
        others = np.exp(masked - rest[:, None])
        vo = along(others)
        variance[every, top] = own[every, top] - 2 * vo[every, top] + (others * vo).sum(axis=1)
        return odds, np.sqrt(np.maximum(variance, 0.0))
