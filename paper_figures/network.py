"""Masses of the live network between the floor and the ceiling of the clip (studies/mnist_bridge.py)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import style
from evodyn.plots.bands import BANDS, quantile_bands

SAMPLES = 60000
"""Of MNIST's training set."""
ENLARGED = "(mass − 1) × 10³"
LINES = {"replicator": "-", "normalized": ":", "mutation": "--"}


def main() -> None:
    """Draw the figure from results/mnist_bridge/trajectories.nc, or from the folder given as argument."""
    data = style.read("mnist_bridge", "trajectories.nc")
    experiment = style.specification(data)["experiment"]
    first = int(data.seed.values.min())
    reading = str(data.reading.values[0])
    data = data.isel(run=np.flatnonzero((data.seed.values == first) & (data.reading.values == reading)))
    read = "read literally" if reading == "literal" else f"read as “{reading}”"
    samples = experiment["train_samples"] or SAMPLES
    steps = data.epoch.values * math.ceil(samples / experiment["batch_size"])
    clip = experiment["step_size"] * experiment["signal_clip"]
    limits = {"ceiling": (1 + clip) ** steps, "floor": (1 - clip) ** steps}

    style.start()
    figure, panels = plt.subplots(1, 3, figsize=(style.WIDTH, 2.5))
    replicator = data.isel(run=int(np.flatnonzero(data.dynamics.values == "replicator")[0]))
    bands(panels[0], replicator)
    reach = 0.0
    for name, limit in limits.items():
        panels[0].plot(data.epoch, limit, "--", color=style.GREY, linewidth=0.9)
        middle = len(limit) // 2
        place = (data.epoch.values[middle], limit[middle])
        up, va = (3, "bottom") if name == "ceiling" else (-3, "top")
        style.label_line(panels[0], *place, name, style.GREY, shift=(-3, up), ha="right", va=va)
        reach = max(reach, abs(limit[-1] - 1))
    panels[0].set_ylim(1 - 1.15 * reach, 1 + 1.15 * reach)
    title = "Read literally, masses hardly move" if reading == "literal" else f"Masses, reading “{reading}”"
    style.letter(panels[0], "a", title)
    bands(panels[1], replicator, enlarged=True)
    style.letter(panels[1], "b", "The same, enlarged")
    histograms(panels[2], data)
    style.letter(panels[2], "c", "Final masses")
    style.save(
        figure,
        "network",
        [
            f"Masses of the {data.sizes['group']} neurons of the paper's network while it trains on MNIST, "
            f"seed {first}, the signal {read}.",
            "(a) Range, 90 % and 50 % of the masses under the replicator between the floor and the ceiling "
            "that the clip of the signal sets, (1 ± η_p κ) to the power of the number of steps. (b) The same "
            "with the axis enlarged.",
            "(c) Final masses under the three dynamics; replicator and normalised growth coincide, and "
            "mutation to 1/N draws all masses towards nothing."
            if reading == "literal"
            else "(c) Final masses under the three dynamics.",
        ],
    )


def bands(axes: Axes, run: xr.Dataset, *, enlarged: bool = False) -> None:
    """Draw quantiles of the masses over the epochs, or of their small departures from 1."""
    epoch, masses = run.epoch.values, run.mass.values
    if enlarged:
        masses = 1e3 * (masses - 1)
    quantile_bands(axes, epoch, masses, color=style.OURS, bands=BANDS, labelled=enlarged)
    axes.set(xlabel="epoch", ylabel=ENLARGED if enlarged else "mass of a neuron")
    axes.set_xticks(np.unique(np.linspace(0, epoch[-1], 5).round()))
    axes.margins(x=0.02)
    if enlarged:
        axes.set_xlim(0, 1.2 * epoch[-1])


def histograms(axes: Axes, data: xr.Dataset) -> None:
    """Draw the distribution of the final masses of every dynamics."""
    finals: dict[str, Any] = {
        str(name): 1e3 * (data.mass.values[k, -1] - 1) for k, name in enumerate(data.dynamics.values)
    }
    low, high = min(map(np.min, finals.values())), max(map(np.max, finals.values()))
    edges = np.linspace(low, high, 60)
    for (name, masses), colour in zip(finals.items(), (style.OURS, style.PAPER, "0.35"), strict=False):
        counts, _ = np.histogram(masses, edges)
        axes.stairs(counts, edges, color=colour, linestyle=LINES[name], linewidth=1.2, label=name)
    axes.set(xlabel=ENLARGED, ylabel="neurons")
    axes.legend(frameon=False, fontsize=7)
    axes.set_ylim(0, 1.45 * axes.get_ylim()[1])


if __name__ == "__main__":
    main()
