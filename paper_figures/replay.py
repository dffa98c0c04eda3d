"""A training network's recorded signals replayed by the map and by the flow (studies/replay.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

import style

SHOWN = 9


def main() -> None:
    """Draw the figure from results/replay/replay.nc, or from the folder given as argument."""
    data = style.read("replay", "replay.nc")
    specification = style.specification(data)
    # The reading under which masses move most says most.
    widest = int(np.argmax(np.ptp(data.flow_mass.values[:, -1], axis=-1)))
    run = data.isel(run=widest)

    style.start()
    figure, panels = plt.subplots(1, 3, figsize=(style.WIDTH, 2.7))
    trajectories(panels[0], run)
    style.letter(panels[0], "a", "Network and replayed flow")
    distances(panels[1], run)
    style.letter(panels[1], "b", "Map against flow")
    orders(panels[2], data)
    style.letter(panels[2], "c", "At every step size")

    style.key(
        figure,
        [
            style.symbol("network (a), map (c)", "o"),
            style.symbol("flow", line="-"),
            style.symbol("limits: of the clip (a), a priori (c)", line="--"),
        ],
    )
    readings = "; ".join(
        f"{name}: {', '.join(f'{k} = {v}' for k, v in options.items()) or 'Eq. 9 as printed'}"
        for name, options in specification["readings"].items()
    )
    reading, dynamics = str(run.reading.item()), str(run.dynamics.item())
    seeds = ", ".join(f"seed {seed}" for seed in specification["seeds"])
    steps = [f"{size:.3g}" for size in data.step_size.values]
    same = ", and its masses bit for bit" if data["identical"].values.all() else ""
    style.save(
        figure,
        "replay",
        [
            "The signals of a training network (784-512-256-10, MNIST) recorded at every step, and replayed "
            f"through evodyn with the contributions held between steps, {seeds}.",
            f"(a) Masses of {SHOWN} of the {data.sizes['group']} neurons, by rank at the end, under the "
            f"{reading} reading with {dynamics} dynamics: in the network after every epoch (points) and by "
            "the flow (lines); dashed, the clip floor and ceiling (1 ± η_p κ) to the power of the step.",
            f"(b) Largest difference of a log-mass between map and flow for steps η_p of {', '.join(steps)}; "
            f"the first repeats the network's own steps{same}.",
            "(c) The same at its largest over time against the step size for all runs, beside the a priori "
            f"bounds (dashed). Readings: {readings}.",
        ],
    )


def trajectories(axes: Axes, run: xr.Dataset) -> None:
    """Draw masses of some neurons: the network's as points, the flow's as lines."""
    order = np.argsort(run.flow_mass.values[-1])
    chosen = order[np.linspace(0, len(order) - 1, SHOWN).round().astype(int)]
    time = run.time.values
    for group, colour in zip(chosen, style.shades(SHOWN), strict=True):
        axes.plot(time, run.flow_mass.values[:, group], color=colour, linewidth=1.0)
        axes.plot(time, run.network_mass.values[:, group], "o", color=colour, markersize=2.5)
    axes.set(xlabel="time (1/fitness)", ylabel="mass of a neuron")
    if time[-1] > 1:
        for rate, name, va in ((0.1, "ceiling", "bottom"), (-0.1, "floor", "top")):
            limit = np.exp(rate * time)
            axes.plot(time, limit, "--", color=style.GREY, linewidth=0.8)
            axes.annotate(name, (time[-1], limit[-1]), color=style.GREY, ha="right", va=va, fontsize=7)


def distances(axes: Axes, run: xr.Dataset) -> None:
    """Draw the distance between each map and the flow over time."""
    time = run.time.values[1:]
    for size, distance, colour in zip(
        run.step_size.values, run.distance.values, style.shades(run.sizes["step_size"]), strict=True
    ):
        axes.plot(time, distance[1:], color=colour)
        style.label_line(axes, time[-1], distance[-1], _fraction(size, run.step_size.values[0]), colour)
    axes.set(xlabel="time (1/fitness)", ylabel="largest |difference| of ln p", yscale="log")
    axes.margins(x=0.12)


def _fraction(size: float, first: float) -> str:
    ratio = round(first / size)
    return "η$_p$" if ratio == 1 else f"η$_p$/{ratio}"


def orders(axes: Axes, data: xr.Dataset) -> None:
    """Draw the largest distance against the step size, and its bound."""
    sizes = data.step_size.values
    markers = dict(zip(dict.fromkeys(data.reading.values), "osD^", strict=False))
    drawn: list[Any] = []
    for k, colour in enumerate(style.shades(data.sizes["run"])):
        run = data.isel(run=k)
        worst = run.distance.values.max(axis=1)
        marker = markers[run.reading.item()]
        drawn.append(axes.plot(sizes, worst, marker=marker, color=colour, linewidth=1.0)[0])
        axes.plot(sizes, run.bound.values, "--", color=colour, linewidth=0.8)
    axes.set(xlabel="step size η$_p$ (1/fitness)", xscale="log", yscale="log")
    axes.set_ylabel("largest |difference| of ln p")
    for reading in markers:
        inside = [k for k in range(data.sizes["run"]) if data.reading.values[k] == reading]
        top = max(float(data.bound.values[k, 1]) for k in inside)
        name, look = f"{reading}: bound", {"ha": "center", "va": "bottom"}
        style.label_line(axes, sizes[1], top, name, "black", shift=(0, 5), **look)
    axes.set_xticks(sizes, [_fraction(size, sizes[0]) for size in sizes])
    axes.minorticks_off()
    axes.margins(x=0.15, y=0.12)


if __name__ == "__main__":
    main()
