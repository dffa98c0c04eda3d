"""Rest points against closed forms in high precision, independent software and integration."""

from __future__ import annotations

import dataclasses
import fractions
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import scipy.integrate
import scipy.linalg
import scipy.optimize
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from nashpy.game import Game

from evodyn import landscapes
from evodyn.equilibria.closed_forms import regulated_balance, water_filling
from evodyn.equilibria.equilibrium import Equilibrium, all_equilibria, equilibrium
from evodyn.equilibria.stability import Stability, classify
from evodyn.model.dynamics import Dynamics
from evodyn.model.equations import NormalizedGrowth, Replicator, Selection, SelectionMutation
from evodyn.model.fitness import LandscapeFunction
from evodyn.model.games import MatrixGame
from evodyn.model.landscapes import Constant, Entropic, LinearDecay, Recorded, Redundancy, Seasonal
from evodyn.model.laws import contributions
from evodyn.model.populations import Populations
from evodyn.simulate.method import Solver
from evodyn.simulate.solve import solve

Floats = npt.NDArray[np.float64]
N = 768
REPLICATOR = Replicator()
ROCK_PAPER_SCISSORS = {
    "zero-sum": (1.0, "NEUTRAL"),
    "inward spiral": (1.5, "STABLE"),
    "outward spiral": (0.5, "UNSTABLE"),
}


def rock_paper_scissors(win: float) -> MatrixGame:
    return MatrixGame([[0.0, -1.0, win], [win, 0.0, -1.0], [-1.0, win, 0.0]])


PRECISION: Any = mpmath  # untyped
findroot = PRECISION.findroot


def heterogeneous(kind: str = "lognormal", n: int = N) -> Floats:
    return contributions(kind, n=n, heterogeneity=1.0, rng=3)


# --- Closed forms, against integration -----------------------------------------------------------------


def integrated(dynamics: Dynamics, landscape: LandscapeFunction, start: Floats, t_end: float) -> Floats:
    """Integrate in log-masses with SciPy's own LSODA, independently of evodyn.solve."""

    def rates(t: float, logs: Floats) -> Floats:
        masses = np.exp(logs)
        velocity: Floats = dynamics.velocity(masses, landscape(t, masses)) / masses
        return velocity

    result = scipy.integrate.solve_ivp(
        rates, (0, t_end), np.log(start), method="LSODA", rtol=1e-11, atol=1e-12
    )
    masses: Floats = np.exp(result.y[:, -1])
    return masses


CLOSED_FORMS: dict[str, tuple[Dynamics, LandscapeFunction]] = {
    "water filling": (REPLICATOR, LinearDecay(heterogeneous(), 1.0)),
    "secular": (SelectionMutation(0.5), Constant(heterogeneous())),
    "secular, unit target": (SelectionMutation(0.5, target=1.0), Constant(heterogeneous())),
    "soft water filling": (SelectionMutation(0.2, target=1.0), LinearDecay(heterogeneous(), 1.0)),
    "soft, printed target": (SelectionMutation(0.2), LinearDecay(heterogeneous(), 50.0)),
    "softmax": (REPLICATOR, Entropic(heterogeneous(), 1.0)),
    "entropic with mutation": (SelectionMutation(0.2, target=1.0), Entropic(heterogeneous(), 0.5)),
    "entropic and decay": (REPLICATOR, Entropic(heterogeneous(), 0.5) + LinearDecay(np.zeros(N), 0.1)),
}


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_form_is_where_integration_ends(name: str) -> None:
    dynamics, landscape = CLOSED_FORMS[name]
    mutation = isinstance(dynamics, SelectionMutation)
    found = equilibrium(dynamics, landscape, total_mass=None if mutation else float(N))
    assert found.stability is Stability.STABLE
    assert found.residual < 1e-13
    assert found.eigenvalues is not None and len(found.eigenvalues) == N - 1
    relaxation = -1 / found.eigenvalues[0].real
    if mutation:
        relaxation = max(relaxation, 1 / dynamics.mutation_rate_at(0.0))
    start = np.full(N, found.masses.sum() / N)
    t_end = 35 * relaxation
    run = solve(
        dynamics, landscape, start, (0.0, t_end), save_at=[t_end], solver=Solver(rtol=3e-11, atol=3e-11)
    )
    np.testing.assert_allclose(run.masses[-1], found.masses, rtol=0, atol=1e-10 * found.masses.max())
    assert np.abs(start - found.masses).max() > 1e-2 * found.masses.max()  # it had some way to go


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_closed_form_is_where_scipy_ends(name: str) -> None:
    dynamics, landscape = CLOSED_FORMS[name]
    small = 12

    def first(term: Any) -> Any:
        return dataclasses.replace(term, contribution=term.contribution[:small])

    few = (
        first(landscape.terms[0]) + first(landscape.terms[1])
        if hasattr(landscape, "terms")
        else first(landscape)
    )
    mutation = isinstance(dynamics, SelectionMutation)
    found = equilibrium(dynamics, few, total_mass=None if mutation else 12.0)
    assert found.eigenvalues is not None
    start = np.full(small, found.masses.sum() / small)
    final = integrated(dynamics, few, start, -35 / float(found.eigenvalues[0].real))
    np.testing.assert_allclose(final, found.masses, rtol=0, atol=1e-9 * found.masses.max())


