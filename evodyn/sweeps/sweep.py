"""Running one function over many configurations, in processes or on a cluster, and resuming after a kill."""

from __future__ import annotations

import contextlib
import logging
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from evodyn.core import netcdf
from evodyn.core.processes import held
from evodyn.core.progress import counting
from evodyn.sweeps.cluster import checked_workers, required
from evodyn.sweeps.grid import Grid, columns_of, combinations, labelled_by
from evodyn.sweeps.points import Point, points_of
from evodyn.sweeps.workers import Task, check_name, outcomes

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SweepError", "results_of", "sweep"]

_LOG = logging.getLogger(__name__)
_LISTED = 5


class SweepError(RuntimeError):
    """Some points of a sweep failed; the others are finished and saved.

    Attributes
    ----------
    failures : tuple of (point, str)
        The configurations that failed, each with its traceback.
    """

    def __init__(self, message: str, *, failures: tuple[tuple[Any, str], ...]) -> None:
        super().__init__(message)
        self.failures = failures


@overload
def sweep(
    function: Task,
    points: Sequence[Any],
    directory: str | os.PathLike[str],
    *,
    workers: int = ...,
    scheduler: str | None = ...,
    fresh: bool = ...,
    progress: bool | Callable[[int, int], object] | None = ...,
) -> list[xr.Dataset]: ...
@overload
def sweep(
    function: Task,
    points: Grid,
    directory: str | os.PathLike[str],
    *,
    workers: int = ...,
    scheduler: str | None = ...,
    fresh: bool = ...,
    progress: bool | Callable[[int, int], object] | None = ...,
) -> xr.Dataset: ...
def sweep(
    function: Task,
    points: Sequence[Any] | Grid,
    directory: str | os.PathLike[str],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    fresh: bool = False,
    progress: bool | Callable[[int, int], object] | None = None,
) -> list[xr.Dataset] | xr.Dataset:
    """Return ``function(point)`` for every point, from file where it was computed before.

    Every finished point is one NetCDF file in `directory`, written atomically by this process (never by
    a worker), so a sweep that was interrupted or killed goes on where it stopped. Its name is a hash of
    the whole configuration with its types, the version of evodyn, and the name and compiled code of the
    function, with all of its own module that it calls (`evodyn.core.code_identity.code_digest`); the name
    of that module does not count. A file of anything else is never used, and never deleted. How many were
    reused, and which files belong to others, is logged by ``evodyn.sweeps`` (level INFO; damaged files, which
    are computed again, at WARNING).

    Parameters
    ----------
    function : callable
        ``function(point) -> xarray.Dataset``, defined by name at the top level of a module, script or
        notebook. Other processes import what belongs to a package; the code of a script, of a notebook and of
        files beside them travels to them. Give every random seed in the point.
    points : sequence, or mapping of names to values
        Configurations: dataclasses or mappings of plain values (numbers, strings, lists, None), arrays,
        named functions, and specifications such as ``Replicator()``. A mapping ``{name: values}`` is a grid:
        its points are the dictionaries of all combinations.
    directory : path-like
        Where the files go; made if missing. One sweep at a time may use it.
    workers : int, optional
        Number of local processes. The results do not depend on it.
    scheduler : str, optional
        Address of a running Dask scheduler ("tcp://host:8786"), used instead of local processes. Its
        workers need the same version of evodyn and of the function's package; give each one thread.
        Code and results travel as pickles: connect only to a scheduler that you trust.
    fresh : bool, optional
        Compute all points again. Needed after a change in other modules that no version number shows.
    progress : bool or callable, optional
        True for a bar; or ``progress(finished, total)``, called at the start and after every point.

    Returns
    -------
    list of xarray.Dataset, or xarray.Dataset
        The results in the order of `points`, as read from their files; those of a grid as one dataset with
        a leading dimension for each name. Attribute ``sweep`` says in JSON what each was computed from.

    Raises
    ------
    ValueError
        If an argument is outside its range, a point holds anything else, or `function` cannot be found by its
        name in its module (lambdas, nested functions).
    ImportError
        If the extra ``studies``, which brings joblib and Dask, is not installed.
    FolderInUseError
        If another sweep is using `directory`.
    OSError
        If `directory` cannot be written to, or the scheduler cannot be reached.
    SweepError
        If points failed; all others are done before it is raised.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> import xarray as xr
    >>> import evodyn as ed
    >>> def extinct(point):
    ...     c = ed.landscapes.contributions("lognormal", n=8, heterogeneity=point["heterogeneity"], rng=0)
    ...     run = ed.solve(point["dynamics"], ed.landscapes.Constant(c), np.ones(8), (0.0, 50.0))
    ...     return xr.Dataset({"extinct": ("group", run.masses[-1] < 1e-3)})
    >>> points = [{"dynamics": ed.Replicator(), "heterogeneity": h} for h in (0.0, 1.0)]
    >>> results = sweep(extinct, points, tempfile.mkdtemp())
    >>> [int(result.extinct.sum()) for result in results]
    [0, 7]
    >>> grid = {"dynamics": [ed.Replicator()], "heterogeneity": [0.0, 0.1, 1.0]}
    >>> sweep(extinct, grid, tempfile.mkdtemp()).extinct.sum("group").sel(heterogeneity=0.1).values
    array([1])
    """
    if isinstance(points, Mapping):
        columns = columns_of(points)
        found = sweep(
            function,
            combinations(columns),
            directory,
            workers=workers,
            scheduler=scheduler,
            fresh=fresh,
            progress=progress,
        )
        return labelled_by(columns, found)
    workers = checked_workers(workers, scheduler)
    check_name(function)
    required("threadpoolctl")
    identified = points_of(function, points)
    by_key = {point.key: point for point in identified}
    with held(directory) as folder, counting(progress, f"Sweeping {function.__name__}") as tell:
        results = results_of(function, by_key, folder, workers, scheduler, fresh, tell)
    return [results[point.key] for point in identified]


