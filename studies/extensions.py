"""What the paper leaves to future work, on the side of the dynamics, with theory beside it.

Redundancy that resolves neutral equilibria, mutation rates that change with time, fitness of several
objectives, and layers that evolve together.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer
import xarray as xr
from rich.console import Console

import _former as _shared
from evodyn.sweeps.sweep import sweep
from evodyn.tasks.extensions import PARTS, Extension, extension

SCHEMA = 2

Row = dict[str, Any]


def main(
    groups: Annotated[int, typer.Option(min=4, help="Number of groups N, each of mass 1.")] = 64,
    heterogeneity: Annotated[float, typer.Option(help="Coefficient of variation of fitness.")] = 0.5,
    decay: Annotated[float, typer.Option(help="λ of Eq. 10, for several objectives and layers.")] = 0.3,
    mutation_rate: Annotated[float, typer.Option(help="μ at the start of a schedule.")] = 0.3,
    seed: _shared.Seed = 0,
    seeds: _shared.Seeds = 1,
    out: _shared.Out = None,
    fresh: _shared.Fresh = False,
    smoke: _shared.Smoke = False,
    workers: _shared.Workers = 1,
    scheduler: _shared.Scheduler = None,
) -> None:
    """Show redundancy, mutation schedules, several objectives and layers that evolve together.

    Writes results/extensions/extensions.nc (everything) and extensions.csv (the table).
    """
    started = time.perf_counter()
    if smoke:
        groups, seeds = min(groups, 24), min(seeds, 2)
    settings: Row = {
        "groups": groups,
        "heterogeneity": heterogeneity,
        "decay": decay,
        "mutation_rate": mutation_rate,
        "seed": seed,
    }
    with _shared.reporting():
        points = [
            Extension(part, **settings, saved_times=101 if smoke else 301, member=member)
            for part in PARTS
            for member in range(1 if part == "layers" else seeds)
        ]
        folder = _shared.folder("extensions", out=out, smoke=smoke)
        options: Row = {"workers": workers, "scheduler": scheduler, "fresh": fresh}
        with _shared.progress("Extensions") as progress:
            results = sweep(extension, points, folder / "points", progress=progress, **options)
    rows = [row for point, result in zip(points, results, strict=True) for row in table_rows(point, result)]
    data = xr.merge(
        [result.drop_dims("quantity") for result in results],
        join="outer",
        compat="no_conflicts",
        combine_attrs="override",
    )
    data.attrs.clear()
    _shared.write_netcdf(
        data,
        folder / "extensions.nc",
        specification=settings | {"schema": SCHEMA, "study": "extensions", "seeds": seeds},
        provenance=_shared.provenance(started),
    )
    _shared.write_csv(rows, folder / "extensions.csv")
    console = Console(width=80, highlight=False)
    console.print(_shared.comparison("Extensions of the flow", printed(rows), digits=5))
    if seeds > 1:
        console.print(f"The first of {seeds} populations; difference: the largest of all of them.\n")
    for name, what in (("csv", "Table"), ("nc", "Data")):
        console.print(f"{what + ':':6} {_shared.shown(folder / 'extensions')}.{name}", soft_wrap=True)


def table_rows(point: Extension, result: xr.Dataset) -> list[Row]:
    """Return one row for each quantity that theory fixes: theory, simulation and their difference."""
    compared = zip(result.quantity.values, result.theory.values, result.simulation.values, strict=True)
    return [
        {
            "member": point.member,
            "part": point.part,
            "quantity": str(quantity),
            "theory": float(theory),
            "simulation": float(simulation),
            "difference": float(simulation - theory),
        }
        for quantity, theory, simulation in compared
    ]


def printed(rows: list[Row]) -> list[Row]:
    """Return the first population's rows, with the largest difference of all populations."""

    def worst(row: Row) -> float:
        same = [r for r in rows if (r["part"], r["quantity"]) == (row["part"], row["quantity"])]
        return max((float(r["difference"]) for r in same), key=abs)

    return [row | {"difference": worst(row)} for row in rows if not row["member"]]


if __name__ == "__main__":
    _shared.command_line(main)()
