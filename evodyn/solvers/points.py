"""A state on a journey, and one step from it to the next."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.solvers.interpolants import second_derivatives
from evodyn.solvers.kernels import (
    EXPLICIT,
    centre,
    explicit_step,
    implicit_step,
    linearize,
    rates,
)
from evodyn.solvers.vectors import copy, exponential, making, ordered, room, subtract, sums, weighted_mean

__all__ = [
    "arrive",
    "attempt",
    "depart",
    "empty_point",
    "enter_second",
    "fastest_rate",
    "first_step",
    "go_on",
]


class Point(NamedTuple):
    """A state and what is known of it.

    Attributes
    ----------
    u, sizes, velocity, second : array, shape (N,)
        Logarithms of shares, their exponentials, and their first and second derivatives.
    """

    u: FloatArray
    sizes: FloatArray
    velocity: FloatArray
    second: FloatArray


@making
def empty_point(n):
    """Return a point with room for so many groups."""
    return Point(room(n), room(n), room(n), room(n))


@sums
def _sum(values):
    total = 0.0
    for i in range(values.size):
        total += values[i]
    return total


@sums
def _normalise(u, sizes, shift, factor):
    for i in range(u.size):
        u[i] -= shift
        sizes[i] *= factor


@ordered
def _normalise_blocks(form, u, sizes):
    """Let the shares of every block sum to 1, and their sizes with them."""
    for k in range(form.loss.size):
        a, b = form.starts[k], form.starts[k + 1]
        total = _sum(sizes[a:b])
        _normalise(u[a:b], sizes[a:b], math.log(total), 1.0 / total)


@ordered
def _settle(form, u, sizes):
    """Let the shares of every block sum to 1, and contributions have no mean, which selects nobody."""
    for k in range(form.loss.size):
        a, b = form.starts[k], form.starts[k + 1]
        top = u[a]
        for i in range(a, b):
            top = max(top, u[i])
        subtract(u[a:b], top)
        for i in range(a, b):
            sizes[i] = exponential(u[i])
        total = _sum(sizes[a:b])
        _normalise(u[a:b], sizes[a:b], math.log(total), 1.0 / total)
        subtract(form.contribution[a:b], weighted_mean(sizes[a:b], form.contribution[a:b]))


@ordered
def _rounded(norm):
    """Return `norm` to eight binary digits, so that rounding errors do not move the ends of steps."""
    if norm == 0.0 or not math.isfinite(norm):
        return norm
    mantissa, exponent = math.frexp(norm)
    return math.ldexp(np.floor(256.0 * mantissa + 0.5) / 256.0, exponent)


@ordered
def first_step(velocity, tolerance):
    """Return the length of a step to begin with."""
    fastest = 0.0
    for i in range(velocity.size):
        fastest = max(fastest, abs(velocity[i]))
    return 0.5 * tolerance ** (1.0 / 6.0) / fastest if fastest > 0.0 else math.inf


@sums
def fastest_rate(k, argument, new):
    """Return the largest rate of change that the two last stages of an explicit step show."""
    slopes, arguments = 0.0, 0.0
    for i in range(new.size):
        slopes = max(slopes, abs(k[EXPLICIT - 1, i] - k[EXPLICIT - 2, i]))
        arguments = max(arguments, abs(new[i] - argument[i]))
    return slopes / arguments if arguments > 0.0 else 0.0


@ordered
def depart(form, work, t, start):
    """Enter what is known of the state at the start; return how stiff it is."""
    _settle(form, start.u, start.sizes)
    rates(form, work, t, start.u, start.sizes, start.velocity)
    _normalise_blocks(form, start.u, start.sizes)
    return linearize(form, work, t, start.sizes)


@ordered
def attempt(form, work, t, length, stiff, tolerance, old, new):
    """Enter the state after a step, and its sizes; return the size of the error."""
    if stiff:
        error = implicit_step(
            form, work, t, length, old.u, old.velocity, old.sizes, tolerance, new.u, new.sizes
        )
    else:
        copy(old.velocity, work.stages[0])
        error = explicit_step(form, work, t, length, old.u, tolerance, new.u, new.sizes)
    return _rounded(error)


@ordered
def arrive(form, work, t, stiff, new):
    """Enter the velocity of the state after a step, and normalise it."""
    if stiff:
        rates(form, work, t, new.u, new.sizes, new.velocity)
        centre(form, new.sizes, new.velocity)
    else:
        copy(work.stages[EXPLICIT - 1], new.velocity)
    _normalise_blocks(form, new.u, new.sizes)


@ordered
def enter_second(form, work, t, point):
    """Enter the second derivative; return how stiff the state is."""
    stiffest = linearize(form, work, t, point.sizes)
    second_derivatives(form, work, point.sizes, point.velocity, point.second)
    return stiffest


@ordered
def go_on(old, new):
    """Let the state after a step be the next one's start."""
    copy(new.u, old.u)
    copy(new.sizes, old.sizes)
    copy(new.velocity, old.velocity)
    copy(new.second, old.second)
