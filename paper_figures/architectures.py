"""Accuracy without groups, and what is left of the cost, of three networks (studies/architectures.py)."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import style

COSTS = {"parameters": "parameters", "macs": "MACs", "latency": "latency", "file_bytes": "file"}


def main() -> None:
    """Draw the figure from results/architectures, or from the folder given as argument."""
    data = style.read("architectures", "architectures.nc")
    specification = style.specification(data)
    style.start()
    figure, panels = plt.subplots(1, 2, figsize=(style.WIDTH, 2.6))
    accuracies(panels[0], data)
    style.letter(panels[0], "a", "Accuracy without groups")
    costs(panels[1], data)
    style.letter(panels[1], "b", "What is left of the cost")
    tuned = ", ".join(
        f"{name} {float(data.accuracy.sel(network=name, stage='trained again').mean()):.4f} "
        f"(before {float(data.accuracy.sel(network=name, stage='trained').mean()):.4f})"
        for name in data.network.values
    )
    means = data.in_one_training.mean("seed")
    ways = "; ".join(
        f"{name} {', '.join(f'{value:.4f}' for value in means.sel(network=name).values)}"
        for name in data.network.values
    )
    style.save(
        figure,
        "architectures",
        [
            f"Networks trained {specification['epochs']} times on {specification['samples']} images of MNIST "
            f"and as many with selection; means of {data.sizes['seed']} seeds.",
            "(a) Test accuracy with a fraction of every layer's filters, neurons, heads and units at mass 0: "
            "those of least mass (points, lines) and random ones (dashed), without any training afterwards.",
            f"(b) Cost after the physical removal of {100 * specification['sparsity']:g} % of every layer's "
            f"groups, over that before; latency of {specification['batch']} images on one thread.",
            f"Accuracy after the removal and one more epoch: {tuned}.",
            "In one training of as many epochs in all, of the whole network, by the recipe, and of as many "
            f"groups from scratch: {ways}.",
        ],
    )


def accuracies(axes: Axes, data: xr.Dataset) -> None:
    """Draw the accuracy without the groups of least mass, and without random ones."""
    fractions = 100 * data.sparsity
    for name, colour in zip(data.network.values, style.shades(data.sizes["network"]), strict=True):
        run = data.sel(network=name).mean("seed")
        axes.plot(fractions, run.by_mass, "o-", color=colour, label=name)
        axes.plot(fractions, run.at_random, "--", color=colour, linewidth=0.8)
    axes.set(xlabel="groups removed from every layer (%)", ylabel="test accuracy", ylim=(0, 1.02))


def costs(axes: Axes, data: xr.Dataset) -> None:
    """Draw the costs after the removal over those before, as bars."""
    networks = data.network.values
    width, places = 0.8 / len(networks), np.arange(len(COSTS))
    for k, (name, colour) in enumerate(zip(networks, style.shades(len(networks)), strict=True)):
        run = data.sel(network=name).mean("seed")
        left = [100 * float(run[cost].sel(size="after") / run[cost].sel(size="before")) for cost in COSTS]
        axes.bar(places + (k - (len(networks) - 1) / 2) * width, left, 0.9 * width, color=colour, label=name)
    axes.set_xticks(places, list(COSTS.values()))
    axes.set(xlabel="cost", ylabel="after the removal (%)")
    axes.axhline(100, color=style.GREY, linewidth=0.6)
    axes.set_ylim(0, 1.25 * max(axes.get_ylim()[1], 100))
    axes.legend(frameon=False, fontsize=7, loc="upper center", ncols=len(networks))


if __name__ == "__main__":
    main()
