"""Slow, independent references: every velocity, map and landscape, one group at a time in mpmath.

They follow the printed equations term by term and share no code with the package: numbers are mpmath's with
50 digits, so what they return is exact where double precision is concerned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mpmath as _mpmath
import numpy as np

import evodyn as ed
from evodyn import landscapes
from evodyn.core.arrays import FloatArray

mpmath: Any = _mpmath
mpmath.mp.dps = 50
Number = Any  # an mpmath number
Numbers = list[Number]


def exact(values: Sequence[float] | FloatArray) -> Numbers:
    """Return double precision numbers as they are, in mpmath."""
    return [mpmath.mpf(float(v)) for v in values]


def rounded(values: Numbers) -> FloatArray:
    """Return the nearest double precision numbers."""
    return np.array([float(v) for v in values])


def mean_fitness(p: Numbers, phi: Numbers) -> Number:
    """Σ p φ / Σ p over the groups that are present; 0 if none is."""
    total = mpmath.mpf(0)
    weighted = mpmath.mpf(0)
    for mass, value in zip(p, phi, strict=True):
        if mass > 0:
            total += mass
            weighted += mass * value
    return weighted / total if total > 0 else mpmath.mpf(0)


def signal(p: Numbers, phi: Numbers, clip: float | None) -> Numbers:
    """φ_i - φ̄, clipped to [-κ, κ]."""
    mean = mean_fitness(p, phi)
    out = []
    for mass, value in zip(p, phi, strict=True):
        s = value - mean if mass > 0 else mpmath.mpf(0)
        if clip is not None and s > clip:
            s = mpmath.mpf(clip)
        if clip is not None and s < -clip:
            s = -mpmath.mpf(clip)
        out.append(s)
    return out


def replicator(p: Numbers, phi: Numbers, clip: float | None = None) -> Numbers:
    """Eq. 6."""
    s = signal(p, phi, clip)
    return [p[i] * s[i] for i in range(len(p))]


def normalized_growth(p: Numbers, phi: Numbers, clip: float | None = None) -> Numbers:
    """Eq. 7, with its normalisation Z = Σ p written out."""
    z = mpmath.mpf(0)
    for mass in p:
        z += mass
    out = []
    for i in range(len(p)):
        if p[i] == 0:
            out.append(mpmath.mpf(0))
            continue
        subtracted = mpmath.mpf(0)
        for j in range(len(p)):
            if p[j] > 0:
                subtracted += p[j] * phi[j] / z
        s = phi[i] - subtracted
        if clip is not None:
            s = max(-mpmath.mpf(clip), min(mpmath.mpf(clip), s))
        out.append(p[i] * s)
    return out


def selection_mutation(
    p: Numbers, phi: Numbers, rate: Number, target: Numbers, clip: float | None = None
) -> Numbers:
    """Eq. 8, with a target mass for every group."""
    selected = replicator(p, phi, clip)
    return [selected[i] + rate * (target[i] - p[i]) for i in range(len(p))]


def target_masses(dynamics: ed.SelectionMutation, n: int) -> Numbers:
    """Return m_i of a `SelectionMutation`."""
    if isinstance(dynamics.target, str):
        return [mpmath.mpf(1) / n for _ in range(n)]
    if np.ndim(dynamics.target) == 0:
        return [mpmath.mpf(float(dynamics.target)) for _ in range(n)]
    return exact(np.asarray(dynamics.target))


def mutation_rate(dynamics: ed.SelectionMutation, time: float) -> Number:
    """Return μ at `time`."""
    rate = dynamics.mutation_rate
    return mpmath.mpf(float(rate(time) if callable(rate) else rate))


def velocity(dynamics: ed.Dynamics, p: Numbers, phi: Numbers, time: float = 0.0) -> Numbers:
    """Return dp/dt of any dynamics; of a `Selection`, in the double precision of its own function."""
    if isinstance(dynamics, ed.Populations):
        return _by_block(dynamics, p, phi, lambda member, a, b: velocity(member, a, b, time))
    if isinstance(dynamics, ed.SelectionMutation):
        rate, target = mutation_rate(dynamics, time), target_masses(dynamics, len(p))
        return selection_mutation(p, phi, rate, target, dynamics.signal_clip)
    if isinstance(dynamics, ed.NormalizedGrowth):
        return normalized_growth(p, phi, dynamics.signal_clip)
    if isinstance(dynamics, ed.Replicator):
        return replicator(p, phi, dynamics.signal_clip)
    if isinstance(dynamics, ed.Selection):
        growth = exact(np.asarray(dynamics.function(rounded(p), rounded(phi))))
        return [p[i] * growth[i] if p[i] > 0 else mpmath.mpf(0) for i in range(len(p))]
    raise TypeError(dynamics)


def step(
    dynamics: ed.Dynamics, p: Numbers, phi: Numbers, h: float, time: float = 0.0, scheme: str = "euler"
) -> Numbers:
    """Return the masses after Eq. 12, 13 or 14 with its projection and cap, or the positive map."""
    if isinstance(dynamics, ed.Populations):
        return _by_block(dynamics, p, phi, lambda member, a, b: step(member, a, b, h, time, scheme))
    eta = mpmath.mpf(float(h))
    if scheme == "euler":
        v = velocity(dynamics, p, phi, time)
        new = [max(p[i] + eta * v[i], mpmath.mpf(0)) for i in range(len(p))]
    else:
        new = exponential(dynamics, p, phi, eta, time)
    cap = getattr(dynamics, "mass_cap", None)
    if cap is not None and mpmath.fsum(new) > cap:
        total = mpmath.fsum(new)
        new = [cap * mass / total for mass in new]
    return new


def exponential(dynamics: ed.Dynamics, p: Numbers, phi: Numbers, eta: Number, time: float) -> Numbers:
    """Return p exp(η s), then the exact solution of dp/dt = μ(m - p) over a time η."""
    if isinstance(dynamics, ed.Selection):
        growth = exact(np.asarray(dynamics.function(rounded(p), rounded(phi))))
    else:
        growth = signal(p, phi, getattr(dynamics, "signal_clip", None))
    new = [p[i] * mpmath.exp(eta * growth[i]) if p[i] > 0 else p[i] for i in range(len(p))]
    if isinstance(dynamics, ed.SelectionMutation):
        target = target_masses(dynamics, len(p))
        exponent = -mutation_rate(dynamics, time) * eta
        new = [new[i] * mpmath.exp(exponent) - target[i] * mpmath.expm1(exponent) for i in range(len(p))]
    return new


def _by_block(
    dynamics: ed.Populations,
    p: Numbers,
    phi: Numbers,
    function: Callable[[ed.Dynamics, Numbers, Numbers], Numbers],
) -> Numbers:
    out: Numbers = []
    start = 0
    for k, size in enumerate(dynamics.sizes):
        given = dynamics.dynamics
        member = given[k] if isinstance(given, tuple) else given
        if not isinstance(given, tuple) and isinstance(member, ed.SelectionMutation):
            target = member.target
            if not isinstance(target, str) and np.ndim(target) == 1:
                target = np.asarray(target)[start : start + size]
            member = ed.SelectionMutation(member.mutation_rate, target, member.signal_clip)
        out += function(member, p[start : start + size], phi[start : start + size])
        start += size
    return out


def fitness(landscape: Any, t: float, p: Numbers) -> Numbers:
    """Return the fitness of any landscape of the package, from its formula."""
    n = len(p)
    if isinstance(landscape, landscapes.Sum):
        parts = [fitness(term, t, p) for term in landscape.terms]
        return [mpmath.fsum(part[i] for part in parts) for i in range(n)]
    if isinstance(landscape, landscapes.Constant):
        return exact(landscape.contribution)
    if isinstance(landscape, landscapes.LinearDecay):
        c = exact(landscape.contribution)
        return [c[i] - landscape.decay * p[i] for i in range(n)]
    if isinstance(landscape, landscapes.Entropic):
        c, temperature = exact(landscape.contribution), landscape.temperature
        if temperature == 0:
            return c
        return [c[i] - temperature * mpmath.log(p[i]) if p[i] > 0 else mpmath.inf for i in range(n)]
    if isinstance(landscape, landscapes.MatrixGame):
        total = mpmath.fsum(p)
        return [
            mpmath.fsum(mpmath.mpf(float(landscape.payoff[i, j])) * p[j] / total for j in range(n))
            for i in range(n)
        ]
    if isinstance(landscape, landscapes.BlockGame):
        ends = np.cumsum(landscape.sizes)
        values = [mpmath.mpf(0)] * n
        for (a, b), payoff in landscape.payoffs:
            rivals = range(ends[b] - landscape.sizes[b], ends[b])
            total = mpmath.fsum(p[j] for j in rivals) or 1
            for own in range(landscape.sizes[a]):
                earned = [mpmath.mpf(float(payoff[own, k])) * p[j] / total for k, j in enumerate(rivals)]
                values[ends[a] - landscape.sizes[a] + own] += mpmath.fsum(earned)
        return values
    if isinstance(landscape, landscapes.Redundancy):
        c, s = exact(landscape.contribution), landscape.similarity
        return [
            c[i] - landscape.strength * mpmath.fsum(float(s[i, j]) * p[j] for j in range(n)) for i in range(n)
        ]
    if isinstance(landscape, landscapes.Seasonal):
        c = exact(landscape.contribution)
        a = exact(np.broadcast_to(landscape.amplitude, n))
        theta = exact(np.broadcast_to(landscape.phase, n))
        cycles = mpmath.mpf(float(t)) / landscape.period
        return [c[i] + a[i] * mpmath.sin(2 * mpmath.pi * cycles + theta[i]) for i in range(n)]
    if isinstance(landscape, landscapes.Recorded):
        row = 0
        for k in range(len(landscape.times)):
            if landscape.times[k] <= t:
                row = min(k, len(landscape.contributions) - 1)
        c = exact(landscape.contributions[row])
        return [c[i] - landscape.decay * p[i] for i in range(n)]
    raise TypeError(landscape)
