"""The paper's printed results, and how far others are from them."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
import xarray as xr

from evodyn.analysis.intervals import Interval, interval

__all__ = ["BASELINE", "Interval", "comparison", "interval", "printed_table"]

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
    text = (resources.files("nn_bridge") / "data" / f"paper_table{number}.csv").read_text()
    return [
        {key: value if key == "dynamics" else float(value) for key, value in row.items()}
        for row in csv.DictReader(text.splitlines())
    ]


def comparison(number: int, results: Mapping[str, xr.Dataset]) -> list[dict[str, Any]]:
    """Return Table 1 or 2 with the paper's numbers, ours and the differences, ours less the paper's.

    Parameters
    ----------
    number : int
        1 or 2.
    results : mapping of str to xarray.Dataset
        Results of `nn_bridge.paper.experiment.run` by name of the dynamics; rows without one are left out.

    Returns
    -------
    list of dict
        Rows with the key of the table ("sparsity_percent" or "epsilon"), "dynamics", and "paper_X",
        "ours_X", "difference_X" for every other column X.
    """
    rows = []
    for printed in printed_table(number):
        result = results.get(printed["dynamics"])
        ours = None if result is None else _measured(number, printed, result)
        if ours is None:
            continue
        row = {"sparsity_percent" if number == 1 else "epsilon": printed[_key(number)]}
        row["dynamics"] = printed["dynamics"]
        for name, value in ours.items():
            row |= {
                f"paper_{name}": printed[name],
                f"ours_{name}": value,
                f"difference_{name}": value - printed[name],
            }
        rows.append(row)
    return rows


def _key(number: int) -> str:
    return "sparsity_percent" if number == 1 else "epsilon"


def _measured(number: int, printed: dict[str, Any], result: xr.Dataset) -> dict[str, float] | None:
    """Return what a result has in place of a printed row."""
    dimension, wanted = (
        ("sparsity", printed["sparsity_percent"] / 100)
        if number == 1
        else (
            "threshold",
            printed["epsilon"],
        )
    )
    found = np.flatnonzero(np.isclose(result[dimension].values, wanted))
    if not len(found):
        return None
    row = result.isel({dimension: int(found[0])})
    accuracy = float(row[f"accuracy_at_{dimension}"])
    first = (
        {"epsilon": float(row["epsilon_at_sparsity"])}
        if number == 1
        else {"sparsity_percent": 100 * float(row["removed_at_threshold"])}
    )
    return {**first, "accuracy": accuracy, "drop": float(result["accuracy"][-1]) - accuracy}
