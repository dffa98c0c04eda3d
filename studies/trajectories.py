"""Mass trajectories of one population under Eqs. 6, 7 and 8, with constant fitness and with Eq. 10.

Every run is integrated, never taken from a closed form, and put beside what theory says: extinction times,
final masses, total mass, and the floor below which mutation lets no mass fall.
"""

from __future__ import annotations

import dataclasses
import itertools
from typing import Annotated

import numpy as np
import typer
import xarray as xr
from rich.table import Table

import _shared
import evodyn as ed
from _shared import DYNAMICS, Row
from evodyn.core import validation
from evodyn.core.labels import about, coordinates, labelled
from evodyn.extinction_theory import exact_extinction_times, mutation_mass_floor
from evodyn.model.laws import KINDS

SCHEMA = 2
EQUATION = dict(zip(DYNAMICS, (6, 7, 8), strict=True))


# --- One population -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Trajectory(_shared.Population):
    """A population whose masses are followed."""

    heterogeneity: float = 0.5
    groups: int = 24
    saved_times: int = 241


def trajectory(point: Trajectory) -> xr.Dataset:
    """Integrate one population, and put theory beside it: NaN where there is none."""
    ones, unknown = np.ones(point.groups), np.full(point.groups, np.nan)

    def solved(dynamics: ed.Dynamics) -> ed.Run:
        return ed.solve(
            dynamics,
            point.landscape(),
            ones,
            (0.0, point.t_end),
            save_at=point.times(),
            extinction=ed.Extinction(point.threshold),
            solver=ed.Solver(method="auto" if point.decay else "DOP853"),
        )

    run, resting, exact, gap = solved(point.dynamics), unknown, unknown, np.nan
    mutates, clipped = point.dynamics.mutation_rate_at(0.0) > 0, point.dynamics.signal_clip is not None
    if not clipped:
        total = None if mutates else float(point.groups)
        rest = ed.equilibrium(point.dynamics, point.landscape(), total_mass=total, eigenvalues=False)
        resting = np.array(rest.masses)
    if not clipped and not mutates:
        gap = float(np.abs(solved(ed.NormalizedGrowth()).masses - run.masses).max())
        if point.decay == 0:
            exact = exact_extinction_times(point.contribution(), ones, point.threshold)
    first_time = "first time strictly below the threshold"
    by_group = {
        "contribution": (point.contribution(), "contribution", "1/time"),
        "extinction_time": (np.array(run.extinction_time), f"{first_time}, integrated", "time"),
        "closed_form_extinction_time": (exact, f"{first_time}, closed form", "time"),
        "equilibrium_mass": (resting, "mass at the attractor", "mass"),
    }
    largest = about("largest difference from the masses of Eq. 7 without clip and cap", "mass")
    return xr.Dataset(
        labelled("group", by_group)
        | {
            "mass": (("time", "group"), np.array(run.masses), about("mass", "arbitrary unit")),
            "gap_to_normalized_growth": ((), gap, largest),
        },
        coordinates(time=(run.t, "time", "1/fitness"), group=(np.arange(point.groups), "group")),
    )


# --- The study ------------------------------------------------------------------------------------------


def main(
    study: _shared.Study,
    kind: Annotated[str, typer.Option(help=f"Law of the contributions: {', '.join(KINDS)}.")] = "lognormal",
    heterogeneity: Annotated[float, typer.Option(help="Coefficient of variation of fitness.")] = 0.5,
    decay: Annotated[float, typer.Option(help="λ of Eq. 10, beside constant fitness (λ = 0).")] = 0.3,
    mutation_rate: Annotated[float, typer.Option(help="μ of Eq. 8; the target is a mass of 1.")] = 1e-3,
    signal_clip: Annotated[
        float, typer.Option(help="Largest rate of change under Eq. 7, whose cap is the initial mass.")
    ] = 0.3,
    groups: Annotated[int, typer.Option(min=2, help="Number of groups, each of mass 1 at the start.")] = 24,
    threshold: Annotated[float, typer.Option(help="Mass below which a group counts as extinct.")] = 1e-3,
    t_end: Annotated[float, typer.Option(help="End of the runs, in units of 1/fitness.")] = 300.0,
    seed: _shared.Seed = 0,
    seeds: _shared.Seeds = 1,
) -> None:
    """Follow the masses of a population under Eqs. 6, 7 and 8 and compare with theory.

    Eq. 7 without a clip is Eq. 6, which is checked; shown is Eq. 7 with clip and cap, where they differ.
    Writes results/trajectories/trajectories.nc (masses over time) and trajectories.csv (the table).
    """
    if study.smoke:
        groups, seeds = min(groups, 10), min(seeds, 2)
    for name, value in (("decay", decay), ("mutation_rate", mutation_rate)):
        validation.positive(name, value)
    # Only Eq. 7 is clipped.
    chosen = [
        _shared.dynamics(
            name,
            groups,
            mutation_rate=mutation_rate,
            signal_clip=signal_clip if name == "normalized_growth" else None,
        )
        for name in DYNAMICS
    ]
    decays = [0.0, decay]
    points = [
        Trajectory(kind, heterogeneity, dynamics, rate, groups, threshold, t_end, seed=seed, member=member)
        for member in range(seeds)
        for rate in decays
        for dynamics in chosen
    ]
    data = assembled(study.sweep("Trajectories", trajectory, points), seeds, decays)
    specification: Row = {
        "schema": SCHEMA,
        "kind": kind,
        "heterogeneity": heterogeneity,
        "signal_clip": signal_clip,
        "groups": groups,
        "threshold": threshold,
        "t_end": t_end,
        "seed": seed,
        "decays": decays,
        "mutation_rate": mutation_rate,
        "seeds": seeds,
    }
    rows = table_rows(data, specification)
    study.save(data, rows, specification)
    study.show(printed(rows, specification), *notes(data))


