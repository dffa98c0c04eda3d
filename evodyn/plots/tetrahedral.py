"""The flow of four groups in the tetrahedron of their shares."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction
from evodyn.plots.barycentric import (
    PATH,
    RestPoints,
    check_groups,
    draw_arrow,
    draw_corner_names,
    draw_key,
    draw_rest_points,
    paths_from,
    rest_points_of,
    share_velocity,
    total_of,
)
from evodyn.plots.canvas import GREY, axes_or_new, names_of

__all__ = ["corners_seen", "tetrahedron"]

_SOLID: FloatArray = np.array([(0, 0, 3), (np.sqrt(8), 0, -1), (-np.sqrt(2), np.sqrt(6), -1),
                               (-np.sqrt(2), -np.sqrt(6), -1)]) / 3  # fmt: skip


def tetrahedron(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    ax: Axes | None = None,
    *,
    total_mass: float | None = None,
    rest_points: RestPoints = True,
    starts: npt.ArrayLike | int = 14,
    t_end: float | None = None,
    view: tuple[float, float] = (75.0, 12.0),
    names: Sequence[object] | None = None,
) -> Axes:
    """Draw trajectories and rest points of four groups in the tetrahedron of their shares.

    It is seen from far away, in ordinary axes; lines are the heavier the nearer they are, and hidden edges
    are dashed.

    Parameters
    ----------
    dynamics : Dynamics
        Of one population.
    landscape : callable
        (t, masses) -> fitness of four groups.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    total_mass : float, optional
        P, needed where the landscape acts on masses and the dynamics conserves it.
    rest_points : bool or sequence of Equilibrium, optional
        Which rest points are marked by their stability: those of `all_equilibria`, none, or these.
    starts : array_like, shape (M, 4), or int, optional
        Shares from which trajectories are drawn, or how many evenly spread ones.
    t_end : float, optional
        End of the trajectories.
    view : (float, float), optional
        Azimuth and elevation of the eye, in degrees.
    names : sequence, optional
        A name for each corner; the numbers of the groups by default.

    Returns
    -------
    matplotlib Axes

    Raises
    ------
    ValueError
        If these are not four groups of one population; where rest points are asked for, as
        `all_equilibria` does.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import evodyn as ed
    >>> landscape = ed.landscapes.LinearDecay([3.0, 2.5, 2.0, 0.0], decay=1.0)
    >>> ax = ed.plots.tetrahedron(ed.Replicator(), landscape, total_mass=4.0, starts=3)
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['stable', 'unstable', 'trajectory']
    """
    check_groups(dynamics, landscape, 4)
    titles = names_of(names, 4)
    points = rest_points_of(dynamics, landscape, total_mass, rest_points)
    total = total_of(dynamics, landscape, total_mass, 4)
    velocity = share_velocity(dynamics, landscape, total)
    corners, depth = corners_seen(view)
    ax = axes_or_new(ax, bare=True)
    for one, other in itertools.combinations(range(4), 2):
        seen = _is_seen(one, other, corners, depth)
        look: dict[str, Any] = (
            {"color": "black", "linewidth": 0.8} if seen else {"color": GREY, "linewidth": 0.6}
        )
        ax.plot(*corners[[one, other]].T, linestyle="-" if seen else (0, (4, 3)), zorder=1, **look)
    draw_corner_names(ax, corners, titles)
    some = _spread(starts) if isinstance(starts, int) else starts
    for path in paths_from(dynamics, landscape, some, total, velocity, t_end):
        flat, near = path @ corners, path @ depth
        pieces = np.stack((flat[:-1], flat[1:]), axis=1)
        widths = 0.5 + 1.1 * (near[:-1] - depth.min()) / np.ptp(depth)
        ax.add_collection(LineCollection(list(pieces), linewidths=widths, colors=PATH, zorder=2))
        ax.plot(*flat[:1].T, "o", color=PATH, markersize=2.5, zorder=3)
        draw_arrow(ax, flat, PATH)
    draw_rest_points(ax, points, corners, velocity)
    draw_key(ax, points, Line2D([], [], color=PATH, label="trajectory"))
    ax.margins(0.06)
    return ax


def corners_seen(view: tuple[float, float]) -> tuple[FloatArray, FloatArray]:
    """Return the corners in the plane of the picture, shape (4, 2), and how near the eye they are, (4,).

    Examples
    --------
    >>> corners, depth = corners_seen((0.0, 0.0))      # the second corner points to the eye
    >>> corners[1].round(3), int(depth.argmax())
    (array([ 0.   , -0.333]), 1)
    """
    azimuth, elevation = np.deg2rad(view)
    eye = np.array(
        [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
    )
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    return _SOLID @ np.stack((right, np.cross(eye, right)), axis=1), _SOLID @ eye


def _is_seen(one: int, other: int, corners: FloatArray, depth: FloatArray) -> bool:
    """Tell whether an edge belongs to a face that looks towards the eye."""
    solid = np.column_stack((corners, depth))
    rest = [k for k in range(4) if k not in (one, other)]
    for third, opposite in (rest, rest[::-1]):
        normal = np.cross(solid[other] - solid[one], solid[third] - solid[one])
        outward = normal * -np.sign(normal @ (solid[opposite] - solid[one]))
        if outward[2] > 0:
            return True
    return False


def _spread(count: int) -> FloatArray:
    """Return so many shares of four groups, spread evenly, some of them near the faces."""
    steps = np.arange(1, validation.count("starts", count) + 1)[:, None]
    golden = 1.22074408460575947536 ** -np.arange(1.0, 4.0)  # of three dimensions: the root of x⁴ = x + 1
    cuts = np.sort((0.5 + steps * golden) % 1, axis=1)
    parts: FloatArray = np.diff(cuts, axis=1, prepend=0.0, append=1.0) ** 2
    found: FloatArray = parts / parts.sum(axis=1, keepdims=True)
    return found
