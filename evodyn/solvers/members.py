"""Integrations of many members in one compiled call: each by itself, as if it were alone."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.solvers.absorption import absorbing
from evodyn.solvers.journeys import Watch, journey
from evodyn.solvers.kernels import Form
from evodyn.solvers.vectors import making

__all__ = ["Forms", "Journeys", "travel_all"]


class Forms(NamedTuple):
    """The `Form` of every member: members lead where they may differ.

    Attributes
    ----------
    starts : int array, shape (K + 1,)
    contribution : array, shape (M, N)
    decay, temperature : array, shape (M,)
    frequencies : array, shape (M, S)
    sines, cosines : array, shape (M, S, N)
    interaction : array, shape (M, N, N), (1, N, N) for one matrix for all, or (1, 0, 0)
    of_shares : bool
    inflow : array, shape (N,) or (0,)
    log_totals : array, shape (M, K)
    loss, targets : array, shape (K,)
    begin : float
    """

    starts: Any
    contribution: FloatArray
    decay: FloatArray
    temperature: FloatArray
    frequencies: FloatArray
    sines: FloatArray
    cosines: FloatArray
    interaction: FloatArray
    of_shares: bool
    inflow: FloatArray
    log_totals: FloatArray
    loss: FloatArray
    targets: FloatArray
    begin: float


class Journeys(NamedTuple):
    """How far every member got; see `Journey`.

    Attributes
    ----------
    endings, rows, explicit, implicit, high, evaluations : int array, shape (M,)
    t, steps : array, shape (M,)
    members, groups, directions : int array
        Whose crossings; members in order, each one's in order of its steps.
    times : array
        When they crossed.
    """

    endings: Any
    t: FloatArray
    steps: FloatArray
    rows: Any
    explicit: Any
    implicit: Any
    high: Any
    evaluations: Any
    members: Any
    groups: Any
    directions: Any
    times: FloatArray


@making
def _extended(array, used, size):
    """Return an array with room for `size` numbers, the first `used` of them as before."""
    if size <= array.size:
        return array
    larger = np.empty(max(size, 2 * array.size), array.dtype)
    larger[:used] = array[:used]
    return larger


@making
def travel_all(
    forms, u, t, stop, first, longest, most, tolerance, save_at, rows, level, below, halts, totals, masses
):
    """Integrate every member from `t` to `stop`; see `travel` and `Watch`.

    Parameters
    ----------
    forms : Forms
    u : array, shape (M, N)
        Logarithms of shares in any unit, changed in place.
    rows : array, shape (M, T, N)
    below : bool array, shape (M, N)
    totals, masses : array, shape (M, T + 1, K) and (M, N), or (0, 0, 0) and (0, 0)
        Where to enter what `absorbing` does, if groups are absorbed.
    """
    number = u.shape[0]
    endings, filled = np.empty(number, np.int64), np.empty(number, np.int64)
    explicit, implicit = np.empty(number, np.int64), np.empty(number, np.int64)
    high, evaluations = np.empty(number, np.int64), np.empty(number, np.int64)
    reached, steps = np.empty(number), np.empty(number)
    members, groups = np.empty(0, np.int64), np.empty(0, np.int64)
    directions, times = np.empty(0, np.int64), np.empty(0)
    crossed = 0
    for m in range(number):
        form = Form(
            forms.starts,
            forms.contribution[m],
            forms.decay[m],
            forms.temperature[m],
            forms.frequencies[m],
            forms.sines[m],
            forms.cosines[m],
            forms.interaction[m if forms.interaction.shape[0] > 1 else 0],
            forms.of_shares,
            forms.inflow,
            forms.log_totals[m],
            forms.loss,
            forms.targets,
            forms.begin,
        )
        if totals.shape[0] > 0:
            found = absorbing(
                form, u[m], t, stop, first, longest, most, tolerance, save_at, rows[m], level, totals[m],
                masses[m],
            )  # fmt: skip
        else:
            watch = Watch(level, below[m], halts)
            found = journey(
                form, u[m], t, stop, first, longest, most, tolerance, save_at, rows[m], watch, False
            )
        endings[m], reached[m], steps[m], filled[m] = found.ending, found.t, found.step, found.rows
        explicit[m], implicit[m], high[m] = found.explicit, found.implicit, found.high
        evaluations[m] = found.evaluations
        due = crossed + found.times.size
        members, groups = _extended(members, crossed, due), _extended(groups, crossed, due)
        directions, times = _extended(directions, crossed, due), _extended(times, crossed, due)
        members[crossed:due] = m
        groups[crossed:due] = found.groups
        directions[crossed:due] = found.directions
        times[crossed:due] = found.times
        crossed = due
    return Journeys(
        endings,
        reached,
        steps,
        filled,
        explicit,
        implicit,
        high,
        evaluations,
        members[:crossed],
        groups[:crossed],
        directions[:crossed],
        times[:crossed],
    )
