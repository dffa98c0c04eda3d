"""What the paper leaves to future work, beside theory: the task of the study of extensions."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from evodyn.analysis.diagnostics import effective_number
from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import about
from evodyn.equilibria.closed_forms import water_filling
from evodyn.equilibria.equilibrium import equilibrium
from evodyn.model.dynamics import Populations, Replicator, SelectionMutation
from evodyn.model.landscapes import Constant, LinearDecay, Redundancy, contributions
from evodyn.simulate.extend import extend
from evodyn.simulate.method import Solver
from evodyn.simulate.solve import solve
from evodyn.tasks import specification

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["PARTS", "Extension", "extension"]

PARTS = ("redundancy", "schedule", "objectives", "layers")
"""The extensions; all but the layers draw a population."""
SCHEDULES = ("constant", "annealed", "none")
WEIGHTS = (0.0, 0.15, 0.3, 0.5, 0.75, 1.0, 1.5, 2.5)
STARTS = (0.55, 0.65, 0.75, 0.85)
_TIGHT = Solver(rtol=1e-11, atol=1e-13)

_Found = tuple[dict[str, Any], dict[str, Any], dict[str, tuple[float, float]]]
"""Variables, coordinates, and what is compared: quantity -> (theory, simulation)."""


@dataclasses.dataclass(frozen=True)
class Extension:
    """One extension of the flow and one population.

    Parameters
    ----------
    part : {"redundancy", "schedule", "objectives", "layers"}
        Redundancy that resolves neutral equilibria, mutation rates that change with time, fitness of two
        objectives, or two layers that evolve together.
    groups : int, optional
        N of "schedule" and "objectives", each of mass 1.
    heterogeneity : float, optional
        Coefficient of variation of their log-normal contributions and costs.
    decay : float, optional
        λ > 0 of Eq. 10, for "objectives" and "layers".
    mutation_rate : float, optional
        μ > 0 at the start of a schedule.
    saved_times : int, optional
        Number of saved times.
    seed, member : int, optional
        Everything is drawn from ``SeedSequence(seed, spawn_key=(..., member))``.

    Raises
    ------
    ValueError
        If a value is outside its range.

    Examples
    --------
    >>> Extension("schedule", groups=4).drawn(0)
    array([1.29650922, 0.57918124, 1.79243271, 0.96794052])
    """

    part: str
    groups: int = 64
    heterogeneity: float = 0.5
    decay: float = 0.3
    mutation_rate: float = 0.3
    saved_times: int = 301
    seed: int = 0
    member: int = 0

    def __post_init__(self) -> None:
        validation.choice("part", self.part, PARTS)
        validation.count("groups", self.groups, least=4)
        validation.count("saved_times", self.saved_times, least=11)
        for name in ("seed", "member"):
            validation.count(name, getattr(self, name), least=0)
        validation.non_negative("heterogeneity", self.heterogeneity)
        for name in ("decay", "mutation_rate"):
            validation.positive(name, getattr(self, name))

    def rng(self, stream: int) -> np.random.Generator:
        """Return the random numbers of one stream: 0 contributions, 1 costs, 2 starts."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(stream, self.member)))

    def drawn(self, stream: int) -> FloatArray:
        """Return contributions or costs, shape (N,)."""
        return contributions(
            "lognormal", n=self.groups, heterogeneity=self.heterogeneity, rng=self.rng(stream)
        )


