"""Reading what results have saved, every part of it checked."""

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
from evodyn.model.descriptions import LostDynamics, decode
from evodyn.model.dynamics import Dynamics
from evodyn.simulate.ensemble import Ensemble
from evodyn.simulate.events import Event, event_table
from evodyn.simulate.extinction import Extinction, crossing_table
from evodyn.simulate.iterate import MapSettings
from evodyn.simulate.method import Solver
from evodyn.simulate.run import LATER_PARTS, PARTS, EndState, Run
from evodyn.simulate.schema import PREFIX, SCHEMA, Arrays
from evodyn.simulate.status import Stats, Termination
from evodyn.simulate.stored import HEAD, Folder

if TYPE_CHECKING:
    import xarray

    from evodyn.noise.runs import StochasticRuns

__all__ = ["load"]

_LARGEST = float(np.finfo(np.float64).max)


def load(path: str | Path) -> Any:
    """Read a result from a file written by its `save`, bit for bit.

    Parameters
    ----------
    path : str or Path
        The file, or the folder of an ensemble (`solve_ensemble` with ``directory``), whose members are then
        read when somebody looks at them.

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
        If the folder has no ensemble or lacks members of it, or the file is not one of evodyn's, is damaged
        or was changed, or has a schema of a later version.

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
    if path.is_dir():
        return _loaded_folder(path)
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
    except (KeyError, TypeError, ValueError) as error:
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


def _loaded_folder(path: Path) -> Ensemble:
    folder = Folder.read(path)
    if folder is None:
        raise ValueError(f"{str(path)!r} has no {HEAD}; expected a folder of solve_ensemble, or a file.")
    if missing := folder.missing():
        lacking = sum(map(len, missing))
        raise ValueError(
            f"{str(path)!r} lacks {lacking} of {folder.members} members, the first of them "
            f"{missing[0].start}: call solve_ensemble again, which solves these only, or load its files one "
            "by one."
        )
    return folder.ensemble()


def _loaded_run(data: xarray.Dataset, specification: dict[str, Any]) -> Run:
    values, arrays = _parts(data)
    return _run_of(values["time"], values, specification, json.loads(data.attrs["status"]), arrays)


def _loaded_ensemble(data: xarray.Dataset, specification: dict[str, Any]) -> Ensemble:
    values, arrays = _parts(data)
    stacked = {str(n)[len(PREFIX) :] for n, v in data.variables.items() if v.dims[:1] == ("member",)}
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
            lengths = {"row": "rows", "time": "rows", "crossing": "crossings", "event": "events"}
            length = lengths.get(str((*dims, "")[1]))
            member[name] = value[k] if length is None else value[k, : status[length]]
        own = {}
        for name, array in arrays.items():
            number, _, rest = name.rpartition(":")
            if not number or number == str(k):
                own[rest] = array[k] if name in stacked else array
        runs.append(_run_of(member.get("member_time", t), member, described, status, own))
    return Ensemble(tuple(runs), t, decode(specification["seed"], {}))


def _loaded_stochastic(data: xarray.Dataset, specification: dict[str, Any]) -> StochasticRuns:
    from evodyn.noise.runs import StochasticRuns

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
    arrays = {name[len(PREFIX) :]: value for name, value in named.items() if name.startswith(PREFIX)}
    return {name: value for name, value in named.items() if not name.startswith(PREFIX)}, arrays


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
    parts |= {name: decode(specification[name], arrays) for name in LATER_PARTS if name in specification}
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
        events=_events(values, len(parts.get("planned_events", ()))),
    )


def _events(values: Arrays, planned: int) -> Any:
    """Return the table of what happened; that of files of before is empty."""
    if "event_index" not in values:
        return event_table([])
    shape = (len(values["event_index"]),)
    index = _array(values, "event_index", shape, kind=np.int64, least=0, most=planned - 1)
    time = _array(values, "event_time", shape, least=-_LARGEST, most=_LARGEST)
    return event_table(list(zip(index.tolist(), time.tolist(), strict=True)))


def _check_parts(parts: dict[str, Any], n: int, sizes: Any) -> int:
    """Raise `ValueError` unless a run of `n` groups can have these parts; return its number of blocks."""
    kinds = {"dynamics": Dynamics, "extinction": Extinction | None, "settings": Solver | MapSettings}
    for name, kind in kinds.items():
        if not isinstance(parts[name], kind):
            raise ValueError(f"its {name} is {parts[name]!r}")
    planned = parts.get("planned_events", ())
    if not isinstance(planned, tuple) or not all(isinstance(event, Event) for event in planned):
        raise ValueError(f"its events are {planned!r}")
    settle = parts.get("settle")
    if settle is not None and not _number("settle", settle) > 0:
        raise ValueError(f"settle is {settle!r}; expected a number > 0")
    if parts["extinction"] is not None:
        parts["extinction"].check(n)
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
