"""Mutation among offspring, against Perron vectors, Nashpy's figures, and a general integrator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from scipy.integrate import solve_ivp
from scipy.stats import binom

import evodyn as ed
from evodyn.core.arrays import FloatArray

Q = np.array([[0.9, 0.0, 0.05], [0.1, 0.7, 0.05], [0.0, 0.3, 0.9]])  # not symmetric: rows do not sum to 1
C = np.array([2.0, 1.0, 0.5])
P0 = np.array([0.5, 1.0, 1.5])
MUTATING = ed.ReplicatorMutator(Q)
CONSTANT = ed.landscapes.Constant(C)
GAME = ed.landscapes.MatrixGame([[3.0, 2.0], [4.0, 2.0]])
NASHPY = np.array([[0.9, 0.1], [0.2, 0.8]])  # whose rows sum to 1


def perron(matrix: FloatArray, total: float = 1.0) -> FloatArray:
    values, vectors = scipy.linalg.eig(matrix)
    vector = np.abs(vectors[:, values.real.argmax()].real)
    result: FloatArray = total * vector / vector.sum()
    return result


def exact(t: FloatArray, p0: FloatArray = P0) -> FloatArray:
    """The flow of constant fitness: exp(QFt) p0 at the total mass of p0."""
    grown = np.array([scipy.linalg.expm(Q * C * time) @ p0 for time in t])
    result: FloatArray = grown * (p0.sum() / grown.sum(axis=1, keepdims=True))
    return result


def error_classes(length: int, rate: float) -> FloatArray:
    """Mutation between the numbers of letters that differ from the master's."""
    letters = np.arange(length + 1)
    columns = [
        np.convolve(
            binom.pmf(letters[: j + 1], j, 1 - rate), binom.pmf(letters[: length - j + 1], length - j, rate)
        )
        for j in letters
    ]
    return np.array(columns).T


def test_velocity_is_its_equation() -> None:
    phi = np.array([0.3, 0.0, 2.0])
    masses = np.array([[0.5, 1.0, 1.5], [0.0, 2.0, 1e-300]])
    for p, velocity in zip(masses, MUTATING.velocity(masses, np.stack((phi, phi))), strict=True):
        mean = sum(p * phi) / sum(p)
        wanted = [sum(Q[i, j] * phi[j] * p[j] for j in range(3)) - mean * p[i] for i in range(3)]
        np.testing.assert_allclose(velocity, wanted, atol=1e-15)
        assert abs(velocity.sum()) < 1e-15


@pytest.mark.parametrize("method", ["auto", "LSODA", "Radau"])
def test_constant_fitness_has_a_closed_form_and_a_perron_vector(method: Any) -> None:
    run = ed.solve(MUTATING, CONSTANT, P0, (0.0, 40.0), solver=ed.Solver(method=method))
    np.testing.assert_allclose(run.masses, exact(run.t), rtol=1e-6)
    np.testing.assert_allclose(run.total_mass, 3.0, rtol=1e-15)
    point = ed.equilibrium(MUTATING, CONSTANT, total_mass=3.0)
    np.testing.assert_allclose(point.masses, perron(Q * C, 3.0), rtol=1e-12)
    assert point.stability is ed.Stability.STABLE
    gaps = np.sort(np.linalg.eigvals(Q * C).real)[:-1] - np.linalg.eigvals(Q * C).real.max()
    assert point.eigenvalues is not None
    np.testing.assert_allclose(np.sort(point.eigenvalues.real), gaps, rtol=1e-7)


def test_nashpy_prints_the_same_trajectory() -> None:
    run = ed.solve(
        ed.ReplicatorMutator(NASHPY.T), GAME, [0.5, 0.5], (0.0, 10.0), save_at=np.linspace(0.0, 10.0, 1000)
    )
    np.testing.assert_allclose(run.masses[[1, 2, -1], 0], [0.50049813, 0.50099155, 0.55278214], atol=6e-9)
    point = ed.equilibrium(ed.ReplicatorMutator(NASHPY.T), GAME)
    assert point.masses[0] == pytest.approx(0.5527864045, abs=5e-11)
    wrong = ed.equilibrium(ed.ReplicatorMutator([[0.8, 0.1], [0.2, 0.9]]), GAME)
    assert abs(wrong.masses[0] - 0.5527864045) > 0.1


