"""Mass trajectories of one population under Eqs. 6, 7 and 8, with constant fitness and with Eq. 10.

Every run is integrated, never taken from a closed form, and put beside what theory says: extinction times,
final masses, total mass, and the floor below which mutation lets no mass fall.
"""

from __future__ import annotations

import itertools
import time
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table

import _former as _shared
from evodyn.analysis.extinction_theory import mutation_mass_floor
from evodyn.core.labels import about
from evodyn.model.laws import KINDS
from evodyn.sweeps.sweep import sweep
from evodyn.tasks.extinction import DYNAMICS
from evodyn.tasks.trajectories import Trajectory, trajectory

SCHEMA = 2
EQUATION = {"replicator": 6, "normalized_growth": 7, "selection_mutation": 8}

Row = dict[str, Any]


def main(
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
    out: _shared.Out = None,
    fresh: _shared.Fresh = False,
    smoke: _shared.Smoke = False,
    workers: _shared.Workers = 1,
    scheduler: _shared.Scheduler = None,
) -> None:
    """Follow the masses of a population under Eqs. 6, 7 and 8 and compare with theory.

    Eq. 7 without a clip is Eq. 6, which is checked; shown is Eq. 7 with clip and cap, where they differ.
    Writes results/trajectories/trajectories.nc (masses over time) and trajectories.csv (the table).
    """
    started = time.perf_counter()
    if smoke:
        groups, seeds = min(groups, 10), min(seeds, 2)
    settings: Row = {
        "kind": kind,
        "heterogeneity": heterogeneity,
        "signal_clip": signal_clip,
        "groups": groups,
        "threshold": threshold,
        "t_end": t_end,
        "seed": seed,
    }
    decays = [0.0, decay]
    with _shared.reporting():
        if decay <= 0:
            raise ValueError(f"decay is {decay!r}; expected a positive λ, to stand beside λ = 0.")
        points = [
            Trajectory(
                **settings,
                dynamics=name,
                decay=value,
                mutation_rate=mutation_rate if name == "selection_mutation" else 0.0,
                saved_times=241,
                member=member,
            )
            for member in range(seeds)
            for value in decays
            for name in DYNAMICS
        ]
        folder = _shared.folder("trajectories", out=out, smoke=smoke)
        options: Row = {"workers": workers, "scheduler": scheduler, "fresh": fresh}
        with _shared.progress("Trajectories") as progress:
            results = sweep(trajectory, points, folder / "points", progress=progress, **options)
    data = assembled(results, seeds, decays)
    specification = settings | {
        "schema": SCHEMA,
        "study": "trajectories",
        "decays": decays,
        "mutation_rate": mutation_rate,
        "seeds": seeds,
    }
    rows = table_rows(data, specification)
    _shared.write_netcdf(
        data, folder / "trajectories.nc", specification=specification, provenance=_shared.provenance(started)
    )
    _shared.write_csv(rows, folder / "trajectories.csv")
    console = Console(width=80, highlight=False)
    console.print(printed(rows, specification))
    for line in notes(data):
        console.print(line, soft_wrap=True)
    for what, suffix in (("Table:", "csv"), ("Data: ", "nc")):
        console.print(f"{what} {_shared.shown(folder / f'trajectories.{suffix}')}", soft_wrap=True)


def assembled(results: list[xr.Dataset], seeds: int, decays: list[float]) -> xr.Dataset:
    """Return all runs along member, decay and dynamics; only members differ in their contributions."""
    data = _shared.stacked(
        results,
        {
            "member": ("member", np.arange(seeds), about("population drawn from the seed")),
            "decay": ("decay", decays, about("λ of Eq. 10", "1/time/mass")),
            "dynamics": ("dynamics", list(DYNAMICS), about("dynamics")),
        },
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
        rows += [
            {
                "member": int(member),
                "decay": float(decay),
                "dynamics": name,
                "quantity": quantity,
                "relation": relation,
                "theory": theory,
                "simulation": simulation,
                "difference": simulation - theory,
            }
            for quantity, relation, theory, simulation in found
        ]
    return rows


def printed(rows: list[Row], specification: Row) -> Table:
    """Return the table that is shown: the first population, and the worst difference of all."""
    s = specification
    table = Table(
        title=f"{s['groups']} groups, {s['kind']}, h = {s['heterogeneity']:g}, seed {s['seed']}; "
        f"extinct below {s['threshold']:g}",
        box=box.SIMPLE_HEAD,
        title_justify="left",
        pad_edge=False,
    )
    for heading in ("λ", "Eq.", "quantity", "", "theory", "simulation", "diff."):
        table.add_column(heading, justify="left" if heading in ("quantity", "") else "right", no_wrap=True)
    for row in rows:
        if row["member"]:
            continue
        same = [
            r["difference"] for r in rows if all(r[k] == row[k] for k in ("decay", "dynamics", "quantity"))
        ]
        worst = {"≥": min, "≤": max}.get(row["relation"], lambda found: max(found, key=abs))(same)
        table.add_row(
            f"{row['decay']:g}",
            f"{EQUATION[row['dynamics']]}",
            row["quantity"],
            row["relation"],
            *(f"{row[key]:.4g}" for key in ("theory", "simulation")),
            f"{worst:+.1e}",
        )
    return table


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
