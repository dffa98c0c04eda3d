"""Folds, exchanges of stability and basins of small games, and Eq. 10 over λ (studies/branches.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import style

MARKS = {"fold": "D", "extinction": "s", "invasion": "s", "crossing": "s", "hopf": "o"}


def main() -> None:
    """Draw the figure from results/branches, or from the folder given as argument."""
    data = style.read("branches", "branches.nc")
    given = style.specification(data)
    style.start()
    figure, panels = plt.subplots(2, 2, figsize=(style.WIDTH, 4.8))
    fights, help_each_other, conventions, regulation = panels.flat
    for name in ("hawks and doves", "hawks"):
        curve(fights, data.sel(branch=name))
    fights.set(xlabel="value of the resource V (cost 2)", ylabel="share of hawks", ylim=(0, 1.06))
    for name in ("cooperation", "others"):
        curve(help_each_other, data.sel(branch=name))
    separatrix(help_each_other, data, given["games"].index("cooperation"))
    help_each_other.set(xlabel="fitness a of the others", ylabel="share of cooperators", ylim=(-0.04, 1))
    for name in ("first convention", "second convention"):
        curve(conventions, data.sel(branch=name))
    separatrix(conventions, data, given["games"].index("conventions"))
    conventions.set(xlabel="mutation rate μ", ylabel="share of the first convention", ylim=(0, 1))
    masses(regulation, data.isel(seed=0))
    titles = ("Exchange", "Fold", "Fold under mutation", "Extinctions under Eq. 10")
    for letter, axes, title in zip("abcd", panels.flat, titles, strict=True):
        style.letter(axes, letter, title)
    style.key(
        figure,
        [
            style.symbol("stable", line="-", color=style.OURS),
            style.symbol("unstable", line="--", color=style.OURS),
            style.symbol("exchange of stability", "s", color=style.PAPER),
            style.symbol("fold", "D", color=style.PAPER),
            style.symbol("share of starts below", "o", color="black"),
            style.symbol("extinction", "o", color=style.OURS, mfc="none"),
            style.symbol("in closed form", ".", color=style.PAPER),
        ],
    )
    style.save(
        figure,
        "branches",
        [
            "Rest points followed over one parameter: solid where stable, dashed where unstable.",
            "(a) Hawks and doves: at V = 2 hawks alone take over the stability of the mixture (square).",
            "(b) Fitness x(1 - x) of cooperators, x their share, against a constant a: two rest points meet "
            "in a fold (diamond), beyond which the others take all.",
            f"(c) Two conventions with payoffs {given['advantage']:g} and 1 under mutation to half and half: "
            "the second one folds away.",
            f"Points in b and c: share of {given['starts']} random starts that end at the lower attractor, "
            "with 95 % intervals (Wilson); for uniform starts that is the place of the separatrix.",
            f"(d) Masses at rest of {given['groups']} groups of gaussian fitness, h = "
            f"{given['heterogeneity']:g}, darker the fitter, as λ falls; circles mark extinctions, the dots "
            "inside them their closed form.",
        ],
    )


def curve(axes: Axes, cell: xr.Dataset) -> None:
    """Draw a branch, and mark what is passed on it."""
    at, share, stable = (cell[name].values for name in ("parameter", "share", "stable"))
    for wanted, look in ((1.0, "-"), (0.0, "--")):
        # A piece is drawn to the next point of the other kind, so that no gap is left.
        own = stable == wanted
        near = own | np.append(False, own[:-1] & np.isfinite(stable[1:]))
        axes.plot(at, np.where(near, share, np.nan), look, color=style.OURS)
    kinds = kinds_of(cell)
    for place, height, kind in zip(
        cell.passage_parameter.values, cell.passage_share.values, kinds, strict=True
    ):
        if kind in MARKS:
            axes.plot(place, height, MARKS[kind], color=style.PAPER, markersize=5.5, zorder=4, **style.RIM)


def kinds_of(cell: xr.Dataset) -> list[str]:
    """Return the names of the kinds of passages."""
    described = cell.passage_kind.attrs["long_name"].partition(": ")[2]
    names = dict(entry.split() for entry in described.split(", "))
    return [names.get(f"{kind:g}", "none") for kind in cell.passage_kind.values]


def separatrix(axes: Axes, data: xr.Dataset, game: int) -> None:
    """Draw the counted basins of a game as the places of its separatrix."""
    own = data.isel(place=np.flatnonzero(data.basin_game.values == game))
    bars: Any = np.abs([own.basin - own.basin_low, own.basin_high - own.basin])
    look: dict[str, Any] = {"fmt": "o", "color": "black", "markersize": 3.5, "elinewidth": 0.8, "capsize": 2}
    axes.errorbar(own.basin_parameter, own.basin, bars, **look)


def masses(axes: Axes, cell: xr.Dataset) -> None:
    """Draw the masses at rest of one population against λ."""
    order = np.argsort(cell.contribution.values)
    shades = style.shades(len(order) + len(order) // 4)[len(order) // 4 :]
    for group, colour in zip(order, shades, strict=True):
        axes.plot(cell.decay, cell.mass.isel(group=group), color=colour, linewidth=1)
        found, exact = cell.decay_extinct[group], cell.decay_extinct_exact[group]
        ring: dict[str, Any] = {
            "markerfacecolor": "none",
            "markeredgecolor": colour,
            "markersize": 6,
            "clip_on": False,
        }
        axes.plot(found, 0.0, "o", zorder=3, **ring)
        axes.plot(exact, 0.0, ".", color=style.PAPER, markersize=3, zorder=4, clip_on=False)
    axes.set(xscale="log", xlabel="decay λ (1/time/mass)", ylabel="mass at rest", ylim=(0, None))


if __name__ == "__main__":
    main()
