"""Extinction at equilibrium as a phase diagram, and what else theory says (studies/extinction_rates.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import style

MARKERS = {"uniform": "o", "gaussian": "s", "lognormal": "^", "pareto": "v", "two_class": "D"}
LEVELS = np.linspace(0.1, 0.9, 9)


def main() -> None:
    """Draw the figure from results/extinction_rates, or from the folder given as argument."""
    data = style.read("extinction_rates", "extinction_rates.nc")
    specification = style.specification(data)
    laws = [str(law) for law in data.law.values]
    colours = dict(zip(laws, style.shades(len(laws)), strict=True))
    style.start()
    figure, panels = plt.subplots(2, 4, figsize=(style.WIDTH, 3.9))
    shading: Any = None
    for k, law in enumerate(laws):
        axes = panels.flat[k]
        shading = phase(axes, data, law)
        style.letter(axes, "abcde"[k], law.replace("_", " "))
        axes.set_xlabel("heterogeneity h")
        if k in (0, 4):
            axes.set_ylabel("decay λ (1/time/mass)")
        else:
            axes.tick_params(labelleft=False)
    bar = figure.colorbar(shading, ax=panels[0, 3], ticks=[0, 0.5, 1], pad=0.02)
    bar.set_label("fraction extinct")
    rates(panels[1, 1], data, colours)
    style.letter(panels[1, 1], "f", "decay rates")
    finite_size(panels[1, 2], data, colours)
    style.letter(panels[1, 2], "g", "finite size, h = 1")
    error_threshold(panels[1, 3], data)
    style.letter(panels[1, 3], "h", "mutation")
    style.save(
        figure,
        "phase_diagram",
        [
            "Extinction in theory and simulation, for five laws of the contributions with mean 1 and "
            "coefficient of variation h; unit mass per group.",
            "(a-e) Fraction of groups extinct at the equilibrium of Eq. 10: shading and contours (every "
            "tenth) are theory in the limit of many groups; circles are simulated populations, shaded "
            "alike, so that they vanish where both agree.",
            "(f) Decay rates of dying groups, measured in populations of "
            f"{specification['groups']}, against theory (line), with constant fitness and with "
            f"λ = {specification['main_decay']:g}; some of the groups are shown, the largest relative "
            "difference of all is given.",
            "(g) Simulated less theoretical fraction extinct against the number of groups N at h = 1, "
            f"λ = {specification['main_decay']:g}, with 95 % confidence intervals (moved apart), and its fit "
            "by a + b/N; symbols as in f.",
            f"(h) Share of the one best group, whose advantage over all others is {specification['peak']:g}, "
            "against the mutation rate: points are simulated, lines the equilibrium with N groups, dashes "
            "the limit of many, 1 - μ/μ_c.",
        ],
    )


def phase(axes: Axes, data: xr.Dataset, law: str) -> Any:
    """Draw theory as shading with contours and the simulated fractions on it; return the shading."""
    spread, decay = data.map_heterogeneity.values, data.map_decay.values
    surface = data.sparsity.sel(law=law).values
    shading = axes.pcolormesh(
        spread, decay, surface, cmap="viridis", vmin=0, vmax=1, shading="gouraud", rasterized=True
    )
    axes.contour(spread, decay, surface, LEVELS, colors="white", linewidths=0.4)
    mine = data.phase_kind.values == law
    axes.scatter(
        data.phase_heterogeneity.values[mine],
        data.phase_decay.values[mine],
        c=data.phase_simulation.values[mine],
        cmap="viridis",
        vmin=0,
        vmax=1,
        s=26,
        edgecolors="black",
        linewidths=0.6,
        zorder=3,
    )
    axes.set(xscale="log", yscale="log")
    axes.set_xticks([0.25, 0.5, 1, 2], ["¼", "½", "1", "2"])
    axes.minorticks_off()
    return shading


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
        look: dict[str, Any] = {"color": colour, "markersize": 3.5, "label": law.replace("_", " ")}
        axes.plot(expected[inside][few], found[inside][few], MARKERS[law], **look, **style.RIM)
    worst = np.abs(found[known] / expected[known] - 1).max()
    style.note(axes, 0.04, 0.9, f"all within {worst:.0e}")
    axes.set(xscale="log", yscale="log", xlabel="theory (1/time)", ylabel="measured (1/time)")
    axes.legend(
        frameon=False, fontsize=6, handletextpad=0.1, borderpad=0, labelspacing=0.25, loc="lower right"
    )


def finite_size(axes: Axes, data: xr.Dataset, colours: dict[str, Any]) -> None:
    """Draw the difference between simulation and theory against the number of groups."""
    axes.axhline(0, color=style.GREY, linewidth=0.8)
    for k, (law, colour) in enumerate(colours.items()):
        mine = data.finite_kind.values == law
        sizes = data.finite_groups.values[mine]
        theory = data.finite_theory.values[mine]
        mean = data.finite_simulation.values[mine] - theory
        ends = np.stack((data.finite_low.values[mine], data.finite_high.values[mine])) - theory
        look: dict[str, Any] = {"fmt": MARKERS[law], "color": colour, "markersize": 3, "elinewidth": 0.7}
        axes.errorbar(sizes * 1.1 ** (k - 2), mean, np.abs(ends - mean), **look)
        grid = np.geomspace(sizes.min() / 1.2, sizes.max() * 1.2, 50)
        fit = data.correction_limit.sel(law=law).item() + data.correction_slope.sel(law=law).item() / grid
        axes.plot(grid, fit, color=colour, linewidth=0.9)
    axes.set(xscale="log", xlabel="number of groups N", ylabel="simulation - theory")
    shown = np.unique(data.finite_groups.values)
    shown = shown[:: -2 if len(shown) > 3 else -1]
    axes.set_xticks(shown, [str(size) for size in shown])
    axes.minorticks_off()


def error_threshold(axes: Axes, data: xr.Dataset) -> None:
    """Draw the best group's share against the mutation rate."""
    factor = data.factor.values
    grid = np.linspace(0, factor.max(), 100)
    axes.plot(grid, np.maximum(1 - grid, 0), "--", color=style.GREY, linewidth=0.8)
    for size, colour in zip(data.peak_groups.values, style.shades(data.sizes["peak_groups"]), strict=True):
        cell = data.sel(peak_groups=size)
        axes.plot(factor, cell.best_share_theory, color=colour, linewidth=1.0)
        axes.plot(factor, cell.best_share, "o", color=colour, markersize=3, label=f"N = {size}")
    axes.set(xlabel="mutation rate μ/μ$_c$", ylabel="share of the best", ylim=(-0.03, 0.85))
    axes.legend(frameon=False, fontsize=6.5, handletextpad=0.1, borderpad=0)


if __name__ == "__main__":
    main()
