"""Calls are timed in turns, so that a load on the machine meets all of them alike."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

__all__ = ["Times", "TooLongError", "in_turns", "limited", "once"]

SHORT = 0.02
"""Seconds of a round at the least: a shorter call is repeated within it."""

LONG = 1.0
"""Seconds of a call that has the fewest rounds."""
FEWEST = 5
"""Rounds at the least."""


class TooLongError(BaseException):
    """A call took longer than it may. It is no Exception, which solvers take for a failing function."""


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Interrupt what comes back to Python after so many seconds by the clock.

    (A limit of processor time would make the system count that in ticks, and short calls take none.)
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(signum: int, frame: Any) -> None:
        raise TooLongError(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of a call in every round: by the clock, and of all processors."""

    wall: Sequence[float]
    processors: Sequence[float]

    @property
    def median(self) -> float:
        """The median by the clock."""
        return statistics.median(self.wall)

    @property
    def shortest(self) -> float:
        """The shortest by the clock, which a load on the machine disturbs least."""
        return min(self.wall)

    @property
    def processor(self) -> float:
        """The median processor time."""
        return statistics.median(self.processors)


def once(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes by the clock."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def in_turns(
    calls: Mapping[str, Callable[[], object]], rounds: int = 5, *, short: float = SHORT, long: float = LONG
) -> dict[str, Times]:
    """Time each call once a round, for so many rounds; calls that take `long` for five at most.

    What has to be compiled was called before.
    """
    seconds = {name: once(call) for name, call in calls.items()}
    repeats = {name: max(1, int(short / max(each, 1e-7))) for name, each in seconds.items()}
    wall: dict[str, list[float]] = {name: [] for name in calls}
    processors: dict[str, list[float]] = {name: [] for name in calls}
    for done in range(rounds):
        for name, call in calls.items():
            if done >= FEWEST and seconds[name] > long:
                continue
            began, busy = time.perf_counter(), time.process_time()
            for _ in range(repeats[name]):
                call()
            wall[name].append((time.perf_counter() - began) / repeats[name])
            processors[name].append((time.process_time() - busy) / repeats[name])
    return {name: Times(wall[name], processors[name]) for name in calls}