def test_nashpy_itself_agrees() -> None:
    nash: Any = pytest.importorskip("nashpy")
    payoff, times = np.random.default_rng(1).uniform(0.0, 3.0, (3, 3)), np.linspace(0.0, 5.0, 6)
    theirs = nash.Game(payoff).replicator_dynamics(y0=P0 / 3, timepoints=times, mutation_matrix=Q.T)
    ours = ed.solve(MUTATING, ed.landscapes.MatrixGame(payoff), P0 / 3, (0.0, 5.0), save_at=times)
    np.testing.assert_allclose(ours.masses, theirs, atol=1e-7)


@pytest.mark.parametrize(("rate", "share"), [(0.02, 0.6313660586), (0.08, 0.1024908751)])
def test_a_quasispecies_has_its_master(rate: float, share: float) -> None:
    length = 20
    dynamics, fitness = ed.ReplicatorMutator(error_classes(length, rate)), np.ones(length + 1)
    fitness[0] = 10.0
    landscape, start = ed.landscapes.Constant(fitness), np.eye(length + 1)[0]
    point = ed.equilibrium(dynamics, landscape)
    assert point.masses[0] == pytest.approx(share, abs=5e-11)
    np.testing.assert_allclose(point.masses, perron(dynamics.matrix * fitness), atol=1e-12)
    assert ed.solve(dynamics, landscape, start, (0.0, 60.0)).masses[-1, 0] == pytest.approx(share, abs=1e-9)
    generations = ed.iterate(dynamics, landscape, start, 300, 1.0, scheme="ratio", save_every=300)
    np.testing.assert_allclose(generations.masses[-1], point.masses, rtol=1e-9)


def test_with_the_identity_it_is_the_replicator() -> None:
    faithful = ed.ReplicatorMutator(np.eye(3))
    landscape = ed.landscapes.LinearDecay([1.0, 0.5, -2.0], decay=0.3)  # negative: no mutant is born at it
    ours, theirs = (ed.solve(d, landscape, P0, (0.0, 20.0)) for d in (faithful, ed.Replicator()))
    np.testing.assert_array_equal(ours.masses, theirs.masses)
    points = [ed.all_equilibria(d, landscape, total_mass=3.0) for d in (faithful, ed.Replicator())]
    assert [p.stability for p in points[0]] == [p.stability for p in points[1]]
    assert ed.solve(faithful, CONSTANT, P0, (0.0, 1.0)).stats.method == "closed_form"


def test_mutation_revives_zeros_one_after_another() -> None:
    start = np.array([0.0, 0.0, 3.0])
    run = ed.solve(MUTATING, CONSTANT, start, (0.0, 30.0), save_at=[1e-9, 1e-3, 1.0, 30.0])
    # 2 is born into 0 and 1 at once; without that, into 1 by way of 0.
    np.testing.assert_allclose(run.masses, exact(run.t, start), rtol=1e-5)
    chain = ed.ReplicatorMutator([[1.0, 0.1, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, 0.9]])
    fitness = np.array([1.0, 2.0, 1.5])
    run = ed.solve(chain, ed.landscapes.Constant(fitness), start, (0.0, 2.0), save_at=[1e-4, 2.0])
    for row, time in zip(run.masses, run.t, strict=True):
        grown = scipy.linalg.expm(chain.matrix * fitness * time) @ start
        np.testing.assert_allclose(row, 3 * grown / grown.sum(), rtol=1e-5)


