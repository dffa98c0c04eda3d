"""Populations drawn alike and integrated: the tasks that the study of extinction rates sweeps."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import about
from evodyn.model.dynamics import Replicator
from evodyn.model.laws import KINDS, contributions

if TYPE_CHECKING:
    import xarray as xr

    from evodyn.model.landscapes import Landscape

__all__ = ["Sample", "measured_rates", "simulated_sparsity"]

_RELAXATIONS = 30.0
_PARTS_PER_MILLION = 1_000_000


@dataclasses.dataclass(frozen=True)
class Sample:
    """Populations of groups that start with unit mass under Eq. 6 and differ in their contributions alone.

    Parameters
    ----------
    kind : str, optional
        Law of the contributions, one of `evodyn.model.laws.KINDS`.
    groups : int, optional
        Number of groups N of each population, its total mass.
    heterogeneity : float, optional
        Coefficient of variation of the law, > 0.
    decay : float, optional
        λ >= 0 of Eq. 10; fitness is constant at 0.
    populations : int, optional
        Number of populations.
    threshold : float, optional
        A group whose mass is strictly below it counts as extinct.
    horizon : float, optional
        Runs of `simulated_sparsity` end at ``horizon/heterogeneity``, for differences in fitness are
        proportional to the heterogeneity.
    seed : int, optional
        Every sample that differs in its law, size or decay draws random numbers of its own.

    Raises
    ------
    ValueError
        If a value is outside its range.

    Examples
    --------
    >>> sample = Sample(kind="uniform", groups=4, populations=2)
    >>> sample.contribution(0).shape, bool((sample.contribution(0) != sample.contribution(1)).all())
    ((4,), True)
    """

    kind: str = "lognormal"
    groups: int = 768
    heterogeneity: float = 1.0
    decay: float = 0.3
    populations: int = 8
    threshold: float = 0.02
    horizon: float = 1500.0
    seed: int = 0

    def __post_init__(self) -> None:
        validation.choice("kind", self.kind, KINDS)
        validation.count("groups", self.groups, least=2)
        validation.count("populations", self.populations)
        validation.count("seed", self.seed, least=0)
        validation.positive("heterogeneity", self.heterogeneity)
        validation.non_negative("decay", self.decay)
        validation.positive("threshold", self.threshold)
        validation.positive("horizon", self.horizon)

    def contribution(self, member: int) -> FloatArray:
        """Return the contributions c_i of one population, shape (N,)."""
        key = (
            KINDS.index(self.kind),
            self.groups,
            round(self.heterogeneity * _PARTS_PER_MILLION),
            round(self.decay * _PARTS_PER_MILLION),
            member,
        )
        rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))
        return contributions(self.kind, n=self.groups, heterogeneity=self.heterogeneity, rng=rng)

    def landscape(self, member: int) -> Landscape:
        """Return the landscape of one population."""
        from evodyn.model.landscapes import Constant, LinearDecay

        c = self.contribution(member)
        return LinearDecay(c, self.decay) if self.decay else Constant(c)


def simulated_sparsity(sample: Sample) -> xr.Dataset:
    """Integrate every population of a sample and count the groups that are extinct in the end.

    Parameters
    ----------
    sample : Sample
        With a decay, so that a share of the groups survives.

    Returns
    -------
    xarray.Dataset
        Along ``population``: `extinct`, the number of groups below the threshold at the end.

    Raises
    ------
    ValueError
        If the sample has no decay.
    SolveError
        If an integration fails.

    Examples
    --------
    >>> result = simulated_sparsity(Sample(kind="two_class", groups=12, populations=1, heterogeneity=1.0))
    >>> int(result.extinct[0]) == int((Sample(kind="two_class", groups=12).contribution(0) < 1).sum())
    True
    """
    import xarray as xr

    from evodyn.simulate.method import Solver
    from evodyn.simulate.solve import solve

    if sample.decay == 0:
        raise ValueError("decay is 0; expected a positive one: else only the best group survives.")
    end = sample.horizon / sample.heterogeneity
    extinct = np.empty(sample.populations, dtype=np.int64)
    for member in range(sample.populations):
        run = solve(
            Replicator(),
            sample.landscape(member),
            np.ones(sample.groups),
            (0.0, end),
            save_at=[end],
            # Which side of the threshold a group ends on needs no more, and the problem is stiff.
            solver=Solver(method="LSODA", rtol=1e-4, atol=1e-5),
        )
        extinct[member] = np.count_nonzero(run.masses[-1] < sample.threshold)
    return xr.Dataset({"extinct": ("population", extinct, about("groups below the threshold at the end"))})


def measured_rates(sample: Sample) -> xr.Dataset:
    """Integrate the first population of a sample and measure how fast its doomed groups decay.

    The run lasts 30 times the slowest relaxation time, and is measured in its second half.

    Parameters
    ----------
    sample : Sample

    Returns
    -------
    xarray.Dataset
        Along ``group``: `theoretical` and `measured` decay rates -d ln p/dt, NaN for survivors. Scalar:
        `t_end`.

    Raises
    ------
    SolveError
        If the integration fails.

    Examples
    --------
    >>> rates = measured_rates(Sample(kind="uniform", groups=20))
    >>> bool(abs(rates.measured / rates.theoretical - 1).max() < 1e-6)
    True
    """
    import xarray as xr

    from evodyn.analysis.extinction_theory import extinction_rates
    from evodyn.equilibria.equilibrium import equilibrium
    from evodyn.simulate.method import Solver
    from evodyn.simulate.solve import solve

    landscape = sample.landscape(0)
    point = equilibrium(Replicator(), landscape, total_mass=float(sample.groups), eigenvalues=True)
    modes = np.asarray(point.eigenvalues).real
    end = _RELAXATIONS / -float(modes[modes < 0].max()) if (modes < 0).any() else sample.horizon
    run = solve(
        Replicator(),
        landscape,
        np.ones(sample.groups),
        (0.0, end),
        save_at=np.linspace(0.0, end, 41),
        solver=Solver(method="LSODA" if sample.decay else "DOP853"),  # never a closed form
    )
    rates = extinction_rates(run)
    values = {"theoretical": rates.theoretical, "measured": rates.measured}
    variables: dict[str, tuple[str, FloatArray, dict[str, str]]] = {
        name: (
            "group",
            np.where(rates.dying, rate, math.nan),
            about(f"decay rate, {name}", "1/time"),
        )
        for name, rate in values.items()
    }
    end_of_run = ((), end, about("end of the run", "time"))
    return xr.Dataset(variables | {"t_end": end_of_run})
