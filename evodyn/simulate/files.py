"""Results as labelled datasets and as NetCDF files.

The specification is one JSON attribute with a `schema` version; its arrays are data variables. Status and
statistics are a second. Revision, date and wall time are in a separate provenance attribute, so that "the
same result" is a statement about data and specification. A checksum covers all of it.
"""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evodyn.core import netcdf
from evodyn.core.labels import about
from evodyn.core.version import __version__
from evodyn.model.descriptions import LostDynamics, decode, encode
from evodyn.model.dynamics import Dynamics
from evodyn.simulate.extinction import Extinction, crossing_table
from evodyn.simulate.run import EndState, Run, Stats, Termination

if TYPE_CHECKING:
    import xarray

    from evodyn.noise.stochastic import StochasticRuns
    from evodyn.simulate.ensemble import Ensemble

__all__ = ["SCHEMA", "labelled", "load", "save"]

SCHEMA = 2
"""Version of the saved files; raised when their meaning changes. 1 had runs only, and no checksum."""

PARTS = ("dynamics", "landscape", "extinction", "settings")
Arrays = dict[str, npt.NDArray[Any]]

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
    "member_time": (("row",), "the member's own times", "time"),
}
_PREFIX = "specification_"
_LARGEST = float(np.finfo(np.float64).max)


def _variable(name: str, values: np.ndarray) -> tuple[tuple[str, ...], np.ndarray, dict[str, str]]:
    dims, long_name, units = _LABELS[name]
    if values.ndim > len(dims):
        dims = (*dims, "block")
    return dims, values, about(long_name, units)


