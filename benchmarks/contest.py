"""Methods side by side at one work: each is scanned over tolerances, then all are timed in turns."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.methods import Method, Solve
from benchmarks.rows import OURS, Clock, Outcome, Row
from benchmarks.scan import Attempt, Patience, chosen, scan
from benchmarks.timing import Times, TooLongError, in_turns, limited
from evodyn.core.arrays import FloatArray

__all__ = ["Options", "contest"]

COMPILING = 300.0
"""Seconds that a method may take to prepare."""

_WINS_NOWHERE = (
    *("dense", "Jacobian", "Kvaerno5", "RK23", "RADAU", "CyRK BDF", "CyRK LSODA", "CVODE Adams"),
    *("CVODE BDF, GMRES, log", "torchdiffeq", "Dopri8", "diffrax Tsit5, mass", "Taylor, mass"),
)


@dataclasses.dataclass(frozen=True)
class Options:
    """How thoroughly to measure.

    Attributes
    ----------
    quick : bool
        Fewer methods, sizes and repetitions.
    rounds : int
        Rounds of timing.
    target : float
        Error of ln p to reach.
    clock : {"median", "shortest", "processor"}
        What decides.
    slow : float, optional
        What takes so many times as long as the fastest peer, before it is close enough, is given up.
    """

    quick: bool = False
    rounds: int = 9
    target: float = 1e-6
    clock: Clock = "median"
    slow: float | None = None

    def patience(self) -> Patience:
        """Return how far scans go."""
        if self.quick:
            return Patience(self.target, slow=self.slow or 5.0, call=5.0, method=2.0)
        return Patience(self.target, slow=self.slow or 10.0, beyond=100.0)

    def keeps(self, method: Method) -> bool:
        """Tell whether a method is run: a quick run leaves out those that win nowhere."""
        return not self.quick or not any(word in method.name for word in _WINS_NOWHERE)


@dataclasses.dataclass(frozen=True)
class Entry:
    """A method that was scanned: its row, all attempts, the best of them, and what solves the problem."""

    method: Method
    row: Row
    attempts: Sequence[Attempt] = ()
    best: Attempt | None = None
    solve: Solve | None = None

    def __call__(self) -> object:
        """Solve the problem at the best setting."""
        assert self.solve and self.best  # noqa: S101
        return self.solve(self.best.rtol, self.best.atol)


def contest(
    work: str,
    problem: Any,
    methods: Iterable[Method],
    error: Callable[[FloatArray], float],
    options: Options,
) -> Outcome:
    """Return the rows of all methods at a problem, each at its cheapest setting that reaches the target."""
    patience, entries = options.patience(), []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # of methods that go astray at loose tolerances
        for method in filter(options.keeps, methods):
            own = dataclasses.replace(patience, rival=math.inf)
            entry = entered(work, problem, method, error, own if method.library == OURS else patience)
            entries.append(entry)
            if entry.best is not None and entry.row.reached and method.library != OURS:
                patience = dataclasses.replace(patience, rival=min(patience.rival, entry.best.seconds))
        # Others are timed once, in their scan.
        near = {
            entry.method.name: entry
            for entry in entries
            if entry.best and (entry.method.library == OURS or entry.best.seconds < patience.longest)
        }
        timed = in_turns(near, options.rounds)
    rows = [
        entry.row.timed(timed[entry.method.name]) if entry.method.name in timed else entry.row
        for entry in entries
    ]
    return Outcome(work, rows, attempts=[(one.method.name, each) for one in entries for each in one.attempts])


def entered(
    work: str, problem: Any, method: Method, error: Callable[[FloatArray], float], patience: Patience
) -> Entry:
    """Return a method with its scan."""
    row = Row(work, method.name, method.library, reached=False)
    if reason := method.refuses(problem):
        return Entry(method, dataclasses.replace(row, note=reason))
    try:
        with limited(COMPILING):
            solve = method.start(problem)
    except (Exception, TooLongError) as failure:
        return Entry(method, dataclasses.replace(row, note=f"{type(failure).__name__}: {failure}"[:100]))
    attempts = list(scan(method, solve, error, patience))
    best = chosen(attempts, patience.target)
    row = dataclasses.replace(row, first=1e3 * attempts[0].first)
    if best is None:
        return Entry(method, dataclasses.replace(row, note=attempts[-1].failure or "no numbers"), attempts)
    reached = best.error <= patience.target
    given_up = method.policies and not reached and attempts[-1].seconds > patience.longest
    row = dataclasses.replace(
        row.timed(Times([best.seconds], [best.seconds])),  # until it is timed in turns
        error=best.error,
        reached=reached,
        setting=f"{best.rtol:.0e}/{best.atol:.0e}" if method.policies else "fixed",
        note="given up: slower than a peer that reached the error" if given_up else "",
    )
    return Entry(method, row, attempts, best, solve)
