"""What can go wrong after valid input."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evodyn.results import Run

__all__ = ["SolveError"]


class SolveError(RuntimeError):
    """A run that began from valid input and could not be finished.

    Attributes
    ----------
    result : Run
        Everything computed up to the failure, with its `termination`.
    time : float
        The time reached.
    groups : tuple of int
        The groups concerned (those with non-finite fitness, say); may be empty.
    """

    def __init__(self, message: str, *, result: Run, time: float, groups: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.result = result
        self.time = time
        self.groups = groups
