"""A registry of problems whose answers are known: in closed form, or through an invariant.

The answers are written here once more, from the mathematics, and call nothing of the package. Log-masses are
exact wherever they may be: at e^-1740 as at 1; absent groups have -inf.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy.linalg
from scipy.special import logsumexp

import evodyn as ed
from evodyn import landscapes
from evodyn.core.arrays import FloatArray

Exact = Callable[[float], FloatArray]
"""Log-masses (N,) at a time."""


@dataclasses.dataclass(frozen=True)
class Problem:
    """An initial value problem with a known solution.

    Attributes
    ----------
    log_masses : callable
        ln p_i(t), shape (N,).
    mass : callable
        P(t), or P of each block.
    closed_form : bool
        Whether `solve` is to know the solution, too.
    """

    name: str
    dynamics: ed.Dynamics
    landscape: Callable[[float, FloatArray], FloatArray]
    p0: FloatArray
    t_end: float
    log_masses: Exact
    closed_form: bool = False


def _log(values: FloatArray) -> FloatArray:
    with np.errstate(divide="ignore"):
        return np.log(values)


def softened(p0: FloatArray, exponents: Exact) -> Exact:
    """Return ln p for p ∝ p0 exp(exponents(t)) with the total mass of p0."""

    def log_masses(t: float) -> FloatArray:
        logs = _log(p0) + exponents(t)
        out: FloatArray = logs - logsumexp(logs) + np.log(p0.sum())
        return out

    return log_masses


def _constant() -> list[Problem]:
    rng = np.random.default_rng(7)
    c = rng.lognormal(size=20)
    p0 = rng.lognormal(size=20)
    face = np.array([1.0, 0.0, 1e-300, 2.0, 0.0])
    slopes = np.array([0.5, 9.0, 2.0, -1.0, 0.0])
    gap = np.array([50.0, 0.0, 25.0, 49.0])
    problems = [
        ("lognormal contributions", ed.Replicator(), c, p0, 30.0),
        ("a face with a tiny mass that wins", ed.Replicator(), slopes, face, 400.0),
        ("a fitness gap of 50", ed.Replicator(), gap, np.ones(4), 40.0),
        ("a cap that does not bind", ed.NormalizedGrowth(mass_cap=float(p0.sum())), c, p0, 10.0),
        ("one group", ed.Replicator(), np.array([3.0]), np.array([0.5]), 10.0),
        ("a vertex", ed.Replicator(), np.array([3.0, 4.0]), np.array([0.5, 0.0]), 10.0),
        ("neutral", ed.Replicator(), np.ones(5), np.arange(1.0, 6.0), 100.0),
        ("small total mass", ed.Replicator(), c[:5], 1e-280 * p0[:5], 10.0),
    ]
    found = [
        Problem(
            name,
            dynamics,
            landscapes.Constant(slope),
            start,
            end,
            softened(start, lambda t, slope=slope: slope * t),  # type: ignore[misc]
            closed_form=True,
        )
        for name, dynamics, slope, start, end in problems
    ]
    two = np.array([0.2, 0.8])

    def logistic(t: float) -> FloatArray:
        # x/(1 - x) grows as e^t.
        odds = 0.25 * np.exp(t)
        return np.array([np.log(odds) - np.log1p(odds), -np.log1p(odds)])

    logistic_problem = Problem(
        "logistic", ed.Replicator(), landscapes.Constant([2.0, 1.0]), two, 12.0, logistic, closed_form=True
    )
    return [*found, logistic_problem]


def _time_dependent() -> list[Problem]:
    rng = np.random.default_rng(8)
    p0 = rng.lognormal(size=4)
    c, a, theta = rng.normal(size=(3, 4))
    period = 3.0
    w = 2 * np.pi / period

    def swings(t: float) -> FloatArray:
        out: FloatArray = c * t + a * (np.cos(theta) - np.cos(w * t + theta)) / w
        return out

    seasonal = landscapes.Seasonal(c, a, period, theta)
    times = np.array([0.0, 0.7, 1.0, 4.5, 5.0])
    record = rng.normal(size=(4, 4))

    def replayed(t: float) -> FloatArray:
        out = np.zeros(4)
        for k in range(4):
            out = out + record[k] * max(0.0, min(t, times[k + 1]) - times[k])
        return out

    recorded = landscapes.Recorded(times, record)
    e, temperature = rng.normal(size=4), 0.7

    def entropic(t: float) -> FloatArray:
        # d ln p_i/dt = e_i - T ln p_i up to what all share.
        left = np.exp(-temperature * t)
        logs = left * np.log(p0) + (1 - left) * e / temperature
        out: FloatArray = logs - logsumexp(logs) + np.log(p0.sum())
        return out

    slow = np.array([1.0, 1e-300, 1e-10])
    slow_e = np.array([0.0, 1.0, -1.0])

    def entropic_from_afar(t: float) -> FloatArray:
        left = np.exp(-2.0 * t)
        logs = left * np.log(slow) + (1 - left) * slow_e / 2.0
        out: FloatArray = logs - logsumexp(logs) + np.log(slow.sum())
        return out

    def ramp(t: float, masses: FloatArray) -> FloatArray:
        out: FloatArray = t * c + 0 * masses
        return out

    shifted = seasonal + recorded + landscapes.Constant(e)
    sizes = (1, 3)
    q0 = np.array([2.0, 1.0, 0.5, 0.25])

    def blocks(t: float) -> FloatArray:
        return np.concatenate((np.log(q0[:1]), softened(q0[1:], lambda s: s * c[1:])(t)))

    return [
        Problem("seasons", ed.Replicator(), seasonal, p0, 12.0, softened(p0, swings)),
        Problem("a record", ed.Replicator(), recorded, p0, 5.0, softened(p0, replayed), closed_form=True),
        Problem("entropic", ed.Replicator(), landscapes.Entropic(e, temperature), p0, 10.0, entropic),
        Problem(
            "entropic, from a tiny mass",
            ed.Replicator(),
            landscapes.Entropic(slow_e, 2.0),
            slow,
            6.0,
            entropic_from_afar,
        ),
        Problem("a bare callable", ed.Replicator(), ramp, p0, 4.0, softened(p0, lambda t: c * t**2 / 2)),
        Problem(
            "a sum of three",
            ed.Replicator(),
            shifted,
            p0,
            5.0,
            softened(p0, lambda t: swings(t) + replayed(t) + e * t),
        ),
        Problem(
            "two blocks",
            ed.Populations((ed.Replicator(), ed.NormalizedGrowth()), sizes),
            landscapes.Constant(c),
            q0,
            8.0,
            blocks,
            closed_form=True,
        ),
    ]


def odd_pair(rate: float, total: float, share: float) -> Exact:
    """Return ln p of two groups whose fitness differs by -rate·P·(x_1 - x_2).

    With y = x_1 - x_2 this is dy/dt = -rate P y (1 - y²)/2, so y/√(1 - y²) decays as exp(-rate P t/2).
    """
    y0 = 2 * share - 1
    start = y0 / np.sqrt(1 - y0**2)

    def log_masses(t: float) -> FloatArray:
        z = start * np.exp(-rate * total * t / 2)
        # 1 + y = (√(1 + z²) + z)/√(1 + z²); for the smaller, as 1/(…).
        root = np.sqrt(1 + z**2)
        larger = np.log(root + abs(z)) - np.log(root)
        smaller = -np.log(root + abs(z)) - np.log(root)
        pair = (larger, smaller) if z >= 0 else (smaller, larger)
        out: FloatArray = np.log(total / 2) + np.array(pair)
        return out

    return log_masses


def _density_dependent() -> list[Problem]:
    p0 = np.array([1.8, 0.2])
    rivals = [[1.0, 3.0], [3.0, 1.0]]
    replicator = ed.Replicator()
    return [
        Problem(
            "density regularisation",
            replicator,
            landscapes.LinearDecay([1.0, 1.0], 0.8),
            p0,
            9.0,
            odd_pair(0.8, 2.0, 0.9),
        ),
        Problem(
            "redundancy with exclusion",
            replicator,
            landscapes.Redundancy([1.0, 1.0], rivals, 0.5),
            np.array([1.05, 0.95]),
            30.0,
            odd_pair(-1.0, 2.0, 0.525),
        ),
        Problem(
            "hawks and doves",
            replicator,
            landscapes.MatrixGame([[0.0, 1.5], [1.5, 0.0]]),
            p0,
            9.0,
            odd_pair(1.5 / 2.0, 2.0, 0.9),
        ),
    ]


def _mutation() -> list[Problem]:
    rng = np.random.default_rng(9)
    n, rate = 5, 0.3
    p0, m = rng.lognormal(size=n), rng.lognormal(size=n)
    c = rng.normal(size=n)

    def relaxing(start: FloatArray, target: FloatArray, total_rate: Callable[[float], float]) -> Exact:
        # Neutral fitness: dp/dt = μ(t)(m - p).
        def log_masses(t: float) -> FloatArray:
            return _log(start * np.exp(-total_rate(t)) - target * np.expm1(-total_rate(t)))

        return log_masses

    def linear(start: FloatArray, target: FloatArray) -> Exact:
        # For P0 = M: p ∝ exp(tB) p0 with B = diag(c) + (μ/M) m 1ᵀ.
        matrix = np.diag(c) + rate / target.sum() * np.outer(target, np.ones(n))

        def log_masses(t: float) -> FloatArray:
            y: FloatArray = scipy.linalg.expm(t * matrix) @ start
            return _log(y * (target.sum() / y.sum()))

        return log_masses

    def relaxing_vertices(t: float) -> FloatArray:
        return relaxing(vertex, m, lambda s: rate * s)(t)

    balanced = p0 * m.sum() / p0.sum()
    vertex = np.array([m.sum(), 0.0, 0.0, 0.0, 0.0])
    tiny = np.array([m.sum(), 1e-300, 0.0, 1e-100, 1e-12])
    tiny[0] -= tiny[1:].sum()
    mutation = ed.SelectionMutation(rate, m)
    constant = landscapes.Constant(c)
    printed = ed.SelectionMutation(0.5)

    def swinging(t: float) -> float:
        return float(0.2 * (1 + np.sin(t)))

    def swung(t: float) -> float:
        return float(0.2 * (t + 1 - np.cos(t)))

    return [
        Problem("mutation", mutation, constant, balanced, 10.0, linear(balanced, m)),
        Problem("mutation from a vertex", mutation, constant, vertex, 10.0, linear(vertex, m)),
        Problem("mutation from tiny masses", mutation, constant, tiny, 10.0, linear(tiny, m)),
        Problem(
            "the printed target",
            printed,
            landscapes.Constant(np.ones(6)),
            np.full(6, 128.0),
            30.0,
            relaxing(np.full(6, 128.0), np.full(6, 1 / 6), lambda t: 0.5 * t),
        ),
        Problem(
            "neutral mutation from a vertex",
            mutation,
            landscapes.Constant(np.zeros(n)),
            vertex,
            4.0,
            relaxing_vertices,
        ),
        Problem(
            "a mutation rate that swings",
            ed.SelectionMutation(swinging, m),
            landscapes.Constant(np.zeros(n)),
            p0,
            12.0,
            relaxing(p0, m, swung),
        ),
        Problem(
            "no mutation at all",
            ed.SelectionMutation(0.0, m),
            constant,
            p0,
            10.0,
            softened(p0, lambda t: c * t),
            closed_form=True,
        ),
    ]


def _mass_changes() -> list[Problem]:
    r, carrying = np.array([2.0, 0.5]), np.array([0.01, 0.4])

    def growth(masses: FloatArray, fitness: FloatArray) -> FloatArray:
        return fitness * (1 - masses)

    def logistic(t: float) -> FloatArray:
        out: FloatArray = np.log(carrying) + r * t - np.log1p(carrying * np.expm1(r * t))
        return out

    apart = landscapes.Constant([10.0, -10.0])

    def clipped(t: float) -> FloatArray:
        # Both differences from the mean exceed the clip: they grow and shrink at it.
        return np.array([0.1 * t, -0.1 * t])

    def capped(t: float) -> FloatArray:
        logs = clipped(t)
        out: FloatArray = logs - logsumexp(logs) + np.log(2.0)
        return out

    def reaching(t: float) -> FloatArray:
        # Free below the cap of 2.5: 2 cosh(0.1 t) = 2.5; from then on shares only.
        logs = clipped(t)
        out: FloatArray = logs + min(0.0, np.log(2.5) - logsumexp(logs))
        return out

    ones = np.ones(2)
    return [
        Problem("general selection", ed.Selection(growth), landscapes.Constant(r), carrying, 12.0, logistic),
        Problem("at the clip", ed.Replicator(signal_clip=0.1), apart, ones, 10.0, clipped),
        Problem("at the cap", ed.NormalizedGrowth(2.0, 0.1), apart, ones, 10.0, capped),
        Problem("reaching the cap", ed.NormalizedGrowth(2.5, 0.1), apart, ones, 15.0, reaching),
    ]


PROBLEMS = [*_constant(), *_time_dependent(), *_density_dependent(), *_mutation(), *_mass_changes()]


@dataclasses.dataclass(frozen=True)
class Invariant:
    """A problem along whose solution a function of the log-masses keeps its value."""

    name: str
    landscape: landscapes.Landscape
    p0: FloatArray
    t_end: float
    value: Callable[[FloatArray], float]


def _zero_sum(payoff: list[list[float]], interior: list[float], name: str) -> Invariant:
    weights = np.array(interior) / sum(interior)
    return Invariant(
        name,
        landscapes.MatrixGame(payoff),
        np.array([0.5, 0.3, 0.2]),
        100.0,
        lambda logs: float(weights @ (logs - logsumexp(logs))),
    )


INVARIANTS = [
    _zero_sum([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], [1, 1, 1], "rock, paper, scissors"),
    # A zero-sum game with a_12 = -c, a_13 = b, a_23 = -a has its interior at (a, b, c).
    _zero_sum([[0.0, -3.0, 2.0], [3.0, 0.0, -1.0], [-2.0, 1.0, 0.0]], [1, 2, 3], "uneven cycle"),
]
