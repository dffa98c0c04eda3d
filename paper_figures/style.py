"""What all figures share: reading saved data, one look, and PDF, PNG and caption in one call."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from evodyn.atomic import replacing

__all__ = ["GREY", "WIDTH", "label_line", "letter", "read", "save", "shades", "specification", "start"]

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 7.2
"""Full text width in inches."""
GREY = "0.45"


def start() -> None:
    """Set the look: small sans-serif type, thin axes on two sides, fonts kept as text in the PDF."""
    mpl.rcParams.update(
        {
            "figure.constrained_layout.use": True,
            "font.size": 8,
            "axes.titlesize": 8,
            "axes.titlelocation": "left",
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.linewidth": 0.6,
            "xtick.major.width": 0.6,
            "ytick.major.width": 0.6,
            "xtick.minor.width": 0.4,
            "lines.linewidth": 1.4,
            "lines.markersize": 4,
            "pdf.fonttype": 42,
            "savefig.dpi": 200,
        }
    )


def shades(count: int) -> list[tuple[float, float, float, float]]:
    """Return colours for an ordered quantity.

    They darken evenly, so the order survives colour blindness and grey print; the palest of the map are
    left out, for they vanish on white.
    """
    colours: Any = mpl.colormaps["viridis_r"]
    return [colours(x) for x in np.linspace(0.12, 0.95, count)]


def given_folder() -> Path | None:
    """Return the folder named on the command line, if any."""
    return Path(sys.argv[1]) if len(sys.argv) > 1 else None


def read(study: str, name: str) -> xr.Dataset:
    """Return a study's saved dataset; where there is none, say which study makes it and exit.

    A folder given on the command line takes the place of results/STUDY, and of figures: what is drawn
    from a trial run lies beside its data and never replaces a figure.
    """
    path = (given_folder() or ROOT / "results" / study) / name
    if not path.exists():
        raise SystemExit(
            f"{os.path.relpath(path)} is missing. The study makes it: python studies/{study}.py "
            f"(or: make {study})."
        )
    return xr.load_dataset(path, engine="h5netcdf", decode_times=False)


def specification(data: xr.Dataset) -> dict[str, Any]:
    """Return what the data were computed from."""
    described: dict[str, Any] = json.loads(data.attrs["specification"])
    return described


def letter(axes: Axes, name: str, title: str) -> None:
    """Title a panel with its letter and what it shows."""
    axes.set_title(rf"$\bf{{{name}}}$  {title}")


def label_line(
    axes: Axes, x: float, y: float, text: str, colour: Any, *, ha: str = "left", va: str = "center"
) -> None:
    """Name a line where it is, in its own colour, instead of in a legend."""
    axes.annotate(
        text,
        (x, y),
        (3 if ha == "left" else 0, 0),
        textcoords="offset points",
        color=colour,
        ha=ha,
        va=va,
        fontsize=7,
    )


def save(figure: Figure, name: str, caption: Sequence[str]) -> None:
    """Write figures/NAME.pdf, .png and .txt (the caption), and print where they are."""
    folder = given_folder() or ROOT / "figures"
    for kind in ("pdf", "png"):
        # Without dates the same data give the same file.
        metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
        with replacing(folder / f"{name}.{kind}") as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata)
    with replacing(folder / f"{name}.txt") as temporary:
        temporary.write_text(" ".join(caption) + "\n", encoding="utf-8")
    plt.close(figure)
    print(f"Figure: {os.path.relpath(folder / name)}.pdf (also .png, and the caption as .txt)")
