"""Masses of a run over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties

from evodyn.core.arrays import FloatArray
from evodyn.plots.canvas import GREY, TIME, axes_or_new, names_of, readable, shades
from evodyn.simulate.run import Run
from evodyn.simulate.tables import contribution_of

__all__ = ["draw_lives", "masses", "ranking"]

_MOST = 300  # lines; more hide one another
_NAMED = 10  # groups; more names find no room
_LINE = 1.15  # height of a name, in sizes of its letters


def masses(
    run: Run,
    ax: Axes | None = None,
    *,
    shares: bool = False,
    groups: npt.ArrayLike | None = None,
    log: bool | None = None,
    names: Sequence[object] | None = None,
) -> Axes:
    """Draw the masses of a run over time, with its extinctions.

    Darker groups are fitter: they have the greater contribution or, where the landscape declares none, the
    greater mass at the end. A cross marks the first extinction of a group, after which its line is thin.

    Parameters
    ----------
    run : Run
        Of `solve`, `iterate` or `extend`, or a member of an ensemble.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    shares : bool, optional
        Draw shares of the total mass (of the block) in place of masses.
    groups : array_like of int or bool, optional
        Those drawn. By default all, or 300 evenly spaced in their ranking where there are more.
    log : bool, optional
        Whether the masses have a logarithmic axis. By default they have if the run watches a threshold, or
        masses fall below 1 % of the largest.
    names : sequence, optional
        A name for each group of the run, for up to ten groups that are drawn; their numbers by default.

    Returns
    -------
    matplotlib Axes
        Its first lines are the groups, in their order.

    Raises
    ------
    ValueError
        If `run` is not a single run, or `names` are not as many as its groups.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import numpy as np, evodyn as ed
    >>> landscape = ed.landscapes.Constant([1.0, 0.8, 0.0])
    >>> run = ed.solve(ed.Replicator(), landscape, np.ones(3), (0.0, 20.0),
    ...                extinction=ed.Extinction(threshold=1e-3))
    >>> ax = ed.plots.masses(run)
    >>> bool((ax.lines[1].get_ydata() == run.masses[:, 1]).all()), ax.get_yscale()
    (True, 'log')
    """
    order = ranking(run)
    values = np.asarray(run.shares if shares else run.masses)
    n = values.shape[1]
    chosen = _chosen(groups, order)
    titles = names_of(names, n)
    colours: Any = np.empty((n, 3))
    colours[order] = shades(n)
    thresholds = None if shares or not run.extinction else np.broadcast_to(run.extinction.threshold, n)
    shown = values[:, chosen][np.isfinite(values[:, chosen])]
    if log is None:
        wide = shown.min(initial=np.inf) < 0.01 * shown.max(initial=0.0)
        log = bool((shown > 0).any()) and (run.extinction is not None or bool(wide))
    ax = axes_or_new(ax)
    deaths = run.extinction_time
    heights = _heights(run, values, thresholds)
    draw_lives(ax, run.t, values[:, chosen], deaths[chosen], heights[chosen], colours[chosen])
    ax.set(xlabel=TIME, ylabel="share" if shares else "mass")
    ax.margins(x=0.01)
    _limits(ax, shown, None if thresholds is None else float(thresholds[chosen].min()), log)
    visible = ax.get_ylim()[0]
    if thresholds is not None and (thresholds == thresholds[0]).all() and thresholds[0] >= visible:
        threshold = float(thresholds[0])
        ax.axhline(threshold, color=GREY, linewidth=0.8, linestyle=":", zorder=0)
        look: dict[str, Any] = {"color": GREY, "fontsize": "small", "va": "center", "annotation_clip": False}
        place = (1, threshold), (3, 0), ax.get_yaxis_transform(), "offset points"
        ax.annotate(f"extinct\nbelow\n{threshold:g}", *place, **look)
    if len(chosen) <= _NAMED:
        _name(ax, run, values, heights, chosen, titles, colours)
    elif len(chosen) < n:
        note = f"{len(chosen)} of {n} groups"
        ax.text(1, 1, note, transform=ax.transAxes, ha="right", va="bottom", color=GREY, fontsize="small")
    return ax


def draw_lives(
    ax: Axes, t: FloatArray, values: FloatArray, deaths: FloatArray, heights: FloatArray, colours: Any
) -> None:
    """Draw values of shape (T, N) over time, heavy until each group's death, which a cross marks.

    Parameters
    ----------
    ax : matplotlib Axes
        Where to draw: N lines, then those of the living parts.
    t : array, shape (T,)
    values : array, shape (T, N)
    deaths, heights : array, shape (N,)
        When a group dies, inf if it does not, and how high its cross is.
    colours : sequence of N colours
    """
    dead = np.isfinite(deaths)
    for k, colour in enumerate(colours):
        ax.plot(t, values[:, k], color=colour, linewidth=0.4 if dead[k] else 1.3)
    for k, colour in enumerate(colours):
        if dead[k] and deaths[k] > t[0]:
            living = t < deaths[k]
            ends = np.append(t[living], deaths[k]), np.append(values[living, k], heights[k])
            ax.plot(*ends, color=colour, linewidth=1.3)
    marked: Any = [colours[k] for k in np.flatnonzero(dead)]
    ax.scatter(deaths[dead], heights[dead], 18, marked, marker="x", linewidths=1.1, zorder=3)


def ranking(run: Run) -> npt.NDArray[np.intp]:
    """Return the groups from the least fit to the fittest, as far as the run knows it.

    Raises
    ------
    ValueError
        If it is not a single run.
    """
    if np.ndim(run.extinction_time) != 1:
        raise ValueError(f"run is {type(run).__name__}; expected a single run, such as a member ensemble[0].")
    ends = run.end_state.log_masses
    known = contribution_of(run.landscape, len(ends))
    return np.lexsort((ends, ends if known is None else known))


def _chosen(groups: npt.ArrayLike | None, order: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the numbers of the groups to draw."""
    if groups is None:
        few = np.linspace(0, len(order) - 1, min(len(order), _MOST)).round().astype(int)
        return np.sort(order[few])
    return np.atleast_1d(np.arange(len(order))[np.asarray(groups)])


