"""Noise of three kinds, which are different models: in fitness, in its estimate, and of finite numbers.

- `fitness_noise`: the environment fluctuates; every group's growth has white noise, and the calculus (Itô
  or Stratonovich) decides who survives. Mutation may feed the groups.
- `noisy_iterate`: fitness is estimated anew, without bias, at every step of a discrete map; the world
  itself is not noisy.
- `wright_fisher`: a finite number of individuals reproduces by sampling; small groups drift to extinction.

Member k of an ensemble draws from spawn key k of the seed, so that neither the number of members nor what
else is computed changes what it does.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import scipy.stats

from evodyn.core import validation
from evodyn.core.arrays import FloatArray, host, real
from evodyn.core.generators import Seed, member_rng, seed_of
from evodyn.core.specifications import Specification
from evodyn.model.descriptions import encode
from evodyn.model.dynamics import SCHEMES, Dynamics, Replicator, Scheme, inflow_targets
from evodyn.model.landscapes import LandscapeFunction, breakpoints, separable
from evodyn.simulate import schema
from evodyn.simulate.flow import State
from evodyn.simulate.problem import (
    check_kinds,
    check_memory,
    check_start,
    validated_masses,
    validated_save_times,
    validated_span,
)

if TYPE_CHECKING:
    import xarray

__all__ = [
    "Calculus",
    "StochasticRuns",
    "fitness_noise",
    "fixation_probability",
    "hitting_time_law",
    "long_run_growth",
    "noisy_iterate",
    "stationary_odds_law",
    "wright_fisher",
    "wright_fisher_matrix",
]

Calculus = Literal["ito", "stratonovich"]
_CALCULI = ("ito", "stratonovich")
_NEUTRAL = 1e-290  # below it products with a share lose digits, and the answer is the share to rounding
_STRONGEST = 1e290  # above it products may overflow, and the answer is 0 or 1
_DRAWS = 1 << 20  # random numbers drawn at once, at most


_IN_FILES = {
    "t": "time",
    "masses": "mass",
    "log_masses": "log_mass",
    "extinction_time": "extinction_time",
}
"""Names in files of what `StochasticRuns` calls otherwise."""


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class StochasticRuns(Specification):
    """An ensemble of noisy trajectories. Members lead; arrays are read-only.

    Attributes
    ----------
    model : str
        Which kind of noise, in a sentence.
    t : array, shape (T,)
        Saved times (steps times step size for the discrete models).
    masses, log_masses : array, shape (M, T, N)
        p_i and ln p_i, -inf for groups that are gone.
    extinction_time : array, shape (M, N)
        End of the first step after which a mass is strictly below the threshold (is zero, if there is
        none); 0 for a group that starts there, inf if never.
    seed : Seed or None
        What the members drew from: member k from its spawn key k.

    Examples
    --------
    >>> import evodyn as ed
    >>> neutral = ed.landscapes.Constant([0.0, 0.0])
    >>> runs = ed.stochastic.wright_fisher(ed.Replicator(), neutral, [5, 5], 3, members=4, rng=0)
    >>> runs.masses.shape, runs.t
    ((4, 4, 2), array([0., 1., 2., 3.]))
    """

    model: str
    t: FloatArray
    masses: FloatArray
    log_masses: FloatArray
    extinction_time: FloatArray
    seed: Seed | None = None

    def __post_init__(self) -> None:
        for value in self.fields().values():
            if isinstance(value, np.ndarray):
                value.flags.writeable = False

    def to_xarray(self) -> xarray.Dataset:
        """Return the trajectories as a labelled `xarray.Dataset` with a leading member dimension."""
        import xarray

        variables: dict[str, Any] = {}
        arrays: schema.Arrays = {}
        fields: dict[str, Any] = {}
        for name, value in self.fields().items():
            if name in _IN_FILES and name != "t":
                variables[_IN_FILES[name]] = schema.variable(_IN_FILES[name], value, "member")
            elif name != "t":
                fields[name] = encode(value, arrays, name)
        coords = schema.coordinates(self.t, self.masses.shape[-1], len(self.masses))
        return xarray.Dataset(
            variables | schema.described(arrays),
            coords,
            schema.attributes("StochasticRuns", {"fields": fields}),
        )

    def save(self, path: str | Path) -> None:
        """Write the trajectories to a NetCDF file, atomically; `evodyn.load` reads it, bit for bit."""
        schema.save(self.to_xarray(), path)


def fitness_noise(
    landscape: LandscapeFunction,
    p0: npt.ArrayLike,
    t_span: tuple[float, float],
    *,
    noise: npt.ArrayLike,
    calculus: Calculus,
    dynamics: Dynamics | None = None,
    save_at: npt.ArrayLike | None = None,
    step_size: float | None = None,
    members: int = 1,
    threshold: float | None = None,
    rng: Any = None,
) -> StochasticRuns:
    """Sample Eq. 6 or 8 with white noise in fitness: dX_i = X_i(φ_i dt + σ_i dW_i), p_i = P·X_i/ΣX.

    The integrated state is ln X, so that no mass is ever negative. In Itô's calculus ln X_i drifts at
    φ_i - σ_i²/2, in Stratonovich's at φ_i; fitness is evaluated at p. With constant fitness a step of any
    size is exact in distribution; otherwise the scheme is Euler and Maruyama's for ln X. Mutation adds
    μ(m_i - p_i)dt to dp_i, as in Eq. 8, without noise of its own: half of it is solved exactly before a
    step of the rest, and half behind, so that total mass is exact and a zero may be revived.

    Parameters
    ----------
    landscape : callable
        (t, masses) -> fitness, on arrays of shape (M, N).
    p0 : array_like, shape (N,)
        Initial masses >= 0; a zero stays zero without mutation.
    t_span : (float, float)
        Start and end.
    noise : float or array_like, shape (N,)
        σ_i >= 0, in units of 1/√time.
    calculus : {"ito", "stratonovich"}
        What the noise means; there is no default, for it decides who survives.
    dynamics : Dynamics, optional
        `Replicator` (the default), `NormalizedGrowth` (the same here) or `SelectionMutation`, without clip.
    save_at : array_like, optional
        Increasing times to save, within `t_span`; 101 equally spaced ones by default.
    step_size : float, optional
        Largest step. Required unless fitness is `Constant` and there is no mutation; then the saved times
        are the steps.
    members : int, optional
        Number of realisations.
    threshold : float, optional
        For `extinction_time`, which is looked at after every step.
    rng : optional
        Anything that `numpy.random.default_rng` takes; member k draws from spawn key k. From a generator
        128 bits are drawn, once, so that the next call with it is another sample.

    Returns
    -------
    StochasticRuns

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    A group that is better on average, and noisier, dies in Itô's calculus and wins in Stratonovich's.

    >>> from evodyn.model.landscapes import Constant
    >>> options = {"noise": [0.0, 1.0], "members": 200, "rng": 0}
    >>> for calculus in ("ito", "stratonovich"):
    ...     runs = fitness_noise(Constant([0.1, 0.3]), [1.0, 1.0], (0.0, 400.0), calculus=calculus, **options)
    ...     print(calculus, bool((runs.masses[:, -1, 1] > 1).mean() > 0.5))
    ito False
    stratonovich True
    """
    validation.choice("calculus", calculus, _CALCULI)
    dynamics = Replicator() if dynamics is None else dynamics
    check_kinds(dynamics, landscape, None)
    start = validated_masses(p0, dynamics)
    n = len(start)
    sigma = _per_group("noise", noise, n)
    members = validation.count("members", members)
    begin, end = validated_span(t_span)
    dynamics = _unclipped(dynamics, start, begin)
    _check_landscape(dynamics, landscape, begin, start)
    times = validated_save_times(save_at, begin, end)
    targets = inflow_targets(dynamics, n)
    mutates = bool(targets.any())
    form = separable(landscape, n)
    exact = form is not None and not (form.decay or form.temperature or mutates)
    if step_size is None and not exact:
        raise ValueError(
            "step_size is None; expected a number > 0: only constant fitness without mutation is sampled "
            "exactly."
        )
    largest = math.inf if step_size is None else validation.positive("step_size", step_size)
    jumps = np.union1d(breakpoints(landscape, (begin, end)), breakpoints(dynamics, (begin, end)))
    steps = _steps(begin, np.union1d(times, jumps[jumps < times[-1]]), largest)
    check_memory(len(times), n, members)

    total = float(start.sum())
    with np.errstate(divide="ignore"):
        logs = np.tile(np.log(start), (members, 1))
    logs -= np.logaddexp.reduce(logs, axis=1, keepdims=True)
    record = _Recorder(times, logs + math.log(total), threshold)
    record.save(begin, record.start)
    correction = sigma**2 / 2 if calculus == "ito" else 0.0
    seed = seed_of(rng)
    generators = [member_rng(seed, k) for k in range(members)]
    chunk = max(1, _DRAWS // (members * n))
    t = begin
    for first in range(0, len(steps), chunk):
        ends = steps[first : first + chunk]
        draws = np.stack([g.standard_normal((len(ends), n)) for g in generators])
        for k, stop in enumerate(ends):
            width = stop - t
            decay = dynamics.mutation_rate_at(t + width / 2) * width / 2
            logs, total = _mutated(logs, total, targets, decay)
            fitness = real(landscape(t, total * np.exp(logs)))
            growth = np.where(np.isneginf(logs), 0.0, fitness - correction)
            logs = logs + growth * width + sigma * math.sqrt(width) * draws[:, k]
            logs = logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)
            logs, total = _mutated(logs, total, targets, decay)
            t = float(stop)
            record.save(t, logs + math.log(total))
    model = f"white noise in fitness, {'Itô' if calculus == 'ito' else 'Stratonovich'} calculus"
    scheme = "Euler-Maruyama in ln X" + (", mutation in exact half-steps" if mutates else "")
    return record.runs(f"{model}, {'exact in distribution' if exact else scheme}", seed)


def _check_landscape(dynamics: Dynamics, landscape: LandscapeFunction, t: float, masses: FloatArray) -> None:
    """Raise `ValueError` if the landscape is wrong at the start."""
    with np.errstate(divide="ignore"):
        check_start(dynamics, landscape, State(t, np.log(masses), np.zeros(len(masses), dtype=bool)))


def _unclipped(dynamics: Dynamics, masses: FloatArray, t: float) -> Dynamics:
    """Return `dynamics` if its velocity is selection by φ - φ̄, with mutation μ(m - p) or without."""
    n = len(masses)
    inflow = np.broadcast_to(dynamics.inflow(masses, np.zeros(n), time=t), (n,))
    if not (
        dynamics.compares_with_mean
        and dynamics.signal_clip is None
        and len(dynamics.blocks(n)) == 1
        and np.allclose(
            inflow, dynamics.mutation_rate_at(t) * inflow_targets(dynamics, n), rtol=1e-12, atol=0.0
        )
    ):
        raise ValueError(
            f"dynamics is {dynamics!r}; expected Replicator, NormalizedGrowth or SelectionMutation without a "
            "signal clip: white noise has no bound to clip it to."
        )
    return dynamics


def _mutated(logs: FloatArray, total: float, targets: FloatArray, decay: float) -> tuple[FloatArray, float]:
    """Return log-shares and total mass after dp/dt = μ(m - p) for the time decay/μ, solved exactly."""
    if decay == 0:
        return logs, total
    inflow = targets * -math.expm1(-decay)
    after = total * math.exp(-decay) + float(inflow.sum())
    with np.errstate(divide="ignore"):
        logs = np.logaddexp(logs + (math.log(total) - decay), np.log(inflow)) - math.log(after)
    return logs, after


def _steps(begin: float, times: FloatArray, largest: float) -> FloatArray:
    """Return the ends of the steps: every saved time, and equal parts between where they are far apart."""
    ends: list[float] = []
    last = begin
    for time in times[times > begin]:
        parts = 1 if math.isinf(largest) else max(1, math.ceil((time - last) / largest * (1 - 1e-12)))
        ends.extend(last + (time - last) * np.arange(1, parts) / parts)
        ends.append(float(time))
        last = float(time)
    return np.array(ends)


class _Recorder:
    """Collects saved states and the first times below a threshold."""

    def __init__(self, times: FloatArray, logs: FloatArray, threshold: float | None) -> None:
        self.start = logs
        self.times = times
        self.logs = np.full((logs.shape[0], len(times), logs.shape[1]), math.nan)
        self.log_limit = (
            -math.inf if threshold is None else math.log(validation.positive("threshold", threshold))
        )
        self.extinction = np.full(logs.shape, math.inf)
        self.row = 0

    def save(self, t: float, logs: FloatArray) -> None:
        below = np.isneginf(logs) if math.isinf(self.log_limit) else logs < self.log_limit
        self.extinction[below & np.isinf(self.extinction)] = t
        if self.row < len(self.times) and t == self.times[self.row]:
            self.logs[:, self.row] = logs
            self.row += 1

    def runs(self, model: str, seed: Seed, masses: FloatArray | None = None) -> StochasticRuns:
        values = np.exp(self.logs) if masses is None else masses
        return StochasticRuns(model, self.times, values, self.logs, self.extinction, seed)


def long_run_growth(contribution: npt.ArrayLike, noise: npt.ArrayLike, calculus: Calculus) -> FloatArray:
    """Return the long-run growth rate of ln X_i under constant fitness with noise: who survives.

    c_i - σ_i²/2 in Itô's calculus, c_i in Stratonovich's; the group with the greatest rate takes all, and
    the share of i decays at the difference.

    Parameters
    ----------
    contribution : array_like, shape (N,)
        c_i.
    noise : float or array_like, shape (N,)
        σ_i.
    calculus : {"ito", "stratonovich"}

    Returns
    -------
    numpy.ndarray, shape (N,)

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> long_run_growth([0.1, 0.3], [0.0, 1.0], "ito")
    array([ 0.1, -0.2])
    """
    validation.choice("calculus", calculus, _CALCULI)
    c = validation.finite_array("contribution", contribution, ndim=1)
    sigma = _per_group("noise", noise, len(c))
    return c - sigma**2 / 2 if calculus == "ito" else c.copy()


def hitting_time_law(*, share: float, threshold: float, drift: float, noise: tuple[float, float]) -> Any:
    """Return the law of the time at which the share of the worse of two groups first reaches a threshold.

    The log-ratio of the two is Brownian motion with drift; the time is inverse Gaussian with mean a/v and
    shape a²/(σ_1² + σ_2²), a = ln(x/(1 - x)) - ln(ε/(1 - ε)).

    Parameters
    ----------
    share : float
        Initial share x of the group that declines.
    threshold : float
        ε < x.
    drift : float
        v > 0, the difference of the long-run growth rates.
    noise : (float, float)
        σ of both groups, independent.

    Returns
    -------
    scipy.stats frozen distribution

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> law = hitting_time_law(share=0.5, threshold=0.1, drift=0.2, noise=(0.3, 0.4))
    >>> bool(abs(law.mean() - np.log(9) / 0.2) < 1e-12)
    True
    """
    share, threshold = validation.positive("share", share), validation.positive("threshold", threshold)
    drift = validation.positive("drift", drift)
    if not threshold < share < 1:
        raise ValueError(f"threshold is {threshold!r} and share {share!r}; expected threshold < share < 1.")
    variance = sum(validation.non_negative("noise", sigma) ** 2 for sigma in noise)
    if not variance:
        raise ValueError("noise is zero in both groups; expected some: without it the time is a number.")
    # ln[x/(1 - x)] - ln[ε/(1 - ε)], also where x and ε are close.
    distance = math.log1p((share - threshold) / (threshold * (1 - share)))
    mean, shape = distance / drift, distance**2 / variance
    return scipy.stats.invgauss(mean / shape, scale=shape)


def stationary_odds_law(
    contribution: npt.ArrayLike,
    noise: npt.ArrayLike,
    calculus: Calculus,
    *,
    mutation_rate: float,
    target: npt.ArrayLike = (0.5, 0.5),
) -> Any:
    """Return the law that the odds x_1/x_2 of two groups settle into under fitness noise and mutation.

    With constant fitness, P = M and target shares q = m/M, the log-odds z follow
    dz = (Δ + μq_1/x_1 - μq_2/x_2)dt + s dW, Δ the difference of the long-run growth rates and
    s² = σ_1² + σ_2². Their stationary density is proportional to
    exp[(2/s²)((Δ + μ(q_1 - q_2))z - μq_1 e^{-z} - μq_2 e^{z})]: the odds are generalised inverse Gaussian.
    The chance that group 1 is below a share ε is the distribution function at ε/(1 - ε).

    Parameters
    ----------
    contribution, noise, calculus
        As for `long_run_growth`, of two groups.
    mutation_rate : float
        μ > 0.
    target : array_like, shape (2,), optional
        Proportional to q, both positive.

    Returns
    -------
    scipy.stats frozen distribution

    Raises
    ------
    ValueError
        If an argument is outside its range, or there is no noise.

    Examples
    --------
    Between equal groups the odds and their inverse have one law; rare mutation leaves a group rare for long.

    >>> often = stationary_odds_law([0.0, 0.0], 0.3, "ito", mutation_rate=1.0)
    >>> rarely = stationary_odds_law([0.0, 0.0], 0.3, "ito", mutation_rate=0.001)
    >>> [round(float(law.cdf(0.01 / 0.99)), 3) for law in (often, rarely)]
    [0.0, 0.055]
    """
    growth = long_run_growth(contribution, noise, calculus)
    if len(growth) != 2:
        raise ValueError(f"contribution has {len(growth)} entries; expected two groups.")
    variance = float((_per_group("noise", noise, 2) ** 2).sum())
    if not variance:
        raise ValueError("noise is zero in both groups; expected some: without it the odds are a number.")
    rate = validation.positive("mutation_rate", mutation_rate)
    targets = validation.finite_array("target", target, ndim=1, least=0.0)
    if len(targets) != 2 or not targets.all():
        raise ValueError(f"target is {targets.tolist()}; expected two positive masses.")
    q = targets / targets.sum()
    order = 2 * (growth[0] - growth[1] + rate * (q[0] - q[1])) / variance
    return scipy.stats.geninvgauss(
        order, 4 * rate * math.sqrt(q[0] * q[1]) / variance, scale=math.sqrt(q[0] / q[1])
    )


def noisy_iterate(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    p0: npt.ArrayLike,
    n_steps: int,
    step_size: float,
    *,
    noise: npt.ArrayLike,
    members: int = 1,
    save_every: int = 1,
    scheme: Scheme = "euler",
    threshold: float | None = None,
    rng: Any = None,
) -> StochasticRuns:
    """Iterate a discrete map (Eqs. 12-14) with an unbiased estimate of fitness, φ̂ = φ + σξ, at every step.

    Parameters
    ----------
    dynamics, landscape, p0, n_steps, step_size, save_every, scheme
        As for `evodyn.iterate`; the landscape takes masses of shape (M, N).
    noise : float or array_like, shape (N,)
        Standard deviation σ_i >= 0 of every estimate, in units of fitness; ξ is standard normal,
        independent between groups and steps.
    members, threshold, rng
        As for `fitness_noise`.

    Returns
    -------
    StochasticRuns

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> from evodyn import Replicator, landscapes
    >>> runs = noisy_iterate(Replicator(), landscapes.Constant([1.0, 0.0]), [1.0, 1.0], 100, 0.01,
    ...                      noise=0.5, members=3, rng=0)
    >>> runs.masses.shape, bool(np.allclose(runs.masses.sum(axis=2), 2.0))
    ((3, 101, 2), True)
    """
    check_kinds(dynamics, landscape, None)
    start = validated_masses(p0, dynamics, within_cap=False)
    n = len(start)
    _check_landscape(dynamics, landscape, 0.0, start)
    validation.choice("scheme", scheme, SCHEMES)
    sigma = _per_group("noise", noise, n)
    members, n_steps = validation.count("members", members), validation.count("n_steps", n_steps)
    save_every = validation.count("save_every", save_every)
    step_size = validation.positive("step_size", step_size)
    masses = np.tile(start, (members, 1))

    def advance(k: int, masses: FloatArray, draws: FloatArray) -> FloatArray:
        t = k * step_size
        estimate = real(landscape(t, masses)) + sigma * draws
        return host(dynamics.step(masses, estimate, step_size, time=t, scheme=scheme))

    model = f"unbiased estimates of fitness at every step of the {scheme} map"
    return _iterated(
        masses, n_steps, save_every, step_size, threshold, seed_of(rng), model, advance, normal=True
    )


def wright_fisher(
    dynamics: Dynamics,
    landscape: LandscapeFunction,
    counts: npt.ArrayLike,
    n_generations: int,
    *,
    step_size: float = 1.0,
    members: int = 1,
    save_every: int = 1,
    rng: Any = None,
) -> StochasticRuns:
    """Sample a haploid Wright-Fisher population with selection and mutation.

    In every generation each of n individuals draws its parent's group; the expected shares are those
    after one step of the exponential map of `dynamics` (selection by exp(step_size·φ), then mutation).

    Parameters
    ----------
    dynamics : Dynamics
        `Replicator`, or `SelectionMutation` with a target that sums to 1 (shares); not `Populations`.
    landscape : callable
        (t, shares) -> fitness, on arrays of shape (M, N). Masses are shares: total mass is 1.
    counts : array_like of int, shape (N,)
        Initial numbers of individuals.
    n_generations : int
        Number of generations.
    step_size : float, optional
        Duration of a generation, in units of 1/fitness.
    members, save_every, rng
        As for `noisy_iterate`.

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
    check_kinds(dynamics, landscape, None)
    start = validation.finite_array("counts", counts, ndim=1, least=0.0)
    _check_one_population(dynamics, len(start))
    individuals = int(start.sum())
    if (start != np.round(start)).any() or not individuals:
        raise ValueError("counts has fractions, or is 0; expected whole numbers of individuals.")
    shares = start / individuals
    _check_landscape(dynamics, landscape, 0.0, shares)
    members = validation.count("members", members)
    n_generations, save_every = (
        validation.count("n_generations", n_generations),
        validation.count("save_every", save_every),
    )
    step_size = validation.positive("step_size", step_size)
    seed = seed_of(rng)
    generators: list[np.random.Generator] = [member_rng(seed, k) for k in range(members)]
    revivable = bool(np.any(np.asarray(dynamics.inflow(shares, np.asarray(landscape(0.0, shares)))) > 0))

    def advance(k: int, shares: FloatArray, draws: FloatArray) -> FloatArray:
        t = k * step_size
        moving = np.arange(members) if revivable else np.flatnonzero(shares.max(axis=1) < 1)
        if not len(moving):
            return shares
        expected = _expected_shares(dynamics, landscape, shares, step_size, t)[moving]
        new = shares.copy()
        for row, member in enumerate(moving):
            new[member] = generators[member].multinomial(individuals, expected[row]) / individuals
        return new

    masses = np.tile(start / individuals, (members, 1))
    model = f"Wright-Fisher sampling of {individuals} individuals"
    return _iterated(masses, n_generations, save_every, step_size, None, seed, model, advance, normal=False)


