"""Where selection comes to rest: rest points against long integrations, verdicts against perturbations.

Compares `evodyn.equilibrium` with integration to equilibrium for every dynamics on every family of
landscapes, puts the stability verdicts of small games to the test with perturbations, and computes the flow
of three groups for the figure.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table

import _former as _shared
import evodyn as ed
from evodyn import landscapes
from evodyn.core.labels import about
from evodyn.model.landscapes import LandscapeFunction
from evodyn.sweeps.sweep import sweep
from evodyn.tasks.fixed_points import (
    CLASSICS,
    PAIRS,
    PERTURBATION,
    RELAXATIONS,
    STABILITY_FLAGS,
    Classic,
    Pair,
    confront,
    judge,
    rock_paper_scissors,
)

SCHEMA = 2
FILES = {"Table: ": "fixed_points.csv", "Data:  ": "fixed_points.nc"}
SMALL = 5  # groups of the games
PROBES = 5
SIDE = 15  # points along one side of the vector fields
TRAJECTORY_TIMES = 161

Floats = npt.NDArray[np.float64]
Row = dict[str, Any]


# --- Flows of three groups, for the figure -------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Panel:
    """A flow on the simplex of three groups with total mass 1."""

    title: str
    dynamics: ed.Dynamics
    landscape: LandscapeFunction
    t_end: float
    starts: tuple[tuple[float, float, float], ...]


CENTRE = ((0.36, 0.32, 0.32),)
EDGES = ((0.06, 0.14, 0.80), (0.80, 0.06, 0.14), (0.14, 0.80, 0.06))
WIDE = (*EDGES, (0.14, 0.06, 0.80), (0.80, 0.14, 0.06), (0.06, 0.80, 0.14))
MIDDLE = ((0.37, 0.33, 0.30), (0.30, 0.37, 0.33), (0.33, 0.30, 0.37))
RINGS = ((0.40, 0.33, 0.27), (0.52, 0.31, 0.17), (0.68, 0.24, 0.08))
PANELS = (
    Panel("three hawks", ed.Replicator(), landscapes.MatrixGame(1.0 - 2.0 * np.eye(3)), 30.0, WIDE),
    Panel(
        "coordination",
        ed.Replicator(),
        landscapes.MatrixGame(np.diag([1.0, 1.2, 1.4])),
        60.0,
        (
            (0.40, 0.33, 0.27),
            (0.42, 0.30, 0.28),
            (0.36, 0.38, 0.26),
            (0.34, 0.33, 0.33),
            (0.48, 0.44, 0.08),
            (0.10, 0.50, 0.40),
        ),
    ),
    Panel("inward: win 1.5", ed.Replicator(), rock_paper_scissors(1.5), 60.0, EDGES[:1]),
    Panel("zero-sum: win 1", ed.Replicator(), rock_paper_scissors(1.0), 16.0, RINGS),
    Panel("outward: win 0.5", ed.Replicator(), rock_paper_scissors(0.5), 60.0, CENTRE),
    Panel("Eq. 10, water filling", ed.Replicator(), landscapes.LinearDecay([1.5, 1.0, 0.0], 1.0), 30.0, WIDE),
    Panel("Eq. 8, mutation", ed.SelectionMutation(0.3), landscapes.Constant([1.5, 1.0, 0.0]), 30.0, WIDE),
    Panel(
        "redundant twins",
        ed.Replicator(),
        landscapes.Redundancy([1.0, 1.0, 0.9], [[1, 1, 0], [1, 1, 0], [0, 0, 1]], 2.0),
        30.0,
        (
            (0.90, 0.05, 0.05),
            (0.60, 0.35, 0.05),
            (0.35, 0.60, 0.05),
            (0.05, 0.90, 0.05),
            (0.12, 0.03, 0.85),
            (0.03, 0.12, 0.85),
            (0.075, 0.075, 0.85),
        ),
    ),
)
CODES = list(ed.Stability)


def simplex_nodes(side: int) -> Floats:
    """Return the inner points of a triangular grid as shares, shape (K, 3)."""
    step = np.arange(side) + 1 / 3
    first, second = np.meshgrid(step, step, indexing="ij")
    inside = first + second < side
    shares = np.stack((first[inside], second[inside]), axis=-1) / side
    return np.column_stack((shares, 1.0 - shares.sum(axis=1)))


def flows(side: int) -> xr.Dataset:
    """Return the vector fields, trajectories and rest points of all panels."""
    nodes = simplex_nodes(side)
    most = max(len(panel.starts) for panel in PANELS)
    fields = np.empty((len(PANELS), len(nodes), 3))
    times = np.empty((len(PANELS), TRAJECTORY_TIMES))
    paths = np.full((len(PANELS), most, TRAJECTORY_TIMES, 3), np.nan)
    points = np.full((len(PANELS), 7, 3), np.nan)
    verdicts = np.full((len(PANELS), 7), -1, dtype=np.int8)
    growth = np.full((len(PANELS), 7, 2, 2), np.nan)
    for k, panel in enumerate(PANELS):
        fields[k] = panel.dynamics.velocity(nodes, panel.landscape(0.0, nodes))
        times[k] = panel.t_end * np.linspace(0.0, 1.0, TRAJECTORY_TIMES) ** 2
        for j, start in enumerate(panel.starts):
            run = ed.solve(
                panel.dynamics, panel.landscape, np.array(start), (0.0, panel.t_end), save_at=times[k]
            )
            paths[k, j] = run.masses
        mutation = isinstance(panel.dynamics, ed.SelectionMutation)
        found = ed.all_equilibria(panel.dynamics, panel.landscape, total_mass=None if mutation else 1.0)
        for j, point in enumerate(found):
            modes = np.asarray(point.eigenvalues)
            points[k, j], verdicts[k, j] = point.masses, CODES.index(point.stability)
            growth[k, j, :, 0], growth[k, j, :, 1] = modes.real, modes.imag
    share = {"units": "1"}
    return xr.Dataset(
        {
            "field": (("panel", "node", "share"), fields, about("velocity", "1/time")),
            "node": (("node", "share"), nodes, {"long_name": "where the field is drawn"} | share),
            "path": (
                ("panel", "trajectory", "moment", "share"),
                paths,
                {"long_name": "shares along trajectories"} | share,
            ),
            "path_time": (("panel", "moment"), times, about("time", "time")),
            "rest_point": (("panel", "point", "share"), points, {"long_name": "rest points"} | share),
            "stability": (
                ("panel", "point"),
                verdicts,
                about("verdict on the rest point, -1 where there is none") | STABILITY_FLAGS,
            ),
            "eigenvalue": (
                ("panel", "point", "mode", "part"),
                growth,
                about("eigenvalues on the tangent space", "1/time"),
            ),
        },
        coords={
            "panel": ("panel", [panel.title for panel in PANELS], about("flow")),
            "part": ("part", ["real", "imaginary"], about("part")),
        },
    )


# --- The study -----------------------------------------------------------------------------------------


def main(
    groups: Annotated[
        int, typer.Option(min=2 * SMALL, help="Number of groups where theory has a closed form.")
    ] = 768,
    few: Annotated[
        int, typer.Option(min=2 * SMALL, help="Number of groups where it needs dense matrices.")
    ] = 96,
    seed: _shared.Seed = 0,
    seeds: _shared.Seeds = 1,
    out: _shared.Out = None,
    fresh: _shared.Fresh = False,
    smoke: _shared.Smoke = False,
    workers: _shared.Workers = 1,
    scheduler: _shared.Scheduler = None,
) -> None:
    """Compare rest points with long integrations, and stability verdicts with perturbations.

    Writes results/fixed_points/fixed_points.nc (masses, verdicts, the flows of the figure) and
    fixed_points.csv (the table).
    """
    started = time.perf_counter()
    if smoke:
        groups, few = min(groups, 24), min(few, 16)
    folder = _shared.folder("fixed_points", out=out, smoke=smoke)
    options: Row = {"workers": workers, "scheduler": scheduler, "fresh": fresh}
    with _shared.reporting():
        pairs = [
            Pair(dynamics, family, size(dynamics, family, groups, few), seed, member)
            for dynamics, family in PAIRS
            for member in range(seeds)
        ]
        classics = [Classic(name, 1 if smoke else PROBES, seed) for name in CLASSICS]
        with _shared.progress("Integrating") as progress:
            ends = sweep(confront, pairs, folder / "pairs", progress=progress, **options)
        with _shared.progress("Perturbing") as progress:
            verdicts = sweep(judge, classics, folder / "classics", progress=progress, **options)
        rows = [table_row(pair, end) for pair, end in zip(pairs, ends, strict=True)]
        judged = xr.concat(verdicts, "judged", combine_attrs="override")
        data = flows(SIDE).merge(compared(pairs, ends)).merge(judged)
    specification = {
        "schema": SCHEMA,
        "study": "fixed_points",
        "groups": groups,
        "few": few,
        "seed": seed,
        "seeds": seeds,
        "probes": classics[0].probes,
        "relaxations": RELAXATIONS,
        "perturbation": PERTURBATION,
        "total_mass": 1.0,
        "panels": {panel.title: panel.dynamics.__class__.__name__ for panel in PANELS},
    }
    _shared.write_netcdf(
        data, folder / "fixed_points.nc", specification=specification, provenance=_shared.provenance(started)
    )
    _shared.write_csv(rows, folder / "fixed_points.csv")
    console = Console(width=80, highlight=False)
    console.print(comparison_table(rows, seeds))
    console.print(verdict_table(verdicts))
    written = (f"{what} {_shared.shown(folder / name)}" for what, name in FILES.items())
    for line in (*notes(rows, seeds, judged), *written):
        console.print(line, soft_wrap=True)


def size(dynamics: str, family: str, groups: int, few: int) -> int:
    """Return the number of groups: `few` for linear systems and Newton's iteration, on dense matrices."""
    if family == "MatrixGame":
        return SMALL
    return few if dynamics == "Selection" or family in ("Redundancy", "c/(1 + p)") else groups


