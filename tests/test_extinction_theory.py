"""Extinction times, rates and sparsity: theory against simulation and high precision."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
import xarray
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evodyn.analysis.extinction_rates import extinction_rates
from evodyn.analysis.extinction_times import asymptotic_extinction_times, exact_extinction_times
from evodyn.analysis.mutation_theory import error_threshold, mutation_mass_floor, protective_mutation_rate
from evodyn.analysis.sparsity import equilibrium_sparsity
from evodyn.equilibria.equilibrium import equilibrium
from evodyn.model.equations import Replicator, SelectionMutation
from evodyn.model.landscapes import Constant, LinearDecay
from evodyn.model.laws import KINDS, contributions
from evodyn.simulate.extinction import Extinction
from evodyn.simulate.method import Solver
from evodyn.simulate.solve import solve

Floats = npt.NDArray[np.float64]
PRECISION: Any = mpmath  # untyped
mpf = PRECISION.mpf
VARYING = [kind for kind in KINDS if kind != "neutral"]


@settings(max_examples=60, deadline=None)
@given(
    c=hnp.arrays(float, 5, elements=st.floats(-3, 3)),
    p0=hnp.arrays(float, 5, elements=st.floats(1e-6, 10)),
    threshold=st.floats(1e-9, 1e-1),
)
@example(c=np.array([1.0, 0.0, 0.5, 0.9, -1.0]), p0=np.array([1e-6, 5.0, 1.0, 1.0, 1e-6]), threshold=1e-3)
def test_exact_times_satisfy_the_closed_form_in_fifty_digits(c: Floats, p0: Floats, threshold: float) -> None:
    c = np.round(c, 2)
    times = exact_extinction_times(c, p0, threshold)
    bounds = asymptotic_extinction_times(c, p0, threshold)
    assert (times <= bounds * (1 + 1e-14)).all()
    with PRECISION.workdps(50):
        for i, t in enumerate(times):
            if t == 0:
                assert p0[i] <= threshold
            elif np.isinf(t):
                assert c[i] == c.max() and p0[i] >= threshold
            else:
                pairs = zip(map(mpf, p0), map(mpf, c), strict=True)
                terms = [p * PRECISION.exp(x * mpf(t)) for p, x in pairs]
                mass = PRECISION.fsum(map(mpf, p0)) * terms[i] / PRECISION.fsum(terms)
                # The error of the time, not of the mass, is at rounding.
                slope = mpf(c[i]) - PRECISION.fsum(
                    x * y for x, y in zip(terms, map(mpf, c), strict=True)
                ) / PRECISION.fsum(terms)
                error = PRECISION.log(mass / mpf(threshold)) / slope
                assert abs(error) <= 1e-13 * (1 + t) + 1e-14 / abs(slope)


def test_exact_times_are_those_of_a_run() -> None:
    c = contributions("lognormal", n=300, heterogeneity=1.0, rng=1)
    p0 = np.random.default_rng(2).uniform(0.5e-3, 2.0, 300)
    times = exact_extinction_times(c, p0, 1e-3)
    run = solve(
        Replicator(),
        Constant(c),
        p0,
        (0.0, 60.0),
        save_at=[60.0],
        extinction=Extinction(1e-3, "observe"),
        solver=Solver(method="DOP853", rtol=1e-10, atol=1e-12),
    )
    within = times <= 60
    assert within.sum() > 250
    np.testing.assert_allclose(run.extinction_time[within], times[within], rtol=1e-8)
    assert np.isinf(run.extinction_time[~within]).all()


def test_times_are_asymptotic_for_small_thresholds_and_zeros_start_extinct() -> None:
    c, p0 = np.array([1.0, 1.0, 0.7, 0.2, 0.5]), np.array([0.5, 1.5, 1.0, 1.0, 0.0])
    for threshold, tolerance in ((1e-2, 0.05), (1e-12, 1e-3), (1e-300, 1e-12)):
        exact = exact_extinction_times(c, p0, threshold)
        rough = asymptotic_extinction_times(c, p0, threshold)
        np.testing.assert_allclose(exact[2:4], rough[2:4], rtol=tolerance)
        assert np.isinf(exact[:2]).all() and exact[4] == 0
    assert exact_extinction_times(c, p0, 1e-2)[3] < asymptotic_extinction_times(c, p0, 1e-2)[3]


@pytest.mark.parametrize("kind", VARYING)
@pytest.mark.parametrize("heterogeneity", [0.2, 1.0, 2.0])
def test_sparsity_of_samples_agrees_with_the_limit_of_many_groups(kind: str, heterogeneity: float) -> None:
    expected = equilibrium_sparsity(kind, heterogeneity=heterogeneity, decay=0.3, mean_mass=2.0)
    n, samples = 4000, 40
    found = []
    for seed in range(samples):
        c = contributions(kind, n=n, heterogeneity=heterogeneity, rng=seed)
        point = equilibrium(Replicator(), LinearDecay(c, 0.3), total_mass=2.0 * n)
        found.append(1 - point.survivors.mean())
    low, high = scipy.stats.t.interval(
        0.9999, samples - 1, np.mean(found), np.std(found, ddof=1) / samples**0.5 + 1e-9
    )
    # A finite sample's own water level shifts the mean by O(1/n).
    assert low - 3 / n <= expected <= high + 3 / n
    # The test can fail: with twice the decay, where that matters, the sparsity is another.
    other = equilibrium_sparsity(kind, heterogeneity=heterogeneity, decay=0.6, mean_mass=2.0)
    assert abs(other - expected) < 1e-3 or not low - 3 / n <= other <= high + 3 / n


@pytest.mark.parametrize("kind", KINDS)
def test_sparsity_solves_its_equation_by_quadrature(kind: str) -> None:
    heterogeneity = 0.0 if kind == "neutral" else 0.8
    n = 2_000_000
    sample = np.sort(contributions(kind, n=n, heterogeneity=heterogeneity, rng=0))
    for volume in (0.05, 0.4, 3.0):
        expected = equilibrium_sparsity(kind, heterogeneity=heterogeneity, decay=volume)
        levels = (np.cumsum(sample[::-1]) / n - volume) / (np.arange(1, n + 1) / n)
        kept = np.flatnonzero(sample[::-1] > levels)[-1] + 1
        assert 1 - kept / n == pytest.approx(expected, abs=3e-3)


@pytest.mark.parametrize("kind", VARYING)
def test_sparsity_with_mutation_and_a_threshold(kind: str) -> None:
    options: dict[str, float] = {"heterogeneity": 1.0, "decay": 0.5}
    mutation, threshold, n = 0.05, 0.1, 200_000
    expected = equilibrium_sparsity(kind, **options, mutation_rate=mutation, threshold=threshold)
    c = contributions(kind, n=n, heterogeneity=1.0, rng=8)
    point = equilibrium(SelectionMutation(mutation, target=1.0), LinearDecay(c, 0.5))
    measured = float((point.masses < threshold).mean())
    assert measured == pytest.approx(expected, abs=5 * (0.25 / n) ** 0.5 + 1e-4)
    assert equilibrium_sparsity(kind, **options, mutation_rate=mutation) == 0.0
    assert equilibrium_sparsity(kind, **options, mutation_rate=50.0, threshold=threshold) == 0.0
    limit = equilibrium_sparsity(kind, **options, mutation_rate=1e-12, threshold=1e-3)
    assert limit == pytest.approx(equilibrium_sparsity(kind, **options, threshold=1e-3), abs=1e-5)


def test_sparsity_by_hand() -> None:
    # Two classes 0 and 2: the upper half holds all mass until λP/N reaches 1.
    def two_class(decay: float) -> float:
        return equilibrium_sparsity("two_class", heterogeneity=1.0, decay=decay)

    assert two_class(0.999) == 0.5
    assert two_class(1.001) == 0.0
    assert equilibrium_sparsity("neutral", heterogeneity=0.0, decay=1e-6) == 0.0
    # Pareto with shape 1 + √2 and all groups alive.
    assert equilibrium_sparsity("pareto", heterogeneity=1.0, decay=10.0) == 0.0


def test_mutation_floor_bounds_equilibrium_and_is_reached_in_the_limit() -> None:
    c = contributions("lognormal", n=200, heterogeneity=1.0, rng=4)
    for rate in (1e-3, 0.1, 2.0):
        for decay in (0.0, 0.5):
            floor = mutation_mass_floor(c, rate, decay=decay)
            landscape = LinearDecay(c, decay) if decay else Constant(c)
            masses = equilibrium(SelectionMutation(rate, target=1.0), landscape).masses
            assert (floor <= masses * (1 + 1e-12)).all()
    # A best group far above the rest takes all: the bound is then tight for the others.
    c[0] = 1e4
    masses = equilibrium(SelectionMutation(0.1, target=1.0), Constant(c)).masses
    np.testing.assert_allclose(mutation_mass_floor(c, 0.1)[1:], masses[1:], rtol=1e-4)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_protective_mutation_rate_is_where_the_least_mass_crosses(decay: float) -> None:
    c = contributions("gaussian", n=100, heterogeneity=0.5, rng=4)
    rate = protective_mutation_rate(c, 0.05, decay=decay)
    landscape = LinearDecay(c, decay) if decay else Constant(c)
    for factor, protected in ((1.001, True), (0.999, False)):
        masses = equilibrium(SelectionMutation(rate * factor, target=1.0), landscape).masses
        assert (masses.min() >= 0.05) == protected
    assert protective_mutation_rate(np.ones(3), 0.5) == 0.0
    assert protective_mutation_rate(c, 1e-3, decay=1e3) == 0.0
    with pytest.raises(ValueError, match="below the target"):
        protective_mutation_rate(c, 2.0)


@pytest.mark.parametrize("decay", [0.0, 0.2])
def test_an_unfed_best_group_persists_up_to_the_error_threshold(decay: float) -> None:
    c = np.r_[3.0, contributions("uniform", n=30, heterogeneity=0.5, rng=4)]
    target = np.r_[0.0, np.linspace(0.5, 1.5, 30)]
    rate = error_threshold(c, target=target, decay=decay)
    landscape = LinearDecay(c, decay)
    for factor, persists in ((0.95, True), (1.05, False)):
        run = solve(
            SelectionMutation(rate * factor, target=target),
            landscape,
            np.ones(31),
            (0.0, 3000.0),
            save_at=[3000],
        )
        # Where it vanishes, it does so at a steady rate.
        assert (run.masses[-1, 0] > 1e-2) == persists
        assert (run.log_masses[-1, 0] < -50) != persists


def test_the_error_threshold_of_one_peak() -> None:
    advantage, sizes = 0.5, np.array([100, 1600])
    shares = []
    for n in sizes:
        c = np.r_[1.0 + advantage, np.ones(n - 1)]
        threshold = error_threshold(c)
        assert threshold == pytest.approx(advantage * n / (n - 1), rel=1e-14)

        def share(factor: float, c: Floats = c, rate: float = threshold) -> float:
            p0 = np.ones(len(c))
            run = solve(
                SelectionMutation(rate * factor, target=1.0), Constant(c), p0, (0.0, 400.0), save_at=[400.0]
            )
            return float(run.masses[-1, 0] / len(c))

        assert share(0.5) == pytest.approx(0.5, abs=2 / n)
        assert share(2.0) == pytest.approx(1 / n, abs=2 / n)
        shares.append(share(1.0))
    # At the threshold the quadratic for the best share gives √(m_*/M) to leading order.
    assert (np.abs(shares - 1 / np.sqrt(sizes)) < 0.55 / sizes).all()


def test_no_error_threshold_where_only_the_best_are_fed() -> None:
    assert error_threshold([1.0, 1.0]) == np.inf
    assert error_threshold([2.0, 1.0], target=[1.0, 0.0]) == np.inf
    c = contributions("lognormal", n=20, heterogeneity=1.0, rng=0)
    rates = [error_threshold(c, decay=decay) for decay in (0.0, 1e-9, 0.1, 1.0)]
    assert rates[1] == pytest.approx(rates[0], rel=1e-6)
    assert rates == sorted(rates)
    with pytest.raises(ValueError, match="target is 0"):
        error_threshold(c, target=0.0)


@pytest.mark.parametrize("kind", VARYING)
def test_measured_rates_are_within_one_percent_of_theory(kind: str) -> None:
    c = contributions(kind, n=80, heterogeneity=1.0, rng=11)
    landscape = LinearDecay(c, 0.1)
    point = equilibrium(Replicator(), landscape, total_mass=80.0)
    assert 0 < point.survivors.sum() < 80
    slowest = -float(equilibrium(Replicator(), landscape, total_mass=80.0).eigenvalues[0].real)  # type: ignore[index]
    run = solve(Replicator(), landscape, np.ones(80), (0.0, 40 / slowest))
    rates = extinction_rates(run)
    np.testing.assert_array_equal(rates.dying, ~point.survivors)
    assert np.nanmax(np.abs(rates.relative_error)) < 0.01
    # A dataset of the saved schema gives the same.
    again = extinction_rates(run.to_xarray())
    np.testing.assert_allclose(again.measured, rates.measured, rtol=1e-12)
    theory = extinction_rates(point)
    np.testing.assert_allclose(theory.theoretical, rates.theoretical, atol=1e-12)
    assert np.isnan(theory.measured).all()


def test_rates_after_absorption_belong_to_the_survivors() -> None:
    c = np.array([2.0, 1.5, 1.0, 0.0])
    run = solve(
        Replicator(), LinearDecay(c, 0.1), np.ones(4), (0.0, 400.0), extinction=Extinction(0.2, "absorb")
    )
    rates = extinction_rates(run)
    assert rates.theoretical[0] == 0
    alive = np.isfinite(run.log_masses[-1])
    np.testing.assert_allclose(
        rates.measured[alive & rates.dying], rates.theoretical[alive & rates.dying], rtol=0.01
    )
    assert np.isnan(rates.measured[~alive]).all()


def test_interval_of_noisy_slopes_covers_and_errors() -> None:
    import xarray

    t = np.linspace(0, 10, 200)
    rng = np.random.default_rng(0)
    logs = -0.3 * t[:, None] + 0.1 * rng.normal(size=(200, 500))
    logs[:, 0] = 0.0
    specification = solve(
        Replicator(), Constant(np.r_[1.0, np.full(499, 0.7)]), np.ones(500), (0.0, 1.0)
    ).to_xarray()
    mine = xarray.Dataset({"log_mass": (("time", "group"), logs)}, {"time": t}, specification.attrs)
    for name, values in specification.data_vars.items():
        if str(name).startswith("specification_"):
            mine[name] = values
    rates = extinction_rates(mine, window=(0.0, 1.0))
    covered = (rates.interval[1:, 0] <= 0.3) & (rates.interval[1:, 1] >= 0.3)
    assert 0.92 <= covered.mean() <= 0.98
    with pytest.raises(ValueError, match="at least 3"):
        extinction_rates(mine, window=(0.999, 1.0))
    unknown = extinction_rates(mine.drop_attrs(), window=(0.0, 1.0))
    assert unknown.measured.tolist() == rates.measured.tolist() and np.isnan(unknown.theoretical).all()
    with pytest.raises(ValueError, match="no coordinate 'time'"):
        extinction_rates(mine.drop_vars("time"))
    with pytest.raises(ValueError, match="expected a Run"):
        extinction_rates([1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0], [1.0, 2.0], 0.1), "p0 has shape"),
        (([1.0], [0.0], 0.1), "some mass"),
        (([1.0], [1.0], 0.0), "threshold"),
        (([1.0], [-1.0], 0.1), "p0"),
    ],
)
def test_errors(arguments: tuple[Any, Any, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exact_extinction_times(*arguments)


def test_rates_are_measured_on_a_trajectory_of_unknown_making() -> None:
    t = np.linspace(0.0, 10.0, 21)
    mine = xarray.Dataset({"mass": (("group", "time"), np.exp([-0.5 * t, 0.0 * t]))}, {"time": t})
    rates = extinction_rates(mine)
    np.testing.assert_allclose(rates.measured, [0.5, 0.0], atol=1e-12)
    assert np.isnan(rates.theoretical).all() and not rates.dying.any()
    assert np.isnan(rates.relative_error).all()


def test_intervals_of_slopes_have_two_degrees_of_freedom_less_than_points() -> None:
    """Against SciPy's linear regression, on a curve of few points."""
    t = np.array([0.0, 1.0, 2.0, 3.0])
    logs = np.log(np.array([1.0, 0.4, 0.2, 0.05]))
    masses = np.stack((np.exp(logs), np.ones(4)), axis=1)
    data = xarray.Dataset({"mass": (("time", "group"), masses)}, {"time": t})
    rates = extinction_rates(data, window=(0.0, 1.0))
    fit = scipy.stats.linregress(t, logs)
    half = scipy.stats.t.ppf(0.975, 2) * fit.stderr
    np.testing.assert_allclose(rates.interval[0], [-fit.slope - half, -fit.slope + half], rtol=1e-12)
