"""Noise in fitness itself: the environment fluctuates, and growth has white noise."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from evodyn.core import validation
from evodyn.core.arrays import FloatArray, real
from evodyn.core.generators import member_rng, seed_of
from evodyn.core.progress import Progress, reporting
from evodyn.model.dynamics import Dynamics, inflow_targets
from evodyn.model.equations import Replicator
from evodyn.model.fitness import LandscapeFunction, breakpoints, separable
from evodyn.noise.runs import DRAWS, Recorder, StochasticRuns, check_landscape, per_group
from evodyn.simulate.problem import (
    check_kinds,
    check_memory,
    validated_masses,
    validated_save_times,
    validated_span,
)

__all__ = ["CALCULI", "Calculus", "fitness_noise"]

Calculus = Literal["ito", "stratonovich"]

CALCULI = ("ito", "stratonovich")


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
    progress: Progress = None,
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
        Mutants among offspring, as in `ReplicatorMutator`, have no such noise: it would make births negative.
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
    progress : bool or callable, optional
        True for a bar (rich, of the extra "studies"), or a function of the fraction of the time span that is
        done.

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
    validation.choice("calculus", calculus, CALCULI)
    dynamics = Replicator() if dynamics is None else dynamics
    check_kinds(dynamics, landscape, None)
    start = validated_masses(p0, dynamics)
    n = len(start)
    sigma = per_group("noise", noise, n)
    members = validation.count("members", members)
    begin, end = validated_span(t_span)
    dynamics = _without_clip(dynamics, start, begin)
    check_landscape(dynamics, landscape, begin, start)
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
    record = Recorder(times, logs + math.log(total), threshold)
    record.save(begin, record.start)
    correction = sigma**2 / 2 if calculus == "ito" else 0.0
    seed = seed_of(rng)
    generators = [member_rng(seed, k) for k in range(members)]
    chunk = max(1, DRAWS // (members * n))
    t = begin
    with reporting(progress, "Sampling") as report:
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
                if report is not None:
                    report((t - begin) / (end - begin))
    model = f"white noise in fitness, {'Itô' if calculus == 'ito' else 'Stratonovich'} calculus"
    scheme = "Euler-Maruyama in ln X" + (", mutation in exact half-steps" if mutates else "")
    model = f"{model}, {'exact in distribution' if exact else scheme}"
    return record.runs(model, seed, dynamics=dynamics, landscape=landscape)


def _without_clip(dynamics: Dynamics, masses: FloatArray, t: float) -> Dynamics:
    """Return `dynamics` if its velocity is selection by φ - φ̄, with mutation μ(m - p) or without."""
    n = len(masses)
    once, twice = (dynamics.inflow(masses, np.full(n, f), time=t) for f in (1.0, 2.0))
    if not np.array_equal(once, twice):
        raise ValueError(
            f"dynamics is {dynamics!r}, in which mutants are born in proportion to fitness: white noise "
            "makes births negative, and a group without mass would get less than none. Expected mutation "
            "apart from births, as in SelectionMutation; or use wright_fisher or moran, which sample births."
        )
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
