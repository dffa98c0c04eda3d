"""The paper's printed results, and how far others are from them."""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["BASELINE", "comparison", "printed_table"]

BASELINE = 0.9808
"""Accuracy without removal, as printed."""


def printed_table(number: int) -> list[dict[str, Any]]:
    """Return Table 1 or 2 of the paper, one dictionary for each printed row and dynamics.

    Raises
    ------
    ValueError
        If `number` is neither 1 nor 2.

    Examples
    --------
    >>> list(printed_table(1)[0].values())
    [35.0, 'replicator', 0.6313, 0.9551, 0.0257]
    """
    if number not in (1, 2):
        raise ValueError(f"number is {number!r}; expected 1 or 2.")
    return [dict(row) for row in _printed(number)]


@functools.cache
def _printed(number: int) -> tuple[dict[str, Any], ...]:
    text = (resources.files("nn_bridge") / "data" / f"paper_table{number}.csv").read_text()
    return tuple(
        {key: value if key == "dynamics" else float(value) for key, value in row.items()}
        for row in csv.DictReader(text.splitlines())
    )


def comparison(number: int, results: Mapping[str, xr.Dataset]) -> list[dict[str, Any]]:
    """Return Table 1 or 2 with the paper's numbers, ours and the differences, ours less the paper's.

    Parameters
    ----------
    number : int
        1 or 2.
    results : mapping of str to xarray.Dataset
        What `nn_bridge.paper.runs.train` returned, by column of the table; rows without one are left out.

    Returns
    -------
    list of dict
        Rows with the key of the table ("sparsity_percent" or "epsilon"), "dynamics", and "paper_X",
        "ours_X", "difference_X" for every other column X.
    """
    rows = []
    key, dimension, unit = (
        ("sparsity_percent", "sparsity", 100) if number == 1 else ("epsilon", "threshold", 1)
    )
    for printed in printed_table(number):
        result = results.get(printed["dynamics"])
        if result is None:
            continue
        found = np.flatnonzero(np.isclose(result[dimension].values, printed[key] / unit))
        if not len(found):
            continue
        row = {key: printed[key], "dynamics": printed["dynamics"]}
        for name, value in _measured(result, dimension, int(found[0])).items():
            row |= {
                f"paper_{name}": printed[name],
                f"ours_{name}": value,
                f"difference_{name}": value - printed[name],
            }
        rows.append(row)
    return rows


def _measured(result: xr.Dataset, dimension: str, k: int) -> dict[str, float]:
    """Return what a result has in place of a printed row, its k-th removal."""
    accuracy = float(result[f"accuracy_at_{dimension}"].values[k])
    if dimension == "sparsity":
        first = {"epsilon": float(result["epsilon_at_sparsity"].values[k])}
    else:
        first = {"sparsity_percent": 100 * float(result["removed_at_threshold"].values[k])}
    return {**first, "accuracy": accuracy, "drop": float(result["accuracy"].values[-1]) - accuracy}
