"""How far the discrete maps (Eqs. 12-14) are from the flows that they step along, and when they leave them.

Measures the global error against its leading term in theory, finds by bisection the step sizes at which
the maps flip or first have to be projected, and follows the map of two groups through its period doublings.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich.console import Console
from rich.table import Table

import _former as _shared
from evodyn import Replicator, landscapes
from evodyn.analysis.discrete_stability import orbits
from evodyn.core.labels import about
from evodyn.sweeps.sweep import sweep
from evodyn.tasks.discrete_vs_continuous import MapScenario, bisected, map_error, step_limits

SCHEMA = 1
STUDY = "discrete_vs_continuous"
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Eq. 12, Euler", {"map": "replicator", "scheme": "euler"}),
    ("Eq. 12, exponential", {"map": "replicator", "scheme": "exponential"}),
    ("Eq. 13, Euler", {"map": "normalized_growth", "scheme": "euler"}),
    ("Eq. 13, exponential", {"map": "normalized_growth", "scheme": "exponential"}),
    ("Eq. 14, Euler", {"map": "selection_mutation", "scheme": "euler"}),
    ("Eq. 14, exponential", {"map": "selection_mutation", "scheme": "exponential"}),
)
PLAIN, CLIPPED, MUTATING = "Eq. 12", "Eq. 12, clipped", "Eq. 14"
TWINS = landscapes.LinearDecay([1.0, 1.0], decay=1.0)  # with P = 2 the step size is hλP/N itself
LANDMARKS = {
    "flip": 2.0,
    "cycle splits": 3.0,
    "period 4": 1 + math.sqrt(5),
    "projection": 4.0,
}

Row = dict[str, Any]


def main(
    kind: Annotated[str, typer.Option(help="Law of the contributions.")] = "lognormal",
    heterogeneity: Annotated[float, typer.Option(help="Coefficient of variation of fitness.")] = 0.5,
    groups: Annotated[int, typer.Option(min=2, help="Number of groups N, each of mass 1.")] = 32,
    decay: Annotated[float, typer.Option(help="λ of Eq. 10 where the error is measured.")] = 0.5,
    mutation_rate: Annotated[float, typer.Option(help="μ of Eq. 14.")] = 0.1,
    signal_clip: Annotated[float, typer.Option(help="κ of the clipped map.")] = 0.5,
    t_end: Annotated[float, typer.Option(help="Time at which the error is measured, in 1/fitness.")] = 4.0,
    seed: _shared.Seed = 0,
    seeds: _shared.Seeds = 3,
    out: _shared.Out = None,
    fresh: _shared.Fresh = False,
    smoke: _shared.Smoke = False,
    workers: _shared.Workers = 1,
    scheduler: _shared.Scheduler = None,
) -> None:
    """Compare the discrete maps with the flow: global error, flips, projections and period doubling.

    Writes results/discrete_vs_continuous/discrete_vs_continuous.nc (everything) and .csv (the table).
    """
    started = time.perf_counter()
    halvings, decays, heights, steps, length = 7, 13, 41, 600, 2000
    if smoke:
        halvings, decays, heights, steps, length = 5, 7, 13, 150, 300
        seeds, groups = min(seeds, 2), min(groups, 16)
    grid = [float(x) for x in np.geomspace(0.05, 5.0, decays)]
    heights_grid = tuple(float(x) for x in np.geomspace(0.25, 20.0, heights))
    with _shared.reporting():
        common = MapScenario(
            kind=kind,
            groups=groups,
            heterogeneity=heterogeneity,
            decay=decay,
            mutation_rate=mutation_rate,
            t_end=t_end,
            halvings=halvings,
            steps=steps,
            seed=seed,
        )
        errors = [
            dataclasses.replace(common, **case, member=member) for _, case in CASES for member in range(seeds)
        ]
        variants: dict[str, Row] = {
            PLAIN: {"step_sizes": heights_grid},
            CLIPPED: {"signal_clip": signal_clip},
            MUTATING: {"map": "selection_mutation"},
        }
        limits = [
            dataclasses.replace(common, decay=value, **variant)
            for variant in variants.values()
            for value in grid
        ]
        folder = _shared.folder(STUDY, out=out, smoke=smoke)
        options: Row = {"workers": workers, "scheduler": scheduler, "fresh": fresh}
        with _shared.progress("Errors") as progress:
            found = sweep(map_error, errors, folder / "errors", progress=progress, **options)
        with _shared.progress("Limits") as progress:
            bounds = sweep(step_limits, limits, folder / "limits", progress=progress, **options)
    data = xr.merge(
        [
            _shared.stacked(
                found,
                {
                    "case": ("case", [name for name, _ in CASES], about("map and scheme")),
                    "seed": ("seed", np.arange(seeds), about("member drawn from the seed")),
                },
            ),
            assembled_limits(bounds, list(variants), grid),
            two_groups(points=361 if not smoke else 73, length=length),
        ]
    )
    specification = {
        "schema": SCHEMA,
        "study": STUDY,
        "scenario": {k: v for k, v in dataclasses.asdict(common).items() if k not in ("map", "scheme")},
        "seeds": seeds,
        "signal_clip": signal_clip,
        "outcomes": json.loads(bounds[0].attrs["outcomes"]),
    }
    rows = table_rows(data)
    _shared.write_netcdf(
        data, folder / f"{STUDY}.nc", specification=specification, provenance=_shared.provenance(started)
    )
    _shared.write_csv(rows, folder / f"{STUDY}.csv")
    console = Console(width=80, highlight=False)
    for table in tables(rows, seeds=seeds, groups=groups):
        console.print(table)
    for line in (
        "Error constant: the global error per unit of step size, at its largest, and the",
        "largest difference of any group and seed. Flip: step size at which the attractor",
        "loses stability; projection: at which a mass would become negative, of a rare",
        "group below the water level (Eq. 12), of the worst if they have most (Eq. 14),",
        "or of any (two groups). Step sizes in units of 1/fitness.",
        "",
        f"Table: {_shared.shown(folder / STUDY)}.csv",
        f"Data:  {_shared.shown(folder / STUDY)}.nc",
    ):
        console.print(line, soft_wrap=True)


def assembled_limits(results: list[xr.Dataset], variants: list[str], grid: list[float]) -> xr.Dataset:
    """Return the limits along variant and decay, and the outcomes of the first variant."""
    shape = (len(variants), len(grid))
    names = ("flip", "measured_flip", "positivity", "measured_positivity")
    variables: dict[str, Any] = {
        name: (
            ("variant", "decay"),
            np.reshape([result[name].item() for result in results], shape),
            results[0][name].attrs,
        )
        for name in names
    }
    plain = results[: len(grid)]
    variables["outcome"] = (
        ("decay", "trial_step_size"),
        np.stack([result.outcome.values for result in plain]),
        plain[0].outcome.attrs,
    )
    return xr.Dataset(
        variables,
        {
            "variant": ("variant", variants, about("map")),
            "decay": ("decay", grid, about("density regularisation λ", "1/time/mass")),
            "trial_step_size": ("trial_step_size", plain[0].step_size.values, plain[0].step_size.attrs),
        },
    )


def two_groups(*, points: int, length: int) -> xr.Dataset:
    """Return the bifurcation diagram of two equal groups, and where it changes, found by bisection."""
    grid = np.linspace(1.7, 3.95, points)
    kept = 48
    found = orbits(Replicator(), TWINS, [1.1, 0.9], grid, transient=400, keep=kept)[:, :, 0] / 2

    def tail(a: float, steps: int) -> np.ndarray:
        """Return 1 - 2x_1 over successive steps."""
        masses = orbits(Replicator(), TWINS, [1.1, 0.9], [a], transient=0, keep=steps)[0]
        return np.asarray(masses[:, 0] - 1)

    def lasts(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[float], bool]:
        """Tell whether a change from step to step persists: at the threshold it falls as 1/√steps."""

        def persists(a: float) -> bool:
            series = np.abs(change(tail(a, length + 8)))
            early, late = series[length // 2 :][:4].max(), series[length:][:4].max()
            return bool(late > 1e-12 and late > early / math.sqrt(2))

        return persists

    tests: dict[str, tuple[Callable[[float], bool], float, float]] = {
        "flip": (lasts(lambda y: y[1:] - y[:-1]), 1.5, 2.5),
        "cycle splits": (lasts(lambda y: y[1:] + y[:-1]), 2.5, 3.1),
        "period 4": (lasts(lambda y: y[2:] - y[:-2]), 3.1, 3.26),
        "projection": (lambda a: bool((np.abs(tail(a, 2 * length)) >= 1).any()), 3.5, 5.0),
    }
    measured = [bisected(test, low, high) for test, low, high in tests.values()]
    step = about("normalised step size hλP/N")
    return xr.Dataset(
        {
            "orbit": (("twin_step", "kept"), found, about("share of a group")),
            "landmark_theory": ("landmark", list(LANDMARKS.values()), step),
            "landmark_measured": ("landmark", measured, step),
        },
        {
            "twin_step": ("twin_step", grid, step),
            "landmark": ("landmark", list(tests), about("what happens there")),
        },
    )


def table_rows(data: xr.Dataset) -> list[Row]:
    """Return the rows theory | simulation | difference."""
    rows: list[Row] = []

    def add(part: str, quantity: str, theory: float, simulation: float, difference: float) -> None:
        rows.append(
            {
                "part": part,
                "quantity": quantity,
                "theory": theory,
                "simulation": simulation,
                "difference": difference,
            }
        )

    for case in data.case.values:
        cell = data.sel(case=case)
        theory, measured = cell.constant.values, cell.measured_constant.values
        add(
            str(case),
            "error constant",
            float(np.abs(theory).max()),
            float(np.abs(measured).max()),
            float(np.abs(measured - theory).max()),
        )
        order = float(cell.order.mean())
        add(str(case), "order", 1.0, order, order - 1.0)
    shown = [int(k) for k in np.linspace(0, data.sizes["decay"] - 1, 5).round()]
    for variant in data.variant.values:
        for decay in data.decay.values[shown]:
            cell = data.sel(variant=variant, decay=decay)
            for name, label in (("flip", "flip"), ("positivity", "projection")):
                theory_value, value = float(cell[name]), float(cell[f"measured_{name}"])
                if not math.isnan(theory_value):
                    add(str(variant), f"{label}, λ = {decay:.3g}", theory_value, value, value - theory_value)
    for mark in data.landmark.values:
        cell = data.sel(landmark=mark)
        theory_value, value = float(cell.landmark_theory), float(cell.landmark_measured)
        add("two groups", f"{mark}, hλP/N", theory_value, value, value - theory_value)
    return rows


def tables(rows: list[Row], *, seeds: int, groups: int) -> list[Table]:
    """Return the tables: errors, limits, and the map of two groups."""
    errors = [row for row in rows if row["quantity"] in ("error constant", "order")]
    pair = [row for row in rows if row["part"] == "two groups"]
    limits = [row for row in rows if row not in errors and row not in pair]
    return [
        _shared.comparison(title, part)
        for title, part in (
            (f"Global error against the flow: {groups} groups, {seeds} seeds", errors),
            (f"Step sizes at which the maps leave the flow: {groups} groups", limits),
            ("Two equal groups, Euler map (Eq. 12)", pair),
        )
    ]


if __name__ == "__main__":
    _shared.command_line(main)()