def test_water_filling_satisfies_the_kkt_conditions_at_a_million_groups() -> None:
    c = np.random.default_rng(0).lognormal(size=10**6)
    masses, excess = water_filling(c, decay=1.0, total_mass=1e6)
    alive = masses > 0
    level = (c - excess).max()
    assert 0 < alive.sum() < len(c)
    assert np.abs(c[alive] - masses[alive] - level).max() <= 1e-12 * np.abs(c).max()
    assert (c[~alive] - level).max() <= 1e-12 * np.abs(c).max()
    assert abs(masses.sum() / 1e6 - 1) <= 1e-12
    found = equilibrium(REPLICATOR, LinearDecay(c, 1.0), total_mass=1e6)
    assert found.residual <= 1e-12
    assert found.invasion_rates.max() <= 0
    assert found.eigenvalues is None
    assert found.stability is Stability.STABLE


@pytest.mark.parametrize("n", [20_000, 99_999])
@pytest.mark.parametrize("total", [1e-12, 1e-3, 1.0, 1e5, 1e9])
def test_the_level_of_many_groups_is_that_of_a_sort(n: int, total: float) -> None:
    ties = (np.arange(n) % 7).astype(np.float64)
    for c in (np.random.default_rng(2).pareto(1.2, n), ties, np.linspace(0.0, 1e3, n) ** 3):
        masses, excess = water_filling(c, 1.0, total)
        falling = np.sort(c)[::-1] - c.max()
        levels = (np.cumsum(falling) - total) / np.arange(1, n + 1)
        kept = np.flatnonzero(falling > levels)[-1] + 1
        np.testing.assert_allclose(
            np.sort(masses)[::-1][:kept],
            falling[:kept] - levels[kept - 1],
            rtol=0,
            atol=1e-12 * (total + np.ptp(c[np.argsort(c)[-kept:]])),
        )
        assert abs(masses.sum() / total - 1) < 1e-12 and np.array_equal(masses, np.maximum(excess, 0.0))


@settings(max_examples=200, deadline=None)
@given(
    contribution=hnp.arrays(float, st.integers(1, 40), elements=st.floats(-1e6, 1e6)),
    decay=st.floats(1e-6, 1e6),
    total=st.floats(1e-6, 1e6),
)
@example(contribution=np.array([3.0, 2.0, 1.0]), decay=1.0, total=3.0)  # one exactly at the level
@example(contribution=np.array([1e6, 0.0, 0.0]), decay=1.0, total=1e6 + 2)  # one far above the rest
@example(contribution=np.zeros(5), decay=1.0, total=1.0)
def test_water_filling_agrees_with_a_sort(contribution: Floats, decay: float, total: float) -> None:
    falling = np.sort(contribution)[::-1] - contribution.max()
    levels = (np.cumsum(falling) - decay * total) / np.arange(1, len(falling) + 1)
    level = levels[np.flatnonzero(falling > levels)[-1]]
    masses, _ = water_filling(contribution, decay, total)
    size = np.ptp(contribution) + decay * total + np.abs(contribution).max()
    np.testing.assert_allclose(
        decay * masses, np.maximum(contribution - contribution.max() - level, 0), atol=1e-13 * size, rtol=0
    )
    assert abs(masses.sum() / total - 1) < 1e-12


@pytest.mark.parametrize("best", [1.0, 0.1])  # sums of many times 1 are exact, those of 0.1 are rounded
def test_one_group_above_many_that_tie(best: float) -> None:
    c = np.zeros(40_000)
    c[1] = best
    for total in (1e-20, 1e-3, best * (1 - 1e-15), best, best * (1 + 1e-15), 2.0):
        masses, _ = water_filling(c, 1.0, total)
        kept = min(total, best + (total - best) / len(c))
        assert masses[1] == pytest.approx(kept, rel=1e-15)
        np.testing.assert_allclose(masses[[0, 2, -1]], max(0.0, (total - best) / len(c)), rtol=1e-11)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    values=hnp.arrays(float, st.integers(10, 120), elements=st.floats(-1e5, 1e5).map(lambda x: round(x, 3))),
    tied=st.floats(0, 1),
    low=st.integers(0, 3),
    volume=st.floats(-12, 6),
)
@example(values=np.ones(100), tied=0.9, low=3, volume=-10.0)  # sums in which a few deep groups cancel
def test_the_level_is_that_of_exact_arithmetic(values: Floats, tied: float, low: int, volume: float) -> None:
    c = values.copy()
    c[: int(tied * len(c))] = c.max()
    c[len(c) - low :] -= 1e9
    total = 10.0**volume
    depths: Any = sorted(fractions.Fraction(float(c.max())) - fractions.Fraction(float(x)) for x in c)
    level: Any = fractions.Fraction(0)
    submerged = fractions.Fraction(0)
    for k, depth in enumerate(depths):
        if k and depth >= level:
            break
        submerged += depth
        level = (fractions.Fraction(total) + submerged) / (k + 1)
    masses, _ = water_filling(c, 1.0, total)
    exact = [float(max(level - d, 0)) for d in depths]
    np.testing.assert_allclose(np.sort(masses)[::-1], exact, rtol=0, atol=2e-16 * (float(level) + total))


