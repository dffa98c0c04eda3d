"""What all figures share: reading saved data, one look, and PDF, PNG and caption in one call."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import xarray as xr

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from evodyn.core import netcdf
from evodyn.core.atomic import replacing
from evodyn.core.checksums import read_text
from evodyn.plots.canvas import readable, shades

__all__ = [
    "GREY",
    "OURS",
    "PAPER",
    "RIM",
    "WIDTH",
    "key",
    "label_line",
    "letter",
    "note",
    "quick",
    "read",
    "read_json",
    "read_rows",
    "rows_of",
    "save",
    "shades",
    "specification",
    "start",
    "symbol",
]

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
FIGURES = ROOT / "figures"
WIDTH = 7.2
"""Full text width in inches."""
GREY = "0.45"
PAPER = "#d55e00"
"""What the paper prints: vermilion, in grey print the lighter of the two."""
OURS = "#004d80"
"""What is found here: dark blue."""
RIM: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.5}
"""What keeps a marker apart from the line below it."""
QUICK = "Quick run at reduced sizes: it shows that the machinery works, and is no result."
MARK_HEIGHT = 0.2
"""Height in inches of the strip below a figure that is marked as quick."""


@dataclasses.dataclass(frozen=True)
class Source:
    """A file that the figure in the making was drawn from.

    Parameters
    ----------
    path : Path
        The file.
    specification, provenance : mapping
        What it was computed from, and by which run; empty where the file does not say.
    """

    path: Path
    specification: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def quick(self) -> bool:
        """Whether it comes from a smoke run, by where it lies or by how it was made."""
        return self.path.is_relative_to(RESULTS / "quick") or "--smoke" in self.provenance.get("command", ())

    def __str__(self) -> str:
        parts = [os.path.relpath(self.path, ROOT)]
        if self.provenance:
            script, *options = self.provenance["command"]
            parts.append(f"made by {' '.join([script, *options])}")
            parts.append(f"on {self.provenance['date'][:10]}")
            parts.append(f"at revision {_short(self.provenance.get('revision'))}")
        parts += [
            f"{name} {found}" for name in ("seed", "seeds") if (found := _found(self.specification, name))
        ]
        return ", ".join(parts)


# What was read since the last figure: a script reads, draws and saves, and the caption names the sources.
_sources: list[Source] = []


def quick() -> bool:
    """Tell whether something read for the figure in the making comes from a smoke run."""
    return any(source.quick for source in _sources)


def _short(revision: str | None) -> str:
    """Return a commit in twelve digits, still marked if the code was changed since."""
    if revision is None:
        return "unknown"
    digits, *changed = revision.split("-")
    return "-".join([digits[:12], *changed])


def _found(value: Any, name: str) -> str | None:
    """Return the first entry called `name`, however deep in nested mappings, as text."""
    if isinstance(value, Mapping):
        if name in value:
            found = value[name]
            return ", ".join(map(str, found)) if isinstance(found, list) else str(found)
        inner = (_found(item, name) for item in value.values())
        return next((found for found in inner if found is not None), None)
    return None


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


def options() -> argparse.Namespace:
    """Return what the command line asks for."""
    parser = argparse.ArgumentParser(description="Draw a figure from what studies have saved.")
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        help="read the data here, in place of results/STUDY, and put the figure here too",
    )
    parser.add_argument(
        "--quick", action="store_true", help="read results/quick/STUDY and write to figures/quick"
    )
    return parser.parse_args()


def _located(study: str, name: str) -> Path:
    """Return where a study's file is; where there is none, say which study makes it and exit.

    A folder given on the command line takes the place of results/STUDY, and of figures: what is drawn
    from a trial run lies beside its data and never replaces a figure.
    """
    results = RESULTS / "quick" if options().quick else RESULTS
    path = (options().folder or results / study).absolute() / name
    if not path.exists():
        smoke = " --smoke" if options().quick else ""
        raise SystemExit(
            f"{os.path.relpath(path)} is missing. The study makes it: python studies/{study}.py{smoke} "
            f"(or: make {study})."
        )
    return path


# Make finds what a figure depends on by these calls in its script: write their arguments as plain strings.


def read(study: str, name: str) -> xr.Dataset:
    """Return a study's saved dataset."""
    path = _located(study, name)
    try:
        data, sealed = netcdf.read(path)
        about = [json.loads(data.attrs.get(key, "{}")) for key in ("specification", "provenance")]
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged, or no saved study ({error}): make it again.") from error
    _note(path, sealed)
    _sources.append(Source(path, *about))
    return data


def read_rows(study: str, name: str) -> list[dict[str, str]]:
    """Return the rows of a study's CSV file."""
    path = _located(study, name)
    rows = rows_of(path)
    _sources.append(Source(path, {}, {}))
    return rows


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    text, sealed = read_text(path)
    _note(path, sealed)
    return list(csv.DictReader(io.StringIO(text, newline="")))


