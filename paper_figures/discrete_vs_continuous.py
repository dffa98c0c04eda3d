"""The maps beside the flow: errors, limits, period doubling (studies/discrete_vs_continuous.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter

import style
from evodyn.plots.canvas import readable

OUTCOMES = {0: "1.0", 1: "0.86", 2: "0.70", 3: "0.86"}
"""Shades of grey; where mass grows without end there were projections too."""


def main() -> None:
    """Draw the figure from results/discrete_vs_continuous, or from the folder given as argument."""
    data = style.read("discrete_vs_continuous", "discrete_vs_continuous.nc")
    described = style.specification(data)
    scenario = described["scenario"]
    style.start()
    figure, panels = plt.subplots(1, 3, figsize=(style.WIDTH, 2.9), width_ratios=(1.12, 1, 1.12))
    errors(panels[0], data)
    style.letter(panels[0], "a", "Error of the maps")
    limits(panels[1], data)
    style.letter(panels[1], "b", "Where the maps leave the flow")
    doubling(panels[2], data)
    style.letter(panels[2], "c", "Two equal groups")
    grounds = {"settles": "1.0", "is projected, then settles or overflows": "0.86", "keeps moving": "0.70"}
    style.key(
        figure,
        [
            style.symbol("found on simulations", "o"),
            style.symbol("theory", line="-"),
            *(
                Patch(facecolor=c, edgecolor="0.5", linewidth=0.5, label=f"b: {n}")
                for n, c in grounds.items()
            ),
        ],
    )
    style.save(
        figure,
        "discrete_vs_continuous",
        [
            f"The discrete maps (Eqs. 12-14) against the flow: {scenario['groups']} groups of unit mass with "
            f"{scenario['kind']} contributions of coefficient of variation {scenario['heterogeneity']:g} "
            "under Eq. 10.",
            f"(a) Largest difference of a mass from the flow at t = {scenario['t_end']:g}, "
            f"λ = {scenario['decay']:g}: points are simulated, lines are the leading term in theory (step "
            "size times the greatest error constant, from the variational equation along the flow). Eq. 13, "
            "with its cap at the initial mass, equals Eq. 12 in the Euler scheme. "
            f"Eq. 14 has μ = {scenario['mutation_rate']:g}.",
            "(b) Limits of the Euler map of Eq. 12 in the plane of step size and λ: lines are theory (flip "
            "of the attractor from the eigenvalues; first projection of rare groups at 1/(ν - c_min), with "
            "the water level ν; the same with the signal clipped at "
            f"κ = {described['signal_clip']:g}), points are found by bisection on simulations. Shaded is "
            "what becomes of a uniform start: it settles (white), it settles or overflows after projections "
            "(light; some of them on its way to the attractor), it keeps moving (dark).",
            "(c) What the Euler map of two equal groups settles into: beyond the flip at η_p λP/N = 2 it "
            "alternates with the amplitude of theory (line), at 3 the cycle loses its symmetry, at 1 + √5 it "
            "doubles its period, and beyond 4 a mass would become negative (triangles: found by bisection on "
            "simulations).",
        ],
    )


def errors(axes: Axes, data: xr.Dataset) -> None:
    """Draw the error against the step size: points simulated, lines in theory."""
    cases = [case for case in data.case.values if case != "Eq. 13, Euler"]
    names = {"Eq. 12, Euler": "Eqs. 12, 13, Euler"}
    cells = data.isel(seed=0).sel(case=cases)
    order = np.argsort(cells.predicted_error.values[:, 0])
    colours = style.shades(len(cases))
    steps = data.step_size.values
    for k, (index, marker) in enumerate(zip(order, "osD^v", strict=True)):
        cell = cells.isel(case=int(index))
        axes.plot(steps, cell.predicted_error.values, color=colours[k], linewidth=1.0)
        name = str(cell.case.item())
        look: dict[str, Any] = {"color": colours[k], "markersize": 3.5, "label": names.get(name, name)}
        axes.plot(steps, cell.error.values, marker, **look, **style.RIM)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        handles[::-1],
        labels[::-1],
        loc="upper left",
        fontsize=6.5,
        frameon=False,
        handletextpad=0.1,
        borderaxespad=0.0,
        labelspacing=0.25,
    )
    axes.set(xscale="log", yscale="log", xlabel="step size η$_p$ (1/fitness)", ylabel="largest error (mass)")
    axes.xaxis.set_minor_formatter(NullFormatter())
    smallest = float(cells.error.values.min())
    axes.set_ylim(smallest / 2, float(cells.error.values.max()) * 12)
    at = len(steps) - 2
    bottom = float(cells.predicted_error.values[order[0], at])
    style.label_line(axes, steps[at], bottom, "order 1", style.GREY, shift=(0, -13))


def limits(axes: Axes, data: xr.Dataset) -> None:
    """Draw the limits of the map of Eq. 12 over what becomes of a uniform start."""
    decay, trial = data.decay.values, data.trial_step_size.values
    shown: Any = np.vectorize(list(OUTCOMES).index)(data.outcome.values.T)
    axes.pcolormesh(
        decay,
        trial,
        shown,
        cmap=ListedColormap(list(OUTCOMES.values())),
        norm=BoundaryNorm(np.arange(len(OUTCOMES) + 1) - 0.5, len(OUTCOMES)),
        shading="nearest",
        rasterized=True,
    )
    plain, clipped = data.isel(variant=0), data.isel(variant=1)
    colours = style.shades(3)
    for cell, name, marker, line, colour in (
        (plain, "flip", "o", "-", colours[2]),
        (plain, "positivity", "s", "--", colours[1]),
        (clipped, "positivity", "^", ":", "black"),
    ):
        axes.plot(decay, cell[name].values, line, color=colour)
        found = cell[f"measured_{name}"].values
        axes.plot(decay, found, marker, color=colour, markersize=3.5, **style.RIM)
    low, high = float(trial[0]), float(trial[-1])
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="decay λ (1/time/mass)",
        ylabel="step size η$_p$ (1/fitness)",
        xlim=(decay[0] / 1.15, decay[-1] * 1.15),
        ylim=(low, high),
    )
    axes.set_yticks([1, 10], ["1", "10"])
    axes.set_xticks([0.1, 1], ["0.1", "1"])
    for x, curve, name, shift, look in (
        (decay[-1], plain.flip, "flip", (-4, -9), {"colour": colours[2], "ha": "right"}),
        (decay[0], plain.positivity, "projection", (1, -9), {"colour": colours[1]}),
        (decay[0], clipped.positivity, "clipped", (1, 6), {"colour": "black"}),
    ):
        style.label_line(axes, x, float(curve.sel(decay=x)), name, shift=shift, va="baseline", **look)


def doubling(axes: Axes, data: xr.Dataset) -> None:
    """Draw the bifurcation diagram with the thresholds and the amplitude of theory."""
    steps = data.twin_step.values
    orbit = data.orbit.values
    dots: Any = {"color": "0.2", "markersize": 0.9, "markeredgewidth": 0, "rasterized": True}
    axes.plot(np.repeat(steps, orbit.shape[1]), orbit.ravel(), ".", **dots)
    fine = np.linspace(2.0, 3.0, 200)
    half = np.sqrt((fine - 2) / fine) / 2
    colour = style.shades(3)[1]
    for sign in (-1, 1):
        axes.plot(fine, 0.5 + sign * half, color=colour, linewidth=2.2, alpha=0.6)
    for mark, theory, measured in zip(
        data.landmark.values, data.landmark_theory.values, data.landmark_measured.values, strict=True
    ):
        axes.axvline(theory, color=style.GREY, linewidth=0.7, linestyle=":", zorder=0)
        if np.isfinite(measured):
            axes.plot(measured, 1.05, "v", color="black", markersize=4)
        height = 1.17 if mark == "projection" else 1.08
        ha = {"flip": "center", "period 4": "left"}.get(str(mark), "right")
        style.label_line(axes, theory, height, str(mark), "black", shift=(0, 2), ha=ha, va="baseline")
    axes.text(2.02, 0.08, "line: theory", color=readable(colour), fontsize=7, va="bottom")
    axes.set(
        xlabel="normalised step size η$_p$λP/N",
        ylabel="share of one group",
        ylim=(0, 1.26),
        xlim=(1.7, 4.05),
        yticks=np.linspace(0, 1, 6),
    )


if __name__ == "__main__":
    main()
