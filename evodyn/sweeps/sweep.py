"""Running one function over many configurations, in processes or on a cluster, and resuming after a kill."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import json
import logging
import math
import os
import re
import socket
import traceback
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from evodyn.core import netcdf, validation
from evodyn.core.extras import extra
from evodyn.core.netcdf import content_digest
from evodyn.core.processes import end_with, held
from evodyn.core.specifications import state_of
from evodyn.core.version import __version__
from evodyn.sweeps.code_identity import code_digest

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["SweepError", "configuration", "content_digest", "sweep"]

SCHEMA = 2
_LOG = logging.getLogger(__name__)
_LISTED = 5
SCHEDULER_SECONDS = 5
"""How long a scheduler may take to answer, and to have a first worker."""
_TOLD_BY_JSON = {dict, list, str, int, float, bool, type(None)}

Task = Callable[[Any], "xr.Dataset"]
Outcome = tuple[str, "xr.Dataset | None", str]
"""Key of a point, its result if it has one, else the traceback."""


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


def sweep(
    function: Task,
    points: Sequence[Any],
    directory: str | os.PathLike[str],
    *,
    workers: int = 1,
    scheduler: str | None = None,
    fresh: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[xr.Dataset]:
    """Return ``function(point)`` for every point, from file where it was computed before.

    Every finished point is one NetCDF file in `directory`, written atomically by this process (never by
    a worker), so a sweep that was interrupted or killed goes on where it stopped. Its name is a hash of
    the whole configuration with its types, the version of evodyn, and the name and compiled code of the
    function, with all of its own module that it calls (`evodyn.sweeps.code_identity.code_digest`): a file of
    anything else is never used, and never deleted. How many were reused, and which files belong to others,
    is logged by ``evodyn.sweeps`` (level INFO; damaged files, which are computed again, at WARNING).

    Parameters
    ----------
    function : callable
        ``function(point) -> xarray.Dataset``, found by name at the top level of an importable module, for
        that name is how other processes and later sessions find it. Give every random seed in the point.
    points : sequence
        Configurations: dataclasses or mappings of plain values (numbers, strings, lists, None).
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
    progress : callable, optional
        ``progress(finished, total)``, called at the start and after every point.

    Returns
    -------
    list of xarray.Dataset
        The results in the order of `points`, as read from their files. Attribute ``sweep`` says in JSON
        what each was computed from.

    Raises
    ------
    ValueError
        If an argument is outside its range, a point is not made of plain values, or `function` cannot be
        found by its name (lambdas, nested functions, functions of a script or notebook).
    ImportError
        If the extra ``studies``, which brings joblib, is not installed.
    FolderInUseError
        If another sweep is using `directory`.
    OSError
        If `directory` cannot be written to, or the scheduler cannot be reached.
    SweepError
        If points failed; all others are done before it is raised.

    Examples
    --------
    >>> import tempfile
    >>> from evodyn.tasks.extinction import Scenario, simulate
    >>> points = [Scenario(groups=8, heterogeneity=h, t_end=50.0) for h in (0.0, 1.0)]
    >>> results = sweep(simulate, points, tempfile.mkdtemp())
    >>> [float(result.fraction_extinct[-1]) > 0 for result in results]
    [False, True]
    """
    workers = validation.count("workers", workers)
    if workers > 1 and scheduler is not None:
        raise ValueError(
            f"workers is {workers} and scheduler {scheduler!r}; expected one of them: "
            "a cluster has its own number of workers."
        )
    name = _name_of(function)
    _required("threadpoolctl")
    code_of = functools.cache(functools.partial(_code, function))
    identities = [_identity(name, code_of, point, f"points[{k}]") for k, point in enumerate(points)]
    keys = [hashlib.sha256(identity.encode()).hexdigest()[:32] for identity in identities]
    with held(directory) as folder:
        return _swept(
            function,
            name,
            keys,
            dict(zip(keys, points, strict=True)),
            dict(zip(keys, identities, strict=True)),
            folder,
            workers=workers,
            scheduler=scheduler,
            fresh=fresh,
            progress=progress,
        )


def _swept(
    function: Task,
    name: str,
    keys: Sequence[str],
    point_of: Mapping[str, Any],
    identity_of: Mapping[str, str],
    folder: Path,
    *,
    workers: int,
    scheduler: str | None,
    fresh: bool,
    progress: Callable[[int, int], None] | None,
) -> list[xr.Dataset]:
    if fresh:
        for key in point_of:
            _file(folder, key).unlink(missing_ok=True)

    results: dict[str, xr.Dataset] = {}
    for key, identity in identity_of.items():
        found = _read(_file(folder, key), identity)
        if found is not None:
            results[key] = found
    missing = [key for key in point_of if key not in results]
    strangers = sorted(file.name for file in folder.glob("*.nc") if file.stem not in point_of)
    _LOG.info(
        "%s: %d of %d points reused from %s, %d to compute%s.",
        name,
        len(results),
        len(point_of),
        folder,
        len(missing),
        f"; {_counted(strangers)} of other configurations, versions or code there, not used"
        if strangers
        else "",
    )

    failures: dict[str, str] = {}
    if progress is not None:
        progress(len(results), len(point_of))
    jobs = [(key, point_of[key], json.loads(identity_of[key])["code"]) for key in missing]
    with contextlib.closing(_outcomes(function, jobs, workers, scheduler)) as outcomes:
        for key, result, trace in outcomes:
            if result is not None:
                try:
                    results[key] = _write(_file(folder, key), result, identity_of[key])
                except (TypeError, ValueError):  # what xarray raises for what NetCDF cannot hold
                    trace = traceback.format_exc()
            if key not in results:
                failures[key] = trace
            if progress is not None:
                progress(len(results) + len(failures), len(point_of))
    if failures:
        raise _failure(name, [(point_of[key], failures[key]) for key in missing if key in failures], folder)
    return [results[key] for key in keys]


def configuration(value: object, *, name: str = "configuration") -> Any:
    """Return a dataclass, mapping or plain value in the form that JSON keeps without loss.

    Raises
    ------
    ValueError
        If something inside is not a finite number, string, boolean, None, list or mapping with strings
        as keys.

    Examples
    --------
    >>> configuration({"rates": (1, 0.5)})
    {'rates': [1, 0.5]}
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = state_of(value)
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {key: configuration(item, name=f"{name}.{key}") for key, item in value.items()}
    elif isinstance(value, list | tuple):
        return [configuration(item, name=f"{name}[{k}]") for k, item in enumerate(value)]
    elif value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ValueError(
        f"{name} is {value!r}; expected finite numbers, strings, booleans, None, and lists, dataclasses and "
        "mappings (with strings as keys) of them: they identify a result on file."
    )


