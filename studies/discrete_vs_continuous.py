"""How far the discrete maps (Eqs. 12-14) are from the flows that they step along, and when they leave them.

Measures the global error against its leading term in theory, finds by bisection the step sizes at which
the maps flip or first have to be projected, and follows the map of two groups through its period doublings.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Annotated

import numpy as np
import typer
import xarray as xr
from rich.table import Table

import _shared
import evodyn as ed
from _shared import DYNAMICS, Row
from evodyn.core import validation
from evodyn.core.arrays import FloatArray, host
from evodyn.core.labels import coordinates, labelled
from evodyn.discrete_stability import error_constant, flip_step_size, orbits
from evodyn.landscapes import LinearDecay, contributions
from evodyn.model.dynamics import Scheme, rate_bound

SCHEMA = 1
EQUATION = dict(zip(DYNAMICS, (12, 13, 14), strict=True))
SCHEMES: dict[str, Scheme] = {"Euler": "euler", "exponential": "exponential"}
TWINS = LinearDecay([1.0, 1.0], decay=1.0)  # with P = 2 the step size is η_p λP/N itself
LANDMARKS = {"flip": 2.0, "cycle splits": 3.0, "period 4": 1 + math.sqrt(5), "projection": 4.0}
OUTCOMES = ("settles", "settles after projections", "keeps moving", "overflows")
RANGE = (1 / 30, 30.0)  # step sizes among which limits are looked for
RARE = 1e-6  # mass of an absent group, and size of a perturbation, near the attractor
LOST = 1e-10  # below this a perturbation has died out, up to rounding
MOVING = 0.01  # change of a mass in one step above which a map keeps moving, after the time
SETTLED = 50.0


# --- One map --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class MapScenario:
    """A map on groups of unit mass under Eq. 10, which differ in their contributions alone."""

    dynamics: ed.Dynamics
    scheme: Scheme = "euler"
    kind: str = "lognormal"
    groups: int = 32
    heterogeneity: float = 0.5
    decay: float = 0.5
    t_end: float = 4.0
    """Time at which the error is looked at."""
    halvings: int = 7
    """The step sizes of `map_error` are t_end/8, halved this often."""
    steps: int = 1000
    """Length of the runs of `step_limits`."""
    step_sizes: tuple[float, ...] = ()
    """Those at which `step_limits` says what becomes of a uniform start."""
    seed: int = 0
    member: int = 0

    def __post_init__(self) -> None:
        for name in ("decay", "t_end"):
            validation.positive(name, getattr(self, name))
        self.landscape()  # says what cannot be drawn

    def landscape(self) -> LinearDecay:
        """Return the landscape of Eq. 10."""
        rng = np.random.SeedSequence(self.seed, spawn_key=(self.member,))
        c = contributions(self.kind, n=self.groups, heterogeneity=self.heterogeneity, rng=rng)
        return LinearDecay(c, decay=self.decay)


def map_error(scenario: MapScenario) -> xr.Dataset:
    """Compare a map with the flow at one time, for ever smaller steps, and with its error constant."""
    dynamics, landscape, start = scenario.dynamics, scenario.landscape(), np.ones(scenario.groups)
    scheme, span = scenario.scheme, (0.0, scenario.t_end)
    tight = ed.Solver(rtol=1e-12, atol=1e-13)
    flow = ed.solve(dynamics, landscape, start, span, save_at=[scenario.t_end], solver=tight).masses[-1]
    constant = error_constant(dynamics, landscape, start, span, save_at=[scenario.t_end], scheme=scheme)[0]
    counts = 8 * 2 ** np.arange(scenario.halvings + 1)
    steps = scenario.t_end / counts
    errors = np.array(
        [
            ed.iterate(dynamics, landscape, start, int(n), h, scheme=scheme, save_every=int(n)).masses[-1]
            - flow
            for n, h in zip(counts, steps, strict=True)
        ]
    )
    quotients = errors / steps[:, None]
    size = np.abs(errors).max(axis=1)
    largest = float(np.abs(constant).max())
    by_step = {
        "error": (size, "largest difference of a mass from the flow", "mass"),
        "predicted_error": (steps * largest, "its leading term in theory", "mass"),
    }
    # From the two finest step sizes, as the order is.
    extrapolated = 2 * quotients[-1] - quotients[-2]
    by_group = {
        "constant": (constant, "error constant in theory", "mass/time"),
        "measured_constant": (extrapolated, "error over step size, extrapolated to none", "mass/time"),
    }
    order = float(np.log2(size[-2] / size[-1]))
    return xr.Dataset(
        labelled("step_size", by_step)
        | labelled("group", by_group)
        | labelled((), {"order": (order, "order of convergence")}),
        coordinates(step_size=(steps, "step size", "time"), group=(np.arange(scenario.groups), "group")),
    )


def step_limits(scenario: MapScenario) -> xr.Dataset:
    """Find by simulation where a map near its attractor flips, and where it first has to be projected.

    Both limits are found by bisection between step sizes of 1/30 and 30, and put beside theory: the flow's
    eigenvalues for the flip (survivors alone, perturbed), and 1/(ν - c_min) for the projection of groups
    that are rare below the level ν, or 1/κ if a clip makes that greater. With mutation none is rare at the
    attractor; there the masses are dealt out anew, most to the worst, and the projection comes at
    1/max_i(φ̄ - φ_i + μ(1 - m_i/p_i)). NaN where no mass would fall.
    """
    if scenario.scheme != "euler":
        raise ValueError(f"scheme is {scenario.scheme!r}; expected 'euler', whose limits these are.")
    dynamics, landscape = scenario.dynamics, scenario.landscape()
    n = scenario.groups
    rate = rate_bound(dynamics, n, 0.0)
    total = None if rate.any() else float(n)
    point = ed.equilibrium(dynamics, landscape, total_mass=total, eigenvalues=True)
    resting = np.array(point.masses)

    def after(masses: FloatArray, steps: int, h: float) -> FloatArray:
        with np.errstate(over="ignore", invalid="ignore"):  # projections may add mass without end
            for _ in range(steps):
                masses = host(dynamics.step(masses, landscape(0.0, masses), h))
        return masses

    rng = np.random.default_rng(np.random.SeedSequence(scenario.seed, spawn_key=(scenario.member, 1)))
    noise = rng.standard_normal(n)
    shaken = resting * (1 + RARE * (noise - resting @ noise / resting.sum()))

    def flips(h: float) -> bool:
        half = after(shaken, scenario.steps // 2, h)
        early = np.abs(half - resting).max()
        late = np.abs(after(half, scenario.steps - scenario.steps // 2, h) - resting).max()
        return not late <= LOST and not (late <= early and late <= MOVING)

    if rate.any():
        state = np.empty(n)
        state[np.argsort(resting)] = np.sort(resting)[::-1]
    else:
        state = np.where(point.survivors, shaken, RARE)
    fitness = landscape(0.0, state)
    clip = math.inf if dynamics.signal_clip is None else dynamics.signal_clip
    falls = np.minimum(ed.mean_fitness(state, fitness) - fitness, clip) + rate * (1 - 1 / state)  # m_i = 1
    falling = bool(falls.max() > 10 * RARE * scenario.decay)
    first, projected = math.nan, math.nan
    if falling:
        first = 1 / float(falls.max())
        projected = bisected(lambda h: bool((after(state, 1, h) == 0).any()), 1e-3, 1e6)
    values = {
        "flip": (flip_step_size(point), "step size of the flip in theory", "time"),
        "measured_flip": (bisected(flips, *RANGE), "step size of the flip in simulation", "time"),
        "positivity": (first, "step size of the first projection in theory", "time"),
        "measured_positivity": (projected, "step size of the first projection in simulation", "time"),
    }
    outcomes = [outcome(scenario, h) for h in scenario.step_sizes]
    found = {"outcome": (np.array(outcomes, dtype=np.int64), "outcome")}
    sizes = np.array(scenario.step_sizes, dtype=float)
    return xr.Dataset(
        labelled((), values) | labelled("step_size", found),
        coordinates(step_size=(sizes, "step size", "time")),
    )


def outcome(scenario: MapScenario, h: float) -> int:
    """Return the index in `OUTCOMES` of what becomes of a uniform start."""
    start, steps = np.ones(scenario.groups), max(scenario.steps, math.ceil(SETTLED / h))
    with np.errstate(over="ignore", invalid="ignore"):
        run = ed.iterate(
            scenario.dynamics, scenario.landscape(), start, steps, h, save_every=steps - 1, throw=False
        )
    if run.termination is not ed.Termination.COMPLETED:
        return 3
    if np.abs(run.masses[-1] - run.masses[-2]).max() > MOVING:
        return 2
    return int(run.stats.projections > 0)


def bisected(beyond: Callable[[float], bool], low: float, high: float, *, rounds: int = 24) -> float:
    """Return where a condition begins to hold, by bisection in the logarithm.

    inf if the condition does not hold at `high`, `low` if it holds there.
    """
    if beyond(low):
        return low
    if not beyond(high):
        return math.inf
    for _ in range(rounds):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return math.sqrt(low * high)


# --- The study ------------------------------------------------------------------------------------------


def main(
    study: _shared.Study,
    kind: Annotated[str, typer.Option(help="Law of the contributions.")] = "lognormal",
    heterogeneity: Annotated[float, typer.Option(help="Coefficient of variation of fitness.")] = 0.5,
    groups: Annotated[int, typer.Option(min=2, help="Number of groups N, each of mass 1.")] = 32,
    decay: Annotated[float, typer.Option(help="λ of Eq. 10 where the error is measured.")] = 0.5,
    mutation_rate: Annotated[float, typer.Option(help="μ of Eq. 14.")] = 0.1,
    signal_clip: Annotated[float, typer.Option(help="κ of the clipped map.")] = 0.5,
    t_end: Annotated[float, typer.Option(help="Time at which the error is measured, in 1/fitness.")] = 4.0,
    seed: _shared.Seed = 0,
    seeds: _shared.Seeds = 3,
) -> None:
    """Compare the discrete maps with the flow: global error, flips, projections and period doubling.

    Writes results/discrete_vs_continuous/discrete_vs_continuous.nc (everything) and .csv (the table).
    """
    halvings, decays, heights, steps, length, twins = 7, 13, 41, 600, 2000, 361
    if study.smoke:
        halvings, decays, heights, steps, length, twins = 5, 7, 13, 150, 300, 73
        seeds, groups = min(seeds, 2), min(groups, 16)
    validation.positive("mutation_rate", mutation_rate)
    grid = [float(x) for x in np.geomspace(0.05, 5.0, decays)]
    step_sizes = tuple(float(x) for x in np.geomspace(0.25, 20.0, heights))

    def dynamics(name: str, signal_clip: float | None = None) -> ed.Dynamics:
        return _shared.dynamics(name, groups, mutation_rate=mutation_rate, signal_clip=signal_clip)

    common = MapScenario(
        dynamics("replicator"),
        kind=kind,
        groups=groups,
        heterogeneity=heterogeneity,
        decay=decay,
        t_end=t_end,
        halvings=halvings,
        steps=steps,
        seed=seed,
    )
    cases = {
        f"Eq. {EQUATION[name]}, {label}": dataclasses.replace(common, dynamics=dynamics(name), scheme=scheme)
        for name in DYNAMICS
        for label, scheme in SCHEMES.items()
    }
    variants = {
        "Eq. 12": dataclasses.replace(common, step_sizes=step_sizes),
        "Eq. 12, clipped": dataclasses.replace(common, dynamics=dynamics("replicator", signal_clip)),
        "Eq. 14": dataclasses.replace(common, dynamics=dynamics("selection_mutation")),
    }
    errors = [dataclasses.replace(case, member=k) for case in cases.values() for k in range(seeds)]
    limits = [dataclasses.replace(variant, decay=value) for variant in variants.values() for value in grid]
    found = study.sweep("Errors", map_error, errors, "errors")
    bounds = study.sweep("Limits", step_limits, limits, "limits")
    axes = coordinates(
        case=(list(cases), "map and scheme"), seed=(np.arange(seeds), "member drawn from the seed")
    )
    parts = [
        _shared.stacked(found, axes),
        assembled_limits(bounds, list(variants), grid),
        two_groups(points=twins, length=length),
    ]
    data = xr.merge(parts)
    described = {f.name: getattr(common, f.name) for f in dataclasses.fields(common)}
    specification = {
        "schema": SCHEMA,
        "scenario": {k: v for k, v in described.items() if k not in ("dynamics", "scheme")}
        | {"mutation_rate": mutation_rate, "signal_clip": None},
        "seeds": seeds,
        "signal_clip": signal_clip,
        "outcomes": OUTCOMES,
    }
    rows = table_rows(data)
    study.save(data, rows, specification)
    study.show(
        *tables(rows, seeds=seeds, groups=groups),
        "Error constant: the global error per unit of step size, at its largest, and the",
        "largest difference of any group and seed. Flip: step size at which the attractor",
        "loses stability; projection: at which a mass would become negative, of a rare",
        "group below the water level (Eq. 12), of the worst if they have most (Eq. 14),",
        "or of any (two groups). Step sizes in units of 1/fitness.",
        "",
    )


def assembled_limits(results: list[xr.Dataset], variants: list[str], grid: list[float]) -> xr.Dataset:
    """Return the limits along variant and decay, and the outcomes of the first variant."""
    names = ["flip", "measured_flip", "positivity", "measured_positivity"]
    axes = coordinates(variant=(variants, "map"), decay=(grid, "density regularisation λ", "1/time/mass"))
    plain = results[: len(grid)]
    trials = ("decay", "trial_step_size")
    return (
        _shared.stacked([result[names] for result in results], axes)
        .drop_vars("step_size", errors="ignore")
        .assign(
            outcome=(trials, np.stack([result.outcome.values for result in plain]), plain[0].outcome.attrs)
        )
        .assign_coords(trial_step_size=plain[0].step_size.rename(step_size="trial_step_size").variable)
    )


def two_groups(*, points: int, length: int) -> xr.Dataset:
    """Return the bifurcation diagram of two equal groups, and where it changes, found by bisection."""
    grid = np.linspace(1.7, 3.95, points)
    kept = 48
    found = orbits(ed.Replicator(), TWINS, [1.1, 0.9], grid, transient=400, keep=kept)[:, :, 0] / 2

    def tail(a: float, steps: int) -> np.ndarray:
        """Return 1 - 2x_1 over successive steps."""
        masses = orbits(ed.Replicator(), TWINS, [1.1, 0.9], [a], transient=0, keep=steps)[0]
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
    step = ("normalised step size η_p λP/N",)
    marks = {
        "landmark_theory": (list(LANDMARKS.values()), *step),
        "landmark_measured": (measured, *step),
    }
    return xr.Dataset(
        labelled(("twin_step", "kept"), {"orbit": (found, "share of a group")}) | labelled("landmark", marks),
        coordinates(twin_step=(grid, *step), landmark=(list(tests), "what happens there")),
    )


def table_rows(data: xr.Dataset) -> list[Row]:
    """Return the rows theory | simulation | difference."""
    rows: list[Row] = []
    for case in map(str, data.case.values):
        cell = data.sel(case=case)
        theory, measured = cell.constant.values, cell.measured_constant.values
        sizes = (float(np.abs(values).max()) for values in (theory, measured))
        row = _shared.compared(*sizes, part=case, quantity="error constant")
        rows.append(row | {"difference": float(np.abs(measured - theory).max())})
        rows.append(_shared.compared(1.0, float(cell.order.mean()), part=case, quantity="order"))
    shown = [int(k) for k in np.linspace(0, data.sizes["decay"] - 1, 5).round()]
    for variant, decay in itertools.product(data.variant.values, data.decay.values[shown]):
        cell = data.sel(variant=variant, decay=decay)
        for name, label in (("flip", "flip"), ("positivity", "projection")):
            theory, measured = float(cell[name]), float(cell[f"measured_{name}"])
            if not math.isnan(theory):
                quantity = f"{label}, λ = {decay:.3g}"
                rows.append(_shared.compared(theory, measured, part=str(variant), quantity=quantity))
    for mark in data.landmark.values:
        cell, quantity = data.sel(landmark=mark), f"{mark}, η_p λP/N"
        theory, measured = float(cell.landmark_theory), float(cell.landmark_measured)
        rows.append(_shared.compared(theory, measured, part="two groups", quantity=quantity))
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
