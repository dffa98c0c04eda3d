"""The theory of signed selection along a run of the paper's network (studies/signed_selection.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import style

COLOURS = {"replicator": style.OURS, "general": style.PAPER}
MARKERS = {"replicator": "o", "general": "s"}
NAMES = {"replicator": "replicator", "general": "growth by fitness"}


def main() -> None:
    """Draw the figure from results/signed_selection, or from the folder given as argument."""
    data = style.read("signed_selection", "signed_selection.nc")
    given = style.specification(data)
    training = given["training"]
    style.start()
    figure, ((falls, errors), (deaths, maps)) = plt.subplots(2, 2, figsize=(style.WIDTH, 4.8))
    fall(falls, data)
    style.letter(falls, "a", "Fall of the loss in one step of the masses")
    order(errors, data, training["step_size"])
    style.letter(errors, "b", "Error of the first order")
    dead(deaths, data)
    style.letter(deaths, "c", "Dead by selection and by drift")
    distance(maps, data)
    style.letter(maps, "d", "Signals replayed: maps against the flow")
    overlap, again = float(data.overlap.mean()), float(data.attrs["overlap_of_another_order"])
    same = " and its masses bit for bit" if data.attrs["identical"] else ""
    style.save(
        figure,
        "signed_selection",
        [
            f"The network of {'-'.join(map(str, training['widths']))} neurons while it learns MNIST "
            f"({training['samples']} images), each neuron growing by its marginal benefit less a price, "
            f"η_p = {training['step_size']:g}.",
            "(a) How much a step of the masses alone lowers the loss of its own batch: measured (symbols), "
            "and η_p P Var(φ) for the replicator, η_p Σ p φ² for growth by fitness (lines). (b) Median over "
            "the run of |measured/theory − 1| for η_p, η_p/2, ...; dashed: first order.",
            f"(c) Groups dead (below {training['threshold']:g}) in the run, and in {given['draws']} neutral "
            "controls: the signals of the same network with frozen masses, centred and each step with a "
            "random sign, at the same η_p and at larger ones; bars: a random walk's, in theory. Of the dead "
            f"{again:.2f} times as many are the same with another order of the samples as by chance, and "
            f"{overlap:.2f} times as many are those that noise alone leaves with the least mass.",
            "(d) Largest difference of a ln p between the flow of the recorded signals and Euler's map with "
            f"the network's step and finer ones; the exponential map repeats the network's steps{same}.",
        ],
    )


def fall(axes: Axes, data: xr.Dataset) -> None:
    """Draw the fall of the loss over the run, by theory and measured."""
    epochs = np.arange(data.sizes["epoch"])
    for name, colour in COLOURS.items():
        one = data.fall.sel(dynamics=name).isel(halving=0)
        axes.plot(epochs, one.sel(of="theory"), color=colour)
        axes.plot(epochs, one.sel(of="measured"), MARKERS[name], color=colour, label=NAMES[name], **style.RIM)
    axes.set(xlabel="epoch", ylabel="fall of the loss", yscale="log")
    axes.legend(frameon=False, fontsize=7)


def order(axes: Axes, data: xr.Dataset, step_size: float) -> None:
    """Draw the relative error of theory against the step size."""
    sizes = step_size / 2 ** np.arange(data.sizes["halving"])
    off = np.abs(data.fall.sel(of="measured") / data.fall.sel(of="theory") - 1).median("epoch")
    for name, colour in COLOURS.items():
        values = off.sel(dynamics=name).values
        axes.plot(sizes, values, MARKERS[name] + "-", color=colour, linewidth=0.9)
        axes.plot(sizes, values[-1] * sizes / sizes[-1], "--", color=colour, linewidth=0.8)
    axes.set(xlabel="step size η (1/fitness)", ylabel="|measured/theory − 1|", xscale="log", yscale="log")
    axes.set_xticks(sizes, [f"{size:.3g}" for size in sizes])
    axes.minorticks_off()


def dead(axes: Axes, data: xr.Dataset) -> None:
    """Draw the fraction dead over the run and in the neutral controls."""
    epochs = np.arange(data.sizes["epoch"])
    axes.plot(epochs, 100 * data.dead_by_selection, color=style.OURS, linewidth=1.8, label="selection")
    for factor, colour in zip(data.faster.values, style.shades(data.sizes["faster"]), strict=True):
        one = 100 * data.sel(faster=factor)
        label = "noise alone, η" if factor == 1 else f"noise, {factor:g} η"
        axes.plot(epochs, one.dead_by_drift.mean("draw"), color=colour, linewidth=1.0, label=label)
        axes.plot(epochs[-1], one.dead_by_theory, "_", color=colour, markersize=9, markeredgewidth=1.5)
    axes.set(xlabel="epoch", ylabel="groups dead (%)", ylim=(-3, 103))
    axes.legend(frameon=False, fontsize=7)


def distance(axes: Axes, data: xr.Dataset) -> None:
    """Draw the distance of the maps from the flow over the run."""
    epochs = np.arange(data.sizes["epoch"])[1:]
    names: list[Any] = list(data["map"].values)
    colours = [style.PAPER, *style.shades(len(names) - 1)]
    for name, colour in zip(names, colours, strict=True):
        values = data.distance.sel(map=name).values[1:]
        method, _, finer = str(name).partition("/")
        label = method if not finer else f"Euler, η/{finer}" if finer != "1" else "Euler, η"
        axes.plot(epochs, np.maximum(values, 1e-17), color=colour, label=label)
    axes.set(xlabel="epoch", ylabel="largest |difference| of ln p", yscale="log")
    axes.legend(frameon=False, fontsize=7, loc="center left")


if __name__ == "__main__":
    main()
