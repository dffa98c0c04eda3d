"""A whole integration, compiled, in which groups that fall below a level leave the state."""

from __future__ import annotations

import math

import numpy as np

from evodyn.solvers.journeys import EMPTIED, FALLEN, Journey, Watch, journey
from evodyn.solvers.kernels import Form, totals_at
from evodyn.solvers.vectors import exponential, making, ordered, room

__all__ = ["absorbing"]


@ordered
def _enter_fallen(starts, y, log_totals, level, tolerance, found, fallen):
    """Mark the first group that fell, those that cannot be told apart from it, and those that are below."""
    first, earliest = -1, math.inf
    for c in range(found.times.size):
        if found.directions[c] < 0 and found.times[c] < earliest:
            first, earliest = found.groups[c], found.times[c]
    for c in range(found.times.size):
        group = found.groups[c]
        for k in range(log_totals.size):
            if found.directions[c] < 0 and starts[k] <= group < starts[k + 1]:
                height = y[group] + log_totals[k] - level
                fallen[group] = fallen[group] or group == first or height <= tolerance
    for k in range(log_totals.size):
        for i in range(starts[k], starts[k + 1]):
            fallen[i] = fallen[i] or y[i] + log_totals[k] < level


@making
def _kept(values, keep, count):
    """Return the values that are kept, in memory of their own."""
    kept, place = room(count), 0
    for i in range(keep.size):
        if keep[i]:
            kept[place] = values[i]
            place += 1
    return kept


@making
def _kept_columns(matrix, keep, count):
    kept = room(matrix.shape[0] * count).reshape((matrix.shape[0], count))
    for row in range(matrix.shape[0]):
        place = 0
        for i in range(keep.size):
            if keep[i]:
                kept[row, place] = matrix[row, i]
                place += 1
    return kept


@making
def _without(form, t, y, log_totals, keep, count, lasting):
    """Return the form of the groups that are kept, and let `y` be their log-shares."""
    blocks, starts, place = log_totals.size, form.starts, 0
    totals, sizes = np.empty(blocks), np.zeros(blocks, np.int64)
    for k in range(blocks):
        total = 0.0
        for i in range(starts[k], starts[k + 1]):
            if keep[i]:
                total += exponential(y[i])
                sizes[k] += 1
        lasting[k] = sizes[k] > 0
        totals[k] = math.log(total) if lasting[k] else 0.0
        for i in range(starts[k], starts[k + 1]):
            y[i] -= totals[k]
        totals[k] += log_totals[k]
        place += lasting[k]
    new_starts, ends = np.zeros(place + 1, np.int64), 0
    for k in range(blocks):
        if lasting[k]:
            new_starts[ends + 1] = new_starts[ends] + sizes[k]
            ends += 1
    interaction = form.interaction
    if interaction.size > 0:
        columns = _kept_columns(interaction, keep, count)
        interaction, row = room(count * count).reshape((count, count)), 0
        for i in range(keep.size):
            if keep[i]:
                interaction[row] = columns[i]
                row += 1
    return Form(
        new_starts, _kept(form.contribution, keep, count), form.decay, form.temperature, form.frequencies,
        _kept_columns(form.sines, keep, count), _kept_columns(form.cosines, keep, count), interaction,
        form.of_shares, form.inflow, _kept(totals, lasting, place), _kept(form.loss, lasting, place),
        _kept(form.targets, lasting, place), t,
    )  # fmt: skip


@making
def absorbing(form, u, t, stop, first, longest, most, tolerance, save_at, rows, level, totals, masses):
    """Integrate `u` from `t` to `stop` without inflow, absorbing who falls below a level; see `travel`.

    Parameters
    ----------
    level : float
        ln of the threshold.
    totals : array, shape (T + 1, K)
        Where to enter ln P of every block at the saved times and where the journey ends, -inf without mass.
    masses : array, shape (N,)
        Where to add what is absorbed.

    Returns
    -------
    Journey
        Its crossings are the falls; `u` and `rows` have -inf for who is absorbed.
    """
    n, blocks = u.size, form.loss.size
    of_groups, of_blocks = np.arange(n), np.arange(blocks)
    y = _kept(u, np.ones(n, np.bool_), n)
    times, groups, crossed = np.empty(n), np.empty(n, np.int64), 0
    row = explicit = implicit = high = evaluations = 0
    rows[:] = -math.inf
    totals[:] = -math.inf
    u[:] = -math.inf
    stiff, step = False, first
    while True:
        m, taken = y.size, explicit + implicit + high
        part = room((save_at.size - row) * m).reshape((save_at.size - row, m))
        watch = Watch(level, np.zeros(m, np.bool_), True)
        found = journey(
            form, y, t, stop, step, longest, most - taken, tolerance, save_at[row:], part, watch, stiff
        )
        t, step, stiff, ending = found.t, found.step, found.stiff, found.ending
        explicit, implicit, high = explicit + found.explicit, implicit + found.implicit, high + found.high
        evaluations += found.evaluations
        log_totals, changes = np.empty(form.loss.size), np.empty(form.loss.size)
        for r in range(found.rows):
            totals_at(form, save_at[row], log_totals, changes)
            for k in range(log_totals.size):
                totals[row, of_blocks[k]] = math.log(log_totals[k])
            for i in range(m):
                rows[row, of_groups[i]] = part[r, i]
            row += 1
        totals_at(form, t, log_totals, changes)
        for k in range(log_totals.size):
            log_totals[k] = math.log(log_totals[k])
        if ending != FALLEN:
            break
        fallen = np.zeros(m, np.bool_)
        _enter_fallen(form.starts, y, log_totals, level, tolerance, found, fallen)
        for k in range(log_totals.size):
            for i in range(form.starts[k], form.starts[k + 1]):
                if fallen[i]:
                    masses[of_groups[i]] += math.exp(y[i] + log_totals[k])
                    times[crossed], groups[crossed] = t, of_groups[i]
                    crossed += 1
        keep = np.logical_not(fallen)
        count = keep.sum()
        if count == 0:
            return Journey(
                EMPTIED, t, step, save_at.size, explicit, implicit, high, evaluations, stiff,
                times[:crossed], groups[:crossed], np.full(crossed, -1),
            )  # fmt: skip
        lasting = np.zeros(log_totals.size, np.bool_)
        form = _without(form, t, y, log_totals, keep, count, lasting)
        y, of_groups, of_blocks = _kept(y, keep, count), of_groups[keep], of_blocks[lasting]
    for k in range(log_totals.size):
        totals[save_at.size, of_blocks[k]] = log_totals[k]
    for i in range(y.size):
        u[of_groups[i]] = y[i]
    return Journey(
        ending, t, step, row, explicit, implicit, high, evaluations, stiff,
        times[:crossed], groups[:crossed], np.full(crossed, -1),
    )  # fmt: skip
