"""Fitness from a record: constant-fitness selection fitted to counts, frequencies or masses over time."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.linalg
from scipy import special

from evodyn.analysis.fitted_fitness import Estimate, FitnessFit
from evodyn.core import validation
from evodyn.core.arrays import FloatArray

__all__ = ["Estimate", "FitnessFit", "fit_fitness"]

Errors = Literal["auto", "multinomial", "quasi_multinomial", "log_ratio"]

_NEWTON_STEPS = 200

_CONVERGED = 1e-18  # gain of a Newton step in log-likelihood, relative to all counts

_SEPARATED = 1e-13  # information on some direction, relative to all counts, below which there is none


def fit_fitness(
    times: npt.ArrayLike,
    counts: npt.ArrayLike,
    *,
    errors: Errors = "auto",
    reference: int | None = None,
    level: float = 0.95,
) -> FitnessFit:
    """Fit constant-fitness selection to counts, frequencies or masses over time.

    Under Eq. 6 with constant fitness the log-ratio of two shares is a straight line whose slope is the
    difference of their fitness, whatever is common to all groups and changes in time: the model is
    multinomial logistic regression on time.

    Parameters
    ----------
    times : array_like, shape (T,)
        When the record was taken, increasing; at least three times (two under "multinomial").
    counts : array_like, shape (T, N)
        Counts, or frequencies or masses that are known up to a factor of each time. A row of zeros is a time
        without data.
    errors : {"auto", "multinomial", "quasi_multinomial", "log_ratio"}, optional
        "multinomial": counts of a random sample. "quasi_multinomial": the same estimates, with errors whose
        variance is the multinomial one times a dispersion, which is estimated. "log_ratio": least squares
        on ln p_i, all with the same variance, for masses or frequencies far above 0. "auto" takes
        "quasi_multinomial" for whole numbers, else "log_ratio".
    reference : int, optional
        The group whose fitness is 0; by default the one with most counts in all. It changes no difference.
    level : float, optional
        Probability of the intervals.

    Returns
    -------
    FitnessFit

    Raises
    ------
    ValueError
        If an argument is out of range, or no finite fitness is the most likely: a group that is counted at
        the first time only may be unfit without limit.

    Notes
    -----
    The likelihood is concave; Newton's iteration with its gradient and Hessian finds the maximum, and the
    inverse of the Fisher information is the covariance. Real counts vary more than a random sample
    does. The dispersion of "quasi_multinomial" is Pearson's statistic per degree of freedom, with Fletcher's
    correction for small counts, and its intervals are those of Student's t. A Dirichlet-multinomial law would
    need a second iteration, with a likelihood that is not concave and estimates that lean on the form of
    the extra variance; these estimates are right whatever that form is, as long as the mean is.
    Errors that depend on one another in time make the intervals too short.

    Examples
    --------
    >>> import numpy as np
    >>> times = np.arange(0.0, 10.0, 0.5)
    >>> shares = np.exp(np.outer(times, [0.0, 0.3, -0.5]))
    >>> shares /= shares.sum(axis=1, keepdims=True)
    >>> counts = np.random.default_rng(0).multinomial(1000, shares)
    >>> fit = fit_fitness(times, counts)
    >>> fit.relative_to(0).value.round(2), fit.relative_to(0).covers([0.0, 0.3, -0.5])
    (array([ 0.  ,  0.3 , -0.49]), array([ True,  True,  True]))
    >>> print(fit.heterogeneity, bool(fit.p_value > 0.05))
    0.3999 [0.376, 0.4252] True
    """
    t, y, observed = _checked(times, counts, errors, level)
    if errors == "auto":
        errors = "quasi_multinomial" if (y == np.floor(y)).all() else "log_ratio"
    if errors == "multinomial" and not (y == np.floor(y)).all():
        first = int(np.argwhere((y != np.floor(y)).any(axis=1))[0, 0])
        raise ValueError(
            f"counts are not whole numbers at time {t[first]:g}; expected counts for errors='multinomial': "
            "use 'quasi_multinomial' or 'log_ratio' for frequencies."
        )
    n, least = y.shape[1], 2 if errors == "multinomial" else 3
    if len(t) < least:
        raise ValueError(
            f"times has {len(t)} with data; expected at least {least} for errors={errors!r}, to know fitness "
            "and how far the data are off."
        )
    base = int(y.sum(axis=0).argmax()) if reference is None else reference
    if not -n <= base < n:
        raise ValueError(f"reference is {reference!r}; expected the index of one of {n} groups.")
    base %= n
    # Steps of the iteration and their scale do not depend on the unit of time.
    span = float(np.ptp(t))
    s = (t - t[0]) / span
    fitted = _least_squares(s, y, base) if errors == "log_ratio" else _likeliest(s, y, base)
    parameters, covariance, deviance, pearson = fitted
    df = (len(t) - 2) * (n - 1)
    p_value, dispersion = math.nan, 1.0
    if errors != "multinomial":
        dispersion = pearson / df
    if errors != "log_ratio" and (y == np.floor(y)).all():
        p_value = float(special.chdtrc(df, deviance)) if df else math.nan
    scale = np.repeat([1.0, 1 / span], n)
    return FitnessFit(
        times=observed,
        log_ratios=parameters[0],
        fitness=parameters[1] / span,
        covariance=dispersion * covariance * np.multiply.outer(scale, scale),
        reference=base,
        errors=errors,
        level=level,
        deviance=deviance,
        degrees_of_freedom=df,
        p_value=p_value,
        dispersion=dispersion,
    )


def _checked(
    times: npt.ArrayLike, counts: npt.ArrayLike, errors: str, level: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return times and counts where there are data."""
    validation.choice("errors", errors, ("auto", "multinomial", "quasi_multinomial", "log_ratio"))
    if not 0 < validation.finite("level", level) < 1:
        raise ValueError(f"level is {level!r}; expected a probability between 0 and 1.")
    t = validation.finite_array("times", times, ndim=1)
    y = validation.finite_array("counts", counts, ndim=2, least=0.0)
    if len(y) != len(t):
        raise ValueError(
            f"counts has shape {y.shape} and times {t.shape}; expected one row of counts for each time."
        )
    if y.shape[1] < 2:
        raise ValueError("counts has one group; expected at least two, for fitness is relative.")
    late = np.flatnonzero(np.diff(t) <= 0)
    if len(late):
        raise ValueError(
            f"times is {t[late[0] + 1]:g} at index {late[0] + 1}, after {t[late[0]]:g}; expected increasing "
            "times: sort them, and add up counts of the same time."
        )
    absent = np.flatnonzero(y.sum(axis=0) == 0)
    if len(absent):
        raise ValueError(
            f"counts is 0 at all times for group {absent[0]}; expected data of it: leave it out."
        )
    seen = y.sum(axis=1) > 0
    return t[seen], y[seen], t[seen]


