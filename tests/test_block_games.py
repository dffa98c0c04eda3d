"""Games between populations: fitness, rest points with their verdicts, and Nashpy's equilibria."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import evodyn as ed
from evodyn.core.arrays import FloatArray

PENNIES = np.array([[1.0, -1.0], [-1.0, 1.0]])
SEXES = np.array([[2.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [0.0, 2.0]])


def bimatrix(a: FloatArray, b: FloatArray) -> tuple[ed.Populations, ed.landscapes.BlockGame]:
    game = ed.landscapes.BlockGame({(0, 1): a, (1, 0): b.T}, a.shape)
    return ed.Populations(ed.Replicator(), game.sizes), game


def test_fitness_is_payoff_against_the_shares_of_each_block() -> None:
    rng = np.random.default_rng(0)
    own, other, third = rng.normal(size=(2, 2)), rng.normal(size=(2, 3)), rng.normal(size=(3, 1))
    game = ed.landscapes.BlockGame({(1, 2): third, (0, 0): own, (0, 1): other}, (2, 3, 1))
    masses = rng.uniform(0.1, 2.0, (4, 6))
    for row, fitness in zip(masses, game(0.0, masses), strict=True):
        x, y = row[:2] / row[:2].sum(), row[2:5] / row[2:5].sum()
        np.testing.assert_allclose(fitness, [*(own @ x + other @ y), *third[:, 0], 0.0], rtol=1e-13)
        np.testing.assert_allclose(game(0.0, row), fitness, rtol=1e-15)
    assert (game(0.0, np.array([1.0, 1.0, 0.0, 0.0, 0.0, 1.0]))[:2] == own.mean(axis=1)).all()
    logs, width = np.log(masses[0]), 1e-6
    ahead, behind = (
        np.array([game(0.0, np.exp(logs + sign * width * e)) for e in np.eye(6)]) for sign in (1, -1)
    )
    slopes = game.linearization(0.0, logs).to_dense()
    np.testing.assert_allclose(slopes, (ahead - behind).T / (2 * width), atol=1e-8)


def test_matching_pennies_turn_round_a_neutral_point() -> None:
    dynamics, game = bimatrix(PENNIES, -PENNIES)
    *corners, mixed = ed.all_equilibria(dynamics, game)
    assert [point.stability.name for point in corners] == ["UNSTABLE"] * 4
    np.testing.assert_allclose(mixed.masses, 0.5, rtol=1e-14)
    assert mixed.stability is ed.Stability.NEUTRAL
    assert mixed.eigenvalues is not None
    np.testing.assert_allclose(sorted(mixed.eigenvalues.imag), [-1.0, 1.0], rtol=1e-12)
    run = ed.solve(dynamics, game, [0.8, 0.2, 0.5, 0.5], (0.0, 40.0))
    conserved = np.log(run.masses).sum(axis=1)  # Π x_i (1 - x_i) is
    np.testing.assert_allclose(conserved, conserved[0], atol=1e-6)


@pytest.mark.parametrize(("scale", "totals"), [(3.0, None), (1.0, [5.0, 0.1]), (0.2, [2.0, 7.0])])
def test_pennies_of_any_worth_are_neutral(scale: float, totals: list[float] | None) -> None:
    dynamics, game = bimatrix(scale * PENNIES, 2.0 - PENNIES)
    point = ed.equilibrium(dynamics, game, total_mass=totals)
    assert point.stability is ed.Stability.NEUTRAL
    # Without that much as a constraint, two who both want to match come together.
    both = ed.equilibrium(*bimatrix(scale * PENNIES, PENNIES), total_mass=totals, support=[0, 1, 2, 3])
    assert both.stability is ed.Stability.UNSTABLE


def test_the_battle_of_the_sexes_has_two_strict_corners() -> None:
    dynamics, game = bimatrix(*SEXES)
    points = ed.all_equilibria(dynamics, game)
    stable = [point.masses.round(14).tolist() for point in points if point.stability.name == "STABLE"]
    assert stable == [[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]]
    np.testing.assert_allclose(points[-1].masses, [2 / 3, 1 / 3, 1 / 3, 2 / 3], rtol=1e-13)
    assert points[-1].stability is ed.Stability.UNSTABLE
    assert points[-1].eigenvalues is not None
    np.testing.assert_allclose(sorted(points[-1].eigenvalues.real), [-2 / 3, 2 / 3], rtol=1e-12)


def test_populations_that_start_pure_stay_pure() -> None:
    dynamics, game = bimatrix(*SEXES)
    pure = np.array([1.0, 0.0, 0.0, 1.0])
    run = ed.solve(dynamics, game, pure, (0.0, 50.0))
    assert (run.masses == pure).all()
    point = ed.equilibrium(dynamics, game, start=pure)
    np.testing.assert_allclose(point.masses, pure, rtol=1e-15)  # the absent ones exactly
    assert point.stability is ed.Stability.UNSTABLE
    np.testing.assert_allclose(point.invasion_rates, [0.0, 1.0, 1.0, 0.0], rtol=1e-14, atol=1e-15)


@pytest.mark.filterwarnings(r"ignore:\s*An even number:RuntimeWarning")
@pytest.mark.parametrize("shape", [(2, 2), (3, 3), (2, 4)])
def test_what_nobody_invades_is_what_nashpy_enumerates(shape: tuple[int, int]) -> None:
    nash: Any = pytest.importorskip("nashpy")
    rng = np.random.default_rng(sum(shape))
    for _ in range(4):
        a, b = rng.normal(size=shape), rng.normal(size=shape)
        game = nash.Game(a, b)
        ours = [p.masses for p in ed.all_equilibria(*bimatrix(a, b)) if p.invasion_rates.max() < 1e-9]
        # By supports it loses mixed equilibria whose payoffs differ by rounding; by vertices it has all.
        supports, vertices = (
            [np.concatenate(pair) for pair in found()]
            for found in (game.support_enumeration, game.vertex_enumeration)
        )
        assert len(ours) == len(vertices)
        for point in supports + vertices:
            assert min(np.abs(point - mine).max() for mine in ours) < 1e-9


@pytest.mark.parametrize("method", ["auto", "DOP853", "LSODA", "BDF"])
def test_every_method_runs_it(method: Any) -> None:
    rng = np.random.default_rng(3)
    a, b, start = rng.normal(size=(2, 3)), rng.normal(size=(2, 3)), np.array([1.0, 2.0, 0.3, 0.3, 0.4])

    def velocity(t: float, p: FloatArray) -> FloatArray:
        x, y = p[:2] / p[:2].sum(), p[2:] / p[2:].sum()
        f, g = a @ y, b.T @ x
        return np.concatenate((p[:2] * (f - x @ f), p[2:] * (g - y @ g)))

    wanted = solve_ivp(velocity, (0.0, 10.0), start, "DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    dynamics, game = bimatrix(a, b)
    run = ed.solve(dynamics, game, start, (0.0, 10.0), solver=ed.Solver(method=method))
    np.testing.assert_allclose(run.masses[-1], wanted, rtol=1e-5, atol=1e-9)


def test_it_is_saved_compared_and_shown(tmp_path: Path) -> None:
    dynamics, game = bimatrix(*SEXES)
    run = ed.solve(dynamics, game + ed.landscapes.Constant(np.zeros(4)), np.ones(4), (0.0, 1.0))
    run.save(tmp_path / "run.nc")
    loaded = ed.load(tmp_path / "run.nc")
    assert isinstance(loaded, ed.Run)
    assert loaded.landscape.same_as(run.landscape)  # type: ignore[attr-defined]
    again = ed.landscapes.BlockGame(dict(reversed(game.payoffs)), game.sizes)
    assert again.same_as(game)
    assert not again.same_as(bimatrix(SEXES[1], SEXES[0])[1])
    assert repr(game).startswith("BlockGame(payoffs=(((0, 1), [[2., 0.]")
    with pytest.raises(ValueError, match="read-only"):
        game.payoffs[0][1][0, 0] = 5.0
    with pytest.raises(ValueError, match="made for 4 groups and p0 has 3"):
        ed.solve(ed.Replicator(), game, np.ones(3), (0.0, 1.0))


@pytest.mark.parametrize(
    ("payoffs", "message"),
    [
        ({(0, 1): np.ones((3, 2))}, r"payoffs\[0, 1\] has shape \(3, 2\); expected \(2, 3\): the strategies"),
        ({(0, 2): np.ones((2, 2))}, r"the key \(0, 2\); expected a pair of blocks, numbers from 0 to 1"),
        ({0: np.ones((2, 2))}, "the key 0; expected a pair"),
        ({(0, 1): [[np.nan] * 3] * 2}, r"payoffs\[0, 1\] is nan at index \(0, 0\)"),
        ({}, r"payoffs is \{\}; expected a mapping"),
        (PENNIES, "expected a mapping"),
    ],
)
def test_what_is_no_game_is_refused(payoffs: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ed.landscapes.BlockGame(payoffs, (2, 3))
