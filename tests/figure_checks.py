"""What a look at a figure would find: texts that overlap, leave it or are pale, unnamed axes, tiny type."""

from __future__ import annotations

from itertools import combinations
from typing import Any
from unittest import mock

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from evodyn.plots.canvas import contrast

SMALLEST = 5.5
"""Font size in points."""
PALEST = 4.5
"""Contrast of a text with white, from 1 to 21."""
SLACK = 2.0
"""Pixels at 200 dpi by which two boxes may overlap: a box is as high as its highest possible letter."""


def drawn_texts(figure: Figure) -> list[Text]:
    """Return the texts that drawing the figure really draws; tick labels beyond the limits are not."""
    found: dict[int, Text] = {}
    draw: Any = Text.draw

    def recording(text: Text, renderer: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            found[id(text)] = text
        draw(text, renderer)

    figure.set_dpi(200)
    canvas: Any = FigureCanvasAgg(figure)  # a figure that pyplot has closed lost its own
    canvas.draw()  # lets the layout settle
    with mock.patch.object(Text, "draw", recording):
        canvas.draw()
    return list(found.values())


def corners(text: Text) -> np.ndarray:
    """Return the corners of a text's box in pixels, shape (4, 2), turned as the text is."""
    angle = np.deg2rad(text.get_rotation())
    box = Text.get_window_extent(text)
    centre = np.array([box.x0 + box.x1, box.y0 + box.y1]) / 2
    turned = text.get_rotation()
    text.set_rotation(0)
    level = Text.get_window_extent(text)
    text.set_rotation(turned)
    half = np.array([level.width, level.height]) / 2
    square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found: np.ndarray = centre + square @ turn.T
    return found


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Return by how many pixels two rectangles overlap: 0 if a line of some direction keeps them apart."""
    depths = []
    for edge in (one[1] - one[0], one[2] - one[1], other[1] - other[0], other[2] - other[1]):
        along = edge / np.hypot(*edge)
        a, b = one @ along, other @ along
        depths.append(min(a.max(), b.max()) - max(a.min(), b.min()))
    return max(float(min(depths)), 0.0)


def problems(figure: Figure) -> list[str]:
    """Return what is wrong with a figure, in words."""
    texts = drawn_texts(figure)
    boxes = [corners(text) for text in texts]
    width, height = figure.bbox.size
    found = []
    for text, box in zip(texts, boxes, strict=True):
        if (box < -0.5).any() or (box > (width + 0.5, height + 0.5)).any():
            found.append(f"{text.get_text()!r} leaves the figure")
        if (size := float(text.get_fontsize())) < SMALLEST:
            found.append(f"{text.get_text()!r} is set in {size:g} points")
        if 1.05 < (pale := contrast(text.get_color())) < PALEST:  # white is meant for dark ground
            found.append(f"{text.get_text()!r} has a contrast of {pale:.1f}")
    for (one, box), (other, its) in combinations(zip(texts, boxes, strict=True), 2):
        depth = overlap(box, its)
        if depth > SLACK:
            found.append(f"{one.get_text()!r} and {other.get_text()!r} overlap by {depth:.1f} pixels")
    shown = {id(text) for text in texts}
    for number, axes in enumerate(figure.axes):
        found += [f"axes {number}: {name} has no label" for name in unnamed(axes, shown)]
    return found


def unnamed(axes: Axes, shown: set[int]) -> list[str]:
    """Return the names of the axes that show tick labels but do not say of what."""
    names = ("taxis", "laxis", "raxis") if hasattr(axes, "taxis") else ("xaxis", "yaxis")
    common = {"xaxis": axes.figure.get_supxlabel(), "yaxis": axes.figure.get_supylabel()}
    missing = []
    for name in names:
        axis = getattr(axes, name)
        ticked = any(id(label) in shown for label in axis.get_ticklabels(which="both"))
        if ticked and not (axis.get_label_text().strip() or common.get(name)):
            missing.append(name)
    return missing
