"""Rest points of dynamics and landscapes of a user's own: right, or refused by name."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import evodyn as ed
from evodyn.arrays import Array, FloatArray

CONSERVING = ed.Selection(
    lambda masses, fitness: (
        fitness - (masses * fitness).sum(-1, keepdims=True) / masses.sum(-1, keepdims=True)
    )
)
HAWK_DOVE = ed.landscapes.MatrixGame([[-1.0, 4.0], [0.0, 2.0]])


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LotkaVolterra(ed.Dynamics):
    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        return fitness


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Quasispecies(ed.Dynamics):
    """dp_i/dt = Σ_j Q_ij φ_j p_j - φ̄ p_i, whose inflow depends on masses and fitness."""

    matrix: FloatArray

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        return np.diag(self.matrix) * fitness - ed.mean_fitness(masses, fitness)

    def inflow(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array | float:
        made = np.where(masses > 0, fitness, 0.0) * masses
        return (self.matrix - np.diag(np.diag(self.matrix))) @ made


def single_peak(length: int, advantage: float, error: float) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return mutation matrix (columns sum to 1) and fitness of error classes, and the Perron vector."""
    q = np.zeros((length + 1, length + 1))
    for i, j in itertools.product(range(length + 1), repeat=2):
        for back in range(max(0, j - i), min(j, length - i) + 1):
            forth = i - j + back
            ways = math.comb(j, back) * math.comb(length - j, forth)
            q[i, j] += ways * error ** (back + forth) * (1 - error) ** (length - back - forth)
    fitness = np.where(np.arange(length + 1) == 0, advantage, 1.0)
    values, vectors = np.linalg.eig(q * fitness)
    perron = np.abs(vectors[:, values.real.argmax()])
    return q, fitness, perron / perron.sum()


def food_web(t: float, masses: Array) -> Array:
    b1, b2, b3 = masses
    d, x = 0.25 + b1**2, 0.314
    return np.array(
        [
            1 - b1 - x * 7.992 * b2 * b1 / d - x * 8 * b3 * b1 / d,
            x * 7.992 * b1**2 / d - x,
            x * 8 * b1**2 / d - x,
        ]
    )


def test_a_dynamics_without_comparison_rests_where_it_grows_no_more() -> None:
    landscape = ed.landscapes.LinearDecay([1.0, 2.0, 3.0], decay=1.0)
    choices: list[dict[str, Any]] = [
        {"start": [1.0, 1.0, 1.0]},
        {},
        {"total_mass": 6.0},
        {"support": [0, 1, 2]},
    ]
    for options in choices:
        found = ed.equilibrium(LotkaVolterra(), landscape, **options)
        np.testing.assert_allclose(found.masses, [1.0, 2.0, 3.0], rtol=1e-12)
        assert found.stability is ed.Stability.STABLE
        assert found.eigenvalues is not None
        np.testing.assert_allclose(found.eigenvalues, [-1.0, -2.0, -3.0], rtol=1e-6)
    with pytest.raises(ValueError, match=r"total_mass is 3.* sum to 6"):
        ed.equilibrium(LotkaVolterra(), landscape, total_mass=3.0)
    with pytest.raises(ValueError, match="does not conserve"):
        ed.all_equilibria(LotkaVolterra(), landscape, total_mass=6.0)
    assert len(ed.all_equilibria(LotkaVolterra(), landscape)) == 7


def test_a_certificate_leaves_the_array_of_the_landscape_alone() -> None:
    kept = np.array([3.0, 2.0, 0.0])

    @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    class Lent(ed.landscapes.LinearDecay):
        def __call__(self, t: float, masses: Array) -> Array:
            return kept

        def separable(self, n: int) -> ed.landscapes.Separable:
            return ed.landscapes.Separable(kept, decay=1e-300)

    for landscape in (Lent(kept, 0.0), lambda t, masses: kept):
        ed.equilibrium(ed.Replicator(), landscape, total_mass=1.0, support=np.array([True, False, False]))
        assert kept.tolist() == [3.0, 2.0, 0.0]


