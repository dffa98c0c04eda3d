"""Diagnostics along a trajectory: what drives the mean, how much diversity is left, where the mass goes.

Every function takes a run, or a dataset with the names of the saved schema, and returns one number for each
saved time: shape (T,), or (T, K) for a `Populations` dynamics with K blocks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evodyn.analysis.records import Record, record_of
from evodyn.core import validation
from evodyn.core.arrays import Array, FloatArray, frozen
from evodyn.core.labels import about
from evodyn.core.specifications import Specification
from evodyn.equilibria.equilibrium import Equilibrium
from evodyn.model import landscapes
from evodyn.model.dynamics import cap_of, clip_acts
from evodyn.model.landscapes import LandscapeFunction, fitness_at_log_masses
from evodyn.simulate.run import Run

if TYPE_CHECKING:
    import xarray

__all__ = [
    "MassBudget",
    "PriceDecomposition",
    "diagnostics",
    "divergence",
    "diversity_half_life",
    "effective_number",
    "entropy",
    "fisher_decomposition",
    "gini",
    "mass_budget",
    "potential",
    "price_decomposition",
]

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
        function = landscapes.Constant(values)
    parts: list[list[list[float]]] = []
    fitness = record.fitness("the Price equation")
    for t, logs, phi in zip(record.t, record.log_masses, fitness, strict=True):
        masses = np.exp(logs)
        growth = dynamics.growth_rates(masses, phi, time=float(t))
        inflow = dynamics.inflow(masses, phi, time=float(t)) + np.zeros(n)
        z = _finite(fitness_at_log_masses(function, float(t), logs), masses)
        change = _derivative(function, record, float(t), logs, growth, inflow, masses)
        rows = []
        for block in record.blocks:
            total = masses[block].sum() or math.nan  # where no mass is left, no mean has a value
            shares = masses[block] / total
            mean = float(shares @ z[block])
            mutation = (inflow[block] @ z[block] - inflow[block].sum() * mean) / total
            selection = shares @ (growth[block] * (z[block] - mean))
            rows.append([mean, float(selection), float(shares @ change[block]), float(mutation)])
        parts.append(rows)
    return PriceDecomposition(*(_shaped(record, part) for part in np.moveaxis(np.array(parts), 2, 0)))


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
    for jump in landscapes.breakpoints(trait, (early, late)):
        early, late = (max(early, float(jump)), late) if jump <= t else (early, min(late, t))
    if late <= early:
        return 0.0
    after, before = (fitness_at_log_masses(trait, time, logs) for time in (late, early))
    slope: FloatArray = (np.asarray(after) - np.asarray(before)) / (late - early)
    return slope


def _finite(values: Array, masses: FloatArray) -> FloatArray:
    """Return the trait with 0 for absent groups, for whom it may be infinite and does not matter."""
    return np.where(masses > 0, np.asarray(values, dtype=np.float64) + np.zeros(len(masses)), 0.0)


def _shaped(record: Record, values: npt.ArrayLike) -> FloatArray:
    """Return one value for each time and block, shape (T, K), in the shape in which results have them."""
    return frozen(record.shaped(np.asarray(values, dtype=np.float64)))


# --- Diversity -----------------------------------------------------------------------------------------


def _by_block(
    run: Run | xarray.Dataset | Record, function: Callable[..., FloatArray], *along: Any
) -> FloatArray:
    """Apply `function` to the log-shares, shape (T, n), of every block and to its part of arrays `along`."""
    record = record_of(run)
    columns = []
    for block in record.blocks:
        logs = record.log_masses[:, block]
        with np.errstate(invalid="ignore"):  # without any mass there are no shares
            shares = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
        columns.append(function(shares, *(array[block] for array in along)))
    return _shaped(record, np.stack(columns, axis=1))


def entropy(run: Run | xarray.Dataset) -> FloatArray:
    """Return Shannon's entropy of the shares, -Σ x_i ln x_i, in nats.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 1.0))
    >>> entropy(run)[0].round(6)      # ln 2
    np.float64(0.693147)
    """
    return _by_block(run, _entropy)


def _entropy(log_shares: FloatArray) -> FloatArray:
    shares = np.exp(log_shares)
    value: FloatArray = -(shares * np.where(shares > 0, log_shares, 0.0)).sum(axis=1)
    return value + 0.0  # no negative zero


def effective_number(run: Run | xarray.Dataset, *, order: float = 1.0) -> FloatArray:
    """Return the effective number of groups, Hill's (Σ x_i^q)^{1/(1-q)} of order q.

    Parameters
    ----------
    run : Run or xarray.Dataset
    order : float, optional
        q >= 0: 0 counts groups with mass, 1 is the exponential of the entropy, 2 the inverse of the
        probability that two units of mass belong to one group.

    Raises
    ------
    ValueError
        If `order` is negative.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 3.0], (0.0, 1.0))
    >>> effective_number(run, order=2)[0].round(6)      # 1/(1/16 + 9/16)
    np.float64(1.6)
    """
    q = validation.non_negative("order", order)
    if q == 1:
        return np.exp(entropy(run))

    def hill(log_shares: FloatArray) -> FloatArray:
        if q == 0:
            return np.asarray(np.isfinite(log_shares).sum(axis=1), dtype=np.float64)
        if abs(q - 1) > 0.5:
            number: FloatArray = np.exp(np.logaddexp.reduce(q * log_shares, axis=1) / (1 - q))
            return number
        # ln Σ x^q = ln(1 + Σ x(x^{q-1} - 1)) near q = 1, where the sum is nearly 1.
        logs = np.where(np.isfinite(log_shares), log_shares, 0.0)
        surplus = (np.exp(log_shares) * np.expm1((q - 1) * logs)).sum(axis=1)
        near: FloatArray = np.exp(np.log1p(surplus) / (1 - q))
        return near

    return _by_block(run, hill)


def gini(run: Run | xarray.Dataset) -> FloatArray:
    """Return Gini's coefficient of the masses: 0 if all are equal, 1 - 1/N if one group has all.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 3.0], (0.0, 1.0))
    >>> gini(run)[0].round(6)
    np.float64(0.25)
    """

    def coefficient(log_shares: FloatArray) -> FloatArray:
        shares = np.sort(np.exp(log_shares), axis=1)
        n = shares.shape[1]
        ranks = 2 * np.arange(1, n + 1) - n - 1
        result: FloatArray = shares @ ranks / n
        return result

    return _by_block(run, coefficient)


def diversity_half_life(run: Run | xarray.Dataset, *, order: float = 1.0) -> float | FloatArray:
    """Return when the effective number of groups has first fallen half way from its start to one.

    Between saved times the logarithm of the number is interpolated linearly.

    Parameters
    ----------
    run : Run or xarray.Dataset
    order : float, optional
        As for `effective_number`.

    Returns
    -------
    float, or array of shape (K,) with K blocks
        Time since the start; inf if the number has not fallen so far.

    Examples
    --------
    >>> import numpy as np, evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 9.0),
    ...                save_at=np.linspace(0, 9, 901))
    >>> round(diversity_half_life(run, order=2), 3)      # x = (3 + √3)/6, t = ln(x/(1 - x))
    1.317
    """
    record = record_of(run)
    numbers = effective_number(run, order=order).reshape(len(record.t), -1)
    lives = np.full(numbers.shape[1], math.inf)
    for k, values in enumerate(numbers.T):
        goal = (values[0] + 1) / 2
        below = np.flatnonzero(values <= goal)
        if values[0] <= 1:
            lives[k] = 0.0
        elif len(below):
            j = int(below[0])
            before, after = np.log(values[j - 1]), np.log(values[j])
            part = (before - math.log(goal)) / (before - after)
            lives[k] = record.t[j - 1] + part * (record.t[j] - record.t[j - 1]) - record.t[0]
    shaped = record.shaped(lives)
    return shaped if shaped.ndim else float(shaped)


# --- Distance and potential ----------------------------------------------------------------------------


def divergence(run: Run | xarray.Dataset, equilibrium: Equilibrium | npt.ArrayLike) -> FloatArray:
    """Return the Kullback-Leibler divergence of the shares from those at equilibrium, KL(x* ‖ x), in nats.

    It decreases along Eq. 6 with Eq. 10, and wherever differences in fitness always pull back; it is
    constant in zero-sum games.

    Parameters
    ----------
    run : Run or xarray.Dataset
    equilibrium : Equilibrium or array_like, shape (N,)
        The rest point, or its masses.

    Raises
    ------
    ValueError
        If the numbers of groups differ.

    Examples
    --------
    >>> import evodyn as ed
    >>> landscape = ed.landscapes.LinearDecay([1.0, 0.5], decay=1.0)
    >>> run = ed.solve(ed.Replicator(), landscape, [1.0, 1.0], (0.0, 40.0))
    >>> divergence(run, ed.equilibrium(ed.Replicator(), landscape, total_mass=2.0))[[0, -1]].round(6) + 0.0
    array([0.031584, 0.      ])
    """
    record = record_of(run)
    masses = equilibrium.masses if isinstance(equilibrium, Equilibrium) else equilibrium
    limit = validation.finite_array("equilibrium", masses, ndim=1, least=0.0)
    n = record.log_masses.shape[1]
    if len(limit) != n:
        raise ValueError(f"equilibrium has {len(limit)} groups and run {n}; expected the same.")

    def relative_entropy(log_shares: FloatArray, resting: FloatArray) -> FloatArray:
        kept = resting > 0
        shares = resting[kept] / resting.sum()
        value: FloatArray = (shares * (np.log(shares) - log_shares[:, kept])).sum(axis=1)
        return value

    return _by_block(record, relative_entropy, limit)


def potential(run: Run | xarray.Dataset) -> FloatArray:
    """Return the function that selection climbs, where one is known: shape (T,).

    Without mutation, F with ∂F/∂p_i = φ_i: Σ c_i p_i for constant fitness, less λΣp_i²/2 with a decay,
    less TΣp_i(ln p_i - 1) with a temperature, less κ pᵀSp/2 with redundancy; pᵀAp/(2P) for a symmetric
    game; sums of these. With mutation and P = M, V = F + μΣ m_i ln p_i. It never decreases; under Eq. 6
    its rate of increase is P·Var_x(φ).

    Parameters
    ----------
    run : Run or xarray.Dataset
        With its dynamics and landscape.

    Raises
    ------
    ValueError
        If no such function is known: another landscape, an asymmetric game, a clip, a dynamics of
        the user's, or mutation from a total mass that is not the target's.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 40.0))
    >>> potential(run)[[0, -1]]
    array([1., 2.])
    """
    record = record_of(run)
    dynamics, landscape = record.known("a potential")
    masses, logs = record.masses, record.log_masses
    n = masses.shape[1]
    barrier = landscapes.potential(landscape, masses, logs)
    if barrier is None:
        raise ValueError(
            f"run has the landscape {landscape!r}, whose potential is not known; expected terms that state "
            "one (an asymmetric payoff has none)."
        )
    for block, member in dynamics.blocks(n):
        law, inflow = (
            member.mass_law(block.stop - block.start),
            member.steady_inflow(block.stop - block.start),
        )
        if not member.compares_with_mean or clip_acts(member):
            raise ValueError(
                f"run has the dynamics {member!r}, for which no potential is known; expected a comparison "
                "with the mean, without a signal clip."
            )
        if inflow is not None and not inflow.any() and law == (0.0, 0.0):
            continue
        total = masses[:, block].sum(axis=1)
        if law is None or inflow is None or not np.allclose(total, law[1], rtol=1e-9):
            raise ValueError(
                "run has mutation that changes in time, or a total mass that is not its target's; "
                "expected P = M throughout: no potential is known otherwise."
            )
        fed = inflow > 0
        barrier = barrier + logs[:, block][:, fed] @ inflow[fed]
    return barrier


# --- Mass ----------------------------------------------------------------------------------------------


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
            rate = member.mutation_rate_at(float(t))
            growth = member.growth_rates(own, phi[block], time=float(t))
            inflow = np.sum(member.inflow(own, phi[block], time=float(t)) + np.zeros(len(own)))
            parts[:, row, k] = own.sum(), own @ (growth + rate * (own > 0)), inflow, rate * own.sum()
            if own.sum() >= cap_of(member) * (1 - 1e-12):
                # At its cap a block loses what selection would add.
                parts[1, row, k] = min(parts[1, row, k], 0.0)
    return MassBudget(*(_shaped(record, part) for part in parts))


def diagnostics(run: Run | xarray.Dataset) -> xarray.Dataset:
    """Return all diagnostics of a run that need no further argument, as a labelled dataset.

    Parameters
    ----------
    run : Run or xarray.Dataset
        With its dynamics and landscape.

    Returns
    -------
    xarray.Dataset
        Variables over time (and block, for `Populations`), each with `long_name` and `units`.

    Raises
    ------
    ValueError
        If the dataset has no specification.

    Examples
    --------
    >>> import evodyn as ed
    >>> run = ed.solve(ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 1.0))
    >>> sorted(diagnostics(run).data_vars)
    ['effective_number', 'entropy', 'environmental_change', 'fitness_variance', 'gini', 'mass_inflow',
     'mass_outflow', 'mean_fitness', 'mutation_load_rate', 'selective_mass_change', 'total_mass']
    """
    import xarray

    record = record_of(run)
    fisher, budget = fisher_decomposition(run), mass_budget(run)
    values = {
        "mean_fitness": (fisher.mean, "mass-weighted mean fitness", "1/time"),
        "fitness_variance": (fisher.selection, "change of mean fitness by selection", "1/time²"),
        "environmental_change": (fisher.transmission, "change of mean fitness by the environment", "1/time²"),
        "mutation_load_rate": (fisher.mutation, "change of mean fitness by mutation", "1/time²"),
        "entropy": (entropy(run), "Shannon entropy of the shares", "1"),
        "effective_number": (effective_number(run), "effective number of groups (order 1)", "1"),
        "gini": (gini(run), "Gini coefficient of the masses", "1"),
        "total_mass": (budget.total, "total mass", "mass"),
        "selective_mass_change": (budget.selection, "change of total mass by selection", "mass/time"),
        "mass_inflow": (budget.inflow, "mutation inflow", "mass/time"),
        "mass_outflow": (budget.outflow, "mutation outflow", "mass/time"),
    }
    dims = ("time", "block")[: fisher.mean.ndim]
    variables = {name: (dims, array, about(label, units)) for name, (array, label, units) in values.items()}
    return xarray.Dataset(variables, {"time": ("time", record.t, about("time", "time"))})