def _heights(run: Run, values: FloatArray, thresholds: FloatArray | None) -> FloatArray:
    """Return the height of every group at its first extinction, NaN if it has none."""
    heights = np.full(values.shape[1], np.nan)
    for k in np.flatnonzero(np.isfinite(run.extinction_time)):
        death = run.extinction_time[k]
        if thresholds is not None and death > run.t[0]:
            heights[k] = thresholds[k]
        else:
            heights[k] = np.interp(death, run.t, values[:, k])
    return heights


def _limits(ax: Axes, shown: FloatArray, threshold: float | None, log: bool) -> None:
    """Set the scale and limits of the masses; on a logarithmic axis a decade below the threshold is shown."""
    top = max(shown.max(initial=0.0), threshold or 0.0) or 1.0
    ax.set_yscale("log" if log else "linear")
    if not log:
        ax.set_ylim(0, 1.05 * top)
        return
    lowest = shown[shown > 0].min(initial=top)
    floor = 1e-6 * top if threshold is None else threshold / 10
    ax.set_ylim(min(max(lowest / 2, floor), top / 10), 2 * top)


def _name(
    ax: Axes,
    run: Run,
    values: FloatArray,
    heights: FloatArray,
    chosen: npt.NDArray[np.intp],
    names: list[str],
    colours: Any,
) -> None:
    """Write names at the ends of the lines, moved apart, and above crosses, in rows where those are close."""
    bottom, top = ax.get_ylim()
    scale = 72 / ax.figure.dpi
    line = _LINE * FontProperties(size="small").get_size_in_points()
    ends = {k: values[-1, k] for k in chosen if bottom <= values[-1, k] <= top}
    at: dict[Any, float] = {}
    last = -np.inf
    for k in sorted(ends, key=lambda k: (float(ends[k]), float(values[0, k]))):
        height = float(ax.transData.transform((run.t[-1], ends[k]))[1]) * scale
        at[k] = max(height, last + line)
        last = at[k]
        place = (run.t[-1], ends[k]), (5, at[k] - height)
        look: dict[str, Any] = {"color": readable(colours[k]), "va": "center", "fontsize": "small"}
        ax.annotate(names[k], *place, "data", "offset points", annotation_clip=False, **look)
    rows: list[float] = []  # where the names end that stand in each row above the crosses
    for k in sorted((k for k in chosen if k not in ends), key=lambda k: float(run.extinction_time[k])):
        if not np.isfinite(run.extinction_time[k]):
            continue
        across = float(ax.transData.transform((run.extinction_time[k], 1.0))[0]) * scale
        row = next((row for row, end in enumerate(rows) if end < across), len(rows))
        rows[row : row + 1] = [across + line * max(1, 0.6 * len(names[k]))]
        place = (run.extinction_time[k], heights[k]), (3, 3 + line * row)
        look = {"color": readable(colours[k]), "fontsize": "small"}
        ax.annotate(names[k], *place, "data", "offset points", **look)
