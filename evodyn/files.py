"""Runs as NetCDF files and labelled datasets.

The specification is one JSON attribute with a `schema` version; its arrays are data variables. A user's
callable is stored by name and marked not rerunnable; nothing is pickled. Revision, date and wall time are
in a separate provenance attribute, so that "the same result" is a statement about data and specification.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from evodyn import dynamics as _dynamics
from evodyn import landscapes as _landscapes
from evodyn.arrays import host, is_foreign
from evodyn.atomic import replacing
from evodyn.extinction import Extinction, crossing_table
from evodyn.labels import about
from evodyn.results import EndState, Run, Stats, Termination
from evodyn.specifications import Specification

if TYPE_CHECKING:
    import xarray

    from evodyn.ensembles import Ensemble

__all__ = ["SCHEMA", "NotRerunnable", "labelled", "load", "save"]

SCHEMA = 1
"""Version of the saved files; raised when their meaning changes."""


class NotRerunnable:
    """Stands in a loaded run for a callable that was stored by name only.

    Calling it raises `TypeError`. Use `dataclasses.replace(run, landscape=...)` to put the function back.
    """

    def __init__(self, name: str) -> None:
        self.__qualname__ = name

    def __call__(self, *args: object, **kwargs: object) -> Any:
        raise TypeError(
            f"{self.__qualname__} was a function of the session that saved this run, stored by name only. "
            "Put the function back with dataclasses.replace(run, landscape=...) to go on."
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NotRerunnable) and self.__qualname__ == other.__qualname__

    def __hash__(self) -> int:
        return hash(self.__qualname__)

    def __repr__(self) -> str:
        return f"<{self.__qualname__}, not rerunnable>"


def _specifications() -> dict[str, type[Specification]]:
    from evodyn.integration import Solver
    from evodyn.iteration import MapSettings

    modules = (_dynamics, _landscapes)
    found = {
        name: value
        for module in modules
        for name in module.__all__
        if isinstance(value := getattr(module, name), type) and issubclass(value, Specification)
    }
    return found | {cls.__name__: cls for cls in (Extinction, Solver, MapSettings)}


def encode(value: object, arrays: dict[str, np.ndarray], path: str) -> Any:
    """Return `value` as JSON, its arrays entered into `arrays` under names that begin with `path`."""
    if isinstance(value, Specification):
        fields = {name: encode(v, arrays, f"{path}_{name}") for name, v in value.fields().items()}
        return {"type": type(value).__name__, "fields": fields}
    if isinstance(value, np.ndarray) or is_foreign(value):
        arrays[path] = host(value)
        return {"array": path}
    if isinstance(value, tuple):
        return {"tuple": [encode(v, arrays, f"{path}_{k}") for k, v in enumerate(value)]}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, NotRerunnable):
        return {"callable": value.__qualname__, "rerunnable": False}
    if callable(value):
        name = getattr(value, "__qualname__", type(value).__qualname__)
        module = getattr(value, "__module__", type(value).__module__)
        return {"callable": f"{module}.{name}", "rerunnable": False}
    raise ValueError(f"{path} is {value!r}; expected a number, text, array, tuple or specification.")


def decode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """Return what `encode` was given."""
    if not isinstance(value, dict):
        return value
    if "type" in value:
        known = _specifications()
        if value["type"] not in known:
            raise ValueError(
                f"the file describes a {value['type']!r}, which this version of evodyn does not know."
            )
        return known[value["type"]](**{name: decode(v, arrays) for name, v in value["fields"].items()})
    if "array" in value:
        return arrays[value["array"]]
    if "tuple" in value:
        return tuple(decode(v, arrays) for v in value["tuple"])
    if "float" in value:
        return float(value["float"])
    return NotRerunnable(value["callable"])


_LABELS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "log_share": (("time", "group"), "logarithm of the share within the block", "1"),
    "mass": (("time", "group"), "mass", "mass"),
    "log_mass": (("time", "group"), "logarithm of the mass", "1"),
    "total_mass": (("time",), "total mass", "mass"),
    "log_total_mass": (("time",), "logarithm of the total mass", "1"),
    "mean_fitness": (("time",), "mass-weighted mean fitness", "1/time"),
    "extinction_time": (("group",), "first time strictly below the threshold", "time"),
    "extinct_at_end": (("group",), "extinct when the run ends", "1"),
    "crossing_group": (("crossing",), "group that crosses the threshold", "1"),
    "crossing_time": (("crossing",), "time of the crossing", "time"),
    "crossing_direction": (("crossing",), "direction of the crossing, -1 downwards", "1"),
    "absorbed_mass": (("group",), "mass removed by absorption", "mass"),
    "end_log_mass": (("group",), "logarithm of the mass at the end of the run", "1"),
    "end_mass": (("group",), "mass at the end of the run", "mass"),
    "removed": (("group",), "absorbed, for good", "1"),
}


def _variable(name: str, values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
    dims, long_name, units = _LABELS[name]
    if values.ndim > len(dims):
        dims = (*dims, "block")
    return dims, values, about(long_name, units)


def dataset(run: Run) -> xarray.Dataset:
    """Return everything that makes the run, as it is saved."""
    import xarray

    arrays: dict[str, np.ndarray] = {}
    names = ("dynamics", "landscape", "extinction", "settings")
    specification = {"schema": SCHEMA} | {name: encode(getattr(run, name), arrays, name) for name in names}
    crossings = run.crossings
    values = {
        "log_share" if run.stores_log_shares else "mass": run.native,
        "total_mass": run.total_mass,
        "log_total_mass": run.log_total_mass,
        "mean_fitness": run.mean_fitness,
        "extinction_time": run.extinction_time,
        "extinct_at_end": run.extinct_at_end,
        "crossing_group": np.asarray(crossings["group"]),
        "crossing_time": np.asarray(crossings["time"]),
        "crossing_direction": np.asarray(crossings["direction"]),
        "absorbed_mass": run.absorbed_mass,
        "end_log_mass": run.end_state.log_masses,
        "end_mass": run.end_state.masses,
        "removed": run.end_state.removed,
    }
    variables: dict[str, Any] = {name: _variable(name, value) for name, value in values.items()}
    for name, array in arrays.items():
        dims = tuple(f"{name}_{k}" for k in range(array.ndim))
        variables[f"specification_{name}"] = (
            dims,
            array,
            about(f"{name} of the specification"),
        )
    status = {
        "t_span": run.t_span,
        "end_time": run.end_state.t,
        "termination": run.termination.name,
        "stats": dataclasses.asdict(run.stats),
    }
    coords = {
        "time": ("time", run.t, about("time", "time")),
        "group": ("group", np.arange(run.native.shape[-1]), about("group")),
    }
    attributes = {
        "specification": json.dumps(specification, sort_keys=True),
        "status": json.dumps(status, sort_keys=True),
    }
    return xarray.Dataset(variables, coords, attributes)


def labelled(run: Run) -> xarray.Dataset:
    """Return the run as a labelled dataset, with masses and log-masses whichever is native."""
    result = dataset(run)
    for name, values in (("mass", run.masses), ("log_mass", run.log_masses)):
        if name not in result:
            result[name] = _variable(name, values)
    return result


def labelled_ensemble(ensemble: Ensemble) -> xarray.Dataset:
    """Return an ensemble as a labelled dataset whose first dimension is the member."""
    import xarray

    names = (
        "mass",
        "log_mass",
        "total_mass",
        "mean_fitness",
        "extinction_time",
        "extinct_at_end",
        "absorbed_mass",
    )
    attributes = {"mass": "masses", "log_mass": "log_masses"}
    variables: dict[str, Any] = {}
    for name in names:
        values = getattr(ensemble, attributes.get(name, name))
        dims, _, labels = _variable(name, values[0])
        variables[name] = (("member", *dims), values, labels)
    terminations = np.array([t.name for t in ensemble.termination])
    variables["termination"] = (
        ("member",),
        terminations,
        about("how the member ended"),
    )
    evaluations = np.array([s.evaluations for s in ensemble.stats])
    variables["evaluations"] = (("member",), evaluations, about("evaluations"))
    coords = {
        "member": ("member", np.arange(len(ensemble)), about("member")),
        "time": ("time", ensemble.t, about("time", "time")),
        "group": ("group", np.arange(ensemble.masses.shape[-1]), about("group")),
    }
    specifications = [dataset(run).attrs["specification"] for run in ensemble.runs]
    return xarray.Dataset(variables, coords, {"specifications": json.dumps(specifications)})


def provenance() -> dict[str, str]:
    """Return version and date, for files to say where they come from."""
    import datetime

    from evodyn import __version__

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"evodyn": __version__, "date": now}


def write_netcdf(data: xarray.Dataset, path: str | Path) -> None:
    """Write a dataset so that a kill at any moment leaves the old file or the new one."""
    with replacing(path) as temporary:
        data.to_netcdf(temporary, engine="h5netcdf")


def save(run: Run, path: str | Path) -> None:
    """Write a run to a NetCDF file; see `Run.save`."""
    data = dataset(run)
    data.attrs["provenance"] = json.dumps(provenance())
    write_netcdf(data, path)


def load(path: str | Path) -> Run:
    """Read a run from a file written by `Run.save`, bit for bit.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Run
        The same as was saved. Functions of the user's own are stored by name only; calling them raises.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not one of evodyn's, is damaged, or has a schema of a later version.

    Examples
    --------
    >>> import evodyn as ed, os, tempfile
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 5.0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run.save(os.path.join(folder, "run.nc"))
    ...     ed.load(os.path.join(folder, "run.nc")).same_as(run)
    True
    """
    import xarray

    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    try:
        with xarray.open_dataset(path, engine="h5netcdf", decode_times=False) as opened:
            data = opened.load()
        specification = json.loads(data.attrs["specification"])
        status = json.loads(data.attrs["status"])
    except Exception as error:
        raise ValueError(f"{str(path)!r} is not a run saved by evodyn, or is damaged ({error}).") from error
    if specification.get("schema") != SCHEMA:
        raise ValueError(
            f"{str(path)!r} has schema {specification.get('schema')!r}; expected {SCHEMA}: "
            "read it with the version of evodyn that wrote it."
        )
    try:
        return _run_of(data, specification, status)
    except KeyError as error:
        raise ValueError(f"{str(path)!r} is damaged: it lacks {error}.") from error


def _run_of(data: xarray.Dataset, specification: dict[str, Any], status: dict[str, Any]) -> Run:
    prefix = "specification_"
    arrays = {str(n)[len(prefix) :]: v.values for n, v in data.data_vars.items() if str(n).startswith(prefix)}
    parts = {n: decode(specification[n], arrays) for n in ("dynamics", "landscape", "extinction", "settings")}
    stores_log_shares = "log_share" in data
    rows = zip(
        data["crossing_group"].values.tolist(),
        data["crossing_time"].values.tolist(),
        data["crossing_direction"].values.tolist(),
        strict=True,
    )
    return Run(
        **parts,
        t_span=(status["t_span"][0], status["t_span"][1]),
        t=data["time"].values,
        native=data["log_share" if stores_log_shares else "mass"].values,
        total_mass=data["total_mass"].values,
        log_total_mass=data["log_total_mass"].values,
        mean_fitness=data["mean_fitness"].values,
        extinction_time=data["extinction_time"].values,
        extinct_at_end=data["extinct_at_end"].values.astype(bool),
        crossings=crossing_table(list(rows)),
        absorbed_mass=data["absorbed_mass"].values,
        termination=Termination[status["termination"]],
        stats=Stats(**status["stats"]),
        end_state=EndState(
            status["end_time"],
            data["end_log_mass"].values,
            data["end_mass"].values,
            data["removed"].values.astype(bool),
        ),
        stores_log_shares=stores_log_shares,
    )