def extension(point: Extension) -> xr.Dataset:
    """Simulate one extension and put theory beside it.

    Returns
    -------
    xarray.Dataset
        Along ``quantity``: `theory` and `simulation`. "redundancy": `distance` from the attractor and the
        `slowest` eigenvalue; "schedule": `mean_fitness`, its `balance`, `effective_groups`; "objectives":
        `mean_accuracy`, `mean_cost` and `survivors` for every weight, in theory with suffix ``_curve``;
        "layers": `orbit`, `kept` and `level`. What depends on the draw leads with ``member``, of length 1.

    Raises
    ------
    SolveError
        If an integration fails.

    Examples
    --------
    >>> found = extension(Extension("redundancy", saved_times=61)).sel(quantity="rate of approach")
    >>> float(found.theory.round(4)), float(found.simulation.round(4))
    (-0.0762, -0.0762)
    """
    import xarray as xr

    found = dict(zip(PARTS, (_redundancy, _schedule, _objectives, _layers), strict=True))[point.part]
    variables, coordinates, compared = found(point)
    for k, name in enumerate(("theory", "simulation")):
        variables[name] = ("quantity", [pair[k] for pair in compared.values()], about(name, "various"))
    coordinates["quantity"] = ("quantity", list(compared), about("what is compared"))
    coordinates["member"] = ("member", [point.member], about("population drawn from the seed"))
    return xr.Dataset(variables, coordinates, {"specification": specification(point)})


