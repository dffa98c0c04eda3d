"""What each part of the recipe is worth: left out or changed by itself (studies/ablations.py)."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import style

LINE = 0.2  # inches for each of what is compared


def main() -> None:
    """Draw the figure from results/ablations, or from the folder given as argument."""
    data = style.read("ablations", "ablations.nc")
    given = style.specification(data)
    style.start()
    names = given["variants"]
    figure, axes = plt.subplots(figsize=(style.WIDTH, 1.2 + LINE * len(names)))
    differences(axes, data, names)
    beside = axes.twinx()
    beside.set(ylim=axes.get_ylim(), ylabel="neurons left, first seed")
    left = [str(data.living.values[data.variant.values == name][0]) for name in names]
    beside.set_yticks(range(len(names)), left)
    beside.tick_params(length=0)
    widths, seeds = "-".join(map(str, given["widths"])), len(given["seeds"])
    style.save(
        figure,
        "ablations",
        [
            f"{widths}, {100 * given['remove']:g} % of the hidden neurons removed in {given['epochs']} "
            "epochs, one part of the recipe left out or changed by itself: accuracy on "
            f"{given['held_out']} training images that were left out of training, less that of the whole "
            f"recipe of the same seed, in points. {seeds} seeds (small) and their mean (large); open: a "
            "small dense network of the same widths, trained from scratch in the same way.",
        ],
    )


def differences(axes: Axes, data: xr.Dataset, names: list[str]) -> None:
    """Draw what every run has over the whole recipe of its seed, and so for the controls."""
    control = data.over_whole - data.over_scratch
    for at, name in enumerate(names):
        own = data.variant.values == name
        gained, scratch = 100 * data.over_whole.values[own], 100 * control.values[own]
        axes.plot(gained, np.full(len(gained), at), ".", color=style.OURS, markersize=4, alpha=0.6)
        label = "recipe" if at == 0 else None
        axes.plot(gained.mean(), at, "o", color=style.OURS, markersize=5.5, label=label, **style.RIM)
        if np.isfinite(scratch).any():
            label = "small network from scratch" if at == 0 else None
            axes.plot(scratch.mean(), at + 0.2, "s", color=style.PAPER, fillstyle="none", label=label)
    axes.axvline(0, color=style.GREY, linewidth=0.6)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set(xlabel="accuracy less that of the whole recipe (points)", ylabel="left out or changed")
    axes.margins(x=0.1)
    axes.legend(frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


if __name__ == "__main__":
    main()