def _least_squares(s: FloatArray, y: FloatArray, base: int) -> tuple[FloatArray, FloatArray, float, float]:
    """Return parameters (2, N), covariance at unit variance, and the sum of squares, twice.

    Errors of ln p_i with one variance leave log-ratios with correlated ones, for which least squares on
    ln p_i less its mean over groups is the best linear estimate, whatever the reference.
    """
    if not y.all():
        k, i = map(int, np.argwhere(y == 0)[0])
        raise ValueError(
            f"counts is 0 at index ({k}, {i}); expected positive frequencies for errors='log_ratio': use "
            "'quasi_multinomial', or leave out the time or the group."
        )
    logs = np.log(y)
    centred = logs - logs.mean(axis=1, keepdims=True)
    design = np.column_stack((np.ones_like(s), s))
    parameters = np.linalg.lstsq(design, centred, rcond=None)[0]
    squares = float(np.square(centred - design @ parameters).sum())
    n = y.shape[1]
    contrast = np.eye(n) - np.eye(n)[base]
    covariance = np.kron(np.linalg.inv(design.T @ design), contrast @ contrast.T)
    return parameters - parameters[:, [base]], covariance, squares, squares


def _likeliest(s: FloatArray, y: FloatArray, base: int) -> tuple[FloatArray, FloatArray, float, float]:
    """Return parameters (2, N), inverse Fisher information, deviance, and Pearson's statistic, corrected."""
    n, totals = y.shape[1], y.sum(axis=1)
    others = np.delete(np.arange(n), base)
    design = np.vander(s, 2, increasing=True)
    parameters = np.zeros((2, n))

    def log_shares(at: FloatArray) -> FloatArray:
        lines = design @ at
        return np.asarray(lines - np.logaddexp.reduce(lines, axis=1)[:, None])

    def information(x: FloatArray) -> FloatArray:
        weights = totals[:, None] * x
        blocks = [np.diag(s**k @ weights) - (weights * (s**k)[:, None]).T @ x for k in range(3)]
        whole = np.block([[blocks[0], blocks[1]], [blocks[1], blocks[2]]])
        kept = np.concatenate((others, n + others))
        return np.asarray(whole[np.ix_(kept, kept)])

    logs = log_shares(parameters)
    for _ in range(_NEWTON_STEPS):
        x = np.exp(logs)
        gradient = (design.T @ (y - totals[:, None] * x))[:, others].ravel()
        hessian = information(x)
        try:
            step = np.linalg.solve(hessian, gradient)
        except np.linalg.LinAlgError:
            break  # no information on some direction, which is said below
        gain = float(gradient @ step)
        direction = np.zeros((2, n))
        direction[:, others] = step.reshape(2, -1)
        if gain <= _CONVERGED * totals.sum():
            parameters = parameters + direction
            logs = log_shares(parameters)
            break
        before, length = float(np.sum(y * logs)), 1.0
        while True:
            trial = log_shares(parameters + length * direction)
            # Concave: a quarter of the gain that the slope promises is always within reach.
            if np.sum(y * trial) >= before + 0.25 * length * gain - 1e-14 * abs(before) or length < 1e-10:
                break
            length /= 2
        parameters, logs = parameters + length * direction, trial
    x = np.exp(logs)
    hessian = information(x)
    values, vectors = scipy.linalg.eigh(hessian)
    if values[0] <= _SEPARATED * totals.sum():
        group = int(others[np.abs(vectors[:, 0]).reshape(2, -1).max(axis=0).argmax()])
        raise ValueError(
            f"counts are compatible with a fitness of group {group} without limit, for it is seen where "
            "others are not; expected groups that are seen together at two times or more: leave the group "
            "out, or add it to another one."
        )
    inverse = (vectors / values) @ vectors.T
    kept = np.concatenate((others, n + others))
    covariance = np.zeros((2 * n, 2 * n))
    covariance[np.ix_(kept, kept)] = inverse
    expected = totals[:, None] * x
    deviance = 2 * float(special.rel_entr(y, expected).sum())
    pearson = float((np.square(y - expected) / expected).sum() / (y / expected).mean())
    return parameters, covariance, deviance, pearson