def _redundancy(point: Extension) -> _Found:
    """Follow four groups of equal contribution, two of them similar: with and without redundancy.

    Alone, equal contributions leave every state at rest; what similar groups supply twice makes one of them
    the attractor, approached at the rate of the slowest eigenvalue.
    """
    similarity = np.array(
        [[1.0, 0.9, 0.1, 0.0], [0.9, 1.0, 0.1, 0.0], [0.1, 0.1, 1.0, 0.2], [0.0, 0.0, 0.2, 1.0]]
    )
    neutral, aware = Constant(np.ones(4)), Redundancy(np.ones(4), similarity, strength=1.0)
    rest = equilibrium(Replicator(), aware, total_mass=4.0)
    starts = 4 * point.rng(2).dirichlet(np.full(4, 2.0), size=4)
    times = np.linspace(0.0, 240.0, point.saved_times)
    masses = np.array(
        [
            [
                solve(Replicator(), landscape, start, (0.0, 240.0), save_at=times, solver=_TIGHT).masses
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
        {
            "fitness": ("fitness", ["neutral", "redundancy"], about("fitness")),
            "redundancy_time": ("redundancy_time", times, about("time", "time")),
        },
        {
            "mass of a similar group": (float(algebra[0]), float(final[0])),
            "mass of an unlike group": (float(algebra[3]), float(final[3])),
            "rate of approach": (slowest, float(slope.mean())),
            "motion without it": (0.0, float(np.ptp(distance[0], axis=1).max())),
        },
    )


def _schedule(point: Extension) -> _Found:
    """Follow mean fitness under a constant, a falling and no mutation rate, beside the balance at each rate.

    The total mass relaxes by ∫μ dt, which is finite for a rate that falls exponentially.
    """
    fall, end, target = 20.0, 120.0, 0.5
    rates: dict[str, Any] = {
        "constant": point.mutation_rate,
        "annealed": lambda t: point.mutation_rate * math.exp(-t / fall),
        "none": 0.0,
    }
    landscape, start = Constant(point.drawn(0)), np.ones(point.groups)
    times = np.linspace(0.0, end, point.saved_times)
    runs = {
        name: solve(
            SelectionMutation(rates[name], target=target),
            landscape,
            start,
            (0.0, end),
            save_at=times,
            solver=_TIGHT,
        )
        for name in SCHEDULES
    }

    def balance(rate: float) -> float:
        dynamics = SelectionMutation(rate, target=target)
        return float(equilibrium(dynamics, landscape, eigenvalues=False).mean_fitness)

    following = [balance(rates["annealed"](t)) for t in times]
    relaxed = math.exp(-point.mutation_rate * fall * (1 - math.exp(-end / fall)))
    settled, annealed = extend(runs["constant"], 5 * end), runs["annealed"]
    dims = ("member", "schedule", "schedule_time")
    return (
        {
            "mean_fitness": (
                dims,
                [[runs[name].mean_fitness for name in SCHEDULES]],
                about("mean fitness", "1/time"),
            ),
            "balance": (
                ("member", "schedule_time"),
                [following],
                about("mean fitness of the balance at the rate of the moment", "1/time"),
            ),
            "effective_groups": (
                dims,
                [[effective_number(runs[name]) for name in SCHEDULES]],
                about("effective number of groups"),
            ),
        },
        {
            "schedule": ("schedule", list(SCHEDULES), about("mutation rate")),
            "schedule_time": ("schedule_time", times, about("time", "time")),
        },
        {
            "constant μ: mean fitness": (balance(point.mutation_rate), float(settled.mean_fitness[-1])),
            "annealed μ: total mass": (
                point.groups * (target + (1 - target) * relaxed),
                float(annealed.total_mass[-1]),
            ),
            "annealed μ: mean fitness": (following[-1], float(annealed.mean_fitness[-1])),
        },
    )


def _objectives(point: Extension) -> _Found:
    """Weigh the cost of a group against its accuracy, as a sum of two landscapes, for several weights.

    In theory the sum is one water filling, with contributions a - w·k.
    """
    accuracy, cost, end = point.drawn(0), point.drawn(1), 4000.0

    def measured(masses: FloatArray) -> tuple[float, float, float]:
        shares = masses / masses.sum()
        return float(shares @ accuracy), float(shares @ cost), float((masses > 1e-3).sum())

    def simulated(weight: float) -> tuple[float, float, float]:
        fitness = LinearDecay(accuracy, point.decay) + Constant(-weight * cost)
        start = np.ones(point.groups)
        run = solve(Replicator(), fitness, start, (0.0, end), save_at=[end], solver=_TIGHT)
        return measured(run.masses[-1])

    def filled(weight: float) -> tuple[float, float, float]:
        return measured(water_filling(accuracy - weight * cost, point.decay, float(point.groups))[0])

    values = {weight: simulated(weight) for weight in WEIGHTS}
    fine = np.linspace(WEIGHTS[0], WEIGHTS[-1], 101)
    curves = [filled(float(weight)) for weight in fine]
    texts = {
        "mean_accuracy": "mean accuracy of a unit of mass",
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
    axis = about("weight of cost")
    return (
        variables,
        {"weight": ("weight", list(WEIGHTS), axis), "fine_weight": ("fine_weight", fine, axis)},
        {
            f"w = {weight:g}: {name}": (filled(weight)[k], values[weight][k])
            for weight in (WEIGHTS[0], WEIGHTS[3], WEIGHTS[-1])
            for k, name in enumerate(("mean accuracy", "mean cost", "survivors"))
        },
    )


def _matching(t: float, masses: Any) -> Any:
    """Return the fitness of two layers of two groups: the first gains by matching the second, which loses."""
    first, second = masses[..., :2], masses[..., 2:]
    payoff = np.array([[1.0, -1.0], [-1.0, 1.0]])
    return np.concatenate((second @ payoff, -(first @ payoff)), axis=-1) * (2 / masses.sum())


def _layers(point: Extension) -> _Found:
    """Follow two layers that evolve together: closed orbits, and spirals with density regularisation.

    Near the centre the layers circle with period 2π; regularisation damps them at the rate λ/2. Further out
    the product of all four shares is kept without it.
    """
    both = Populations(Replicator(), sizes=(2, 2))
    fitness: dict[str, Any] = {
        "without": _matching,
        "with": LinearDecay(np.zeros(4), point.decay) + _matching,
    }

    def orbit(landscape: Any, start: float, times: FloatArray) -> FloatArray:
        """Return the share of the first group of each layer, shape (T, 2)."""
        masses = [start, 1 - start, 0.5, 0.5]
        run = solve(both, landscape, masses, (0.0, times[-1]), save_at=times, solver=_TIGHT)
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
        {
            "regularisation": ("regularisation", list(fitness), about("density regularisation")),
            "layer_start": ("layer_start", list(STARTS), about("share at the start")),
            "layer_time": ("layer_time", times, about("time", "time")),
            "first": ("first", grid, about("share in the first layer")),
            "second": ("second", grid, about("share in the second layer")),
        },
        {
            "period near the centre": (2 * math.pi, 2 * math.pi * float(turns[-1]) / abs(float(angle[-1]))),
            f"rate of approach, λ = {point.decay:g}": (-point.decay / 2, float(rate)),
            "change of the kept product": (0.0, float(np.abs(product[-1] / product[-1, 0] - 1).max())),
        },
    )
