"""What the paper leaves to future work, on the side of the dynamics, with theory beside it.

Redundancy that resolves neutral equilibria, mutation rates that change with time, fitness of several
objectives, and layers that evolve together.
"""

from __future__ import annotations

import math
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

SCHEMA = 1
TIGHT = ed.Solver(rtol=1e-11, atol=1e-13)
WEIGHTS = (0.0, 0.15, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5)
STARTS = (0.55, 0.65, 0.75, 0.85)
SCHEDULES = ("constant", "annealed", "none")

Row = dict[str, Any]


def main(
    groups: Annotated[int, typer.Option(min=4, help="Number of groups N, each of mass 1.")] = 64,
    heterogeneity: Annotated[float, typer.Option(help="Coefficient of variation of fitness.")] = 0.5,
    decay: Annotated[float, typer.Option(help="λ of Eq. 10, for several objectives and layers.")] = 0.3,
    mutation_rate: Annotated[float, typer.Option(help="μ at the start of a schedule.")] = 0.3,
    seed: _shared.Seed = 0,
    out: _shared.Out = None,
    smoke: _shared.Smoke = False,
) -> None:
    """Show redundancy, mutation schedules, several objectives and layers that evolve together.

    Writes results/extensions/extensions.nc (everything) and extensions.csv (the table).
    """
    started = time.perf_counter()
    points = 101 if smoke else 301
    groups = min(groups, 24) if smoke else groups
    with _shared.reporting():
        parts = [
            redundancy(seed, points),
            schedules(groups, heterogeneity, mutation_rate, seed, points),
            objectives(groups, heterogeneity, decay, seed),
            layers(decay, points),
        ]
    folder = _shared.folder("extensions", out=out, smoke=smoke)
    data = xr.merge([part for part, _ in parts])
    rows = [row for _, rows in parts for row in rows]
    specification = {
        "schema": SCHEMA,
        "study": "extensions",
        "groups": groups,
        "heterogeneity": heterogeneity,
        "decay": decay,
        "mutation_rate": mutation_rate,
        "seed": seed,
    }
    _shared.write_netcdf(
        data, folder / "extensions.nc", specification=specification, provenance=_shared.provenance(started)
    )
    _shared.write_csv(rows, folder / "extensions.csv")
    console = Console(width=80, highlight=False)
    console.print(table(rows))
    for name, what in (("csv", "Table"), ("nc", "Data")):
        console.print(f"{what + ':':6} {_shared.shown(folder / 'extensions')}.{name}", soft_wrap=True)


def _drawn(name: int, n: int, heterogeneity: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(name,)))
    return np.asarray(ed.landscapes.contributions("lognormal", n=n, heterogeneity=heterogeneity, rng=rng))


def _row(part: str, quantity: str, theory: float, simulation: float) -> Row:
    return {
        "part": part,
        "quantity": quantity,
        "theory": theory,
        "simulation": simulation,
        "difference": simulation - theory,
    }


def redundancy(seed: int, points: int) -> tuple[xr.Dataset, list[Row]]:
    """Follow four groups of equal contribution, two of them similar: with and without redundancy.

    Alone, equal contributions leave every state at rest; what similar groups supply twice makes one of them
    the attractor, approached at the rate of the slowest eigenvalue.
    """
    similarity = np.array(
        [[1.0, 0.9, 0.1, 0.0], [0.9, 1.0, 0.1, 0.0], [0.1, 0.1, 1.0, 0.2], [0.0, 0.0, 0.2, 1.0]]
    )
    neutral = ed.landscapes.Constant(np.ones(4))
    aware = ed.landscapes.Redundancy(np.ones(4), similarity, strength=1.0)
    point = ed.equilibrium(ed.Replicator(), aware, total_mass=4.0)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(2,)))
    starts = 4 * rng.dirichlet(np.full(4, 2.0), size=4)
    times = np.linspace(0.0, 240.0, points)
    runs = [
        [
            ed.solve(ed.Replicator(), landscape, start, (0.0, 240.0), save_at=times, solver=TIGHT)
            for start in starts
        ]
        for landscape in (neutral, aware)
    ]
    distance = np.array(
        [[np.linalg.norm(run.masses - point.masses, axis=1) for run in member] for member in runs]
    )
    late = (times > 80) & (times < 160)
    slope = np.polyfit(times[late], np.log(distance[1][:, late]).T, 1)[0]
    eigenvalues = point.eigenvalues
    slowest = float(eigenvalues.real.max()) if eigenvalues is not None else math.nan
    # The fixed point by plain linear algebra: equal fitness of all, masses that sum to 4.
    bordered = np.block([[similarity, np.ones((4, 1))], [np.ones((1, 4)), np.zeros((1, 1))]])
    algebra = np.linalg.solve(bordered, np.append(np.zeros(4), 4.0))[:4]
    rows = [
        _row("redundancy", "mass of a similar group", float(algebra[0]), float(runs[1][0].masses[-1, 0])),
        _row("redundancy", "mass of an unlike group", float(algebra[3]), float(runs[1][0].masses[-1, 3])),
        _row("redundancy", "rate of approach", slowest, float(slope.mean())),
        _row("redundancy", "motion without it", 0.0, float(np.ptp(distance[0], axis=1).max())),
    ]
    return (
        xr.Dataset(
            {
                "distance": (
                    ("fitness", "start", "redundancy_time"),
                    distance,
                    about("distance of the masses from the attractor", "mass"),
                ),
                "slowest": ((), slowest, about("slowest eigenvalue", "1/time")),
            },
            {
                "fitness": ("fitness", ["neutral", "redundancy"], about("fitness")),
                "redundancy_time": ("redundancy_time", times, about("time", "time")),
            },
        ),
        rows,
    )


