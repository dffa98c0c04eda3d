"""The discrete maps beside the flow and beside their own limits: the tasks of the study of the maps."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import numpy as np

from evodyn.analysis.discrete_stability import error_constant, flip_step_size
from evodyn.core import validation
from evodyn.core.arrays import FloatArray, host
from evodyn.core.labels import about
from evodyn.equilibria.equilibrium import equilibrium
from evodyn.model.dynamics import (
    SCHEMES,
    Dynamics,
    NormalizedGrowth,
    Replicator,
    Scheme,
    SelectionMutation,
    mean_fitness,
    rate_bound,
)
from evodyn.model.landscapes import LinearDecay
from evodyn.model.laws import KINDS, contributions
from evodyn.simulate.iterate import iterate
from evodyn.simulate.method import Solver
from evodyn.simulate.solve import solve
from evodyn.simulate.status import Termination
from evodyn.tasks import specification

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["MAPS", "MapScenario", "bisected", "map_error", "step_limits"]

MAPS = ("replicator", "normalized_growth", "selection_mutation")
"""The maps of Eqs. 12, 13 and 14."""
OUTCOMES = ("settles", "settles after projections", "keeps moving", "overflows")
_RANGE = (1 / 30, 30.0)  # step sizes among which limits are looked for
_RARE = 1e-6  # mass of an absent group, and size of a perturbation, near the attractor
_LOST = 1e-10  # below this a perturbation has died out, up to rounding
_MOVING = 0.01  # change of a mass in one step above which a map keeps moving, after the time
_SETTLED = 50.0


@dataclasses.dataclass(frozen=True)
class MapScenario:
    """A map on groups of unit mass under Eq. 10, which differ in their contributions alone.

    Parameters
    ----------
    map : {"replicator", "normalized_growth", "selection_mutation"}, optional
        Eq. 12; Eq. 13 with its cap at the initial total mass; Eq. 14 with a target of 1 per group.
    scheme : {"euler", "exponential"}, optional
        See `Dynamics.step`.
    signal_clip : float, optional
        κ.
    kind : str, optional
        Law of the contributions, one of `evodyn.model.laws.KINDS`.
    groups : int, optional
        N.
    heterogeneity : float, optional
        Coefficient of variation of the law.
    decay : float, optional
        λ > 0.
    mutation_rate : float, optional
        μ, used by "selection_mutation".
    t_end : float, optional
        Time at which the error is looked at.
    halvings : int, optional
        The step sizes of `map_error` are t_end/8, halved this often.
    steps : int, optional
        Length of the runs of `step_limits`.
    step_sizes : tuple of float, optional
        Those at which `step_limits` says what becomes of a uniform start.
    seed, member : int, optional
        Contributions are drawn from ``SeedSequence(seed, spawn_key=(member,))``.

    Raises
    ------
    ValueError
        If a value is outside its range.

    Examples
    --------
    >>> MapScenario(map="selection_mutation").dynamics()
    SelectionMutation(mutation_rate=0.1, target=1.0, signal_clip=None)
    """

    map: str = "replicator"
    scheme: str = "euler"
    signal_clip: float | None = None
    kind: str = "lognormal"
    groups: int = 32
    heterogeneity: float = 0.5
    decay: float = 0.5
    mutation_rate: float = 0.1
    t_end: float = 4.0
    halvings: int = 7
    steps: int = 1000
    step_sizes: tuple[float, ...] = ()
    seed: int = 0
    member: int = 0

    def __post_init__(self) -> None:
        validation.choice("map", self.map, MAPS)
        validation.choice("scheme", self.scheme, SCHEMES)
        validation.choice("kind", self.kind, KINDS)
        for name in ("groups", "halvings", "steps"):
            validation.count(name, getattr(self, name), least=2)
        for name in ("seed", "member"):
            validation.count(name, getattr(self, name), least=0)
        for name in ("decay", "mutation_rate", "t_end"):
            validation.positive(name, getattr(self, name))
        for k, step in enumerate(self.step_sizes):
            validation.positive(f"step_sizes[{k}]", step)
        validation.non_negative("heterogeneity", self.heterogeneity)
        self.dynamics()

    def dynamics(self) -> Dynamics:
        """Return the dynamics."""
        if self.map == "replicator":
            return Replicator(signal_clip=self.signal_clip)
        if self.map == "normalized_growth":
            return NormalizedGrowth(mass_cap=float(self.groups), signal_clip=self.signal_clip)
        return SelectionMutation(self.mutation_rate, target=1.0, signal_clip=self.signal_clip)

    def landscape(self) -> LinearDecay:
        """Return the landscape of Eq. 10."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.member,)))
        drawn = contributions(self.kind, n=self.groups, heterogeneity=self.heterogeneity, rng=rng)
        return LinearDecay(drawn, decay=self.decay)


