"""Masses against pruning heuristics, and what relative fitness does to twins (studies/heuristics.py)."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import style
from evodyn.analysis.intervals import interval

MARKERS = ("D", "d", "o", "^", "s")


def main() -> None:
    """Draw the figure from results/heuristics, or from the folder given as argument."""
    data = style.read("heuristics", "heuristics.nc")
    given = style.specification(data)
    style.start()
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(style.WIDTH, 2.8), gridspec_kw={"width_ratios": [1.5, 1]}
    )
    ranks(left, data)
    style.letter(left, "a", "Final masses ranked against scores")
    twins(right, data)
    style.letter(right, "b", "Twins, less the same without twin")
    training = given["training"]
    style.save(
        figure,
        "heuristics",
        [
            f"Networks {'-'.join(map(str, training['widths']))} on {training['samples']} images of MNIST "
            f"under the replicator within layers; means over {given['seeds']} seeds with 95 % intervals.",
            "(a) Rank correlation of the final masses with the score that was their fitness, averaged over "
            "time and at the end, and with other scores at the end; columns: what the fitness was.",
            "(b) Change of ln p of neurons whose incoming weights have a twin against the others of their "
            "layer, less that of the same neurons without twins; last: what a twin adds to the other is "
            "taken off its fitness, as a positive control.",
        ],
    )


def ranks(axes: Axes, data: xr.Dataset) -> None:
    """Draw the rank correlations of every fitness with every score."""
    names = list(data.signal.values)
    for j, (name, marker, colour) in enumerate(
        zip(data.score.values, MARKERS, style.shades(len(MARKERS)), strict=True)
    ):
        for i in range(len(names)):
            found = interval(data.rank_correlation.values[i, :, j])
            half = found.of_mean[1] - found.mean
            at = i + 0.13 * (j - 2)
            label = str(name) if i == 0 else None
            axes.errorbar(at, found.mean, half, fmt=marker, color=colour, markersize=4, label=label)
    axes.axhline(0, color=style.GREY, linewidth=0.6)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="fitness", ylabel="rank correlation", ylim=(-1.05, 1.1))
    axes.legend(frameon=False, fontsize=7, loc="lower left", title="score", title_fontsize=7)


def twins(axes: Axes, data: xr.Dataset) -> None:
    """Draw what twins gain or lose."""
    names = [str(name).replace(", ", ",\n") for name in data.twins.values]
    for i in range(len(names)):
        values = data.ln_mass_of_twins.values[i]
        found = interval(values)
        axes.plot(np.full(len(values), i - 0.12), values, ".", color="0.6", markersize=4)
        half = found.of_mean[1] - found.mean
        axes.errorbar(i + 0.1, found.mean, half, fmt="o", color=style.OURS, capsize=2)
    axes.axhline(0, color=style.GREY, linewidth=0.6)
    axes.set_xticks(range(len(names)), names)
    axes.set(xlabel="fitness", ylabel="ln p of twins, less control")
    axes.margins(x=0.2)


if __name__ == "__main__":
    main()
