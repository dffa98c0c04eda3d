"""What the paper leaves to future work, on the side of the dynamics, with theory beside it.

Redundancy that resolves neutral equilibria, mutation rates that change with time, fitness of several
objectives, and layers that evolve together.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr

import _shared
import evodyn as ed
from _shared import Row
from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import about, coordinates, labelled
from evodyn.diagnostics import effective_number
from evodyn.equilibria.closed_forms import water_filling

SCHEMA = 2
SCHEDULES = ("constant", "annealed", "none")
WEIGHTS = (0.0, 0.15, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5)
STARTS = (0.55, 0.65, 0.75, 0.85)
TIGHT = ed.Solver(rtol=1e-11, atol=1e-13)

Found = tuple[dict[str, Any], dict[str, Any], dict[str, tuple[float, float]]]
"""Variables, coordinates, and what is compared: quantity -> (theory, simulation)."""


@dataclasses.dataclass(frozen=True)
class Extension:
    """One extension of the flow and one population of groups of mass 1."""

    part: str
    groups: int = 64
    heterogeneity: float = 0.5
    """Coefficient of variation of log-normal contributions and costs."""
    decay: float = 0.3
    """λ of Eq. 10, for several objectives and layers."""
    mutation_rate: float = 0.3
    """μ at the start of a schedule."""
    saved_times: int = 301
    seed: int = 0
    member: int = 0

    def __post_init__(self) -> None:
        validation.choice("part", self.part, tuple(PARTS))
        validation.non_negative("heterogeneity", self.heterogeneity)
        for name in ("decay", "mutation_rate"):
            validation.positive(name, getattr(self, name))

    def rng(self, stream: int) -> np.random.Generator:
        """Return the random numbers of one stream: 0 contributions, 1 costs, 2 starts."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(stream, self.member)))

    def drawn(self, stream: int) -> FloatArray:
        """Return contributions or costs, shape (N,)."""
        return ed.landscapes.contributions(
            "lognormal", n=self.groups, heterogeneity=self.heterogeneity, rng=self.rng(stream)
        )


def extension(point: Extension) -> xr.Dataset:
    """Simulate one extension and put theory beside it; what depends on the draw leads with ``member``."""
    variables, axes, compared = PARTS[point.part](point)
    for k, name in enumerate(("theory", "simulation")):
        variables[name] = ("quantity", [pair[k] for pair in compared.values()], about(name, "various"))
    axes |= coordinates(
        quantity=(list(compared), "what is compared"),
        member=([point.member], "population drawn from the seed"),
    )
    return xr.Dataset(variables, axes)


def redundancy(point: Extension) -> Found:
    """Follow four groups of equal contribution, two of them similar: with and without redundancy.

    Alone, equal contributions leave every state at rest; what similar groups supply twice makes one of them
    the attractor, approached at the rate of the slowest eigenvalue.
    """
    similarity = np.array(
        [[1.0, 0.9, 0.1, 0.0], [0.9, 1.0, 0.1, 0.0], [0.1, 0.1, 1.0, 0.2], [0.0, 0.0, 0.2, 1.0]]
    )
    neutral = ed.landscapes.Constant(np.ones(4))
    aware = ed.landscapes.Redundancy(np.ones(4), similarity, strength=1.0)
    rest = ed.equilibrium(ed.Replicator(), aware, total_mass=4.0)
    starts = 4 * point.rng(2).dirichlet(np.full(4, 2.0), size=4)
    times = np.linspace(0.0, 240.0, point.saved_times)
    masses = np.array(
        [
            [
                ed.solve(ed.Replicator(), landscape, start, (0.0, 240.0), save_at=times, solver=TIGHT).masses
                for start in starts
            ]
            for landscape in (neutral, aware)
        ]
    )
    distance = np.linalg.norm(masses - rest.masses, axis=-1)
    late = (times > 80) & (times < 160)
    slope = np.polyfit(times[late], np.log(distance[1][:, late]).T, 1)[0]
    slowest = math.nan if rest.eigenvalues is None else float(rest.eigenvalues.real.max())
    # The fixed point by plain linear algebra: equal fitness of all, masses that sum to 4.
    bordered = np.block([[similarity, np.ones((4, 1))], [np.ones((1, 4)), np.zeros((1, 1))]])
    algebra = np.linalg.solve(bordered, np.append(np.zeros(4), 4.0))
    final = masses[1, 0, -1]
    return (
        {
            "distance": (
                ("member", "fitness", "start", "redundancy_time"),
                distance[None],
                about("distance of the masses from the attractor", "mass"),
            ),
            "slowest": ((), slowest, about("slowest eigenvalue", "1/time")),
        },
        coordinates(
            fitness=(["neutral", "redundancy"], "fitness"), redundancy_time=(times, "time", "1/fitness")
        ),
        {
            "mass of a similar group": (float(algebra[0]), float(final[0])),
            "mass of an unlike group": (float(algebra[3]), float(final[3])),
            "rate of approach": (slowest, float(slope.mean())),
            "motion without it": (0.0, float(np.ptp(distance[0], axis=1).max())),
        },
    )