def map_error(scenario: MapScenario) -> xr.Dataset:
    """Compare a map with the flow at one time, for ever smaller steps, and with its error constant.

    Parameters
    ----------
    scenario : MapScenario

    Returns
    -------
    xarray.Dataset
        Along ``step_size``: `error` (largest of a mass) and `predicted_error` (step size times the greatest
        constant). Along ``group``: `constant` and `measured_constant` (extrapolated from the two finest).
        Scalars: `order` (from the two finest).

    Examples
    --------
    >>> result = map_error(MapScenario(groups=4))
    >>> bool(abs(result.order - 1) < 0.02)
    True
    >>> bool(abs(result.measured_constant - result.constant).max() < 1e-3)
    True
    """
    import xarray as xr

    dynamics, landscape, start = scenario.dynamics(), scenario.landscape(), np.ones(scenario.groups)
    scheme = cast(Scheme, scenario.scheme)
    span = (0.0, scenario.t_end)
    tight = Solver(rtol=1e-12, atol=1e-13)
    flow = solve(dynamics, landscape, start, span, save_at=[scenario.t_end], solver=tight).masses[-1]
    constant = error_constant(dynamics, landscape, start, span, save_at=[scenario.t_end], scheme=scheme)[0]
    counts = 8 * 2 ** np.arange(scenario.halvings + 1)
    steps = scenario.t_end / counts
    errors = np.array(
        [
            iterate(dynamics, landscape, start, int(n), h, scheme=scheme, save_every=int(n)).masses[-1] - flow
            for n, h in zip(counts, steps, strict=True)
        ]
    )
    quotients = errors / steps[:, None]
    size = np.abs(errors).max(axis=1)
    largest = float(np.abs(constant).max())
    return xr.Dataset(
        {
            "error": ("step_size", size, about("largest difference of a mass from the flow", "mass")),
            "predicted_error": ("step_size", steps * largest, about("its leading term in theory", "mass")),
            "constant": ("group", constant, about("error constant in theory", "mass/time")),
            "measured_constant": (
                "group",
                2 * quotients[-1] - quotients[-2],
                about("error over step size, extrapolated to none", "mass/time"),
            ),
            "order": ((), float(np.log2(size[-2] / size[-1])), about("order of convergence")),
        },
        {
            "step_size": ("step_size", steps, about("step size", "time")),
            "group": ("group", np.arange(scenario.groups), about("group")),
        },
        {"specification": specification(scenario)},
    )


