"""What pictures of shares have in common: corners, the flow, its rest points and its paths."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from evodyn.core import validation
from evodyn.core.arrays import FloatArray, host, real
from evodyn.equilibria.conditions import RestPointProblem
from evodyn.equilibria.equilibrium import Equilibrium, all_equilibria
from evodyn.equilibria.stability import Stability
from evodyn.model.dynamics import Dynamics
from evodyn.model.fitness import LandscapeFunction, fitness_at_log_masses
from evodyn.simulate.solve import solve

__all__ = [
    "MARKERS",
    "PATH",
    "RestPoints",
    "Velocity",
    "draw_arrow",
    "draw_corner_names",
    "draw_key",
    "draw_marks",
    "draw_rest_points",
    "horizon",
    "marks_of",
    "paths_from",
    "rest_points_of",
    "share_velocity",
    "total_of",
]

Velocity = Callable[[FloatArray], FloatArray]
"""Velocity of shares (M, N) at shares (M, N)."""
RestPoints = bool | Sequence[Equilibrium]

PATH = "#a63600"
"""Of trajectories: a brown that is told from blue in grey and by the colour-blind."""

MARKERS: dict[Stability, dict[str, Any]] = {
    Stability.STABLE: {"marker": "o", "markerfacecolor": "black", "label": "stable"},
    Stability.NEUTRAL: {"marker": "D", "markerfacecolor": "0.7", "label": "neutral"},
    Stability.UNSTABLE: {"marker": "o", "markerfacecolor": "white", "label": "unstable"},
    Stability.INDETERMINATE: {"marker": "s", "markerfacecolor": "white", "label": "indeterminate"},
}
"""Filled attracts, empty repels: fill and shape say it, not colour."""
_LOOK: dict[str, Any] = {"linestyle": "none", "color": "black", "markersize": 6}


def check_groups(dynamics: Dynamics, landscape: LandscapeFunction, n: int) -> None:
    """Raise `ValueError` unless these are `n` groups that compete with one another."""
    declared = getattr(landscape, "groups", None)
    if declared not in (None, n):
        raise ValueError(f"landscape is for {declared} groups; expected {n}, one for each corner.")
    dynamics.check(n)
    if len(dynamics.blocks(n)) > 1:
        raise ValueError("dynamics has several blocks; expected one population, whose shares sum to 1.")


def total_of(dynamics: Dynamics, landscape: LandscapeFunction, total_mass: float | None, n: int) -> float:
    """Return the total mass: the one given, or the one that does not matter or is fixed by mutation."""
    if total_mass is not None:
        return validation.positive("total_mass", total_mass)
    support = np.ones(n, dtype=bool)
    total = float(RestPointProblem.of(dynamics, landscape, None, support).totals[0])
    if not np.isfinite(total):
        raise ValueError("total_mass is None, and the dynamics does not conserve it; expected a number.")
    return total


def share_velocity(
    dynamics: Dynamics, landscape: LandscapeFunction, total_mass: float, time: float = 0.0
) -> Velocity:
    """Return the velocity of the shares as a function of them, at a total mass and a time.

    Examples
    --------
    >>> import numpy as np, evodyn as ed
    >>> velocity = share_velocity(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0, 0.0]), 2.0)
    >>> velocity(np.array([[0.5, 0.5, 0.0]]))
    array([[ 0.25, -0.25,  0.  ]])
    """

    def velocity(shares: FloatArray) -> FloatArray:
        masses = total_mass * shares
        with np.errstate(divide="ignore"):
            logs = np.log(masses)
        fitness = np.array([real(fitness_at_log_masses(landscape, time, row)) for row in logs])
        fitness[np.isneginf(logs) & ~np.isfinite(fitness)] = 0.0  # absent groups on an entropic landscape
        change = np.asarray(host(dynamics.velocity(masses, fitness, time=time)))
        moved: FloatArray = (change - shares * change.sum(axis=1, keepdims=True)) / total_mass
        return moved

    return velocity


def rest_points_of(
    dynamics: Dynamics, landscape: LandscapeFunction, total_mass: float | None, chosen: RestPoints
) -> tuple[Equilibrium, ...]:
    """Return the rest points to draw: all, none, or those given."""
    if not isinstance(chosen, bool):
        return tuple(chosen)
    return all_equilibria(dynamics, landscape, total_mass=total_mass) if chosen else ()


def draw_rest_points(
    ax: Axes, points: Sequence[Equilibrium], corners: FloatArray, velocity: Velocity
) -> None:
    """Mark rest points by their stability, and join neutral ones between which all is at rest."""
    places = [point.masses / point.masses.sum() for point in points]
    neutral = [x for x, p in zip(places, points, strict=True) if p.stability is Stability.NEUTRAL]
    scale = np.abs(velocity(np.full((1, len(corners)), 1 / len(corners)))).max(initial=1e-300)
    for one, other in itertools.combinations(neutral, 2):
        between = np.array([one + weight * (other - one) for weight in (0.25, 0.5, 0.75)])
        if np.abs(velocity(between)).max() < 1e-9 * max(scale, 1.0):
            line = np.array([one, other]) @ corners
            ax.plot(*line.T, color="0.55", linewidth=2.5, zorder=2.5, solid_capstyle="round")
    flat = np.array(places).reshape(-1, len(corners)) @ corners
    draw_marks(ax, flat, [point.stability for point in points])


def draw_marks(ax: Axes, places: FloatArray, kinds: Sequence[Stability], size: float = 6.0) -> None:
    """Mark places in the plane by the stability of the rest points there."""
    for (x, y), kind in zip(places, kinds, strict=True):
        look = _LOOK | MARKERS[kind] | {"markersize": size}
        del look["label"]
        ax.plot([x], [y], clip_on=False, zorder=4, **look)


def marks_of(kinds: Collection[Stability]) -> list[Line2D]:
    """Return the marks of these kinds of rest points for a legend."""
    return [Line2D([], [], **_LOOK, **look) for kind, look in MARKERS.items() if kind in kinds]


def draw_key(ax: Axes, points: Sequence[Equilibrium], *further: Line2D) -> None:
    """Say what the marks mean, in the corner that a triangle leaves free."""
    handles = [*marks_of({point.stability for point in points}), *further]
    if handles:
        look: dict[str, Any] = {"frameon": False, "fontsize": "small", "borderpad": 0}
        look |= {"handletextpad": 0.5, "handlelength": 1.2}
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(0.72, 1.0), **look)


def draw_corner_names(ax: Axes, corners: FloatArray, names: Sequence[str]) -> None:
    """Write names outside the corners."""
    centre = corners.mean(axis=0)
    for corner, name in zip(corners, names, strict=True):
        away = (corner - centre) / np.hypot(*(corner - centre))
        sides: dict[str, Any] = {"ha": "center" if abs(away[0]) < 0.3 else "left" if away[0] > 0 else "right"}
        sides["va"] = "center" if abs(away[1]) < 0.3 else "bottom" if away[1] > 0 else "top"
        ax.annotate(name, corner, 7 * away, "data", "offset points", annotation_clip=False, **sides)


def draw_arrow(ax: Axes, path: FloatArray, color: Any) -> None:
    """Put an arrow head on a path in the plane, in the middle of it or, if that is near, at 0.3."""
    lengths = np.concatenate(([0.0], np.cumsum(np.hypot(*np.diff(path, axis=0).T))))
    if lengths[-1] < 0.02:
        return
    middle = min(lengths[-1] / 2, 0.3)
    tail, head = ([np.interp(s, lengths, x) for x in path.T] for s in (middle, middle + 0.01))
    look: dict[str, Any] = {"arrowstyle": "-|>", "color": color, "mutation_scale": 9, "linewidth": 1}
    ax.annotate(
        "", (head[0], head[1]), (tail[0], tail[1]), zorder=3, arrowprops=look | {"shrinkA": 0, "shrinkB": 0}
    )


def horizon(velocity: Velocity, shares: FloatArray) -> float:
    """Return 60 times that in which shares at these places change by themselves; most have then settled."""
    rates = np.abs(velocity(shares) / np.where(shares > 0, shares, np.inf)).max(axis=1)
    return 60 / float(np.median(rates)) if np.median(rates) > 0 else 1.0


def paths_from(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    starts: npt.ArrayLike,
    total_mass: float,
    velocity: Velocity,
    t_end: float | None,
) -> list[FloatArray]:
    """Return the shares along the trajectories from `starts`, each of shape (T, N).

    Without `t_end` they last for 60 times that in which shares change by themselves, at the starts.

    Raises
    ------
    ValueError
        If starts are no shares.
    """
    shares = validation.finite_array("starts", starts, ndim=2, least=0.0)
    if not np.allclose(shares.sum(axis=1), 1.0):
        raise ValueError("starts has rows that do not sum to 1; expected shares, one row for each start.")
    span = (0.0, horizon(velocity, shares) if t_end is None else validation.positive("t_end", t_end))
    times = np.linspace(*span, 600)
    return [solve(dynamics, landscape, total_mass * x, span, save_at=times).shares for x in shares]