def test_water_filling_names_groups_at_the_level() -> None:
    found = equilibrium(REPLICATOR, LinearDecay([3.0, 2.0, 1.0], 1.0), total_mass=3.0)
    assert found.masses.tolist() == [2.0, 1.0, 0.0]
    assert found.survivors.tolist() == [True, True, False]
    assert found.invasion_rates.tolist() == [0.0, 0.0, 0.0]
    assert found.stability is Stability.STABLE
    assert "1 absent exactly at the water level" in found.method


def test_the_level_in_fifty_digits() -> None:
    c, rate = heterogeneous(n=40), 1e-4
    target = np.full(40, 0.5)
    found = equilibrium(SelectionMutation(rate, target=target), Constant(c))
    with PRECISION.workdps(50):
        exact = [PRECISION.mpf(float(x)) for x in c]
        flow = PRECISION.mpf(rate) * PRECISION.mpf(0.5)
        top = max(exact)
        root = findroot(
            lambda x: 1 / sum(flow / (x - e) for e in exact) - PRECISION.mpf(1) / 20,
            (top + flow / 20 * (1 + PRECISION.mpf("1e-3")), top + rate),
            solver="anderson",
            tol=1e-45,
        )
        masses = [float(flow / (root - e)) for e in exact]
    np.testing.assert_allclose(found.masses, masses, rtol=1e-13)
    assert found.mean_fitness == pytest.approx(float(root) - rate, rel=1e-14)

    # The cancellation-free form of the soft water filling, far below the level.
    soft = equilibrium(SelectionMutation(rate, target=target), LinearDecay(1e4 * c, 0.01))
    with PRECISION.workdps(50):
        lam, flow = PRECISION.mpf(0.01), PRECISION.mpf(rate) * PRECISION.mpf(0.5)
        scaled = [PRECISION.mpf(float(x)) for x in 1e4 * c]

        def mass(excess: Any) -> Any:
            return (excess + PRECISION.sqrt(excess**2 + 4 * lam * flow)) / (2 * lam)

        theta = findroot(
            lambda t: sum(mass(x - t) for x in scaled) - 20,
            PRECISION.mpf(float(soft.mean_fitness) + rate),
            tol=1e-40,
        )
        masses = [float(mass(x - theta)) for x in scaled]
    np.testing.assert_allclose(soft.masses, masses, rtol=1e-11)
    assert min(masses) < 1e-9


def test_secular_equation_against_the_matrix_exponential() -> None:
    c, rate = heterogeneous(n=30), 0.3
    found = equilibrium(SelectionMutation(rate), Constant(c))
    # With P = M = 1 the shares follow one linear flow.
    generator = np.diag(c) + rate * np.full((30, 30), 1 / 30)
    flow = scipy.linalg.expm(200 * (generator - 10 * np.eye(30)))
    shares = flow @ np.ones(30)
    np.testing.assert_allclose(found.masses, shares / shares.sum(), atol=1e-14)


