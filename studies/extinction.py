"""How many groups selection drives extinct, and when, as fitness grows more heterogeneous.

Simulates many populations at every heterogeneity, and puts beside them what theory says: extinction times
in closed form where fitness is constant (λ = 0), and the water-filling equilibrium of Eq. 10 (λ > 0).
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats

import _shared
from evodyn.core.labels import about
from evodyn.sweeps.sweep import sweep
from evodyn.tasks import extinction
from evodyn.tasks.extinction import Scenario, fraction_extinct_at_equilibrium, simulate

SCHEMA = 1
KINDS = ["lognormal"]
HETEROGENEITIES = [0.0, 0.1, 0.25, 0.5, 1.0, 2.0]
DYNAMICS = ["replicator"]
DECAYS = [0.0, 0.3]
QUANTILES = (0.1, 0.5, 0.9)
CURVE_POINTS = 41
FILES = {"Table: ": "extinction.csv", "Data:  ": "extinction.nc"}
AXES = ("kind", "dynamics", "decay", "heterogeneity")

Row = dict[str, Any]


def main(
    kind: Annotated[list[str], typer.Option(help="Law of the contributions (repeatable).")] = KINDS,
    heterogeneity: Annotated[
        list[float], typer.Option(help="Coefficient of variation of fitness (repeatable).")
    ] = HETEROGENEITIES,
    dynamics: Annotated[
        list[str], typer.Option(help=f"Any of {', '.join(extinction.DYNAMICS)} (repeatable).")
    ] = DYNAMICS,
    decay: Annotated[list[float], typer.Option(help="λ of Eq. 10 (repeatable).")] = DECAYS,
    mutation_rate: Annotated[float, typer.Option(help="μ of Eq. 8, for selection_mutation.")] = 2e-3,
    groups: Annotated[
        int, typer.Option(min=1, help="Number of groups N, each of mass 1 at the start.")
    ] = 768,
    threshold: Annotated[float, typer.Option(help="Mass below which a group counts as extinct.")] = 1e-3,
    t_end: Annotated[float, typer.Option(help="End of the runs, in units of 1/fitness.")] = 300.0,
    seed: _shared.Seed = 0,
    seeds: _shared.Seeds = 8,
    out: _shared.Out = None,
    fresh: _shared.Fresh = False,
    smoke: _shared.Smoke = False,
    workers: _shared.Workers = 1,
    scheduler: _shared.Scheduler = None,
) -> None:
    """Simulate extinction under growing heterogeneity of fitness, beside closed forms and water filling.

    Writes results/extinction/extinction.nc (everything) and extinction.csv (the table). A run that was
    interrupted or killed goes on where it stopped; points of other settings are never reused.
    """
    started = time.perf_counter()
    if smoke:
        groups, seeds, t_end = min(groups, 48), min(seeds, 3), min(t_end, 100.0)
    axes: dict[str, list[Any]] = {
        "kind": list(dict.fromkeys(kind)),
        "dynamics": list(dict.fromkeys(dynamics)),
        "decay": sorted(set(decay)),
        "heterogeneity": sorted(set(heterogeneity)),
    }
    settings = {"groups": groups, "threshold": threshold, "t_end": t_end, "seed": seed}
    with _shared.reporting():
        points = [
            _scenario(dict(zip(AXES, values, strict=True)), settings | {"member": member}, mutation_rate)
            for values in itertools.product(*axes.values())
            for member in range(seeds)
        ]
        folder = _shared.folder("extinction", out=out, smoke=smoke)
        with _shared.progress("Simulating") as progress:
            results = sweep(
                simulate,
                points,
                folder / "points",
                workers=workers,
                scheduler=scheduler,
                fresh=fresh,
                progress=progress,
            )
    data = assembled(results, axes, seeds).merge(equilibrium_curve(points, axes, seeds))
    specification = {
        "schema": SCHEMA,
        "study": "extinction",
        "axes": axes,
        "seeds": seeds,
        "scenario": {
            name: value
            for name, value in dataclasses.asdict(points[0]).items()
            if name not in (*AXES, "member", "mutation_rate")
        },
        "mutation_rate": mutation_rate if "selection_mutation" in axes["dynamics"] else 0.0,
    }
    rows = table_rows(data, threshold)
    _shared.write_netcdf(
        data, folder / "extinction.nc", specification=specification, provenance=_shared.provenance(started)
    )
    _shared.write_csv(rows, folder / "extinction.csv")
    written = [f"{what} {_shared.shown(folder / name)}" for what, name in FILES.items()]
    console = Console(width=80, highlight=False)
    for table in tables(rows, groups=groups, seeds=seeds, t_end=t_end):
        console.print(table)
    for line in (*notes(rows, threshold=threshold), *written):
        console.print(line, soft_wrap=True)


def _scenario(axis_values: Row, settings: Row, mutation_rate: float) -> Scenario:
    mutates = axis_values["dynamics"] == "selection_mutation"
    return Scenario(**axis_values, **settings, mutation_rate=mutation_rate if mutates else 0.0)


def assembled(results: list[xr.Dataset], axes: dict[str, list[Any]], seeds: int) -> xr.Dataset:
    """Return all results as one dataset with a dimension for each axis and one for the seeds."""
    labels = {
        "kind": about("law of the contributions"),
        "dynamics": about("dynamics"),
        "decay": about("density regularisation λ", "1/time/mass"),
        "heterogeneity": about("coefficient of variation of the contributions"),
    }
    coordinates: dict[str, Any] = {name: (name, axes[name], labels[name]) for name in AXES}
    members = ("seed", np.arange(seeds), about("member drawn from the seed"))
    return _shared.stacked(results, coordinates | {"seed": members})


def equilibrium_curve(points: list[Scenario], axes: dict[str, list[Any]], seeds: int) -> xr.Dataset:
    """Return the fraction extinct at equilibrium on a fine grid of heterogeneities, averaged over seeds."""
    grid = np.linspace(0.0, max(axes["heterogeneity"]), CURVE_POINTS if max(axes["heterogeneity"]) else 1)
    heads = points[:: seeds * len(axes["heterogeneity"])]
    values = [
        np.mean(
            [
                fraction_extinct_at_equilibrium(
                    dataclasses.replace(head, heterogeneity=float(h), member=member)
                )
                for member in range(seeds)
            ]
        )
        for head in heads
        for h in grid
    ]
    dims = (*AXES[:3], "curve_heterogeneity")
    shape = (*(len(axes[name]) for name in AXES[:3]), len(grid))
    curve = about("mean fraction of groups below the threshold at the attractor")
    axis = about("coefficient of variation of the contributions")
    return xr.Dataset(
        {"equilibrium_curve": (dims, np.reshape(values, shape), curve)},
        {"curve_heterogeneity": ("curve_heterogeneity", grid, axis)},
    )


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean and its 95 % confidence interval (Student's t) over independent seeds."""
    mean = float(np.mean(values))
    if len(values) < 2:
        return mean, np.nan, np.nan
    half = float(stats.t.ppf(0.975, len(values) - 1) * stats.sem(values))
    return mean, max(mean - half, 0.0), min(mean + half, 1.0)


