"""Methods are run from loose to tight tolerances, and the cheapest setting that will do is chosen."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Sequence

from benchmarks.methods import Method, Solve
from benchmarks.timing import TooLongError, limited
from evodyn.core.arrays import FloatArray

__all__ = ["Attempt", "Patience", "chosen", "scan"]

LOOSEST, TIGHTEST = -4, -13
"""Decades of tolerance that are tried."""
SHORT = 0.05
"""Seconds of a call that is repeated."""
COMPILING = 120.0
"""Seconds that a first call may take besides, to compile."""


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One setting, and what came of it.

    Attributes
    ----------
    rtol, atol : float
    seconds : float
        Processor time of the fastest call. It hardly depends on what else the machine does.
    first : float
        Seconds of the first call by the clock.
    error : float
        The largest error of ln p.
    failure : str
        Why there is no result, if there is none.
    """

    rtol: float
    atol: float
    seconds: float
    first: float
    error: float
    failure: str = ""


@dataclasses.dataclass(frozen=True)
class Patience:
    """How far a scan goes.

    Attributes
    ----------
    target : float
        The error of ln p to reach.
    beyond : float
        Scans go on until the error is so many times smaller, for the curve.
    call, method : float
        Most seconds of one call by the clock, and of processor time of all attempts of a method.
    rival : float
        Seconds of the fastest peer so far.
    slow : float
        What takes so many times as long as the rival is given up.
    """

    target: float = 1e-6
    beyond: float = 1.0
    call: float = 60.0
    method: float = 120.0
    rival: float = math.inf
    slow: float = 10.0

    @property
    def longest(self) -> float:
        """Seconds of a call after which tighter tolerances are not tried, for they could only be slower."""
        return min(self.call, self.slow * self.rival)


def scan(
    method: Method, solve: Solve, error: Callable[[FloatArray], float], patience: Patience
) -> Iterator[Attempt]:
    """Yield attempts at the settings of a method, for each of its policies.

    Tolerances go down by decades until the error is small enough, or until it is hopeless. Then half a decade
    above the first that reached the target is tried, for that may do too.
    """
    began = time.process_time()
    if not method.policies:
        yield attempt(method, solve, error, (math.nan, math.nan), patience)
    for policy in method.policies:
        reached = []
        for decade in range(LOOSEST, TIGHTEST - 1, -1):
            one = attempt(method, solve, error, policy(10.0**decade), patience)
            yield one
            if one.error <= patience.target:
                reached.append(decade)
            enough = one.error <= patience.target / patience.beyond
            if enough or one.seconds > patience.longest or time.process_time() - began > patience.method:
                break
        if reached:
            yield attempt(method, solve, error, policy(10.0 ** (reached[0] + 0.5)), patience)


def attempt(
    method: Method,
    solve: Solve,
    error: Callable[[FloatArray], float],
    setting: tuple[float, float],
    patience: Patience,
) -> Attempt:
    """Run a method once, twice if it compiles first, or three times if that is short; compare its result."""
    most = patience.call + (COMPILING if method.compiles else 0.0)
    spent: list[float] = []
    began, busy, first = time.perf_counter(), time.process_time(), math.nan
    try:
        while len(spent) < 3:
            with limited(most):
                values = solve(*setting)
            spent.append(time.process_time() - busy)
            busy = time.process_time()
            if len(spent) == 1:
                first = time.perf_counter() - began
            if spent[-1] > SHORT and (len(spent) > 1 or not method.compiles):
                break
    except (Exception, TooLongError) as failure:
        spent.append(time.process_time() - busy)
        first = time.perf_counter() - began
        reason = f"{type(failure).__name__}: {failure}".splitlines()[0][:100]
        return Attempt(*setting, spent[-1], first, math.inf, reason)
    return Attempt(*setting, min(spent), first, error(method.logs(values)))


def chosen(attempts: Sequence[Attempt], target: float) -> Attempt | None:
    """Return the fastest attempt that reached the target; if none did, the closest that gave numbers."""
    reached = [one for one in attempts if one.error <= target]
    if reached:
        return min(reached, key=lambda one: one.seconds)
    finite = [one for one in attempts if math.isfinite(one.error)]
    return min(finite, key=lambda one: one.error, default=None)
