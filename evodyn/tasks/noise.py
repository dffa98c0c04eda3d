"""Noisy populations beside what theory says of them: the tasks of the study of noise."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, cast

import numpy as np
import scipy.stats

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import about
from evodyn.model.dynamics import Dynamics
from evodyn.model.equations import NormalizedGrowth, Replicator, SelectionMutation
from evodyn.model.landscapes import Constant, LinearDecay
from evodyn.model.laws import contributions
from evodyn.noise.environment import Calculus, fitness_noise
from evodyn.noise.estimates import noisy_iterate
from evodyn.noise.laws import hitting_time_law, long_run_growth, stationary_odds_law
from evodyn.noise.wright_fisher import fixation_probability, wright_fisher, wright_fisher_matrix
from evodyn.tasks import specification

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Drift", "Duel", "Estimates", "drift", "duel", "estimates"]

_OVERSHOOT = 0.5826  # -ζ(1/2)/√(2π): a level looked at in steps acts as if it were so many σ√h further off


@dataclasses.dataclass(frozen=True)
class Duel:
    """Two groups of constant fitness with white noise in it, with mutation or without.

    Parameters
    ----------
    calculus : {"ito", "stratonovich"}
    contribution, noise : (float, float)
        c and σ; group 0 is the one that theory and simulation are asked about.
    threshold : float
        Share ε below which it counts as dead.
    t_end, step_size : float
        Length of the runs and of their steps.
    mutation_rate : float, optional
        μ, towards equal shares.
    members : int, optional
        Number of realisations.
    seed, stream : int, optional
        Members are drawn from ``SeedSequence(seed, spawn_key=(stream,))``.

    Raises
    ------
    ValueError
        If a value is outside its range.

    Examples
    --------
    >>> Duel("ito", (0.5, 0.0), (1.0, 0.0), 0.01, 10.0, 1.0).drift()
    0.0
    """

    calculus: str
    contribution: tuple[float, float]
    noise: tuple[float, float]
    threshold: float
    t_end: float
    step_size: float
    mutation_rate: float = 0.0
    members: int = 1000
    seed: int = 0
    stream: int = 0

    def __post_init__(self) -> None:
        validation.choice("calculus", self.calculus, ("ito", "stratonovich"))
        for name in ("t_end", "step_size", "threshold"):
            validation.positive(name, getattr(self, name))
        validation.non_negative("mutation_rate", self.mutation_rate)
        validation.count("members", self.members)
        if not self.threshold < 0.5:
            raise ValueError(f"threshold is {self.threshold!r}; expected less than the initial share, 1/2.")

    def drift(self) -> float:
        """Return the rate at which theory has the log-odds of group 0 grow."""
        growth = long_run_growth(self.contribution, self.noise, cast(Calculus, self.calculus))
        return float(growth[0] - growth[1])

    def log_odds(self) -> float:
        """Return the log-odds of the threshold."""
        return math.log(self.threshold / (1 - self.threshold))


def duel(point: Duel) -> xr.Dataset:
    """Sample a `Duel` from equal shares.

    Returns
    -------
    xarray.Dataset
        Along ``member``: `log_odds` of group 0 at the end, `death_time` (inf if never). Scalars in theory:
        `dead` (chance that it is below the threshold at the end; once it has settled, with mutation; NaN
        without noise or mutation to settle by), `mean_death_time` and `death_time_p_value` (Kolmogorov-
        Smirnov, against the inverse Gaussian law; NaN unless it applies).

    Examples
    --------
    >>> result = duel(Duel("ito", (0.0, 1.0), (0.3, 0.4), 0.1, 40.0, 0.01, members=200))
    >>> bool(result.death_time_p_value > 0.001)
    True
    """
    import xarray as xr

    mutation = SelectionMutation(point.mutation_rate, target=0.5) if point.mutation_rate else None
    runs = fitness_noise(
        Constant(point.contribution),
        [0.5, 0.5],
        (0.0, point.t_end),
        noise=point.noise,
        calculus=cast(Calculus, point.calculus),
        dynamics=mutation,
        save_at=[0.0, point.t_end],
        step_size=point.step_size,
        members=point.members,
        threshold=point.threshold,
        rng=np.random.SeedSequence(point.seed, spawn_key=(point.stream,)),
    )
    odds = runs.log_masses[:, -1, 0] - runs.log_masses[:, -1, 1]
    times = np.array(runs.extinction_time[:, 0])
    spread = math.hypot(*point.noise)
    mean, p_value = math.nan, math.nan
    if mutation is not None:
        law = stationary_odds_law(
            point.contribution,
            point.noise,
            cast(Calculus, point.calculus),
            mutation_rate=point.mutation_rate,
        )
        dead = float(law.cdf(math.exp(point.log_odds())))
    else:
        gap = point.log_odds() - point.drift() * point.t_end
        width = spread * math.sqrt(point.t_end)
        dead = float(scipy.stats.norm.cdf(gap / width)) if spread else float(gap > 0)
        if point.drift() < 0 and spread:
            level = point.log_odds() - _OVERSHOOT * spread * math.sqrt(point.step_size)
            law = hitting_time_law(
                share=0.5,
                threshold=1 / (1 + math.exp(-level)),
                drift=-point.drift(),
                noise=point.noise,
            )
            mean, p_value = float(law.mean()), float(scipy.stats.kstest(times, law.cdf).pvalue)
    return xr.Dataset(
        {
            "log_odds": ("member", odds, about("log-odds of group 0 at the end")),
            "death_time": ("member", times, about("first time below the threshold", "time")),
            "dead": ((), dead, about("chance of being below the threshold in theory")),
            "mean_death_time": ((), mean, about("mean death time in theory", "time")),
            "death_time_p_value": ((), p_value, about("chance of so great a distance from theory")),
        },
        {"member": ("member", np.arange(point.members), about("realisation"))},
        {"specification": specification(point)},
    )


@dataclasses.dataclass(frozen=True)
class Drift:
    """Two groups of a finite number of individuals (Wright and Fisher's model).

    Parameters
    ----------
    individuals : int
        n.
    selection : float
        Advantage s of group 0 in each generation.
    count : int
        Individuals of group 0 at the start.
    generations : int
        Length of the runs.
    mutation_rate : float, optional
        μ, towards equal shares.
    members, seed, stream : int, optional
        As for `Duel`.

    Raises
    ------
    ValueError
        If a value is outside its range.

    Examples
    --------
    >>> Drift(50, 0.0, 5, 100, mutation_rate=0.02).strength      # 2nμq
    1.0
    """

    individuals: int
    selection: float
    count: int
    generations: int
    mutation_rate: float = 0.0
    members: int = 1000
    seed: int = 0
    stream: int = 0

    def __post_init__(self) -> None:
        for name in ("individuals", "count", "generations", "members"):
            validation.count(name, getattr(self, name))
        validation.non_negative("mutation_rate", self.mutation_rate)
        validation.finite("selection", self.selection)
        if not self.count < self.individuals:
            raise ValueError(f"count is {self.count!r}; expected less than individuals, {self.individuals}.")

    @property
    def strength(self) -> float:
        """2nμq with q = 1/2, twice the mutants of a generation: above 1 no group stays lost."""
        return self.individuals * self.mutation_rate

    def dynamics(self) -> Dynamics:
        """Return the dynamics of the shares."""
        return SelectionMutation(self.mutation_rate) if self.mutation_rate else Replicator()


def drift(point: Drift) -> xr.Dataset:
    """Sample a `Drift`.

    Returns
    -------
    xarray.Dataset
        Along ``member``: `share` of group 0 at the end. Scalars in theory: `absent` and `fixed` (chances
        at the end, from the exact transition matrix) and `kimura` (his chance of fixation; NaN with
        mutation).

    Examples
    --------
    >>> result = drift(Drift(20, 0.0, 5, 1000, members=50))
    >>> float(result.fixed.round(6)), float(result.kimura)
    (0.25, 0.25)
    """
    import xarray as xr

    landscape, n = Constant([point.selection, 0.0]), point.individuals
    runs = wright_fisher(
        point.dynamics(),
        landscape,
        [point.count, n - point.count],
        point.generations,
        members=point.members,
        save_every=point.generations,
        rng=np.random.SeedSequence(point.seed, spawn_key=(point.stream,)),
    )
    chain = wright_fisher_matrix(point.dynamics(), landscape, n)
    law: FloatArray = np.linalg.matrix_power(chain, point.generations)[point.count]
    kimura = math.nan
    if not point.mutation_rate:
        kimura = float(fixation_probability(point.selection, point.count / n, n))
    return xr.Dataset(
        {
            "share": ("member", np.array(runs.masses[:, -1, 0]), about("share at the end")),
            "absent": ((), float(law[0]), about("chance of absence in theory")),
            "fixed": ((), float(law[-1]), about("chance of fixation in theory")),
            "kimura": ((), kimura, about("Kimura's chance of fixation")),
        },
        {"member": ("member", np.arange(point.members), about("realisation"))},
        {"specification": specification(point)},
    )


@dataclasses.dataclass(frozen=True)
class Estimates:
    """A map whose fitness is estimated with noise at every step.

    Parameters
    ----------
    map : {"replicator", "normalized_growth"}
        Eq. 12, or Eq. 13 with its cap at the initial mass.
    signal_clip : float or None
        κ.
    decay : float
        λ of Eq. 10.
    noise : float, optional
        σ of every estimate.
    groups : int, optional
        N, of unit mass, with log-normal contributions.
    heterogeneity : float, optional
        Their coefficient of variation.
    step_size : float, optional
        η_p.
    steps : int, optional
        Number of steps.
    members, seed : int, optional
        As for `Duel`; the same draws for every map, clip and decay.

    Raises
    ------
    ValueError
        If a value is outside its range.

    Examples
    --------
    >>> Estimates("replicator", None, 0.0).dynamics()
    Replicator(signal_clip=None)
    """

    map: str
    signal_clip: float | None
    decay: float
    noise: float = 1.0
    groups: int = 32
    heterogeneity: float = 0.5
    step_size: float = 0.02
    steps: int = 1000
    members: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        validation.choice("map", self.map, ("replicator", "normalized_growth"))
        for name in ("groups", "steps", "members"):
            validation.count(name, getattr(self, name))
        validation.positive("step_size", self.step_size)
        self.dynamics()

    def dynamics(self) -> Dynamics:
        """Return the dynamics."""
        if self.map == "replicator":
            return Replicator(signal_clip=self.signal_clip)
        return NormalizedGrowth(mass_cap=float(self.groups), signal_clip=self.signal_clip)


def estimates(point: Estimates) -> xr.Dataset:
    """Iterate an `Estimates`.

    Returns
    -------
    xarray.Dataset
        Along ``member``: `total_mass` (relative to the start); along ``member`` and ``group``: `share`.

    Examples
    --------
    >>> result = estimates(Estimates("replicator", None, 0.3, steps=50, members=2))
    >>> bool(abs(result.total_mass - 1).max() < 1e-12)
    True
    """
    import xarray as xr

    drawn = contributions(
        "lognormal",
        n=point.groups,
        heterogeneity=point.heterogeneity,
        rng=np.random.SeedSequence(point.seed, spawn_key=(0,)),
    )
    runs = noisy_iterate(
        point.dynamics(),
        LinearDecay(drawn, decay=point.decay),
        np.ones(point.groups),
        point.steps,
        point.step_size,
        noise=point.noise,
        members=point.members,
        save_every=point.steps,
        rng=np.random.SeedSequence(point.seed, spawn_key=(1,)),
    )
    final = runs.masses[:, -1]
    totals = final.sum(axis=1)
    return xr.Dataset(
        {
            "total_mass": ("member", totals / point.groups, about("total mass, relative to the start")),
            "share": (("member", "group"), final / totals[:, None], about("share at the end")),
        },
        {
            "member": ("member", np.arange(point.members), about("realisation")),
            "group": ("group", np.arange(point.groups), about("group")),
        },
        {"specification": specification(point)},
    )
