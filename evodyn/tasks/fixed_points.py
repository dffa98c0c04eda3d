"""Rest points beside long integrations, verdicts beside perturbations: the tasks of their study."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import about
from evodyn.equilibria.equilibrium import Equilibrium, all_equilibria, equilibrium
from evodyn.equilibria.stability import Stability
from evodyn.model.dynamics import (
    Dynamics,
    NormalizedGrowth,
    Populations,
    Replicator,
    Selection,
    SelectionMutation,
)
from evodyn.model.landscapes import (
    Constant,
    Entropic,
    LandscapeFunction,
    LinearDecay,
    MatrixGame,
    Redundancy,
)
from evodyn.model.laws import contributions
from evodyn.simulate.method import Solver
from evodyn.simulate.solve import solve
from evodyn.tasks import specification

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "CLASSICS",
    "DYNAMICS",
    "FAMILIES",
    "PAIRS",
    "PERTURBATION",
    "RELAXATIONS",
    "STABILITY_FLAGS",
    "Classic",
    "Pair",
    "Saturating",
    "confront",
    "judge",
    "rock_paper_scissors",
]

DYNAMICS = (
    "Replicator",
    "NormalizedGrowth",
    "Mutation to 1/N",
    "Mutation to 1",
    "Mutation to m_i",
    "Populations",
    "Selection",
)
"""Eq. 6, Eq. 7, Eq. 8 with each kind of target, Eq. 6 in two blocks, and Eq. 5 without a mean."""
FAMILIES = ("Constant", "LinearDecay", "Entropic", "both", "Redundancy", "c/(1 + p)", "MatrixGame")
"""The landscapes of `evodyn.landscapes`, Entropic with LinearDecay, and one of a user's own."""
_LIMITED = ("LinearDecay", "Entropic", "both")
PAIRS = tuple((d, f) for d in DYNAMICS for f in FAMILIES if d != "Selection" or f in _LIMITED)
"""Dynamics and family of every pair; without a mean, only the families that limit each group by itself."""
RELAXATIONS = 35.0
"""Length of an integration in times of the slowest mode: e^-35 = 6e-16."""
PERTURBATION = 1e-5
"""Size of a perturbation, relative to total mass."""
STABILITY_FLAGS: dict[str, Any] = {
    "flag_values": np.arange(len(Stability), dtype=np.int8),
    "flag_meanings": " ".join(member.name for member in Stability),
}
"""Attributes of a variable that holds verdicts as numbers."""


# --- Theory against integration ------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Saturating:
    """Fitness c/(1 + p): a landscape of one's own, without a derivative.

    Examples
    --------
    >>> Saturating(np.array([1.0, 4.0]))(0.0, np.array([0.0, 1.0]))
    array([1., 2.])
    """

    contribution: FloatArray

    def __call__(self, t: float, masses: FloatArray) -> FloatArray:
        """Return the fitness, shape (..., N)."""
        return self.contribution / (1.0 + masses)

    @property
    def groups(self) -> int:
        """Number of groups N."""
        return len(self.contribution)


def growing(masses: Any, fitness: Any) -> Any:
    """Return fitness itself as the growth rate, with no mean to compare with: Lotka and Volterra's form."""
    return fitness


