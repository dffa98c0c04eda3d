"""What compiled methods are told of flows, where they know them, and what they answer."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.core.arrays import FloatArray
from evodyn.model.normal_form import NormalForm
from evodyn.simulate.flow import Flow
from evodyn.simulate.method import Solver

__all__ = [
    "Ending",
    "Passage",
    "Passages",
    "compiled_form",
    "compiled_forms",
    "most_members",
    "most_steps",
    "part_of",
    "travel",
    "work_of_a_step",
]

_WORK = 12_500_000
"""Work of a compiled call: half a second, after which a signal is heard."""

_OVERHEAD = 250
"""A step takes as long as that of so many groups, and its groups."""

_STEPS = 500
"""Steps that a member takes, more or less."""

_FEWEST_STEPS = 100
"""Steps of a compiled call at the least: it begins with the explicit method, also where that is too slow."""


class Ending(enum.Enum):
    """How a compiled phase ended; the values are those of `evodyn.solvers.journeys`."""

    ARRIVED = 0
    LIMITED = 1
    FALLEN = 2
    LOST = 3
    STIFF = 4
    EMPTIED = 5


@dataclasses.dataclass(frozen=True)
class Passage:
    """What came of a compiled phase.

    Attributes
    ----------
    ending : Ending
    t, y : float and numpy.ndarray, shape (n,)
        The time and the log-shares reached.
    step : float
        The step to take next.
    states : numpy.ndarray, shape (T, n)
        Log-shares at the saved times that were due, those of every block with a sum of 1.
    crossings : list of (float, int, int)
        Time, group (among those that were integrated) and direction.
    explicit, implicit, high, evaluations : int
        Steps by method, and evaluations of fitness.
    log_totals : numpy.ndarray, shape (T + 1, K) or (0, 0)
        ln P of the blocks that were integrated, at the saved times and at the end, where groups are absorbed.
    absorbed : numpy.ndarray, shape (n,) or (0,)
        The masses that were.
    """

    ending: Ending
    t: float
    y: FloatArray
    step: float
    states: FloatArray
    crossings: list[tuple[float, int, int]]
    explicit: int
    implicit: int
    high: int
    evaluations: int
    log_totals: FloatArray
    absorbed: FloatArray

    @property
    def methods(self) -> list[str]:
        """The methods that took steps."""
        steps = (("Taylor", self.high), ("Tsit5", self.explicit), ("Rodas5P", self.implicit))
        return [name for name, taken in steps if taken]

    @property
    def steps(self) -> int:
        """Steps of all methods."""
        return self.explicit + self.implicit + self.high


@dataclasses.dataclass(frozen=True)
class Passages:
    """What came of the phases of several members.

    Attributes
    ----------
    found : Journeys
    y : numpy.ndarray, shape (M, n)
    states : numpy.ndarray, shape (M, T, n)
    log_totals, absorbed : numpy.ndarray, shape (M, T + 1, K) and (M, n), or without numbers
    """

    found: Any
    y: FloatArray
    states: FloatArray
    log_totals: FloatArray
    absorbed: FloatArray

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, member: int) -> Passage:
        found, filled = self.found, int(self.found.rows[member])
        crossings: list[tuple[float, int, int]] = []
        if len(found.members):
            own = slice(*np.searchsorted(found.members, (member, member + 1)).tolist())
            columns = found.times[own], found.groups[own], found.directions[own]
            crossings = list(zip(*(column.tolist() for column in columns), strict=True))
        return Passage(
            Ending(found.endings[member]),
            float(found.t[member]),
            self.y[member],
            float(found.steps[member]),
            self.states[member] if filled == self.states.shape[1] else self.states[member, :filled].copy(),
            crossings,
            int(found.explicit[member]),
            int(found.implicit[member]),
            int(found.high[member]),
            int(found.evaluations[member]),
            *(part[member] if len(part) else part for part in (self.log_totals, self.absorbed)),
        )


def _solvers(name: str) -> Any:
    """Return a module of compiled code, which is imported at the first solve that asks for it."""
    return importlib.import_module(f"evodyn.solvers.{name}")


def work_of_a_step(forms: Any) -> int:
    """Return how long a step of a member takes, in groups."""
    return int(_OVERHEAD + forms.starts[-1] + forms.interaction[0].size // 8)


def most_steps(forms: Any, *, looks_for_rest: bool = False) -> int:
    """Return how many steps a compiled call may take before signals are heard or rest looked for."""
    return _FEWEST_STEPS if looks_for_rest else max(_FEWEST_STEPS, _WORK // work_of_a_step(forms))


def most_members(forms: Any) -> int:
    """Return how many members a compiled call may integrate before a signal is heard."""
    return max(1, _WORK // (_STEPS * work_of_a_step(forms)))


def travel(
    forms: Any,
    u: FloatArray,
    t: float,
    stop: float,
    times: FloatArray,
    *,
    first: float,
    most: int,
    solver: Solver,
    level: float,
    below: npt.NDArray[np.bool_],
    halts: bool,
    absorbs: bool = False,
) -> Passages:
    """Integrate members, known as `forms`, from log-masses `u`, shape (M, n), at `t` to `stop`.

    Parameters
    ----------
    times : array, shape (T,)
        Saved times that are due until `stop`.
    first : float
        The first step; 0 to choose it.
    most : int
        Most steps.
    level, below, halts
        ln of the threshold, -inf without; who starts below it, shape (M, n); whether the first fall ends it.
    absorbs
        Whether who falls below leaves the state instead; then nobody starts below, and nothing flows in.
    """
    forms = forms._replace(contribution=_apart(forms.contribution))  # which are changed in place
    y, states = _apart(u), _room((len(u), len(times), u.shape[1]))
    longest, tolerance = solver.max_step, solver.tolerance
    members = len(u) if absorbs else 0
    totals = np.empty((members, len(times) + 1, forms.log_totals.shape[1]))
    masses = np.zeros((members, u.shape[1]))
    found = _solvers("members").travel_all(
        forms, y, t, stop, first, longest, most, tolerance, times, states, level, below, halts, totals, masses
    )
    return Passages(found, y, states, totals, masses)


def part_of(forms: Any, members: slice) -> Any:
    """Return the `Forms` of some members."""
    shared = forms.interaction if len(forms.interaction) == 1 else forms.interaction[members]
    lead = ("contribution", "decay", "temperature", "frequencies", "sines", "cosines", "log_totals")
    return forms._replace(interaction=shared, **{name: getattr(forms, name)[members] for name in lead})


def compiled_form(flow: Flow, fitness: NormalForm | None) -> Any:
    """Return the `Forms` in which compiled methods know a flow by itself, or None if they do not."""
    if fitness is None:
        return None
    return compiled_forms(flow, [fitness], np.array([[block.log_start for block in flow.blocks]]))


def compiled_forms(flow: Flow, members: Sequence[NormalForm], log_totals: FloatArray) -> Any:
    """Return the `Forms` of members that differ from a flow in fitness and in ln P, shape (M, K), only.

    None if compiled methods do not know them: growth rates have to be fitness compared with its mean,
    unclipped, every total known, the inflow steady, and no group is to be reviving. Members have to have
    terms of the same kinds.
    """
    start, living = flow.start, flow.log_living
    n = len(start.log_masses)
    known = all(block.relaxation is not None and not block.capped for block in flow.blocks)
    if len(flow.reviving) or not known or not flow.dynamics.compares_with_mean:
        return None
    inflow = flow.dynamics.steady_inflow(n)
    interaction = _interactions(flow, members, log_totals)
    swings = len(members[0].swings)
    if inflow is None or interaction is None or any(len(member.swings) != swings for member in members):
        return None
    starts = np.array([*(block.groups.start for block in flow.blocks), n])
    laws = np.array([block.relaxation for block in flow.blocks], dtype=np.float64).T
    number, rows = len(members), slice(None) if flow.full else living
    if not flow.full:
        starts = np.searchsorted(living, starts)
        alive = np.flatnonzero(np.diff(starts))
        starts, laws, log_totals = np.append(starts[alive], len(living)), laws[:, alive], log_totals[:, alive]
    inflow = inflow[rows]

    def of_swings(part: str, *shape: int) -> FloatArray:
        if not swings:
            return np.empty((number, 0, *shape))
        return np.array([[getattr(swing, part) for swing in member.swings] for member in members])

    return _solvers("members").Forms(
        starts,
        _stacked([member.contribution[rows] for member in members]),
        np.array([member.decay for member in members], dtype=np.float64),
        np.array([member.temperature for member in members], dtype=np.float64),
        of_swings("frequency"),
        _apart(of_swings("sines", n)[..., rows]),
        _apart(of_swings("cosines", n)[..., rows]),
        interaction[0],
        interaction[1],
        _apart(inflow if inflow.any() else inflow[:0]),
        np.ascontiguousarray(log_totals),
        np.array(laws[0]),
        np.array(laws[1]),
        start.t,
    )


def _room(shape: tuple[int, ...]) -> FloatArray:
    """Return memory for an array, with a gap behind it; see `evodyn.solvers.vectors.room`."""
    size = math.prod(shape)
    return np.empty(size + _gap())[:size].reshape(shape)


@functools.cache
def _gap() -> int:
    gap: int = _solvers("vectors").GAP
    return gap


def _apart(values: FloatArray) -> FloatArray:
    """Return a copy of an array, with a gap behind it."""
    copy = _room(values.shape)
    copy[...] = values
    return copy


def _stacked(rows: list[FloatArray]) -> FloatArray:
    """Return a copy of rows, one below the other, with a gap behind it."""
    stack = _room((len(rows), *rows[0].shape))
    for row, values in zip(stack, rows, strict=True):
        row[...] = values
    return stack


def _interactions(
    flow: Flow, members: Sequence[NormalForm], log_totals: FloatArray
) -> tuple[FloatArray, bool] | None:
    """Return the matrices of interactions of the living, and whether they act on shares of all blocks.

    There is one for each member or one for all, shape (M, n, n) or (1, n, n), or (1, 0, 0) where nobody
    interacts; None for all that cannot be stated so.
    """
    matrices: list[FloatArray] = []
    of_shares = members[0].payoff is not None
    steady = len(flow.blocks) == 1 and flow.blocks[0].relaxation == (0.0, 0.0)
    for member, totals in zip(members, log_totals, strict=True):
        if (member.payoff is not None) != of_shares:
            return None
        matrix = member.payoff if of_shares else member.competition
        if member.payoff is not None and member.competition is not None:
            if not steady:
                return None
            matrix = member.payoff + member.competition * np.exp(totals[0])
        if matrix is not None and not (matrices and matrix is matrices[-1]):
            matrices.append(matrix)
    if not matrices:
        return _room((1, 0, 0)), False
    if len(matrices) not in (1, len(members)):
        return None
    if not flow.full:
        living = np.ix_(flow.log_living, flow.log_living)
        matrices = [matrix[living] for matrix in matrices]
    return _stacked(matrices), of_shares