def test_a_group_without_inflow_survives_only_above_the_level() -> None:
    fed = SelectionMutation(0.01, target=[1.0, 1.0, 0.0])
    above = equilibrium(fed, Constant([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(above.masses, [0.005, 0.01, 1.985], rtol=1e-12)
    below = equilibrium(fed, Constant([1.0, 2.0, 0.0]))
    assert below.survivors.tolist() == [True, True, False]
    assert below.invasion_rates[2] < -2
    assert above.stability is below.stability is Stability.STABLE
    tied = equilibrium(SelectionMutation(0.01, target=[1.0, 0.0, 0.0]), Constant([1.0, 3.0, 3.0]))
    assert tied.stability is Stability.NEUTRAL


# --- Games ---------------------------------------------------------------------------------------------


def names(points: tuple[Equilibrium, ...]) -> list[tuple[list[float], str]]:
    return [(np.round(e.masses, 6).tolist(), e.stability.name) for e in points]


def test_hawk_dove_pure_states_are_unstable_and_the_mixture_stable() -> None:
    # EGTtools 0.1.14 calls these pure states stable; invasion at rate 1 says otherwise.
    game = MatrixGame([[-1.0, 4.0], [0.0, 2.0]])
    assert names(all_equilibria(REPLICATOR, game, total_mass=3.0)) == [
        ([3.0, 0.0], "UNSTABLE"),
        ([0.0, 3.0], "UNSTABLE"),
        ([2.0, 1.0], "STABLE"),
    ]
    mixed = equilibrium(REPLICATOR, game)
    assert mixed.eigenvalues is not None
    np.testing.assert_allclose(mixed.eigenvalues, [-2 / 3], atol=1e-15)
    np.testing.assert_allclose(mixed.mean_fitness, 2 / 3)


def test_coordination() -> None:
    game = MatrixGame([[2.0, 0.0], [0.0, 1.0]])
    assert names(all_equilibria(REPLICATOR, game)) == [
        ([1.0, 0.0], "STABLE"),
        ([0.0, 1.0], "STABLE"),
        ([0.333333, 0.666667], "UNSTABLE"),
    ]
    assert equilibrium(REPLICATOR, game).stability is Stability.UNSTABLE
    for start, winner in (([0.34, 0.66], 0), ([0.33, 0.67], 1)):
        assert equilibrium(REPLICATOR, game, start=start).masses[winner] == pytest.approx(1.0)
    on_the_edge = equilibrium(REPLICATOR, game, start=[1.0, 2.0])
    assert on_the_edge.stability is Stability.UNSTABLE


@pytest.mark.parametrize("name", ROCK_PAPER_SCISSORS)
def test_rock_paper_scissors(name: str) -> None:
    win, verdict = ROCK_PAPER_SCISSORS[name]
    point = equilibrium(REPLICATOR, rock_paper_scissors(win), total_mass=6.0)
    np.testing.assert_allclose(point.masses, 2.0, rtol=1e-14)
    assert point.stability.name == verdict
    assert point.eigenvalues is not None
    # Eigenvalues (win - 1)(-1/6) ± i(win + 1)√3/6, by hand.
    np.testing.assert_allclose(point.eigenvalues.real, -(win - 1) / 6, atol=1e-15)
    np.testing.assert_allclose(np.sort(point.eigenvalues.imag), np.array([-1, 1]) * (win + 1) * 3**0.5 / 6)
    corners = all_equilibria(REPLICATOR, rock_paper_scissors(win))
    assert [e.stability.name for e in corners] == ["UNSTABLE"] * 3 + [verdict]


def test_a_scaled_zero_sum_game_with_column_constants_is_neutral() -> None:
    # Payoffs to which a constant was added column by column: the same flow, no longer antisymmetric.
    payoff = np.array([[0.0, -2.0, 1.0], [2.0, 0.0, -3.0], [-1.0, 3.0, 0.0]]) + np.array([5.0, -1.0, 2.0])
    point = equilibrium(REPLICATOR, MatrixGame(payoff))
    np.testing.assert_allclose(point.masses, [3 / 6, 1 / 6, 2 / 6], rtol=1e-12)
    assert point.stability is Stability.NEUTRAL


def test_no_guess_about_a_centre_that_is_not_zero_sum() -> None:
    # Zero real parts by tuning two games against each other, not by a conserved quantity.
    asymmetric = np.array([[0.0, -1.0, 2.0], [3.0, 0.0, -1.0], [-1.0, 2.0, 0.0]])
    outward, inward = asymmetric - 0.9 * np.eye(3) * -1, asymmetric - 2.0 * np.eye(3)

    def growth(weight: float) -> float:
        point = equilibrium(
            REPLICATOR, MatrixGame(weight * outward + (1 - weight) * inward), support=[0, 1, 2]
        )
        assert point.eigenvalues is not None
        return float(point.eigenvalues[0].real)

    weight = scipy.optimize.brentq(growth, 0.0, 1.0, xtol=1e-15)
    game = MatrixGame(weight * outward + (1 - weight) * inward)
    point = equilibrium(REPLICATOR, game, support=[0, 1, 2])
    assert point.stability is Stability.INDETERMINATE


@pytest.mark.parametrize(
    ("eigenvalues", "slope", "verdict"),
    [
        # A line of rest points towards which the other direction decays, though some V may grow at first.
        ([0.0, -1.0], [[0.0, 1.0], [0.0, -1.0]], "NEUTRAL"),
        # Beside the line a centre, of which the linearisation does not know what becomes.
        ([0.0, 1j, -1j], [[0.0, 0.0, 0.0], [0.0, 0.0, 2.0], [0.0, -0.5, 0.0]], "INDETERMINATE"),
    ],
)
def test_a_line_of_rest_points_is_neutral_where_all_else_decays(
    eigenvalues: Any, slope: Any, verdict: str
) -> None:
    found = classify(np.array(eigenvalues, dtype=complex), np.array([]), scale=1.0, slope=np.array(slope))
    assert found.name == verdict


def test_strategies_that_lose_have_no_say_in_a_centre() -> None:
    game = np.zeros((4, 4))
    game[:3, :3] = rock_paper_scissors(1.0).payoff
    game[3] = [-0.5, -0.5, -0.5, 2.0]
    point = equilibrium(REPLICATOR, MatrixGame(game), support=[0, 1, 2])
    assert point.invasion_rates.tolist() == pytest.approx([0.0, 0.0, 0.0, -0.5])
    assert point.stability is Stability.NEUTRAL


def test_neutral_and_tied_cases() -> None:
    assert equilibrium(REPLICATOR, MatrixGame(np.zeros((3, 3)))).stability is Stability.NEUTRAL
    assert equilibrium(REPLICATOR, Constant(np.ones(4)), total_mass=4.0).stability is Stability.NEUTRAL
    tied = equilibrium(REPLICATOR, Constant([2.0, 1.0, 2.0]), start=[1.0, 7.0, 3.0])
    np.testing.assert_allclose(tied.masses, [11 / 4, 0.0, 33 / 4])
    assert tied.stability is Stability.NEUTRAL
    assert "2 groups tie" in tied.method
    # A vertex whose invader earns the same there: weakly dominated one way, invaded the other.
    assert names(all_equilibria(REPLICATOR, MatrixGame([[1.0, 1.0], [1.0, 0.0]])))[0] == (
        [1.0, 0.0],
        "STABLE",
    )


@pytest.mark.parametrize("seed", range(40))
def test_uninvadable_rest_points_are_the_symmetric_nash_equilibria_of_nashpy(seed: int) -> None:
    payoff = np.random.default_rng(seed).normal(size=(3, 3))
    game: Any = Game(payoff, payoff.T)
    nash = {
        tuple(np.round(row, 6))
        for row, column in game.vertex_enumeration()
        if np.allclose(row, column, atol=1e-9)
    }
    points = all_equilibria(REPLICATOR, MatrixGame(payoff))
    uninvadable = {tuple(np.round(e.masses, 6)) for e in points if (e.invasion_rates <= 1e-12).all()}
    assert uninvadable == nash
    for point in points:
        if point.stability is Stability.STABLE:
            assert tuple(np.round(point.masses, 6)) in nash


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(hnp.arrays(float, (4, 4), elements=st.floats(-3, 3)), st.integers(0, 2**31))
def test_verdicts_agree_with_what_perturbations_do(payoff: Floats, seed: int) -> None:
    payoff = np.round(payoff, 1) + 0.01 * np.arange(16).reshape(4, 4) ** 1.5
    rng = np.random.default_rng(seed)
    for point in all_equilibria(REPLICATOR, MatrixGame(payoff)):
        assert point.residual < 1e-12
        assert point.eigenvalues is not None
        rate = float(np.abs(point.eigenvalues.real).min())
        if rate < 0.05 or point.stability not in (Stability.STABLE, Stability.UNSTABLE):
            continue
        start = np.abs(point.masses + 1e-7 * rng.random(4))
        start /= start.sum()
        run = solve(REPLICATOR, MatrixGame(payoff), start, (0.0, 8 / rate), save_at=[8 / rate])
        before, after = (np.abs(m - point.masses).max() for m in (start, run.masses[-1]))
        assert (after < before) == (point.stability is Stability.STABLE)


# --- Redundancy ----------------------------------------------------------------------------------------


def test_an_indefinite_similarity_can_coexist() -> None:
    similarity = np.array([[4.0, 2.2], [2.2, 1.0]])
    assert np.linalg.eigvalsh(similarity)[0] < 0
    point = equilibrium(REPLICATOR, Redundancy([2.5, 1.0], similarity, 1.0), total_mass=1.0)
    assert point.survivors.all()
    assert point.stability is Stability.STABLE
    final = integrated(REPLICATOR, Redundancy([2.5, 1.0], similarity, 1.0), np.array([0.9, 0.1]), 400.0)
    np.testing.assert_allclose(final, point.masses, atol=1e-10)


def test_twins_are_a_neutral_line_only_if_equally_fit() -> None:
    similarity = np.array([[1.0, 1.0, 0.1], [1.0, 1.0, 0.1], [0.1, 0.1, 1.0]])
    line = equilibrium(REPLICATOR, Redundancy([1.0, 1.0, 0.5], similarity, 1.0), total_mass=2.0)
    assert line.stability is Stability.NEUTRAL
    assert "neutral line" in line.method
    reached = equilibrium(REPLICATOR, Redundancy([1.0, 1.0, 0.5], similarity, 1.0), start=[1.2, 0.3, 0.5])
    # Twins keep the ratio of their masses.
    assert reached.masses[0] / reached.masses[1] == pytest.approx(4.0, rel=1e-6)
    excluded = equilibrium(REPLICATOR, Redundancy([1.0, 0.9, 0.5], similarity, 1.0), total_mass=2.0)
    assert excluded.survivors.tolist() == [True, False, True]
    assert excluded.stability is Stability.STABLE


@pytest.mark.parametrize("rank", [200, 5])
def test_redundancy_of_many_groups_leads_to_its_attractor(rank: int) -> None:
    n = 150
    factors = np.random.default_rng(5).random((n, rank))
    similarity = factors @ factors.T / rank
    landscape = Redundancy(heterogeneous(n=n), similarity, 0.1) + LinearDecay(np.zeros(n), 0.5)
    point = equilibrium(REPLICATOR, landscape, total_mass=float(n))
    assert point.residual < 1e-12
    assert point.invasion_rates.max() <= 1e-12 * np.abs(landscape(0.0, point.masses)).max()
    assert point.stability is Stability.STABLE
    assert point.eigenvalues is not None
    t_end = -30 / float(point.eigenvalues[0].real)
    final = solve(REPLICATOR, landscape, np.ones(n), (0.0, t_end), save_at=[t_end]).masses[-1]
    np.testing.assert_allclose(final, point.masses, atol=1e-9 * point.masses.max())


# --- Newton, blocks, general selection -----------------------------------------------------------------


def test_newton_on_a_callable_and_its_stability() -> None:
    weights = np.array([1.0, 2.0, 3.0])

    def fitness(t: float, masses: Floats) -> Floats:
        return 1 - weights * masses**2

    point = equilibrium(REPLICATOR, fitness, total_mass=2.0, support=[True, True, True])
    expected = weights**-0.5 / (weights**-0.5).sum() * 2
    np.testing.assert_allclose(point.masses, expected, rtol=1e-12)
    assert point.stability is Stability.STABLE
    with_mutation = equilibrium(SelectionMutation(0.1, target=weights), fitness)
    velocity = SelectionMutation(0.1, target=weights).velocity(
        with_mutation.masses, fitness(0.0, with_mutation.masses)
    )
    assert np.abs(velocity).max() < 1e-12
    assert with_mutation.masses.sum() == pytest.approx(6.0, rel=1e-12)


def test_analytic_and_difference_jacobians_give_the_same_eigenvalues() -> None:
    game = rock_paper_scissors(1.7) + LinearDecay([0.1, 0.2, 0.0], 0.4)
    analytic = equilibrium(SelectionMutation(0.05), game)
    differences = equilibrium(
        SelectionMutation(0.05), lambda t, masses: game(t, masses), support=[True, True, True]
    )
    np.testing.assert_allclose(analytic.masses, differences.masses, rtol=1e-10)
    assert analytic.eigenvalues is not None and differences.eigenvalues is not None
    np.testing.assert_allclose(analytic.eigenvalues, differences.eigenvalues, atol=1e-8)


def test_eigenvalues_are_those_of_the_velocity_on_the_tangent_space() -> None:
    landscape = rock_paper_scissors(1.3) + Redundancy([1.0, 0.9, 0.8], np.eye(3) + 0.3, 0.7)
    point = equilibrium(REPLICATOR, landscape, total_mass=2.0)

    def velocity(masses: Floats) -> Floats:
        result: Floats = REPLICATOR.velocity(masses, landscape(0.0, masses))
        return result

    columns = [
        (velocity(point.masses + 1e-6 * e) - velocity(point.masses - 1e-6 * e)) / 2e-6 for e in np.eye(3)
    ]
    basis = scipy.linalg.null_space(np.ones((1, 3)))
    expected = np.linalg.eigvals(basis.T @ np.array(columns).T @ basis)
    assert point.eigenvalues is not None
    np.testing.assert_allclose(np.sort_complex(point.eigenvalues), np.sort_complex(expected), atol=1e-8)


def test_blocks_have_their_own_totals_and_mean_fitness() -> None:
    c = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    layers = Populations(REPLICATOR, sizes=(2, 3))
    point = equilibrium(layers, LinearDecay(c, 1.0), total_mass=[1.0, 2.0])
    for block, total in ((slice(0, 2), 1.0), (slice(2, 5), 2.0)):
        alone = equilibrium(REPLICATOR, LinearDecay(c[block], 1.0), total_mass=total)
        np.testing.assert_array_equal(point.masses[block], alone.masses)
    assert np.shape(point.mean_fitness) == (2,)
    coupled = np.eye(5) + 0.3
    coupled[0, 4] = coupled[4, 0] = 0.9
    together = equilibrium(layers, Redundancy(c, coupled, 1.0), total_mass=[1.0, 2.0])
    assert together.masses[:2].sum() == pytest.approx(1.0, rel=1e-14)
    final = integrated(layers, Redundancy(c, coupled, 1.0), np.array([0.5, 0.5, 0.6, 0.7, 0.7]), 500.0)
    np.testing.assert_allclose(final[together.survivors], together.masses[together.survivors], atol=1e-9)
    with pytest.raises(ValueError, match="2 values, one for each block"):
        equilibrium(layers, LinearDecay(c, 1.0), total_mass=3.0)


def test_general_selection_has_no_total_mass_of_its_own() -> None:
    logistic = Selection(lambda masses, fitness: fitness * (1 - masses))
    point = equilibrium(logistic, Constant([1.0, 2.0]))
    np.testing.assert_allclose(point.masses, [1.0, 1.0], rtol=1e-12)
    assert point.eigenvalues is not None
    np.testing.assert_allclose(point.eigenvalues, [-1.0, -2.0], rtol=1e-6)
    alone = equilibrium(logistic, Constant([1.0, 2.0]), support=[0])
    assert alone.stability is Stability.UNSTABLE
    assert alone.invasion_rates.tolist() == [0.0, 2.0]


def test_a_clip_moves_the_rest_point_under_mutation_and_the_mass_on_the_way() -> None:
    c = np.array([5.0, 1.0, 0.0])
    clipped = SelectionMutation(0.5, target=1.0, signal_clip=0.2)
    point = equilibrium(clipped, Constant(c))
    assert np.abs(clipped.velocity(point.masses, c)).max() < 1e-12
    assert abs(point.masses.sum() - 3.0) > 0.01
    drifting = Replicator(signal_clip=0.1)
    reached = equilibrium(drifting, LinearDecay([1.0, 2.0, 3.0], 1.0), start=[1.0, 1.0, 1.0])
    run = solve(drifting, LinearDecay([1.0, 2.0, 3.0], 1.0), [1.0, 1.0, 1.0], (0.0, 200.0), save_at=[200.0])
    np.testing.assert_allclose(reached.masses, run.masses[-1], rtol=1e-6)
    assert reached.residual < 1e-12


def test_entropic_masses_below_floating_point_still_survive() -> None:
    point = equilibrium(REPLICATOR, Entropic([0.0, 1.0], 1e-3), total_mass=1.0)
    assert point.masses[0] == 0.0
    assert point.survivors.all()
    assert point.stability is Stability.STABLE
    face = equilibrium(REPLICATOR, Entropic([0.0, 1.0], 1.0), support=[1])
    assert face.invasion_rates.tolist() == [np.inf, 0.0]
    assert face.stability is Stability.UNSTABLE


@pytest.mark.parametrize("inflow", [0.0, 0.1])
def test_regulated_masses_below_floating_point_are_known_by_their_logarithms(inflow: float) -> None:
    point = equilibrium(
        REPLICATOR, Entropic([0.0, 2000.0], 1.0) + LinearDecay(np.zeros(2), 1.0), total_mass=1.0
    )
    assert point.masses.tolist() == [0.0, 1.0]
    assert point.stability is Stability.STABLE
    logs = regulated_balance(np.array([0.0, 2000.0]), 1.0, 1.0, np.array([0.0, inflow]), 1.0)
    assert logs.tolist() == [-2000 + 1 - inflow, 0.0]  # 0 - ln p_1 = 2000 - p_2 - ln p_2 + f_2/p_2, p_2 = 1


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(float, 5, elements=st.floats(-100, 100)),
    hnp.arrays(float, 5, elements=st.one_of(st.just(0.0), st.floats(1e-8, 1e3))),
    st.one_of(st.just(0.0), st.floats(1e-6, 1e6)),
    st.floats(1e-3, 1e3),
    st.floats(1e-3, 1e3),
)
def test_a_regulated_balance_is_one_in_every_group(
    c: Floats, inflow: Floats, decay: float, temperature: float, total: float
) -> None:
    logs = regulated_balance(c, decay, temperature, inflow, total)
    loss, gain = decay * np.exp(logs), np.where(inflow > 0, inflow, 0.0) * np.exp(-np.maximum(logs, -700))
    level = c - loss - temperature * logs + gain
    size = np.abs(c).max() + loss.max() + temperature * np.abs(logs).max() + gain.max()
    assert np.ptp(level) <= 1e-13 * size
    assert abs(np.exp(logs).sum() / total - 1) <= 1e-13


# --- Invariances and errors ----------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(float, 6, elements=st.floats(-5, 5)),
    st.floats(-100, 100),
    st.permutations(range(6)),
)
def test_a_constant_changes_nothing_and_permutations_permute(
    c: Floats, constant: float, order: list[int]
) -> None:
    for landscape in (LinearDecay, Entropic):
        base = equilibrium(REPLICATOR, landscape(c, 0.7), total_mass=2.0)
        shifted = equilibrium(REPLICATOR, landscape(c + constant, 0.7), total_mass=2.0)
        permuted = equilibrium(REPLICATOR, landscape(c[order], 0.7), total_mass=2.0)
        np.testing.assert_allclose(shifted.masses, base.masses, atol=1e-12)
        np.testing.assert_allclose(permuted.masses, base.masses[order], atol=1e-14)


@pytest.mark.parametrize("unit", [1e-13, 1e13])
def test_the_unit_of_time_changes_no_rest_point(unit: float) -> None:
    payoff = np.array([[-1.0, 4.0, 0.5], [0.0, 2.0, 1.0], [0.5, 1.0, -2.0]])
    expected = all_equilibria(REPLICATOR, MatrixGame(payoff))
    found = all_equilibria(REPLICATOR, MatrixGame(unit * payoff))
    assert names(found) == names(expected) and len(found) == 5
    assert [point.method for point in found] == [point.method for point in expected]


def test_normalized_growth_is_the_replicator_below_its_cap() -> None:
    landscape = LinearDecay([3.0, 2.0, 0.0], 1.0)
    capped = NormalizedGrowth(mass_cap=3.0)
    assert equilibrium(capped, landscape, total_mass=2.0).masses.tolist() == [1.5, 0.5, 0.0]
    with pytest.raises(ValueError, match="above mass_cap"):
        equilibrium(capped, landscape, total_mass=4.0)


def test_one_group_and_a_zero_mutation_rate() -> None:
    alone = equilibrium(REPLICATOR, LinearDecay([1.0], 1.0), total_mass=2.0)
    assert alone.masses.tolist() == [2.0]
    assert alone.stability is Stability.STABLE
    still = equilibrium(SelectionMutation(0.0), LinearDecay([3.0, 2.0], 1.0), total_mass=2.0)
    np.testing.assert_allclose(still.masses, [1.5, 0.5])


def test_results_are_read_only() -> None:
    c = np.array([3.0, 2.0, 0.0])
    point = equilibrium(REPLICATOR, Constant(c))
    assert c.flags.writeable
    for array in (point.masses, point.survivors, point.invasion_rates, point.eigenvalues):
        assert array is not None and not array.flags.writeable


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((REPLICATOR, LinearDecay([1.0, 2.0], 1.0), {}), "total_mass is None"),
        ((REPLICATOR, lambda t, p: -p, {}), "number of groups is unknown"),
        ((REPLICATOR, LinearDecay([1.0, 2.0], 1.0), {"total_mass": -1.0}), "total_mass"),
        ((SelectionMutation(0.1), Constant([1.0, 2.0]), {"total_mass": 2.0}), "the target fixes it"),
        ((SelectionMutation(0.1, target=0.0), Constant([1.0, 2.0]), {}), "removes all mass"),
        ((SelectionMutation(lambda t: 0.1), Constant([1.0, 2.0]), {}), "mutation_rate"),
        ((REPLICATOR, Seasonal([1.0, 2.0], 1.0, 1.0), {}), "depends on time"),
        ((REPLICATOR, Recorded([0.0, 1.0], [[1.0, 2.0]]), {}), "depends on time"),
        ((REPLICATOR, lambda t, p: t - p, {"start": [1.0, 1.0]}), "depends on time"),
        ((REPLICATOR, Constant([1.0, 2.0]), {"support": [0, 1]}), "cannot persist"),
        ((REPLICATOR, Constant([1.0, 2.0]), {"support": [2]}), "indices from 0 to 1"),
        ((REPLICATOR, Constant([1.0, 2.0]), {"support": [0, 7]}), "indices from 0 to 1"),
        ((REPLICATOR, Constant([1.0, 2.0]), {"support": [0], "start": [1.0, 1.0]}), "both given"),
        ((REPLICATOR, Constant([1.0, 2.0]), {"start": [1.0]}), "numbers of groups differ"),
        ((REPLICATOR, Constant([1.0, 2.0]), {"start": [0.0, 0.0]}), "no group with mass"),
        ((SelectionMutation(0.1), Constant([1.0, 2.0]), {"support": [0]}), "mutation feeds"),
        ((REPLICATOR, MatrixGame([[2.0, 0.0], [0.0, 1.0]]), {"eigenvalues": "all"}), "eigenvalues"),
        (
            (REPLICATOR, MatrixGame([[3.0, 0.0, 0.1], [0.0, 2.0, 1.9], [2.9, 1.0, 1.0]]), {}),
            "all_equilibria",
        ),
    ],
)
def test_errors_name_the_argument(arguments: tuple[Any, Any, dict[str, Any]], message: str) -> None:
    dynamics, landscape, options = arguments
    with pytest.raises(ValueError, match=message):
        equilibrium(dynamics, landscape, **options)


@pytest.mark.slow
def test_cycles_do_not_settle() -> None:
    for win in (1.0, 0.5):
        with pytest.raises(ValueError, match="has not settled"):
            equilibrium(REPLICATOR, rock_paper_scissors(win), start=[1.0, 2.0, 3.0])


def test_all_equilibria_says_when_it_cannot() -> None:
    with pytest.raises(ValueError, match="at most 12"):
        all_equilibria(REPLICATOR, Constant(np.arange(13.0)))
    with pytest.raises(ValueError, match="mutation"):
        all_equilibria(SelectionMutation(0.1), landscapes.MatrixGame(np.eye(2)))
    assert len(all_equilibria(SelectionMutation(0.1), Constant([1.0, 2.0]))) == 1


def test_a_zero_sum_game_between_layers_is_not_taken_for_one_that_pulls_back() -> None:
    # Within the first block the form on the tangent space is zero but for rounding, and one group dominates.
    game = MatrixGame([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    found = equilibrium(Populations(Replicator(), (2, 1)), game, total_mass=[1.0, 2.0])
    np.testing.assert_allclose(found.masses, [1.0, 0.0, 2.0], atol=1e-14)
    assert found.stability is Stability.STABLE and found.invasion_rates[1] < 0