@pytest.mark.parametrize("seed", range(4))
def test_communities_of_lotka_and_volterra(seed: int) -> None:
    rng = np.random.default_rng(seed)
    competition = np.diag(rng.uniform(1, 2, 3)) + rng.uniform(0, 0.6, (3, 3))
    rates = rng.uniform(0.2, 1, 3)
    landscape = ed.landscapes.Constant(rates) + (lambda t, masses: -(competition @ masses))
    expected = []
    for size in (1, 2, 3):
        for chosen in map(list, itertools.combinations(range(3), size)):
            masses = np.zeros(3)
            masses[chosen] = np.linalg.solve(competition[np.ix_(chosen, chosen)], rates[chosen])
            if (masses[chosen] > 0).all():
                expected.append(masses)
    found = ed.all_equilibria(LotkaVolterra(), landscape)
    np.testing.assert_allclose([point.masses for point in found], expected, atol=1e-9)


def test_a_start_beside_a_saddle_goes_where_the_flow_goes() -> None:
    coordination = ed.landscapes.MatrixGame(np.eye(2))
    for shift, end in ((1e-8, [1.0, 0.0]), (-1e-8, [0.0, 1.0])):
        found = ed.equilibrium(ed.Replicator(), coordination, start=[0.5 + shift, 0.5 - shift])
        assert found.masses.tolist() == end
        assert found.stability is ed.Stability.STABLE
    saddle = ed.equilibrium(ed.Replicator(), coordination, start=[0.5, 0.5])
    assert saddle.masses.tolist() == [0.5, 0.5]
    assert saddle.stability is ed.Stability.UNSTABLE


@pytest.mark.parametrize("seed", range(4))
def test_bistable_games_near_their_separatrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0.5, 2.0, 2)
    shift = rng.choice([-1.0, 1.0]) * rng.uniform(1e-9, 3e-8)
    x = b / (a + b) + shift
    found = ed.equilibrium(ed.Replicator(), ed.landscapes.MatrixGame(np.diag([a, b])), start=[x, 1 - x])
    np.testing.assert_allclose(found.masses, [1.0, 0.0] if shift > 0 else [0.0, 1.0], atol=1e-12)


def test_a_group_too_rare_for_its_mass_to_be_a_number_still_invades() -> None:
    """The third falls below the least float while the others settle, where it can invade."""
    game = ed.landscapes.MatrixGame([[-1.0, 4.0, 0.0], [0.0, 2.0, 0.0], [42.1, -81.6, -1.0]])
    found = ed.equilibrium(ed.Replicator(), game, start=[0.5, 0.5, 1e-320])
    assert found.survivors[2]
    assert (found.invasion_rates <= 0).all()


def test_a_residual_tells_a_wrong_total_mass(monkeypatch: pytest.MonkeyPatch) -> None:
    import evodyn.equilibria as module

    exact = module.solution  # type: ignore[attr-defined]

    def scaled(problem: Any) -> Any:
        found = exact(problem)
        return dataclasses.replace(found, masses=1.01 * found.masses)

    monkeypatch.setattr(module, "solution", scaled)
    assert ed.equilibrium(ed.Replicator(), HAWK_DOVE, total_mass=2.0).residual == pytest.approx(0.01)


def test_a_selection_that_conserves_mass_has_the_rest_points_of_the_replicator() -> None:
    points = ed.all_equilibria(CONSERVING, HAWK_DOVE, total_mass=1.0)
    assert [point.stability.name for point in points] == ["UNSTABLE", "UNSTABLE", "STABLE"]
    choices: list[dict[str, Any]] = [
        {"start": [0.5, 0.5]},
        {"support": [0, 1], "total_mass": 1.0},
        {"total_mass": 1.0},
    ]
    for options in choices:
        found = ed.equilibrium(CONSERVING, HAWK_DOVE, **options)
        np.testing.assert_allclose(found.masses, [2 / 3, 1 / 3], rtol=1e-12)
        assert found.stability is ed.Stability.STABLE
    with pytest.raises(ValueError, match="total_mass is None"):
        ed.all_equilibria(CONSERVING, ed.landscapes.LinearDecay([1.0, 2.0], 1.0))


@pytest.mark.parametrize("seed", range(6))
def test_games_written_as_selection_lose_no_rest_point(seed: int) -> None:
    game = ed.landscapes.MatrixGame(np.random.default_rng(seed).normal(size=(3, 3)))
    expected = ed.all_equilibria(ed.Replicator(), game)
    found = ed.all_equilibria(CONSERVING, game, total_mass=1.0)
    np.testing.assert_allclose([p.masses for p in found], [p.masses for p in expected], atol=1e-9)
    assert [p.stability for p in found] == [p.stability for p in expected]


