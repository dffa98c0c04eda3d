"""How many groups selection drives extinct, and when, as fitness grows more heterogeneous.

Simulates many populations at every heterogeneity, and puts beside them what theory says: extinction times
in closed form where fitness is constant (λ = 0), and the water-filling equilibrium of Eq. 10 (λ > 0).
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich.table import Table

import _shared
import evodyn as ed
from _shared import Row
from evodyn.analysis.intervals import interval
from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import about, coordinates, labelled

SCHEMA = 1
KINDS = ["lognormal"]
HETEROGENEITIES = [0.0, 0.1, 0.25, 0.5, 1.0, 2.0]
DYNAMICS = ["replicator"]
DECAYS = [0.0, 0.3]
TIMES = {"t10": 0.1, "t50": 0.5, "t90": 0.9}
"""When these fractions of the groups are extinct."""
CURVE_POINTS = 41
AXES = ("kind", "dynamics", "decay", "heterogeneity")


# --- One population -------------------------------------------------------------------------------------


class Scenario(_shared.Population):
    """A population of which is asked how many groups die, and when."""

    def mutates(self) -> bool:
        """Return whether mutation keeps the groups alive."""
        return self.dynamics.mutation_rate_at(0.0) > 0


def equilibrium_masses(scenario: Scenario) -> FloatArray:
    """Return the masses at the attractor of interior starts (water filling for λ > 0), shape (N,)."""
    total = None if scenario.mutates() else float(scenario.groups)
    point = ed.equilibrium(scenario.dynamics, scenario.landscape(), total_mass=total, eigenvalues=False)
    return np.array(point.masses)


def fraction_extinct_at_equilibrium(scenario: Scenario) -> float:
    """Return the fraction of groups below the threshold at the attractor of interior starts."""
    return float(np.mean(equilibrium_masses(scenario) < scenario.threshold))


def simulate(scenario: Scenario) -> xr.Dataset:
    """Integrate a scenario, never in closed form, and put its extinctions beside what theory says."""
    extinction = ed.Extinction(scenario.threshold)
    has_closed_form = scenario.decay == 0 and not scenario.mutates()

    def solved(method: Any, save_at: FloatArray) -> ed.Run:
        return ed.solve(
            scenario.dynamics,
            scenario.landscape(),
            np.ones(scenario.groups),
            (0.0, scenario.t_end),
            save_at=save_at,
            extinction=extinction,
            solver=ed.Solver(method=method),
        )

    run = solved("DOP853" if has_closed_form else "auto", scenario.times())
    exact = np.full(scenario.groups, np.nan)
    if has_closed_form:
        exact = np.array(solved("closed_form", scenario.times()[-1:]).extinction_time)
    resting = equilibrium_masses(scenario)
    fraction = np.mean(run.log_masses < extinction.log_threshold, axis=1)
    first_time = "first time strictly below the threshold"
    by_group = {
        "contribution": (scenario.contribution(), "contribution", "1/time"),
        "extinction_time": (np.array(run.extinction_time), f"{first_time}, integrated", "time"),
        "extinct_at_end": (np.array(run.extinct_at_end), "extinct at the end", "1"),
        "closed_form_extinction_time": (exact, f"{first_time}, closed form", "time"),
        "equilibrium_mass": (resting, "mass at the attractor", "mass"),
    }
    numbers = {
        "fraction_extinct_at_equilibrium": (
            float(np.mean(resting < scenario.threshold)),
            "fraction of groups below the threshold at the attractor",
        ),
        "recoveries": (
            int(np.sum(run.crossings.direction > 0)),
            "times that a group came back above the threshold",
        ),
        "evaluations": (run.stats.evaluations, "evaluations of the landscape"),
    }
    return xr.Dataset(
        {"fraction_extinct": ("time", fraction, about("fraction of groups below the threshold"))}
        | labelled("group", by_group)
        | labelled((), numbers),
        coordinates(time=(run.t, "time", "1/fitness"), group=(np.arange(scenario.groups), "group")),
    )


# --- The study ------------------------------------------------------------------------------------------


def main(
    study: _shared.Study,
    kind: Annotated[list[str], typer.Option(help="Law of the contributions (repeatable).")] = KINDS,
    heterogeneity: Annotated[
        list[float], typer.Option(help="Coefficient of variation of fitness (repeatable).")
    ] = HETEROGENEITIES,
    dynamics: Annotated[
        list[str], typer.Option(help=f"Any of {', '.join(_shared.DYNAMICS)} (repeatable).")
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
) -> None:
    """Simulate extinction under growing heterogeneity of fitness, beside closed forms and water filling.

    Writes results/extinction/extinction.nc (everything) and extinction.csv (the table). A run that was
    interrupted or killed goes on where it stopped; points of other settings are never reused.
    """
    if study.smoke:
        groups, seeds, t_end = min(groups, 48), min(seeds, 3), min(t_end, 100.0)
    axes: dict[str, list[Any]] = {
        "kind": list(dict.fromkeys(kind)),
        "dynamics": list(dict.fromkeys(dynamics)),
        "decay": sorted(set(decay)),
        "heterogeneity": sorted(set(heterogeneity)),
    }
    mutates = "selection_mutation" in axes["dynamics"]
    if mutates:
        validation.positive("mutation_rate", mutation_rate)
    chosen = {name: _shared.dynamics(name, groups, mutation_rate=mutation_rate) for name in axes["dynamics"]}
    points = [
        Scenario(law, h, chosen[name], rate, groups, threshold, t_end, seed=seed, member=member)
        for law, name, rate, h in itertools.product(*axes.values())
        for member in range(seeds)
    ]
    results = study.sweep("Simulating", simulate, points)
    data = assembled(results, axes, seeds).merge(equilibrium_curve(points, axes, seeds))
    rows = table_rows(data, threshold)
    common = ("groups", "threshold", "t_end", "saved_times", "seed")
    specification = {
        "schema": SCHEMA,
        "axes": axes,
        "seeds": seeds,
        "scenario": {name: getattr(points[0], name) for name in common},
        "mutation_rate": mutation_rate if mutates else 0.0,
    }
    study.save(data, rows, specification)
    study.show(*tables(rows, groups=groups, seeds=seeds, t_end=t_end), *notes(rows, threshold=threshold))


def assembled(results: list[xr.Dataset], axes: dict[str, list[Any]], seeds: int) -> xr.Dataset:
    """Return all results as one dataset with a dimension for each axis and one for the seeds."""
    labels = {
        "kind": ("law of the contributions",),
        "dynamics": ("dynamics",),
        "decay": ("density regularisation λ", "1/time/mass"),
        "heterogeneity": ("coefficient of variation of the contributions",),
    }
    populations = {name: (axes[name], *labels[name]) for name in AXES}
    members = (np.arange(seeds), "member drawn from the seed")
    return _shared.stacked(results, coordinates(**populations, seed=members))


def equilibrium_curve(points: list[Scenario], axes: dict[str, list[Any]], seeds: int) -> xr.Dataset:
    """Return the fraction extinct at equilibrium on a fine grid of heterogeneities, averaged over seeds."""
    grid = np.linspace(0.0, max(axes["heterogeneity"]), CURVE_POINTS if max(axes["heterogeneity"]) else 1)

    def at(head: Scenario, h: float, member: int) -> Scenario:
        return dataclasses.replace(head, heterogeneity=float(h), member=member)

    heads = points[:: seeds * len(axes["heterogeneity"])]
    values = [
        np.mean([fraction_extinct_at_equilibrium(at(head, h, member)) for member in range(seeds)])
        for head in heads
        for h in grid
    ]
    dims = (*AXES[:3], "curve_heterogeneity")
    shape = (*(len(axes[name]) for name in AXES[:3]), len(grid))
    curve = about("mean fraction of groups below the threshold at the attractor")
    return xr.Dataset(
        {"equilibrium_curve": (dims, np.reshape(values, shape), curve)},
        coordinates(curve_heterogeneity=(grid, "coefficient of variation of the contributions")),
    )


def table_rows(data: xr.Dataset, threshold: float) -> list[Row]:
    """Return one row for each combination of kind, dynamics, decay and heterogeneity."""
    rows = []
    for index in np.ndindex(*(data.sizes[name] for name in AXES)):
        cell = data.isel(dict(zip(AXES, index, strict=True)))
        fractions = cell.fraction_extinct.values[:, -1]
        mean, low, high = float(np.mean(fractions)), np.nan, np.nan
        if len(fractions) > 1:
            low, high = np.clip(interval(fractions).of_mean, 0.0, 1.0).tolist()
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
        for quantile in TIMES.values():
            row[f"time_q{quantile:g}"] = _quantile(times, quantile)
            row[f"closed_form_q{quantile:g}"] = _quantile(exact, quantile)
        row["time_error"] = _largest_error(times, exact)
        rows.append(row)
    return rows


def _quantile(times: np.ndarray, quantile: float) -> float:
    """Return when a fraction of all groups is extinct; inf if that never happens, NaN if it is unknown."""
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
    columns = {
        "h": "{heterogeneity:g}",
        "extinct": "{fraction_extinct:.2%}",
        "95 % CI, %": "{low:.2f}–{high:.2f}",
        "theory": "{fraction_at_equilibrium:.2%}",
        "diff.": "{difference:+z.2%}",
        **{name: f"{{{name}:.3g}}" for name in TIMES},
        "error": "{time_error:.0e}",
    }
    parts = itertools.groupby(rows, lambda row: tuple(row[axis] for axis in AXES[:3]))
    return [
        _shared.row_table(
            f"{kind}, {dynamics}, λ = {decay:g}: {groups} groups, {seeds} seeds, t = {t_end:g}",
            columns,
            (
                row
                | {"low": 100 * row["interval_low"], "high": 100 * row["interval_high"]}
                | {name: row[f"time_q{q:g}"] for name, q in TIMES.items()}
                for row in part
            ),
            left=0,
        )
        for (kind, dynamics, decay), part in parts
    ]


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


if __name__ == "__main__":
    _shared.command_line(main)()
