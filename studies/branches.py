"""Where rest points fold, meet and exchange their stability, and how many starts each of them attracts.

Follows rest points of three games of two strategies over a payoff or the mutation rate, and of Eq. 10 over λ,
through every fold and exchange, and puts what is found beside closed forms. Between two attractors lies a
separatrix, the unstable rest point: random starts on both sides of it are counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich.table import Table

import _shared
import evodyn as ed
from _shared import Row
from evodyn import landscapes
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import about, coordinates

SCHEMA = 1
STEPS = 200
"""Points of a branch that are saved; branches of the games are shorter."""
PASSAGES = 4
KINDS = ["none", "fold", "extinction", "invasion", "crossing", "hopf"]
COST = 2.0
"""Cost of a fight of hawks."""
ADVANTAGE = 1.2
"""Payoff of the first convention among its own; that of the second is 1."""
DECAYS = (2.0, 0.02)
"""From λ = 2, at which most groups live, down."""
Game = tuple[ed.Dynamics, landscapes.LandscapeFunction]


# --- Games ----------------------------------------------------------------------------------------------


def hawk_dove(value: float) -> Game:
    """Return the game of hawks and doves for a resource of this value: at rest V/2 hawks up to V = 2."""
    payoffs = [[(value - COST) / 2, value], [0.0, value / 2]]
    return ed.Replicator(), landscapes.MatrixGame(payoffs)


@dataclasses.dataclass(frozen=True, eq=False)
class Cooperators:
    """Fitness x_1 x_2 of those who need both kinds, and a of the others: x_1(1 - x_1) = a at rest."""

    alone: float
    groups: int = 2

    def __call__(self, t: float, masses: FloatArray) -> FloatArray:
        """Return the fitness, shape (2,)."""
        shares = masses / masses.sum()
        return np.array([shares[0] * shares[1], self.alone])


def cooperation(alone: float) -> Game:
    """Return the game of those whose fitness depends on both kinds, against others whose does not."""
    return ed.Replicator(), Cooperators(alone)


def conventions(rate: float) -> Game:
    """Return two conventions with mutation at this rate to half and half, at a total mass of 1."""
    return ed.SelectionMutation(rate), landscapes.MatrixGame(np.diag([ADVANTAGE, 1.0]))


GAMES: dict[str, Callable[[float], Game]] = {
    "hawk_dove": hawk_dove,
    "cooperation": cooperation,
    "conventions": conventions,
}
FOLLOWED = {
    "hawks and doves": ("hawk_dove", (0.5, 4.0), (0.25, 0.75)),
    "hawks": ("hawk_dove", (0.5, 4.0), (1.0, 0.0)),
    "cooperation": ("cooperation", (0.05, 0.4), (0.95, 0.05)),
    "others": ("cooperation", (0.05, 0.4), (0.0, 1.0)),
    "first convention": ("conventions", (0.005, 0.45), (0.99, 0.01)),
    "second convention": ("conventions", (0.005, 0.45), (0.01, 0.99)),
}
"""Branch -> game, interval of its parameter, masses near the rest point at its beginning."""
SPLIT = {"cooperation": [0.08, 0.12, 0.16, 0.2, 0.24], "conventions": [0.05, 0.15, 0.25, 0.33]}
"""Game -> parameters at which starts are drawn."""


def separatrix(game: str, parameter: float) -> float:
    """Return the share of the first strategy beyond which it prevails, in closed form."""
    if game == "cooperation":
        return float((1 - np.sqrt(1 - 4 * parameter)) / 2)
    # (s x - 1) x(1 - x) + μ(1/2 - x) = 0, s = 2.2: the middle one of three roots.
    s, mu = ADVANTAGE + 1, parameter
    roots = np.sort(np.roots([-s, s + 1, -1 - mu, mu / 2]).real)
    return float(roots[1])


def fold(game: str) -> float:
    """Return the parameter at which two rest points meet, in closed form.

    Of the conventions, rest is μ = x(1 - x)(s x - 1)/(x - 1/2), which is largest for x below 1/2.
    """
    if game == "cooperation":
        return 0.25
    x = np.linspace(0.0, 0.4999, 2_000_001)
    return float(np.max(x * (1 - x) * ((ADVANTAGE + 1) * x - 1) / (x - 0.5)))


# --- What is computed -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Followed:
    """A branch of a game."""

    name: str


def follow(point: Followed) -> xr.Dataset:
    """Follow a branch of a game of two strategies."""
    game, interval, start = FOLLOWED[point.name]
    found = ed.branch(GAMES[game], interval, start=np.array(start), longest_step=0.03, most_points=STEPS)
    passages = found.passages
    kinds = [KINDS.index(each.kind) for each in passages]
    by_step = {
        "parameter": (found.parameters, "parameter of the game"),
        "share": (found.masses[:, 0] / found.masses.sum(axis=1), "share of the first strategy"),
        "stable": (found.stable.astype(float), "1 where asymptotically stable"),
    }
    by_passage = {
        "passage_parameter": ([each.parameter for each in passages], "parameter of a passage"),
        "passage_share": ([each.masses[0] / each.masses.sum() for each in passages], "share there"),
        "passage_kind": (kinds, "kind of passage: " + ", ".join(f"{k} {n}" for k, n in enumerate(KINDS))),
    }
    return xr.Dataset(
        {name: ("step", _padded(values, STEPS), about(what)) for name, (values, what) in by_step.items()}
        | {
            name: ("passage", _padded(values, PASSAGES), about(what))
            for name, (values, what) in by_passage.items()
        }
    )


def _padded(values: Any, length: int) -> FloatArray:
    padded = np.full(length, np.nan)
    padded[: len(values)] = values
    return padded


@dataclasses.dataclass(frozen=True)
class Split:
    """Starts of a game between two attractors."""

    game: str
    parameter: float
    starts: int
    seed: int = 0
    member: int = 0
    """Which starts of the seed."""


def attract(point: Split) -> xr.Dataset:
    """Count the starts that end where the first strategy is the rarer one: up to the separatrix."""
    dynamics, landscape = GAMES[point.game](point.parameter)
    rng = np.random.SeedSequence(point.seed, spawn_key=(point.member,))
    found = ed.basins(dynamics, landscape, starts=point.starts, rng=rng, total_mass=_total(point.game))
    rarer = [k for k, rest in enumerate(found.equilibria) if rest.masses[0] < 0.5 * _highest(found)]
    share, (low, high) = 0.0, (0.0, 0.0)
    if rarer:
        share, (low, high) = found.shares[rarer[0]], found.intervals[rarer[0]]
    values = {
        "basin": (share, "share of starts that end where the first strategy is rare"),
        "basin_low": (low, "lower end of its interval"),
        "basin_high": (high, "upper end of its interval"),
        "separatrix": (separatrix(point.game, point.parameter), "share of the first strategy, closed form"),
    }
    return xr.Dataset({name: ((), float(value), about(what)) for name, (value, what) in values.items()})


def _total(game: str) -> float | None:
    return None if game == "conventions" else 1.0


def _highest(found: ed.Basins) -> float:
    return max(float(rest.masses[0]) for rest in found.equilibria)


def regulated(point: _shared.Population) -> xr.Dataset:
    """Follow the rest point of Eq. 10 as λ falls, and put the closed form of every extinction beside it."""
    c, total = point.contribution(), float(point.groups)
    begin, end = DECAYS
    # Everybody lives where λ exceeds the level of the weakest.
    levels = np.maximum(c - c[:, None], 0.0).sum(axis=1) / total

    def problem(logarithm: float) -> Game:
        return ed.Replicator(), landscapes.LinearDecay(c, float(np.exp(logarithm)))

    interval = float(np.log(begin)), float(np.log(end))
    found = ed.branch(problem, interval, total_mass=total, most_points=STEPS)
    died = np.full(point.groups, np.nan)
    for each in found.passages:
        died[each.group] = np.exp(each.parameter)
    masses = np.full((STEPS, point.groups), np.nan)
    masses[: len(found.parameters)] = found.masses
    within = (levels > end) & (levels < begin)
    exact = np.where(within, levels, np.nan)
    return xr.Dataset(
        {
            "decay": ("level", _padded(np.exp(found.parameters), STEPS), about("λ of Eq. 10", "1/time/mass")),
            "mass": (("level", "group"), masses, about("mass at rest", "mass")),
            "decay_extinct": ("group", died, about("λ at which the group dies out, found", "1/time/mass")),
            "decay_extinct_exact": ("group", exact, about("the same in closed form", "1/time/mass")),
            "contribution": ("group", c, about("contribution", "1/time")),
        },
        coordinates(group=(np.arange(point.groups), "group")),
    )


# --- The study ------------------------------------------------------------------------------------------


def main(
    study: _shared.Study,
    starts: Annotated[int, typer.Option(min=2, help="Starts drawn at each parameter of a game.")] = 80,
    groups: Annotated[int, typer.Option(min=2, help="Groups that Eq. 10 regulates.")] = 24,
    heterogeneity: Annotated[float, typer.Option(help="Coefficient of variation of their fitness.")] = 0.5,
    seed: _shared.Seed = 0,
    seeds: _shared.Seeds = 4,
) -> None:
    """Follow rest points over a parameter, and count the starts that each attracts.

    Writes results/branches/branches.nc (branches, basins, and closed forms beside them) and branches.csv (the
    table).
    """
    if study.smoke:
        starts, groups, seeds = min(starts, 2), min(groups, 8), min(seeds, 2)
    curves = _shared.stacked(
        study.sweep("Branches", follow, [Followed(name) for name in FOLLOWED]),
        coordinates(branch=(list(FOLLOWED), "branch")),
    )
    split = [(game, at) for game, values in SPLIT.items() for at in values]
    places = [Split(game, at, starts, seed, member) for member, (game, at) in enumerate(split)]
    basins = _shared.stacked(
        study.sweep("Basins", attract, places, folder="basins"),
        coordinates(place=(np.arange(len(places)), "parameter at which starts were drawn")),
    )
    basins = basins.assign(
        basin_parameter=("place", [place.parameter for place in places], about("parameter of the game")),
        basin_game=("place", [list(SPLIT).index(place.game) for place in places], about(", ".join(SPLIT))),
    )
    populations = [
        _shared.Population("gaussian", heterogeneity, groups=groups, seed=seed, member=member)
        for member in range(seeds)
    ]
    regulation = _shared.stacked(
        study.sweep("Eq. 10", regulated, populations, folder="regulated"),
        coordinates(seed=(np.arange(seeds), "population drawn from the seed")),
    )
    data = curves.merge(basins).merge(regulation)
    rows = table_rows(data)
    specification: Row = {
        "schema": SCHEMA,
        "starts": starts,
        "groups": groups,
        "heterogeneity": heterogeneity,
        "games": list(SPLIT),
        "cost": COST,
        "advantage": ADVANTAGE,
        "seed": seed,
        "seeds": seeds,
    }
    study.save(data, rows, specification)
    study.show(_table(rows, specification), *notes(rows))


def table_rows(data: xr.Dataset) -> list[Row]:
    """Return one row for each quantity that has a closed form."""
    expected = {
        "hawks and doves": ("hawks alone from V =", COST),
        "hawks": ("no doves from V =", COST),
        "cooperation": ("fold at a =", fold("cooperation")),
        "second convention": ("fold at μ =", fold("conventions")),
    }
    rows: list[Row] = []
    for name, (quantity, theory) in expected.items():
        found = float(data.passage_parameter.sel(branch=name).values[0])
        rows.append(_shared.compared(theory, found, part=name, quantity=quantity, low=found, high=found))
    games = list(SPLIT)
    for place in range(data.sizes["place"]):
        cell = data.isel(place=place)
        game = games[int(cell.basin_game)]
        rows.append(
            _shared.compared(
                float(cell.separatrix),
                float(cell.basin),
                part=f"{game}, starts",
                quantity=f"below, at {float(cell.basin_parameter):g}",
                low=float(cell.basin_low),
                high=float(cell.basin_high),
            )
        )
    exact, found = data.decay_extinct_exact.values, data.decay_extinct.values
    both = np.isfinite(exact) & np.isfinite(found)
    worst = int(np.abs(np.where(both, found - exact, 0.0)).argmax())
    rows.append(
        _shared.compared(
            float(exact.flat[worst]),
            float(found.flat[worst]),
            part="Eq. 10",
            quantity=f"λ, worst of {int(both.sum())}",
            low=float(found.flat[worst]),
            high=float(found.flat[worst]),
        )
    )
    return rows


def _table(rows: list[Row], specification: Row) -> Table:
    title = f"Passages and basins; {specification['starts']} starts each"
    return _shared.comparison(title, rows, digits=4)


def notes(rows: list[Row]) -> list[str]:
    """Return the lines that explain the table."""
    counted = [row for row in rows if row["part"].endswith("starts")]
    held = sum(row["low"] <= row["theory"] <= row["high"] for row in counted)
    return [
        "starts below: share of random starts beneath the separatrix, beside its place.",
        f"{held} of {len(counted)} intervals (95 %) of basins hold the closed form.",
        "",
    ]


if __name__ == "__main__":
    _shared.command_line(main)()
