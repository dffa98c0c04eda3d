"""What all plots share: axes, colours that are told apart in grey, and texts that can be read on white."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, to_rgb

__all__ = ["DARK", "GREY", "TIME", "axes_or_new", "contrast", "names_of", "pale", "readable", "shades"]

DARK = "#004d80"
"""Of what is shown where there is only one thing."""
GREY = "0.4"
"""Of what is said about it."""
TIME = "time (1/fitness)"

RGB = tuple[float, float, float]


def axes_or_new(ax: Axes | None, *, bare: bool = False) -> Axes:
    """Return `ax`, or the axes of a new figure, which pyplot knows and shows; `bare` ones are square."""
    if ax is None:
        from matplotlib import pyplot as plt

        size = (4.2, 3.8) if bare else (4.8, 3.2)
        _, ax = plt.subplots(figsize=size, layout="constrained")
    if bare:
        ax.set_aspect("equal")
        ax.set_axis_off()
    else:
        ax.spines[["top", "right"]].set_visible(False)
    return ax


def contrast(colour: Any) -> float:
    """Return the contrast with white, from 1 to 21, as guidelines for texts measure it.

    Examples
    --------
    >>> contrast("white"), round(contrast("black"))
    (1.0, 21)
    """
    parts = np.array(to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return 1.05 / (float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05)


def readable(colour: Any) -> RGB:
    """Return `colour`, darkened until a text in it can be read on white (a contrast of 4.5).

    Examples
    --------
    >>> contrast("yellow") < 1.1 and contrast(readable("yellow")) >= 4.5
    True
    >>> readable("navy") == to_rgb("navy")
    True
    """
    red, green, blue = to_rgb(colour)
    while contrast((red, green, blue)) < 4.5:
        red, green, blue = 0.96 * red, 0.96 * green, 0.96 * blue
    return red, green, blue


def shades(count: int) -> list[RGB]:
    """Return colours for an ordered quantity, from light to dark.

    They darken evenly, so that the order survives colour blindness and grey print, and none is too pale for a
    line on white (a contrast of 3).

    Examples
    --------
    >>> values = [contrast(colour) for colour in shades(5)]
    >>> values == sorted(values) and values[0] >= 3
    True
    """
    places = np.linspace(0.41, 0.98, count) if count > 1 else [0.8]
    return [to_rgb(colour) for colour in mpl.colormaps["viridis_r"](places)]


def pale(count: int = 64) -> ListedColormap:
    """Return a scale from white to a blue on which black lines and texts stand out."""
    return ListedColormap(mpl.colormaps["Blues"](np.linspace(0.0, 0.5, count)))


def names_of(names: Sequence[object] | None, n: int) -> list[str]:
    """Return a name for each of `n` groups: those given, or their numbers from 0.

    Raises
    ------
    ValueError
        If they are not as many as groups.
    """
    if names is None:
        return [str(k) for k in range(n)]
    if len(names) != n:
        raise ValueError(f"names has {len(names)} entries; expected one for each of {n} groups.")
    return [str(name) for name in names]