@dataclasses.dataclass(frozen=True)
class Pair:
    """A dynamics on a landscape drawn from a family; every group starts with unit mass.

    Parameters
    ----------
    dynamics : str
        One of `DYNAMICS`.
    family : str
        One of `FAMILIES`.
    groups : int, optional
        Number of groups N >= 2.
    seed, member : int, optional
        Random numbers come from ``SeedSequence(seed, spawn_key=(member, ...))``: the same landscape for every
        dynamics, and the same contributions for every family that has them.

    Raises
    ------
    ValueError
        If a value is outside its range, or the pair is none of `PAIRS`.

    Examples
    --------
    >>> Pair("Mutation to 1", "Entropic").selection()
    SelectionMutation(mutation_rate=0.5, target=1.0, signal_clip=None)
    """

    dynamics: str
    family: str
    groups: int = 16
    seed: int = 0
    member: int = 0

    def __post_init__(self) -> None:
        validation.choice("dynamics", self.dynamics, DYNAMICS)
        validation.choice("family", self.family, FAMILIES)
        validation.count("groups", self.groups, least=2)
        validation.count("seed", self.seed, least=0)
        validation.count("member", self.member, least=0)
        if (self.dynamics, self.family) not in PAIRS:
            raise ValueError(
                f"family is {self.family!r} with dynamics 'Selection'; expected one of "
                f"{', '.join(_LIMITED)}, which limit each group by itself, or another dynamics."
            )

    def _rng(self, *stream: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.member, *stream)))

    def selection(self) -> Dynamics:
        """Return the dynamics."""
        n = self.groups
        match self.dynamics:
            case "NormalizedGrowth":
                return NormalizedGrowth(mass_cap=float(n))
            case "Mutation to 1/N":
                return SelectionMutation(0.5)
            case "Mutation to 1":
                return SelectionMutation(0.5, target=1.0)
            case "Mutation to m_i":
                return SelectionMutation(0.5, target=self._rng(1).uniform(0.5, 1.5, n))
            case "Populations":
                return Populations(Replicator(), (n // 2, n - n // 2))
            case "Selection":
                return Selection(growing)
        return Replicator()

    def landscape(self) -> LandscapeFunction:
        """Return the landscape."""
        n, rng = self.groups, self._rng(0)
        c = contributions("lognormal", n=n, heterogeneity=1.0, rng=rng)
        match self.family:
            case "LinearDecay":
                return LinearDecay(c, 0.5)
            case "Entropic":
                return Entropic(c, 0.5)
            case "both":
                return Entropic(c, 0.5) + LinearDecay(np.zeros(n), 0.1)
            case "Redundancy":
                # Groups limit themselves, and compete through eight features that they share more or less.
                features = rng.uniform(0.0, 1.0, (n, 8))
                return Redundancy(c, np.eye(n) + features @ features.T / n, 1.0)
            case "c/(1 + p)":
                return Saturating(rng.uniform(1.0, 1.5, n))
            case "MatrixGame":
                return MatrixGame(0.3 * rng.uniform(-1.0, 1.0, (n, n)) - np.eye(n))
        best = np.arange(n) == c.argmax()
        return Constant(c + 0.5 * best)  # the slowest rate is the gap between the best two


def confront(pair: Pair) -> xr.Dataset:
    """Put the rest point of a pair beside where a long integration ends.

    The flow is never taken in closed form. It lasts `RELAXATIONS` times the slowest relaxation time, and ln N
    of them more.

    Parameters
    ----------
    pair : Pair

    Returns
    -------
    xarray.Dataset
        Along ``group``: `theory_mass`, `simulated_mass`. Scalars: `survivors` (in theory),
        `theory_mean_fitness`, `simulated_mean_fitness` (the mean over blocks), `difference` (largest of a
        mass, relative to the largest mass), `residual`, `slowest_rate`, `t_end`. Attributes: `stability`,
        `theory` (how the rest point was found), `integrator`.

    Raises
    ------
    SolveError
        If the integration fails.

    Examples
    --------
    >>> result = confront(Pair("Replicator", "LinearDecay", groups=6))
    >>> bool(result.difference < 1e-10), result.stability
    (True, 'STABLE')
    """
    import xarray as xr

    dynamics, landscape, start = pair.selection(), pair.landscape(), np.ones(pair.groups)
    total: Any = None
    if isinstance(dynamics, Populations):
        total = [start[block].sum() for block, _ in dynamics.blocks(pair.groups)]
    elif not isinstance(dynamics, SelectionMutation | Selection):
        total = start.sum()
    point = equilibrium(dynamics, landscape, total_mass=total, eigenvalues=True)
    slowest = -float(np.asarray(point.eigenvalues)[0].real)
    if isinstance(dynamics, SelectionMutation):
        slowest = min(slowest, float(dynamics.rate(0.0)))  # of total mass
    t_end = float((RELAXATIONS + np.log(pair.groups)) / slowest)
    method: Literal["auto", "DOP853"] = "DOP853" if pair.family == "Constant" else "auto"
    run = solve(
        dynamics,
        landscape,
        start,
        (0.0, t_end),
        save_at=[t_end],
        solver=Solver(method=method, rtol=1e-11, atol=1e-11),
    )
    theory, simulated = np.array(point.masses), run.masses[-1]
    masses = {
        "theory_mass": (theory, "in theory"),
        "simulated_mass": (simulated, "at the end of integration"),
    }
    scalars: dict[str, tuple[float, dict[str, str]]] = {
        "survivors": (int(point.survivors.sum()), about("number of groups alive at rest")),
        "theory_mean_fitness": (
            float(np.mean(point.mean_fitness)),
            about("mean fitness at rest in theory", "1/time"),
        ),
        "simulated_mean_fitness": (
            float(np.mean(run.mean_fitness[-1])),
            about("mean fitness at the end of integration", "1/time"),
        ),
        "difference": (
            float(np.abs(simulated - theory).max() / theory.max()),
            about("largest difference of a mass, relative to the largest mass"),
        ),
        "residual": (point.residual, about("residual of the rest point")),
        "slowest_rate": (slowest, about("slowest rate of relaxation", "1/time")),
        "t_end": (t_end, about("end of integration", "time")),
    }
    return xr.Dataset(
        {
            name: ("group", values, about(f"mass {where}, NaN beyond the groups", "mass"))
            for name, (values, where) in masses.items()
        }
        | {name: ((), value, label) for name, (value, label) in scalars.items()},
        {"group": ("group", np.arange(pair.groups), about("group"))},
        {
            "specification": specification(pair),
            "stability": point.stability.name,
            "theory": point.method,
            "integrator": run.stats.method,
        },
    )


# --- Verdicts against perturbations --------------------------------------------------------------------


def rock_paper_scissors(win: float) -> MatrixGame:
    """Return the game in which a win pays `win` and a defeat costs 1.

    Examples
    --------
    >>> rock_paper_scissors(2.0)(0.0, np.array([1.0, 0.0, 0.0]))
    array([ 0.,  2., -1.])
    """
    return MatrixGame([[0.0, -1.0, win], [win, 0.0, -1.0], [-1.0, win, 0.0]])


CLASSICS: dict[str, LandscapeFunction] = {
    "hawk and dove": MatrixGame([[-1.0, 4.0], [0.0, 2.0]]),
    "coordination": MatrixGame([[2.0, 0.0], [0.0, 1.0]]),
    "dominance": MatrixGame([[1.0, 5.0], [0.0, 3.0]]),
    "rock-paper-scissors, inward": rock_paper_scissors(1.5),
    "rock-paper-scissors, zero-sum": rock_paper_scissors(1.0),
    "rock-paper-scissors, outward": rock_paper_scissors(0.5),
    "neutral game": MatrixGame(np.zeros((3, 3))),
    "constant, best two tied": Constant([2.0, 1.0, 2.0]),
    "Eq. 10": LinearDecay([3.0, 2.0, 0.0], 1.0),
    "Eq. 10, tied at the level": LinearDecay([3.0, 2.0, 1.0], 1.0),
    "twins, equally fit": Redundancy([1.0, 1.0, 0.8], [[1, 1, 0], [1, 1, 0], [0, 0, 1]], 1.0),
    "twins, unequally fit": Redundancy([1.0, 0.9, 0.8], [[1, 1, 0], [1, 1, 0], [0, 0, 1]], 1.0),
    "indefinite overlap": Redundancy([2.0, 1.0], [[4.0, 2.2], [2.2, 1.0]], 0.5),
}
"""Landscapes of two or three groups whose rest points are known, by name."""
_FATES = {"STABLE": "return", "UNSTABLE": "leave", "NEUTRAL": "stay near"}


@dataclasses.dataclass(frozen=True)
class Classic:
    """A classical case under Eq. 6, and how often each of its rest points is perturbed.

    Parameters
    ----------
    name : str
        One of `CLASSICS`.
    probes : int, optional
        Perturbations of each rest point.
    seed : int, optional
        Of the perturbations.

    Raises
    ------
    ValueError
        If a value is outside its range.

    Examples
    --------
    >>> CLASSICS[Classic("coordination").name].groups
    2
    """

    name: str
    probes: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        validation.choice("name", self.name, tuple(CLASSICS))
        validation.count("probes", self.probes)
        validation.count("seed", self.seed, least=0)


def judge(classic: Classic) -> xr.Dataset:
    """Put the verdict on every rest point of a classical case beside what perturbations of it do.

    Parameters
    ----------
    classic : Classic

    Returns
    -------
    xarray.Dataset
        Along ``judged`` (case and shares at rest): `verdict` (see `STABILITY_FLAGS`), `growth_rate` (largest
        real part of an eigenvalue), `perturbation_ratio` (late over initial distance of the perturbation that
        ends farthest off), `fate` ("return" below 0.1, "leave" above 10, else "stay near"), `borne_out`.

    Raises
    ------
    SolveError
        If an integration fails.

    Examples
    --------
    >>> result = judge(Classic("coordination", probes=1))
    >>> [str(shares).split(": ")[1] for shares in result.judged.values]
    ['1 0', '0 1', '0.3333 0.6667']
    >>> [str(fate) for fate in result.fate.values]
    ['return', 'return', 'leave']
    """
    import xarray as xr

    landscape = CLASSICS[classic.name]
    rng = np.random.default_rng(classic.seed)
    points = all_equilibria(Replicator(), landscape, total_mass=3.0)
    ratios = [_late_distance(landscape, point, classic.probes, rng) for point in points]
    fates = ["return" if ratio < 0.1 else "leave" if ratio > 10 else "stay near" for ratio in ratios]
    codes = [list(Stability).index(point.stability) for point in points]
    shares = [" ".join(f"{share:.4g}" for share in point.masses / point.masses.sum()) for point in points]
    variables: dict[str, tuple[Any, dict[str, Any]]] = {
        "verdict": (np.array(codes, dtype=np.int8), about("verdict") | STABILITY_FLAGS),
        "perturbation_ratio": (ratios, about("late over initial distance from the rest point")),
        "growth_rate": (
            [float(np.asarray(point.eigenvalues)[0].real) for point in points],
            about("largest real part of an eigenvalue", "1/time"),
        ),
        "fate": (fates, about("what perturbations do")),
        "borne_out": (
            [_FATES.get(point.stability.name) == fate for point, fate in zip(points, fates, strict=True)],
            about("whether that is what the verdict says"),
        ),
    }
    labels = [f"{classic.name}: {text}" for text in shares]
    return xr.Dataset(
        {name: ("judged", values, label) for name, (values, label) in variables.items()},
        {"judged": ("judged", labels, about("case and shares at rest"))},
        {"specification": specification(classic)},
    )


def _late_distance(
    landscape: LandscapeFunction, point: Equilibrium, probes: int, rng: np.random.Generator
) -> float:
    """Return how far the farthest of a few perturbations is in the end, relative to where it started."""
    masses, total = point.masses, point.masses.sum()
    worst = 0.0
    for _ in range(probes):
        start = masses + PERTURBATION * total * rng.uniform(0.1, 1.0, len(masses)) * np.where(
            point.survivors, rng.choice([-1.0, 1.0], len(masses)), 1.0
        )
        start *= total / start.sum()
        # A group exactly at the water level is lost only as 1/t.
        slow = point.stability is Stability.STABLE and np.asarray(point.eigenvalues)[0].real > -1e-9
        t_end = 1e8 if slow else 200.0
        run = solve(Replicator(), landscape, start, (0.0, t_end), solver=Solver(rtol=1e-9, atol=1e-9))
        away = np.abs(run.masses - masses).max(axis=1)
        # An orbit's distance swings: its largest at late times counts.
        worst = max(worst, float(away[len(away) // 2 :].max() / away[0]))
    return worst
