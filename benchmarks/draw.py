"""Work against precision, drawn from what was saved: ``python -m benchmarks.draw FOLDER FIGURES``."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from benchmarks.rows import OURS

__all__ = ["drawn", "front"]

Point = tuple[float, float]

LOOKS: dict[str, dict[str, Any]] = {
    OURS: {"color": "#004d80", "marker": "o", "linewidth": 2.2, "zorder": 3},
    "CyRK": {"color": "#d55e00", "marker": "s"},
    "SciPy": {"color": "#009e73", "marker": "^"},
    "heyoka": {"color": "#cc79a7", "marker": "D"},
    "diffrax": {"color": "#e69f00", "marker": "v"},
    "scikit-sundae": {"color": "#56b4e9", "marker": "P"},
    "torchdiffeq": {"color": "0.4", "marker": "X"},
    "egttools": {"color": "black", "marker": "1"},
    "nashpy": {"color": "black", "marker": "2"},
    "popgames": {"color": "black", "marker": "3"},
}
"""Colours that are told apart by all eyes, and a marker for each library besides."""

COLUMNS, MOST, FEWEST_LIBRARIES = 3, 12, 3
ERRORS = (1e-11, 1e-2)


def front(points: Sequence[Point]) -> list[Point]:
    """Return the points (error, seconds) that no other point beats in both, the fastest first."""
    best: list[Point] = []
    for error, seconds in sorted(points, key=lambda point: (point[1], point[0])):
        if not best or error < best[-1][0]:
            best.append((error, seconds))
    return best


def drawn(folder: Path, figures: Path) -> Path | None:
    """Draw the scans of a folder; return the path of the figure without its ending, or None without scans."""
    about = json.loads((folder / "machine.json").read_text(encoding="utf-8"))
    works = _curves(folder)
    if not works:
        return None
    columns = min(COLUMNS, len(works))
    rows = math.ceil(len(works) / columns)
    mpl.rcParams.update(
        {"font.size": 8, "axes.titlesize": 8, "axes.titlelocation": "left", "pdf.fonttype": 42}
    )
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(2.4 * columns, 0.5 + 1.9 * rows),
        sharex=True,
        layout="constrained",
        squeeze=False,
    )
    target = float(about["target"])
    for axes, (work, curves) in zip(grid.flat, works.items(), strict=False):
        _panel(axes, work, curves, target)
    for axes in list(grid.flat)[len(works) :]:
        axes.set_axis_off()
    for axes in grid[:, 0]:
        axes.set_ylabel("processor time (ms)")
    for axes in grid[-1]:
        axes.set_xlabel("largest error of ln p")
    shown = [library for library in LOOKS if any(library in curves for curves in works.values())]
    handles = [mpl.lines.Line2D([], [], label=library, **LOOKS[library]) for library in shown]
    figure.legend(handles=handles, loc="outside lower center", ncols=2 + columns, frameon=False)
    figures.mkdir(parents=True, exist_ok=True)
    path = figures / "benchmarks"
    for kind in ("pdf", "png"):
        figure.savefig(path.with_suffix(f".{kind}"), dpi=200)
    plt.close(figure)
    path.with_suffix(".txt").write_text(_caption(about), encoding="utf-8")
    return path


def _curves(folder: Path) -> dict[str, dict[str, list[Point]]]:
    """Return for each work that several libraries did the front of each of them."""
    found: dict[str, dict[str, list[Point]]] = {}
    with (folder / "timings.csv").open(newline="", encoding="utf-8") as file:
        library_of = {(row["work"], row["method"]): row["library"] for row in csv.DictReader(file)}
    with (folder / "scans.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            error, seconds = float(row["error"]), float(row["seconds"])
            if error <= ERRORS[1]:
                library = library_of[row["work"], row["method"]]
                # Rounding is no precision: what is exact is drawn at the edge.
                point = max(error, ERRORS[0]), 1e3 * seconds
                found.setdefault(row["work"], {}).setdefault(library, []).append(point)
    several = {work: curves for work, curves in found.items() if len(curves) >= FEWEST_LIBRARIES}
    return {
        work: {library: front(points) for library, points in curves.items()}
        for work, curves in list(several.items())[:MOST]
    }


def _panel(axes: Axes, work: str, curves: Mapping[str, list[Point]], target: float) -> None:
    for library, points in curves.items():
        axes.plot(*zip(*points, strict=True), markersize=4, **LOOKS[library])
    axes.axvline(target, color="0.7", linewidth=0.8, zorder=0)
    seconds = [point[1] for points in curves.values() for point in points]
    decades = 10.0 ** math.floor(math.log10(min(seconds))), 10.0 ** math.ceil(math.log10(max(seconds)))
    axes.set(xscale="log", yscale="log", xlim=ERRORS[::-1], ylim=decades, title=work)
    axes.spines[["top", "right"]].set_visible(False)


def _caption(about: Mapping[str, str]) -> str:
    caption = (
        "Processor time against the largest error of ln p over all saved times and groups above 1e-12: "
        "for each library the best of its methods and tolerances. Lower and to the right is better. "
        "Grey: the error at which times are quoted. "
        f"{about['date']}, {about['processor']}, {about['cores']} cores."
    )
    quick = "Quick run: it shows that the machinery works, and is no result. "
    return (quick if about["quick"] == "True" else "") + caption + "\n"


if __name__ == "__main__":
    print(drawn(Path(sys.argv[1]), Path(sys.argv[2])))
