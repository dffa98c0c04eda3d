"""What a saved result looks like: names and labels of its variables, its attributes, and their version.

The specification is one JSON attribute with a `schema` version; its arrays are data variables. Status and
statistics are a second. Revision, date and wall time are in a separate provenance attribute, so that "the
same result" is a statement about data and specification. A checksum covers all of it.
"""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evodyn.core import netcdf
from evodyn.core.labels import MASS, TIME, about
from evodyn.core.version import __version__

if TYPE_CHECKING:
    import xarray

__all__ = [
    "PREFIX",
    "SCHEMA",
    "Arrays",
    "attributes",
    "coordinates",
    "described",
    "provenance",
    "save",
    "variable",
]

SCHEMA = 2
"""Version of the saved files; raised when their meaning changes. 1 had runs only, and no checksum."""

PREFIX = "specification_"
"""What the names of the specification's arrays begin with."""

Arrays = dict[str, npt.NDArray[Any]]
Variable = tuple[tuple[str, ...], npt.NDArray[Any], dict[str, str]]

LABELS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "log_share": (("time", "group"), "logarithm of the share within the block", "1"),
    "mass": (("time", "group"), "mass", MASS),
    "log_mass": (("time", "group"), "logarithm of the mass", "1"),
    "total_mass": (("time",), "total mass", MASS),
    "log_total_mass": (("time",), "logarithm of the total mass", "1"),
    "mean_fitness": (("time",), "mass-weighted mean fitness", "1/time"),
    "extinction_time": (("group",), "first time strictly below the threshold", TIME),
    "extinct_at_end": (("group",), "extinct when the run ends", "1"),
    "crossing_group": (("crossing",), "group that crosses the threshold", "1"),
    "crossing_time": (("crossing",), "time of the crossing", TIME),
    "crossing_direction": (("crossing",), "direction of the crossing, -1 downwards", "1"),
    "absorbed_mass": (("group",), "mass removed by absorption", MASS),
    "event_index": (("event",), "event, by its place in the list that was asked for", "1"),
    "event_time": (("event",), "time of the event", TIME),
    "end_log_mass": (("group",), "logarithm of the mass at the end of the run", "1"),
    "end_mass": (("group",), "mass at the end of the run", MASS),
    "removed": (("group",), "absorbed, for good", "1"),
    "member_time": (("row",), "the member's own times", TIME),
}


def variable(name: str, values: npt.NDArray[Any], *leading: str) -> Variable:
    """Return values of one result, or of several stacked along `leading` dimensions, as a variable."""
    dims, long_name, units = LABELS[name]
    if values.ndim > len(leading) + len(dims):
        dims = (*dims, "block")
    return (*leading, *dims), values, about(long_name, units)


def coordinates(t: npt.NDArray[Any], groups: int, members: int | None = None) -> dict[str, Any]:
    """Return the coordinates of a result: times, groups and, for several trajectories, members."""
    found: dict[str, Any] = (
        {} if members is None else {"member": ("member", np.arange(members), about("member"))}
    )
    return found | {
        "time": ("time", t, about("time", TIME)),
        "group": ("group", np.arange(groups), about("group")),
    }


def described(arrays: Arrays, leading: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the arrays of specifications as variables."""
    variables = {}
    for name, array in arrays.items():
        dims = (*leading, *(f"{name}_{k}" for k in range(array.ndim - len(leading))))
        variables[PREFIX + name] = (dims, array, about(f"{name} of the specification"))
    return variables


def attributes(kind: str, specification: dict[str, Any], status: Any = None) -> dict[str, str]:
    """Return the attributes of a result of a `kind`: what was run and, if given, how it went, as JSON."""
    whole = {"schema": SCHEMA, "kind": kind} | specification
    found = {"specification": json.dumps(whole, sort_keys=True)}
    return found if status is None else found | {"status": json.dumps(status, sort_keys=True)}


def provenance() -> dict[str, str]:
    """Return version and date, for files to say where they come from."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"evodyn": __version__, "date": now}


def save(data: xarray.Dataset, path: str | Path) -> None:
    """Write a result's dataset to a NetCDF file, atomically."""
    netcdf.write(data.assign_attrs(provenance=json.dumps(provenance())), path)