def _types(value: object, name: str = "") -> dict[str, type]:
    """Return the types of all that is inside a configuration and that JSON would not tell apart, by path."""
    found = {} if type(value) in _TOLD_BY_JSON else {name: type(value)}
    inside: Iterable[tuple[str, object]] = ()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = state_of(value)
    if isinstance(value, Mapping):
        inside = ((f"{name}.{key}", item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        inside = ((f"{name}[{k}]", item) for k, item in enumerate(value))
    for path, item in inside:
        found |= _types(item, path)
    return found


def _code(function: Task, kinds: frozenset[type]) -> str:
    return code_digest(function, sorted(kinds, key=_type_name))


_code_here = functools.cache(_code)
"""The same in a worker, which imports code once."""


def _type_name(kind: type) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def _name_of(function: Task) -> str:
    """Return "module:function" if that is how another process finds the very same object."""
    module = getattr(function, "__module__", None)
    qualified = getattr(function, "__qualname__", "")
    if module not in (None, "__main__") and qualified and "<" not in qualified:
        found: Any = importlib.import_module(module)
        for part in qualified.split("."):
            found = getattr(found, part, None)
        if found is function:
            return f"{module}:{qualified}"
    raise ValueError(
        f"function is {function!r}; expected one defined at the top level of an installed module: other "
        "processes, and later sessions that look for its results, find it by name. Move it to a module of "
        "a package, and put what it needs to know into the points."
    )


def _identity(name: str, code_of: Callable[[frozenset[type]], str], point: Any, label: str) -> str:
    described, types = configuration(point, name=label), _types(point)
    return json.dumps(
        {
            "schema": SCHEMA,
            "function": name,
            "code": code_of(frozenset(types.values())),
            "version": __version__,
            "configuration": described,
            "types": {path: _type_name(kind) for path, kind in types.items()},
        },
        sort_keys=True,
        allow_nan=False,
    )


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


def _required(module: str) -> ModuleType:
    with extra("studies", user="evodyn.sweep"):
        return importlib.import_module(module)


def _attempt(
    function: Task, key: str, point: Any, version: str, code: str | None, parent: int | None = None
) -> Outcome:
    """Compute one point, in a worker; errors are results, so that the other points go on."""
    import xarray as xr

    if parent is not None:
        end_with(parent)

    try:
        if version != __version__:
            raise RuntimeError(
                f"this worker has evodyn {__version__}, the sweep runs {version}: install the same version."
            )
        if code not in (None, _code_here(function, frozenset(_types(point).values()))):
            raise RuntimeError(
                f"this worker has other code of {_name_of(function)} than the sweep: it was edited "
                "meanwhile. Run the sweep again; on a cluster give all workers the same code."
            )
        # Sums in linear algebra depend on the number of threads; results must not.
        with _required("threadpoolctl").threadpool_limits(1):
            result = function(point)
        if not isinstance(result, xr.Dataset):
            raise TypeError(f"the function returned {type(result).__name__}; expected an xarray.Dataset.")
    except Exception:
        return key, None, traceback.format_exc()
    return key, result, ""


_loaded: frozenset[str] = frozenset()
"""Digests of the code that this process's idle workers may have imported."""


def _without_old_code(joblib: ModuleType, codes: frozenset[str]) -> None:
    """End idle workers of an earlier sweep that had other code, for they have imported that already."""
    global _loaded
    if _loaded and not codes <= _loaded:
        joblib.externals.loky.get_reusable_executor().shutdown(wait=True)
    _loaded = codes


def _outcomes(
    function: Task, jobs: list[tuple[str, Any, str]], workers: int, scheduler: str | None
) -> Generator[Outcome, None, None]:
    """Yield outcomes as they come, in any order."""
    if not jobs:
        return
    joblib = _required("joblib")
    workers = min(workers, len(jobs))
    with contextlib.ExitStack() as stack:
        backend: dict[str, Any] = {"backend": "sequential", "n_jobs": 1}
        parent = None
        apart = scheduler is not None or workers > 1  # from this process, and its code
        if scheduler is not None:
            backend = {"backend": "dask", "client": stack.enter_context(cluster(scheduler)), "n_jobs": -1}
        elif workers > 1:
            backend = {"backend": "loky", "n_jobs": workers}
            parent = os.getpid()
            _without_old_code(joblib, frozenset(code for *_, code in jobs))
        stack.enter_context(joblib.parallel_config(**backend))
        # A worker that grew large is replaced between two points: nothing that a user has to know.
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        # Nor what becomes of points under way when a sweep is interrupted.
        warnings.filterwarnings("ignore", r"\s*\d+ tasks (have been|which were still)", UserWarning)
        parallel = joblib.Parallel(return_as="generator_unordered")
        tasks = (
            joblib.delayed(_attempt)(function, key, point, __version__, code if apart else None, parent)
            for key, point, code in jobs
        )
        yield from stack.enter_context(contextlib.closing(parallel(tasks)))


@contextlib.contextmanager
def cluster(scheduler: str) -> Iterator[Any]:
    """Yield a Dask client of a running scheduler that has workers.

    Raises
    ------
    ValueError
        If the address is none.
    ConnectionError
        If nobody answers there, there are no workers, or the scheduler ends.
    """
    distributed = _required("distributed")
    expected = "expected the address of a running one, such as tcp://host:8786"
    address = re.fullmatch(r"(?:\w+://)?\[?([^/\s]+?)\]?:(\d{1,5})", scheduler)
    if address is None:
        raise ValueError(f"scheduler is {scheduler!r}; {expected}.")
    nobody = f"scheduler is {scheduler!r}, where no Dask scheduler answers"
    try:  # Dask itself tries again and again where nobody listens
        socket.create_connection((address[1], int(address[2])), timeout=SCHEDULER_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise ConnectionError(f"{nobody} ({error}); {expected}.") from error
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(
                distributed.Client(scheduler, timeout=SCHEDULER_SECONDS, set_as_default=False)
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"scheduler is {scheduler!r} ({error}); {expected}.") from error
        except OSError as error:
            raise ConnectionError(f"{nobody}; {expected}.") from error
        try:
            client.wait_for_workers(1, timeout=SCHEDULER_SECONDS)
        except TimeoutError as error:
            raise ConnectionError(
                f"the scheduler {scheduler} has no workers; start some: dask worker {scheduler} --nthreads 1"
            ) from error
        try:
            yield client
        except Exception as error:
            if client.status == "running":
                raise
            raise ConnectionError(
                f"the scheduler {scheduler} was lost; what is finished is kept, and running the same again "
                "with a scheduler goes on from there."
            ) from error


def _counted(files: Sequence[str]) -> str:
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