def table_row(pair: Pair, end: xr.Dataset) -> Row:
    """Return a pair and what was found for it, number by number."""
    row = {
        "dynamics": pair.dynamics,
        "landscape": pair.family,
        "member": pair.member,
        "groups": pair.groups,
    }
    numbers = {str(name): end[name].item() for name in end.data_vars if not end[name].dims}
    return row | numbers | {name: end.attrs[name] for name in ("stability", "theory", "integrator")}


def compared(pairs: list[Pair], ends: list[xr.Dataset]) -> xr.Dataset:
    """Return the comparison as data: one entry for each draw of each dynamics on each landscape."""
    joint = xr.concat(ends, "case", join="outer", combine_attrs="override")
    labels = [f"{pair.dynamics}: {pair.family}" for pair in pairs]
    return joint.assign_coords(
        case=("case", labels, about("dynamics and landscape")),
        member=("case", [pair.member for pair in pairs], about("member drawn from the seed")),
    )


def comparison_table(rows: list[Row], seeds: int) -> Table:
    """Return the table theory | simulation | difference, one line for each pair."""
    table = _table("Mean fitness at rest; diff.: largest of a mass, relative to the largest mass")
    for name in ("dynamics", "landscape"):
        table.add_column(name, no_wrap=True)
    for name in ("N", "alive", "theory", "simulation", "diff."):
        table.add_column(name, justify="right", no_wrap=True)
    former = ""
    for k in range(0, len(rows), seeds):
        row = rows[k]
        table.add_row(
            row["dynamics"] if row["dynamics"] != former else "",
            row["landscape"],
            f"{row['groups']}",
            f"{row['survivors']}",
            f"{round(row['theory_mean_fitness'], 6) + 0.0:.6f}",
            f"{round(row['simulated_mean_fitness'], 6) + 0.0:.6f}",
            f"{max(draw['difference'] for draw in rows[k : k + seeds]):.0e}",
        )
        former = row["dynamics"]
    return table