def _values(run: Run) -> Arrays:
    """Return the data of a run by the names that they have in files."""
    crossings = run.crossings
    return {
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


def _specification(run: Run, arrays: Arrays) -> dict[str, Any]:
    """Return what was run as JSON, its arrays entered into `arrays`."""
    return {name: encode(getattr(run, name), arrays, name) for name in PARTS}


def _status(run: Run) -> dict[str, Any]:
    return {
        "t_span": run.t_span,
        "end_time": run.end_state.t,
        "termination": run.termination.name,
        "stats": dataclasses.asdict(run.stats),
        "blocks": [block.stop - block.start for block, _ in run.dynamics.blocks(run.native.shape[-1])],
    }


def _described(arrays: Arrays, leading: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the arrays of specifications as variables."""
    variables = {}
    for name, array in arrays.items():
        dims = (*leading, *(f"{name}_{k}" for k in range(array.ndim - len(leading))))
        variables[_PREFIX + name] = (dims, array, about(f"{name} of the specification"))
    return variables


def _attributes(kind: str, specification: dict[str, Any], status: Any = None) -> dict[str, str]:
    described = {"schema": SCHEMA, "kind": kind} | specification
    attributes = {"specification": json.dumps(described, sort_keys=True)}
    return attributes if status is None else attributes | {"status": json.dumps(status, sort_keys=True)}


def dataset(run: Run) -> xarray.Dataset:
    """Return everything that makes the run, as it is saved."""
    import xarray

    arrays: Arrays = {}
    specification = _specification(run, arrays)
    variables: dict[str, Any] = {name: _variable(name, value) for name, value in _values(run).items()}
    coords = {
        "time": ("time", run.t, about("time", "time")),
        "group": ("group", np.arange(run.native.shape[-1]), about("group")),
    }
    return xarray.Dataset(
        variables | _described(arrays), coords, _attributes("Run", specification, _status(run))
    )


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
    specifications = [json.dumps(_specification(run, {}), sort_keys=True) for run in ensemble.runs]
    return xarray.Dataset(variables, coords, {"specifications": json.dumps(specifications)})


def ensemble_dataset(ensemble: Ensemble) -> xarray.Dataset:
    """Return everything that makes an ensemble, as it is saved: the data of its members, stacked.

    Where members have other times than the ensemble, as one has that ended early, their rows are padded
    with NaN, and so are the crossings everywhere; the status says how many of them a member has.
    """
    import xarray

    values = [_values(run) for run in ensemble.runs]
    if len({run.stores_log_shares for run in ensemble.runs}) > 1:
        raise ValueError(
            "the ensemble has members of solve and of iterate, which store different quantities; "
            "expected members of one kind: save each with Run.save."
        )
    shared = all(np.array_equal(run.t, ensemble.t) for run in ensemble.runs)
    if not shared:
        values = [{"member_time": run.t} | value for run, value in zip(ensemble.runs, values, strict=True)]
    variables: dict[str, Any] = {}
    for name in values[0]:
        dims, _, labels = _variable(name, values[0][name])
        if not shared:
            dims = tuple("row" if dim == "time" else dim for dim in dims)
        variables[name] = (("member", *dims), _padded([value[name] for value in values]), labels)
    if ensemble.runs[0].stores_log_shares:  # for those who open the file without evodyn
        variables["mass"] = (("member", "time", "group"), ensemble.masses, about("mass", "mass"))
    collected: list[Arrays] = [{} for _ in ensemble.runs]
    members = [_specification(run, arrays) for run, arrays in zip(ensemble.runs, collected, strict=True)]
    common, own = _pooled(collected)
    counts = [{"rows": len(run.t), "crossings": len(run.crossings)} | _status(run) for run in ensemble.runs]
    coords = {
        "member": ("member", np.arange(len(ensemble)), about("member")),
        "time": ("time", ensemble.t, about("time", "time")),
        "group": ("group", np.arange(ensemble.runs[0].native.shape[-1]), about("group")),
    }
    return xarray.Dataset(
        variables | _described(common) | _described(own, ("member",)),
        coords,
        _attributes("Ensemble", {"members": members, "seed": encode(ensemble.seed, {}, "seed")}, counts),
    )


def _padded(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Return arrays stacked, the shorter ones filled up along their first axis."""
    shape = (len(arrays), max(len(a) for a in arrays), *arrays[0].shape[1:])
    fill = np.nan if arrays[0].dtype.kind == "f" else 0
    stacked: npt.NDArray[Any] = np.full(shape, fill, arrays[0].dtype)
    for k, array in enumerate(arrays):
        stacked[k, : len(array)] = array
    return stacked


def _pooled(collected: list[Arrays]) -> tuple[Arrays, Arrays]:
    """Return the arrays that all members share, and stacks of those of which each has its own.

    Those that only some have, or of which shapes differ, are stored for each member under its number; see
    `_of_member`.
    """
    common: Arrays = {}
    own: Arrays = {}
    for name in dict.fromkeys(name for arrays in collected for name in arrays):
        of_members = [(k, arrays[name]) for k, arrays in enumerate(collected) if name in arrays]
        first = of_members[0][1]
        if len(of_members) < len(collected) or any(
            a.shape != first.shape or a.dtype != first.dtype for _, a in of_members
        ):
            common |= {f"{k}:{name}": array for k, array in of_members}
        elif all(array.tobytes() == first.tobytes() for _, array in of_members):
            common[name] = first
        else:
            own[name] = np.stack([array for _, array in of_members])
    return common, own


def stochastic_dataset(runs: StochasticRuns) -> xarray.Dataset:
    """Return everything that makes noisy trajectories, labelled, as it is saved."""
    import xarray

    variables: dict[str, Any] = {}
    arrays: Arrays = {}
    fields: dict[str, Any] = {}
    for name, value in runs.fields().items():
        if name in _STOCHASTIC and name != "t":
            dims, _, labels = _variable(_STOCHASTIC[name], value[0])
            variables[_STOCHASTIC[name]] = (("member", *dims), value, labels)
        elif name != "t":
            fields[name] = encode(value, arrays, name)
    coords = {
        "member": ("member", np.arange(len(runs.masses)), about("member")),
        "time": ("time", runs.t, about("time", "time")),
        "group": ("group", np.arange(runs.masses.shape[-1]), about("group")),
    }
    return xarray.Dataset(
        variables | _described(arrays), coords, _attributes("StochasticRuns", {"fields": fields})
    )


_STOCHASTIC = {
    "t": "time",
    "masses": "mass",
    "log_masses": "log_mass",
    "extinction_time": "extinction_time",
}
"""Names in files of what `StochasticRuns` calls otherwise."""


def provenance() -> dict[str, str]:
    """Return version and date, for files to say where they come from."""
    import datetime

    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"evodyn": __version__, "date": now}


def save(data: xarray.Dataset, path: str | Path) -> None:
    """Write a result's dataset to a NetCDF file; see `Run.save`."""
    netcdf.write(data.assign_attrs(provenance=json.dumps(provenance())), path)


def load(path: str | Path) -> Any:
    """Read a result from a file written by its `save`, bit for bit.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    Run, Ensemble or StochasticRuns
        The same as was saved. Specifications of the user's own are made again where their classes can be
        imported, which runs their modules: load files from sources that you trust. Where they cannot, and
        for functions, which are stored by name only, something stands in that raises when it is called.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is not one of evodyn's, is damaged or was changed, or has a schema of a later version.

    Warns
    -----
    UserWarning
        If the file comes from a version that stored no checksum.

    Examples
    --------
    >>> import evodyn as ed, os, tempfile
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 5.0))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run.save(os.path.join(folder, "run.nc"))
    ...     ed.load(os.path.join(folder, "run.nc")).same_as(run)
    True
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {str(path)!r}.")
    try:
        data, sealed = netcdf.read(path)
        if "specifications" in data.attrs:
            raise ValueError(
                "it is an ensemble of a version that saved tables of masses without the members' own "
                "records: open it with xarray.load_dataset, or compute and save it again"
            )
        specification = json.loads(data.attrs["specification"])
        schema, kind = specification["schema"], specification.get("kind", "Run")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{str(path)!r} is not a run saved by evodyn, or is damaged ({error}).") from error
    if schema not in (1, SCHEMA):
        raise ValueError(
            f"{str(path)!r} has schema {schema!r}; expected at most {SCHEMA}: "
            "read it with the version of evodyn that wrote it."
        )
    try:
        if kind not in _READERS or (schema == 1 and "dynamics" not in specification):
            raise ValueError("it holds something else")
        if schema > 1 and not sealed:
            raise ValueError("it has no checksum")
        result = _READERS[kind](data, specification)
    except Exception as error:  # descriptions of anything can fail in any way
        problem = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{str(path)!r} is not a run saved by evodyn, or is damaged: {problem}.") from error
    if schema == 1:
        warnings.warn(f"{str(path)!r} {netcdf.UNSEALED} Save it again to give it one.", stacklevel=2)
    return result


def _loaded_run(data: xarray.Dataset, specification: dict[str, Any]) -> Run:
    values, arrays = _parts(data)
    return _run_of(values["time"], values, specification, json.loads(data.attrs["status"]), arrays)


def _loaded_ensemble(data: xarray.Dataset, specification: dict[str, Any]) -> Ensemble:
    from evodyn.simulate.ensemble import Ensemble

    values, arrays = _parts(data)
    stacked = {str(n)[len(_PREFIX) :] for n, v in data.variables.items() if v.dims[:1] == ("member",)}
    t, counts = values.pop("time"), json.loads(data.attrs["status"])
    _array({"time": t}, "time", (len(t),), increasing=True)
    if "log_share" in values:
        values.pop("mass", None)
    runs = []
    for k, (described, status) in enumerate(zip(specification["members"], counts, strict=True)):
        member = {}
        for name, value in values.items():
            dims = data[name].dims
            if dims[:1] != ("member",):
                continue
            length = {"row": "rows", "time": "rows", "crossing": "crossings"}.get(str((*dims, "")[1]))
            member[name] = value[k] if length is None else value[k, : status[length]]
        own = {}
        for name, array in arrays.items():
            number, _, rest = name.rpartition(":")
            if not number or number == str(k):
                own[rest] = array[k] if name in stacked else array
        runs.append(_run_of(member.get("member_time", t), member, described, status, own))
    return Ensemble(tuple(runs), t, decode(specification["seed"], {}))


def _loaded_stochastic(data: xarray.Dataset, specification: dict[str, Any]) -> StochasticRuns:
    from evodyn.noise.stochastic import StochasticRuns

    values, arrays = _parts(data)
    shape = (*values["mass"].shape[:1], len(values["time"]), *values["mass"].shape[2:])
    checked: dict[str, Any] = {
        "t": _array(values, "time", shape[1:2], increasing=True),
        "masses": _array(values, "mass", shape, least=0.0),
        "log_masses": _array(values, "log_mass", shape),
        "extinction_time": _array(values, "extinction_time", (shape[0], shape[2])),
    }
    fields = {name: decode(value, arrays) for name, value in specification["fields"].items()}
    if not isinstance(fields["model"], str):
        raise ValueError("its model is no text")
    return StochasticRuns(**fields, **checked)


_READERS = {"Run": _loaded_run, "Ensemble": _loaded_ensemble, "StochasticRuns": _loaded_stochastic}


def _parts(data: xarray.Dataset) -> tuple[Arrays, Arrays]:
    """Return the data and the arrays of the specification by name."""
    named = {str(name): variable.values for name, variable in data.variables.items()}
    arrays = {name[len(_PREFIX) :]: value for name, value in named.items() if name.startswith(_PREFIX)}
    return {name: value for name, value in named.items() if not name.startswith(_PREFIX)}, arrays


def _array(
    values: Arrays,
    name: str,
    *shapes: tuple[int, ...],
    kind: type = np.float64,
    least: float = -math.inf,
    most: float = math.inf,
    undefined: bool = False,
    increasing: bool = False,
) -> npt.NDArray[Any]:
    """Return an array of a file if it is what it should be."""
    array = values[name]
    if array.shape not in shapes or array.dtype != kind:
        raise ValueError(
            f"{name} has shape {array.shape} of {array.dtype}; expected {' or '.join(map(str, shapes))} "
            f"of {np.dtype(kind)}"
        )
    if array.dtype.kind == "f" and not undefined and np.isnan(array).any():
        raise ValueError(f"{name} is not a number somewhere")
    if (array < least).any() or (array > most).any():
        raise ValueError(f"{name} is outside [{least:g}, {most:g}] somewhere")
    if increasing and not (np.isfinite(array).all() and (np.diff(array) > 0).all()):
        raise ValueError(f"{name} does not increase")
    return array


def _run_of(
    t: npt.NDArray[Any], values: Arrays, specification: dict[str, Any], status: dict[str, Any], arrays: Arrays
) -> Run:
    """Return the run of these parts, every one of them checked."""
    parts = {name: decode(specification[name], arrays) for name in PARTS}
    stores_log_shares = "log_share" in values
    native = values["log_share" if stores_log_shares else "mass"]
    rows, n = len(t), native.shape[-1]
    sizes = status.get("blocks", ())  # which files of schema 1 do not have
    if isinstance(parts["dynamics"], LostDynamics) and len(sizes) > 1:
        parts["dynamics"] = dataclasses.replace(parts["dynamics"], sizes=tuple(sizes))
    blocks = _check_parts(parts, n, sizes)
    along = [(rows, blocks), *([(rows,)] if blocks == 1 else [])]
    of_groups, crossings = (n,), (len(values["crossing_group"]),)
    # Shares are sums of rounded exponentials: one may be above 1 by that much.
    largest, smallest = (1e-9, -math.inf) if stores_log_shares else (math.inf, 0.0)
    start, end = (_number("t_span", value) for value in status["t_span"])
    native_name = "log_share" if stores_log_shares else "mass"
    total = _array(values, "total_mass", *along, least=0.0)
    log_total = _array(values, "log_total_mass", *along)
    with np.errstate(over="ignore", invalid="ignore"):
        if not np.allclose(total, np.exp(log_total), rtol=1e-6, atol=1e-300):
            raise ValueError("total_mass and log_total_mass disagree")
    table = zip(
        _array(values, "crossing_group", crossings, kind=np.int64, least=0, most=n - 1).tolist(),
        _array(values, "crossing_time", crossings, least=-_LARGEST, most=_LARGEST).tolist(),
        _array(values, "crossing_direction", crossings, kind=np.int8, least=-1, most=1).tolist(),
        strict=True,
    )
    return Run(
        **parts,
        t_span=(start, end),
        t=_array({"time": t}, "time", (rows,), increasing=True),
        native=_array(values, native_name, (rows, n), least=smallest, most=largest),
        total_mass=total,
        log_total_mass=log_total,
        mean_fitness=_array(values, "mean_fitness", *along, undefined=True),
        extinction_time=_array(values, "extinction_time", of_groups),
        extinct_at_end=_array(values, "extinct_at_end", of_groups, kind=np.bool_),
        crossings=crossing_table(list(table)),
        absorbed_mass=_array(values, "absorbed_mass", of_groups, least=0.0),
        termination=Termination[status["termination"]],
        stats=_stats(status["stats"]),
        end_state=EndState(
            _number("end_time", status["end_time"]),
            _array(values, "end_log_mass", of_groups),
            _array(values, "end_mass", of_groups, least=0.0),
            _array(values, "removed", of_groups, kind=np.bool_),
        ),
        stores_log_shares=stores_log_shares,
    )


def _check_parts(parts: dict[str, Any], n: int, sizes: Any) -> int:
    """Raise `ValueError` unless a run of `n` groups can have these parts; return its number of blocks."""
    from evodyn.simulate.iterate import MapSettings
    from evodyn.simulate.solve import Solver

    kinds = {"dynamics": Dynamics, "extinction": Extinction | None, "settings": Solver | MapSettings}
    for name, kind in kinds.items():
        if not isinstance(parts[name], kind):
            raise ValueError(f"its {name} is {parts[name]!r}")
    if not callable(parts["landscape"]) or getattr(parts["landscape"], "groups", None) not in (None, n):
        raise ValueError(f"its landscape is {parts['landscape']!r}, for {n} groups")
    parts["dynamics"].check(n)
    found = [block.stop - block.start for block, _ in parts["dynamics"].blocks(n)]
    if sum(found) != n or (sizes and list(sizes) != found):
        raise ValueError(f"it has blocks of {list(sizes)} groups, its dynamics of {found}, for {n} groups")
    return len(found)


def _number(name: str, value: object) -> float:
    if not isinstance(value, float) or not math.isfinite(value):
        raise ValueError(f"{name} is {value!r}; expected a finite number")
    return value


def _stats(values: dict[str, Any]) -> Stats:
    for field in dataclasses.fields(Stats):
        value = values[field.name]
        text, number = isinstance(value, str), type(value) is int and value >= 0
        if not (text if field.type == "str" else number):
            raise ValueError(f"stats.{field.name} is {value!r}; expected {field.type}")
    return Stats(**values)
