"""Members that are solved each by itself: here, in threads, or in processes."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import warnings
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from evodyn.core.extras import extra
from evodyn.core.pickles import packed, unpacked
from evodyn.model.fitness import kernel
from evodyn.simulate.members import Posed
from evodyn.simulate.run import Run

__all__ = ["elsewhere", "here"]

_USER = "solve_ensemble with workers > 1"

_WORTH = 10_000
"""Numbers that a compiled step touches, above which threads do more than wait for each other's Python."""


def elsewhere(task: Callable[..., Run], jobs: list[Any], workers: int) -> Generator[Run, None, None]:
    """Yield the runs of all members, in order, from processes."""
    with extra("studies", user=_USER):
        joblib: Any = importlib.import_module("joblib")
    with warnings.catch_warnings():
        # What becomes of members under way when it is interrupted.
        warnings.filterwarnings("ignore", r"\s*\d+ tasks (have been|which were still)", UserWarning)
        parallel = joblib.Parallel(n_jobs=workers, return_as="generator")
        calls = (joblib.delayed(_solved)(packed((task, one, row), _USER)) for one, row in jobs)
        with contextlib.closing(parallel(calls)) as runs:
            yield from map(unpacked, runs)


def _solved(job: bytes) -> bytes:
    """Solve one member in a worker."""
    task, landscape, masses = unpacked(job)
    return packed(task(landscape, p0=masses), _USER)


def here(
    task: Callable[..., Run], jobs: list[Any], posed: Posed, *, threads: bool
) -> Generator[Run, None, None]:
    """Yield the runs of all members, in order, in threads where most time is spent in compiled code."""
    if not (threads and posed.solver.compiles and all(_takes_long(posed, *job) for job in jobs)):
        yield from (task(one, p0=row) for one, row in jobs)
        return
    ended = threading.Event()

    def heed(fraction: float) -> None:
        if ended.is_set():  # signals reach the main thread only
            raise KeyboardInterrupt

    pool = ThreadPoolExecutor(os.cpu_count())
    try:
        yield from pool.map(lambda job: task(job[0], p0=job[1], progress=heed), jobs)
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)


def _takes_long(posed: Posed, landscape: Any, masses: Any) -> bool:
    """Tell whether a member's steps are compiled, and long ones."""
    n = len(masses)
    form = kernel(landscape, posed.span[0], n)
    return (
        form is not None
        and n * (n if form.payoff is not None or form.competition is not None else 1) > _WORTH
    )
