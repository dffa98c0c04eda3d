"""Grids of configurations: every combination of some values, and the results as one labelled dataset."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evodyn.core.specifications import summary

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Grid", "columns_of", "combinations", "labelled_by"]

Grid = Mapping[str, Iterable[Any]]
"""Names, and the values that each takes."""


def columns_of(grid: Grid) -> dict[str, list[Any]]:
    """Return the values of every name as a list.

    Raises
    ------
    ValueError
        If there is no name, a name has no values, or what it has is no collection of them.
    """
    if not grid:
        raise ValueError("points is {}; expected at least one name with its values.")
    columns = {}
    for name, values in grid.items():
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ValueError(f"points[{name!r}] is {values!r}; expected the values that it takes, as a list.")
        columns[name] = values.tolist() if isinstance(values, np.ndarray) else list(values)
        if not columns[name]:
            raise ValueError(f"points[{name!r}] is empty; expected at least one value.")
    return columns


def combinations(columns: Mapping[str, list[Any]]) -> list[dict[str, Any]]:
    """Return every combination of the values, the last name varying fastest.

    Examples
    --------
    >>> combinations({"decay": [0.1, 1.0], "seed": [0, 1]})[:2]
    [{'decay': 0.1, 'seed': 0}, {'decay': 0.1, 'seed': 1}]
    """
    return [dict(zip(columns, row, strict=True)) for row in itertools.product(*columns.values())]


def labelled_by(columns: Mapping[str, list[Any]], results: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return the results at all `combinations` as one dataset with a leading dimension for each name.

    Numbers and text are coordinates as they are, other values by how they are written, or numbered where
    that does not tell them apart. Where results differ in the labels of a dimension they are aligned, and
    what is missing is NaN.

    Raises
    ------
    ValueError
        If a name is that of a dimension or variable of the results, too.
    """
    import xarray as xr

    for name in columns:
        if any(name in result.dims or name in result.variables for result in results):
            raise ValueError(f"points has the name {name!r}, and so have the results; expected another name.")
    row, sizes = "combination", [len(values) for values in columns.values()]
    stacked = xr.concat(
        results,
        row,
        join="outer",
        data_vars="all",
        coords="minimal",
        compat="override",
        combine_attrs="override",
    )
    variables = {
        name: ((*columns, *values.dims[1:]), values.values.reshape(*sizes, *values.shape[1:]), values.attrs)
        for name, values in stacked.data_vars.items()
    }
    labels = {name: _labels(values) for name, values in columns.items()}
    origins = json.dumps([json.loads(result.attrs["sweep"]) for result in results])
    return xr.Dataset(variables, {**stacked.coords, **labels}, {"sweep": origins})


def _labels(values: list[Any]) -> list[Any]:
    """Return values as a coordinate has them."""
    found = [one if isinstance(one, bool | int | float | str) else summary(one) for one in values]
    return found if len(set(found)) == len(found) else list(range(len(found)))