@pytest.mark.parametrize(("error", "master"), [(0.02, 0.6313660586), (0.08, 0.1024908751)])
def test_the_quasispecies_of_a_single_peak(error: float, master: float) -> None:
    """Published values for L = 20 and σ = 10, in both ways of writing the dynamics."""
    matrix, fitness, perron = single_peak(20, 10.0, error)
    landscape = ed.landscapes.Constant(fitness)

    def per_capita(masses: Array, fitness: Array) -> Array:
        made = (matrix @ (fitness * masses)) / np.where(masses > 0, masses, 1.0)
        return made - (masses * fitness).sum(-1, keepdims=True) / masses.sum(-1, keepdims=True)

    for dynamics in (ed.Selection(per_capita), Quasispecies(matrix)):
        found = ed.equilibrium(dynamics, landscape, start=np.full(21, 1 / 21))
        assert found.masses[0] == pytest.approx(master, abs=1e-10)
        np.testing.assert_allclose(found.masses, perron, atol=1e-12)
        assert found.stability is ed.Stability.STABLE
    pure = np.zeros(21)
    pure[0] = 1.0
    assert ed.equilibrium(Quasispecies(matrix), landscape, start=pure).survivors.all()


def test_a_replicator_mutator_rests_where_its_flow_is_zero() -> None:
    """In the notation of Nashpy, whose mutation matrix has rows that sum to 1: an asymmetric one."""
    game = ed.landscapes.MatrixGame([[4.0, 1.0], [2.0, 3.0]])
    rows = np.array([[0.9, 0.1], [0.3, 0.7]])
    found = ed.equilibrium(Quasispecies(rows.T), game, start=[0.4, 0.6])
    x = found.masses
    flow = rows.T @ (x * (game.payoff @ x)) - x * (x @ game.payoff @ x)
    assert np.abs(flow).max() < 1e-12
    assert found.stability is ed.Stability.STABLE


def test_a_slow_approach_is_no_cycle() -> None:
    found = ed.equilibrium(LotkaVolterra(), food_web, start=[0.5, 0.5, 0.5])
    np.testing.assert_allclose(found.masses, [0.18898224, 0.0, 0.48811449], atol=1e-8)
    assert found.stability is ed.Stability.STABLE
    assert found.invasion_rates[1] == pytest.approx(-3.14e-4, abs=1e-9)


@pytest.mark.parametrize("shape", [lambda x: x, lambda x: x + 0.1 * np.sin(x)], ids=["affine", "curved"])
def test_ties_in_payoffs_make_no_rest_points(shape: Callable[[Array], Array]) -> None:
    """Where payoffs tie a vertex attracts so slowly that an iteration may take its way for its end."""
    rng = np.random.default_rng(0)
    games = [np.array([[-5.0, -2.0, -1.0], [1.0, -1.0, -4.0], [-5.0, -5.0, -5.0]])]
    games += [rng.integers(-3, 3, size=(3, 3)).astype(float) for _ in range(4)]
    for game in games:
        exact = ed.landscapes.MatrixGame(game)
        asked = ed.landscapes.Constant(np.zeros(3)) + (lambda t, p: shape(game @ (p / p.sum())))  # noqa: B023
        for chosen in itertools.combinations(range(3), 2):
            # An increasing function of fitness leaves pairs at rest where they were.
            assert exists(exact, chosen) == exists(asked, chosen), (game.tolist(), chosen)


def exists(landscape: ed.landscapes.Landscape, chosen: tuple[int, ...]) -> bool:
    try:
        ed.equilibrium(ed.Replicator(), landscape, support=list(chosen), total_mass=1.0)
    except ValueError:
        return False
    return True


def test_rates_that_depend_on_time_have_no_rest_point() -> None:
    @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    class Seasons(ed.Dynamics):
        def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
            return fitness * math.sin(time)

    with pytest.raises(ValueError, match=r"Seasons.*function of time"):
        ed.equilibrium(Seasons(), ed.landscapes.LinearDecay([1.0, 2.0], 1.0), start=[1.0, 1.0])


def test_messages_of_all_equilibria_name_its_own_arguments() -> None:
    for landscape in (ed.landscapes.LinearDecay([1.0, 2.0], 1.0), lambda t, masses: -masses):
        with pytest.raises(ValueError, match="expected") as caught:
            ed.all_equilibria(ed.Replicator(), landscape)
        assert "start" not in str(caught.value).replace("starts with", "")
        assert "support" not in str(caught.value)
