"""The flow of three groups on the simplex of their shares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Polygon

from evodyn.core.arrays import FloatArray
from evodyn.equilibria.equilibrium import Equilibrium
from evodyn.equilibria.stability import Stability
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction
from evodyn.plots.barycentric import (
    PATH,
    RestPoints,
    Velocity,
    check_groups,
    draw_arrow,
    draw_corner_names,
    draw_key,
    draw_rest_points,
    horizon,
    paths_from,
    rest_points_of,
    share_velocity,
    total_of,
)
from evodyn.plots.canvas import GREY, axes_or_new, names_of, pale
from evodyn.simulate.solve import solve

__all__ = ["TRIANGLE", "draw_triangle", "simplex"]

TRIANGLE: FloatArray = np.array([(0.5, np.sqrt(0.75)), (0.0, 0.0), (1.0, 0.0)])
"""Corners of the simplex in the plane: the first group at the top, the second left, the third right."""
TRIANGLE.flags.writeable = False
_CELLS = 80  # of the grid, each way
_BASIN_CELLS = 48
_ARRIVED = 0.02  # largest difference of shares from the rest point of their basin


def simplex(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    ax: Axes | None = None,
    *,
    total_mass: float | None = None,
    time: float = 0.0,
    speed: bool = True,
    rest_points: RestPoints = True,
    basins: bool = False,
    starts: npt.ArrayLike | None = None,
    t_end: float | None = None,
    names: Sequence[object] | None = None,
) -> Axes:
    """Draw the flow of three groups on the simplex of their shares.

    Parameters
    ----------
    dynamics : Dynamics
        Of one population.
    landscape : callable
        (t, masses) -> fitness of three groups.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default. At the corner of a group it has all the mass.
    total_mass : float, optional
        P, needed where the landscape acts on masses and the dynamics conserves it.
    time : float, optional
        At which the flow is drawn.
    speed : bool, optional
        Whether the ground is the darker the faster shares change.
    rest_points : bool or sequence of Equilibrium, optional
        Which rest points are marked by their stability: those of `all_equilibria`, none, or these.
    basins : bool, optional
        Whether the ground shows, in place of speed, which rest point the flow leads to.
    starts : array_like, shape (M, 3), optional
        Shares from which trajectories are drawn.
    t_end : float, optional
        End of the trajectories.
    names : sequence, optional
        A name for each corner; the numbers of the groups by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If these are not three groups of one population; where rest points are asked for, as
        `all_equilibria` does.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import evodyn as ed
    >>> game = ed.landscapes.MatrixGame([[0.0, -1.0, 2.0], [2.0, 0.0, -1.0], [-1.0, 2.0, 0.0]])
    >>> ax = ed.plots.simplex(ed.Replicator(), game, names=["rock", "paper", "scissors"])
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['stable', 'unstable']
    """
    check_groups(dynamics, landscape, 3)
    titles = names_of(names, 3)
    points = rest_points_of(dynamics, landscape, total_mass, rest_points)
    ends = points or rest_points_of(dynamics, landscape, total_mass, chosen=basins)
    total = total_of(dynamics, landscape, total_mass, 3)
    velocity = share_velocity(dynamics, landscape, total, time)
    ax = axes_or_new(ax, bare=True)
    edge = draw_triangle(ax, titles)
    ground = ""
    if basins:
        _draw_basins(ax, dynamics, landscape, total, velocity, ends, edge)
        ground = "shades: basins"
    moving = _draw_streams(ax, velocity, edge, ground=speed and not basins)
    if speed and not basins and moving:
        ground = "darker: faster"
    if ground:
        look: dict[str, Any] = {"va": "top", "color": GREY, "fontsize": "small"}
        ax.text(0.0, 1.0, ground.replace(": ", ":\n"), transform=ax.transAxes, **look)
    keys = []
    if starts is not None:
        for path in paths_from(dynamics, landscape, starts, total, velocity, t_end):
            flat = path @ TRIANGLE
            ax.plot(*flat.T, color=PATH, linewidth=1.2, zorder=3)
            ax.plot(*flat[:1].T, "o", color=PATH, markersize=2.5, zorder=3)
            draw_arrow(ax, flat, PATH)
        keys = [Line2D([], [], color=PATH, label="trajectory")]
    draw_rest_points(ax, points, TRIANGLE, velocity)
    draw_key(ax, points, *keys)
    return ax


def draw_triangle(ax: Axes, names: Sequence[str]) -> Polygon:
    """Draw the edges of the simplex, with names at its corners, and return them."""
    edge = Polygon(TRIANGLE, closed=True, fill=False, edgecolor="black", linewidth=0.8, joinstyle="round")
    ax.add_patch(edge)
    edge.set_zorder(3)
    draw_corner_names(ax, TRIANGLE, names)
    ax.set(xlim=(-0.06, 1.06), ylim=(-0.04, TRIANGLE[0, 1] + 0.04))
    return edge


def shares_at(places: FloatArray) -> FloatArray:
    """Return the shares at places (M, 2) of the plane, of those outside the triangle the nearest on its edge.

    Examples
    --------
    >>> shares_at(np.array([[0.5, 0.0], [0.5, 2.0]])).round(3)
    array([[0. , 0.5, 0.5],
           [1. , 0. , 0. ]])
    """
    first = places[:, 1] / TRIANGLE[0, 1]
    third = places[:, 0] - first / 2
    shares = np.maximum(np.stack((first, 1 - first - third, third), axis=1), 0.0)
    found: FloatArray = shares / shares.sum(axis=1, keepdims=True)
    return found


def _draw_streams(ax: Axes, velocity: Velocity, edge: Polygon, *, ground: bool) -> bool:
    """Draw streamlines and, below them, the speed; tell whether anything moves."""
    x, y = np.linspace(0, 1, _CELLS), np.linspace(0, TRIANGLE[0, 1], _CELLS)
    places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    field = (velocity(shares_at(places)) @ TRIANGLE).reshape(len(y), len(x), 2)
    rate = np.hypot(*np.moveaxis(field, -1, 0))
    if not rate.max() > 0:
        return False
    look: dict[str, Any] = {"cmap": pale(), "vmin": 0, "vmax": rate.max(), "zorder": 0}
    if ground:
        shade = ax.pcolormesh(x, y, rate, shading="gouraud", rasterized=True, **look)
        shade.set_clip_path(edge)
    others = set(ax.patches)
    look = {"density": 0.9, "color": "0.25", "linewidth": 0.7, "arrowsize": 0.8, "zorder": 2}
    streams = ax.streamplot(x, y, field[..., 0], field[..., 1], **look)
    streams.lines.set_clip_path(edge)
    for head in set(ax.patches) - others:
        head.set_clip_path(edge)
    return True


def _draw_basins(
    ax: Axes,
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    total: float,
    velocity: Velocity,
    points: Sequence[Equilibrium],
    edge: Polygon,
) -> None:
    """Tint the ground by the stable rest point that the flow leads to; it stays white where there is none."""
    x = np.linspace(-0.05, 1.05, _BASIN_CELLS)
    y = np.linspace(-0.05, TRIANGLE[0, 1] + 0.05, _BASIN_CELLS)
    places = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    shares = (shares_at(places) + 1e-4) / (1 + 3e-4)  # the interior is what basins are of
    near = np.hypot(*(shares @ TRIANGLE - places).T) < 2.5 / _BASIN_CELLS  # and some beyond the edge
    attractors = [p.masses / p.masses.sum() for p in points if p.stability is Stability.STABLE]
    basin: FloatArray = np.full(len(places), np.nan)
    if attractors:
        t_end = horizon(velocity, shares[near])
        for k in np.flatnonzero(near):
            run = solve(dynamics, landscape, total * shares[k], (0.0, t_end), save_at=[t_end])
            away = np.abs(run.shares[-1] - attractors).max(axis=1)
            if away.min() < _ARRIVED:
                basin[k] = away.argmin()
    tints = mpl.colormaps["Blues"](np.linspace(0.08, 0.5, len(attractors)))
    for place, tint in enumerate(tints):
        belongs = (basin == place).reshape(len(y), len(x)).astype(float)
        if belongs.any():
            ax.contourf(x, y, belongs, levels=[0.5, 1.5], colors=[tint], zorder=0).set_clip_path(edge)
