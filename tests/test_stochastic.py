"""Noise: Itô against Stratonovich, hitting times, unbiased estimates, fixation, and reproducibility."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats

from evodyn import NormalizedGrowth, Replicator, ReplicatorMutator, SelectionMutation, iterate, solve
from evodyn.equilibria.equilibrium import equilibrium
from evodyn.model.games import MatrixGame
from evodyn.model.landscapes import Constant, LinearDecay, Recorded
from evodyn.model.populations import Populations
from evodyn.noise.environment import Calculus, fitness_noise
from evodyn.noise.estimates import noisy_iterate
from evodyn.noise.laws import hitting_time_law, long_run_growth, stationary_odds_law
from evodyn.noise.wright_fisher import fixation_probability, wright_fisher, wright_fisher_matrix

Floats = npt.NDArray[np.float64]
C, SIGMA = np.array([0.1, 0.3, 0.0]), np.array([0.2, 1.0, 0.6])
SIGNIFICANT = 1e-4  # chance that a right theory fails here


def log_ratios(runs: Any, i: int, j: int) -> Floats:
    ratios: Floats = runs.log_masses[:, -1, i] - runs.log_masses[:, -1, j]
    return ratios


@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_log_ratios_follow_their_normal_law_in_one_calculus_and_not_the_other(calculus: Calculus) -> None:
    other: Calculus = "stratonovich" if calculus == "ito" else "ito"
    t = 30.0
    runs = fitness_noise(
        Constant(C),
        np.ones(3),
        (0.0, t),
        noise=SIGMA,
        calculus=calculus,
        members=2000,
        save_at=[0.0, t],
        rng=1,
    )
    for i, j in ((0, 1), (1, 2), (0, 2)):

        def p_value(named: Calculus, i: int = i, j: int = j) -> float:
            growth = long_run_growth(C, SIGMA, named)
            spread = np.sqrt((SIGMA[i] ** 2 + SIGMA[j] ** 2) * t)
            law = scipy.stats.norm((growth[i] - growth[j]) * t, spread)
            return float(scipy.stats.kstest(log_ratios(runs, i, j), law.cdf).pvalue)

        assert p_value(calculus) > SIGNIFICANT
        if (i, j) != (0, 2):
            assert p_value(other) < 1e-12


def test_who_survives_depends_on_the_calculus() -> None:
    options: dict[str, Any] = {"noise": SIGMA[:2], "members": 300, "save_at": [200.0], "rng": 5}
    winners = {}
    for calculus in ("ito", "stratonovich"):
        runs = fitness_noise(Constant(C[:2]), np.ones(2), (0.0, 200.0), calculus=calculus, **options)
        first = int((runs.masses[:, -1, 0] > 1).sum())
        gap = np.diff(long_run_growth(C[:2], SIGMA[:2], calculus))[0] * 200
        chance = scipy.stats.norm.sf(gap / np.sqrt(200 * (SIGMA[:2] ** 2).sum()))
        assert scipy.stats.binomtest(first, 300, chance).pvalue > SIGNIFICANT
        winners[calculus] = first
    table = np.array(
        [[winners["ito"], 300 - winners["ito"]], [winners["stratonovich"], 300 - winners["stratonovich"]]]
    )
    assert scipy.stats.fisher_exact(table).pvalue < 1e-12
    assert winners["ito"] > 150 > winners["stratonovich"]


def test_hitting_times_are_inverse_gaussian() -> None:
    c, sigma, threshold = np.array([0.5, 0.0]), np.array([0.3, 0.4]), 0.05
    width = 0.01
    runs = fitness_noise(
        Constant(c),
        [0.5, 0.5],
        (0.0, 60.0),
        noise=sigma,
        calculus="stratonovich",
        members=1500,
        save_at=[0.0, 60.0],
        step_size=width,
        threshold=threshold,
        rng=2,
    )
    times = runs.extinction_time[:, 1]
    assert np.isfinite(times).all()
    # Looking only at the ends of steps misses excursions: as if the level were 0.5826 σ√h further off.
    level = np.log(threshold / (1 - threshold)) - 0.5826 * 0.5 * np.sqrt(width)
    law = hitting_time_law(share=0.5, threshold=1 / (1 + np.exp(-level)), drift=0.5, noise=(0.3, 0.4))
    assert scipy.stats.kstest(times, law.cdf).pvalue > SIGNIFICANT
    assert scipy.stats.ttest_1samp(times, law.mean()).pvalue > SIGNIFICANT
    wrong = hitting_time_law(share=0.5, threshold=threshold, drift=0.6, noise=(0.3, 0.4))
    assert scipy.stats.kstest(times, wrong.cdf).pvalue < 1e-12


def test_euler_maruyama_is_the_exact_path_for_constant_fitness_and_the_flow_without_noise() -> None:
    options: dict[str, Any] = {"noise": SIGMA, "calculus": "ito", "save_at": np.linspace(0, 2, 21), "rng": 3}
    exact = fitness_noise(Constant(C), np.ones(3), (0.0, 2.0), members=3, **options)
    scheme = fitness_noise(
        lambda t, p: C + 0 * p, np.ones(3), (0.0, 2.0), step_size=0.1, members=3, **options
    )
    np.testing.assert_allclose(scheme.log_masses, exact.log_masses, atol=1e-12)
    assert "exact" in exact.model and "Euler-Maruyama" in scheme.model
    growth = fitness_noise(
        Constant(C), np.ones(3), (0.0, 2.0), members=3, dynamics=NormalizedGrowth(), **options
    )
    np.testing.assert_array_equal(growth.log_masses, exact.log_masses)
    landscape = LinearDecay(C, 0.5)
    errors = []
    for width in (0.02, 0.01):
        still = fitness_noise(
            landscape, [0.5, 1.0, 1.5], (0.0, 3.0), noise=0.0, calculus="ito", save_at=[3.0], step_size=width
        )
        flow = solve(Replicator(), landscape, [0.5, 1.0, 1.5], (0.0, 3.0), save_at=[3.0])
        errors.append(np.abs(still.masses[0, -1] - flow.masses[-1]).max())
    assert np.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.15)


def test_total_mass_and_absent_groups() -> None:
    runs = fitness_noise(
        LinearDecay(C, 0.5),
        [1.0, 0.0, 2.0],
        (0.0, 5.0),
        noise=2.0,
        calculus="ito",
        step_size=0.1,
        members=4,
        rng=0,
    )
    np.testing.assert_allclose(runs.masses.sum(axis=2), 3.0, rtol=1e-14)
    assert (runs.masses[:, :, 1] == 0).all() and (runs.extinction_time[:, 1] == 0).all()
    assert np.isinf(runs.extinction_time[:, 0]).all()
    assert not runs.masses.flags.writeable


def test_members_do_not_depend_on_how_many_there_are() -> None:
    noise: dict[str, Any] = {"noise": 0.5}

    def flow(members: int, rng: Any) -> Any:
        options = noise | {"calculus": "ito", "step_size": 0.1, "members": members, "rng": rng}
        return fitness_noise(LinearDecay(C, 0.5), np.ones(3), (0.0, 2.0), **options)

    def estimates(members: int, rng: Any) -> Any:
        options = noise | {"members": members, "rng": rng}
        return noisy_iterate(Replicator(), LinearDecay(C, 0.5), np.ones(3), 30, 0.1, **options)

    def sampling(members: int, rng: Any) -> Any:
        return wright_fisher(
            SelectionMutation(0.1), MatrixGame(np.eye(3)), [5, 3, 2], 30, members=members, rng=rng
        )

    for make in (flow, estimates, sampling):
        few, many = make(3, 11), make(7, 11)
        np.testing.assert_array_equal(many.masses[:3], few.masses)
        assert np.abs(many.masses[3] - many.masses[2]).max() > 0
        assert np.abs(make(3, 12).masses - few.masses).max() > 0


def test_noisy_estimates_average_to_the_map_and_leave_the_mass_alone() -> None:
    landscape, start = Constant(C), np.array([0.5, 1.0, 1.5])
    plain = iterate(Replicator(), landscape, start, 40, 0.05)
    still = noisy_iterate(Replicator(), landscape, start, 40, 0.05, noise=0.0)
    np.testing.assert_array_equal(still.masses[0], plain.masses)
    np.testing.assert_array_equal(still.t, plain.t)
    runs = noisy_iterate(
        Replicator(), landscape, start, 40, 0.05, noise=0.2, members=4000, rng=1, save_every=40
    )
    np.testing.assert_allclose(runs.masses.sum(axis=2), 3.0, rtol=1e-13)
    # The estimate enters one step linearly: after one step the mean is the map's, exactly.
    once = noisy_iterate(Replicator(), landscape, start, 1, 0.05, noise=0.2, members=20_000, rng=2)
    change = once.masses[:, -1] - plain.masses[1]
    p_values = np.asarray(scipy.stats.ttest_1samp(change, 0.0).pvalue)
    assert (p_values > SIGNIFICANT).all()
    # The variance of one step: h²σ²p_i²[(1 - x_i)² + Σ_{j≠i} x_j²].
    shares = start / 3
    variance = (0.05 * 0.2 * start) ** 2 * ((1 - shares) ** 2 + (shares**2).sum() - shares**2)
    np.testing.assert_allclose(change.var(axis=0), variance, rtol=0.06)


def test_noise_makes_neutral_estimates_drift_as_wide_as_theory_says() -> None:
    # Exponential map, equal fitness: ln(p_1/p_2) after k steps is normal with variance 2kh²σ².
    runs = noisy_iterate(
        Replicator(),
        Constant([1.0, 1.0]),
        [1.0, 1.0],
        100,
        0.1,
        noise=0.3,
        members=2000,
        scheme="exponential",
        save_every=100,
        rng=4,
    )
    law = scipy.stats.norm(0.0, np.sqrt(2 * 100) * 0.1 * 0.3)
    assert scipy.stats.kstest(log_ratios(runs, 0, 1), law.cdf).pvalue > SIGNIFICANT


@pytest.mark.parametrize("selection", [0.0, 0.02, -0.02])
def test_fixation_follows_kimura(selection: float) -> None:
    individuals, members = 50, 1500
    runs = wright_fisher(
        Replicator(), Constant([selection, 0.0]), [15, 35], 1500, members=members, save_every=1500, rng=3
    )
    final = runs.masses[:, -1, 0]
    assert set(np.unique(final)) == {0.0, 1.0}
    expected = float(fixation_probability(selection, 0.3, individuals))
    assert scipy.stats.binomtest(int(final.sum()), members, expected).pvalue > SIGNIFICANT
    opposite = float(fixation_probability(-selection or 0.04, 0.3, individuals))
    assert scipy.stats.binomtest(int(final.sum()), members, opposite).pvalue < 1e-6
    np.testing.assert_array_equal(np.isfinite(runs.extinction_time[:, 0]), final == 0)


def test_fixation_probability_at_its_limits() -> None:
    shares = np.linspace(0, 1, 11)
    np.testing.assert_allclose(fixation_probability(0.0, shares, 100), shares)
    np.testing.assert_allclose(fixation_probability(1e-12, shares, 100), shares, rtol=1e-8, atol=1e-15)
    strong = fixation_probability([5.0, -5.0], 0.5, 1000)
    assert strong[0] == 1.0 and 0 <= strong[1] < 1e-300
    for s in (0.03, 0.5):  # who fixes: the group or the rest
        forth, back = fixation_probability(s, 0.3, 40), fixation_probability(-s, 0.7, 40)
        assert float(forth + back) == pytest.approx(1.0, rel=1e-14)


def test_wright_fisher_mutation_balances_selection() -> None:
    # Many individuals: the average stays near the deterministic balance; zeros are revived.
    dynamics = SelectionMutation(0.2)
    landscape = Constant([0.3, 0.0])
    runs = wright_fisher(
        dynamics, landscape, [0, 2000], 300, step_size=0.1, members=40, save_every=300, rng=0
    )
    point = equilibrium(dynamics, landscape)
    np.testing.assert_allclose(runs.masses[:, -1].mean(axis=0), point.masses, atol=0.02)
    assert (runs.extinction_time[:, 0] == 0).all()


# --- Mutation ------------------------------------------------------------------------------------------


def test_without_noise_mutation_is_the_flow_to_second_order_with_exact_mass() -> None:
    dynamics = SelectionMutation(lambda t: 0.3 + 0.2 * np.cos(t), target=[0.5, 0.0, 1.0])
    start, end = [0.0, 1.0, 2.0], 3.0
    flow = solve(dynamics, Constant(C), start, (0.0, end), save_at=[end]).masses[-1]
    errors = []
    for width in (0.1, 0.05):
        still = fitness_noise(
            Constant(C),
            start,
            (0.0, end),
            noise=0.0,
            calculus="ito",
            dynamics=dynamics,
            save_at=[0.0, end],
            step_size=width,
        )
        np.testing.assert_allclose(still.masses[0, 0], start, rtol=1e-15)
        errors.append(np.abs(still.masses[0, -1] - flow).max())
    assert errors[1] < 1e-4
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2.0, abs=0.15)
    noisy_runs = fitness_noise(
        Constant(C),
        start,
        (0.0, end),
        noise=SIGMA,
        calculus="ito",
        dynamics=SelectionMutation(0.4, target=0.5),
        step_size=0.1,
        members=3,
        rng=0,
    )
    expected = 1.5 + 1.5 * np.exp(-0.4 * noisy_runs.t)
    np.testing.assert_allclose(noisy_runs.masses.sum(axis=2), np.tile(expected, (3, 1)), rtol=1e-12)
    assert "half-steps" in noisy_runs.model


@pytest.mark.parametrize("calculus", ["ito", "stratonovich"])
def test_odds_settle_into_the_generalised_inverse_gaussian_of_their_calculus(calculus: Calculus) -> None:
    c, sigma, target, rate = [0.3, 0.0], [1.0, 0.4], [0.6, 0.2], 0.25
    runs = fitness_noise(
        Constant(c),
        target,
        (0.0, 60.0),
        noise=sigma,
        calculus=calculus,
        dynamics=SelectionMutation(rate, target=target),
        save_at=[60.0],
        step_size=0.02,
        members=800,
        rng=7,
    )
    odds = np.exp(log_ratios(runs, 0, 1))

    def p_value(named: Calculus, mutation_rate: float = rate) -> float:
        law = stationary_odds_law(c, sigma, named, mutation_rate=mutation_rate, target=target)
        return float(scipy.stats.kstest(odds, law.cdf).pvalue)

    other: Calculus = "stratonovich" if calculus == "ito" else "ito"
    assert p_value(calculus) > SIGNIFICANT
    assert p_value(other) < 1e-6
    assert p_value(calculus, 3 * rate) < 1e-4


def test_the_stationary_density_solves_its_equation() -> None:
    # No flux: (s²/2) d ln(density of z)/dz is the drift of z, by finite differences of SciPy's density.
    c, sigma, q, rate = np.array([0.1, 0.4]), np.array([0.5, 0.3]), np.array([0.7, 0.3]), 0.2
    law = stationary_odds_law(c, sigma, "ito", mutation_rate=rate, target=3 * q)
    z = np.linspace(-2, 2, 9)

    def log_density(z: Floats) -> Floats:
        return np.asarray(law.logpdf(np.exp(z)) + z)

    slope = (log_density(z + 1e-5) - log_density(z - 1e-5)) / 2e-5
    gap = float(-np.diff(long_run_growth(c, sigma, "ito"))[0])
    drift = gap + rate * (q[0] * (1 + np.exp(-z)) - q[1] * (1 + np.exp(z)))
    np.testing.assert_allclose((sigma**2).sum() / 2 * slope, drift, rtol=1e-6, atol=1e-8)


def test_the_wright_fisher_matrix_is_kimuras_and_the_simulations_law() -> None:
    n, s = 60, 0.02
    chain = wright_fisher_matrix(Replicator(), Constant([s, 0.0]), n)
    np.testing.assert_allclose(chain.sum(axis=1), 1.0, rtol=1e-12)
    fixed = np.linalg.matrix_power(chain, 2**14)[:, -1]
    # Kimura's is a diffusion: right to the order of s.
    np.testing.assert_allclose(fixed, fixation_probability(s, np.arange(n + 1) / n, n), atol=s / 3)
    runs = wright_fisher(SelectionMutation(0.1), Constant([s, 0.0]), [20, 40], 3, members=3000, rng=1)
    chain = wright_fisher_matrix(SelectionMutation(0.1), Constant([s, 0.0]), n)
    expected = np.linalg.matrix_power(chain, 3)[20]
    counts = np.bincount(np.rint(runs.masses[:, -1, 0] * n).astype(int), minlength=n + 1)
    bins = np.digitize(np.arange(n + 1), [14, 18, 22, 26, 30])
    grouped = np.array([[counts[bins == k].sum(), 3000 * expected[bins == k].sum()] for k in range(6)])
    assert scipy.stats.chisquare(grouped[:, 0], grouped[:, 1]).pvalue > SIGNIFICANT
    still = np.linalg.matrix_power(wright_fisher_matrix(Replicator(), Constant([s, 0.0]), n), 3)[20]
    wrong = np.array([3000 * still[bins == k].sum() for k in range(6)])
    assert scipy.stats.chisquare(grouped[:, 0], wrong).pvalue < 1e-6


def noisy(landscape: Any = None, span: tuple[float, float] = (0.0, 1.0), **options: Any) -> Any:
    defaults: dict[str, Any] = {"noise": 1.0, "calculus": "ito"}
    landscape = Constant(C) if landscape is None else landscape
    return fitness_noise(landscape, np.ones(3), span, **(defaults | options))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noisy(calculus="isto"), "calculus"),
        (lambda: noisy(lambda t, p: -p), "step_size is None"),
        (lambda: noisy(dynamics=SelectionMutation(0.1)), "step_size is None"),
        (lambda: noisy(dynamics=Replicator(signal_clip=0.1)), "without a signal clip"),
        (
            lambda: noisy(dynamics=ReplicatorMutator(np.full((3, 3), 1 / 3))),
            "white noise makes births negative.*use wright_fisher",
        ),
        (lambda: noisy(dynamics=Populations(Replicator(), (1, 2))), "expected Replicator"),
        (lambda: stationary_odds_law(C, 1.0, "ito", mutation_rate=0.1), "two groups"),
        (lambda: stationary_odds_law([0.0, 0.0], 0.0, "ito", mutation_rate=0.1), "noise is zero"),
        (lambda: stationary_odds_law([0.0, 0.0], 1.0, "ito", mutation_rate=0.0), "mutation_rate"),
        (
            lambda: stationary_odds_law([0.0, 0.0], 1.0, "ito", mutation_rate=0.1, target=[0.0, 1.0]),
            "two positive",
        ),
        (lambda: wright_fisher_matrix(Replicator(), Constant([0.0, 0.0]), 0), "individuals"),
        (lambda: noisy_iterate(Replicator(), None, C, 3, 0.1, noise=1.0), "landscape is None"),  # type: ignore[arg-type]
        (lambda: noisy_iterate(Replicator(), Constant(C), C, 3, 0.1, noise=1.0, scheme="rk"), "scheme is"),  # type: ignore[arg-type]
        (lambda: noisy_iterate(Replicator(), Constant([1.0]), C, 3, 0.1, noise=1.0), "landscape is made for"),
        (lambda: wright_fisher(Replicator(), lambda t, x: x * np.nan, [1, 1], 3), "landscape returned"),
        (
            lambda: fitness_noise(
                lambda t, p: p * np.nan, C, (0.0, 1.0), noise=1.0, calculus="ito", step_size=0.1
            ),
            "landscape returned",
        ),
        (lambda: noisy(span=(1.0, 1.0)), "t_span"),
        (lambda: noisy(noise=-1.0), "noise"),
        (lambda: noisy(noise=[1.0, 2.0]), "noise has shape"),
        (lambda: noisy(save_at=[2.0]), "save_at"),
        (lambda: noisy_iterate(Replicator(), Constant(C), np.zeros(3), 3, 0.1, noise=1.0), "p0"),
        (lambda: wright_fisher(Replicator(), Constant(C), [0.5, 1.0, 1.0], 3), "counts"),
        (lambda: wright_fisher(Populations(Replicator(), (1, 2)), Constant(C), [1, 1, 1], 3), "Populations"),
        (lambda: fixation_probability(0.1, 1.5, 10), "share"),
        (lambda: hitting_time_law(share=0.1, threshold=0.5, drift=1.0, noise=(1.0, 1.0)), "threshold is"),
        (lambda: hitting_time_law(share=0.5, threshold=0.1, drift=1.0, noise=(0.0, 0.0)), "noise is zero"),
    ],
)
def test_errors_name_the_argument(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_fixation_of_the_nearly_neutral_is_their_share() -> None:
    tiny = [-1e-15, -1e-17, -1e-20, -1e-300, -5e-324, 0.0, 5e-324, 1e-20, 1e-16]
    np.testing.assert_allclose(fixation_probability(tiny, 0.3, 100), 0.3, rtol=1e-12)
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 60
    for s in [10.0**k for k in range(-12, 3)]:
        for sign in (1, -1):
            a = 2 * 50 * mpmath.mpf(sign * s)
            for x in (1e-9, 0.3, 1 - 1e-9):
                exact = mpmath.expm1(-a * mpmath.mpf(x)) / mpmath.expm1(-a)
                found = float(fixation_probability(sign * s, x, 50))
                assert abs(found - exact) <= (4e-15 + 4e-16 * 100 * s) * exact + 1e-300, (sign * s, x)
    assert fixation_probability([1e308, -1e308], 0.5, 100).tolist() == [1.0, 0.0]


def test_the_distance_to_a_threshold_close_by_keeps_its_digits() -> None:
    law = hitting_time_law(share=0.1 * (1 + 1e-13), threshold=0.1, drift=1.0, noise=(0.3, 0.4))
    assert law.mean() == pytest.approx((0.1 * (1 + 1e-13) - 0.1) / (0.1 * 0.9), rel=1e-9)


def test_noise_starts_anew_where_a_landscape_jumps() -> None:
    """Without noise the steps are exact where fitness is constant between its jumps."""
    record = Recorded([0.0, 0.45, 1.0], [[1.0, 0.0], [0.0, 1.0]])
    options: dict[str, Any] = {"noise": 0.0, "calculus": "ito", "step_size": 0.3, "save_at": [0.0, 1.0]}
    runs = fitness_noise(record, [1.0, 1.0], (0.0, 1.0), **options)
    assert runs.log_masses[0, -1, 0] - runs.log_masses[0, -1, 1] == pytest.approx(0.45 - 0.55, abs=1e-14)

    def rate(t: float) -> float:
        return 2.0 if t >= 0.45 else 0.0

    rate.breakpoints = lambda t_span: [0.45]  # type: ignore[attr-defined]
    runs = fitness_noise(
        Constant([0.0, 0.0]), [2.0, 0.0], (0.0, 1.0), dynamics=SelectionMutation(rate, target=1.0), **options
    )
    assert runs.masses[0, -1, 1] == pytest.approx(-np.expm1(-2.0 * 0.55), rel=1e-12)


def test_the_exact_chain_is_of_two_groups() -> None:
    for landscape in (Constant([0.0, 0.0, 0.0]), lambda t, masses: np.zeros(3)):
        with pytest.raises(ValueError, match="3"):
            wright_fisher_matrix(Replicator(), landscape, 10)
    with pytest.raises(ValueError, match="one population"):
        wright_fisher_matrix(Populations(Replicator(), sizes=(1, 1)), Constant([0.0, 0.0]), 10)
