"""Noise of finite numbers: Wright-Fisher resampling, its transition matrix and its fixation probability."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.stats

from evodyn.core import validation
from evodyn.core.arrays import FloatArray, host, real
from evodyn.core.generators import member_rng, seed_of
from evodyn.core.progress import Progress
from evodyn.model.dynamics import MAPS, Dynamics, Scheme
from evodyn.model.fitness import LandscapeFunction
from evodyn.noise.runs import StochasticRuns, check_landscape, iterated
from evodyn.simulate.problem import check_kinds

__all__ = [
    "checked_counts",
    "checked_two_groups",
    "expected_shares",
    "fixation_probability",
    "may_revive",
    "sampled",
    "wright_fisher",
    "wright_fisher_matrix",
]

_NEUTRAL = 1e-290  # below it products with a share lose digits, and the answer is the share to rounding

_STRONGEST = 1e290  # above it products may overflow, and the answer is 0 or 1


def wright_fisher(
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
    """Sample a haploid Wright-Fisher population with selection and mutation.

    In every generation each of n individuals draws its parent's group; the expected shares are those
    after one step of the map of `dynamics` (selection by exp(step_size·φ), then mutation).

    Parameters
    ----------
    dynamics : Dynamics
        `Replicator`, `ReplicatorMutator`, or `SelectionMutation` with a target that sums to 1 (shares); not
        `Populations`.
    landscape : callable
        (t, shares) -> fitness, on arrays of shape (M, N). Masses are shares: total mass is 1.
    counts : array_like of int, shape (N,)
        Initial numbers of individuals.
    n_generations : int
        Number of generations.
    step_size : float, optional
        Duration of a generation, in units of 1/fitness.
    members, save_every, rng, progress
        As for `noisy_iterate`.
    scheme : {"exponential", "euler", "ratio"}, optional
        The map, as in `evodyn.Dynamics.step`: with "ratio", parents are drawn in proportion to fitness.

    Returns
    -------
    StochasticRuns
        With shares as masses; extinct is a count of 0.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> from evodyn import Replicator, landscapes
    >>> runs = wright_fisher(Replicator(), landscapes.Constant([0.0, 0.0]), [5, 5], 200, members=4, rng=0)
    >>> runs.masses[:, -1].max(axis=1)      # drift fixes one of two neutral groups
    array([1., 1., 1., 1.])
    """

    def generation(shares: FloatArray, k: int, generators: list[np.random.Generator], n: int) -> FloatArray:
        expected = expected_shares(dynamics, landscape, shares, step_size, k * step_size, scheme)
        drawn = [generator.multinomial(n, row) for generator, row in zip(generators, expected, strict=True)]
        return np.array(drawn) / n

    return sampled(
        "Wright-Fisher sampling",
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


Generation = Callable[[FloatArray, int, list[np.random.Generator], int], FloatArray]
"""What becomes of shares, shape (members, N), in generation k, with a generator for each member and n."""


def sampled(
    name: str,
    generation: Generation,
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    counts: npt.ArrayLike,
    n_generations: int,
    *,
    step_size: float,
    members: int,
    save_every: int,
    scheme: Scheme,
    rng: Any,
    progress: Progress,
) -> StochasticRuns:
    """Iterate the generations of a population of individuals; members in which one group is left rest."""
    start = checked_counts(dynamics, landscape, counts)
    individuals = int(start.sum())
    members = validation.count("members", members)
    n_generations = validation.count("n_generations", n_generations)
    save_every = validation.count("save_every", save_every)
    step_size = validation.positive("step_size", step_size)
    validation.choice("scheme", scheme, MAPS)
    expected_shares(dynamics, landscape, start[None] / individuals, step_size, 0.0, scheme)
    seed = seed_of(rng)
    generators: list[np.random.Generator] = [member_rng(seed, k) for k in range(members)]
    revivable = may_revive(dynamics, landscape, start / individuals)

    def advance(k: int, shares: FloatArray, draws: FloatArray) -> FloatArray:
        moving = np.arange(members) if revivable else np.flatnonzero(shares.max(axis=1) < 1)
        if not len(moving):
            return shares
        new = shares.copy()
        new[moving] = generation(shares[moving], k, [generators[member] for member in moving], individuals)
        return new

    masses = np.tile(start / individuals, (members, 1))
    model = f"{name} of {individuals} individuals"
    course = (masses, n_generations, save_every, step_size, None, seed, model, advance)
    return iterated(*course, normal=False, dynamics=dynamics, landscape=landscape, progress=progress)


def wright_fisher_matrix(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    individuals: int,
    *,
    step_size: float = 1.0,
    scheme: Scheme = "exponential",
) -> FloatArray:
    """Return the transition matrix of `wright_fisher` with two groups, for exact fixation and stationarity.

    Parameters
    ----------
    dynamics, landscape, step_size, scheme
        As for `wright_fisher`, constant in time: both are taken at time 0.
    individuals : int
        n.

    Returns
    -------
    numpy.ndarray, shape (n + 1, n + 1)
        The chance in row i and column j that i individuals of group 0 leave j in the next generation.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    Starting from 3 of 10, a neutral group fixes with probability 0.3.

    >>> from evodyn import Replicator, landscapes
    >>> chain = wright_fisher_matrix(Replicator(), landscapes.Constant([0.0, 0.0]), 10)
    >>> np.linalg.matrix_power(chain, 1000)[3, [0, 10]].round(6)
    array([0.7, 0.3])
    """
    shares, n = checked_two_groups(dynamics, landscape, individuals), individuals
    step_size = validation.positive("step_size", step_size)
    expected = expected_shares(dynamics, landscape, shares, step_size, 0.0, scheme)
    return np.asarray(scipy.stats.binom.pmf(np.arange(n + 1), n, expected[:, :1]))


def checked_counts(dynamics: Dynamics, landscape: LandscapeFunction, counts: npt.ArrayLike) -> FloatArray:
    """Return numbers of individuals with which a population can begin.

    Raises
    ------
    ValueError
        If they are none, or the dynamics or the landscape is not for them.
    """
    check_kinds(dynamics, landscape, None)
    start = validation.finite_array("counts", counts, ndim=1, least=0.0)
    _check_one_population(dynamics, len(start))
    individuals = start.sum()
    if (start != np.round(start)).any() or not individuals:
        raise ValueError("counts has fractions, or is 0; expected whole numbers of individuals.")
    check_landscape(dynamics, landscape, 0.0, start / individuals)
    return start


def checked_two_groups(dynamics: Dynamics, landscape: LandscapeFunction, individuals: int) -> FloatArray:
    """Return the shares of two groups for every number of individuals in the first, shape (n + 1, 2).

    Raises
    ------
    ValueError
        If `individuals` is no number, or the dynamics or the landscape is not for two groups.
    """
    check_kinds(dynamics, landscape, None)
    n = validation.count("individuals", individuals)
    _check_one_population(dynamics, 2)
    check_landscape(dynamics, landscape, 0.0, np.array([0.5, 0.5]))
    first = np.arange(n + 1) / n
    return np.stack((first, first[::-1]), axis=1)


def may_revive(dynamics: Dynamics, landscape: LandscapeFunction, shares: FloatArray) -> bool:
    """Tell whether mutation can bring a group back."""
    return bool(np.any(np.asarray(dynamics.inflow(shares, np.asarray(landscape(0.0, shares)))) > 0))


def _check_one_population(dynamics: Dynamics, n: int) -> None:
    """Raise `ValueError` unless the n groups are one population."""
    dynamics.check(n)
    if len(dynamics.blocks(n)) > 1:
        raise ValueError("dynamics is Populations; expected one population: sample each by itself.")


def expected_shares(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    shares: FloatArray,
    step_size: float,
    t: float,
    scheme: Scheme,
) -> FloatArray:
    """Return the shares from which the next generation is drawn."""
    fitness = np.broadcast_to(real(landscape(t, shares)), shares.shape)
    expected = host(dynamics.step(shares, fitness, step_size, time=t, scheme=scheme))
    normalised: FloatArray = expected / expected.sum(axis=1, keepdims=True)
    return normalised


def fixation_probability(selection: npt.ArrayLike, share: npt.ArrayLike, individuals: int) -> FloatArray:
    """Return Kimura's probability that a haploid group fixes, (1 - e^{-2nsx})/(1 - e^{-2ns}).

    Parameters
    ----------
    selection : array_like
        s, the group's advantage in fitness per generation; of any sign.
    share : array_like
        Initial share x.
    individuals : int
        n.

    Returns
    -------
    numpy.ndarray
        Probabilities; x where s is 0.

    Raises
    ------
    ValueError
        If a share is outside [0, 1] or `individuals` is not a positive whole number.

    Examples
    --------
    >>> fixation_probability([0.0, 0.1], 0.1, 50).round(4)
    array([0.1   , 0.6321])
    """
    n = validation.count("individuals", individuals)
    s = validation.finite_array("selection", selection)
    x = validation.finite_array("share", share, least=0.0)
    if (x > 1).any():
        raise ValueError(f"share is {x.max()!r}; expected numbers from 0 to 1.")
    # With a = 2n|s|: (1 - e^{-ax})/(1 - e^{-a}), for s < 0 times e^{-a(1 - x)}. Nothing overflows or cancels.
    strength = np.minimum(2.0 * n * np.minimum(np.abs(s), _STRONGEST), _STRONGEST)
    selected = strength > _NEUTRAL
    whole = np.where(selected, -np.expm1(-strength), 1.0)
    ratio: FloatArray = -np.expm1(-strength * x) / whole * np.where(s < 0, np.exp(-strength * (1 - x)), 1.0)
    return np.where(selected, ratio, x)
