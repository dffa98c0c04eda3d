"""Compiled interpolants of a step, as quintics in Bernstein's form, and where they cross a level."""

from __future__ import annotations

import math

from evodyn.solvers.kernels import (
    DENSE,
    IMPLICIT,
    add_interactions,
    enter_acting,
    totals_at,
)
from evodyn.solvers.vectors import extremes, in_wide_vectors, ordered, subtract, sums

__all__ = [
    "NODES",
    "enter_bounds",
    "enter_crossings",
    "enter_level",
    "explicit_interpolant",
    "implicit_interpolant",
    "may_be_below",
    "quintic_at",
    "second_derivatives",
    "values_at",
]

NODES = 6
"""Coefficients of a polynomial of degree five."""


@sums
def _enter_curvature(diagonal, drift, velocity, out):
    in_wide_vectors()
    for i in range(out.size):
        out[i] = diagonal[i] * velocity[i] + drift[i]


@sums
def _mean_slope(sizes, velocity, curved):
    """Return the mean of v² + dG/dt, the rate of change of the mean of G."""
    in_wide_vectors()
    total, product = 0.0, 0.0
    for i in range(sizes.size):
        total += sizes[i]
        product += sizes[i] * (curved[i] + velocity[i] * velocity[i])
    return product / total


@ordered
def second_derivatives(form, work, sizes, velocity, out):
    """Enter the second derivative of u; `linearize` has been called."""
    _enter_curvature(work.diagonal, work.drift, velocity, out)
    if form.interaction.size > 0:
        _second_of_interactions(form, work, sizes, velocity, out)
    for k in range(form.loss.size):
        a, b = form.starts[k], form.starts[k + 1]
        subtract(out[a:b], _mean_slope(sizes[a:b], velocity[a:b], out[a:b]))


@ordered
def _second_of_interactions(form, work, sizes, velocity, out):
    """Add the rate of change of what interactions add to fitness, but for the drift; shares sum to 1."""
    enter_acting(form, work, sizes, work.argument)
    for i in range(velocity.size):
        work.argument[i] *= velocity[i]
    add_interactions(form, work.argument, out)


@sums
def explicit_interpolant(h, u, new, f0, f1, s0, s1, curve):
    """Enter the quintics with these values, slopes and second derivatives at both ends."""
    in_wide_vectors()
    for i in range(u.size):
        curve[0, i] = u[i]
        curve[1, i] = u[i] + 0.2 * h * f0[i]
        curve[2, i] = u[i] + 0.4 * h * f0[i] + 0.05 * h * h * s0[i]
        curve[3, i] = new[i] - 0.4 * h * f1[i] + 0.05 * h * h * s1[i]
        curve[4, i] = new[i] - 0.2 * h * f1[i]
        curve[5, i] = new[i]


@sums
def implicit_interpolant(u, new, k, curve):
    """Enter the interpolant of Rodas5P, which is of degree four."""
    in_wide_vectors()
    for i in range(u.size):
        d1, d2, d3 = 0.0, 0.0, 0.0
        for j in range(IMPLICIT):
            stage = k[j, i]
            d1 += DENSE[0, j] * stage
            d2 += DENSE[1, j] * stage
            d3 += DENSE[2, j] * stage
        # Coefficients of the powers of θ, then Bernstein's.
        p1, p2, p3, p4 = new[i] - u[i] + d1, d2 - d1, d3 - d2, -d3
        curve[0, i] = u[i]
        curve[1, i] = u[i] + 0.2 * p1
        curve[2, i] = u[i] + 0.4 * p1 + 0.1 * p2
        curve[3, i] = u[i] + 0.6 * p1 + 0.3 * p2 + 0.1 * p3
        curve[4, i] = u[i] + 0.8 * p1 + 0.6 * p2 + 0.4 * p3 + 0.2 * p4
        curve[5, i] = new[i]


@sums
def values_at(curve, x, row):
    """Enter the values at the place x in [0, 1]."""
    in_wide_vectors()
    y = 1.0 - x
    b0, b1, b2 = y**5, 5.0 * x * y**4, 10.0 * x * x * y**3
    b3, b4, b5 = 10.0 * x**3 * y * y, 5.0 * x**4 * y, x**5
    for i in range(row.size):
        row[i] = (
            b0 * curve[0, i] + b1 * curve[1, i] + b2 * curve[2, i]
            + b3 * curve[3, i] + b4 * curve[4, i] + b5 * curve[5, i]
        )  # fmt: skip


