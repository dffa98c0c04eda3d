"""Points of a sweep computed here, in other processes, or on a cluster, to which code travels as a pickle."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from evodyn.core.pickles import is_loose, packed, unpacked
from evodyn.core.processes import end_with
from evodyn.core.version import __version__
from evodyn.sweeps.cluster import cluster, required
from evodyn.sweeps.points import Point, code_of, types_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Outcome", "Task", "check_name", "outcomes"]

Task = Callable[[Any], "xr.Dataset"]
Outcome = tuple[str, "xr.Dataset | None", str]
"""Key of a point, its result if it has one, else the traceback."""
_USER = "evodyn.sweep"


def check_name(function: Task) -> None:
    """Raise `ValueError` unless a function is the one that its module has under its name."""
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    first, *others = getattr(function, "__qualname__", "<none>").split(".")
    # What a namespace was made for, as doctests and notebooks do, need not be a module.
    found = getattr(function, "__globals__", vars(module) if module else {}).get(first)
    for part in others:
        found = getattr(found, part, None)
    if found is not function:
        raise ValueError(
            f"function is {function!r}; expected one defined at the top level of a module, script or "
            "notebook, where later sessions find it by its name. Give it a name there, and put what it needs "
            "to know into the points."
        )


def outcomes(
    function: Task, points: Sequence[Point], workers: int, scheduler: str | None
) -> Generator[Outcome, None, None]:
    """Yield outcomes as they come, in any order."""
    workers = min(workers, len(points))
    if scheduler is None and workers <= 1:
        yield from (_attempt(point.key, function, point.value) for point in points)
        return
    task, by_value = packed(function, _USER), is_loose(sys.modules.get(function.__module__))
    # The worker is to have the code of the sweep, unless that travels.
    codes = frozenset[str]() if by_value else frozenset(point.code for point in points)
    calls = (
        (point.key, task, packed(point.value, _USER), __version__, None if by_value else point.code)
        for point in points
    )
    if scheduler is None:
        yield from _in_processes(calls, codes, workers)
    else:
        yield from _on_cluster(calls, scheduler)


_Call = tuple[str, bytes, bytes, str, str | None]
"""Arguments of `_attempt_elsewhere`."""


def _on_cluster(calls: Iterable[_Call], scheduler: str) -> Generator[Outcome, None, None]:
    distributed = required("distributed")
    with cluster(scheduler) as client:
        waiting = [client.submit(_attempt_elsewhere, *call, pure=False) for call in calls]
        for future in distributed.as_completed(waiting, loop=client.loop):
            yield future.result()


def _in_processes(
    calls: Iterable[_Call], codes: frozenset[str], workers: int
) -> Generator[Outcome, None, None]:
    joblib = required("joblib")
    if codes:
        _without_old_code(joblib, codes)
    with contextlib.ExitStack() as stack:
        # A worker that grew large is replaced between two points: nothing that a user has to know.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        # Nor what becomes of points under way when a sweep is interrupted.
        warnings.filterwarnings("ignore", r"\s*\d+ tasks (have been|which were still)", UserWarning)
        parallel = joblib.Parallel(workers, backend="loky", return_as="generator_unordered")
        jobs = (joblib.delayed(_attempt_elsewhere)(*call, os.getpid()) for call in calls)
        yield from stack.enter_context(contextlib.closing(parallel(jobs)))


def _attempt(key: str, function: Task, point: Any) -> Outcome:
    """Compute one point; errors are results, so that the other points go on."""
    import xarray as xr

    try:
        # Sums in linear algebra depend on the number of threads; results must not.
        with required("threadpoolctl").threadpool_limits(1):
            result = function(point)
        if not isinstance(result, xr.Dataset):
            raise TypeError(f"the function returned {type(result).__name__}; expected an xarray.Dataset.")
    except Exception:
        return key, None, traceback.format_exc()
    return key, result, ""


def _attempt_elsewhere(
    key: str, task: bytes, argument: bytes, version: str, code: str | None, parent: int | None = None
) -> Outcome:
    """Do the same in a worker, which must have the code of the sweep where that does not travel."""
    if parent is not None:
        end_with(parent)
    try:
        if version != __version__:
            raise RuntimeError(
                f"this worker has evodyn {__version__}, the sweep runs {version}: install the same version."
            )
        function, point = _function(task), unpacked(argument)
        if code not in (None, _code_here(function, frozenset(types_of(point).values()))):
            raise RuntimeError(
                f"this worker has other code of {function.__module__}:{function.__qualname__} than the "
                "sweep: it was edited meanwhile. Run the sweep again; on a cluster give all workers the same "
                "code."
            )
    except Exception:
        return key, None, traceback.format_exc()
    return _attempt(key, function, point)


_code_here = functools.cache(code_of)
_function = functools.lru_cache(maxsize=1)(unpacked)
"""In a worker: the same function for all points of a sweep."""


_loaded: frozenset[str] = frozenset()
"""Digests of the code that this process's idle workers may have imported."""


def _without_old_code(joblib: ModuleType, codes: frozenset[str]) -> None:
    """End idle workers of an earlier sweep that had other code, for they have imported that already."""
    global _loaded
    if _loaded and not codes <= _loaded:
        joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
    _loaded = codes
