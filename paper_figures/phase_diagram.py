"""How many groups are left at equilibrium, and how fast the others go (studies/extinction_rates.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import style

MARKERS = {"uniform": "o", "gaussian": "s", "lognormal": "^", "pareto": "v", "two_class": "D"}
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.9)
SHOWN = "lognormal"
TICKS = {0.125: "⅛", 0.25: "¼", 0.5: "½", 1.0: "1", 2.0: "2"}


def main() -> None:
    """Draw the figure from results/extinction_rates, or from the folder given as argument."""
    data = style.read("extinction_rates", "extinction_rates.nc")
    specification = style.specification(data)
    laws = [str(law) for law in data.law.values]
    colours = dict(zip(laws, style.shades(len(laws)), strict=True))
    decay, groups = float(specification["main_decay"]), int(specification["groups"])
    style.start()
    figure, (whole, by_law, speed) = plt.subplots(1, 3, figsize=(style.WIDTH, 2.8))
    phase(whole, data)
    style.letter(whole, "a", f"Fraction extinct, {SHOWN}")
    every_law(by_law, data, decay, groups, colours)
    style.letter(by_law, "b", f"Every law, λ = {decay:g}")
    rates(speed, data, colours)
    style.letter(speed, "c", "How fast the others go")
    style.key(
        figure,
        [
            *(style.symbol(law.replace("_", " "), MARKERS[law], color=colours[law]) for law in laws),
            style.symbol("simulated (a)", "o", color="black", mfc="none"),
            style.symbol("theory", line="-"),
        ],
    )
    style.save(
        figure,
        "phase_diagram",
        [
            "Extinction at the equilibrium of Eq. 10, in theory and simulation, for contributions with mean "
            "1 and coefficient of variation h; unit mass per group.",
            f"(a) Fraction of groups extinct for {SHOWN} contributions: shading and contours are theory in "
            "the limit of many groups; circles are simulated populations, shaded alike, so that they vanish "
            "where both agree.",
            f"(b) The same for five laws at λ = {decay:g}: lines are theory in the limit of many, points are "
            "simulated, with 95 % confidence intervals.",
            f"(c) Rates at which dying groups decay, measured in populations of {groups}, over theory, with "
            f"constant fitness and with λ = {decay:g}; the line is where both are equal, some of the groups "
            "are shown, the largest relative difference of all is given.",
        ],
    )


def phase(axes: Axes, data: xr.Dataset) -> None:
    """Draw theory as shading with contours, and the simulated fractions on it, over h and λ."""
    spread, decay = data.map_heterogeneity.values, data.map_decay.values
    surface = data.sparsity.sel(law=SHOWN).values
    scale: dict[str, Any] = {"cmap": "viridis", "vmin": 0, "vmax": 1}
    axes.pcolormesh(spread, decay, surface, shading="gouraud", rasterized=True, **scale)
    lines = axes.contour(spread, decay, surface, LEVELS, colors="white", linewidths=0.5)
    middle = len(decay) // 2
    places = [(float(np.interp(level, surface[middle], spread)), decay[middle]) for level in LEVELS]
    axes.clabel(lines, fontsize=6.5, manual=places, colors="white", inline_spacing=0)
    mine = data.phase_kind.values == SHOWN
    axes.scatter(
        data.phase_heterogeneity.values[mine],
        data.phase_decay.values[mine],
        26,
        data.phase_simulation.values[mine],
        edgecolors="black",
        linewidths=0.6,
        zorder=3,
        **scale,
    )
    axes.set(yscale="log", ylabel="decay λ (1/time/mass)")
    heterogeneities(axes)


def heterogeneities(axes: Axes) -> None:
    """Make h the horizontal axis, on a logarithmic scale."""
    axes.set(xscale="log", xlabel="heterogeneity h")
    axes.set_xticks(list(TICKS), list(TICKS.values()))
    axes.minorticks_off()


def every_law(axes: Axes, data: xr.Dataset, decay: float, groups: int, colours: dict[str, Any]) -> None:
    """Draw the fraction extinct over h at one λ: theory as lines, simulations as points."""
    place = int(np.searchsorted(data.map_decay.values, decay))
    below, above = np.log(data.map_decay.values[place - 1 : place + 1])
    part = (np.log(decay) - below) / (above - below)
    for law, colour in colours.items():
        low, high = data.sparsity.sel(law=law).values[place - 1 : place + 1]
        smooth = np.abs(high - low) < 0.2  # else it jumps in between
        line = np.where(smooth, low + part * (high - low), high if part > 0.5 else low)
        axes.plot(data.map_heterogeneity, line, color=colour, linewidth=1.1)
        mine = (data.phase_kind.values == law) & np.isclose(data.phase_decay.values, decay)
        spread, found = data.phase_heterogeneity.values[mine], data.phase_simulation.values[mine]
        ends = np.abs([data.phase_low.values[mine] - found, data.phase_high.values[mine] - found])
        look: dict[str, Any] = {"color": colour, "markersize": 3.5, "elinewidth": 0.8, **style.RIM}
        axes.errorbar(spread, found, ends, fmt=MARKERS[law], **look)
    axes.set(ylabel="fraction of groups extinct", ylim=(-0.02, 1))
    heterogeneities(axes)


def rates(axes: Axes, data: xr.Dataset, colours: dict[str, Any]) -> None:
    """Draw measured against theoretical decay rates."""
    expected, found = data.theoretical_rate.values, data.measured_rate.values
    known = np.isfinite(expected) & (expected > 0)
    ends = np.array([expected[known].min(), expected[known].max()])
    axes.plot(ends, ends, color=style.GREY, linewidth=0.8, zorder=1)
    for law, colour in colours.items():
        mine = data.rate_kind.values == law
        inside = known & mine[:, None]
        order = np.argsort(expected[inside])
        few = order[np.unique(np.linspace(0, len(order) - 1, 12).astype(int))]
        look: dict[str, Any] = {"color": colour, "markersize": 3.5, **style.RIM}
        axes.plot(expected[inside][few], found[inside][few], MARKERS[law], **look)
    worst = np.abs(found[known] / expected[known] - 1).max()
    style.note(axes, 0.04, 0.93, f"all within {worst:.0e}", va="top")
    axes.set(xscale="log", yscale="log", xlabel="decay rate in theory (1/time)", ylabel="measured (1/time)")


if __name__ == "__main__":
    main()