def read_json(study: str, name: str) -> Any:
    """Return the content of a study's JSON file."""
    path = _located(study, name)
    text, sealed = read_text(path)
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} is damaged ({error}): make it again.") from error
    _note(path, sealed)
    provenance = content.get("provenance", {})
    if isinstance(provenance, str):
        provenance = json.loads(provenance)
    _sources.append(Source(path, content.get("specification", {}), provenance))
    return content


def _note(path: Path, sealed: bool) -> None:
    """Warn of a file that has no checksum."""
    if not sealed:
        warnings.warn(f"{os.path.relpath(path)} {netcdf.UNSEALED}", stacklevel=3)


def specification(data: xr.Dataset) -> dict[str, Any]:
    """Return what the data were computed from."""
    described: dict[str, Any] = json.loads(data.attrs["specification"])
    return described


def letter(axes: Axes, name: str, title: str) -> None:
    """Title a panel with its letter and what it shows."""
    axes.set_title(rf"$\bf{{{name}}}$  {title}")


def label_line(
    axes: Axes,
    x: float,
    y: float,
    text: str,
    colour: Any,
    *,
    shift: tuple[float, float] | None = None,
    ha: str = "left",
    va: str = "center",
) -> None:
    """Name a line where it is, in its own colour, instead of in a legend; `shift` is in points.

    Where the line is too pale for a text, its name is darker.
    """
    shift = shift or (3 if ha == "left" else 0, 0)
    look: dict[str, Any] = {"color": readable(colour), "ha": ha, "va": va, "fontsize": 7}
    axes.annotate(text, (x, y), shift, textcoords="offset points", **look)


def note(axes: Axes, x: float, y: float, text: str, colour: Any = "black", **look: Any) -> None:
    """Write a note at a place in the panel, given as fractions of its width and height."""
    axes.text(x, y, text, transform=axes.transAxes, color=readable(colour), fontsize=7, **look)


def symbol(label: str, marker: str = "", line: Any = "none", **look: Any) -> Line2D:
    """Return an entry of a key: a marker, a line, or both, grey unless `look` has a colour."""
    return Line2D([], [], marker=marker, linestyle=line, label=label, **{"color": "0.3", **look})


def key(figure: Figure, symbols: Sequence[Any], *, ncols: int | None = None) -> None:
    """Say below the panels what their symbols stand for."""
    look: dict[str, Any] = {"frameon": False, "fontsize": 7, "handletextpad": 0.5, "columnspacing": 1.4}
    figure.legend(handles=symbols, loc="outside lower center", ncols=ncols or len(symbols), **look)


def save(figure: Figure, name: str, caption: Sequence[str]) -> Figure:
    """Write figures/NAME.pdf, .png and .txt (the caption), print where they are, and return the figure.

    The caption ends with the runs that the data come from. A figure of quick runs goes to figures/quick
    and says what it is, in itself and in its caption.
    """
    drawn_from = list({source.path: source for source in _sources}.values())
    _sources.clear()
    quick = any(source.quick for source in drawn_from)
    folder = output_folder()
    if quick:
        mark(figure)
        caption = [QUICK, *caption]
    caption = [*caption, "Data: " + "; ".join(map(str, drawn_from)) + "."]
    for kind in ("png", "txt", "pdf"):
        with replacing(folder / f"{name}.{kind}") as temporary:
            if kind == "txt":
                temporary.write_text(" ".join(caption) + "\n", encoding="utf-8")
            else:
                # Without dates the same data give the same file.
                metadata = {"CreationDate": None} if kind == "pdf" else {"Software": None}
                figure.savefig(temporary, format=kind, metadata=metadata)
    plt.close(figure)
    print(f"Figure: {os.path.relpath(folder / name)}.pdf (also .png, and the caption as .txt)")
    return figure


def output_folder() -> Path:
    """Return where figures go."""
    return options().folder or (FIGURES / "quick" if options().quick else FIGURES)


def mark(figure: Figure) -> None:
    """Say in a strip below the figure, above it where a key is below, that it shows a quick run."""
    width, height = figure.get_size_inches()
    taller = float(height) + MARK_HEIGHT
    figure.set_size_inches(float(width), taller)
    strip = MARK_HEIGHT / taller
    figure.draw_without_rendering()
    below = not any(key.get_window_extent().y0 < figure.bbox.height / 4 for key in figure.legends)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(rect=(0, strip if below else 0, 1, 1 - strip))  # type: ignore[call-arg]
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 7, "weight": "bold"}
    figure.text(0.5, strip / 2 if below else 1 - strip / 2, QUICK, color=readable(PAPER), **look)
