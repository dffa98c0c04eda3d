"""A whole integration of few groups that interact, by Taylor's series, compiled.

Where a matrix acts on shares, steps are limited by accuracy, and most hold times to save at. The coefficients
of the series follow from one another by sums of products: no stage waits for an exponential, the order is as
high as the tolerance asks for, and the series itself is the interpolant (Jorba and Zou 2005).
"""

from __future__ import annotations

import math

import numpy as np

from evodyn.solvers.kernels import ROUNDING
from evodyn.solvers.vectors import exponential, making, ordered, room, sums

__all__ = ["play", "suits"]

_FEW = 8
_LOWEST, _HIGHEST = 8, 24
_SAFETY, _MOST = 0.9, 5.0


@ordered
def suits(form, level):
    """Tell whether few groups of one block interact, without inflow, swings or a level to cross."""
    return (
        0 < form.interaction.shape[0] <= _FEW
        and form.loss.size == 1
        and form.loss[0] == 0.0
        and form.inflow.size == 0
        and form.frequencies.size == 0
        and level == -math.inf
    )


@ordered
def _normalise(u, shares):
    """Enter shares, and let u be their logarithms."""
    total = 0.0
    for i in range(u.size):
        shares[i] = exponential(u[i])
        total += shares[i]
    shift = math.log(total)
    for i in range(u.size):
        shares[i] /= total
        u[i] -= shift


@sums
def _product(one, first, other, second, count):
    total = 0.0
    for j in range(count):
        total += one[first + j] * other[second + j]
    return total


@ordered
def _enter_differences(form, contribution, interaction):
    """Enter fitness less what all groups have in common, which acts on no share.

    What is common may be large, and its rounding would grow with every power of the series.
    """
    n = contribution.size
    common = 0.0
    for i in range(n):
        common += form.contribution[i] / n
    for i in range(n):
        contribution[i] = form.contribution[i] - common
    for j in range(n):
        common = 0.0
        for i in range(n):
            common += form.interaction[i, j] / n
        for i in range(n):
            interaction[i, j] = form.interaction[i, j] - common


@sums
def _enter_series(
    form, contribution, interaction, scale, factor, inverses, u, shares, series, slopes, backwards, growth
):
    """Enter the coefficients of u, and of what they rest on: du/dt, shares (backwards) and fitness."""
    n, decay, temperature = u.size, form.decay * scale, form.temperature
    order = inverses.size - 1
    for i in range(n):
        series[i, 0], backwards[i, order] = u[i], shares[i]
    for k in range(order):
        at = order - k
        if k > 0:
            for i in range(n):
                backwards[i, at] = _product(slopes[i], 0, backwards[i], at + 1, k) * inverses[k]
        mean = 0.0
        for i in range(n):
            row, value = interaction[i], 0.0
            for j in range(n):
                value += row[j] * backwards[j, at]
            value = factor * value - decay * backwards[i, at] - temperature * series[i, k]
            growth[i, k] = value if k > 0 else value + contribution[i]
        for i in range(n):
            mean += _product(growth[i], 0, backwards[i], at, k + 1)
        for i in range(n):
            slopes[i, k] = growth[i, k] - mean
            series[i, k + 1] = slopes[i, k] * inverses[k + 1]


@sums
def _size(series, k, tolerance):
    """Return the largest coefficient of a power over the tolerance, and the rounding of u."""
    largest = 0.0
    for i in range(series.shape[0]):
        value = abs(series[i, k]) / (tolerance + ROUNDING * abs(series[i, 0]))
        largest = value if not (value <= largest) else largest
    return largest


@sums
def _enter_values(x, order, series, out):
    """Enter the sums of the series."""
    for i in range(out.size):
        value = series[i, order]
        for k in range(order - 1, -1, -1):
            value = value * x + series[i, k]
        out[i] = value


@sums
def _norm(form, interaction, scale, factor, shares, slopes):
    """Return a bound on the eigenvalues of the Jacobian; see `evodyn.solvers.matrices.enter_jacobian`."""
    n, largest = shares.size, 0.0
    for j in range(n):
        own, mean, column = -form.decay * scale * shares[j] - form.temperature, 0.0, 0.0
        for i in range(n):
            mean += shares[i] * interaction[i, j]
        mean = shares[j] * (factor * mean + slopes[j, 0] + own)
        for i in range(n):
            column += abs(factor * shares[j] * interaction[i, j] - mean + (own if i == j else 0.0))
        largest = max(largest, column)
    return largest


@making
def play(form, u, t, stop, first, longest, most, tolerance, save_at, rows):
    """Integrate `u` from `t` to `stop`; see `evodyn.solvers.journeys.travel`.

    Returns
    -------
    (bool, bool, float, float, int, int, int)
        Whether it became stiff, and whether no step can be taken; the time reached and the step to take next;
        rows filled, steps, and coefficients, which are as dear as evaluations.
    """
    n = u.size
    order = int(min(_HIGHEST, max(_LOWEST, math.ceil(-0.75 * math.log(tolerance)))))
    series, slopes = room(n * (order + 1)).reshape((n, order + 1)), room(n * order).reshape((n, order))
    backwards, growth = room(n * (order + 1)).reshape((n, order + 1)), room(n * order).reshape((n, order))
    shares, inverses, stable = room(n), room(order + 1), 1.0 + 0.3 * order
    contribution, interaction = room(n), room(n * n).reshape((n, n))
    _enter_differences(form, contribution, interaction)
    for k in range(1, order + 1):
        inverses[k] = 1.0 / k
    scale = math.exp(form.log_totals[0])
    factor = 1.0 if form.of_shares else scale
    row = steps = signs = others = 0
    stiff = lost = False
    before = first if first > 0.0 else math.inf
    top = u[0]
    for i in range(n):
        top = max(top, u[i])
    for i in range(n):
        u[i] -= top
    _normalise(u, shares)
    while row < save_at.size and save_at[row] <= t:
        rows[row] = u
        row += 1
    while t < stop and steps < most and not stiff:
        _enter_series(
            form,
            contribution,
            interaction,
            scale,
            factor,
            inverses,
            u,
            shares,
            series,
            slopes,
            backwards,
            growth,
        )
        last, last_but_one = _size(series, order, tolerance), _size(series, order - 1, tolerance)
        h = math.inf
        if last > 0.0 or last_but_one > 0.0:
            h = _SAFETY * min(last ** (-1.0 / order), last_but_one ** (-1.0 / (order - 1.0)))
        h = min(h, longest, _MOST * before)
        final = t + h * (1.0 + 1e-10) >= stop
        length = stop - t if final else h
        if not length > 4.0 * np.spacing(abs(t)) and not final:
            lost = True
            break
        t_new = stop if final else t + length
        if h * _norm(form, interaction, scale, factor, shares, slopes) > stable:
            signs, others = signs + 1, 0
        else:
            others += 1
            if others == 6:
                signs = 0
        while row < save_at.size and save_at[row] < t_new:
            _enter_values(save_at[row] - t, order, series, rows[row])
            _normalise(rows[row], shares)
            row += 1
        _enter_values(length, order, series, u)
        _normalise(u, shares)
        steps += 1
        t, before = t_new, h
        while row < save_at.size and save_at[row] <= t:
            rows[row] = u
            row += 1
        stiff = signs == 15 and t < stop
    return stiff, lost, t, before, row, steps, steps * order
