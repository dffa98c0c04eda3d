"""Shares of all groups, one on the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from evodyn.core.arrays import FloatArray
from evodyn.plots.canvas import TIME, axes_or_new, contrast, names_of, shades
from evodyn.plots.trajectories import ranking
from evodyn.simulate.run import Run
from evodyn.simulate.tables import shares_of_blocks

__all__ = ["muller"]

_ROOM = 0.05  # least height of an area that is named
_AREAS = 80  # more would be all edges


def muller(run: Run, ax: Axes | None = None, *, names: Sequence[object] | None = None) -> Axes:
    """Draw the shares of all groups over time as areas, one on the other: a Muller plot.

    Areas lie in the order of fitness, the fittest and darkest at the bottom. Shares are those of the total
    mass, of all blocks together where there are several. Of more than 80 groups, neighbours in this order
    have an area in common.

    Parameters
    ----------
    run : Run
        Of `solve`, `iterate` or `extend`, or a member of an ensemble.
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    names : sequence, optional
        A name for each group, written into its area where there is room; their numbers by default.

    Returns
    -------
    matplotlib Axes
        Its collections are the areas from the bottom to the top.

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
    >>> run = ed.solve(ed.Replicator(), landscape, np.ones(3), (0.0, 20.0))
    >>> ax = ed.plots.muller(run)
    >>> len(ax.collections), [text.get_text() for text in ax.texts]
    (3, ['0', '1', '2'])
    """
    order = ranking(run)[::-1]
    n = len(order)
    titles = names_of(names, n)
    areas = np.array_split(np.arange(n), min(n, _AREAS))
    heights = np.cumsum(shares_of_blocks(run.log_masses, [slice(0, n)])[:, order], axis=1)
    edges = np.column_stack((np.zeros(len(run.t)), heights[:, [area[-1] for area in areas]]))
    ax = axes_or_new(ax)
    for k, colour in enumerate(shades(len(areas))[::-1]):
        low, high = edges[:, k], edges[:, k + 1]
        ax.fill_between(run.t, low, high, facecolor=colour, edgecolor="white", linewidth=0.5)
        if n <= _AREAS:
            _name(ax, run.t, low, high, titles[order[k]], colour)
    ax.set(xlabel=TIME, ylabel="share", xlim=(run.t[0], run.t[-1]), ylim=(0, 1))
    ax.margins(0)
    return ax


def _name(ax: Axes, t: FloatArray, low: FloatArray, high: FloatArray, name: str, colour: Any) -> None:
    """Write a name where the area has most room for a box as wide as it, if that is enough."""
    span = t[-1] - t[0]
    half = min(0.03 + 0.014 * len(name), 0.5)  # of the span
    centres = t[0] + np.linspace(half, 1 - half, 60) * span
    across = centres[:, None] + half * np.linspace(-1, 1, 9) * span
    floor = np.interp(across, t, np.nan_to_num(low)).max(axis=1)
    room = np.interp(across, t, np.nan_to_num(high)).min(axis=1) - floor
    best = int(room.argmax())
    if room[best] < _ROOM:
        return
    colour_of_text = "white" if contrast(colour) >= 4.5 else "black"
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": "small", "color": colour_of_text}
    ax.text(centres[best], floor[best] + room[best] / 2, name, **look)
