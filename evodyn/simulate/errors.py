"""What can go wrong after valid input."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evodyn.simulate.run import Run

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

    Examples
    --------
    >>> import numpy as np
    >>> import evodyn as ed
    >>> def breaks(t, masses):
    ...     return np.array([1.0, 0.0]) if t < 2 else np.array([np.nan, 0.0])
    >>> try:
    ...     ed.solve(ed.Replicator(), breaks, [1.0, 1.0], (0.0, 5.0))
    ... except SolveError as error:
    ...     print(error.groups, error.result.termination.name, bool(1.9 < error.time < 2.1))
    (0,) FITNESS_NOT_FINITE True
    """

    def __init__(self, message: str, *, result: Run, time: float, groups: tuple[int, ...] = ()) -> None:
        super().__init__(message)
        self.result = result
        self.time = time
        self.groups = groups