def schedules(
    groups: int, heterogeneity: float, mutation_rate: float, seed: int, points: int
) -> tuple[xr.Dataset, list[Row]]:
    """Follow mean fitness under a constant, a falling and no mutation rate, beside the balance at each rate.

    The total mass relaxes by ∫μ dt, which is finite for a rate that falls exponentially.
    """
    fall, end, target = 20.0, 120.0, 0.5
    rates: dict[str, Any] = {
        "constant": mutation_rate,
        "annealed": lambda t: mutation_rate * math.exp(-t / fall),
        "none": 0.0,
    }
    landscape = ed.landscapes.Constant(_drawn(0, groups, heterogeneity, seed))
    times = np.linspace(0.0, end, points)
    runs = {
        name: ed.solve(
            ed.SelectionMutation(rate, target=target),
            landscape,
            np.ones(groups),
            (0.0, end),
            save_at=times,
            solver=TIGHT,
        )
        for name, rate in rates.items()
    }

    def balance(rate: float) -> float:
        point = ed.equilibrium(ed.SelectionMutation(rate, target=target), landscape, eigenvalues=False)
        return float(point.mean_fitness)

    following = [balance(mutation_rate * math.exp(-t / fall)) for t in times]
    relaxed = math.exp(-mutation_rate * fall * (1 - math.exp(-end / fall)))
    rows = [
        _row(
            "schedule",
            "constant μ: mean fitness",
            balance(mutation_rate),
            float(ed.extend(runs["constant"], 5 * end).mean_fitness[-1]),
        ),
        _row(
            "schedule",
            "annealed μ: total mass",
            groups * (target + (1 - target) * relaxed),
            float(runs["annealed"].total_mass[-1]),
        ),
        _row(
            "schedule",
            "annealed μ: mean fitness",
            following[-1],
            float(runs["annealed"].mean_fitness[-1]),
        ),
    ]
    return (
        xr.Dataset(
            {
                "mean_fitness": (
                    ("schedule", "schedule_time"),
                    np.array([runs[name].mean_fitness for name in SCHEDULES]),
                    about("mean fitness", "1/time"),
                ),
                "balance": (
                    "schedule_time",
                    following,
                    about("mean fitness of the balance at the rate of the moment", "1/time"),
                ),
                "effective_groups": (
                    ("schedule", "schedule_time"),
                    np.array([ed.diagnostics.effective_number(runs[name]) for name in SCHEDULES]),
                    about("effective number of groups"),
                ),
            },
            {
                "schedule": ("schedule", list(SCHEDULES), about("mutation rate")),
                "schedule_time": ("schedule_time", times, about("time", "time")),
            },
        ),
        rows,
    )


def objectives(groups: int, heterogeneity: float, decay: float, seed: int) -> tuple[xr.Dataset, list[Row]]:
    """Weigh the cost of a group against its accuracy, as a sum of two landscapes, for several weights.

    In theory the sum is one water filling, with contributions a - w·k.
    """
    accuracy, cost = (_drawn(name, groups, heterogeneity, seed) for name in (0, 1))
    end = 4000.0

    def measured(masses: np.ndarray) -> tuple[float, float, float]:
        shares = masses / masses.sum()
        return float(shares @ accuracy), float(shares @ cost), float((masses > 1e-3).sum())

    def filled(weight: float) -> np.ndarray:
        c = accuracy - weight * cost
        low, high = c.min() - decay * groups, c.max()
        for _ in range(200):  # bisection on the water level
            middle = (low + high) / 2
            low, high = (middle, high) if np.maximum(c - middle, 0).sum() > decay * groups else (low, middle)
        return np.asarray(np.maximum(c - low, 0) / decay)

    simulated = []
    for weight in WEIGHTS:
        fitness = ed.landscapes.LinearDecay(accuracy, decay) + ed.landscapes.Constant(-weight * cost)
        run = ed.solve(ed.Replicator(), fitness, np.ones(groups), (0.0, end), save_at=[end], solver=TIGHT)
        simulated.append(measured(run.masses[-1]))
    fine = np.linspace(WEIGHTS[0], WEIGHTS[-1], 101)
    curve = np.array([measured(filled(float(weight))) for weight in fine])
    rows = []
    for k in (0, 3, len(WEIGHTS) - 1):
        theory = measured(filled(WEIGHTS[k]))
        for j, name in enumerate(("accuracy", "cost", "survivors")):
            label = f"w = {WEIGHTS[k]:g}: {'' if name == 'survivors' else 'mean '}{name}"
            rows.append(_row("objectives", label, theory[j], simulated[k][j]))
    names = (
        ("mean_accuracy", "mean accuracy of a unit of mass"),
        ("mean_cost", "mean cost of a unit of mass"),
        ("survivors", "surviving groups"),
    )
    values = np.array(simulated)
    axis = about("weight of cost")
    return (
        xr.Dataset(
            {name: ("weight", values[:, k], about(text)) for k, (name, text) in enumerate(names)}
            | {
                f"{name}_curve": ("fine_weight", curve[:, k], about(text + " in theory"))
                for k, (name, text) in enumerate(names)
            },
            {"weight": ("weight", list(WEIGHTS), axis), "fine_weight": ("fine_weight", fine, axis)},
        ),
        rows,
    )