def wright_fisher_matrix(
    dynamics: Dynamics, landscape: LandscapeFunction, individuals: int, *, step_size: float = 1.0
) -> FloatArray:
    """Return the transition matrix of `wright_fisher` with two groups, for exact fixation and stationarity.

    Parameters
    ----------
    dynamics, landscape, step_size
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
    check_kinds(dynamics, landscape, None)
    n = validation.count("individuals", individuals)
    _check_one_population(dynamics, 2)
    _check_landscape(dynamics, landscape, 0.0, np.array([0.5, 0.5]))
    first = np.arange(n + 1) / n
    shares = np.stack((first, 1 - first), axis=1)
    expected = _expected_shares(dynamics, landscape, shares, validation.positive("step_size", step_size), 0.0)
    return np.asarray(scipy.stats.binom.pmf(np.arange(n + 1), n, expected[:, :1]))


def _check_one_population(dynamics: Dynamics, n: int) -> None:
    """Raise `ValueError` unless the n groups are one population."""
    dynamics.check(n)
    if len(dynamics.blocks(n)) > 1:
        raise ValueError("dynamics is Populations; expected one population: sample each by itself.")


def _expected_shares(
    dynamics: Dynamics, landscape: LandscapeFunction, shares: FloatArray, step_size: float, t: float
) -> FloatArray:
    """Return the shares from which the next generation is drawn."""
    fitness = np.broadcast_to(real(landscape(t, shares)), shares.shape)
    expected = host(dynamics.step(shares, fitness, step_size, time=t, scheme="exponential"))
    normalised: FloatArray = expected / expected.sum(axis=1, keepdims=True)
    return normalised


def _iterated(
    masses: FloatArray,
    n_steps: int,
    save_every: int,
    step_size: float,
    threshold: float | None,
    seed: Seed,
    model: str,
    advance: Any,
    *,
    normal: bool,
) -> StochasticRuns:
    """Iterate ``advance(k, masses, draws)`` and record; `normal` numbers are drawn in chunks if wanted."""
    members, n = masses.shape
    saved = np.unique(np.append(np.arange(0, n_steps + 1, save_every), n_steps))
    check_memory(len(saved), n, members)
    times = saved * step_size
    with np.errstate(divide="ignore"):
        record = _Recorder(times, np.log(masses), threshold)
        kept = np.empty((members, len(saved), n))
        generators = [member_rng(seed, k) for k in range(members)] if normal else []
        chunk = max(1, _DRAWS // (members * n))
        draws = np.empty((members, 0, n))
        record.save(0.0, np.log(masses))
        kept[:, 0] = masses
        for k in range(n_steps):
            if normal and k % chunk == 0:
                size = min(chunk, n_steps - k)
                draws = np.stack([g.standard_normal((size, n)) for g in generators])
            masses = advance(k, masses, draws[:, k % chunk] if normal else masses)
            before = record.row
            record.save((k + 1) * step_size, np.log(masses))
            if record.row > before:
                kept[:, before] = masses
    return record.runs(model, seed, kept)


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


def _per_group(name: str, value: npt.ArrayLike, n: int) -> FloatArray:
    values = validation.finite_array(name, value, least=0.0)
    if values.shape not in ((), (n,)):
        raise ValueError(f"{name} has shape {values.shape}; expected a number or one for each of {n} groups.")
    return np.broadcast_to(values, (n,))
