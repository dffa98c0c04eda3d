"""Readings of what the paper leaves open, scored against its printed numbers (studies/paper_readings.py)."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

import style

SHOWN = 16
QUANTITIES = {"epsilon": "ε", "sparsity_percent": "% gone", "accuracy": "acc."}
VERDICTS = {
    "best reading": style.OURS,
    "only another reading": "#7fb2d6",
    "any (clip floor)": "0.8",
    "no reading": style.PAPER,
}


WORDS = {
    "literal": "literal",
    "memory": "gradients kept",
    "EMA": "averaged",
    "raw": "pixels in [0, 1]",
    "fresh": "signal after the update",
    "bias unscaled": "biases unscaled",
    "loader order": "DataLoader's order",
    "sum loss": "summed loss",
    "by layer": "within layers",
    "/mean": "over the mean",
    "/max": "over the maximum",
}
"""What the names of readings are made of, in words; a number that follows stays, 1 goes without saying."""


def main() -> None:
    """Draw the figure from results/paper_readings, or from the folder given as argument."""
    readings = style.read_rows("paper_readings", "readings.csv")
    cells = [row for row in style.read_rows("paper_readings", "cells.csv") if row["distinct"] == "True"]
    summary = style.read_json("paper_readings", "summary.json")
    style.start()
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(style.WIDTH, 3.6), gridspec_kw={"width_ratios": [1.25, 1]}
    )
    scores(left, readings)
    style.letter(left, "a", "Distance from the printed masses")
    verdicts(right, cells)
    style.letter(right, "b", "Printed numbers reproduced by")
    figure.legend(
        handles=[Rectangle((0, 0), 1, 1, color=colour, label=name) for name, colour in VERDICTS.items()],
        loc="outside upper right",
        ncols=4,
        frameon=False,
        fontsize=7,
        handlelength=1,
        handleheight=1,
    )
    counted = summary["counts"][summary["best"]]
    style.save(
        figure,
        "readings",
        [
            f"Readings of the paper's section 8, {sum(summary['runs'].values())} trainings.",
            f"(a) The {min(SHOWN, len(readings))} readings of {len(readings)} whose replicator masses are "
            "nearest to the printed ones, and the literal one: the largest distance of a threshold (unit "
            "0.005) or a sparsity (unit one percentage point). At 1 all masses are reproduced. Gradients "
            "kept: never zeroed from step to step; averaged: the signal, by a moving average with that "
            "factor.",
            f"(b) Every distinct printed number by what reproduces it; best single reading: "
            f"{in_words(summary['best'])}, with {counted['masses'][0]} of {counted['masses'][1]} masses and "
            f"{counted['accuracies'][0]} of {counted['accuracies'][1]} accuracies that the clip floor does "
            f"not give away. An accuracy is reproduced inside the 95 % prediction interval of "
            f"{summary['seeds']} seeds.",
        ],
    )


def scores(axes: Axes, readings: list[dict[str, str]]) -> None:
    """Draw the scores of the best readings, best on top, and the literal one."""
    scored = [(float(row["score"]), row["reading"]) for row in readings]
    ranked = sorted(pair for pair in scored if np.isfinite(pair[0]))
    chosen = ranked[:SHOWN]
    chosen += [pair for pair in ranked[SHOWN:] if pair[1] == "literal"]
    places = np.arange(len(chosen))
    axes.hlines(places, 1, [score for score, _ in chosen], color="0.85", linewidth=0.8, zorder=0)
    axes.plot([score for score, _ in chosen], places, "o", color=style.OURS)
    axes.axvline(1.0, color=style.PAPER, linewidth=1.0)
    place = (1.0, len(chosen) + 0.2)
    style.label_line(axes, *place, "1: all masses reproduced", style.PAPER, shift=(4, 0))
    axes.set_yticks(places, [in_words(name) for _, name in chosen], fontsize=7)
    axes.set(xscale="log", xlabel="largest distance of a mass, in tolerances", ylim=(len(chosen) + 0.9, -0.7))
    axes.set_ylabel("reading")
    axes.set_xlim(0.8, 1.6 * chosen[-1][0])


def in_words(reading: str) -> str:
    """Return the name of a reading in words."""
    parts = []
    for part in reading.split(", "):
        word, _, number = part.rpartition(" ")
        known = WORDS.get(part) or (f"{WORDS[word]} ({number})" if word in WORDS else part)
        parts.append(known.removesuffix(" (1)"))
    return ", ".join(parts)


def verdicts(axes: Axes, cells: list[dict[str, str]]) -> None:
    """Draw a square for every distinct printed number, coloured by what reproduces it."""
    columns = {(row["dynamics"], row["quantity"]) for row in cells}
    lines = list(dict.fromkeys((row["table"], row["level"]) for row in cells))
    every = itertools.product(("replicator", "normalized", "mutation"), QUANTITIES)
    order = [column for column in every if column in columns]
    for row in cells:
        x = order.index((row["dynamics"], row["quantity"]))
        y = lines.index((row["table"], row["level"]))
        verdict = verdict_of(row)
        square: Any = Rectangle((x - 0.42, y - 0.42), 0.84, 0.84, color=VERDICTS[verdict], linewidth=0)
        axes.add_patch(square)
    names = [f"{QUANTITIES[quantity]}\n{dynamics[:4]}." for dynamics, quantity in order]
    axes.set_xticks(range(len(order)), names, fontsize=7)
    labels = [f"{float(level):g} %" if table == "1" else f"ε = {float(level):g}" for table, level in lines]
    axes.set_yticks(range(len(lines)), labels, fontsize=7)
    axes.set(xlim=(-0.6, len(order) - 0.4), ylim=(len(lines) - 0.4, -0.6))
    axes.set(xlabel="printed quantity", ylabel="row of Table 1 (%) or Table 2 (ε)")
    axes.tick_params(length=0)


def verdict_of(row: dict[str, str]) -> str:
    """Return by which readings a printed number is reproduced."""
    if row["holds_by_floor"] == "True":
        return "any (clip floor)"
    if row["best_reproduces"] == "True":
        return "best reading"
    return "only another reading" if int(row["reproduced_by"]) else "no reading"


if __name__ == "__main__":
    main()
