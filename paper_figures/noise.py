"""Noise in fitness, in its estimates, and of finite numbers, beside theory (studies/noise.py)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from scipy import stats

import style

LINES = {"ito": "-", "stratonovich": "--"}
MARKERS = {"ito": "o", "stratonovich": "s"}
NAMES = {"ito": "Itô", "stratonovich": "Stratonovich"}


def main() -> None:
    """Draw the figure from results/noise/noise.nc, or from the folder given as argument."""
    data = style.read("noise", "noise.nc")
    described = style.specification(data)
    style.start()
    figure, panels = plt.subplots(2, 3, figsize=(style.WIDTH, 4.7))
    death_times(panels[0, 0], data)
    style.letter(panels[0, 0], "a", "Time to death of the worse")
    who_dies(panels[0, 1], data)
    style.letter(panels[0, 1], "b", "Death of the better, noisier")
    fixation(panels[0, 2], data)
    style.letter(panels[0, 2], "c", "Fixation of a tenth")
    total_mass(panels[1, 0], data)
    style.letter(panels[1, 0], "d", "Noisy estimates: total mass")
    scatter(panels[1, 1], data)
    style.letter(panels[1, 1], "e", "Noisy estimates: shares")
    rescued(panels[1, 2], data)
    style.letter(panels[1, 2], "f", "Mutation against extinction")
    style.key(
        figure,
        [
            style.symbol("simulated, with 95 % intervals (d: standard deviation)", "o"),
            style.symbol("theory", line="-"),
            style.symbol("strength 1", line=":"),
        ],
    )
    times, who, rare = described["times"], described["who"], described["rare"]
    style.save(
        figure,
        "noise",
        [
            "Three kinds of noise; points are simulated with 95 % confidence intervals, lines are theory.",
            f"(a) Two groups with white noise in fitness (c = {_pair(times['contribution'])}, "
            f"σ = {_pair(times['noise'])}): distribution of the time at which the share of the worse first "
            f"falls below {times['threshold']:g}, over the inverse Gaussian law; "
            f"{described['members']} realisations in each calculus.",
            f"(b) Chance that the better of two groups (c = {_pair(who['contribution'])}) is below a share "
            f"of {who['threshold']:g} at t = {who['t_end']:g}, if it alone is noisy.",
            f"(c) Wright-Fisher populations of {described['individuals']} individuals: fixation of a group "
            "that starts with a tenth of them, over Kimura's formula.",
            f"(d) Total mass after {described['steps']} Euler steps with fitness estimated anew at each "
            "(noise σ), the signal clipped at κ and λ = 0: mean and standard deviation over "
            f"{described['trials']} realisations, for Eq. 12 and Eq. 13 with its cap at the initial mass.",
            "(e) Scatter of the shares between realisations under Eq. 13 over that under Eq. 12, same draws: "
            "equal without a clip or without density regularisation; with both, total mass feeds back on "
            "fitness (means and 95 % confidence intervals).",
            "(f) Chance that the better of two groups is lost against the strength of mutation: below a "
            f"share ε = {rare['threshold']:g} under noise in fitness (strength 2μq/(εs²), "
            "s² = σ₁² + σ₂²; the odds are generalised inverse Gaussian), and absent from a Wright-Fisher "
            f"population (strength 2nμq; exact chain, generation {described['generations']}).",
        ],
    )


def _pair(values: Any) -> str:
    return f"({values[0]:g}, {values[1]:g})"


def _colours() -> dict[str, Any]:
    dark, pale = style.shades(4)[3], style.shades(4)[1]
    return {"ito": dark, "stratonovich": pale}


def _wilson(counts: Any, of: int) -> tuple[Any, Any]:
    """Return proportions and the two halves of their 95 % confidence intervals."""
    values = np.asarray(counts) / of
    ends = [stats.binomtest(int(count), of).proportion_ci(method="wilson") for count in counts]
    below = values - np.array([end.low for end in ends])
    above = np.array([end.high for end in ends]) - values
    return values, np.maximum(np.stack((below, above)), 0.0)


def _points(axes: Axes, x: Any, counts: Any, of: int, marker: str, colour: Any) -> None:
    values, halves = _wilson(counts, of)
    axes.errorbar(x, values, halves, fmt=marker, color=colour, elinewidth=0.9, zorder=3, **style.RIM)


def death_times(axes: Axes, data: xr.Dataset) -> None:
    """Draw the distributions of death times over the inverse Gaussian laws."""
    colours = _colours()
    grid = data.fine_time.values
    for calculus, height in (("ito", 0.62), ("stratonovich", 0.36)):
        curve = data.death_curve.sel(calculus=calculus).values
        axes.plot(grid, curve, LINES[calculus], color=colours[calculus])
        observed = np.sort(data.death_time.sel(calculus=calculus).values)
        ranks = np.linspace(0.04, 0.96, 11)
        at = np.searchsorted(np.arange(1, len(observed) + 1) / len(observed), ranks)
        axes.plot(observed[at], ranks, MARKERS[calculus], color=colours[calculus], **style.RIM)
        beside, ha = (1.15, "left") if calculus == "stratonovich" else (0.87, "right")
        place = float(np.interp(height, curve, grid)) * beside
        style.label_line(axes, place, height, NAMES[calculus], colours[calculus], ha=ha)
    axes.set(xscale="log", xlabel="time of death (1/fitness)", ylabel="fraction dead", ylim=(-0.03, 1.03))
    axes.set_xticks([1, 10], ["1", "10"])


def who_dies(axes: Axes, data: xr.Dataset) -> None:
    """Draw how often the better group dies, against its noise, in both calculi."""
    colours = _colours()
    for calculus in LINES:
        cell = data.sel(calculus=calculus)
        axes.plot(data.fine_noise, cell.dead_curve, LINES[calculus], color=colours[calculus])
        look = (MARKERS[calculus], colours[calculus])
        _points(axes, data.noise.values, cell.dead.values, int(data.dead_of), *look)
    style.label_line(axes, 0.68, 0.62, "Itô", colours["ito"], ha="right")
    style.label_line(axes, 1.2, 0.12, "Stratonovich", colours["stratonovich"], ha="right")
    axes.set(xlabel="noise σ of the better (1/√time)", ylabel="chance of its death", ylim=(-0.03, 1.03))


def fixation(axes: Axes, data: xr.Dataset) -> None:
    """Draw how often a group fixes against its advantage."""
    colour = _colours()["ito"]
    axes.plot(data.fine_selection, data.kimura_curve, color=style.GREY)
    _points(axes, data.selection.values, data.fixed.values, int(data.fixed_of), "o", colour)
    style.label_line(axes, 0.045, 0.25, "Kimura", style.GREY)
    axes.set(xlabel="advantage s per generation", ylabel="chance of fixation", ylim=(-0.02, 0.75))


def total_mass(axes: Axes, data: xr.Dataset) -> None:
    """Draw total mass after noisy estimation, for both maps."""
    cell = data.sel(estimate_decay=0.0)
    places = np.arange(data.sizes["signal_clip"])
    colours = style.shades(4)
    for name, shift, marker, colour in (
        ("replicator", -0.1, "o", colours[3]),
        ("normalized_growth", 0.1, "s", colours[1]),
    ):
        values = cell.total_mass.sel(map=name)
        mean, spread = values.mean("trial"), values.std("trial", ddof=1)
        axes.errorbar(places + shift, mean, spread, fmt=marker, color=colour, elinewidth=0.9, capsize=2)
    highest = float((cell.total_mass.mean("trial") + cell.total_mass.std("trial", ddof=1)).max())
    lowest = float((cell.total_mass.mean("trial") - cell.total_mass.std("trial", ddof=1)).min())
    room = highest - lowest
    look: dict[str, Any] = {"va": "top", "shift": (0, 0)}
    style.label_line(axes, -0.2, highest, "Eq. 12", colours[3], **look)
    style.label_line(axes, -0.2, lowest - 0.1 * room, "Eq. 13, with its cap", colours[1], **look)
    axes.axhline(1.0, color=style.GREY, linewidth=0.6, zorder=0)
    axes.set_xticks(places, ["none" if math.isinf(c) else f"{c:g}" for c in data.signal_clip.values])
    ends = (lowest - 0.28 * room, highest + 0.08 * room)
    axes.set(xlabel="clip κ/σ", ylabel="total mass P/P(0)", ylim=ends)


def scatter(axes: Axes, data: xr.Dataset) -> None:
    """Draw the scatter of the shares under Eq. 13 relative to Eq. 12."""
    places = np.arange(data.sizes["signal_clip"])
    colours = style.shades(4)
    axes.axhline(1.0, color=style.GREY, linewidth=0.6, zorder=0)
    for decay, shift, marker, colour in zip(
        data.estimate_decay.values, (-0.1, 0.1), "Dv", (colours[3], colours[1]), strict=True
    ):
        replicator, growth = data.scatter.sel(estimate_decay=decay).values
        ratio = growth.sum(axis=1) / replicator.sum(axis=1)
        residuals = growth - ratio[:, None] * replicator
        half = 1.96 * residuals.std(axis=1, ddof=1) / math.sqrt(growth.shape[1]) / replicator.mean(axis=1)
        axes.errorbar(places + shift, ratio, half, fmt=marker, color=colour, elinewidth=0.9, capsize=2)
        last, up = np.flatnonzero(np.isfinite(ratio))[-1], 6 if decay else -6
        style.label_line(axes, places[last] + shift, ratio[last], f"λ = {decay:g}", colour, shift=(5, up))
    widest = max(0.02, 1.3 * max(abs(limit - 1) for limit in axes.get_ylim()))
    axes.set_xticks(places, ["none" if math.isinf(c) else f"{c:g}" for c in data.signal_clip.values])
    axes.set(xlabel="clip κ/σ", ylabel="scatter, Eq. 13 / Eq. 12", ylim=(1 - widest, 1 + widest))
    axes.set_xlim(right=places[-1] + 1.3)  # for the names


def rescued(axes: Axes, data: xr.Dataset) -> None:
    """Draw how often the better group is lost against the strength of mutation."""
    colours = style.shades(4)
    for name, marker, line, colour, label in (
        ("rare", "o", "-", colours[3], "noise in fitness"),
        ("gone", "s", "--", colours[1], "finite numbers"),
    ):
        curve = data[f"{name}_curve"].values
        axes.plot(data.fine_strength, curve, line, color=colour)
        places = data.strength.values * (0.94 if name == "rare" else 1.06)
        _points(axes, places, data[name].values, int(data.rescued_of), marker, colour)
        style.note(axes, 0.97, 0.95 if name == "rare" else 0.86, label, colour, ha="right", va="top")
    axes.axvline(1.0, ymax=0.76, color=style.GREY, linewidth=0.7, linestyle=":", zorder=0)
    axes.set(xscale="log", xlabel="strength of mutation", ylabel="chance that the better is lost")
    axes.set_ylim(-0.02, None)
    axes.set_xticks([0.1, 1, 10], ["0.1", "1", "10"])


if __name__ == "__main__":
    main()
