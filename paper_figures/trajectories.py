"""Mass trajectories under Eqs. 6, 7 and 8, extinction marked (studies/trajectories.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import style
from evodyn.plots.trajectories import draw_lives

TITLES = {
    "replicator": "Eq. 6, replicator",
    "normalized_growth": "Eq. 7, clip and cap",
    "selection_mutation": "Eq. 8, mutation",
}
FLOOR = 2e-5
"""Lowest mass drawn."""


def main() -> None:
    """Draw the figure from results/trajectories/trajectories.nc, or from the folder given as argument."""
    data = style.read("trajectories", "trajectories.nc").isel(member=0)
    given = style.specification(data)
    threshold = given["threshold"]
    style.start()
    figure, panels = plt.subplots(2, 3, figsize=(style.WIDTH, 4.4), sharex=True, sharey=True)
    for row, decay in zip(panels, data.decay.values, strict=True):
        for axes, name in zip(row, TITLES, strict=True):
            masses(axes, data.sel(decay=decay, dynamics=name), threshold)
        row[0].set_ylabel("mass")
        style.label_line(row[2], data.time.values[1], 0.72 * threshold, "extinct below", style.GREY, va="top")
    for axes in panels[1]:
        axes.set_xlabel("time (1/fitness)")
    for letter, axes, (decay, name) in zip(
        "abcdef", panels.flat, ((d, n) for d in data.decay.values for n in TITLES), strict=True
    ):
        style.letter(axes, letter, f"{TITLES[name]}, λ = {decay:g}")
    rim: dict[str, Any] = {"mfc": "none", "markeredgewidth": 0.6, "markersize": 4.5}
    style.key(
        figure,
        [
            style.symbol("falls below the threshold", "x", markersize=4.5),
            style.symbol("the same in closed form", "s", **rim),
            style.symbol("equilibrium", "o", **rim),
        ],
    )
    style.save(
        figure,
        "trajectories",
        [
            f"Masses of {given['groups']} groups of unit mass with {given['kind']} contributions of mean 1 "
            f"and coefficient of variation {given['heterogeneity']:g}, darker the fitter, with constant "
            f"fitness (a to c) and with Eq. 10, λ = {data.decay.values[-1]:g} (d to f).",
            f"Crosses mark where a group falls below {threshold:g} (dotted), after which its line is thin; "
            "open circles at the right are the equilibrium; squares in (a) are extinction times in closed "
            "form.",
            f"(a, d) Replicator. (b, e) Normalised growth with rates clipped at {given['signal_clip']:g} and "
            "total mass capped at its initial value; without both it is (a, d). (c, f) Selection with "
            f"mutation at rate {given['mutation_rate']:g} to a mass of 1.",
            *([f"The first of {given['seeds']} populations."] if given["seeds"] > 1 else []),
        ],
    )


def masses(axes: Axes, cell: xr.Dataset, threshold: float) -> None:
    """Draw the masses of one run, with its extinctions and what theory says of it."""
    time, mass = cell.time.values[1:], cell.mass.values[1:]
    order = np.argsort(cell.contribution.values)
    exact, rest = cell.closed_form_extinction_time.values, cell.equilibrium_mass.values
    colours = style.shades(len(order))
    deaths = cell.extinction_time.values[order]
    draw_lives(axes, time, mass[:, order], deaths, np.full(len(order), threshold), colours)
    for group, colour in zip(order, colours, strict=True):
        if np.isfinite(exact[group]) and exact[group] <= time[-1]:
            axes.plot(exact[group], threshold, "s", **hollow(colour))
        if rest[group] >= FLOOR:
            axes.plot(1.25 * time[-1], rest[group], "o", **hollow(colour))
    axes.axhline(threshold, color=style.GREY, linewidth=0.7, linestyle=":", zorder=0)
    axes.set(xscale="log", yscale="log", ylim=(FLOOR, 2 * float(cell.mass.sum("group").max())))


def hollow(colour: Any) -> dict[str, Any]:
    """Return the look of a marker that stands for theory."""
    return {"markerfacecolor": "none", "markeredgecolor": colour, "markeredgewidth": 0.6, "markersize": 4.5}


if __name__ == "__main__":
    main()
