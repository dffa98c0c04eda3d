"""The paper's Tables 1 and 2 as plots, printed numbers beside ours (studies/mnist_bridge.py)."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

import style
from evodyn.analysis.intervals import interval

MARKERS = {"replicator": "o", "normalized": "s", "mutation": "^"}
SHIFTS = {"replicator": -1.0, "normalized": 0.0, "mutation": 1.0}
"""Side by side, in units of a sixth of the distance between levels: two of the three coincide."""
COLOURS = (style.OURS, "#4a9ad4", "0.45")
"""Of the readings, the first one dark."""
NAMES = {"literal": "here, literal", "paper": "here, fitting"}
SAID = {
    "literal": "with the signal read literally",
    "paper": "in the reading that gives its masses (gradients of the masses never zeroed, pixels in [0, 1], "
    "biases not scaled; fitting)",
}


def main() -> None:
    """Draw the figure from results/mnist_bridge, or from the folder given as argument."""
    first = style.read_rows("mnist_bridge", "table1.csv")
    second = style.read_rows("mnist_bridge", "table2.csv")
    seeds = len({row["seed"] for row in first})
    readings = list(dict.fromkeys(row["reading"] for row in first))[: len(COLOURS)]
    colours = dict(zip(readings, COLOURS, strict=False))
    said = " and ".join(SAID.get(reading, f"read as “{reading}”") for reading in readings)

    style.start()
    figure, panels = plt.subplots(2, 2, figsize=(style.WIDTH, 4.6))
    (thresholds, accuracies), (sparsities, pruned) = panels
    compare(thresholds, first, "sparsity_percent", "epsilon", colours)
    thresholds.set(xlabel="groups removed (%)", ylabel="threshold ε (mass)")
    style.letter(thresholds, "a", "Table 1: threshold")
    compare(accuracies, first, "sparsity_percent", "accuracy", colours)
    accuracies.set(xlabel="groups removed (%)", ylabel="test accuracy")
    style.letter(accuracies, "b", "Table 1: accuracy")
    compare(sparsities, second, "epsilon", "sparsity_percent", colours)
    sparsities.set(xlabel="threshold ε (mass)", ylabel="groups removed (%)")
    style.letter(sparsities, "c", "Table 2: sparsity")
    compare(pruned, second, "epsilon", "accuracy", colours)
    pruned.set(xlabel="threshold ε (mass)", ylabel="test accuracy")
    style.letter(pruned, "d", "Table 2: accuracy")
    figure.legend(
        handles=[
            *(
                Line2D([], [], color="0.3", marker=marker, linestyle="none", label=name)
                for name, marker in MARKERS.items()
            ),
            *([] if style.quick() else [symbol("paper", style.PAPER, "white")]),
            *(symbol(NAMES.get(name, name), colour, colour) for name, colour in colours.items()),
        ],
        loc="outside upper right",
        ncols=4 + len(colours),
        frameon=False,
        fontsize=7,
    )
    style.save(
        figure,
        "paper_tables",
        [
            f"The experiment of the paper's two tables, {said}, at reduced sizes: the printed numbers are "
            "left out."
            if style.quick()
            else f"The paper's two tables as printed (open symbols, one run) and the same experiment here "
            f"(filled), {said}.",
            f"Here: means over {seeds} seeds; bars are 95 % prediction intervals of one further run, by "
            "which a single printed run is to be judged."
            if seeds > 1
            else "Here: one seed.",
            "(a, b) Table 1: the threshold ε below which a given share of the groups lies, and the accuracy "
            "without them. (c, d) Table 2: the share of groups below a given ε, and the accuracy without "
            "them. Symbols of the three dynamics are set side by side.",
        ],
    )


def symbol(label: str, colour: str, face: str) -> Line2D:
    """Return what the legend shows."""
    return Line2D([], [], color=colour, marker="D", mfc=face, linestyle="none", label=label)


def compare(
    axes: Axes, rows: list[dict[str, str]], level: str, quantity: str, colours: dict[str, str]
) -> None:
    """Draw a column of a table: the paper's numbers open, ours filled with prediction intervals."""
    levels = sorted({float(row[level]) for row in rows})
    shift = (levels[1] - levels[0]) / 6
    for dynamics, marker in MARKERS.items():
        for x in levels:
            cell = [row for row in rows if row["dynamics"] == dynamics and float(row[level]) == x]
            if not cell:
                continue
            at = x + SHIFTS[dynamics] * shift
            for reading, colour in colours.items():
                values = [float(row[f"ours_{quantity}"]) for row in cell if row["reading"] == reading]
                half = None
                if len(values) > 1:
                    found = interval(values)
                    half = found.of_next[1] - found.mean
                axes.errorbar(at, np.mean(values), half, fmt=marker, color=colour, capsize=2, elinewidth=0.9)
            if style.quick():
                continue  # what is no result is not compared
            printed = float(cell[0][f"paper_{quantity}"])
            axes.plot(at, printed, marker, color=style.PAPER, mfc="none", markersize=7, markeredgewidth=1.1)
    axes.set_xticks(levels)
    low, high = axes.get_ylim()
    least = 2.0 if quantity == "sparsity_percent" else 0.02  # less is told by no tick
    if high - low < least:
        axes.set_ylim((low + high - least) / 2, (low + high + least) / 2)


if __name__ == "__main__":
    main()
