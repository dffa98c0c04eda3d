"""Noise of finite numbers where generations overlap: the Moran process, and exact laws of its two groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.progress import Progress
from evodyn.model.dynamics import Dynamics, Scheme
from evodyn.model.fitness import LandscapeFunction
from evodyn.noise.runs import StochasticRuns
from evodyn.noise.wright_fisher import checked_two_groups, expected_shares, sampled

__all__ = ["moran", "moran_fixation_probability", "moran_matrix", "stationary_law"]


def moran(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    counts: npt.ArrayLike,
    n_generations: int,
    *,
    step_size: float = 1.0,
    members: int = 1,
    save_every: int = 1,
    scheme: Scheme = "exponential",
    rng: Any = None,
    progress: Progress = None,
) -> StochasticRuns:
    """Sample a Moran process: one birth and one death at a time, n of them a generation.

    The newborn's group is drawn from the shares after one step of the map of `dynamics` (selection, then
    mutation), and it takes the place of an individual drawn from all with equal chances.

    Parameters
    ----------
    dynamics, landscape, counts, n_generations, step_size, members, save_every, scheme, rng, progress
        As for `wright_fisher`. With `ReplicatorMutator` and the scheme "ratio" parents are drawn in
        proportion to fitness, and offspring mutate: the process as it is mostly written.

    Returns
    -------
    StochasticRuns
        With shares as masses; extinct is a count of 0 at the end of a generation.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> from evodyn import Replicator, landscapes
    >>> runs = moran(Replicator(), landscapes.Constant([0.0, 0.0]), [5, 5], 400, members=4, rng=0)
    >>> runs.masses[:, -1].max(axis=1)      # drift fixes one of two neutral groups
    array([1., 1., 1., 1.])
    """

    def generation(shares: FloatArray, k: int, generators: list[np.random.Generator], n: int) -> FloatArray:
        numbers, rows = np.rint(shares * n), np.arange(len(shares))
        chances = np.stack([generator.random((n, 2)) for generator in generators], axis=1)
        for event, (births, deaths) in enumerate(np.moveaxis(chances, 2, 1)):
            t = (k + event / n) * step_size
            born = _drawn(expected_shares(dynamics, landscape, numbers / n, step_size, t, scheme), births)
            dead = _drawn(numbers / n, deaths)
            numbers[rows, born] += 1
            numbers[rows, dead] -= 1
        return numbers / n

    return sampled(
        "Moran process",
        generation,
        dynamics,
        landscape,
        counts,
        n_generations,
        step_size=step_size,
        members=members,
        save_every=save_every,
        scheme=scheme,
        rng=rng,
        progress=progress,
    )


def _drawn(shares: FloatArray, uniform: FloatArray) -> npt.NDArray[np.intp]:
    """Return one group for each row of shares, from numbers uniform on [0, 1); never one without a share."""
    bounds = shares.cumsum(axis=1)
    found: npt.NDArray[np.intp] = (uniform[:, None] * bounds[:, -1:] >= bounds).sum(axis=1)
    return found


def moran_matrix(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    individuals: int,
    *,
    step_size: float = 1.0,
    scheme: Scheme = "exponential",
) -> FloatArray:
    """Return the transition matrix of one birth and one death of `moran` with two groups.

    Parameters
    ----------
    dynamics, landscape, individuals, step_size, scheme
        As for `wright_fisher_matrix`.

    Returns
    -------
    numpy.ndarray, shape (n + 1, n + 1)
        The chance in row i and column j that i individuals of group 0 become j.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> from evodyn import Replicator, landscapes
    >>> moran_matrix(Replicator(), landscapes.Constant([0.0, 0.0]), 2)
    array([[1.  , 0.  , 0.  ],
           [0.25, 0.5 , 0.25],
           [0.  , 0.  , 1.  ]])
    """
    shares = checked_two_groups(dynamics, landscape, individuals)
    step_size = validation.positive("step_size", step_size)
    born = expected_shares(dynamics, landscape, shares, step_size, 0.0, scheme)
    rises, falls = born[:, 0] * shares[:, 1], born[:, 1] * shares[:, 0]
    return np.diag(1 - rises - falls) + np.diag(rises[:-1], 1) + np.diag(falls[1:], -1)


def moran_fixation_probability(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    individuals: int,
    *,
    step_size: float = 1.0,
    scheme: Scheme = "exponential",
) -> FloatArray:
    """Return the exact probability that group 0 fixes in `moran` with two groups, from every number.

    From k individuals it is (1 + Σ_{j=1}^{k-1} γ_1…γ_j)/(1 + Σ_{j=1}^{n-1} γ_1…γ_j), where γ_i is the
    chance of i to fall over that to rise; with relative fitness r this is (1 - r^-k)/(1 - r^-n).

    Parameters
    ----------
    dynamics, landscape, individuals, step_size, scheme
        As for `moran_matrix`, without mutation.

    Returns
    -------
    numpy.ndarray, shape (n + 1,)

    Raises
    ------
    ValueError
        If an argument is outside its range, or mutation lets no group be fixed.

    Examples
    --------
    >>> from evodyn import Replicator, landscapes
    >>> fixed = moran_fixation_probability(Replicator(), landscapes.Constant([2.0, 1.0]), 4, scheme="ratio")
    >>> fixed * 15
    array([ 0.,  8., 12., 14., 15.])
    """
    shares = checked_two_groups(dynamics, landscape, individuals)
    step_size = validation.positive("step_size", step_size)
    born = expected_shares(dynamics, landscape, shares, step_size, 0.0, scheme)
    if born[0, 0] > 0 or born[-1, 1] > 0:
        raise ValueError(
            f"dynamics is {dynamics!r}, with mutation; expected none, or no group is ever fixed."
        )
    inside = slice(1, -1)
    with np.errstate(divide="ignore"):
        ratios = np.log(born[inside, 1] * shares[inside, 0]) - np.log(born[inside, 0] * shares[inside, 1])
    logs = np.concatenate(([-np.inf, 0.0], np.cumsum(ratios)))
    sums = np.logaddexp.accumulate(logs)
    result: FloatArray = np.exp(sums - sums[-1])
    return result


def stationary_law(chain: npt.ArrayLike) -> FloatArray:
    """Return the law to which a Markov chain converges from every state.

    Parameters
    ----------
    chain : array_like, shape (K, K)
        Transition matrix, such as that of `moran_matrix` or `wright_fisher_matrix` with mutation: its rows
        sum to 1.

    Returns
    -------
    numpy.ndarray, shape (K,)

    Raises
    ------
    ValueError
        If `chain` is no such matrix, or has several laws, as without mutation.

    Examples
    --------
    >>> stationary_law([[0.9, 0.1], [0.3, 0.7]])
    array([0.75, 0.25])
    """
    matrix = validation.finite_array("chain", chain, ndim=2, least=0.0)
    k = len(matrix)
    if matrix.shape != (k, k) or not np.allclose(matrix.sum(axis=1), 1.0, atol=1e-9):
        raise ValueError(f"chain has shape {matrix.shape}; expected a square matrix whose rows sum to 1.")
    # States are taken out one after another, by sums of non-negative terms: nothing cancels.
    rest = np.array(matrix)
    for last in range(k - 1, 0, -1):
        leaving = rest[last, :last].sum()
        if leaving == 0:
            raise ValueError(
                "chain has states that are never left; expected one law for all starts: with mutation, "
                "between all groups."
            )
        rest[:last, last] /= leaving
        rest[:last, :last] += np.outer(rest[:last, last], rest[last, :last])
    law = np.ones(k)
    for state in range(1, k):
        law[state] = law[:state] @ rest[:state, state]
    result: FloatArray = law / law.sum()
    return result
