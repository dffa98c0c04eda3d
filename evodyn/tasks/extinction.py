"""One population under a chosen heterogeneity of fitness: the task that the extinction study sweeps."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Literal

import numpy as np

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import about
from evodyn.model.dynamics import Dynamics, NormalizedGrowth, Replicator, SelectionMutation
from evodyn.model.laws import KINDS, contributions
from evodyn.simulate.extinction import Extinction
from evodyn.tasks import specification

if TYPE_CHECKING:
    import xarray as xr

    from evodyn.model.landscapes import Landscape

__all__ = ["DYNAMICS", "Scenario", "fraction_extinct_at_equilibrium", "simulate"]

DYNAMICS = ("replicator", "normalized_growth", "selection_mutation")
"""The names of the dynamics that a scenario can have."""


@dataclasses.dataclass(frozen=True)
class Scenario:
    """A population of groups that all start with unit mass and differ in their contributions alone.

    Parameters
    ----------
    kind : str, optional
        Law of the contributions, one of `evodyn.model.laws.KINDS`.
    groups : int, optional
        Number of groups N; also the total mass at the start.
    heterogeneity : float, optional
        Coefficient of variation of the law, >= 0.
    dynamics : {"replicator", "normalized_growth", "selection_mutation"}, optional
        Eq. 6; Eq. 7 with its cap at the initial total mass; Eq. 8 with a target of one mass for each group,
        which conserves the initial total mass.
    decay : float, optional
        λ >= 0 of Eq. 10 with r(p) = p; fitness is constant at 0.
    mutation_rate : float, optional
        μ >= 0, for "selection_mutation" only.
    threshold : float, optional
        A group whose mass is strictly below it counts as extinct.
    t_end : float, optional
        The run covers [0, t_end], in units of 1/fitness.
    saved_times : int, optional
        Number of saved times, at least 3: 0 and then a geometric series over three decades up to `t_end`.
    seed, member : int, optional
        Contributions are drawn from ``SeedSequence(seed, spawn_key=(member,))``: the same random numbers
        at every heterogeneity.

    Raises
    ------
    ValueError
        If a value is outside its range.

    Examples
    --------
    >>> Scenario(kind="neutral", heterogeneity=0.0).contribution()[:3]
    array([1., 1., 1.])
    """

    kind: str = "lognormal"
    groups: int = 768
    heterogeneity: float = 1.0
    dynamics: str = "replicator"
    decay: float = 0.3
    mutation_rate: float = 0.0
    threshold: float = 1e-3
    t_end: float = 300.0
    saved_times: int = 121
    seed: int = 0
    member: int = 0

    def __post_init__(self) -> None:
        validation.choice("kind", self.kind, KINDS)
        validation.choice("dynamics", self.dynamics, DYNAMICS)
        validation.count("groups", self.groups)
        validation.count("saved_times", self.saved_times, least=3)
        validation.count("seed", self.seed, least=0)
        validation.count("member", self.member, least=0)
        validation.non_negative("heterogeneity", self.heterogeneity)
        validation.non_negative("decay", self.decay)
        validation.positive("t_end", self.t_end)
        if not 0 < self.threshold < 1:
            raise ValueError(
                f"threshold is {self.threshold!r}; expected a mass between 0 and 1, the mass of every group "
                "at the start."
            )
        validation.non_negative("mutation_rate", self.mutation_rate)
        if (self.mutation_rate > 0) != (self.dynamics == "selection_mutation"):
            raise ValueError(
                f"mutation_rate is {self.mutation_rate!r} with dynamics {self.dynamics!r}; expected "
                "a positive rate with 'selection_mutation' and 0 with the others."
            )
        if self.kind == "neutral" and self.heterogeneity:
            raise ValueError(
                f"heterogeneity is {self.heterogeneity!r} with kind 'neutral'; expected 0, "
                "for neutral groups do not differ."
            )

    def contribution(self) -> FloatArray:
        """Return the contributions c_i, shape (N,)."""
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(self.member,)))
        return contributions(self.kind, n=self.groups, heterogeneity=self.heterogeneity, rng=rng)

    def landscape(self) -> Landscape:
        """Return the landscape of Eq. 10; a constant one without decay."""
        from evodyn.model.landscapes import Constant, LinearDecay

        drawn = self.contribution()
        return LinearDecay(drawn, decay=self.decay) if self.decay else Constant(drawn)

    def selection(self) -> Dynamics:
        """Return the dynamics."""
        if self.dynamics == "replicator":
            return Replicator()
        if self.dynamics == "normalized_growth":
            return NormalizedGrowth(mass_cap=float(self.groups))
        return SelectionMutation(self.mutation_rate, target=1.0)

    def saved(self) -> FloatArray:
        """Return the saved times, shape (saved_times,)."""
        later = np.geomspace(1e-3 * self.t_end, self.t_end, self.saved_times - 1)
        later[-1] = self.t_end
        return np.concatenate(([0.0], later))

    @property
    def has_closed_form(self) -> bool:
        """Whether extinction times have a closed form: constant fitness and no mutation."""
        return self.decay == 0 and self.mutation_rate == 0


def equilibrium_masses(scenario: Scenario) -> FloatArray:
    """Return the masses at the attractor of interior starts (water filling for λ > 0), shape (N,)."""
    from evodyn.equilibria.equilibrium import equilibrium

    total = None if scenario.mutation_rate else float(scenario.groups)
    point = equilibrium(scenario.selection(), scenario.landscape(), total_mass=total, eigenvalues=False)
    return np.array(point.masses)


def fraction_extinct_at_equilibrium(scenario: Scenario) -> float:
    """Return the fraction of groups below the threshold at the attractor of interior starts.

    Examples
    --------
    >>> [round(fraction_extinct_at_equilibrium(Scenario(heterogeneity=h)), 3) for h in (0.0, 1.0)]
    [0.0, 0.617]
    """
    return float(np.mean(equilibrium_masses(scenario) < scenario.threshold))


def simulate(scenario: Scenario) -> xr.Dataset:
    """Integrate a scenario and put its extinctions beside what theory says.

    The flow is always integrated numerically, so that a closed form is something to compare with.

    Parameters
    ----------
    scenario : Scenario

    Returns
    -------
    xarray.Dataset
        Along ``time``: `fraction_extinct`. Along ``group``: `contribution`, `extinction_time` (inf if
        never), `extinct_at_end`, `closed_form_extinction_time` (NaN where there is no closed form),
        `equilibrium_mass`. Scalars: `fraction_extinct_at_equilibrium`, `recoveries` (upward crossings),
        `evaluations`.

    Raises
    ------
    SolveError
        If the integration fails.

    Examples
    --------
    >>> result = simulate(Scenario(groups=4, kind="two_class", heterogeneity=0.5, decay=0.0))
    >>> result.contribution.values
    array([0.5, 1.5, 0.5, 1.5])
    >>> float(result.extinction_time[0].round(4)), float(result.closed_form_extinction_time[0].round(4))
    (7.6004, 7.6004)
    """
    import xarray as xr

    from evodyn.simulate.method import Solver
    from evodyn.simulate.solve import solve

    drawn = scenario.contribution()
    extinction = Extinction(scenario.threshold)
    dynamics, landscape, start = scenario.selection(), scenario.landscape(), np.ones(scenario.groups)
    span = (0.0, scenario.t_end)
    method: Literal["auto", "DOP853"] = "DOP853" if scenario.has_closed_form else "auto"
    run = solve(
        dynamics,
        landscape,
        start,
        span,
        save_at=scenario.saved(),
        extinction=extinction,
        solver=Solver(method=method),
    )
    closed_form = np.full(scenario.groups, np.nan)
    if scenario.has_closed_form:
        exact = solve(
            dynamics,
            landscape,
            start,
            span,
            save_at=[scenario.t_end],
            extinction=extinction,
            solver=Solver(method="closed_form"),
        )
        closed_form = np.array(exact.extinction_time)
    resting = equilibrium_masses(scenario)
    fraction = np.mean(run.log_masses < extinction.log_threshold, axis=1)
    return xr.Dataset(
        {
            "fraction_extinct": ("time", fraction, about("fraction of groups below the threshold")),
            "contribution": ("group", drawn, about("contribution", "1/time")),
            "extinction_time": (
                "group",
                np.array(run.extinction_time),
                about("first time strictly below the threshold, integrated", "time"),
            ),
            "extinct_at_end": ("group", np.array(run.extinct_at_end), about("extinct at the end")),
            "closed_form_extinction_time": (
                "group",
                closed_form,
                about("first time strictly below the threshold, closed form", "time"),
            ),
            "equilibrium_mass": ("group", resting, about("mass at the attractor", "mass")),
            "fraction_extinct_at_equilibrium": (
                (),
                float(np.mean(resting < scenario.threshold)),
                about("fraction of groups below the threshold at the attractor"),
            ),
            "recoveries": (
                (),
                int(np.sum(run.crossings.direction > 0)),
                about("times that a group came back above the threshold"),
            ),
            "evaluations": ((), run.stats.evaluations, about("evaluations of the landscape")),
        },
        coords={
            "time": ("time", run.t, about("time", "time")),
            "group": ("group", np.arange(scenario.groups), about("group")),
        },
        attrs={
            "specification": specification(scenario),
            "method": run.stats.method,
        },
    )
