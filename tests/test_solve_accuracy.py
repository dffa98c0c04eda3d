"""Accuracy where it is hard: long runs, groups revived from nothing, what is on for a while, stiffness."""

from __future__ import annotations

from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
from scipy.linalg import expm

import evodyn as ed
from evodyn import landscapes
from evodyn.core.arrays import Array, FloatArray
from evodyn.simulate.method import MethodName

REPLICATOR = ed.Replicator()
IMPLICIT: tuple[MethodName, ...] = ("auto", "LSODA", "BDF")
SEVERAL: tuple[MethodName, ...] = ("auto", "LSODA", "RK23", "BDF")
by_every_method = pytest.mark.parametrize("method", [m for m in get_args(MethodName) if m != "closed_form"])
by_several = pytest.mark.parametrize("method", SEVERAL)


# Long runs


@pytest.mark.parametrize("method", IMPLICIT)
@pytest.mark.parametrize(("scale", "end"), [(1e10, 1.0), (1.0, 1e10), (1.0, 1e11)])
def test_long_runs_end_with_the_right_survivors(scale: float, end: float, method: MethodName) -> None:
    # Water filling with one group exactly at the level: it falls as 1/(λ(1 + r/k)t), here 1/(2λt).
    decay = 0.1 * scale
    run = ed.solve(
        REPLICATOR,
        landscapes.LinearDecay(scale * np.array([1.0, 0.5, 0.0, -1.0, 0.2]), decay),
        np.ones(5),
        (0.0, end),
        save_at=[end],
        solver=ed.Solver(method=method),
    )
    assert run.masses[-1, 0] == pytest.approx(5.0, rel=1e-9)
    assert run.masses[-1, 1] == pytest.approx(1 / (2 * decay * end), rel=1e-4)
    assert (run.masses[-1, 2:] == 0).all()
    assert run.log_masses[-1, 2:] / (scale * end) == pytest.approx([-0.5, -1.5, -0.3], rel=1e-6)
    assert run.stats.steps < 10_000


# Groups revived from nothing


@by_every_method
@pytest.mark.parametrize(("rate", "end"), [(1e-12, 5.0), (1e-6, 10.0)])
def test_revived_groups_are_right_at_early_times(method: MethodName, rate: float, end: float) -> None:
    # The mean fitness is 1 to the order of the rate: dp/dt = μ - (1 + μ)p.
    times = np.array([1e-3, 0.1])
    run = ed.solve(
        ed.SelectionMutation(rate, target=1.0),
        landscapes.Constant([1.0, 0.0]),
        [2.0, 0.0],
        (0.0, end),
        save_at=times,
        solver=ed.Solver(method=method),
    )
    expected = -rate * np.expm1(-(1 + rate) * times) / (1 + rate)
    np.testing.assert_allclose(run.masses[:, 1], expected, rtol=1e-7 + rate)


class Chain(ed.Dynamics):
    """Growth, and mass that moves from group to group along a chain, as a user may write it."""

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        return fitness

    def inflow(self, masses: Array, *, time: float = 0.0) -> Array:  # type: ignore[override]
        return 1e-9 * np.concatenate(([0.0], masses[:-1]))


@by_every_method
def test_groups_revived_by_revived_groups_are_right(method: MethodName) -> None:
    fitness, times = np.array([1.0, 0.0, 0.5]), np.array([1e-3, 0.1, 5.0])
    run = ed.solve(
        Chain(),
        landscapes.Constant(fitness),
        [1.0, 0.0, 0.0],
        (0.0, 5.0),
        save_at=times,
        solver=ed.Solver(method=method),
    )
    matrix = np.diag(fitness) + 1e-9 * np.diag([1.0, 1.0], -1)
    expected = [expm(t * matrix)[:, 0] for t in times]
    np.testing.assert_allclose(run.masses, expected, rtol=2e-7)


# What is on for a while


class Rate:
    """A mutation rate that is on within a window, and may say so."""

    def __init__(self, begin: float, end: float, *, declared: bool) -> None:
        self.window = (begin, end)
        self.declared = declared

    def __call__(self, t: float) -> float:
        return 0.3 if self.window[0] <= t < self.window[1] else 0.0

    def breakpoints(self, t_span: tuple[float, float]) -> tuple[float, ...]:
        return self.window if self.declared else ()


