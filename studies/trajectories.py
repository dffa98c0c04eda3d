"""Mass trajectories of one population under Eqs. 6, 7 and 8, with constant fitness and with Eq. 10.

Every run is integrated, never taken from a closed form, and put beside what theory says: extinction times,
final masses, total mass, and the floor below which mutation lets no mass fall.
"""

from __future__ import annotations

import time
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich import box
from rich.console import Console
from rich.table import Table

import _shared
import evodyn as ed
from evodyn.labels import about
from evodyn.laws import KINDS

SCHEMA = 1
DYNAMICS = ("replicator", "normalized_growth", "selection_mutation")
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
    out: _shared.Out = None,
    smoke: _shared.Smoke = False,
) -> None:
    """Follow the masses of one population under Eqs. 6, 7 and 8 and compare with theory.

    Eq. 7 without a clip is Eq. 6, which is checked; shown is Eq. 7 with clip and cap, where they differ.
    Writes results/trajectories/trajectories.nc (masses over time) and trajectories.csv (the table). It takes
    seconds and starts from the beginning each time.
    """
    started = time.perf_counter()
    if smoke:
        groups = min(groups, 10)
    specification = {
        "schema": SCHEMA,
        "study": "trajectories",
        "kind": kind,
        "heterogeneity": heterogeneity,
        "decays": [0.0, decay],
        "mutation_rate": mutation_rate,
        "signal_clip": signal_clip,
        "groups": groups,
        "threshold": threshold,
        "t_end": t_end,
        "seed": seed,
    }
    with _shared.reporting():
        if decay <= 0:
            raise ValueError(f"decay is {decay!r}; expected a positive λ, to stand beside λ = 0.")
        if not 0 < threshold < 1:
            raise ValueError(
                f"threshold is {threshold!r}; expected a mass between 0 and 1, where groups start."
            )
        data = simulated(specification)
    rows = table_rows(data, specification)
    folder = _shared.folder("trajectories", out=out, smoke=smoke)
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


def simulated(specification: Row) -> xr.Dataset:
    """Return all runs, with what theory says of each, along decay, dynamics, time and group."""
    s = specification
    n = s["groups"]
    drawn = ed.landscapes.contributions(
        s["kind"], n=n, heterogeneity=s["heterogeneity"], rng=np.random.default_rng(s["seed"])
    )
    flows: dict[str, ed.Dynamics] = {
        "replicator": ed.Replicator(),
        "normalized_growth": ed.NormalizedGrowth(mass_cap=float(n), signal_clip=s["signal_clip"]),
        "selection_mutation": ed.SelectionMutation(s["mutation_rate"], target=1.0),
    }
    times = np.concatenate(([0.0], np.geomspace(1e-3, 1.0, 240) * s["t_end"]))
    extinction = ed.Extinction(s["threshold"])

    def solved(dynamics: ed.Dynamics, decay: float) -> ed.Run:
        return ed.solve(
            dynamics,
            landscape(drawn, decay),
            np.ones(n),
            (0.0, s["t_end"]),
            save_at=times,
            extinction=extinction,
            solver=ed.Solver(method="auto" if decay else "DOP853"),
        )

    cells: dict[str, list[np.ndarray]] = {name: [] for name in ("mass", "died", "rest", "exact", "gap")}
    for decay in s["decays"]:
        uncapped = solved(ed.NormalizedGrowth(), decay)
        for name, dynamics in flows.items():
            run = solved(dynamics, decay)
            cells["mass"].append(run.masses)
            cells["died"].append(run.extinction_time)
            clipped = name == "normalized_growth"
            free = not decay and name == "replicator"
            cells["exact"].append(
                ed.extinction_theory.exact_extinction_times(drawn, np.ones(n), s["threshold"])
                if free
                else np.full(n, np.nan)
            )
            total = None if name == "selection_mutation" else float(n)
            cells["rest"].append(
                np.full(n, np.nan)
                if clipped
                else np.array(ed.equilibrium(dynamics, landscape(drawn, decay), total_mass=total).masses)
            )
            cells["gap"].append(
                np.abs(uncapped.masses - run.masses).max() if name == "replicator" else np.array(np.nan)
            )

    def variable(name: str, *dims: str, text: str, units: str) -> tuple[tuple[str, ...], np.ndarray, Row]:
        stacked = np.stack(cells[name])
        values = stacked.reshape(len(s["decays"]), len(flows), *stacked.shape[1:])
        return ("decay", "dynamics", *dims), values, about(text, units)

    return xr.Dataset(
        {
            "mass": variable("mass", "time", "group", text="mass", units="mass"),
            "extinction_time": variable(
                "died", "group", text="first time strictly below the threshold, integrated", units="time"
            ),
            "closed_form_extinction_time": variable(
                "exact", "group", text="first time strictly below the threshold, closed form", units="time"
            ),
            "equilibrium_mass": variable("rest", "group", text="mass at the attractor", units="mass"),
            "gap_to_normalized_growth": variable(
                "gap", text="largest difference from the masses of Eq. 7 without clip and cap", units="mass"
            ),
            "contribution": ("group", drawn, about("contribution", "1/time")),
        },
        {
            "decay": ("decay", s["decays"], about("λ of Eq. 10", "1/time/mass")),
            "dynamics": ("dynamics", list(flows), about("dynamics")),
            "time": ("time", times, about("time", "time")),
            "group": ("group", np.arange(n), about("group")),
        },
    )


def landscape(contribution: np.ndarray, decay: float) -> Any:
    """Return Eq. 10 with r(p) = p; constant fitness without decay."""
    if not decay:
        return ed.landscapes.Constant(contribution)
    return ed.landscapes.LinearDecay(contribution, decay=decay)


def table_rows(data: xr.Dataset, specification: Row) -> list[Row]:
    """Return one row for each quantity that theory fixes: theory, simulation and their difference."""
    rows: list[Row] = []
    threshold, groups = specification["threshold"], specification["groups"]
    clip, t_end = specification["signal_clip"], specification["t_end"]
    for decay in data.decay.values:
        for name in DYNAMICS:
            cell = data.sel(decay=decay, dynamics=name)
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
                floor = ed.extinction_theory.mutation_mass_floor(
                    data.contribution.values, specification["mutation_rate"], target=1.0, decay=float(decay)
                )
                lowest = int(floor.argmin())
                found.append(("smallest mass at the end", "≥", float(floor[lowest]), float(mass[-1].min())))
            rows += [
                {
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
    """Return the table that is shown."""
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
        table.add_row(
            f"{row['decay']:g}",
            f"{EQUATION[row['dynamics']]}",
            row["quantity"],
            row["relation"],
            *(f"{row[key]:.4g}" for key in ("theory", "simulation")),
            f"{row['difference']:+.1e}",
        )
    return table


def notes(data: xr.Dataset) -> list[str]:
    """Return the lines that explain the table."""
    gap = float(data.gap_to_normalized_growth.max())
    return [
        "→: what the run tends to as time goes on; ≥, ≤: a bound, not an equality.",
        f"Without clip and cap, Eq. 7 gives the masses of Eq. 6 (largest difference {gap:.1g}).",
        "",
    ]


if __name__ == "__main__":
    _shared.command_line(main)()
