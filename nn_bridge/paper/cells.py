"""The match rule: which printed numbers a reading reproduces.

A threshold ε is reproduced within 0.005, a sparsity within one percentage point, an accuracy inside the 95 %
prediction interval of one further run, from ten seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import xarray as xr

from evodyn.analysis.intervals import interval
from nn_bridge.paper.tables import comparison

__all__ = ["EPSILON_TOLERANCE", "SPARSITY_TOLERANCE", "Cell", "cells", "ending", "half_widths", "mass_score"]

EPSILON_TOLERANCE = 0.005
"""A printed threshold ε is reproduced by one within this."""
SPARSITY_TOLERANCE = 1.0
"""A printed sparsity is reproduced by one within this, in percentage points."""


def mass_score(result: xr.Dataset | None, dynamics: str = "replicator") -> float:
    """Return how far a run's masses are from the printed ones, in units of the tolerances.

    The largest of |ε - printed| / 0.005 over the rows of Table 1 and |sparsity - printed| / (1 point) over
    those of Table 2, for one column of the tables: at most 1 if all of them are reproduced. Accuracies do
    not enter. Infinite where there is nothing to compare.
    """
    if result is None:
        return math.inf
    distances = [
        abs(row[f"difference_{quantity}"]) / tolerance
        for number, quantity, tolerance in (
            (1, "epsilon", EPSILON_TOLERANCE),
            (2, "sparsity_percent", SPARSITY_TOLERANCE),
        )
        for row in comparison(number, {dynamics: result})
    ]
    worst = max(distances, default=math.inf)
    return worst if math.isfinite(worst) else math.inf


@dataclasses.dataclass(frozen=True)
class Cell:
    """A printed number and what a reading gives in its place.

    Parameters
    ----------
    table : int
        1 or 2.
    level : float
        Percentage of groups removed, or ε.
    dynamics : str
        Column of the table.
    quantity : {"epsilon", "sparsity_percent", "accuracy"}
        What is printed.
    printed, ours : float
        The two numbers, ours from the first seed.
    low, high : float
        The reading reproduces every printed number from `low` to `high`.
    """

    table: int
    level: float
    dynamics: str
    quantity: str
    printed: float
    ours: float
    low: float
    high: float

    @property
    def key(self) -> tuple[int, float, str, str]:
        """Where the number is printed."""
        return self.table, self.level, self.dynamics, self.quantity

    @property
    def difference(self) -> float:
        """Ours less printed."""
        return self.ours - self.printed

    @property
    def margin(self) -> float:
        """How far the printed number is outside what the reading reproduces; negative inside."""
        return max(self.low - self.printed, self.printed - self.high)

    @property
    def reproduced(self) -> bool:
        """Whether the printed number is reproduced."""
        return self.margin <= 1e-9  # rounding of decimal fractions


def cells(
    results: Mapping[str, Sequence[xr.Dataset]],
    half_widths: Mapping[tuple[int, float], float] | None = None,
) -> list[Cell]:
    """Return every printed cell beside the numbers of a reading.

    Parameters
    ----------
    results : mapping of str to sequence of Dataset
        Name of the dynamics -> its runs, one for each seed, the paper's seed first.
    half_widths : mapping, optional
        See `half_widths`: for the accuracies of dynamics with a single run, left out without it.
    """
    found = []
    for dynamics, runs in results.items():
        for number, first in ((1, "epsilon"), (2, "sparsity_percent")):
            tolerance = EPSILON_TOLERANCE if number == 1 else SPARSITY_TOLERANCE
            seeds = [comparison(number, {dynamics: result}) for result in runs]
            for rows in zip(*seeds, strict=True):
                level = float(next(iter(rows[0].values())))
                ours = rows[0][f"ours_{first}"]
                found.append(
                    Cell(
                        number,
                        level,
                        dynamics,
                        first,
                        rows[0][f"paper_{first}"],
                        ours,
                        ours - tolerance,
                        ours + tolerance,
                    )
                )
                values = [row["ours_accuracy"] for row in rows]
                if len(values) > 1:
                    low, high = interval(values).of_next
                elif half_widths is not None:
                    half = half_widths[number, level]
                    low, high = values[0] - half, values[0] + half
                else:
                    continue
                found.append(
                    Cell(number, level, dynamics, "accuracy", rows[0]["paper_accuracy"], values[0], low, high)
                )
    return found


def half_widths(replicated: Sequence[Sequence[xr.Dataset]]) -> dict[tuple[int, float], float]:
    """Return how far two single runs of one reading may be apart in accuracy, with probability 95 %.

    For readings that were run with one seed only: by table and level, the widest among readings that were
    run with several.

    Parameters
    ----------
    replicated : sequence of sequence of Dataset
        For each such reading, its runs of the replicator, one for each seed.
    """
    widest: dict[tuple[int, float], float] = {}
    for runs in replicated:
        for cell in cells({"replicator": runs}):
            if cell.quantity == "accuracy":
                # A prediction interval is wide for one run and for the uncertainty of the mean of n.
                half = (cell.high - cell.low) / 2 * math.sqrt(2 / (1 + 1 / len(runs)))
                key = cell.table, cell.level
                widest[key] = max(widest.get(key, 0.0), half)
    return widest


def ending(found: Mapping[str, Cell], preferred: str) -> tuple[str, float]:
    """Return the reading that a printed number ends with, and its margin: positive where it is out of reach.

    It is the preferred reading where that reproduces the number, else the one that reproduces it most
    closely, else the one that it is least outside of.

    Parameters
    ----------
    found : mapping of str to Cell
        Name of a reading -> its number in the place of the printed one.
    preferred : str
        Name of the reading that is best in all.

    Raises
    ------
    ValueError
        If `found` is empty.
    """
    if not found:
        raise ValueError("found is empty; expected at least one reading.")
    if preferred in found and found[preferred].reproduced:
        return preferred, found[preferred].margin
    closest = min(found, key=lambda name: (not found[name].reproduced, abs(found[name].difference)))
    if not found[closest].reproduced:
        closest = min(found, key=lambda name: found[name].margin)
    return closest, found[closest].margin
