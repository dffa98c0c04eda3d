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
from evodyn.core.arrays import Array, FloatArray
from evodyn.equilibria.affine_fitness import AffineFitness

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


def test_a_certificate_leaves_the_array_of_the_dynamics_alone() -> None:
    returned = []

    class Remembered(LotkaVolterra):
        def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
            rates = 1.0 * fitness
            returned.append((rates, rates.copy()))
            return rates

    ed.equilibrium(Remembered(), ed.landscapes.LinearDecay([1.0, 2.0], 1.0), support=[1])
    assert all(np.array_equal(rates, then) for rates, then in returned)


@pytest.mark.parametrize("seed", range(4))
def test_communities_of_lotka_and_volterra(seed: int) -> None:
    """In any unit of mass, also with groups that cannot live alone: no warning, for the system is linear."""
    rng = np.random.default_rng(seed)
    competition = 10.0 ** (4 * seed - 6) * (np.diag(rng.uniform(1, 2, 3)) + rng.uniform(-0.2, 0.4, (3, 3)))
    rates = rng.uniform(-0.3, 1, 3)
    landscape = ed.landscapes.Constant(rates) + (lambda t, masses: -(competition @ masses))
    expected = []
    for size in (1, 2, 3):
        for chosen in map(list, itertools.combinations(range(3), size)):
            masses = np.zeros(3)
            masses[chosen] = np.linalg.solve(competition[np.ix_(chosen, chosen)], rates[chosen])
            if (masses[chosen] > 0).all():
                expected.append(masses)
    found = ed.all_equilibria(LotkaVolterra(), landscape)
    np.testing.assert_allclose([point.masses for point in found], expected, rtol=1e-9)
    for point in found:
        x = point.masses
        jacobian = np.diag(rates - competition @ x) - x[:, None] * competition
        assert point.eigenvalues is not None
        np.testing.assert_allclose(
            np.sort_complex(point.eigenvalues), np.sort_complex(np.linalg.eigvals(jacobian)), rtol=1e-6
        )
    (stable,) = [point for point in found if point.stability is ed.Stability.STABLE]
    reached = ed.equilibrium(LotkaVolterra(), landscape, start=np.full(3, expected[-1].sum()))
    np.testing.assert_allclose(reached.masses, stable.masses, rtol=1e-9)


def test_a_predator_that_starves_leaves_its_prey_alone() -> None:
    slope = np.array([[-1.0, 3.0], [-3.0, -1.0]])
    landscape = ed.landscapes.Constant([5.0, -2.0]) + (lambda t, masses: slope @ masses)
    found = ed.equilibrium(LotkaVolterra(), landscape)
    np.testing.assert_allclose(found.masses, [5.0, 0.0], rtol=1e-12)
    assert found.stability is ed.Stability.STABLE
    assert found.invasion_rates[1] == pytest.approx(-17.0)


