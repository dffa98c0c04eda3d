"""Small pictures of results for notebooks."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib import style  # which only pyplot loads by itself
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evodyn.plots.canvas import DARK, axes_or_new
from evodyn.plots.fractions import extinct_fraction
from evodyn.plots.trajectories import masses

__all__ = ["fraction", "image", "masses", "ranked_masses"]

_SIZE = (3.4, 2.2)  # inches
_DPI = 150


def image(draw: Callable[[Any, Axes], object], result: Any) -> str:
    """Return what `draw` draws of a result, as an HTML element that holds a PNG.

    It looks the same whatever style is set, and no figure of pyplot is made.

    Examples
    --------
    >>> image(lambda result, ax: ax.plot(result), [1.0, 2.0])[:38]
    '<img width="340" alt="plot" src="data:'
    """
    with style.context("default"), mpl.rc_context({"font.size": 8, "axes.linewidth": 0.6}):
        figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
        draw(result, figure.subplots())
        content = io.BytesIO()
        figure.savefig(content, format="png")
    text = base64.b64encode(content.getvalue()).decode()
    return f'<img width="{int(100 * _SIZE[0])}" alt="plot" src="data:image/png;base64,{text}">'


def fraction(result: Any, ax: Axes) -> Axes:
    """Draw the fraction extinct of an ensemble."""
    return extinct_fraction(result, ax)


def ranked_masses(point: Any, ax: Axes) -> Axes:
    """Draw the masses of a rest point by rank."""
    axes_or_new(ax)
    ordered = np.sort(point.masses)[::-1]
    ax.bar(np.arange(1, len(ordered) + 1), ordered, width=0.8 if len(ordered) <= 50 else 1.0, color=DARK)
    ax.set(xlabel="rank of the group", ylabel="mass")
    return ax
