"""Solving the flow: known answers with every method, and the guarantees at every tolerance."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import RK45
from scipy.special import logsumexp

import evodyn as ed
from evodyn import landscapes
from evodyn.core.arrays import Array, FloatArray
from evodyn.simulate.method import MethodName
from tests import references, strategies
from tests.problems import INVARIANTS, PROBLEMS, Invariant, Problem

METHODS: tuple[MethodName, ...] = ("RK23", "RK45", "DOP853", "Radau", "BDF", "LSODA")
EVERY: tuple[MethodName, ...] = ("auto", *METHODS)
REPLICATOR = ed.Replicator()

by_method = pytest.mark.parametrize("method", METHODS)
by_every_method = pytest.mark.parametrize("method", EVERY)
by_problem = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)

# How many tolerances the error of ln p may be: one step's error is below one, and steps add up. The unstable
# problem multiplies early errors by its own instability, e^(λP(1 - 0.5)t/2) of a start at 0.525.
ALLOWED = 40.0
UNSTABLE = {"redundancy with exclusion": 200.0}


def solver(method: MethodName, rtol: float = 1e-6) -> ed.Solver:
    return ed.Solver(method=method, rtol=rtol, atol=rtol / 100)


def deviation(problem: Problem, run: ed.Run) -> float:
    """Return the largest error of ln p at the saved times, after checking who is absent."""
    expected = np.array([problem.log_masses(t) for t in run.t])
    np.testing.assert_array_equal(np.isneginf(run.log_masses), np.isneginf(expected))
    living = np.isfinite(expected)
    return float(np.abs(run.log_masses[living] - expected[living]).max())


def test_every_method_of_the_contract_is_tried() -> None:
    assert set(get_args(MethodName)) == {"closed_form", *EVERY}


@by_every_method
@by_problem
def test_known_solutions(problem: Problem, method: MethodName) -> None:
    # Saved times fall within steps as well as on them.
    rtol = 1e-8 if method == "auto" else 1e-6
    times = np.linspace(0.0, problem.t_end, 29)
    run = ed.solve(
        problem.dynamics,
        problem.landscape,
        problem.p0,
        (0.0, problem.t_end),
        save_at=times,
        solver=solver(method, rtol),
    )
    np.testing.assert_array_equal(run.t, times)
    assert run.termination is ed.Termination.COMPLETED and run.succeeded
    assert deviation(problem, run) <= UNSTABLE.get(problem.name, ALLOWED) * 1.01 * rtol + 1e-12
    if method == "auto":
        assert (run.stats.method == "closed_form") == problem.closed_form
        if problem.closed_form:
            assert deviation(problem, run) < 1e-11
    else:
        assert run.stats.method == method and run.stats.evaluations > 0


@by_problem
def test_the_closed_form_is_refused_where_there_is_none(problem: Problem) -> None:
    arguments = (problem.dynamics, problem.landscape, problem.p0, (0.0, problem.t_end))
    forced = ed.Solver(method="closed_form")
    if problem.closed_form:
        run = ed.solve(*arguments, solver=forced)
        assert run.stats.method == "closed_form" and deviation(problem, run) < 1e-11
    else:
        with pytest.raises(ValueError, match="method is 'closed_form' and there is none"):
            ed.solve(*arguments, solver=forced)


def test_the_error_follows_the_tolerance() -> None:
    # And the comparison can fail: a loose run does not pass for a strict one.
    problem = next(p for p in PROBLEMS if p.name == "seasons")
    errors = []
    for rtol in (1e-3, 1e-5, 1e-7, 1e-9):
        run = ed.solve(
            problem.dynamics,
            problem.landscape,
            problem.p0,
            (0.0, problem.t_end),
            solver=solver("RK45", rtol),
        )
        errors.append(deviation(problem, run))
    assert all(later < earlier / 10 for earlier, later in itertools.pairwise(errors))
    assert errors[0] > ALLOWED * 1e-7


@by_every_method
@pytest.mark.parametrize("invariant", INVARIANTS, ids=lambda invariant: invariant.name)
def test_zero_sum_games_keep_their_invariant(invariant: Invariant, method: MethodName) -> None:
    run = ed.solve(
        REPLICATOR, invariant.landscape, invariant.p0, (0.0, invariant.t_end), solver=solver(method, 1e-7)
    )
    values = np.array([invariant.value(row) for row in run.log_masses])
    # Linear growth of the error over some dozens of cycles.
    assert np.abs(values - values[0]).max() < 1e-4
    assert np.ptp(run.masses, axis=0).min() > 0.1  # it does cycle


# Positivity, at any tolerance, with any method


@pytest.mark.parametrize("rtol", [1e-3, 1e-8])
@by_method
def test_a_fitness_gap_of_50_leaves_no_negative_mass(method: MethodName, rtol: float) -> None:
    # Where every method of SciPy goes negative on masses at rtol 1e-3.
    c = np.array([50.0, 0.0, 25.0, 49.9])
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant(c),
        np.ones(4),
        (0.0, 10.0),
        solver=ed.Solver(method=method, rtol=rtol, atol=rtol / 1000),
    )
    assert (run.masses > 0).all()
    expected = np.outer(run.t, c)
    expected = expected - logsumexp(expected, axis=1, keepdims=True) + np.log(4)
    np.testing.assert_allclose(run.log_masses, expected, atol=ALLOWED * rtol)


@pytest.mark.slow
@given(st.data(), st.sampled_from([1e-3, 1e-6]), st.sampled_from(EVERY))
@settings(max_examples=80)
def test_no_mass_is_ever_negative(data: st.DataObject, rtol: float, method: MethodName) -> None:
    n = data.draw(strategies.SIZES)
    dynamics = data.draw(
        st.sampled_from([ed.Replicator(), ed.Replicator(0.5), ed.NormalizedGrowth(signal_clip=0.3)])
        | strategies.mutations(n)
    )
    landscape = data.draw(strategies.any_landscapes(n))
    masses = data.draw(strategies.masses(n))
    masses = masses * (n / masses.sum())
    run = ed.solve(
        dynamics, landscape, masses, (0.0, 5.0), save_at=[0.0, 0.03, 2.5, 5.0], solver=solver(method, rtol)
    )
    assert run.termination is ed.Termination.COMPLETED
    assert (run.masses >= 0).all() and np.isfinite(run.masses).all()
    assert not np.isnan(run.log_masses).any() and np.isfinite(run.mean_fitness).all()
    if not isinstance(dynamics, ed.SelectionMutation):
        # Extinct stays extinct, and what lives may become small but never extinct.
        np.testing.assert_array_equal(np.isneginf(run.log_masses), np.tile(masses == 0, (4, 1)))
    if dynamics.signal_clip is None and not isinstance(dynamics, ed.SelectionMutation):
        np.testing.assert_allclose(run.total_mass, n, rtol=1e-13)


# Log-masses


@by_every_method
def test_log_masses_keep_their_meaning_far_below_the_smallest_float(method: MethodName) -> None:
    # 1e-400, and e^-1740 at the end; the smallest float is about e^-745.
    c = np.array([1.0, 0.0, -0.74])
    start = 1e-200
    run = ed.solve(
        REPLICATOR, landscapes.Constant(c), [1.0, start, 1.0], (0.0, 1000.0), solver=solver(method, 1e-8)
    )
    expected = np.log([1.0, start, 1.0]) + np.outer(run.t, c)
    expected = expected - logsumexp(expected, axis=1, keepdims=True) + np.log(2 + start)
    np.testing.assert_allclose(run.log_masses, expected, atol=1e-6, rtol=0)
    assert run.log_masses[-1, 1] < -1400 and run.log_masses[-1, 2] == pytest.approx(-1740, abs=1)
    assert (run.masses[-1, 1:] == 0).all() and not run.extinct_at_end.any()


@by_every_method
def test_density_dependence_does_not_end_log_masses(method: MethodName) -> None:
    # The same where no closed form exists, and back: a season that brings a group back from e^-900.
    landscape = landscapes.Seasonal([0.0, 0.0], [10.0, -10.0], 600.0)
    run = ed.solve(
        REPLICATOR,
        landscape,
        [1.0, 1.0],
        (0.0, 600.0),
        save_at=[150.0, 300.0, 600.0],
        solver=ed.Solver(method=method, rtol=1e-7, max_step=20.0),
    )
    odds = 20 * 600 / (2 * np.pi) * (1 - np.cos(2 * np.pi * run.t / 600))
    np.testing.assert_allclose(run.log_masses[:, 1], -odds - np.log1p(np.exp(-odds)) + np.log(2), atol=1e-3)
    assert run.log_masses[1, 1] < -3000


@by_method
def test_masses_that_all_shrink_keep_their_logarithms(method: MethodName) -> None:
    # Eq. 5 with losses only: the total itself underflows.
    dynamics = ed.Selection(lambda masses, fitness: fitness)
    run = ed.solve(
        dynamics, landscapes.Constant([-1.0, -2.0]), [1.0, 1.0], (0.0, 1000.0), solver=solver(method)
    )
    np.testing.assert_allclose(run.log_masses, np.outer(run.t, [-1.0, -2.0]), atol=1e-6)
    assert not run.extinct_at_end.any()


@pytest.mark.parametrize("method", ["RK45", "LSODA"])
def test_a_tiny_group_takes_over_at_the_clip(method: MethodName) -> None:
    # Slopes are constant for hundreds of units of time, and steps grow until they overflow when tried.
    run = ed.solve(
        ed.Replicator(signal_clip=1.0),
        landscapes.Constant([-5.0, -2.0, 10.0]),
        [1.0, 1.0, 1e-300],
        (0.0, 2000.0),
        solver=solver(method, 1e-8),
    )
    assert run.log_masses[-1, 0] == pytest.approx(-2000, abs=1e-3)
    assert run.masses[-1, 2] == pytest.approx(run.total_mass[-1]) and run.mean_fitness[-1] == pytest.approx(
        10
    )


# Mass


@by_every_method
def test_total_mass_is_exact(method: MethodName) -> None:
    rng = np.random.default_rng(4)
    c, p0 = rng.lognormal(size=50), rng.lognormal(size=50)
    for landscape in (
        landscapes.Constant(c),
        landscapes.LinearDecay(c, 0.05),
        landscapes.MatrixGame(rng.normal(size=(50, 50))),
        landscapes.Entropic(c, 0.2),
    ):
        run = ed.solve(REPLICATOR, landscape, p0, (0.0, 20.0), solver=solver(method, 1e-4))
        np.testing.assert_allclose(run.total_mass, p0.sum(), rtol=1e-13)
        np.testing.assert_allclose(run.masses.sum(axis=1), p0.sum(), rtol=1e-13)
    mutation = ed.SelectionMutation(0.5, target=p0[::-1] / 10)
    run = ed.solve(mutation, landscapes.LinearDecay(c, 0.05), p0, (0.0, 20.0), solver=solver(method, 1e-4))
    relaxing = p0.sum() * (0.1 + 0.9 * np.exp(-0.5 * run.t))
    np.testing.assert_allclose(run.total_mass, relaxing, rtol=1e-13)


@pytest.mark.parametrize("product", [1e3, 1e6])
def test_total_mass_of_the_closed_form_is_exact_at_any_time(product: float) -> None:
    c = np.array([1.0, 0.5, -0.25])
    for shift in (0.0, -1.0, 7.0):
        run = ed.solve(REPLICATOR, landscapes.Constant(c + shift), [1.0, 2.0, 4.0], (0.0, product))
        np.testing.assert_allclose(run.total_mass, 7.0, rtol=1e-13)
        np.testing.assert_allclose(run.masses.sum(axis=1), 7.0, rtol=1e-13)


@by_every_method
def test_each_block_keeps_its_mass(method: MethodName) -> None:
    rng = np.random.default_rng(5)
    c, p0 = rng.normal(size=9), rng.lognormal(size=9)
    layers = ed.Populations(
        (ed.Replicator(), ed.SelectionMutation(0.3, 2.0), ed.NormalizedGrowth()), (4, 3, 2)
    )
    run = ed.solve(layers, landscapes.LinearDecay(c, 0.1), p0, (0.0, 10.0), solver=solver(method))
    assert run.total_mass.shape == run.mean_fitness.shape == (101, 3)
    np.testing.assert_allclose(run.total_mass[:, 0], p0[:4].sum(), rtol=1e-13)
    np.testing.assert_allclose(run.total_mass[:, 2], p0[7:].sum(), rtol=1e-13)
    relaxing = 6 + (p0[4:7].sum() - 6) * np.exp(-0.3 * run.t)
    np.testing.assert_allclose(run.total_mass[:, 1], relaxing, rtol=1e-13)
    for block, member in zip(layers.slices, layers.dynamics, strict=True):  # type: ignore[arg-type]
        alone = ed.solve(
            member, landscapes.LinearDecay(c[block], 0.1), p0[block], (0.0, 10.0), solver=solver(method, 1e-9)
        )
        np.testing.assert_allclose(run.log_masses[:, block], alone.log_masses, atol=ALLOWED * 1e-6)


def test_mean_fitness_is_mass_weighted() -> None:
    rng = np.random.default_rng(6)
    c, p0 = rng.normal(size=5), rng.lognormal(size=5)
    landscape = landscapes.LinearDecay(c, 0.3)
    run = ed.solve(REPLICATOR, landscape, p0, (0.0, 5.0), save_at=[0.0, 2.0, 5.0])
    for k in range(3):
        p = references.exact(run.masses[k])
        mean = references.mean_fitness(p, references.fitness(landscape, 0.0, p))
        assert run.mean_fitness[k] == pytest.approx(float(mean), rel=1e-13)


# Symmetries


def rock_paper_scissors(shift: float) -> landscapes.MatrixGame:
    return landscapes.MatrixGame(np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) + shift)


def test_shifting_every_payoff_changes_nothing() -> None:
    p0, span = [0.5, 0.3, 0.2], (0.0, 100.0)
    plain = ed.solve(REPLICATOR, rock_paper_scissors(0.0), p0, span)
    for shift, bound in ((-3.0, 1e-9), (7.0, 1e-9), (1e6, 1e-6), (-1e6, 1e-6)):
        moved = ed.solve(REPLICATOR, rock_paper_scissors(shift), p0, span)
        np.testing.assert_allclose(moved.masses, plain.masses, atol=bound, rtol=0)
        np.testing.assert_allclose(
            moved.mean_fitness, plain.mean_fitness + shift, atol=1e-9 * (1 + abs(shift))
        )
        np.testing.assert_allclose(moved.total_mass, 1.0, rtol=1e-13)


@by_method
def test_shifting_changes_nothing_with_any_method(method: MethodName) -> None:
    p0, span = [0.5, 0.3, 0.2], (0.0, 20.0)
    runs = [
        ed.solve(REPLICATOR, rock_paper_scissors(a), p0, span, solver=solver(method)) for a in (0.0, -3.0)
    ]
    np.testing.assert_allclose(runs[1].masses, runs[0].masses, atol=1e-9, rtol=0)


@pytest.mark.slow
@given(st.data(), st.sampled_from(EVERY))
@settings(max_examples=20)
def test_permuting_groups_permutes_the_solution(data: st.DataObject, method: MethodName) -> None:
    n = data.draw(st.integers(2, 5))
    order = np.array(data.draw(st.permutations(range(n))))
    c, p0 = data.draw(strategies.vectors(n, -2.0, 2.0)), data.draw(strategies.vectors(n, 0.0, 2.0)) + 0.0
    p0[0] = 1.0
    m = data.draw(strategies.vectors(n, 0.0, 2.0))
    for make in (
        lambda k: (ed.Replicator(), landscapes.LinearDecay(c[k], 0.2)),
        lambda k: (ed.SelectionMutation(0.1, m[k]), landscapes.Constant(c[k])),
    ):
        runs = []
        for k in (np.arange(n), order):
            dynamics, landscape = make(k)
            runs.append(ed.solve(dynamics, landscape, p0[k], (0.0, 5.0), solver=solver(method)))
        # Sums in another order differ in the last bit, which steps may amplify to a tolerance.
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(runs[1].masses, runs[0].masses[:, order], atol=1e-5, rtol=1e-5)
        np.testing.assert_array_equal(
            np.isneginf(runs[1].log_masses), np.isneginf(runs[0].log_masses[:, order])
        )


@by_every_method
@pytest.mark.parametrize("k", [0.25, 8.0])
def test_fitness_sets_the_unit_of_time(method: MethodName, k: float) -> None:
    rng = np.random.default_rng(7)
    c, p0 = rng.normal(size=5), rng.lognormal(size=5)
    slow = ed.solve(REPLICATOR, landscapes.LinearDecay(c, 0.2), p0, (0.0, 8.0), solver=solver(method))
    fast = ed.solve(
        REPLICATOR, landscapes.LinearDecay(k * c, k * 0.2), p0, (0.0, 8.0 / k), solver=solver(method)
    )
    np.testing.assert_allclose(fast.t * k, slow.t, rtol=1e-15)
    np.testing.assert_allclose(fast.log_masses, slow.log_masses, atol=ALLOWED * 1e-6)


SMOOTH: dict[str, Any] = {
    "density regularisation": lambda c, p, k: (ed.Replicator(), landscapes.LinearDecay(c, 0.3 / k)),
    "game": lambda c, p, k: (ed.Replicator(), landscapes.MatrixGame(np.outer(c, c[::-1]))),
    "entropic": lambda c, p, k: (ed.Replicator(), landscapes.Entropic(c, 0.3)),
    "mutation": lambda c, p, k: (ed.SelectionMutation(0.1, p[::-1] * k), landscapes.LinearDecay(c, 0.3 / k)),
    "constant": lambda c, p, k: (ed.Replicator(), landscapes.Constant(c)),
    "clip": lambda c, p, k: (ed.Replicator(0.3), landscapes.LinearDecay(c, 0.3 / k)),
}


@by_every_method
@pytest.mark.parametrize("name", SMOOTH)
def test_the_unit_of_mass_changes_nothing(name: str, method: MethodName) -> None:
    rng = np.random.default_rng(0)
    c, p0 = rng.normal(size=6), rng.lognormal(size=6)
    runs = {}
    for k in (1.0, 2.0**10, 768.0, 1e-6, 1e100, 1e-100):
        dynamics, landscape = SMOOTH[name](c, p0, k)
        runs[k] = ed.solve(dynamics, landscape, k * p0, (0.0, 12.0), solver=solver(method))
    for k, run in runs.items():
        # The kinks of a clip and the Jacobians that Radau measures amplify the rounding of k·p0.
        bound = 1e-6 if name == "clip" else 1e-8 if method in ("Radau", "BDF", "LSODA") else 1e-10
        if name != "clip":
            assert run.stats.evaluations == runs[1.0].stats.evaluations
            assert run.stats.steps == runs[1.0].stats.steps
        np.testing.assert_allclose(run.log_masses - np.log(k), runs[1.0].log_masses, atol=bound, rtol=0)


# Faces, and few groups


@by_every_method
def test_faces_are_invariant(method: MethodName) -> None:
    rng = np.random.default_rng(8)
    c = rng.normal(size=7)
    full = np.array([0.0, 1.0, 0.0, 2.0, 0.5, 0.0, 0.0])
    face = full > 0
    run = ed.solve(REPLICATOR, landscapes.LinearDecay(c, 0.3), full, (0.0, 9.0), solver=solver(method))
    small = ed.solve(
        REPLICATOR, landscapes.LinearDecay(c[face], 0.3), full[face], (0.0, 9.0), solver=solver(method)
    )
    assert (run.masses[:, ~face] == 0).all()
    np.testing.assert_allclose(run.log_masses[:, face], small.log_masses, atol=1e-10)
    assert run.extinct_at_end.tolist() == (~face).tolist()
    assert (run.extinction_time[~face] == 0).all() and np.isinf(run.extinction_time[face]).all()


@by_every_method
@pytest.mark.parametrize(
    "landscape",
    [
        landscapes.Constant([3.0]),
        landscapes.LinearDecay([3.0], 0.1),
        landscapes.Entropic([3.0], 0.5),
        landscapes.MatrixGame([[2.0]]),
        landscapes.Recorded([0.0, 1.0, 5.0], [[1.0], [2.0]], 0.1),
    ],
    ids=lambda landscape: type(landscape).__name__,
)
def test_one_group_keeps_its_mass(landscape: landscapes.Landscape, method: MethodName) -> None:
    run = ed.solve(REPLICATOR, landscape, [0.7], (0.0, 5.0), solver=solver(method))
    np.testing.assert_allclose(run.masses, 0.7, rtol=1e-13)


# Mutation from tiny and zero masses


RATES: dict[str, Any] = {
    "constant": 0.3,
    "rising from zero": lambda t: 0.1 * t,
    "rising slowly": lambda t: 0.1 * t**2,
    "switched on": lambda t: 0.0 if t < 5 else 0.3,
    "fading": lambda t: float(np.exp(-10 * t)),
    "swinging": lambda t: 0.1 * (1 - np.cos(t)),
}


C, M, END = np.array([1.0, 0.0, -1.0]), np.array([0.5, 0.5, 0.1]), 8.0


@functools.cache
def fine_mutation(name: str, start: float) -> FloatArray:
    """Return the masses at `END` by classical Runge-Kutta steps on masses, with one restart at t = 5."""
    p, t = np.array([1.0, start, 0.0]), 0.0
    rate = RATES[name]
    mu = rate if callable(rate) else lambda t: rate

    def velocity(t: float, p: FloatArray) -> FloatArray:
        out: FloatArray = p * (C - p @ C / p.sum()) + mu(t) * (M - p)
        return out

    h = 1e-3
    for k in range(round(END / h)):
        t = k * h
        # The rate of the step that begins at the jump is that after it, and the other way round.
        late = t + h if t + h != 5.0 else np.nextafter(5.0, 0.0)
        k1 = velocity(t, p)
        k2 = velocity(t + h / 2, p + h / 2 * k1)
        k3 = velocity(t + h / 2, p + h / 2 * k2)
        k4 = velocity(late, p + h * k3)
        p = p + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    out: FloatArray = p
    return out


@by_every_method
@pytest.mark.parametrize("start", [0.0, 1e-300, 1e-100, 1e-12])
@pytest.mark.parametrize("name", RATES)
def test_mutation_revives_groups(name: str, start: float, method: MethodName) -> None:
    p0 = np.array([1.0, start, 0.0])
    run = ed.solve(
        ed.SelectionMutation(RATES[name], M),
        landscapes.Constant(C),
        p0,
        (0.0, END),
        save_at=[0.0, 1e-6, 3.0, 8.0],
        solver=solver(method),
    )
    assert run.termination is ed.Termination.COMPLETED
    assert (run.masses >= 0).all()
    np.testing.assert_array_equal(run.masses[0] > 0, p0 > 0)
    np.testing.assert_allclose(run.masses[-1], fine_mutation(name, start), rtol=ALLOWED * 1e-6)
    assert run.stats.evaluations < 8000  # LSODA approaches the jump in short steps


@by_every_method
def test_mutation_from_nothing_is_right_from_the_first_moment(method: MethodName) -> None:
    # p = m (1 - e^{-µt}) whatever t: a mass of 1e-12 after 1e-12 is not lost in tolerances of 1.
    m = np.array([1.0, 0.5, 0.25])
    times = np.array([1e-12, 1e-9, 1e-6, 1e-3, 1.0, 20.0])
    run = ed.solve(
        ed.SelectionMutation(0.3, m),
        landscapes.Constant(np.zeros(3)),
        [1.75, 0.0, 0.0],
        (0.0, 20.0),
        save_at=times,
        solver=solver(method, 1e-7),
    )
    expected = -np.expm1(-0.3 * times)[:, None] * m[1:]
    # A thousandth of the tolerance relative to the floor, before the masses come near it.
    np.testing.assert_allclose(run.masses[:, 1:], expected, rtol=ALLOWED * 1e-7, atol=1e-12)


@by_every_method
def test_without_a_target_of_its_own_a_group_stays_absent(method: MethodName) -> None:
    run = ed.solve(
        ed.SelectionMutation(0.3, [1.0, 0.0, 1.0]),
        landscapes.Constant([0.0, 5.0, 1.0]),
        [1.0, 0.0, 0.0],
        (0.0, 10.0),
        solver=solver(method),
    )
    assert (run.masses[:, 1] == 0).all() and run.masses[-1, 2] > 0.1


# Clip and cap in the flow


def finest_map(
    dynamics: ed.NormalizedGrowth, landscape: landscapes.Landscape, p0: FloatArray, end: float
) -> FloatArray:
    """Return the limit of the rescaled map for small steps, extrapolated from two step sizes."""
    ends = []
    for h in (2e-3, 1e-3):
        p = np.array(p0)
        for k in range(round(end / h)):
            p = dynamics.step(p, landscape(k * h, p), h, scheme="exponential")
        ends.append(np.log(p))
    limit: FloatArray = 2 * ends[1] - ends[0]
    return limit


@by_every_method
@pytest.mark.parametrize(("clip", "room"), [(0.3, 1.0), (0.2, 1.05), (0.1, 1.5), (1.0, 1.0), (0.3, np.inf)])
def test_clip_and_cap_are_the_limit_of_the_map(clip: float, room: float, method: MethodName) -> None:
    for seed in (3, 11):
        rng = np.random.default_rng(seed)
        landscape = landscapes.LinearDecay(2 * rng.normal(size=6), 0.4)
        p0 = rng.lognormal(size=6)
        dynamics = ed.NormalizedGrowth(room * p0.sum(), clip)
        run = ed.solve(dynamics, landscape, p0, (0.0, 5.0), solver=solver(method, 1e-7))
        assert run.total_mass.max() <= room * p0.sum() * (1 + 1e-13)
        np.testing.assert_allclose(run.log_masses[-1], finest_map(dynamics, landscape, p0, 5.0), atol=2e-5)


def test_the_cap_is_reached_and_left_again() -> None:
    # Mass grows at the clip, is held, and shrinks once the season turns.
    landscape = landscapes.Seasonal([0.0, 0.0, 0.0], [8.0, -4.0, -4.0], 6.0)
    dynamics = ed.NormalizedGrowth(1.2, signal_clip=0.5)
    p0 = np.array([0.8, 0.1, 0.1])
    run = ed.solve(dynamics, landscape, p0, (0.0, 12.0), save_at=np.linspace(0, 12, 601))
    held = np.abs(run.total_mass - 1.2) < 1e-12
    switches = np.flatnonzero(held[1:] != held[:-1])
    assert len(switches) >= 2 and run.total_mass.max() <= 1.2 * (1 + 1e-13)
    free = ed.solve(ed.Replicator(0.5), landscape, p0, (0.0, 12.0))
    assert free.total_mass.max() > 1.25
    np.testing.assert_allclose(run.log_masses[-1], finest_map(dynamics, landscape, p0, 12.0), atol=1e-4)


def test_a_cap_without_a_clip_changes_nothing_bit_for_bit() -> None:
    rng = np.random.default_rng(9)
    c, p0 = rng.lognormal(size=8), rng.lognormal(size=8)
    landscape = landscapes.LinearDecay(c, 0.1)
    plain = ed.solve(ed.Replicator(), landscape, p0, (0.0, 10.0))
    for cap in (None, float(p0.sum()), 2 * float(p0.sum())):
        run = ed.solve(ed.NormalizedGrowth(cap), landscape, p0, (0.0, 10.0))
        assert run.native.tobytes() == plain.native.tobytes()
        assert run.total_mass.tobytes() == plain.total_mass.tobytes()


# Pulses and records


class Pulse:
    """Fitness that favours group 1 for 0.2 out of 100, which no step size control sees coming."""

    def __init__(self, declared: bool) -> None:
        if declared:
            self.breakpoints = lambda t_span: np.array([60.0, 60.2])

    def __call__(self, t: float, masses: Array) -> Array:
        return np.array([0.0, 20.0 if 60.0 <= t < 60.2 else 0.0]) - 1e-3 * masses


@by_method
def test_a_declared_pulse_is_not_stepped_over(method: MethodName) -> None:
    run = ed.solve(
        REPLICATOR, Pulse(True), [1.0, 1.0], (0.0, 100.0), save_at=[60.0, 60.2, 100.0], solver=solver(method)
    )
    odds = run.log_masses[:, 1] - run.log_masses[:, 0]
    assert odds[0] == pytest.approx(0.0, abs=1e-5) and odds[1] == pytest.approx(4.0, abs=1e-2)
    assert odds[2] > 3.0 and run.stats.restarts == 2
    if method in ("RK45", "DOP853", "LSODA"):
        # The control: undeclared, it is missed, unless steps are kept short.
        blind = ed.solve(
            REPLICATOR, Pulse(False), [1.0, 1.0], (0.0, 100.0), save_at=[100.0], solver=solver(method)
        )
        assert abs(blind.log_masses[-1, 1] - blind.log_masses[-1, 0]) < 1e-3
        short = ed.Solver(method=method, rtol=1e-6, max_step=0.1)
        seen = ed.solve(REPLICATOR, Pulse(False), [1.0, 1.0], (0.0, 100.0), save_at=[100.0], solver=short)
        np.testing.assert_allclose(seen.log_masses[-1], run.log_masses[-1], atol=1e-3)


@by_every_method
def test_a_record_is_replayed_exactly(method: MethodName) -> None:
    rng = np.random.default_rng(10)
    times = np.concatenate(([0.0], np.sort(rng.uniform(0, 5, 30)), [5.0]))
    record = landscapes.Recorded(times, rng.normal(size=(31, 4)), decay=0.3)
    p0 = np.array([1.0, 0.5, 0.0, 2.0])
    run = ed.solve(REPLICATOR, record, p0, (0.0, 5.0), solver=solver(method, 1e-7))
    # Piece after piece, each with a landscape that does not jump.
    masses = p0
    for k in range(31):
        piece = landscapes.LinearDecay(record.contributions[k], 0.3)
        masses = ed.solve(
            REPLICATOR, piece, masses, (times[k], times[k + 1]), solver=solver("DOP853", 1e-12)
        ).masses[-1]
    np.testing.assert_allclose(run.masses[-1], masses, rtol=ALLOWED * 1e-7)
    assert run.stats.restarts == 30 and run.stats.evaluations < 31 * 200


@by_every_method
def test_a_record_may_be_joined_in_the_middle(method: MethodName) -> None:
    record = landscapes.Recorded([0.0, 1.0, 2.0, 3.0], [[1.0, 0.0], [0.0, 1.0], [5.0, 0.0]])
    run = ed.solve(
        REPLICATOR, record, [1.0, 1.0], (0.5, 2.25), save_at=[0.5, 1.0, 2.0, 2.25], solver=solver(method)
    )
    odds = run.log_masses[:, 0] - run.log_masses[:, 1]
    np.testing.assert_allclose(odds, [0.0, 0.5, -0.5, 0.75], atol=1e-8)


@by_every_method
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("save_at", [[0.5], None])
def test_a_span_beyond_the_record_is_refused(
    method: MethodName, decay: float, save_at: list[float] | None
) -> None:
    # Whether or not anything is saved there.
    record = landscapes.Recorded([0.0, 1.0, 2.0], [[1.0, 0.0], [0.0, 1.0]], decay)
    with pytest.raises((ValueError, ed.SolveError), match="outside the record"):
        ed.solve(REPLICATOR, record, [1.0, 1.0], (0.0, 3.0), save_at=save_at, solver=solver(method))


@by_every_method
def test_breakpoints_may_be_as_close_as_floats(method: MethodName) -> None:
    close = [0.0, 1.0, float(np.nextafter(1.0, 2.0)), 1 + 1e-15, 2.0]
    record = landscapes.Recorded(close, [[1.0, 0.0], [9.0, 0.0], [0.0, 9.0], [0.0, 1.0]], 0.1)
    run = ed.solve(REPLICATOR, record, [1.0, 1.0], (0.0, 2.0), solver=solver(method))
    assert run.termination is ed.Termination.COMPLETED and np.isfinite(run.log_masses).all()


# Saved times, inputs, statistics


@by_every_method
def test_saved_times_do_not_depend_on_one_another(method: MethodName) -> None:
    rng = np.random.default_rng(12)
    landscape = landscapes.LinearDecay(rng.normal(size=4), 0.5)
    p0 = rng.lognormal(size=4)
    many = np.unique(np.concatenate((np.linspace(0, 6, 61), rng.uniform(0, 6, 20))))
    full = ed.solve(REPLICATOR, landscape, p0, (0.0, 6.0), save_at=many, solver=solver(method))
    for few in ([0.0], [6.0], [float(many[17])], [0.0, 6.0], many[3::9]):
        run = ed.solve(REPLICATOR, landscape, p0, (0.0, 6.0), save_at=few, solver=solver(method))
        np.testing.assert_array_equal(run.t, few)
        np.testing.assert_allclose(run.native, full.native[np.isin(many, few)], rtol=1e-13)
        assert run.t_span == (0.0, 6.0) and run.end_state.t == 6.0


@pytest.mark.parametrize("start", [-5.0, 1e6, 1e9])
def test_time_may_start_anywhere(start: float) -> None:
    landscape = landscapes.LinearDecay([1.0, 2.0], 0.1)
    base = ed.solve(REPLICATOR, landscape, [1.0, 1.0], (0.0, 5.0))
    run = ed.solve(REPLICATOR, landscape, [1.0, 1.0], (start, start + 5.0))
    np.testing.assert_allclose(run.masses, base.masses, atol=1e-6)
    early = ed.solve(REPLICATOR, landscape, [1.0, 1.0], (0.0, 1e-300))
    np.testing.assert_allclose(early.masses, 1.0, rtol=1e-13)


def test_inputs_are_untouched() -> None:
    p0, times = np.array([1.0, 2.0, 0.0]), np.array([0.0, 1.0, 3.0])
    before = p0.copy(), times.copy()
    for method in EVERY:
        run = ed.solve(
            REPLICATOR,
            landscapes.LinearDecay([1.0, 0.0, 3.0], 0.1),
            p0,
            (0.0, 3.0),
            save_at=times,
            solver=solver(method),
        )
        assert not np.shares_memory(run.t, times) and not np.shares_memory(run.masses, p0)
    np.testing.assert_array_equal(p0, before[0])
    np.testing.assert_array_equal(times, before[1])
    assert p0.flags.writeable and times.flags.writeable


@by_every_method
def test_a_landscape_that_writes_into_its_argument_is_no_silent_error(method: MethodName) -> None:
    def careless(t: float, masses: Array) -> Array:
        fitness = np.array([1.0, 0.0]) - 0.1 * masses
        masses[:] = np.nan
        return fitness

    expected = ed.solve(REPLICATOR, landscapes.LinearDecay([1.0, 0.0], 0.1), [1.0, 1.0], (0.0, 5.0))
    try:
        run = ed.solve(REPLICATOR, careless, [1.0, 1.0], (0.0, 5.0), solver=solver(method))
    except (ValueError, ed.SolveError):
        return
    np.testing.assert_allclose(run.masses, expected.masses, rtol=ALLOWED * 1e-6)


def test_masses_of_any_numeric_kind_will_do() -> None:
    landscape = landscapes.LinearDecay([1.0, 0.0], 0.1)
    expected = ed.solve(REPLICATOR, landscape, [1.0, 2.0], (0.0, 5.0))
    for p0 in ((1, 2), np.array([1, 2], dtype=np.int32), np.array([1.0, 2.0], dtype=np.float32)):
        run = ed.solve(REPLICATOR, landscape, p0, (0, 5))
        assert run.native.tobytes() == expected.native.tobytes()


def test_a_landscape_may_return_what_reads_as_numbers() -> None:
    expected = ed.solve(
        REPLICATOR, landscapes.LinearDecay([1.0, 0.0], 0.0), [1.0, 1.0], (0.0, 5.0), solver=solver("RK45")
    )
    kinds: list[Any] = [[1, 0], (1.0, 0.0), np.array([1, 0]), np.array([1.0, 0.0], dtype=np.float32)]
    for returned in kinds:

        def landscape(t: float, masses: Array, returned: Any = returned) -> Any:
            return returned

        run = ed.solve(REPLICATOR, landscape, [1.0, 1.0], (0.0, 5.0), solver=solver("RK45"))
        np.testing.assert_allclose(run.masses, expected.masses, rtol=1e-12)


@by_every_method
def test_statistics_say_how(method: MethodName) -> None:
    calls = []

    def counting(t: float, masses: Array) -> Array:
        calls.append(t)
        return np.array([1.0, 0.0]) - 0.1 * masses

    run = ed.solve(REPLICATOR, counting, [1.0, 1.0], (0.0, 5.0), save_at=[5.0], solver=solver(method))
    assert run.stats.method == ("DOP853" if method == "auto" else method)
    assert run.stats.reason and run.stats.message == ""
    # Beside the integrator's own, a few calls check the start and find mean fitness.
    assert run.stats.evaluations <= len(calls) <= run.stats.evaluations + 10
    assert 0 < run.stats.steps <= run.stats.evaluations and run.stats.restarts == 0


def test_runs_are_repeatable_bit_for_bit() -> None:
    for method in EVERY:
        runs = [
            ed.solve(
                ed.SelectionMutation(0.1),
                landscapes.MatrixGame(np.outer([1.0, 2.0], [3.0, -1.0])),
                [1.0, 0.0],
                (0.0, 5.0),
                extinction=ed.Extinction(0.05),
                solver=solver(method),
            )
            for _ in range(2)
        ]
        assert runs[0].same_as(dataclasses.replace(runs[1], landscape=runs[0].landscape))
        assert runs[0].same_as(runs[1])


def test_the_closed_form_is_exact_at_any_time() -> None:
    # To the last bits of its own logarithms, against 50 digits.
    c, p0 = [0.3, -1.7, 0.2999], [1.0, 3.0, 1e-30]
    times = np.array([0.0, 1e-9, 1.0, 1e3, 1e6])
    run = ed.solve(REPLICATOR, landscapes.Constant(c), p0, (0.0, 1e6), save_at=times)
    for row, t in enumerate(times):
        logs = [
            references.mpmath.log(references.mpmath.mpf(p))
            + references.mpmath.mpf(a) * references.mpmath.mpf(float(t))
            for a, p in zip(c, p0, strict=True)
        ]
        top = max(logs)
        total = (
            references.mpmath.log(references.mpmath.fsum(references.mpmath.exp(x - top) for x in logs)) + top
        )
        expected = [
            float(x - total + references.mpmath.log(references.mpmath.fsum(map(references.mpmath.mpf, p0))))
            for x in logs
        ]
        np.testing.assert_allclose(run.log_masses[row], expected, rtol=1e-14, atol=1e-13 * (1 + t))


def test_a_stiff_problem_is_told_by_its_jacobian() -> None:
    # 768 groups whose density term is a million times faster than selection between them.
    c = landscapes.contributions("lognormal", n=64, heterogeneity=0.1, rng=1)
    run = ed.solve(
        REPLICATOR,
        landscapes.LinearDecay(c, 1e4),
        np.ones(64),
        (0.0, 100.0),
        save_at=[100.0],
        solver=ed.Solver(compiled=False),
    )
    assert run.stats.method == "DOP853 and Rodas5P" and "stiff" in run.stats.reason
    level = (c.sum() - 1e4 * 64) / 64
    np.testing.assert_allclose(run.masses[-1], (c - level) / 1e4, rtol=1e-7)


@pytest.mark.parametrize("name", ["mutation", "redundancy", "blocks"])
def test_other_stiff_problems_are_told_as_well(name: str) -> None:
    # Fast mutation, fast competition through a matrix, and one stiff block of two.
    c, p0 = np.linspace(-1.0, 1.0, 8), np.linspace(0.5, 1.5, 8)
    dynamics, landscape = {
        "mutation": (ed.SelectionMutation(1e4, p0), landscapes.Constant(c)),
        "redundancy": (ed.Replicator(), landscapes.Redundancy(c, np.eye(8) + 0.2, 1e4)),
        "blocks": (
            ed.Populations((ed.SelectionMutation(1e4, 1.0), ed.Replicator()), (4, 4)),
            landscapes.Constant(c),
        ),
    }[name]
    few = ed.Solver(max_steps=20_000)
    run = ed.solve(dynamics, landscape, p0, (0.0, 100.0), save_at=[100.0], solver=few)
    assert run.termination is ed.Termination.COMPLETED
    fitness = landscape(100.0, run.masses[-1])
    assert np.abs(dynamics.velocity(run.masses[-1], fitness))[:4].max() < 1e-3


def test_log_masses_pay_off() -> None:
    # Eq. 10 with 768 groups: less than a third of the evaluations of SciPy's best method on masses, which
    # moreover leaves some of them negative. (How much time that saves is for `make bench` to say.)
    from scipy.integrate import solve_ivp

    c = landscapes.contributions("lognormal", n=768, heterogeneity=1.0, rng=0)
    landscape = landscapes.LinearDecay(c, decay=1e-3)
    p0, times = np.ones(768), np.linspace(0, 50, 101)

    def on_masses(t: float, p: FloatArray) -> FloatArray:
        phi = landscape(t, p)
        out: FloatArray = p * (phi - p @ phi / p.sum())
        return out

    run = ed.solve(REPLICATOR, landscape, p0, (0.0, 50.0), save_at=times)
    theirs = [
        solve_ivp(on_masses, (0, 50), p0, m, times, rtol=1e-8, atol=1e-10)
        for m in ("RK45", "DOP853", "LSODA")
    ]
    assert run.stats.evaluations < min(result.nfev for result in theirs) / 3
    assert run.masses.min() >= 0 > max(result.y.min() for result in theirs)


class OwnMethod(RK45):
    """An integrator of a user's own, built like SciPy's."""


def test_an_integrator_of_ones_own_is_used_saved_by_name_and_missed_by_name(tmp_path: Path) -> None:
    problem = (ed.Replicator(), ed.landscapes.LinearDecay([1.0, 2.0, 3.0], 0.1), [1.0, 1.0, 1.0], (0.0, 20.0))
    run = ed.solve(*problem, solver=ed.Solver(method=OwnMethod))
    assert run.stats.method == "OwnMethod"
    reference = ed.solve(*problem, solver=ed.Solver(rtol=1e-12, atol=1e-13))
    np.testing.assert_allclose(run.log_masses, reference.log_masses, atol=1e-6)
    run.save(tmp_path / "run.nc")
    loaded = ed.load(tmp_path / "run.nc")
    with pytest.raises(ValueError, match=r"OwnMethod, not rerunnable.*subclass of scipy.integrate.OdeSolver"):
        ed.extend(loaded, 30.0)
    with pytest.raises(ValueError, match=r"method is <built-in function len>; expected one of RK45"):
        ed.solve(*problem, solver=ed.Solver(method=len))
