"""What a notebook shows of a result: a small table, and a picture of it where matplotlib is installed."""

from __future__ import annotations

import html
import importlib
from collections.abc import Mapping

__all__ = ["summary"]

_ROW = '<tr><th style="text-align:left;padding:0 1em 0 0">{}</th><td style="text-align:left">{}</td></tr>'


def summary(heading: str, rows: Mapping[str, object], result: object, picture: str) -> str:
    """Return a result as HTML.

    Parameters
    ----------
    heading : str
        What kind of result it is.
    rows : mapping
        Name -> value, in the order shown.
    result : object
        What is drawn.
    picture : str
        Name of the function of `evodyn.plots.inline` that draws it.

    Examples
    --------
    >>> print(summary("Run", {"groups": 3}, None, "nothing"))
    <div><strong>Run</strong><table><tr><th ...>groups</th><td ...>3</td></tr></table></div>
    """
    lines = "".join(_ROW.format(html.escape(name), html.escape(str(value))) for name, value in rows.items())
    table = f"<strong>{html.escape(heading)}</strong><table>{lines}</table>"
    image = _image(result, picture)
    if not image:
        return f"<div>{table}</div>"
    return (
        '<div style="display:flex;flex-wrap:wrap;gap:1.5em;align-items:flex-start">'
        f"<div>{table}</div>{image}</div>"
    )


def _image(result: object, picture: str) -> str:
    """Return the picture as an image element; nothing without matplotlib."""
    try:  # the wing of the plots lies above this one, and is loaded by whoever looks
        inline = importlib.import_module("evodyn.plots.inline")
    except ImportError:
        return ""
    draw = getattr(inline, picture, None)
    return "" if draw is None else str(inline.image(draw, result))
