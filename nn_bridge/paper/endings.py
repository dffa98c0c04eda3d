"""How each printed number ends: which reading reproduces it, or how far the nearest one is off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nn_bridge.paper.cells import Cell, ending
from nn_bridge.paper.claims import clip_floor, mutation_floor
from nn_bridge.paper.experiment import Experiment
from nn_bridge.paper.readings import TARGETS
from nn_bridge.paper.tables import printed_table

__all__ = ["Key", "cell_rows", "held_by_floor", "tally"]

Row = dict[str, Any]
Key = tuple[int, float, str, str]
"""Where a number is printed: table, level, dynamics, quantity."""


def held_by_floor() -> set[Key]:
    """Return the printed sparsities of 0 that hold for any signal: their ε is below the clip floor."""
    printed = Experiment()
    floors = dict.fromkeys(("replicator", "normalized"), clip_floor(printed))
    floors["mutation"] = min(mutation_floor(printed, target) for target in TARGETS)
    return {
        (2, row["epsilon"], row["dynamics"], "sparsity_percent")
        for row in printed_table(2)
        if row["sparsity_percent"] == 0 and row["epsilon"] <= floors[row["dynamics"]]
    }


def tally(found: Sequence[Cell], repeated: set[Key], trivial: set[Key]) -> Row:
    """Count reproduced cells: all, distinct ones, and those that do not hold by the clip floor."""
    distinct = [cell for cell in found if cell.key not in repeated]
    telling = [cell for cell in distinct if cell.key not in trivial]
    named = {
        "all": found,
        "distinct": distinct,
        "telling": telling,
        "masses": [cell for cell in telling if cell.quantity != "accuracy"],
        "accuracies": [cell for cell in telling if cell.quantity == "accuracy"],
    }
    return {key: [sum(c.reproduced for c in part), len(part)] for key, part in named.items()}


def cell_rows(scored: dict[str, list[Cell]], best: str, repeated: set[Key], trivial: set[Key]) -> list[Row]:
    """Return one row for every printed cell: the best reading's number, and the nearest of all readings."""
    by_key: dict[Key, list[tuple[str, Cell]]] = {}
    for reading, found in scored.items():
        for cell in found:
            by_key.setdefault(cell.key, []).append((reading, cell))
    rows = []
    for mine in scored[best]:
        others = by_key[mine.key]
        last, margin = ending(dict(others), best)
        reading, nearest = min(others, key=lambda pair: abs(pair[1].difference))
        row: Row = {name: getattr(mine, name) for name in ("table", "level", "dynamics", "quantity")}
        row |= {"distinct": mine.key not in repeated, "holds_by_floor": mine.key in trivial}
        row |= {"printed": mine.printed, "best": mine.ours, "best_low": mine.low, "best_high": mine.high}
        row |= {"best_margin": mine.margin, "best_reproduces": mine.reproduced, "nearest": nearest.ours}
        row |= {"nearest_difference": nearest.difference, "nearest_reading": reading, "readings": len(others)}
        row |= {"ends_with": last, "ends_margin": margin, "ends_as": _ends_as(mine, margin, trivial)}
        rows.append(row | {"reproduced_by": sum(cell.reproduced for _, cell in others)})
    return rows


def _ends_as(cell: Cell, margin: float, trivial: set[Key]) -> str:
    """Return how a printed number ends."""
    if cell.key in trivial:
        return "any signal, by the clip floor"
    return "reproduced" if margin <= 1e-9 else "out of reach"