def table_rows(data: xr.Dataset, threshold: float) -> list[Row]:
    """Return one row for each combination of kind, dynamics, decay and heterogeneity."""
    rows = []
    for index in np.ndindex(*(data.sizes[name] for name in AXES)):
        cell = data.isel(dict(zip(AXES, index, strict=True)))
        mean, low, high = interval(cell.fraction_extinct.values[:, -1])
        theory = float(cell.fraction_extinct_at_equilibrium.mean())
        doomed = cell.equilibrium_mass.values < threshold
        times, exact = cell.extinction_time.values.ravel(), cell.closed_form_extinction_time.values.ravel()
        row: Row = {name: cell[name].item() for name in AXES} | {
            "fraction_extinct": mean,
            "interval_low": low,
            "interval_high": high,
            "fraction_at_equilibrium": theory,
            "difference": mean - theory,
            "extinct_against_theory": float(np.mean(cell.extinct_at_end.values & ~doomed)),
        }
        for quantile in QUANTILES:
            row[f"time_q{quantile:g}"] = _quantile(times, quantile)
            row[f"closed_form_q{quantile:g}"] = (
                np.nan if np.isnan(exact).any() else _quantile(exact, quantile)
            )
        row["time_error"] = _largest_error(times, exact)
        rows.append(row)
    return rows


def _quantile(times: np.ndarray, quantile: float) -> float:
    """Return the time by which a fraction of all groups is extinct; inf if that never happens."""
    return float(np.quantile(times, quantile, method="inverted_cdf"))


def _largest_error(times: np.ndarray, exact: np.ndarray) -> float:
    """Return the largest relative error of a time: NaN where none is exact, inf if records disagree."""
    if np.isnan(exact).any() or not np.isfinite(exact).any():
        return np.nan
    finite = np.isfinite(exact)
    if not np.array_equal(np.isfinite(times), finite):
        return float("inf")
    return float(np.max(np.abs(times[finite] / exact[finite] - 1)))


def tables(rows: list[Row], *, groups: int, seeds: int, t_end: float) -> list[Table]:
    """Return a table for each kind, dynamics and decay, with a line for each heterogeneity."""
    made = []
    for head, part in itertools.groupby(rows, key=lambda row: tuple(row[axis] for axis in AXES[:3])):
        kind, dynamics, decay = head
        table = Table(
            title=f"{kind}, {dynamics}, λ = {decay:g}: {groups} groups, {seeds} seeds, t = {t_end:g}",
            box=box.SIMPLE_HEAD,
            title_justify="left",
            pad_edge=False,
        )
        for name in ("h", "extinct", "95 % CI", "theory", "diff.", "t10", "t50", "t90", "error"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in part:
            table.add_row(
                f"{row['heterogeneity']:g}",
                f"{100 * row['fraction_extinct']:.2f}",
                f"{100 * row['interval_low']:.2f}–{100 * row['interval_high']:.2f}" if seeds > 1 else "–",
                f"{100 * row['fraction_at_equilibrium']:.2f}",
                f"{round(100 * row['difference'], 2) + 0.0:+.2f}",  # no -0.00
                *(_number(row[f"time_q{quantile:g}"]) for quantile in QUANTILES),
                _number(row["time_error"], ".0e"),
            )
        made.append(table)
    return made


def notes(rows: list[Row], *, threshold: float) -> list[str]:
    """Return the lines that explain the tables."""
    against = max(row["extinct_against_theory"] for row in rows)
    verdict = "None" if against == 0 else f"Up to {100 * against:.2g} %"
    return [
        f"h: coefficient of variation of fitness; extinct: % of groups below {threshold:g} at the",
        "end; theory: the same at equilibrium (water filling for λ > 0); t10: when 10 %",
        "of the groups are extinct; error: largest of a time against the closed form.",
        f"{verdict} of the groups died that live at equilibrium.",
        "",
    ]


def _number(value: float, style: str = ".3g") -> str:
    return format(value, style) if np.isfinite(value) else "–"


if __name__ == "__main__":
    _shared.command_line(main)()
