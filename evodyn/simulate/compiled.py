"""What compiled methods are told of a flow, where they know it."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import itertools
import math
from typing import Any

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.model.fitness import kernel
from evodyn.model.normal_form import NormalForm
from evodyn.simulate.course import Course
from evodyn.simulate.flow import Flow

__all__ = ["Ending", "Passage", "compiled_form", "initial_shares", "most_steps", "travel"]

_WORK = 12_500_000
"""Steps times groups of a compiled call: half a second, after which a signal is heard."""

_OVERHEAD = 250
"""A step takes as long as that of so many groups, and its groups."""

_FEWEST_STEPS = 100
"""Steps of a compiled call at the least: it begins with the explicit method, also where that is too slow."""


class Ending(enum.Enum):
    """How a compiled phase ended; the values are those of `evodyn.solvers.journeys`."""

    ARRIVED = 0
    LIMITED = 1
    FALLEN = 2
    LOST = 3
    STIFF = 4


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
        Log-shares at the saved times that were due.
    crossings : list of (float, int, int)
        Time, group and direction.
    explicit, implicit, evaluations : int
        Steps by method, and evaluations of fitness.
    """

    ending: Ending
    t: float
    y: FloatArray
    step: float
    states: FloatArray
    crossings: list[tuple[float, int, int]]
    explicit: int
    implicit: int
    evaluations: int


def most_steps(form: Any, course: Course) -> int:
    """Return how many steps a compiled call may take."""
    if course.settle is not None:
        return _FEWEST_STEPS
    n = int(form.starts[-1])
    return int(max(_FEWEST_STEPS, _WORK // (_OVERHEAD + n + form.interaction.size // 8)))


def travel(
    form: Any, flow: Flow, course: Course, t: float, y: FloatArray, stop: float, first: float, most: int
) -> Passage:
    """Integrate a flow, known as `form`, from `t` and log-shares `y` to `stop`, in `most` steps at most.

    The first step is `first`, or chosen where that is 0.
    """
    journeys: Any = importlib.import_module("evodyn.solvers.journeys")
    ledger, living = course.ledger, flow.log_living
    times = np.array(course.saved.times[course.saved.due(stop)])
    y, states = _apart(y), _room((len(times), len(living)))
    halts = ledger.watching and not ledger.policy_is("observe")
    journey = journeys.travel(
        form,
        y,
        t,
        stop,
        first,
        course.solver.max_step,
        most,
        course.solver.tolerance,
        times,
        states,
        journeys.Watch(ledger.one_level, ledger.below[living], halts),
    )
    groups = living[journey.groups]
    crossings = zip(journey.times.tolist(), groups.tolist(), journey.directions.tolist(), strict=True)
    return Passage(
        Ending(journey.ending),
        journey.t,
        y,
        journey.step,
        states if journey.rows == len(states) else states[: journey.rows].copy(),
        list(crossings),
        journey.explicit,
        journey.implicit,
        journey.evaluations,
    )


def compiled_form(flow: Flow) -> Any:
    """Return the `Form` in which compiled methods know a flow, or None if they do not.

    Growth rates have to be fitness compared with its mean, unclipped, every total known, the inflow steady,
    and no group is to be reviving.
    """
    start, living = flow.start, flow.log_living
    n = len(start.log_masses)
    known = all(block.relaxation is not None and not block.capped for block in flow.blocks)
    if len(flow.reviving) or not known or not flow.dynamics.compares_with_mean:
        return None
    inflow = flow.dynamics.steady_inflow(n)
    fitness = kernel(flow.landscape, start.t, n)
    if inflow is None or fitness is None:
        return None
    interaction, of_shares = _interaction(fitness, flow)
    if interaction is None and (fitness.competition is not None or fitness.payoff is not None):
        return None
    everybody = flow.full
    rows = slice(None) if everybody else living
    swings = fitness.swings
    starts = np.searchsorted(living, [*(block.groups.start for block in flow.blocks), n])
    laws = np.array([block.relaxation for block in flow.blocks], dtype=np.float64)
    flows_in = inflow[living].any()
    alive = np.flatnonzero(np.diff(starts))
    module: Any = importlib.import_module("evodyn.solvers.kernels")
    form = module.Form(
        np.append(starts[alive], len(living)),
        _less_mean(fitness.contribution[rows], flow.initial, starts),
        float(fitness.decay),
        float(fitness.temperature),
        np.array([swing.frequency for swing in swings], dtype=np.float64),
        np.array([swing.sines[rows] for swing in swings], dtype=np.float64).reshape(len(swings), len(living)),
        np.array([swing.cosines[rows] for swing in swings], dtype=np.float64).reshape(
            len(swings), len(living)
        ),
        np.zeros((0, 0)) if interaction is None else interaction[np.ix_(living, living)],
        of_shares,
        inflow[living] if flows_in else np.zeros(0),
        np.array([flow.blocks[k].log_start for k in alive]),
        np.array(laws[alive, 0]),
        np.array(laws[alive, 1]),
        start.t,
    )
    return module.Form(*(_apart(part) if _is_of_numbers(part) else part for part in form))


def _is_of_numbers(part: Any) -> bool:
    return isinstance(part, np.ndarray) and part.dtype == np.float64


def _room(shape: tuple[int, ...]) -> FloatArray:
    """Return memory for an array, with a gap behind it; see `evodyn.solvers.vectors.room`."""
    gap: int = importlib.import_module("evodyn.solvers.vectors").GAP
    size = math.prod(shape)
    return np.empty(size + gap)[:size].reshape(shape)


def _apart(values: FloatArray) -> FloatArray:
    """Return a copy of an array, with a gap behind it."""
    copy = _room(values.shape)
    copy[...] = values
    return copy


def initial_shares(flow: Flow, form: Any) -> FloatArray:
    """Return ln x of every living group in its block."""
    u = _apart(flow.initial)
    for a, b in itertools.pairwise(form.starts):
        part = u[a:b]
        top = part.max()
        part -= top + np.log(np.exp(part - top).sum())
    return u


def _interaction(form: NormalForm, flow: Flow) -> tuple[FloatArray | None, bool]:
    """Return the matrix of interactions, and whether it acts on shares of the total of all blocks."""
    if form.payoff is None:
        return form.competition, False
    if form.competition is None:
        return form.payoff, True
    steady = len(flow.blocks) == 1 and flow.blocks[0].relaxation == (0.0, 0.0)
    if not steady:
        return None, False
    return form.payoff + form.competition * np.exp(flow.blocks[0].log_start), True


def _less_mean(contribution: FloatArray, y: FloatArray, starts: Any) -> FloatArray:
    """Return contributions less their mean in every block: what all share would only be rounded."""
    relative = np.array(contribution)
    for a, b in itertools.pairwise(starts):
        if a < b:
            weights = np.exp(y[a:b] - y[a:b].max())
            relative[a:b] -= (weights @ relative[a:b]) / weights.sum()
    return relative
