"""Extinction under growing heterogeneity: over time, its times, and where it ends (studies/extinction.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import style
from evodyn.plots.fractions import mean_interval


def main() -> None:
    """Draw the figure from results/extinction/extinction.nc, or from the folder given as argument."""
    data = style.read("extinction", "extinction.nc")
    data = data.isel(kind=0, dynamics=0)
    decays = data.decay.values
    if decays[0] != 0 or decays[-1] == 0:
        raise SystemExit(
            f"The data have λ = {', '.join(f'{d:g}' for d in decays)}; the figure needs λ = 0 and another. "
            "The study at its defaults has both: python studies/extinction.py (or: make extinction)."
        )
    decay = float(decays[-1])
    scenario = style.specification(data)["scenario"]
    dense, free = data.sel(decay=decay), data.sel(decay=0.0)
    colours = style.shades(data.sizes["heterogeneity"])

    style.start()
    figure, panels = plt.subplots(1, 3, figsize=(style.WIDTH, 2.7))
    fraction_over_time(panels[0], dense, colours)
    style.letter(panels[0], "a", f"Extinct over time, λ = {decay:g}")
    times_against_closed_form(panels[1], free, colours)
    style.letter(panels[1], "b", "Extinction times, λ = 0")
    sparsity_against_water_filling(panels[2], dense, colours)
    style.letter(panels[2], "c", f"At the end, λ = {decay:g}")

    style.key(
        figure,
        [
            style.symbol("simulated (lines in a), with 95 % intervals (a, c)", "o"),
            style.symbol("theory (b, c)", line="-"),
        ],
    )
    kind, dynamics = str(data.kind.item()), str(data.dynamics.item()).replace("_", " ")
    seeds = data.sizes["seed"]
    style.save(
        figure,
        "extinction",
        [
            f"Extinction under growing heterogeneity of fitness: {scenario['groups']} groups of unit mass "
            f"with {kind} contributions of mean 1 and coefficient of variation h (numbers at the lines), "
            f"under {dynamics} dynamics; {seeds} seeds; a group is extinct while its mass is below "
            f"{scenario['threshold']:g}.",
            f"(a) Fraction of groups extinct over time with density regularisation λ = {decay:g} (Eq. 10): "
            "mean over seeds, with its 95 % confidence interval shaded (exact where few groups are counted).",
            "(b) Fraction of groups that have died by a time, all seeds together, under constant fitness "
            "(λ = 0): points are integrated, lines are the closed form.",
            f"(c) Fraction extinct at t = {scenario['t_end']:g}: means over seeds with 95 % confidence "
            "intervals; the line is the water-filling equilibrium of the same populations. What points lack "
            "to the line are groups so close to the water level that they are still falling.",
            "The seeds draw the same random numbers at every h.",
        ],
    )


def fraction_over_time(axes: Axes, data: xr.Dataset, colours: list[Any]) -> None:
    """Draw the fraction extinct against time, a line for each heterogeneity."""
    time = data.time.values[1:]
    groups = style.specification(data)["scenario"]["groups"]
    lowest = -1.0
    for h, colour in zip(data.heterogeneity.values, colours, strict=True):
        fractions = data.fraction_extinct.sel(heterogeneity=h).values[:, 1:]
        mean = fractions.mean(axis=0)
        axes.plot(time, mean, color=colour)
        ends = mean_interval(fractions, groups)
        axes.fill_between(time, *ends, color=colour, alpha=0.25, linewidth=0)
        height = max(float(mean[-1]), lowest + 0.065)
        last = h == data.heterogeneity.values[-1]
        style.label_line(axes, time[-1], height, f"h = {h:g}" if last else f"{h:g}", colour)
        lowest = height
    axes.set(xscale="log", xlabel="time (1/fitness)", ylabel="fraction of groups extinct", ylim=(-0.02, 1))


def times_against_closed_form(axes: Axes, data: xr.Dataset, colours: list[Any]) -> None:
    """Draw the distributions of extinction times: integrated as points, in closed form as lines."""
    for h, colour in zip(data.heterogeneity.values, colours, strict=True):
        cell = data.sel(heterogeneity=h)
        exact = np.sort(cell.closed_form_extinction_time.values.ravel())
        times = np.sort(cell.extinction_time.values.ravel())
        rank = np.arange(1, len(times) + 1) / len(times)
        if not np.isfinite(exact[0]):
            continue
        axes.plot(exact[np.isfinite(exact)], rank[np.isfinite(exact)], color=colour)
        few = np.searchsorted(rank, np.linspace(0.04, 0.96, 9))
        axes.plot(times[few], rank[few], "o", color=colour, **style.RIM)
        style.label_line(axes, exact[0], -0.02, f"{h:g}", colour, ha="center", va="top")
    axes.set(xscale="log", xlabel="extinction time (1/fitness)", ylabel="fraction of groups")
    axes.set_ylim(-0.12, 1.02)
    if 0.0 in data.heterogeneity:
        axes.text(1.0, 0.02, "h = 0:\nnone dies", transform=axes.transAxes, ha="right", color=style.GREY)


def sparsity_against_water_filling(axes: Axes, data: xr.Dataset, colours: list[Any]) -> None:
    """Draw the fraction extinct at the end over the equilibrium's, against heterogeneity."""
    grid, curve = data.curve_heterogeneity.values, data.equilibrium_curve.values
    groups = style.specification(data)["scenario"]["groups"]
    axes.plot(grid, curve, color=style.GREY, zorder=1)
    for h, colour in zip(data.heterogeneity.values, colours, strict=True):
        fractions = data.fraction_extinct.sel(heterogeneity=h).values[:, -1:]
        mean, (low, high) = fractions.mean(), np.ravel(mean_interval(fractions, groups))
        bars = np.array([[mean - low], [high - mean]])
        axes.errorbar(h, mean, bars, fmt="o", color=colour, capsize=2, elinewidth=0.9, zorder=2)
    at = int(0.62 * (len(grid) - 1))
    style.label_line(axes, grid[at], curve[at] - 0.09, "water filling", style.GREY)
    axes.set(xlabel="heterogeneity h", ylabel="fraction of groups extinct", ylim=(-0.02, 1))


if __name__ == "__main__":
    main()
