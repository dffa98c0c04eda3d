"""Accuracy against the neurons removed: paper, selection, other methods, control (studies/lossless.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

import style

Row = dict[str, str]
PAPERS = {
    "paper": ("the paper's dynamics, literal", "s", "#a33c00"),
    "paper_reading": ("the reading with the paper's masses", "D", "#a33c00"),
}
AT_THE_END = {
    "random": ("random", "x", "0.55"),
    "magnitude": ("magnitude", "+", "0.4"),
    "taylor": ("Taylor", "1", "0.25"),
}
EARLY = {
    "magnitude_early": ("magnitude, early", "v", "#009e73"),
    "l0": ("hard-concrete L0", "^", "#56b4e9"),
    "slimming": ("network slimming", "<", "#cc79a7"),
    "d_gating_3": ("D-gating, D = 3", ">", "#e69f00"),
    "d_gating_4": ("D-gating, D = 4", "p", "#a07000"),
    "exponentiated": ("exponentiated gradient", "h", "#7570b3"),
}
CONTROLS = {
    "scratch": ("small dense network, from scratch", "s", "0.2"),
    "scratch_dropout": ("the same with dropout", "D", "0.6"),
}
SELECTION = ("selection", "o", style.OURS)
OTHERS = (("d", "#4f8fc0"), ("*", "#8fbcdc"))
"""Marker and colour of selection in further networks, those that others report of."""
TICKS = (10, 30, 50, 70, 80, 90, 95, 97, 98, 98.5, 98.8, 99.2)
FEW = 4  # of these, below which others are found


def main() -> None:
    """Draw the figure from results/lossless, or from the folder given as argument."""
    data = style.read("lossless", "lossless.nc")
    summary = style.read_rows("lossless", "lossless_summary.csv")
    quoted = [] if style.quick() else style.read_rows("lossless", "quoted.csv")
    asked_for = style.specification(data)
    style.start()
    shown = asked_for["widths"][0]
    rows = [row for row in summary if row["widths"] == shown]
    figure, (left, right) = plt.subplots(1, 2, figsize=(style.WIDTH, 4.2))
    for axes, methods in ((left, {**PAPERS, **AT_THE_END}), (right, {**EARLY, **CONTROLS})):
        for method, look in methods.items():
            curve(axes, rows, method, look)
        curve(axes, rows, "selection", SELECTION)
    for other, (marker, colour) in zip(asked_for["widths"][1:], OTHERS, strict=False):
        same = [row for row in summary if row["widths"] == other]
        curve(right, same, "selection", (f"selection, {other}", marker, colour))
    printed = [row for row in quoted if row["method"] == "Pruning as Evolution"]
    if printed:
        x, y = places(printed)
        left.plot(x, y, "o-", color=style.PAPER, label="the paper, as printed", markersize=3)
    points(
        right, [row for row in quoted if row["method"] not in ("Pruning as Evolution", "Pruning as a Game")]
    )
    dense = [row for row in rows if row["method"] == "dense"]
    for axes in (left, right):
        if dense:
            axes.axhline(loss_of(dense[0]), color="0.6", linewidth=0.8, linestyle=":", label="dense")
        scaled(axes)
        axes.set(xlabel="fraction of the hidden neurons removed", ylabel="accuracy (%)")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, frameon=False, fontsize=6.5)
    style.letter(left, "a", "Paper, and removal after training")
    style.letter(right, "b", "Removal while training, and control")
    seeds = len(asked_for["seeds"])
    style.save(
        figure,
        "lossless",
        [
            f"Accuracy of {shown} on the test images of {rows[0]['dataset']} against the fraction of "
            f"neurons removed, means of {seeds} seeds with 95 % intervals (Student's t). All train for "
            f"{asked_for['epochs']} epochs and no longer. The scale is logarithmic in the error.",
            "(a) Groups removed at the end of training: at random, the smallest, those of the least effect "
            "on the loss, and those of the smallest masses in the paper's dynamics; selection removes while "
            "it trains.",
            "(b) Groups removed under way, after which training goes on to its last epoch. Control: a dense "
            "network of the widths that selection ended with, trained from scratch."
            + (
                " Crosses: what others print for 784-500-300-10 and 784-300-100-10, with other budgets (up "
                "to 400 epochs), some with the best epoch on the test set."
                if quoted
                else " Quick runs are not drawn beside what others print."
            ),
        ],
    )


def places(rows: list[Row]) -> tuple[list[float], list[float]]:
    """Return fractions removed and errors in percent, from the smallest fraction on."""
    ordered = sorted(rows, key=lambda row: float(row["fraction_removed"]))
    return [float(row["fraction_removed"]) for row in ordered], [loss_of(row) for row in ordered]


def loss_of(row: Row, name: str = "accuracy_after") -> float:
    """Return an error in percent."""
    return 100 * (1 - float(row[name]))


def curve(axes: Axes, rows: list[Row], method: str, look: tuple[str, str, Any]) -> None:
    """Draw a method's mean errors with their intervals."""
    own = sorted(
        (row for row in rows if row["method"] == method), key=lambda row: float(row["fraction_removed"])
    )
    if not own:
        return
    name, marker, colour = look
    x, y = places(own)
    ours = method == "selection"
    ends = np.array([[loss_of(row, "high"), loss_of(row, "low")] for row in own]).T
    spread = np.abs(np.nan_to_num(ends - np.array(y), nan=0.0))
    spread[0] = np.minimum(spread[0], 0.9 * np.array(y))  # an interval may pass 100 %, the axis cannot
    axes.errorbar(
        x,
        y,
        yerr=spread,
        fmt=f"{marker}-",
        color=colour,
        label=name,
        linewidth=1.6 if ours else 0.9,
        elinewidth=0.7,
        markersize=4.5 if ours else 3.5,
        zorder=3 if ours else 2,
    )


def points(axes: Axes, rows: list[Row]) -> None:
    """Mark what others print."""
    if rows:
        x, y = places(rows)
        axes.plot(x, y, "x", color=style.PAPER, markersize=4, label="others, as printed", zorder=1)


def scaled(axes: Axes) -> None:
    """Show errors as accuracies, better ones further up, on a logarithmic scale of the error."""
    axes.set_yscale("log")
    axes.invert_yaxis()
    low, high = sorted(axes.get_ylim())
    ticks = [tick for tick in TICKS if low <= 100 - tick <= high]
    if len(ticks) < FEW:
        locator = MaxNLocator(5)
        ticks = [tick for tick in locator.tick_values(100 - high, 100 - low) if low <= 100 - tick <= high]
    axes.yaxis.set_major_locator(FixedLocator([100 - tick for tick in ticks]))
    axes.yaxis.set_major_formatter(FixedFormatter([f"{tick:.6g}" for tick in ticks]))
    axes.yaxis.set_minor_locator(NullLocator())


if __name__ == "__main__":
    main()
