"""Flows of three groups on the simplex, with their rest points (studies/fixed_points.py)."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import mpltern  # noqa: F401 (registers the projection)
import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D

import style

# Filled attracts, empty repels: fill and shape say it, not colour.
MARKERS: dict[str, dict[str, Any]] = {
    "STABLE": {"marker": "o", "markerfacecolor": "black", "label": "stable"},
    "NEUTRAL": {"marker": "D", "markerfacecolor": "0.7", "label": "neutral"},
    "UNSTABLE": {"marker": "o", "markerfacecolor": "white", "label": "unstable"},
    "INDETERMINATE": {"marker": "s", "markerfacecolor": "white", "label": "indeterminate"},
}
LINE = "tab:red"


def main() -> None:
    """Draw the figure from results/fixed_points/fixed_points.nc, or from the folder given as argument."""
    data = style.read("fixed_points", "fixed_points.nc")
    names = str(data.stability.attrs["flag_meanings"]).split()
    style.start()
    figure, grid = plt.subplots(2, 4, figsize=(style.WIDTH, 3.9), subplot_kw={"projection": "ternary"})
    for k, axes in enumerate(grid.flat):
        flow = data.isel(panel=k)
        field(axes, flow)
        paths(axes, flow)
        rest_points(axes, flow, names)
        axes.set(tlabel="$x_1$", llabel="$x_2$", rlabel="$x_3$")
        for axis in (axes.taxis, axes.laxis, axes.raxis):
            axis.set_ticks([])
            axis.set_label_position("corner")
            axis.set_label_rotation_mode("horizontal")
        style.letter(axes, "abcdefgh"[k], str(flow.panel.item()))
    shown = [names[code] for code in np.unique(data.stability.values) if code >= 0]
    handles = [
        Line2D([], [], linestyle="none", color="black", **look)
        for name, look in MARKERS.items()
        if name in shown
    ]
    handles += [Line2D([], [], color=LINE, label="trajectory")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, handletextpad=0.4)
    style.save(
        figure,
        "simplex",
        [
            "Flows of three groups on the simplex of shares: at the corner x_i group i has all the mass.",
            "Arrows: direction of the velocity, darker where it is faster, each panel on its own scale; "
            "red lines: integrated trajectories from the dots; black marks: every rest point (of a "
            "continuum one on each face), with the verdict of its eigenvalues on the tangent space and of "
            "its invasion rates.",
            "(a) Three strategies that each do worst against themselves, as hawks do.",
            "(b) Coordination.",
            "(c-e) Rock-paper-scissors with a loss of 1: a win of more spirals inward, an equal one circles, "
            "a smaller one spirals outward.",
            "(f) Density regularisation (Eq. 10): water filling, the third group dies.",
            "(g) Mutation to equal shares (Eq. 8) with constant fitness: no other rest point, none dies.",
            "(h) Two groups that do the same (redundancy) and are equally fit: a line of neutral rest points "
            "(grey), for nothing fixes the ratio of the twins.",
        ],
    )


def field(axes: Any, data: xr.Dataset) -> None:
    """Draw the directions of the velocity, shaded by speed."""
    speed = np.linalg.norm(data.field.values, axis=1)
    moving = speed > 0
    unit = data.field.values[moving] / speed[moving, None]
    if moving.any():
        axes.quiver(
            *data.node.values[moving].T,
            *unit.T,
            speed[moving] / speed.max(),
            cmap=greys(),
            clim=(0, 1),
            scale=17,
            width=0.008,
            headwidth=3.6,
            headlength=3.6,
            headaxislength=3.2,
            pivot="mid",
            zorder=1,
        )


def greys() -> ListedColormap:
    """Return greys from pale, but visible on white, to dark."""
    return ListedColormap(mpl.colormaps["Greys"](np.linspace(0.3, 0.85, 64)))


def paths(axes: Any, data: xr.Dataset) -> None:
    """Draw the trajectories."""
    for shares in data.path.values:
        if np.isnan(shares).any():
            continue
        axes.plot(*shares.T, color=LINE, linewidth=1.0, zorder=2)
        axes.plot(*shares[:1].T, "o", color=LINE, markersize=2, zorder=2)


def rest_points(axes: Any, data: xr.Dataset, names: list[str]) -> None:
    """Mark the rest points by their stability; join neutral ones, which share a line."""
    neutral = data.rest_point.values[data.stability.values == names.index("NEUTRAL")]
    if len(neutral) > 1:
        axes.plot(*neutral[np.argsort(neutral[:, 0])].T, color="0.55", linewidth=2.5, zorder=2.5)
    for shares, code in zip(data.rest_point.values, data.stability.values, strict=True):
        if code >= 0:
            axes.plot(
                *shares[:, None],
                linestyle="none",
                color="black",
                markersize=5,
                clip_on=False,
                zorder=3,
                **{key: value for key, value in MARKERS[names[code]].items() if key != "label"},
            )


if __name__ == "__main__":
    main()
