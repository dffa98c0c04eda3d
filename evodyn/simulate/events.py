"""Events of a user's own: times, or changes of sign, at which something is recorded, changed or ended."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.specifications import Specification

__all__ = ["Event", "EventTable", "event_table", "validated_events", "value_of"]

EventTable = np.recarray
"""A table with one row per occurrence: the event's place in the list, and the time."""

_COLUMNS = [("event", np.int64), ("time", np.float64)]

Condition = Callable[[float, FloatArray], float]
Action = Callable[[FloatArray], npt.ArrayLike | None]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Event(Specification):
    """Something that happens in the course of a run: it is recorded, may change masses, and may end the run.

    Parameters
    ----------
    when : sequence of float, or callable
        The times at which it happens, within the run's `t_span`; or a smooth function ``when(t, masses)``
        that returns a number, and whose every change of sign counts, in both directions, but for jumps.
    action : callable, optional
        ``action(masses) -> masses``, what the masses are from then on: zeros may become positive (invasion),
        positive masses zero (removal). None, returned or given, changes nothing. A group whose mass is too
        small for a float and is returned as it was given keeps its logarithm.
    terminal : bool, optional
        Whether the run ends, as ``Termination.STOPPED_AT_EVENT``, after the action.

    Raises
    ------
    ValueError
        If an argument is not of its kind.

    Examples
    --------
    A population is diluted tenfold at t = 2, and a mutant arrives at t = 4.

    >>> import numpy as np
    >>> import evodyn as ed
    >>> dilution = ed.Event(when=[2.0], action=lambda masses: 0.1 * masses)
    >>> arrival = ed.Event(when=[4.0], action=lambda masses: masses + [0.0, 0.0, 0.01])
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0, 2.0]), [1.0, 1.0, 0.0],
    ...                (0.0, 6.0), save_at=[0.0, 2.0, 4.0, 6.0], events=[dilution, arrival])
    >>> run.total_mass.round(3)
    array([2.  , 0.2 , 0.21, 0.21])
    >>> run.events.event, run.events.time
    (array([0, 1]), array([2., 4.]))
    """

    when: float | Sequence[float] | FloatArray | Condition
    action: Action | None = None
    terminal: bool = False

    def __post_init__(self) -> None:
        if not callable(self.when):
            times = validation.finite_array("when", np.atleast_1d(self.when), ndim=1)
            self._set(when=tuple(sorted(times.tolist())))
        if self.action is not None and not callable(self.action):
            raise ValueError(f"action is {self.action!r}; expected a function of masses, or None.")
        if not isinstance(self.terminal, bool):
            raise ValueError(f"terminal is {self.terminal!r}; expected True or False.")

    @property
    def times(self) -> tuple[float, ...]:
        """The times at which it happens, none where a function tells."""
        return () if callable(self.when) else cast(tuple[float, ...], self.when)


def validated_events(
    events: Sequence[Event] | None, span: tuple[float, float], masses: FloatArray
) -> tuple[Event, ...]:
    """Return the events of a run that begins with `masses`."""
    if isinstance(events, Event):
        raise ValueError(f"events is {events!r}; expected a list of them: events=[Event(...)].")
    found = tuple(events or ())
    for k, event in enumerate(found):
        if not isinstance(event, Event):
            raise ValueError(f"events[{k}] is {event!r}; expected Event(when=..., action=..., terminal=...).")
        if callable(event.when):
            value_of(k, event.when, span[0], masses)
            continue
        outside = [t for t in event.times if not span[0] <= t <= span[1]]
        if outside:
            raise ValueError(
                f"events[{k}].when contains {outside[0]!r}; expected times within t_span = {span!r}."
            )
    return found


def value_of(k: int, when: Condition, t: float, masses: FloatArray) -> float:
    """Return the value of the function of event `k`, checked."""
    value: Any = np.asarray(when(t, masses))
    # A truth value is never below zero.
    if value.size != 1 or value.dtype.kind not in "iuf" or not math.isfinite(value.item()):
        raise ValueError(
            f"events[{k}].when returned {value!r} at t = {t:g}; expected a finite number, the sign of "
            "which tells."
        )
    return float(value.item())


def event_table(rows: Sequence[tuple[int, float]]) -> EventTable:
    """Return occurrences as a table."""
    return _table(rows) if rows else _NOTHING


def _table(rows: Sequence[tuple[int, float]]) -> EventTable:
    table = np.array(list(rows), dtype=_COLUMNS)
    table.flags.writeable = False
    return table.view(np.recarray)


_NOTHING = _table([])