def matching(t: float, masses: Any) -> Any:
    """Return the fitness of two layers of two groups: the first gains by matching the second, which loses."""
    first, second = masses[..., :2], masses[..., 2:]
    total = masses.sum()
    payoff = np.array([[1.0, -1.0], [-1.0, 1.0]])
    return np.concatenate((second @ payoff, -(first @ payoff)), axis=-1) * (2 / total)


def layers(decay: float, points: int) -> tuple[xr.Dataset, list[Row]]:
    """Follow two layers that evolve together: closed orbits, and spirals with density regularisation.

    Near the centre the layers circle with period 2π; regularisation damps them at the rate λ/2. Further out
    the product of all four shares is kept without it.
    """
    both = ed.Populations(ed.Replicator(), sizes=(2, 2))
    times = np.linspace(0.0, 20.0, points)
    damped = ed.landscapes.LinearDecay(np.zeros(4), decay) + matching
    fitness: dict[str, Any] = {"without": matching, "with": damped}
    orbits = np.array(
        [
            [
                ed.solve(
                    both, landscape, [x, 1 - x, 0.5, 0.5], (0.0, 20.0), save_at=times, solver=TIGHT
                ).masses[:, [0, 2]]
                for x in STARTS
            ]
            for landscape in fitness.values()
        ]
    )
    free = orbits[0]
    product = np.prod(free * (1 - free), axis=2)
    near = {}
    for name, landscape in fitness.items():
        end = 20 * math.pi
        run = ed.solve(
            both,
            landscape,
            [0.501, 0.499, 0.5, 0.5],
            (0.0, end),
            save_at=np.linspace(0, end, 4001),
            solver=TIGHT,
        )
        near[name] = (run.t, run.masses[:, 0] - 0.5, run.masses[:, 2] - 0.5)
    t, x, y = near["without"]
    period = 2 * math.pi * float(t[-1]) / abs(float(np.unwrap(np.arctan2(y, x))[-1]))
    t, x, y = near["with"]
    rate = float(np.polyfit(t, np.log(np.hypot(x, y)), 1)[0])
    rows = [
        _row("layers", "period near the centre", 2 * math.pi, period),
        _row("layers", f"rate of approach, λ = {decay:g}", -decay / 2, rate),
        _row(
            "layers",
            "change of the kept product",
            0.0,
            float(np.abs(product[-1] / product[-1, 0] - 1).max()),
        ),
    ]
    grid = np.linspace(0.02, 0.98, 97)
    return (
        xr.Dataset(
            {
                "orbit": (
                    ("regularisation", "layer_start", "layer_time", "layer"),
                    orbits,
                    about("share of the first group of each layer"),
                ),
                "kept": (
                    ("second", "first"),
                    np.multiply.outer(grid * (1 - grid), grid * (1 - grid)),
                    about("product of the four shares"),
                ),
                "level": ("layer_start", product[:, 0], about("product at the start")),
            },
            {
                "regularisation": ("regularisation", list(fitness), about("density regularisation")),
                "layer_start": ("layer_start", list(STARTS), about("share at the start")),
                "layer_time": ("layer_time", times, about("time", "time")),
                "first": ("first", grid, about("share in the first layer")),
                "second": ("second", grid, about("share in the second layer")),
            },
        ),
        rows,
    )


def table(rows: list[Row]) -> Table:
    """Return the table theory | simulation | difference."""
    made = Table(title="Extensions of the flow", box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    made.add_column("", no_wrap=True)
    made.add_column("quantity", no_wrap=True)
    for name in ("theory", "simulation", "diff."):
        made.add_column(name, justify="right", no_wrap=True)
    last = None
    for row in rows:
        made.add_row(
            row["part"] if row["part"] != last else "",
            row["quantity"],
            f"{row['theory']:.5g}",
            f"{row['simulation']:.5g}",
            f"{row['difference']:+.0e}",
        )
        last = row["part"]
    return made


if __name__ == "__main__":
    _shared.command_line(main)()
