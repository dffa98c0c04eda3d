"""Redundancy, mutation schedules, objectives and layers that evolve together (studies/extensions.py)."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import style


def main() -> None:
    """Draw the figure from results/extensions/extensions.nc, or from the folder given as argument."""
    data = style.read("extensions", "extensions.nc").isel(member=0)
    described = style.specification(data)
    style.start()
    figure, panels = plt.subplots(2, 2, figsize=(style.WIDTH, 4.9))
    redundancy(panels[0, 0], data)
    style.letter(panels[0, 0], "a", "Redundancy resolves a neutral equilibrium")
    schedules(panels[0, 1], data)
    style.letter(panels[0, 1], "b", "Mutation rates that change with time")
    objectives(panels[1, 0], data)
    style.letter(panels[1, 0], "c", "Benefit against cost")
    layers(panels[1, 1], data)
    style.letter(panels[1, 1], "d", "Two layers that evolve together")
    groups, decay = described["groups"], described["decay"]
    style.save(
        figure,
        "extensions",
        [
            "Extensions of the flow, with theory.",
            "(a) Four groups of equal contribution, two of them similar: distance to the attractor of "
            "redundancy-aware fitness from four starts, with it (falling, at the rate of the slowest "
            "eigenvalue: dashed) and under constant fitness (at rest).",
            f"(b) Mean fitness of {groups} groups under Eq. 8 with a mutation rate of "
            f"{described['mutation_rate']:g}, one that falls from it as exp(-t/20), and none; dashed: the "
            "balance of selection and mutation at the falling rate of the moment.",
            f"(c) {groups} groups with a benefit and a cost, φ = a - λp - wk with λ = {decay:g}: mean "
            "benefit and mean cost of a unit of mass at the end, for eight weights w (numbers); the line is "
            "water filling for every weight between.",
            "(d) Two layers of two groups each, the first gaining by matching the second, which loses by it: "
            "share of the first group in either. Closed orbits run along the contours of the product of "
            f"all shares (grey); density regularisation within the layers (λ = {decay:g}, dark) ends them.",
            *([f"The first of {described['seeds']} populations."] if described["seeds"] > 1 else []),
        ],
    )


def redundancy(axes: Axes, data: xr.Dataset) -> None:
    """Draw the distance to the attractor over time."""
    colours = style.shades(3)
    times = data.redundancy_time.values
    for name, colour in (("neutral", colours[0]), ("redundancy", colours[2])):
        for distances in data.distance.sel(fitness=name).values:
            axes.plot(times, distances, color=colour, linewidth=1.1)
    distances = data.distance.sel(fitness="redundancy").values
    at = int(0.45 * len(times))
    highest = float(distances[:, at].max())
    slope = float(data.slowest)
    axes.plot(times, 4 * highest * np.exp(slope * (times - times[at])), "--", color="black", linewidth=1.0)
    low = float(distances.min())
    axes.set(yscale="log", xlabel="time (1/fitness)", ylabel="distance to the attractor (mass)")
    axes.set_ylim(low / 2, 40)
    style.label_line(axes, times[-1], 8, "constant fitness", colours[0], ha="right")
    style.label_line(axes, times[at], 4 * highest * 1.6, "slowest eigenvalue", "black", va="bottom")
    style.label_line(axes, times[len(times) // 12], low * 2, "redundancy", colours[2])


def schedules(axes: Axes, data: xr.Dataset) -> None:
    """Draw mean fitness over time for each schedule."""
    times = data.schedule_time.values
    names = {
        "constant": "constant rate",
        "annealed": "falling rate (dashed: its balance)",
        "none": "no mutation",
    }
    highest = float(data.mean_fitness.max())
    for colour, (name, label) in zip(style.shades(3), names.items(), strict=True):
        values = data.mean_fitness.sel(schedule=name).values
        axes.plot(times, values, color=colour)
        if name == "none":
            style.label_line(axes, times[-1], highest * 1.03, label, colour, ha="right", va="bottom")
        else:
            part, right, ha = (0.98, 0, "right") if name == "constant" else (0.33, 4, "left")
            k = int(part * len(times))
            place = (times[k] + right, values[k] - 0.04 * highest)
            style.label_line(axes, *place, label, colour, ha=ha, va="top")
    axes.plot(times, data.balance.values, "--", color="black", linewidth=1.0)
    axes.set(xlabel="time (1/fitness)", ylabel="mean fitness (1/time)", ylim=(0.8, highest * 1.12))


def objectives(axes: Axes, data: xr.Dataset) -> None:
    """Draw mean benefit (of accuracy, say) against mean cost, for all weights."""
    axes.plot(data.mean_cost_curve, data.mean_benefit_curve, color=style.GREY, zorder=1)
    for colour, weight in zip(style.shades(data.sizes["weight"]), data.weight.values, strict=True):
        cell = data.sel(weight=weight)
        place = (float(cell.mean_cost), float(cell.mean_benefit))
        axes.plot(*place, "o", color=colour, markersize=5, **style.RIM)
        name = f"w = {weight:g}" if weight == data.weight.values[-1] else f"{weight:g}"
        style.label_line(axes, *place, name, "black", shift=(5, -3), va="top")
    style.note(axes, 0.97, 0.05, "line: water filling", style.GREY, ha="right")
    axes.set(xlabel="mean cost of a unit of mass", ylabel="mean benefit of a unit of mass")
    axes.margins(x=0.1, y=0.1)


def layers(axes: Axes, data: xr.Dataset) -> None:
    """Draw the orbits of both layers over the contours of what they keep."""
    levels = np.sort(data.level.values)
    axes.contour(
        data.first.values, data.second.values, data.kept.values, levels=levels, colors="0.75", linewidths=2.6
    )
    colours = style.shades(3)
    for start in data.layer_start.values:
        orbit = data.orbit.sel(regularisation="without", layer_start=start).values
        axes.plot(orbit[:, 0], orbit[:, 1], color=colours[1], linewidth=0.9)
    damped = data.orbit.sel(regularisation="with").isel(layer_start=-1).values
    axes.plot(damped[:, 0], damped[:, 1], color=colours[2], linewidth=1.6)
    axes.plot(0.5, 0.5, "+", color="black", markersize=6)
    style.note(axes, 1.04, 0.9, "λ = 0", colours[1])
    style.note(axes, 1.04, 0.8, "λ > 0", colours[2])
    style.note(axes, 1.04, 0.7, "contours of\nwhat is kept", style.GREY, va="top")
    axes.set(
        xlabel="share of group 1 in the first layer",
        ylabel="share in the second",
        xlim=(0.08, 0.92),
        ylim=(0.08, 0.92),
        aspect="equal",
    )


if __name__ == "__main__":
    main()