def verdict_table(verdicts: list[xr.Dataset]) -> Table:
    """Return the table of verdicts: one line for each case, verdict and fate."""
    table = _table("Verdicts, and what perturbations of every rest point do")
    for name in ("case", "verdict"):
        table.add_column(name, no_wrap=True)
    for name in ("points", "simulation", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, found in zip(CLASSICS, verdicts, strict=True):
        lines: dict[tuple[int, str], list[float]] = {}
        for code, fate, ratio in zip(
            found.verdict.values, found.fate.values, found.perturbation_ratio.values, strict=True
        ):
            lines.setdefault((int(code), str(fate)), []).append(float(ratio))
        for k, ((code, fate), ratios) in enumerate(lines.items()):
            table.add_row(
                "" if k else name,
                CODES[code].name.lower(),
                f"{len(ratios)}",
                fate,
                f"{max(ratios):.0e}" if len(ratios) == 1 else f"{min(ratios):.0e}–{max(ratios):.0e}",
            )
    return table


def _table(title: str) -> Table:
    return Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)


def notes(rows: list[Row], seeds: int, judged: xr.Dataset) -> list[str]:
    """Return the lines that explain the tables."""
    worst = max(row["difference"] for row in rows)
    return [
        f"Largest difference {worst:.1e} over {len(rows) // seeds} pairs; target 1e-10. Integrated for",
        f"{RELAXATIONS:g} times the slowest relaxation time. Mutation: SelectionMutation, its target;",
        "both: Entropic + LinearDecay; Selection: growth at the rate of fitness itself.",
        f"Draws of every pair: {seeds}; mean fitness is that of the first.",
        f"{int(judged.borne_out.sum())} of {judged.sizes['judged']} verdicts are borne out. "
        "Ratio: late over initial distance of the",
        "perturbations (below 0.1 they return, above 10 they leave).",
        "",
    ]


if __name__ == "__main__":
    _shared.command_line(main)()
