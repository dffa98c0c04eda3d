"""A run between its saved times: the pieces from which it is known at every time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from evodyn.core.arrays import FloatArray
from evodyn.simulate.flow import Flow

__all__ = ["Dense", "DenseOutput", "StepPiece"]

Dense = Callable[[FloatArray], FloatArray]
"""Log-masses, shape (m, N), at times, shape (m,)."""


@dataclasses.dataclass(frozen=True)
class StepPiece:
    """The interpolant of one step of a flow, as log-masses.

    Parameters
    ----------
    flow : Flow
        Whose step it was.
    states : callable
        State vectors, shape (m, n), at times, shape (m,), within the step.
    """

    flow: Flow
    states: Dense

    def __call__(self, t: FloatArray) -> FloatArray:
        """Return log-masses, shape (m, N)."""
        return self.flow.log_masses(t, self.states(t))


class DenseOutput:
    """What follows what, in order of time."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.pieces: list[Dense] = []

    def add(self, end: float, piece: Dense) -> None:
        """Let `piece` be what holds from the last end to this one."""
        self.ends.append(end)
        self.pieces.append(piece)

    def followed_by(self, other: DenseOutput) -> DenseOutput:
        """Return these pieces, then others."""
        joined = DenseOutput()
        joined.ends, joined.pieces = [*self.ends, *other.ends], [*self.pieces, *other.pieces]
        return joined

    def log_masses(self, t: FloatArray, end: FloatArray) -> FloatArray:
        """Return log-masses at times, shape (m, N); `end`, shape (N,), holds from the last piece's end on.

        Where pieces meet, as at an event, the later one holds.
        """
        logs = np.empty((len(t), len(end)))
        which = np.searchsorted(self.ends, t, side="right")
        for k in np.unique(which):
            mine = which == k
            logs[mine] = end if k == len(self.pieces) else self.pieces[k](t[mine])
        return logs