def test_an_absorbed_group_is_born_no_more() -> None:
    run = ed.solve(MUTATING, CONSTANT, P0, (0.0, 30.0), extinction=ed.Extinction(0.4, "absorb"))
    gone = np.flatnonzero(np.isfinite(run.extinction_time))
    assert len(gone)
    assert (run.masses[-1, gone] == 0).all()
    first = run.extinction_time.min()
    k = int(run.extinction_time.argmin())
    reduced, left = np.delete(np.delete(Q, k, 0), k, 1), np.delete(exact(np.array([first]))[0], k)
    times = run.t[(run.t > first) & (run.t < np.sort(run.extinction_time)[1])]
    c = np.delete(C, k)

    def velocity(t: float, p: FloatArray) -> FloatArray:
        result: FloatArray = reduced @ (c * p) - p * (p @ c) / p.sum()
        return result

    reference = solve_ivp(velocity, (first, times[-1]), left, "DOP853", times, rtol=1e-11, atol=1e-13).y.T
    masses = np.delete(run.masses[np.isin(run.t, times)], k, axis=1)
    np.testing.assert_allclose(masses, reference, rtol=1e-5)
    assert masses[-1].sum() < left.sum()


def test_negative_fitness_is_refused_where_it_is_evaluated() -> None:
    with pytest.raises(ValueError, match=r"fitness is -1 for group 1; expected fitness >= 0"):
        ed.solve(MUTATING, ed.landscapes.Constant([1.0, -1.0, 0.0]), P0, (0.0, 1.0))
    absent = ed.landscapes.Constant([1.0, 1.0, -1.0])
    chain = ed.ReplicatorMutator([[0.9, 0.2, 0.0], [0.1, 0.8, 0.0], [0.0, 0.0, 1.0]])
    assert ed.solve(chain, absent, [1.0, 1.0, 0.0], (0.0, 1.0)).succeeded  # and nobody is born there

    def falling(t: float, masses: FloatArray) -> FloatArray:
        result: FloatArray = C - t + 0 * masses
        return result

    runs: list[Callable[[], ed.Run]] = [
        lambda: ed.solve(MUTATING, falling, P0, (0.0, 4.0)),
        lambda: ed.iterate(MUTATING, falling, P0, 40, 0.1),
    ]
    for run in runs:
        with pytest.raises(ed.SolveError, match="expected fitness >= 0") as caught:
            run()
        assert 0.4 < caught.value.time < 0.7
        assert len(caught.value.result.t)


def test_a_matrix_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="its rows do, so give its transpose"):
        ed.ReplicatorMutator(NASHPY)
    with pytest.raises(ValueError, match=r"column 1 with sum 0.5; expected 1: divide"):
        ed.ReplicatorMutator([[1.0, 0.5], [0.0, 0.0]])
    with pytest.raises(ValueError, match=r"matrix is -0.1 at index \(0, 1\)"):
        ed.ReplicatorMutator([[1.0, -0.1], [0.0, 1.1]])
    with pytest.raises(ValueError, match="matrix is for 3 groups; expected 2"):
        ed.solve(MUTATING, GAME, [1.0, 1.0], (0.0, 1.0))


def test_maps_conserve_mass_or_are_positive() -> None:
    euler = ed.iterate(MUTATING, CONSTANT, P0, 400, 0.1)
    np.testing.assert_allclose(euler.total_mass, 3.0, rtol=1e-12)
    np.testing.assert_allclose(euler.masses[-1], perron(Q * C, 3.0), rtol=1e-9)
    positive = ed.iterate(MUTATING, CONSTANT, [0.0, 0.0, 3.0], 5, 20.0, scheme="exponential")
    assert (positive.masses[-1] > 0).all()
    for scheme in ("euler", "exponential"):
        one, two = (
            ed.iterate(MUTATING, CONSTANT, P0, n, 1.0 / n, scheme=scheme).masses[-1] for n in (500, 1000)
        )
        wanted = exact(np.array([1.0]))[0]
        np.testing.assert_allclose(abs(one - wanted) / abs(two - wanted), 2.0, rtol=0.05)