def schedule(point: Extension) -> Found:
    """Follow mean fitness under a constant, a falling and no mutation rate, beside the balance at each rate.

    The total mass relaxes by ∫μ dt, which is finite for a rate that falls exponentially.
    """
    fall, end, target = 20.0, 120.0, 0.5
    rates: dict[str, Any] = {
        "constant": point.mutation_rate,
        "annealed": lambda t: point.mutation_rate * math.exp(-t / fall),
        "none": 0.0,
    }
    landscape, start = ed.landscapes.Constant(point.drawn(0)), np.ones(point.groups)
    times = np.linspace(0.0, end, point.saved_times)

    def solved(rate: Any) -> ed.Run:
        dynamics = ed.SelectionMutation(rate, target=target)
        return ed.solve(dynamics, landscape, start, (0.0, end), save_at=times, solver=TIGHT)

    runs = {name: solved(rates[name]) for name in SCHEDULES}

    def balance(rate: float) -> float:
        dynamics = ed.SelectionMutation(rate, target=target)
        return float(ed.equilibrium(dynamics, landscape, eigenvalues=False).mean_fitness)

    following = [balance(rates["annealed"](t)) for t in times]
    relaxed = math.exp(-point.mutation_rate * fall * (1 - math.exp(-end / fall)))
    settled, annealed = ed.extend(runs["constant"], 5 * end), runs["annealed"]
    variables: dict[str, Any] = labelled(
        ("member", "schedule", "schedule_time"),
        {
            "mean_fitness": ([[runs[name].mean_fitness for name in SCHEDULES]], "mean fitness", "1/time"),
            "effective_groups": (
                [[effective_number(runs[name]) for name in SCHEDULES]],
                "effective number of groups",
            ),
        },
    )
    text = "mean fitness of the balance at the rate of the moment"
    return (
        variables | {"balance": (("member", "schedule_time"), [following], about(text, "1/time"))},
        coordinates(schedule=(list(SCHEDULES), "mutation rate"), schedule_time=(times, "time", "1/fitness")),
        {
            "constant μ: mean fitness": (balance(point.mutation_rate), float(settled.mean_fitness[-1])),
            "annealed μ: total mass": (
                point.groups * (target + (1 - target) * relaxed),
                float(annealed.total_mass[-1]),
            ),
            "annealed μ: mean fitness": (following[-1], float(annealed.mean_fitness[-1])),
        },
    )


def objectives(point: Extension) -> Found:
    """Weigh the cost of a group against its benefit, as a sum of two landscapes, for several weights.

    In theory the sum is one water filling, with contributions a - w·k.
    """
    benefit, cost, end = point.drawn(0), point.drawn(1), 4000.0

    def measured(masses: FloatArray) -> tuple[float, float, float]:
        shares = masses / masses.sum()
        return float(shares @ benefit), float(shares @ cost), float((masses > 1e-3).sum())

    def simulated(weight: float) -> tuple[float, float, float]:
        fitness = ed.landscapes.LinearDecay(benefit, point.decay) + ed.landscapes.Constant(-weight * cost)
        start = np.ones(point.groups)
        run = ed.solve(ed.Replicator(), fitness, start, (0.0, end), save_at=[end], solver=TIGHT)
        return measured(run.masses[-1])

    def filled(weight: float) -> tuple[float, float, float]:
        return measured(water_filling(benefit - weight * cost, point.decay, float(point.groups))[0])

    values = {weight: simulated(weight) for weight in WEIGHTS}
    fine = np.linspace(WEIGHTS[0], WEIGHTS[-1], 101)
    curves = [filled(float(weight)) for weight in fine]
    texts = {
        "mean_benefit": "mean benefit of a unit of mass",
        "mean_cost": "mean cost of a unit of mass",
        "survivors": "surviving groups",
    }
    variables = {}
    for k, (name, text) in enumerate(texts.items()):
        variables[name] = (("member", "weight"), [[found[k] for found in values.values()]], about(text))
        variables[f"{name}_curve"] = (
            ("member", "fine_weight"),
            [[found[k] for found in curves]],
            about(f"{text} in theory"),
        )
    return (
        variables,
        coordinates(weight=(list(WEIGHTS), "weight of cost"), fine_weight=(fine, "weight of cost")),
        {
            f"w = {weight:g}: {name}": (filled(weight)[k], values[weight][k])
            for weight in (WEIGHTS[0], WEIGHTS[3], WEIGHTS[-1])
            for k, name in enumerate(("mean benefit", "mean cost", "survivors"))
        },
    )


def matching(t: float, masses: Any) -> Any:
    """Return the fitness of two layers of two groups: the first gains by matching the second, which loses."""
    first, second = masses[..., :2], masses[..., 2:]
    payoff = np.array([[1.0, -1.0], [-1.0, 1.0]])
    return np.concatenate((second @ payoff, -(first @ payoff)), axis=-1) * (2 / masses.sum())