def assembled(results: list[xr.Dataset], seeds: int, decays: list[float]) -> xr.Dataset:
    """Return all runs along member, decay and dynamics; only members differ in their contributions."""
    data = _shared.stacked(
        results,
        coordinates(
            member=(np.arange(seeds), "population drawn from the seed"),
            decay=(decays, "λ of Eq. 10", "1/time/mass"),
            dynamics=(list(DYNAMICS), "dynamics"),
        ),
    )
    return data.assign(contribution=data.contribution.isel(decay=0, dynamics=0, drop=True))


def table_rows(data: xr.Dataset, specification: Row) -> list[Row]:
    """Return one row for each quantity that theory fixes: theory, simulation and their difference."""
    rows: list[Row] = []
    threshold, groups = specification["threshold"], specification["groups"]
    clip, t_end = specification["signal_clip"], specification["t_end"]
    for member, decay, name in itertools.product(data.member.values, data.decay.values, DYNAMICS):
        cell = data.sel(member=member, decay=decay, dynamics=name)
        died, mass = cell.extinction_time.values, cell.mass.values
        found: list[tuple[str, str, float, float]] = []
        if name == "normalized_growth":
            # The clip bounds every rate by κ; at the cap the rescaling takes up to κ more.
            least = float(np.log(1 / threshold) / (2 * clip))
            found.append(("earliest extinction", "≥", least, float(died.min())))
            found.append(("total mass, largest", "≤", float(groups), float(mass.sum(-1).max())))
        else:
            rest = cell.equilibrium_mass.values
            at_rest, at_end = float(np.sum(rest < threshold)), float(np.sum(mass[-1] < threshold))
            found.append(("groups extinct at the end", "→", at_rest, at_end))
            largest = int(rest.argmax())
            found.append(("largest mass at the end", "→", float(rest[largest]), float(mass[-1, largest])))
            found.append(("total mass at the end", "=", float(groups), float(mass[-1].sum())))
        exact = cell.closed_form_extinction_time.values
        if np.isfinite(exact).any():
            within = exact <= t_end
            off = np.abs(np.subtract(died, exact, where=within, out=np.zeros(len(exact))))
            worst = int(off.argmax())
            last = died[np.isfinite(died)].max(initial=0.0)
            found.append(("last extinction", "=", exact[within].max(initial=0.0), last))
            found.append(("worst extinction time", "=", exact[worst], died[worst]))
        if name == "selection_mutation":
            floor = mutation_mass_floor(
                cell.contribution.values, specification["mutation_rate"], target=1.0, decay=float(decay)
            )
            lowest = int(floor.argmin())
            found.append(("smallest mass at the end", "≥", float(floor[lowest]), float(mass[-1].min())))
        cell_labels: Row = {"member": int(member), "decay": float(decay), "dynamics": name}
        for quantity, relation, theory, simulation in found:
            labels = cell_labels | {"quantity": quantity, "relation": relation}
            rows.append(_shared.compared(theory, simulation, **labels))
    return rows


def printed(rows: list[Row], specification: Row) -> Table:
    """Return the table that is shown: the first population, and the worst difference of all."""
    s = specification

    def worst(row: Row, found: list[float]) -> float:
        return {"≥": min, "≤": max}.get(row["relation"], lambda found: max(found, key=abs))(found)

    first = _shared.first_population(rows, "decay", "dynamics", "quantity", worst=worst)
    columns = {
        "λ": "{decay:g}",
        "Eq.": "{equation}",
        "quantity": "{quantity}",
        "": "{relation}",
        "theory": "{theory:.4g}",
        "simulation": "{simulation:.4g}",
        "diff.": "{worst:+.1e}",
    }
    return _shared.row_table(
        f"{s['groups']} groups, {s['kind']}, h = {s['heterogeneity']:g}, seed {s['seed']}; "
        f"extinct below {s['threshold']:g}",
        columns,
        [row | {"equation": EQUATION[row["dynamics"]]} for row in first],
        left=4,
    )


def notes(data: xr.Dataset) -> list[str]:
    """Return the lines that explain the table."""
    gap = float(data.gap_to_normalized_growth.max())
    several = f"The first of {data.sizes['member']} populations; diff.: the worst of all of them."
    return [
        *([several] if data.sizes["member"] > 1 else []),
        "→: what the run tends to as time goes on; ≥, ≤: a bound, not an equality.",
        f"Without clip and cap, Eq. 7 gives the masses of Eq. 6 (largest difference {gap:.1g}).",
        "",
    ]


if __name__ == "__main__":
    _shared.command_line(main)()
