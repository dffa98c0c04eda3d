"""Masses of many groups as bands: how they spread over time, such as those of a network in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from evodyn.analysis.records import record_of
from evodyn.plots.canvas import DARK, TIME, axes_or_new, names_of, readable, shades

if TYPE_CHECKING:
    import xarray

    from evodyn.core.arrays import FloatArray
    from evodyn.simulate.run import Run

__all__ = ["BANDS", "network", "quantile_bands"]

BANDS = (1.0, 0.9, 0.5)
"""Fractions of the groups that the bands hold, from the palest to the darkest."""
_STRENGTHS = (0.2, 0.3, 0.5)


def network(
    run: Run | xarray.Dataset,
    ax: Axes | None = None,
    *,
    threshold: float | None = None,
    names: Sequence[object] | None = None,
) -> Axes:
    """Draw how the masses of many groups spread: their median, and bands of half, 90 % and all of them.

    It is made for the masses of a network over training, which is what `evodyn.iterate` returns for the
    signals that a recorder of `nn_bridge` has kept. With several blocks, such as layers, each has its median
    and its band of 90 %.

    Parameters
    ----------
    run : Run or xarray.Dataset
        A dataset has a coordinate `time` and a variable `mass` (time, group).
    ax : matplotlib Axes, optional
        Where to draw; a new figure by default.
    threshold : float, optional
        Mass below which a group is removed, drawn as a line.
    names : sequence, optional
        A name for each block; "layer 1" and so on by default.

    Returns
    -------
    matplotlib Axes

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> import numpy as np, evodyn as ed
    >>> signals = np.random.default_rng(0).lognormal(size=(50, 40))       # a network's, at every step
    >>> landscape = ed.landscapes.Recorded(np.arange(51.0), signals, decay=1e-3)
    >>> run = ed.iterate(ed.Replicator(), landscape, np.ones(40), n_steps=50, step_size=1.0)
    >>> ax = ed.plots.network(run)
    >>> bool((ax.lines[0].get_ydata() == np.median(run.masses, axis=1)).all())
    True
    """
    record = record_of(run)
    ax = axes_or_new(ax)
    if len(record.blocks) == 1:
        quantile_bands(ax, record.t, record.masses, color=DARK, labelled=True)
    else:
        count = len(record.blocks)
        titles = names_of([f"layer {k + 1}" for k in range(count)] if names is None else names, count)
        for block, name, colour in zip(record.blocks, titles, shades(count), strict=True):
            quantile_bands(ax, record.t, record.masses[:, block], color=colour, bands=(0.9,), label=name)
        ax.legend(frameon=False, fontsize="small")
    if threshold is not None:
        ax.axhline(threshold, color="0.4", linewidth=0.8, linestyle=":", zorder=0)
    ax.set(xlabel=TIME, ylabel="mass of a group")
    return ax


def quantile_bands(
    ax: Axes,
    t: npt.ArrayLike,
    values: FloatArray,
    *,
    color: Any = DARK,
    bands: Sequence[float] = BANDS,
    labelled: bool = False,
    label: str | None = None,
) -> None:
    """Draw the median of values of shape (T, N) and bands that hold these fractions of them.

    Parameters
    ----------
    ax : matplotlib Axes
        Where to draw.
    t : array_like, shape (T,)
    values : array, shape (T, N)
    color : optional
        Of all of it.
    bands : sequence of float, optional
        From the widest to the narrowest.
    labelled : bool, optional
        Whether each band says at its right end what it holds.
    label : str, optional
        Of the median, in a legend.
    """
    times = np.asarray(t)
    strengths = _STRENGTHS[-len(bands) :] if len(bands) > 1 else (0.25,)
    for fraction, strength in zip(bands, strengths, strict=True):
        edges = np.quantile(values, ((1 - fraction) / 2, (1 + fraction) / 2), axis=1)
        ax.fill_between(times, *edges, color=color, alpha=strength, linewidth=0)
        if labelled:
            text = "all" if fraction == 1 else f"{fraction:.0%}"
            look: dict[str, Any] = {"va": "center", "color": readable(color), "fontsize": "small"}
            place = (times[-1], edges[1, -1]), (3, 0)
            ax.annotate(text, *place, "data", "offset points", annotation_clip=False, **look)
    ax.plot(times, np.median(values, axis=1), color=color, linewidth=1.2, label=label)
