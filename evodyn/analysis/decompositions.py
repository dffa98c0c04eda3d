"""What drives a mean and where the mass goes: the Price equation, Fisher's theorem and the mass budget."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from evodyn.analysis.records import Record, record_of
from evodyn.core import validation
from evodyn.core.arrays import Array, FloatArray
from evodyn.core.specifications import Specification
from evodyn.model.dynamics import cap_of
from evodyn.model.fitness import LandscapeFunction, breakpoints, fitness_at_log_masses
from evodyn.model.landscapes import Constant
from evodyn.simulate.run import Run

if TYPE_CHECKING:
    import xarray

__all__ = ["MassBudget", "PriceDecomposition", "fisher_decomposition", "mass_budget", "price_decomposition"]

Trait = npt.ArrayLike | Callable[[float, Array], Array]


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class PriceDecomposition(Specification):
    """The rate of change of a mean trait and its parts; each of shape (T,) or (T, K).

    Attributes
    ----------
    mean : array
        z̄ = Σ x_i z_i.
    selection : array
        Cov_x(g, z), with per-capita growth rates g (φ without a clip).
    transmission : array
        E_x[dz/dt], the total derivative along the trajectory.
    mutation : array
        (μM/P)(z̄_m - z̄), with z̄_m the mean over the mutation target.

    Examples
    --------
    >>> import numpy as np
    >>> parts = PriceDecomposition(
    ...     mean=np.array([5.0]), selection=np.array([2.5]), transmission=np.zeros(1), mutation=-np.ones(1)
    ... )
    >>> parts.rate
    array([1.5])
    """

    mean: FloatArray
    selection: FloatArray
    transmission: FloatArray
    mutation: FloatArray

    @property
    def rate(self) -> FloatArray:
        """dz̄/dt, the sum of the parts."""
        return self.selection + self.transmission + self.mutation


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MassBudget(Specification):
    """The rate of change of total mass and its parts; each of shape (T,) or (T, K).

    Attributes
    ----------
    total : array
        P.
    selection : array
        Σ p_i g_i without mutation: 0 up to rounding, unless a signal clip acts.
    inflow, outflow : array
        μM and μP.

    Examples
    --------
    >>> import numpy as np
    >>> budget = MassBudget(
    ...     total=np.array([3.0]), selection=np.zeros(1), inflow=np.array([0.5]), outflow=np.array([1.5])
    ... )
    >>> budget.rate
    array([-1.])
    """

    total: FloatArray
    selection: FloatArray
    inflow: FloatArray
    outflow: FloatArray

    @property
    def rate(self) -> FloatArray:
        """dP/dt, below any cap."""
        return self.selection + self.inflow - self.outflow


def price_decomposition(run: Run | xarray.Dataset, trait: Trait) -> PriceDecomposition:
    """Return Price's decomposition of the change of a mean trait, with mutation.

    Parameters
    ----------
    run : Run or xarray.Dataset
        With its dynamics and landscape.
    trait : array_like of shape (N,), or callable
        z_i, or ``trait(t, masses) -> (N,)``. A landscape is a trait.

    Returns
    -------
    PriceDecomposition

    Raises
    ------
    ValueError
        If the dataset has no specification, or the trait has another shape.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 1.0))
    >>> price_decomposition(run, [10.0, 0.0]).selection[0]      # Cov of (1, 0) and (10, 0)
    np.float64(2.5)
    """
    record = record_of(run)
    dynamics, _ = record.known("the Price equation")
    n = record.log_masses.shape[1]
    if callable(trait):
        function: LandscapeFunction = trait
    else:
        values = validation.finite_array("trait", trait, ndim=1)
        if len(values) != n:
            raise ValueError(f"trait has {len(values)} entries; expected one for each of the {n} groups.")
        function = Constant(values)
    parts: list[list[list[float]]] = []
    fitness = record.fitness("the Price equation")
    for t, logs, phi in zip(record.t, record.log_masses, fitness, strict=True):
        masses = np.exp(logs)
        growth = dynamics.growth_rates(masses, phi, time=float(t))
        inflow = dynamics.inflow(masses, phi, time=float(t)) + np.zeros(n)
        losses = dynamics.mutation_losses(masses, phi, time=float(t)) + np.zeros(n)
        z = _finite(fitness_at_log_masses(function, float(t), logs), masses)
        change = _derivative(function, record, float(t), logs, growth, inflow, masses)
        rows = []
        for block in record.blocks:
            total = masses[block].sum() or math.nan  # where no mass is left, no mean has a value
            shares = masses[block] / total
            mean = float(shares @ z[block])
            mutation = (inflow[block] @ z[block] - inflow[block].sum() * mean) / total
            mutation -= shares @ (losses[block] * (z[block] - mean))
            selection = shares @ ((growth[block] + losses[block]) * (z[block] - mean))
            rows.append([mean, float(selection), float(shares @ change[block]), float(mutation)])
        parts.append(rows)
    return PriceDecomposition(*(record.shaped(part) for part in np.moveaxis(np.array(parts), 2, 0)))


def fisher_decomposition(run: Run | xarray.Dataset) -> PriceDecomposition:
    """Return the decomposition of the change of mean fitness: Var_x(φ), E_x[dφ/dt] and mutation.

    Fisher's theorem is its first part, `selection`; `transmission` is the change of the environment, which
    the masses themselves bring about where fitness depends on them.

    Parameters
    ----------
    run : Run or xarray.Dataset
        With its dynamics and landscape.

    Returns
    -------
    PriceDecomposition

    Raises
    ------
    ValueError
        If the dataset has no specification.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 1.0))
    >>> fisher_decomposition(run).selection[0]
    np.float64(0.25)
    """
    record = record_of(run)
    return price_decomposition(run, record.known("Fisher's theorem")[1])


def _derivative(
    trait: LandscapeFunction,
    record: Record,
    t: float,
    logs: FloatArray,
    growth: FloatArray,
    inflow: FloatArray,
    masses: FloatArray,
) -> FloatArray:
    """Return dz_i/dt along the trajectory, by central differences along the velocity and in time."""
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = growth + np.where(inflow > 0, inflow / masses, 0.0)
    rates = np.where(np.isfinite(rates), rates, 0.0)
    width = 2.0**-17 / max(1.0, float(np.abs(rates).max()))
    ahead, behind = (fitness_at_log_masses(trait, t, logs + sign * width * rates) for sign in (1, -1))
    with np.errstate(invalid="ignore"):
        change = (ahead - behind) / (2 * width)
        terms = getattr(trait, "terms", (trait,))
        change = change + sum(_drift(term, record, t, logs) for term in terms)
    return _finite(change, masses)


def _drift(trait: LandscapeFunction, record: Record, t: float, logs: FloatArray) -> FloatArray | float:
    """Return ∂φ/∂t at fixed masses, by central differences within the time span and between breakpoints."""
    if getattr(trait, "autonomous", None):
        return 0.0
    step = 2.0**-22 * (1 + abs(t))
    early, late = max(t - step, float(record.t[0])), min(t + step, float(record.t[-1]))
    for jump in breakpoints(trait, (early, late)):
        early, late = (max(early, float(jump)), late) if jump <= t else (early, min(late, t))
    if late <= early:
        return 0.0
    after, before = (fitness_at_log_masses(trait, time, logs) for time in (late, early))
    slope: FloatArray = (np.asarray(after) - np.asarray(before)) / (late - early)
    return slope


def _finite(values: Array, masses: FloatArray) -> FloatArray:
    """Return the trait with 0 for absent groups, for whom it may be infinite and does not matter."""
    return np.where(masses > 0, np.asarray(values, dtype=np.float64) + np.zeros(len(masses)), 0.0)


def mass_budget(run: Run | xarray.Dataset) -> MassBudget:
    """Return where total mass comes from and goes to.

    Parameters
    ----------
    run : Run or xarray.Dataset
        With its dynamics and landscape.

    Returns
    -------
    MassBudget

    Raises
    ------
    ValueError
        If the dataset has no specification.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.SelectionMutation(0.5), ed.landscapes.Constant([1.0, 0.0]), [2.0, 1.0], (0.0, 1.0))
    >>> budget = mass_budget(run)
    >>> budget.inflow[0], budget.outflow[0], budget.rate[0].round(6)
    (np.float64(0.5), np.float64(1.5), np.float64(-1.0))
    """
    record = record_of(run)
    dynamics, _ = record.known("a mass budget")
    fitness = record.fitness("a mass budget")
    members = dynamics.blocks(record.log_masses.shape[1])
    parts = np.zeros((4, len(record.t), len(members)))
    for row, (t, masses, phi) in enumerate(zip(record.t, record.masses, fitness, strict=True)):
        for k, (block, member) in enumerate(members):
            own = masses[block]
            losses = member.mutation_losses(own, phi[block], time=float(t)) * (own > 0)
            growth = member.growth_rates(own, phi[block], time=float(t))
            inflow = np.sum(member.inflow(own, phi[block], time=float(t)) + np.zeros(len(own)))
            parts[:, row, k] = own.sum(), own @ (growth + losses), inflow, own @ losses
            if own.sum() >= cap_of(member) * (1 - 1e-12):
                # At its cap a block loses what selection would add.
                parts[1, row, k] = min(parts[1, row, k], 0.0)
    return MassBudget(*(record.shaped(part) for part in parts))