def layers(point: Extension) -> Found:
    """Follow two layers that evolve together: closed orbits, and spirals with density regularisation.

    Near the centre the layers circle with period 2π; regularisation damps them at the rate λ/2. Further out
    the product of all four shares is kept without it.
    """
    both = ed.Populations(ed.Replicator(), sizes=(2, 2))
    fitness: dict[str, Any] = {
        "without": matching,
        "with": ed.landscapes.LinearDecay(np.zeros(4), point.decay) + matching,
    }

    def orbit(landscape: Any, start: float, times: FloatArray) -> FloatArray:
        """Return the share of the first group of each layer, shape (T, 2)."""
        masses = [start, 1 - start, 0.5, 0.5]
        run = ed.solve(both, landscape, masses, (0.0, times[-1]), save_at=times, solver=TIGHT)
        return run.masses[:, [0, 2]]

    times, turns = np.linspace(0.0, 20.0, point.saved_times), np.linspace(0.0, 20 * math.pi, 4001)
    orbits = np.array([[orbit(landscape, x, times) for x in STARTS] for landscape in fitness.values()])
    product = np.prod(orbits[0] * (1 - orbits[0]), axis=2)
    free, damped = (orbit(landscape, 0.501, turns) - 0.5 for landscape in fitness.values())
    angle = np.unwrap(np.arctan2(free[:, 1], free[:, 0]))
    rate = np.polyfit(turns, np.log(np.hypot(damped[:, 0], damped[:, 1])), 1)[0]
    grid = np.linspace(0.02, 0.98, 97)
    return (
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
        coordinates(
            regularisation=(list(fitness), "density regularisation"),
            layer_start=(list(STARTS), "share at the start"),
            layer_time=(times, "time", "1/fitness"),
            first=(grid, "share in the first layer"),
            second=(grid, "share in the second layer"),
        ),
        {
            "period near the centre": (2 * math.pi, 2 * math.pi * float(turns[-1]) / abs(float(angle[-1]))),
            f"rate of approach, λ = {point.decay:g}": (-point.decay / 2, float(rate)),
            "change of the kept product": (0.0, float(np.abs(product[-1] / product[-1, 0] - 1).max())),
        },
    )


PARTS = {"redundancy": redundancy, "schedule": schedule, "objectives": objectives, "layers": layers}
"""The extensions; all but the layers draw a population."""


# --- The study ------------------------------------------------------------------------------------------


def main(
    study: _shared.Study,
    groups: Annotated[int, typer.Option(min=4, help="Number of groups N, each of mass 1.")] = 64,
    heterogeneity: Annotated[float, typer.Option(help="Coefficient of variation of fitness.")] = 0.5,
    decay: Annotated[float, typer.Option(help="λ of Eq. 10, for several objectives and layers.")] = 0.3,
    mutation_rate: Annotated[float, typer.Option(help="μ at the start of a schedule.")] = 0.3,
    seed: _shared.Seed = 0,
    seeds: _shared.Seeds = 1,
) -> None:
    """Show redundancy, mutation schedules, several objectives and layers that evolve together.

    Writes results/extensions/extensions.nc (everything) and extensions.csv (the table).
    """
    if study.smoke:
        groups, seeds = min(groups, 24), min(seeds, 2)
    settings: Row = {
        "groups": groups,
        "heterogeneity": heterogeneity,
        "decay": decay,
        "mutation_rate": mutation_rate,
        "seed": seed,
    }
    points = [
        Extension(part, **settings, saved_times=101 if study.smoke else 301, member=member)
        for part in PARTS
        for member in range(1 if part == "layers" else seeds)
    ]
    results = study.sweep("Extensions", extension, points)
    rows = [row for point, result in zip(points, results, strict=True) for row in table_rows(point, result)]
    data = xr.merge(
        [result.drop_dims("quantity").drop_attrs(deep=False) for result in results],
        join="outer",
        compat="no_conflicts",
    )
    study.save(data, rows, settings | {"schema": SCHEMA, "seeds": seeds})
    first = _shared.first_population(rows, "part", "quantity")
    worst = [row | {"difference": row["worst"]} for row in first]
    several = f"The first of {seeds} populations; difference: the largest of all of them.\n"
    study.show(
        _shared.comparison("Extensions of the flow", worst, digits=5),
        *([several] if seeds > 1 else []),
    )


def table_rows(point: Extension, result: xr.Dataset) -> list[Row]:
    """Return one row for each quantity that theory fixes: theory, simulation and their difference."""
    compared = zip(result.quantity.values, result.theory.values, result.simulation.values, strict=True)
    return [
        _shared.compared(
            float(theory),
            float(simulation),
            member=point.member,
            part=point.part,
            quantity=str(quantity),
        )
        for quantity, theory, simulation in compared
    ]


if __name__ == "__main__":
    _shared.command_line(main)()
