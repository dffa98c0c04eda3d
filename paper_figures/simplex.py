"""Flows of three groups on the simplex, with their rest points (studies/fixed_points.py)."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.lines import Line2D

import style
from evodyn import Stability
from evodyn.plots.barycentric import PATH, draw_marks, marks_of
from evodyn.plots.canvas import axes_or_new
from evodyn.plots.ternary import TRIANGLE, draw_triangle


def main() -> None:
    """Draw the figure from results/fixed_points/fixed_points.nc, or from the folder given as argument."""
    data = style.read("fixed_points", "fixed_points.nc")
    names = str(data.stability.attrs["flag_meanings"]).split()
    style.start()
    figure, grid = plt.subplots(2, 4, figsize=(style.WIDTH, 4.2))
    for k, axes in enumerate(grid.flat):
        flow = data.isel(panel=k)
        axes_or_new(axes, bare=True)
        draw_triangle(axes, ["$x_1$", "$x_2$", "$x_3$"])
        axes.set_ylim(-0.16, 1.06)  # room for the names of the corners
        field(axes, flow)
        paths(axes, flow)
        rest_points(axes, flow, names)
        style.letter(axes, "abcdefgh"[k], str(flow.panel.item()))
    shown = {Stability[names[code]] for code in np.unique(data.stability.values) if code >= 0}
    handles = [*marks_of(shown), Line2D([], [], color=PATH, label="trajectory")]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, frameon=False, handletextpad=0.4)
    style.save(
        figure,
        "simplex",
        [
            "Flows of three groups on the simplex of shares: at the corner x_i group i has all the mass.",
            "Arrows: direction of the velocity, darker where it is faster, each panel on its own scale; "
            "brown lines: integrated trajectories from the dots; black marks: every rest point (of a "
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


def field(axes: Axes, data: xr.Dataset) -> None:
    """Draw the directions of the velocity, shaded by speed."""
    speed = np.linalg.norm(data.field.values, axis=1)
    moving = speed > 0
    along = data.field.values[moving] @ TRIANGLE
    if moving.any():
        look: dict[str, Any] = {"headwidth": 3.6, "headlength": 3.6, "headaxislength": 3.2, "width": 0.008}
        axes.quiver(
            *(data.node.values[moving] @ TRIANGLE).T,
            *(along / np.linalg.norm(along, axis=1)[:, None]).T,
            speed[moving] / speed.max(),
            cmap=greys(),
            clim=(0, 1),
            scale=20,
            pivot="mid",
            zorder=1,
            **look,
        )


def greys() -> ListedColormap:
    """Return greys from pale, but visible on white, to dark."""
    return ListedColormap(mpl.colormaps["Greys"](np.linspace(0.3, 0.85, 64)))


def paths(axes: Axes, data: xr.Dataset) -> None:
    """Draw the trajectories."""
    for shares in data.path.values:
        if not np.isnan(shares).any():
            flat = shares @ TRIANGLE
            axes.plot(*flat.T, color=PATH, linewidth=1.0, zorder=2)
            axes.plot(*flat[:1].T, "o", color=PATH, markersize=2, zorder=2)


def rest_points(axes: Axes, data: xr.Dataset, names: list[str]) -> None:
    """Mark the rest points by their stability; join neutral ones, which share a line."""
    found = data.stability.values >= 0
    places = data.rest_point.values[found] @ TRIANGLE
    kinds = [Stability[names[code]] for code in data.stability.values[found]]
    neutral = places[[kind is Stability.NEUTRAL for kind in kinds]]
    if len(neutral) > 1:
        axes.plot(*neutral[np.argsort(neutral[:, 0])].T, color="0.55", linewidth=2.5, zorder=2.5)
    draw_marks(axes, places, kinds, size=5)


if __name__ == "__main__":
    main()
