"""A whole integration, compiled: steps, switching of methods, rows of a trajectory, crossings."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.solvers.games import play, suits
from evodyn.solvers.interpolants import (
    NODES,
    enter_bounds,
    enter_crossings,
    enter_level,
    explicit_interpolant,
    implicit_interpolant,
    may_be_below,
    quintic_at,
    values_at,
)
from evodyn.solvers.kernels import (
    EXPLICIT,
    IMPLICIT,
    linearize,
    memory,
)
from evodyn.solvers.matrices import MOST_DENSE
from evodyn.solvers.points import (
    arrive,
    attempt,
    depart,
    empty_point,
    enter_second,
    fastest_rate,
    first_step,
    go_on,
)
from evodyn.solvers.vectors import copy, exponential, making, ordered, room, subtract, sums

__all__ = [
    "ARRIVED",
    "EMPTIED",
    "FALLEN",
    "LIMITED",
    "LOST",
    "STIFF",
    "Journey",
    "Watch",
    "journey",
    "travel",
]

ARRIVED, LIMITED, FALLEN, LOST, STIFF, EMPTIED = range(6)
"""How a journey ended: at its stop, at the step limit, at a group's fall, where no step is accepted because
velocities are not finite, or where it is stiff and the Jacobian is too large, or where nobody is left."""

_SAFETY, _LEAST, _MOST = 0.9, 0.2, 10.0

_NEAR = 1e-3
"""What part of a step after a fall others may fall that cannot be told apart from it."""


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
    explicit, implicit, high, evaluations : int
        Steps of Tsit5, Rodas5P and Taylor's series, and evaluations of fitness.
    stiff : bool
        Whether the implicit method is to go on.
    times, groups, directions : array
        Crossings, in order of steps.
    """

    ending: int
    t: float
    step: float
    rows: int
    explicit: int
    implicit: int
    high: int
    evaluations: int
    stiff: bool
    times: FloatArray
    groups: Any
    directions: Any


class Scene(NamedTuple):
    """What happens within a step.

    Attributes
    ----------
    curve : array, shape (NODES, N)
        Bernstein coefficients of the interpolant.
    lowest, highest : array, shape (N,)
        Bounds of what is above the level.
    level, own, roots : array, shape (NODES,)
    falls : bool array, shape (NODES,)
    stack : array, shape (128, NODES + 2)
    below : bool array, shape (N,)
        Who is below the level.
    """

    curve: FloatArray
    lowest: FloatArray
    highest: FloatArray
    level: FloatArray
    own: FloatArray
    roots: FloatArray
    falls: Any
    stack: FloatArray
    below: Any


@making
def _scene(n, below):
    return Scene(
        room(NODES * n).reshape((NODES, n)), room(n), room(n), room(NODES), room(NODES), room(NODES),
        np.empty(NODES, np.bool_), np.empty((128, NODES + 2)), below.copy(),
    )  # fmt: skip


@making
def _with_room(array, size):
    larger = np.empty(max(size, 2 * array.size), array.dtype)
    larger[: array.size] = array
    return larger


@ordered
def _candidates(form, work, t, length, stiff, old, new, level, scene):
    """Enter the interpolant of a step and its bounds; return how many groups may cross the level."""
    if stiff:
        implicit_interpolant(old.u, new.u, work.stages, scene.curve)
    else:
        explicit_interpolant(
            length, old.u, new.u, old.velocity, new.velocity, old.second, new.second, scene.curve
        )
    candidates = 0
    for k in range(form.loss.size):
        a, b = form.starts[k], form.starts[k + 1]
        enter_level(form, work, k, t, length, level, scene.level)
        enter_bounds(scene.curve, scene.level, a, b, scene.lowest, scene.highest)
        for i in range(a, b):
            candidates += scene.lowest[i] < 0.0 and scene.highest[i] >= 0.0
    return candidates


@ordered
def _enter_events(form, work, t, length, watch, scene, crossed, times, groups, directions):
    """Enter the crossings within a step, by its place in [0, 1]; return their number and the first fall.

    Where the first fall ends the journey, those long after it need not be looked for.
    """
    fall = math.inf
    for k in range(form.loss.size):
        enter_level(form, work, k, t, length, watch.level, scene.level)
        for i in range(form.starts[k], form.starts[k + 1]):
            if not (scene.lowest[i] < 0.0 and scene.highest[i] >= 0.0):
                continue
            for m in range(NODES):
                scene.own[m] = scene.curve[m, i] - scene.level[m]
            if watch.halts and not may_be_below(scene.own, min(1.0, fall + _NEAR), scene.stack[0]):
                continue
            for m in range(enter_crossings(scene.own, scene.roots, scene.falls, scene.stack)):
                falls, root = scene.falls[m], scene.roots[m]
                # A group that starts at the level is on record on the side to which it goes.
                if falls == scene.below[i]:
                    continue
                times[crossed], groups[crossed], directions[crossed] = root, i, -1 if falls else 1
                scene.below[i] = falls
                crossed += 1
                if falls:
                    fall = min(fall, root)
    return crossed, fall


@sums
def _normalise_row(row):
    total = 0.0
    for i in range(row.size):
        total += exponential(row[i])
    subtract(row, math.log(total))


@ordered
def _enter_rows(form, t, length, t_new, stiff, old, new, curve, save_at, first, due, rows):
    """Enter log-shares at saved times within a step."""
    for row in range(first, due):
        place = (save_at[row] - t) / length
        if save_at[row] == t_new:
            copy(new.u, rows[row])
        elif stiff:
            values_at(curve, place, rows[row])
        else:
            quintic_at(
                length, place, old.u, new.u, old.velocity, new.velocity, old.second, new.second, rows[row]
            )
        if save_at[row] != t_new:
            for k in range(form.loss.size):
                _normalise_row(rows[row, form.starts[k] : form.starts[k + 1]])


