"""The paper's printed results, and how far others are from them."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
from scipy import stats

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


@dataclasses.dataclass(frozen=True)
class Interval:
    """Mean of several runs, with its interval and that of one further run.

    Parameters
    ----------
    mean : float
        The mean.
    of_mean : tuple of float
        Confidence interval of the mean.
    of_next : tuple of float
        Prediction interval of one further run: a single printed run is to be judged by this one.
    """

    mean: float
    of_mean: tuple[float, float]
    of_next: tuple[float, float]


def interval(values: npt.ArrayLike | Sequence[float], *, level: float = 0.95) -> Interval:
    """Return mean and intervals of independent values, by Student's t (exact for normal values).

    Parameters
    ----------
    values : array_like, shape (n,)
        At least two.
    level : float, optional
        Probability of both intervals.

    Raises
    ------
    ValueError
        If there are fewer than two values.

    Examples
    --------
    >>> interval([1.0, 3.0]).of_mean
    (-10.706..., 14.706...)
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"values has shape {values.shape}; expected at least two values of one axis.")
    n = len(values)
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    quantile = float(stats.t.ppf((1 + level) / 2, n - 1))

    def around(factor: float) -> tuple[float, float]:
        half = quantile * deviation * float(np.sqrt(factor))
        return mean - half, mean + half

    return Interval(mean, around(1 / n), around(1 + 1 / n))
