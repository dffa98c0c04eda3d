"""A whole integration, compiled: steps, switching of methods, rows of a trajectory, crossings."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.solvers.interpolants import (
    NODES,
    enter_bounds,
    enter_crossings,
    enter_level,
    explicit_interpolant,
    implicit_interpolant,
    quintic_at,
    second_derivatives,
    values_at,
)
from evodyn.solvers.kernels import (
    EXPLICIT,
    IMPLICIT,
    centre,
    explicit_step,
    implicit_step,
    linearize,
    memory,
    rates,
)
from evodyn.solvers.vectors import exponential, ordered, room, subtract, sums, weighted_mean

__all__ = ["ARRIVED", "FALLEN", "LIMITED", "LOST", "STIFF", "Journey", "Watch", "travel"]

ARRIVED, LIMITED, FALLEN, LOST, STIFF = range(5)
"""How a journey ended: at its stop, at the step limit, at a group's fall, where no step is accepted because
velocities are not finite, or where it is stiff and there is no Jacobian."""

_SAFETY, _LEAST, _MOST = 0.9, 0.2, 10.0


class Watch(NamedTuple):
    """Which crossings to look for.

    Attributes
    ----------
    level : float
        ln of the threshold; -inf to look for none.
    below : bool array, shape (N,)
        Who is below it at the start.
    halts : bool
        Whether the journey ends at the first fall.
    """

    level: float
    below: Any
    halts: bool


class Journey(NamedTuple):
    """How far a journey got.

    Attributes
    ----------
    ending : int
    t, step : float
        The time reached, and the length of the step to take next.
    rows : int
        Rows filled.
    explicit, implicit, evaluations : int
        Steps of the two methods, and evaluations of fitness.
    times, groups, directions : array
        Crossings, in order of steps.
    """

    ending: int
    t: float
    step: float
    rows: int
    explicit: int
    implicit: int
    evaluations: int
    times: FloatArray
    groups: Any
    directions: Any


@ordered
def _with_room(array, size):
    larger = np.empty(max(size, 2 * array.size), array.dtype)
    larger[: array.size] = array
    return larger


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
def _first_step(velocity, tolerance):
    fastest = 0.0
    for i in range(velocity.size):
        fastest = max(fastest, abs(velocity[i]))
    return 0.5 * tolerance ** (1.0 / 6.0) / fastest if fastest > 0.0 else math.inf


@sums
def _fastest_rate(k, argument, new):
    """Return the largest rate of change that the two last stages of an explicit step show."""
    slopes, arguments = 0.0, 0.0
    for i in range(new.size):
        slopes = max(slopes, abs(k[EXPLICIT - 1, i] - k[EXPLICIT - 2, i]))
        arguments = max(arguments, abs(new[i] - argument[i]))
    return slopes / arguments if arguments > 0.0 else 0.0


@ordered
def travel(form, u, t, stop, first, longest, most, tolerance, save_at, rows, watch):
    """Integrate `u` from `t` to `stop`; see `Journey`.

    Parameters
    ----------
    form : Form
        Its contributions are changed in place: what all groups of a block share is taken from them.
    u : array, shape (N,)
        Logarithms of shares in any unit, changed in place.
    t, stop : float
    first : float
        The first step; 0 to choose it.
    longest, most : float and int
        Longest step and most steps.
    tolerance : float
        Bound on the local error of every ln p.
    save_at, rows : array, shape (T,) and (T, N)
        Times from `t` to `stop` at which to enter u.
    watch : Watch
    """
    n, blocks = u.size, form.loss.size
    work = memory(n, blocks)
    velocity, velocity_new, new, sizes, sizes_new = room(n), room(n), room(n), room(n), room(n)
    second, second_new, lowest, highest = room(n), room(n), room(n), room(n)
    curve, level, own = room(NODES * n).reshape((NODES, n)), room(NODES), room(NODES)
    roots, falls, stack = room(NODES), np.empty(NODES, np.bool_), np.empty((128, NODES + 2))
    times, groups, directions = np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
    below = watch.below.copy()
    watching, structured = watch.level > -math.inf, form.interaction.size == 0
    crossed = row = explicit = implicit = signs = others = 0
    _settle(form, u, sizes)
    while row < save_at.size and save_at[row] <= t:
        rows[row] = u
        row += 1
    rates(form, work, t, u, sizes, velocity)
    _normalise_blocks(form, u, sizes)
    evaluations = 1
    stiffest = linearize(form, work, t, sizes)
    # Whether the second derivative is known, which only interpolants need.
    curved = False
    h = first if first > 0.0 else _first_step(velocity, tolerance)
    stiff, before, ending = False, 1.0, ARRIVED
    while t < stop:
        if explicit + implicit >= most:
            ending = LIMITED
            break
        h = min(h, longest)
        last = t + h * (1.0 + 1e-10) >= stop
        length = stop - t if last else h
        if not length > 4.0 * np.spacing(abs(t)) and not last:
            ending = LOST
            break
        if stiff:
            error = implicit_step(form, work, t, length, u, velocity, sizes, tolerance, new, sizes_new)
            evaluations += IMPLICIT - 1
        else:
            work.stages[0, :] = velocity
            error = explicit_step(form, work, t, length, u, tolerance, new, sizes_new)
            evaluations += EXPLICIT - 1
        error = _rounded(error)
        if not error <= 1.0:
            h = length * (max(_LEAST, _SAFETY * error**-0.2) if math.isfinite(error) else 0.1)
            before = 0.0
            if not length > 4.0 * np.spacing(abs(t)):
                ending = LOST
                break
            continue

        # What the step leads to.
        t_new = stop if last else t + length
        if stiff:
            implicit += 1
            evaluations += 1
            rates(form, work, t_new, new, sizes_new, velocity_new)
            centre(form, sizes_new, velocity_new)
        else:
            explicit += 1
            velocity_new[:] = work.stages[EXPLICIT - 1]
            if not structured:
                stiffest = _fastest_rate(work.stages, work.argument, new)
        _normalise_blocks(form, new, sizes_new)
        due = row
        while due < save_at.size and save_at[due] <= t_new:
            due += 1
        inside = watching or (due > row and save_at[row] < t_new)
        if inside and not stiff and not curved:
            linearize(form, work, t, sizes)
            second_derivatives(form, work, sizes, velocity, second)
        largest = linearize(form, work, t_new, sizes_new)
        curved = inside and not stiff
        if curved:
            second_derivatives(form, work, sizes_new, velocity_new, second_new)

        # What happened within it.
        if inside:
            if stiff:
                implicit_interpolant(u, new, work.stages, curve)
            elif watching:
                explicit_interpolant(length, u, new, velocity, velocity_new, second, second_new, curve)
        begun, fall = crossed, math.inf
        if watching:
            for k in range(blocks):
                a, b = form.starts[k], form.starts[k + 1]
                enter_level(form, work, k, t, length, watch.level, level)
                enter_bounds(curve, level, a, b, lowest, highest)
                for i in range(a, b):
                    if not (lowest[i] < 0.0 and highest[i] >= 0.0):
                        continue
                    for m in range(NODES):
                        own[m] = curve[m, i] - level[m]
                    for m in range(enter_crossings(own, roots, falls, stack)):
                        # A group that starts at the level is on record on the side to which it goes.
                        if falls[m] == below[i]:
                            continue
                        if crossed == times.size:
                            times = _with_room(times, 64)
                            groups, directions = _with_room(groups, 64), _with_room(directions, 64)
                        times[crossed], groups[crossed] = roots[m], i
                        directions[crossed] = -1 if falls[m] else 1
                        below[i] = falls[m]
                        crossed += 1
                        if falls[m]:
                            fall = min(fall, roots[m])
        cut = watch.halts and fall < math.inf
        while row < due and (not cut or save_at[row] < t + fall * length):
            place = (save_at[row] - t) / length
            if save_at[row] == t_new:
                rows[row] = new
            elif stiff:
                values_at(curve, place, rows[row])
            else:
                quintic_at(length, place, u, new, velocity, velocity_new, second, second_new, rows[row])
            row += 1
        for m in range(begun, crossed):
            times[m] = t + times[m] * length
        if cut:
            # The state at the fall by a step that ends there, which is more accurate than any interpolant.
            h, length = length, fall * length
            if length > 0.0:
                if stiff:
                    linearize(form, work, t, sizes)
                    implicit_step(form, work, t, length, u, velocity, sizes, tolerance, new, sizes_new)
                else:
                    work.stages[0, :] = velocity
                    explicit_step(form, work, t, length, u, tolerance, new, sizes_new)
                rates(form, work, t + length, new, sizes_new, velocity_new)
                _normalise_blocks(form, new, sizes_new)
                u[:] = new
                t = t + length
            ending = FALLEN
            break

        # How to go on.
        if stiff:
            factor = _SAFETY * error**-0.2 if error > 0.0 else _MOST
        else:
            factor = _SAFETY * error**-0.14 * max(before, 1e-4) ** 0.08 if error > 0.0 else _MOST
        factor = min(_MOST if before > 0.0 else 1.0, max(_LEAST, factor))
        before = max(error, 1e-4)
        if not last or factor < 1.0:
            h = length * factor
        if structured:
            stiffest = largest
            if stiff:
                stiff = length * stiffest >= 1.0
            else:
                signs = signs + 1 if length * stiffest > 2.0 else 0
                if signs == 2:
                    stiff, signs = True, 0
        elif length * stiffest > 3.25:
            signs, others = signs + 1, 0
        else:
            others += 1
            if others == 6:
                signs = 0
        u[:] = new
        t = t_new
        velocity, velocity_new = velocity_new, velocity
        sizes, sizes_new = sizes_new, sizes
        second, second_new = second_new, second
        if signs == 15 and t < stop:
            ending = STIFF
            break
    return Journey(
        ending,
        t,
        h,
        row,
        explicit,
        implicit,
        evaluations,
        times[:crossed],
        groups[:crossed],
        directions[:crossed],
    )