@sums
def quintic_at(h, x, u, new, f0, f1, s0, s1, row):
    """Enter the quintics of `explicit_interpolant` at the place x in [0, 1]."""
    in_wide_vectors()
    y = 1.0 - x
    a, b = y**3 * (1.0 + x * (3.0 + 6.0 * x)), x**3 * (1.0 + y * (3.0 + 6.0 * y))
    c, d = h * x * y**3 * (1.0 + 3.0 * x), -h * y * x**3 * (1.0 + 3.0 * y)
    e, f = 0.5 * h * h * x * x * y**3, 0.5 * h * h * y * y * x**3
    for i in range(row.size):
        row[i] = a * u[i] + b * new[i] + c * f0[i] + d * f1[i] + e * s0[i] + f * s1[i]


@ordered
def enter_level(form, work, k, t, h, level, out):
    """Enter the level of ln x in a block: the threshold over a total mass that changes, as a quintic."""
    for end in range(2):
        totals_at(form, t + end * h, work.totals, work.changes)
        total, change = work.totals[k], work.changes[k]
        curved = -form.loss[k] * form.targets[k] / total * change if form.targets[k] > 0.0 else 0.0
        place, sign = 5 * end, 1.0 - 2.0 * end
        value = level - math.log(total)
        out[place] = value
        out[int(place + sign)] = value - sign * 0.2 * h * change
        out[int(place + 2 * sign)] = value - sign * 0.4 * h * change - 0.05 * h * h * curved


@extremes
def enter_bounds(curve, level, a, b, lowest, highest):
    """Enter bounds of every group's curve above the level."""
    in_wide_vectors()
    for i in range(a, b):
        c0, c1, c2 = curve[0, i] - level[0], curve[1, i] - level[1], curve[2, i] - level[2]
        c3, c4, c5 = curve[3, i] - level[3], curve[4, i] - level[4], curve[5, i] - level[5]
        lowest[i] = min(min(min(c0, c1), min(c2, c3)), min(c4, c5))
        highest[i] = max(max(max(c0, c1), max(c2, c3)), max(c4, c5))


@ordered
def _variations(b):
    """Return how often the sign of the coefficients changes; zero counts as above."""
    found = 0
    for m in range(NODES - 1):
        if (b[m] < 0.0) != (b[m + 1] < 0.0):
            found += 1
    return found


@ordered
def _halve(b, first, second):
    """Enter the coefficients of both halves (de Casteljau)."""
    for m in range(NODES):
        second[m] = b[m]
    for m in range(NODES):
        first[m] = second[0]
        for j in range(NODES - 1 - m):
            second[j] = 0.5 * (second[j] + second[j + 1])
    # What is left runs from the middle to the end, backwards.
    for m in range(NODES):
        second[m] = b[m]
    for m in range(NODES):
        last = second[NODES - 1 - m]
        for j in range(NODES - 1 - m):
            second[j] = 0.5 * (second[j] + second[j + 1])
        second[NODES - 1 - m] = last


@ordered
def may_be_below(b, x, piece):
    """Tell whether a polynomial may be negative on [0, x], by its coefficients there (de Casteljau)."""
    below = b[0] < 0.0
    for m in range(NODES):
        piece[m] = b[m]
    for m in range(1, NODES):
        for j in range(NODES - m):
            piece[j] = (1.0 - x) * piece[j] + x * piece[j + 1]
        below = below or piece[0] < 0.0
    return below


@ordered
def enter_crossings(b, roots, falls, stack):
    """Enter where a polynomial changes its sign on [0, 1], in order; return how often."""
    found, depth, piece = 0, 1, stack[stack.shape[0] - 1]
    for m in range(NODES):
        stack[0, m] = b[m]
    stack[0, NODES], stack[0, NODES + 1] = 0.0, 1.0
    while depth > 0:
        depth -= 1
        left, right = stack[depth, NODES], stack[depth, NODES + 1]
        for m in range(NODES):
            piece[m] = stack[depth, m]
        variations = _variations(piece)
        if variations == 0 or found == roots.size:
            continue
        middle = 0.5 * (left + right)
        if right - left < 1e-15 or not left < middle < right:
            if (piece[0] < 0.0) != (piece[NODES - 1] < 0.0):
                roots[found], falls[found] = right, piece[0] >= 0.0
                found += 1
            continue
        # The later half first, so that the earlier one is looked at next.
        _halve(piece, stack[depth + 1], stack[depth])
        stack[depth, NODES], stack[depth, NODES + 1] = middle, right
        stack[depth + 1, NODES], stack[depth + 1, NODES + 1] = left, middle
        depth += 2
    return found
