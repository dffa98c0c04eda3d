"""Diagnostics along a trajectory: what drives the mean, how much diversity is left, where the mass goes.

Every function takes a run, or a dataset with the names of the saved schema, and returns one number for each
saved time: shape (T,), or (T, K) for a `Populations` dynamics with K blocks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evodyn.analysis.records import Record, record_of
from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import MASS, TIME, about
from evodyn.equilibria.equilibrium import Equilibrium
from evodyn.model.dynamics import clip_acts
from evodyn.model.fitness import potential as potential_of
from evodyn.simulate.run import Run

if TYPE_CHECKING:
    import xarray
from evodyn.analysis.decompositions import fisher_decomposition, mass_budget

__all__ = [
    "diagnostics",
    "divergence",
    "diversity_half_life",
    "effective_number",
    "entropy",
    "gini",
    "potential",
]


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
    return record.shaped(np.stack(columns, axis=1))


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
    barrier = potential_of(landscape, masses, logs)
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
        "total_mass": (budget.total, "total mass", MASS),
        "selective_mass_change": (budget.selection, "change of total mass by selection", "mass/time"),
        "mass_inflow": (budget.inflow, "mutation inflow", "mass/time"),
        "mass_outflow": (budget.outflow, "mutation outflow", "mass/time"),
    }
    dims = ("time", "block")[: fisher.mean.ndim]
    variables = {name: (dims, array, about(label, units)) for name, (array, label, units) in values.items()}
    return xarray.Dataset(variables, {"time": ("time", record.t, about("time", TIME))})