def step_limits(scenario: MapScenario) -> xr.Dataset:
    """Find by simulation where a map near its attractor flips, and where it first has to be projected.

    Both limits are found by bisection between step sizes of 1/30 and 30, and put beside theory: the flow's
    eigenvalues for the flip (survivors alone, perturbed), and 1/(ν - c_min) for the projection of groups
    that are rare below the level ν, or 1/κ if a clip makes that greater. With mutation none is rare at the
    attractor; there the masses are dealt out anew, most to the worst, and the projection comes at
    1/max_i(φ̄ - φ_i + μ(1 - m_i/p_i)).

    Parameters
    ----------
    scenario : MapScenario

    Returns
    -------
    xarray.Dataset
        Scalars `flip` and `measured_flip`, `positivity` and `measured_positivity` (NaN where no mass would
        fall). Along ``step_size``: `outcome` of a uniform start (`OUTCOMES`).

    Raises
    ------
    ValueError
        If the scheme is not Euler's: the other one has neither limit.

    Examples
    --------
    >>> result = step_limits(MapScenario(groups=3, kind="neutral", heterogeneity=0.0, decay=1.0))
    >>> float(result.flip.round(6)), bool(abs(result.measured_flip - result.flip) < 1e-3)      # hλP/N = 2
    (2.0, True)
    """
    import xarray as xr

    if scenario.scheme != "euler":
        raise ValueError(f"scheme is {scenario.scheme!r}; expected 'euler', whose limits these are.")
    dynamics, landscape = scenario.dynamics(), scenario.landscape()
    n = scenario.groups
    total = None if scenario.map == "selection_mutation" else float(n)
    point = equilibrium(dynamics, landscape, total_mass=total, eigenvalues=True)
    resting = np.array(point.masses)

    def after(masses: FloatArray, steps: int, h: float) -> FloatArray:
        with np.errstate(over="ignore", invalid="ignore"):  # projections may add mass without end
            for _ in range(steps):
                masses = host(dynamics.step(masses, landscape(0.0, masses), h))
        return masses

    rng = np.random.default_rng(np.random.SeedSequence(scenario.seed, spawn_key=(scenario.member, 1)))
    noise = rng.standard_normal(n)
    shaken = resting * (1 + _RARE * (noise - resting @ noise / resting.sum()))

    def flips(h: float) -> bool:
        half = after(shaken, scenario.steps // 2, h)
        early = np.abs(half - resting).max()
        late = np.abs(after(half, scenario.steps - scenario.steps // 2, h) - resting).max()
        return not late <= _LOST and not (late <= early and late <= _MOVING)

    rate = rate_bound(dynamics, n, 0.0)
    if rate.any():
        state = np.empty(n)
        state[np.argsort(resting)] = np.sort(resting)[::-1]
    else:
        state = np.where(point.survivors, shaken, _RARE)
    fitness = landscape(0.0, state)
    clip = math.inf if scenario.signal_clip is None else scenario.signal_clip
    falls = np.minimum(mean_fitness(state, fitness) - fitness, clip) + rate * (1 - 1 / state)  # m_i = 1
    falling = bool(falls.max() > 10 * _RARE * scenario.decay)
    values = {
        "flip": (flip_step_size(point), "step size of the flip in theory"),
        "measured_flip": (bisected(flips, *_RANGE), "step size of the flip in simulation"),
        "positivity": (
            1 / float(falls.max()) if falling else math.nan,
            "step size of the first projection in theory",
        ),
        "measured_positivity": (
            bisected(lambda h: bool((after(state, 1, h) == 0).any()), 1e-3, 1e6) if falling else math.nan,
            "step size of the first projection in simulation",
        ),
    }
    outcomes = [_outcome(scenario, dynamics, landscape, h) for h in scenario.step_sizes]
    return xr.Dataset(
        {name: ((), value, about(text, "time")) for name, (value, text) in values.items()}
        | {"outcome": ("step_size", np.array(outcomes, dtype=np.int64), about("outcome"))},
        {"step_size": ("step_size", np.array(scenario.step_sizes, dtype=float), about("step size", "time"))},
        {"specification": specification(scenario), "outcomes": json.dumps(OUTCOMES)},
    )


def _outcome(scenario: MapScenario, dynamics: Dynamics, landscape: LinearDecay, h: float) -> int:
    """Return the index in `OUTCOMES` of what becomes of a uniform start."""
    start = np.ones(scenario.groups)
    steps = max(scenario.steps, math.ceil(_SETTLED / h))
    with np.errstate(over="ignore", invalid="ignore"):
        run = iterate(dynamics, landscape, start, steps, h, save_every=steps - 1, throw=False)
    if run.termination is not Termination.COMPLETED:
        return 3
    if np.abs(run.masses[-1] - run.masses[-2]).max() > _MOVING:
        return 2
    return int(run.stats.projections > 0)


def bisected(beyond: Callable[[float], bool], low: float, high: float, *, rounds: int = 24) -> float:
    """Return where a condition begins to hold, by bisection in the logarithm.

    Parameters
    ----------
    beyond : callable
        Whether a value is beyond the limit.
    low, high : float
        Values below and above it.
    rounds : int, optional
        Halvings of the interval.

    Returns
    -------
    float
        inf if the condition does not hold at `high`, `low` if it holds there.

    Examples
    --------
    >>> round(bisected(lambda x: x > 2, 1.0, 8.0), 6)
    2.0
    """
    if beyond(low):
        return low
    if not beyond(high):
        return math.inf
    for _ in range(rounds):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if beyond(middle) else (middle, high)
    return math.sqrt(low * high)