def uninvaded(fitness: AffineFitness) -> FloatArray | None:
    """Return the rest point that no group invades, from all sets of survivors in turn."""
    n, free = len(fitness.intercept), bool(np.isnan(fitness.totals).any())
    for alive in map(list, itertools.product([False, True], repeat=n)):
        if not all(any(alive[block]) for block in fitness.blocks):
            continue
        masses = np.zeros(n)
        rows = np.array([np.arange(n) // (n // len(fitness.blocks)) == k for k in range(len(fitness.blocks))])
        member, inner = rows[:, alive].astype(float), fitness.slope[np.ix_(alive, alive)]
        if free:
            levels = np.zeros(len(rows))
            masses[alive] = np.linalg.solve(inner, -fitness.intercept[alive])
        else:
            system = np.block([[inner, -member.T], [member, np.zeros((len(rows), len(rows)))]])
            both = np.linalg.solve(system, np.append(-fitness.intercept[alive], fitness.totals))
            masses[alive], levels = both[: sum(alive)], both[sum(alive) :]
        gains = fitness.intercept + fitness.slope @ masses - levels @ rows
        if (masses >= 0).all() and (gains <= 1e-9).all():
            return masses
    return None


@pytest.mark.parametrize("totals", [[math.nan], [2.0], [1.0, 3.0]], ids=["free", "given", "two blocks"])
@pytest.mark.parametrize("seed", range(5))
def test_attractors_are_those_among_all_sets_of_survivors(seed: int, totals: list[float]) -> None:
    """Also where exchanging all groups at once comes round to the same survivors again, as it does here."""
    rng = np.random.default_rng(seed)
    blocks = tuple(slice(k * 4 // len(totals), (k + 1) * 4 // len(totals)) for k in range(len(totals)))
    for _ in range(40):
        conflict = np.triu(rng.normal(size=(4, 4)), 1)
        slope = conflict - conflict.T - rng.choice([0.03, 0.3]) * np.eye(4)
        fitness = AffineFitness(rng.normal(size=4), slope, blocks, np.array(totals))
        found, expected = fitness.attractor(np.ones(4, dtype=bool)), uninvaded(fitness)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            np.testing.assert_allclose(found, expected, atol=1e-9)


def test_a_start_beside_a_saddle_goes_where_the_flow_goes() -> None:
    coordination = ed.landscapes.MatrixGame(np.eye(2))
    for shift, end in ((1e-8, [1.0, 0.0]), (-1e-8, [0.0, 1.0])):
        found = ed.equilibrium(ed.Replicator(), coordination, start=[0.5 + shift, 0.5 - shift])
        assert found.masses.tolist() == end
        assert found.stability is ed.Stability.STABLE
    saddle = ed.equilibrium(ed.Replicator(), coordination, start=[0.5, 0.5])
    assert saddle.masses.tolist() == [0.5, 0.5]
    assert saddle.stability is ed.Stability.UNSTABLE


def test_a_start_exactly_on_a_separatrix_ends_at_the_saddle() -> None:
    game = ed.landscapes.MatrixGame([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [-1.0, -1.0, -1.0]])
    found = ed.equilibrium(ed.Replicator(), game, start=[0.25, 0.25, 0.5])
    assert found.masses.tolist() == [0.5, 0.5, 0.0]
    assert found.stability is ed.Stability.UNSTABLE


@pytest.mark.parametrize("seed", range(4))
def test_bistable_games_near_their_separatrix(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(0.5, 2.0, 2)
    shift = rng.choice([-1.0, 1.0]) * rng.uniform(1e-9, 3e-8)
    x = b / (a + b) + shift
    found = ed.equilibrium(ed.Replicator(), ed.landscapes.MatrixGame(np.diag([a, b])), start=[x, 1 - x])
    np.testing.assert_allclose(found.masses, [1.0, 0.0] if shift > 0 else [0.0, 1.0], atol=1e-12)


COEXISTING = [[1.486, -0.477, 0.669], [-1.387, 2.666, -0.191], [0.534, 0.777, 1.245]]
EXCLUDING = [[2.814, -0.478, -0.109], [0.523, 0.687, 0.007], [1.757, 1.201, 1.649]]


@pytest.mark.parametrize(
    ("payoff", "start", "end"),
    [
        (COEXISTING, [0.3363972964, 0.3527482318, 0.3108544718], 0),
        (COEXISTING, [0.3363972933, 0.3527482364, 0.3108544703], 2),
        (EXCLUDING, [0.4276561014, 0.4550379768, 0.1173059218], 2),
        (EXCLUDING, [0.4276561054, 0.4550379757, 0.1173059189], 0),
    ],
)
def test_three_strategies_near_their_separatrix(
    payoff: list[list[float]], start: list[float], end: int
) -> None:
    """The ends are those of DOP853 at a relative tolerance of 1e-13; the starts are 1e-8 from each other."""
    found = ed.equilibrium(ed.Replicator(), ed.landscapes.MatrixGame(payoff), start=start)
    assert np.flatnonzero(found.survivors).tolist() == [end]


def test_a_group_too_rare_for_its_mass_to_be_a_number_still_invades() -> None:
    """The third falls below the least float while the others settle, where it can invade."""
    game = ed.landscapes.MatrixGame([[-1.0, 4.0, 0.0], [0.0, 2.0, 0.0], [42.1, -81.6, -1.0]])
    found = ed.equilibrium(ed.Replicator(), game, start=[0.5, 0.5, 1e-320])
    assert found.survivors[2]
    assert (found.invasion_rates <= 0).all()


def test_a_residual_tells_a_wrong_total_mass(monkeypatch: pytest.MonkeyPatch) -> None:
    import evodyn.equilibria.equilibrium as module

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


def test_mutants_of_mutants_have_mass_at_rest() -> None:
    chain = np.array([[0.9, 0.0, 0.1], [0.1, 0.9, 0.0], [0.0, 0.1, 0.9]])
    pure = [1.0, 0.0, 0.0]
    found = ed.equilibrium(Quasispecies(chain), ed.landscapes.Constant([3.0, 1.0, 2.0]), start=pure)
    values, vectors = np.linalg.eig(chain * [3.0, 1.0, 2.0])
    perron = np.abs(vectors[:, values.real.argmax()])
    np.testing.assert_allclose(found.masses, perron / perron.sum(), rtol=1e-9)
    with pytest.raises(ValueError, match="support lacks group 2"):
        ed.equilibrium(Quasispecies(chain), ed.landscapes.Constant([3.0, 1.0, 2.0]), support=[0, 1])


def test_a_replicator_mutator_rests_where_its_flow_is_zero() -> None:
    """In the notation of Nashpy, whose mutation matrix has rows that sum to 1: an asymmetric one."""
    game = ed.landscapes.MatrixGame([[4.0, 1.0], [2.0, 3.0]])
    rows = np.array([[0.9, 0.1], [0.3, 0.7]])
    found = ed.equilibrium(Quasispecies(rows.T), game, start=[0.4, 0.6])
    x = found.masses
    flow = rows.T @ (x * (game.payoff @ x)) - x * (x @ game.payoff @ x)
    assert np.abs(flow).max() < 1e-12
    assert found.stability is ed.Stability.STABLE


def test_a_mutation_matrix_written_as_selection_leaves_no_pure_rest_point() -> None:
    """A single group loses mass to mutants that may not live: shown, without a warning of failed searches."""
    rows = np.array([[0.9, 0.1], [0.3, 0.7]])

    def per_capita(masses: Array, fitness: Array) -> Array:
        made = (rows.T @ (fitness * masses)) / np.where(masses > 0, masses, 1.0)
        return made - (masses * fitness).sum(-1, keepdims=True) / masses.sum(-1, keepdims=True)

    game = ed.landscapes.MatrixGame([[4.0, 1.0], [2.0, 3.0]])
    for total in (1.0, 2.0):
        (found,) = ed.all_equilibria(ed.Selection(per_capita), game, total_mass=total)
        x = found.masses / total
        assert np.abs(rows.T @ (x * (game.payoff @ x)) - x * (x @ game.payoff @ x)).max() < 1e-12
        assert found.stability is ed.Stability.STABLE


def test_rare_mutants_are_found_by_the_flow_where_iterations_fail() -> None:
    matrix = np.array([[0.999012730, 0.0330227172], [0.000987270, 0.9669772828]])

    def per_capita(masses: Array, fitness: Array) -> Array:
        made = (matrix @ (fitness * masses)) / np.where(masses > 0, masses, 1.0)
        return made - (masses * fitness).sum(-1, keepdims=True) / masses.sum(-1, keepdims=True)

    fitness = np.array([1.4, 0.6])
    _, vectors = np.linalg.eig(matrix * fitness)
    perron = vectors[:, 0] / vectors[:, 0].sum()
    found = ed.equilibrium(ed.Selection(per_capita), ed.landscapes.Constant(fitness), total_mass=1.0)
    np.testing.assert_allclose(found.masses, perron, rtol=1e-9)


def test_a_search_that_fails_is_not_said_to_find_nothing() -> None:
    def hardly_growing(t: float, masses: Array) -> Array:
        return 1e-3 + (masses - 1) ** 2

    landscape = ed.landscapes.Constant([0.0]) + hardly_growing
    with pytest.warns(RuntimeWarning, match=r"did not converge for 1 sets .* \[0\]"):
        assert ed.all_equilibria(LotkaVolterra(), landscape) == ()
    with pytest.raises(ValueError, match="does not show that there is no rest point"):
        ed.equilibrium(LotkaVolterra(), landscape)


def beyond_a_dip(x: Any) -> Any:
    """Return what is 0 at -1.5 alone, and has a positive minimum that stops an iteration from 0."""
    return (x + 1.5) * ((x - 0.3) ** 2 + 0.05)


def test_a_threshold_is_found_from_elsewhere_if_not_from_the_first_masses() -> None:
    growing = ed.landscapes.Constant([0.0]) + (lambda t, masses: beyond_a_dip(np.log(masses)))
    found = ed.equilibrium(LotkaVolterra(), growing)
    np.testing.assert_allclose(found.masses, [np.exp(-1.5)], rtol=1e-9)
    assert found.stability is ed.Stability.UNSTABLE


def test_a_pair_whose_mass_would_leak_at_another_total_is_found() -> None:
    """The first group gives to the third, where there is one, what all have beyond 2."""

    def rates(masses: Array, fitness: Array) -> Array:
        given = masses.sum() - 2.0
        taken = given * masses[0] / masses[2] if masses[2] > 0 else 0.0
        return fitness - ed.mean_fitness(masses, fitness) + np.array([-given, 0.0, taken])

    def odds(t: float, masses: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.array([np.nan_to_num(beyond_a_dip(np.log(masses[0] / masses[1]))), 0.0, 0.0])

    landscape = ed.landscapes.Constant(np.zeros(3)) + odds
    found = ed.equilibrium(ed.Selection(rates), landscape, support=[0, 1], total_mass=2.0)
    assert found.masses.sum() == pytest.approx(2.0)
    assert found.masses[0] / found.masses[1] == pytest.approx(np.exp(-1.5))


def test_a_slow_approach_is_no_cycle() -> None:
    found = ed.equilibrium(LotkaVolterra(), food_web, start=[0.5, 0.5, 0.5])
    np.testing.assert_allclose(found.masses, [0.18898224, 0.0, 0.48811449], atol=1e-8)
    assert found.stability is ed.Stability.STABLE
    assert found.invasion_rates[1] == pytest.approx(-3.14e-4, abs=1e-9)


@pytest.mark.parametrize("power", [1, 2])
def test_what_leaves_like_a_power_of_time_has_left(power: int) -> None:
    """Weakly dominated: the second of two strategies falls behind by the power of its own share alone."""

    def dominated(t: float, masses: Array) -> Array:
        x = masses / masses.sum()
        return np.array([1.0, 1.0 - x[1] ** power, x[1] - 1.0])

    landscape = ed.landscapes.Constant(np.zeros(3)) + dominated
    found = ed.equilibrium(ed.Replicator(), landscape, start=[0.2, 0.5, 0.3])
    assert found.masses.tolist() == [1.0, 0.0, 0.0]


def test_a_slow_spiral_is_no_cycle() -> None:
    """Prey and predators of Rosenzweig and MacArthur, whose spiral turns into a cycle at a capacity of 3."""

    def hunted(t: float, masses: Array) -> Array:
        eaten = masses[0] / (1 + masses[0])
        return np.array([1 - masses[0] / 2.95 - masses[1] / (1 + masses[0]), eaten - 0.5])

    found = ed.equilibrium(LotkaVolterra(), hunted, start=[0.5, 0.5])
    np.testing.assert_allclose(found.masses, [1.0, 2 * (1 - 1 / 2.95)], rtol=1e-9)
    assert found.stability is ed.Stability.STABLE


def test_small_cycles_around_a_centre_are_no_slow_spiral() -> None:
    game = ed.landscapes.MatrixGame([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    with pytest.raises(ValueError, match="may cycle"):
        ed.equilibrium(ed.Replicator(), game, start=[0.36, 0.33, 0.31])


def test_obligate_mutualists_need_a_number_to_begin_with() -> None:
    """Differences between them pull back, their total does not: linear rates without a unique attractor."""
    slope = np.array([[-1.0, 1.5], [1.5, -1.0]])
    landscape = ed.landscapes.Constant([-1.0, -1.0]) + (lambda t, masses: slope @ masses)
    threshold = ed.equilibrium(LotkaVolterra(), landscape)
    np.testing.assert_allclose(threshold.masses, [2.0, 2.0], rtol=1e-12)
    assert threshold.stability is ed.Stability.UNSTABLE
    with pytest.raises(ValueError, match="die out"):
        ed.equilibrium(LotkaVolterra(), landscape, start=[1.5, 2.0])


def test_a_community_that_dies_out_is_not_said_to_cycle() -> None:
    with pytest.raises(ValueError, match="groups 0 to 1 die out"):
        ed.equilibrium(LotkaVolterra(), ed.landscapes.LinearDecay([-1.0, -2.0], 1.0), start=[1.0, 1.0])


def test_growth_that_saturates_far_beyond_unit_masses_is_not_taken_for_linear() -> None:
    saturating = ed.landscapes.Constant([1.0, 1.0]) + (lambda t, masses: -2 * masses / (1e6 + masses))
    found = ed.all_equilibria(LotkaVolterra(), saturating)
    np.testing.assert_allclose([p.masses for p in found], 1e6 * np.array([[1, 0], [0, 1], [1, 1]]))


def test_what_only_looks_linear_is_asked_where_it_rests() -> None:
    """Narrow bumps of payoff, where random masses do not fall, move the rest point to the edge of one."""

    def bumpy(t: float, masses: Array) -> Array:
        x = masses[0] / masses.sum()
        return HAWK_DOVE(t, masses) + np.array([0.5 * np.exp(-(((x - 2 / 3) / 1e-5) ** 2)), 0.0])

    landscape = ed.landscapes.Constant([0.0, 0.0]) + bumpy
    found = ed.equilibrium(ed.Replicator(), landscape, support=[0, 1], total_mass=1.0)
    assert found.residual < 1e-9
    assert np.ptp(bumpy(0.0, found.masses)) < 1e-9


def test_blocks_that_conserve_their_mass_beside_one_that_does_not() -> None:
    dynamics = ed.Populations((LotkaVolterra(), ed.Replicator()), sizes=(2, 2))
    landscape = ed.landscapes.LinearDecay([1.0, 2.0, 3.0, 2.5], decay=1.0)
    for options in ({"start": [1.0] * 4}, {"total_mass": [math.nan, 2.0]}, {"total_mass": [3.0, 2.0]}):
        found = ed.equilibrium(dynamics, landscape, **options)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.masses, [1.0, 2.0, 1.25, 0.75], rtol=1e-12)
        assert found.eigenvalues is not None
        assert len(found.eigenvalues) == 3
    with pytest.raises(ValueError, match="sum to 3"):
        ed.equilibrium(dynamics, landscape, total_mass=[2.0, 2.0])
    assert len(ed.all_equilibria(dynamics, landscape, total_mass=[math.nan, 2.0])) == 9


def test_what_conserves_mass_does_so_also_at_great_fitness() -> None:
    offset = HAWK_DOVE + ed.landscapes.Constant([1e8, 1e8])
    found = ed.equilibrium(CONSERVING, offset, total_mass=1.0)
    np.testing.assert_allclose(found.masses, [2 / 3, 1 / 3], rtol=1e-6)


def test_a_group_exactly_at_the_water_level_is_absent() -> None:
    class Doubled(ed.Replicator):
        def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
            return 2 * super().growth_rates(masses, fitness, time=time)

    found = ed.equilibrium(Doubled(), ed.landscapes.LinearDecay([1.0, 2.0, 3.0], 1.0), total_mass=3.0)
    assert found.survivors.tolist() == [False, True, True]
    assert found.eigenvalues is not None
    np.testing.assert_allclose(found.eigenvalues, [0.0, -8 / 3], atol=1e-12)


def test_a_cap_that_may_act_at_rest_is_refused() -> None:
    @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    class Capped(ed.Dynamics):
        mass_cap: float = 2.0

        def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
            return fitness

    with pytest.raises(ValueError, match=r"Capped.*mass_cap of 2"):
        ed.equilibrium(Capped(), ed.landscapes.LinearDecay([1.0, 2.0], 1.0), start=[0.1, 0.1])


def test_an_inflow_alone_makes_a_rest_point() -> None:
    @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    class Immigration(ed.Dynamics):
        def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
            return fitness - 2.0

        def inflow(self, masses: Array, *, time: float = 0.0) -> Array | float:  # type: ignore[override]
            return 0.5

    found = ed.equilibrium(Immigration(), ed.landscapes.Constant([1.0, 1.5]))
    np.testing.assert_allclose(found.masses, [0.5, 1.0], rtol=1e-12)
    assert found.eigenvalues is not None
    np.testing.assert_allclose(found.eigenvalues, [-0.5, -1.0], rtol=1e-6)
    (only,) = ed.all_equilibria(Immigration(), ed.landscapes.Constant([1.0, 1.5]))
    np.testing.assert_allclose(only.masses, found.masses, rtol=1e-12)


@pytest.mark.parametrize("shape", [lambda x: x, lambda x: x + 0.1 * np.sin(x)], ids=["affine", "curved"])
def test_ties_in_payoffs_make_no_rest_points(shape: Callable[[Array], Array]) -> None:
    """Where payoffs tie a vertex attracts so slowly that an iteration may take its way for its end."""
    rng = np.random.default_rng(0)
    games = [np.array([[-5.0, -2.0, -1.0], [1.0, -1.0, -4.0], [-5.0, -5.0, -5.0]])]
    games += [rng.integers(-3, 3, size=(3, 3)).astype(float) for _ in range(2)]
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