def results_of(
    function: Task,
    points: Mapping[str, Point],
    folder: Path,
    workers: int,
    scheduler: str | None,
    fresh: bool,
    progress: Callable[[int, int], object] | None = None,
) -> dict[str, xr.Dataset]:
    """Return the results by key, in a folder that the caller holds.

    A point's value may say more than its key does, such as where the function keeps what is half done.
    """
    if fresh:
        for key in points:
            _file(folder, key).unlink(missing_ok=True)
    results = {
        key: found
        for key, point in points.items()
        if (found := _read(_file(folder, key), point.identity)) is not None
    }
    missing = [point for key, point in points.items() if key not in results]
    strangers = sorted(file.name for file in folder.glob("*.nc") if file.stem not in points)
    name = f"{function.__module__}:{function.__qualname__}"
    _LOG.info(
        "%s: %d of %d points reused from %s, %d to compute%s.",
        name,
        len(results),
        len(points),
        folder,
        len(missing),
        f"; {_number_of(strangers)} of other configurations, versions or code there, not used"
        if strangers
        else "",
    )

    failures: dict[str, str] = {}
    if progress is not None:
        progress(len(results), len(points))
    with contextlib.closing(outcomes(function, missing, workers, scheduler)) as arriving:
        for key, result, trace in arriving:
            if result is not None:
                try:
                    results[key] = _write(_file(folder, key), result, points[key].identity)
                except (TypeError, ValueError):  # what xarray raises for what NetCDF cannot hold
                    trace = traceback.format_exc()
            if key not in results:
                failures[key] = trace
            if progress is not None:
                progress(len(results) + len(failures), len(points))
    if failures:
        raise _failure(
            name, [(point.value, failures[key]) for key, point in points.items() if key in failures], folder
        )
    return results


def _file(folder: Path, key: str) -> Path:
    return folder / f"{key}.nc"


def _read(path: Path, identity: str) -> xr.Dataset | None:
    """Return the result on file; None if there is none, or none that is whole."""
    if not path.exists():
        return None
    try:
        dataset, sealed = netcdf.read(path, decode_times=True)
        problem = "" if sealed else "it has no checksum"
        if sealed and dataset.attrs["sweep"] != identity:
            problem = "it was computed from something else than its name says"
    except Exception as error:  # a damaged file can hold anything
        problem = f"{type(error).__name__}: {error}"
    if problem:
        _LOG.warning("%s is damaged and will be computed again (%s).", path, problem)
        return None
    return dataset


def _write(path: Path, dataset: xr.Dataset, identity: str) -> xr.Dataset:
    """Save a result and return it as a later sweep will read it."""
    return netcdf.write(dataset.assign_attrs(sweep=identity), path, decode_times=True)


def _number_of(files: Sequence[str]) -> str:
    """Say how many files, and name the first of them."""
    more = ", ..." if len(files) > _LISTED else ""
    return f"{len(files)} {'files' if len(files) > 1 else 'file'} ({', '.join(files[:_LISTED])}{more})"


def _failure(name: str, failed: list[tuple[Any, str]], folder: Path) -> SweepError:
    listed = [f"  {point!r}: {trace.strip().splitlines()[-1]}" for point, trace in failed[:_LISTED]]
    if len(failed) > _LISTED:
        listed.append(f"  and {len(failed) - _LISTED} more (see the attribute failures)")
    return SweepError(
        f"{len(failed)} points of {name} failed; all others are saved in {folder}, "
        "and running the sweep again computes only these:\n" + "\n".join(listed),
        failures=tuple(failed),
    )