class Declared(ed.Dynamics):
    """The same as a dynamics of its own, which declares its breakpoints itself."""

    def __init__(self, begin: float, end: float) -> None:
        self.window = (begin, end)

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        return fitness - (masses * fitness).sum() / masses.sum() - self.rate(time)

    def inflow(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        return np.full(len(masses), self.rate(time))

    def rate(self, time: float) -> float:
        return 0.3 if self.window[0] <= time < self.window[1] else 0.0

    def breakpoints(self, t_span: tuple[float, float]) -> tuple[float, ...]:
        return self.window


CONSTANT = landscapes.Constant([1.0, 0.5, 0.0])


def in_two_steps(begin: float, end: float, last: float) -> FloatArray:
    """Return the masses from (3, 0, 0), mutation being on from `begin` to `end`, selection alone after."""
    within = ed.solve(ed.SelectionMutation(0.3, target=1.0), CONSTANT, [3.0, 0.0, 0.0], (0.0, end - begin))
    after: FloatArray = ed.solve(REPLICATOR, CONSTANT, within.masses[-1], (end, last)).masses[-1]
    return after


WINDOWS = [(4.58, 7.4), (0.0, 0.4), (8.36, 9.78), (9.66, 9.99), (6.1, 6.3)]


@by_several
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_a_mutation_rate_that_is_on_for_a_while_is_seen(
    window: tuple[float, float], method: MethodName
) -> None:
    rate = Rate(*window, declared=False)
    run = ed.solve(
        ed.SelectionMutation(rate, target=1.0),
        CONSTANT,
        [3.0, 0.0, 0.0],
        (0.0, 10.0),
        solver=ed.Solver(method=method, rtol=1e-6),
    )
    np.testing.assert_allclose(run.masses[-1], in_two_steps(*window, 10.0), rtol=2e-4)
    assert run.stats.evaluations < 2500


def test_the_masses_after_a_window_of_mutation() -> None:
    run = ed.solve(
        ed.SelectionMutation(Rate(4.58, 7.4, declared=False), target=1.0),
        CONSTANT,
        [3.0, 0.0, 0.0],
        (0.0, 10.0),
    )
    assert run.masses[-1] == pytest.approx([2.8537, 0.1242, 0.0221], abs=5e-5)


@by_several
@pytest.mark.parametrize("window", [(4.58, 7.4), (6.1, 6.11)], ids=str)
def test_declared_windows_are_met_exactly(window: tuple[float, float], method: MethodName) -> None:
    expected = in_two_steps(*window, 10.0)
    declaring: tuple[ed.Dynamics, ...] = (
        ed.SelectionMutation(Rate(*window, declared=True), target=1.0),
        Declared(*window),
    )
    for dynamics in declaring:
        run = ed.solve(
            dynamics, CONSTANT, [3.0, 0.0, 0.0], (0.0, 10.0), solver=ed.Solver(method=method, rtol=1e-6)
        )
        np.testing.assert_allclose(run.masses[-1], expected, rtol=1e-5)
        assert run.stats.evaluations < 1500


class Pulse:
    """A bare landscape with an equilibrium, which a pulse disturbs."""

    def __init__(self, begin: float, end: float, *, smooth: bool, declared: bool) -> None:
        self.window = (begin, end)
        self.smooth = smooth
        self.declared = declared

    def __call__(self, t: float, masses: FloatArray) -> FloatArray:
        begin, end = self.window
        inside = begin <= t < end
        height = np.sin(np.pi * (t - begin) / (end - begin)) ** 2 if self.smooth else 1.0
        fitness: FloatArray = np.array([1.0, 0.8, 0.5]) - 0.3 * masses
        return fitness + (height * np.array([-0.4, 0.3, 0.1]) if inside else 0.0)

    def breakpoints(self, t_span: tuple[float, float]) -> tuple[float, ...]:
        return self.window if self.declared else ()


@by_several
@pytest.mark.parametrize("smooth", [False, True])
@pytest.mark.parametrize("window", [(700.0, 712.0), (400.0, 520.0)], ids=str)
def test_a_pulse_after_settling_is_seen(
    window: tuple[float, float], smooth: bool, method: MethodName
) -> None:
    # Saved right after the pulse, while its trace lasts.
    times = [window[1], window[1] + 1.0]

    def solved(declared: bool, solver: ed.Solver) -> FloatArray:
        pulse = Pulse(*window, smooth=smooth, declared=declared)
        run = ed.solve(REPLICATOR, pulse, [1.0, 1.0, 1.0], (0.0, 1000.0), save_at=times, solver=solver)
        log_masses: FloatArray = run.log_masses
        return log_masses

    expected = solved(True, ed.Solver(method="LSODA", rtol=1e-9, max_step=50.0))
    found = solved(False, ed.Solver(method=method, rtol=1e-6))
    assert np.abs(expected[0] - np.log([1.22222222, 1.0, 0.77777778])).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_jump_that_no_step_survives_costs_no_short_steps() -> None:
    # A tiny mass in logarithms meets a jump of its inflow: LSODA's trial steps over it are not finite.
    run = ed.solve(
        ed.SelectionMutation(lambda t: 0.0 if t < 5 else 0.3, [0.5, 0.5, 0.1]),
        landscapes.Constant([1.0, 0.0, -1.0]),
        [1.0, 1e-100, 0.0],
        (0.0, 8.0),
        solver=ed.Solver(method="LSODA", rtol=1e-6),
    )
    assert run.stats.evaluations < 1000


# The method that "auto" takes


def test_stiff_competition_of_many_groups_takes_few_steps() -> None:
    n = 400
    fitness = np.random.default_rng(0).normal(size=n)
    run = ed.solve(
        REPLICATOR,
        landscapes.LinearDecay(fitness, 0.3),
        np.ones(n),
        (0.0, 1e5),
        save_at=[0.0, 1e5],
        solver=ed.Solver(compiled=False),
    )
    assert run.stats.method == "DOP853 and Rodas5P" and run.stats.steps < 300
    result = ed.equilibrium(REPLICATOR, landscapes.LinearDecay(fitness, 0.3), total_mass=n)
    np.testing.assert_allclose(run.masses[-1], result.masses, atol=1e-6)


def test_many_groups_without_stiffness_keep_the_explicit_method() -> None:
    n = 10_000
    landscape = landscapes.LinearDecay(np.random.default_rng(0).normal(size=n), 1.0)
    solver = ed.Solver(rtol=1e-5, compiled=False)
    run = ed.solve(REPLICATOR, landscape, np.ones(n), (0.0, 3.0), save_at=[3.0], solver=solver)
    assert run.stats.method == "DOP853" and run.stats.evaluations < 300


HAWK_DOVE = np.array([[-1.0, 4.0], [0.0, 2.0]])


@pytest.mark.parametrize(
    ("landscape", "end", "method", "reason"),
    [
        (landscapes.MatrixGame(HAWK_DOVE), 1e5, "Taylor and Rodas5P", "compiled"),
        (lambda t, masses: HAWK_DOVE @ masses / masses.sum(), 6e5, "LSODA", "was held back by stability"),
    ],
    ids=["game", "callable"],
)
def test_long_quiet_runs_turn_to_an_implicit_method(
    landscape: Callable[[float, FloatArray], FloatArray], end: float, method: str, reason: str
) -> None:
    run = ed.solve(REPLICATOR, landscape, [0.5, 0.5], (0.0, end), save_at=[end])
    np.testing.assert_allclose(run.masses[-1], [2 / 3, 1 / 3], rtol=1e-9)
    assert run.stats.method == method and run.stats.steps < 300
    assert reason in run.stats.reason


def test_a_quiet_run_of_hundreds_of_groups_turns_too_if_nobody_states_their_structure() -> None:
    n = 310
    fitness = np.linspace(0.0, 1.0, n)
    run = ed.solve(REPLICATOR, lambda t, masses: fitness - masses, np.ones(n), (0.0, 1e5), save_at=[1e5])
    assert run.stats.method == "DOP853 and Rodas5P" and run.stats.steps < 300
    np.testing.assert_allclose(run.masses[-1], fitness + 1 - fitness.mean(), rtol=1e-8)


@pytest.mark.parametrize("n", [8, 310])
def test_with_a_clip_the_error_is_of_the_size_of_the_tolerance(n: int) -> None:
    rng = np.random.default_rng(1)
    landscape, p0 = landscapes.LinearDecay(2 * rng.normal(size=n), 0.4), rng.lognormal(size=n)
    dynamics = ed.Replicator(signal_clip=0.3)
    solved = [
        ed.solve(dynamics, landscape, p0, (0.0, 3.0), save_at=[3.0], solver=solver)
        for solver in (ed.Solver(rtol=1e-5), ed.Solver("LSODA", rtol=1e-9))
    ]
    assert solved[0].stats.method == ("LSODA" if n == 8 else "RK23")
    np.testing.assert_allclose(solved[0].log_masses, solved[1].log_masses, atol=1e-4)


def test_with_a_clip_many_groups_need_no_matrix() -> None:
    # A dense Jacobian of them would take 80 GB.
    n = 100_000
    run = ed.solve(
        ed.Replicator(signal_clip=0.5),
        landscapes.Constant(np.linspace(-1.0, 1.0, n)),
        np.ones(n),
        (0.0, 0.1),
        save_at=[0.1],
        solver=ed.Solver(rtol=1e-3),
    )
    assert run.termination is ed.Termination.COMPLETED