def test_it_goes_through_everything_else(tmp_path: Path) -> None:
    run = ed.solve(MUTATING, CONSTANT, P0, (0.0, 5.0))
    run.save(tmp_path / "run.nc")
    loaded = ed.load(tmp_path / "run.nc")
    assert isinstance(loaded, ed.Run)
    assert loaded.dynamics.same_as(MUTATING)
    np.testing.assert_allclose(ed.extend(loaded, 10.0).masses[-1], exact(np.array([10.0]))[0], rtol=1e-6)
    ensemble = ed.solve_ensemble(MUTATING, CONSTANT, np.stack((P0, P0[::-1])), (0.0, 5.0))
    np.testing.assert_allclose(ensemble.masses[1], exact(ensemble.t, P0[::-1]), rtol=1e-6)
    table = ed.diagnostics.diagnostics(run)
    np.testing.assert_allclose(table.mass_inflow, table.mass_outflow, rtol=1e-12)
    # Selection is Fisher's, and mutation what is left of the change of the mean.
    parts = ed.diagnostics.fisher_decomposition(run)
    mean = run.masses @ C / 3
    np.testing.assert_allclose(parts.selection, run.masses @ C**2 / 3 - mean**2, rtol=1e-9)
    born = (run.masses * C) @ Q.T
    np.testing.assert_allclose(parts.rate, born @ C / 3 - mean**2, atol=1e-12)
    blocks = ed.Populations((MUTATING, ed.Replicator()), (3, 2))
    both = ed.landscapes.Constant([*C, 1.0, 0.0])
    whole = ed.solve(blocks, both, [*P0, 1.0, 1.0], (0.0, 5.0))
    np.testing.assert_allclose(whole.masses[:, :3], exact(whole.t), rtol=1e-6)
    point = ed.equilibrium(blocks, both, total_mass=[3.0, 2.0], start=[*P0, 1.0, 1.0])
    np.testing.assert_allclose(point.masses, [*perron(Q * C, 3.0), 2.0, 0.0], atol=1e-9)
    noisy = ed.stochastic.noisy_iterate(MUTATING, CONSTANT, P0, 10, 0.01, noise=0.0)
    np.testing.assert_allclose(noisy.masses[0], ed.iterate(MUTATING, CONSTANT, P0, 10, 0.01).masses)
    with pytest.raises(ValueError, match="white noise makes births negative"):
        ed.stochastic.fitness_noise(
            CONSTANT, P0, (0.0, 1.0), calculus="ito", dynamics=MUTATING, noise=0.1, step_size=0.1
        )


def test_all_rest_points_of_a_coordination_game_are_found() -> None:
    game = ed.landscapes.MatrixGame([[3.0, 0.0], [0.0, 2.0]])
    rate = 0.02
    points = ed.all_equilibria(ed.ReplicatorMutator([[1 - rate, rate], [rate, 1 - rate]]), game)
    # Roots of ẋ = (1-u) 3x² + u 2(1-x)² - x (3x² + 2(1-x)²), from its coefficients.
    x, y = np.polynomial.Polynomial([0, 1]), np.polynomial.Polynomial([1, -1])
    roots = ((1 - rate) * 3 * x**2 + rate * 2 * y**2 - x * (3 * x**2 + 2 * y**2)).roots().real
    np.testing.assert_allclose(sorted(p.masses[0] for p in points), np.sort(roots), atol=1e-10)
    verdicts = [p.stability.name for p in sorted(points, key=lambda p: p.masses[0])]
    assert verdicts == ["STABLE", "UNSTABLE", "STABLE"]
    reducible = ed.ReplicatorMutator([[0.8, 0.0], [0.2, 1.0]])
    found = ed.all_equilibria(reducible, ed.landscapes.Constant([2.0, 1.0]))
    assert [p.masses.round(9).tolist() for p in found] == [[0.0, 1.0], [0.6, 0.4]]
    assert [p.stability.name for p in found] == ["UNSTABLE", "STABLE"]