@making
def travel(form, u, t, stop, first, longest, most, tolerance, save_at, rows, watch, stiff):
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
        Times from `t` to `stop` at which to enter log-shares.
    watch : Watch
    stiff : bool
        Whether to begin with the implicit method.
    """
    n, structured = u.size, form.interaction.size == 0
    implicit_too = structured or n <= MOST_DENSE
    dense = n if implicit_too and not structured else 0
    work, old, new, scene = (
        memory(n, form.loss.size, dense),
        empty_point(n),
        empty_point(n),
        _scene(n, watch.below),
    )
    times, groups, directions = np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
    watching = watch.level > -math.inf
    crossed = row = explicit = implicit = signs = others = 0
    copy(u, old.u)
    stiffest = depart(form, work, t, old)
    while row < save_at.size and save_at[row] <= t:
        copy(old.u, rows[row])
        row += 1
    evaluations = 1
    # Whether the second derivative is known, which only interpolants need.
    curved = False
    h = first if first > 0.0 else first_step(old.velocity, tolerance)
    stiff, before, ending = stiff and implicit_too, 1.0, ARRIVED
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
        error = attempt(form, work, t, length, stiff, tolerance, old, new)
        evaluations += IMPLICIT - 1 if stiff else EXPLICIT - 1
        if not error <= 1.0:
            h = length * (max(_LEAST, _SAFETY * error**-0.2) if math.isfinite(error) else 0.1)
            before = 0.0
            if not length > 4.0 * np.spacing(abs(t)):
                ending = LOST
                break
            continue

        # What the step leads to.
        t_new = stop if last else t + length
        implicit += stiff
        explicit += not stiff
        evaluations += stiff
        if not stiff and not structured:
            stiffest = fastest_rate(work.stages, work.argument, new.u)
        arrive(form, work, t_new, stiff, new)
        due = row
        while due < save_at.size and save_at[due] <= t_new:
            due += 1
        inside = watching or (due > row and save_at[row] < t_new)
        if inside and not stiff and not curved:
            enter_second(form, work, t, old)
        curved = inside and not stiff
        largest = enter_second(form, work, t_new, new) if curved else linearize(form, work, t_new, new.sizes)

        # What happened within it.
        begun, fall = crossed, math.inf
        if watching:
            room_for = crossed + NODES * _candidates(
                form, work, t, length, stiff, old, new, watch.level, scene
            )
            if room_for > times.size:
                times, groups = _with_room(times, room_for), _with_room(groups, room_for)
                directions = _with_room(directions, room_for)
            if room_for > crossed:
                crossed, fall = _enter_events(
                    form, work, t, length, watch, scene, crossed, times, groups, directions
                )
        elif inside and stiff:
            implicit_interpolant(old.u, new.u, work.stages, scene.curve)
        cut = watch.halts and fall < math.inf
        while cut and due > row and not save_at[due - 1] < t + fall * length:
            due -= 1
        _enter_rows(form, t, length, t_new, stiff, old, new, scene.curve, save_at, row, due, rows)
        row = due
        for m in range(begun, crossed):
            times[m] = t + times[m] * length
        if cut:
            # The state at the fall by a step that ends there, which is more accurate than any interpolant.
            h, length = length, fall * length
            if length > 0.0:
                linearize(form, work, t, old.sizes)
                attempt(form, work, t, length, stiff, tolerance, old, new)
                t = t + length
                arrive(form, work, t, stiff, new)
                copy(new.u, old.u)
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
        elif stiff:
            stiff, signs = length * work.norm[0] >= 1.0, 0
        elif length * stiffest > 3.25:
            signs, others = signs + 1, 0
        else:
            others += 1
            if others == 6:
                signs = 0
        t = t_new
        go_on(old, new)
        if signs == 15 and implicit_too:
            stiff, signs = True, 0
        elif signs == 15 and t < stop:
            ending = STIFF
            break
    copy(old.u, u)
    return Journey(
        ending,
        t,
        h,
        row,
        explicit,
        implicit,
        0,
        evaluations,
        stiff,
        times[:crossed],
        groups[:crossed],
        directions[:crossed],
    )


@making
def journey(form, u, t, stop, first, longest, most, tolerance, save_at, rows, watch, stiff):
    """Integrate `u` from `t` to `stop` by the methods that suit; see `travel`."""
    if not suits(form, watch.level):
        return travel(form, u, t, stop, first, longest, most, tolerance, save_at, rows, watch, stiff)
    stiff, lost, t, step, row, high, evaluations = play(
        form, u, t, stop, first, longest, most, tolerance, save_at, rows
    )
    if stiff and high < most:
        rest = travel(
            form, u, t, stop, step, longest, most - high, tolerance, save_at[row:], rows[row:], watch, True
        )
        return Journey(
            rest.ending, rest.t, rest.step, row + rest.rows, rest.explicit, rest.implicit, high,
            evaluations + rest.evaluations, rest.stiff, rest.times, rest.groups, rest.directions,
        )  # fmt: skip
    ending = LOST if lost else ARRIVED if t >= stop else LIMITED
    nobody = np.empty(0, np.int64)
    return Journey(ending, t, step, row, 0, 0, high, evaluations, stiff, np.empty(0), nobody, nobody)
