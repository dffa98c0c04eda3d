"""Extinction: every crossing of the threshold once, at its time; and the policies absorb and stop."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import logsumexp

import evodyn as ed
from evodyn import landscapes
from evodyn.core.arrays import FloatArray
from evodyn.simulate.method import MethodName
from evodyn.solvers.crossings import find_crossings
from tests import strategies
from tests.test_solve import EVERY, METHODS, REPLICATOR, solver

by_every_method = pytest.mark.parametrize("method", EVERY)
by_method = pytest.mark.parametrize("method", METHODS)

Crossing = tuple[int, float, int]


def crossings_of(run: ed.Run) -> list[Crossing]:
    """Return group, time, direction, sorted by group and time."""
    return sorted((int(g), float(t), int(d)) for g, t, d in run.crossings)


def assert_same(found: list[Crossing], expected: list[Crossing], tolerance: float) -> None:
    """Check that the same groups cross in the same directions at the same times, none missed, none double."""
    assert [(g, d) for g, _, d in found] == [(g, d) for g, _, d in expected]
    if found:
        times = np.array([[t for _, t, _ in table] for table in (found, expected)])
        np.testing.assert_allclose(times[0], times[1], rtol=tolerance, atol=tolerance)


Curves = Callable[[FloatArray], FloatArray]
"""Log-masses (len(t), N) at an array of times."""


def sign_changes(curves: Curves, level: float, turning: FloatArray) -> list[Crossing]:
    """Return where each ln p crosses `level`, by bisection between turning points, shape (K, N) of times."""

    def above(t: FloatArray, groups: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_]:
        return np.asarray(curves(t)[np.arange(len(t)), groups] >= level)

    everyone = np.arange(turning.shape[1])
    found = []
    for left, right in itertools.pairwise(turning):
        after = above(right, everyone)
        crossing = np.flatnonzero(above(left, everyone) != after)
        low, high = left[crossing], right[crossing]
        for _ in range(55 if len(crossing) else 0):
            middle = 0.5 * (low + high)
            late = above(middle, crossing) == after[crossing]
            low, high = np.where(late, low, middle), np.where(late, middle, high)
        found += [(int(g), float(t), 1 if after[g] else -1) for g, t in zip(crossing, high, strict=True)]
    return sorted(found)


def curves_of(c: FloatArray, p0: FloatArray) -> Curves:
    """Return ln p for constant fitness."""
    with np.errstate(divide="ignore"):
        start = np.log(p0)

    def curves(t: FloatArray) -> FloatArray:
        logs = start + np.multiply.outer(t, c)
        out: FloatArray = logs - logsumexp(logs, axis=-1, keepdims=True) + np.log(p0.sum())
        return out

    return curves


def peaks(c: FloatArray, p0: FloatArray, end: float) -> FloatArray:
    """Return where each ln p is largest: where the mean fitness, which rises, is its own."""
    curves = curves_of(c, p0)
    low, high = np.zeros(len(c)), np.full(len(c), end)
    for _ in range(55):
        middle = 0.5 * (low + high)
        rising = np.exp(curves(middle)) @ c / p0.sum() < c
        low, high = np.where(rising, middle, low), np.where(rising, high, middle)
    return high


def concave(c: FloatArray, p0: FloatArray, end: float, level: float) -> list[Crossing]:
    """Return all crossings for constant fitness: every ln p_i is concave."""
    turning = np.stack((np.zeros(len(c)), peaks(c, p0, end), np.full(len(c), end)))
    return sign_changes(curves_of(c, p0), level, turning)


# Times


@functools.cache
def lognormal_extinctions(n: int) -> tuple[FloatArray, list[Crossing]]:
    c = landscapes.contributions("lognormal", n=n, heterogeneity=1.0, rng=0)
    return c, concave(c, np.ones(n), 100.0, np.log(1e-3))


@by_every_method
def test_extinction_times_of_768_groups(method: MethodName) -> None:
    # Fewer where the Jacobian is measured column by column.
    c, expected = lognormal_extinctions(96 if method in ("Radau", "BDF") else 768)
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant(c),
        np.ones(len(c)),
        (0.0, 100.0),
        save_at=[100.0],
        extinction=ed.Extinction(1e-3),
        solver=solver(method, 1e-7 if method in ("RK23", "BDF", "Radau") else 1e-8),
    )
    assert len(expected) > 0.9 * len(c)
    assert_same(crossings_of(run), expected, 1e-6)
    first = {g: t for g, t, d in reversed(expected) if d < 0}
    times = np.array([first.get(g, np.inf) for g in range(len(c))])
    np.testing.assert_allclose(run.extinction_time, times, rtol=1e-6)
    np.testing.assert_array_equal(run.extinct_at_end, run.log_masses[-1] < np.log(1e-3))


@pytest.mark.slow
@given(st.data(), st.sampled_from(EVERY))
@settings(max_examples=100)
def test_crossings_for_constant_fitness(data: st.DataObject, method: MethodName) -> None:
    n = data.draw(st.integers(2, 6))
    c = data.draw(strategies.vectors(n, -3.0, 3.0))
    p0, end = np.exp(data.draw(strategies.vectors(n, -12.0, 3.0))), data.draw(st.floats(1.0, 30.0))
    threshold = float(np.exp(data.draw(st.floats(-10.0, 1.0))))
    level, curves = np.log(threshold), curves_of(c, p0)
    # Curves that touch the level, or begin or end on it, have no right number of crossings.
    turning = np.stack((np.zeros(n), peaks(c, p0, end), np.full(n, end)))
    assume(all(np.abs(np.diag(curves(t)) - level).min() > 1e-6 for t in turning))
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant(c),
        p0,
        (0.0, end),
        save_at=[end],
        extinction=ed.Extinction(threshold),
        solver=solver(method, 1e-9),
    )
    found, expected = crossings_of(run), concave(c, p0, end, level)
    assert [(g, d) for g, _, d in found] == [(g, d) for g, _, d in expected]
    for (g, t, _), (_, s, _) in zip(found, expected, strict=True):
        # An error in ln p moves a crossing by that over the slope there, or its root at a peak.
        slope = abs(c[g] - np.exp(curves(np.array([s]))[0]) @ c / p0.sum())
        assert abs(t - s) * slope < 1e-7


@pytest.mark.slow
@by_method
def test_two_crossings_inside_one_step(method: MethodName) -> None:
    # A group starts below, rises and falls again; at loose tolerances steps are longer than the visit.
    c = np.array([0.0, 1.0, 2.0])
    p0 = np.array([1.0, 1e-3, 1e-9])
    expected = concave(c, p0, 40.0, np.log(0.4))
    assert [(g, d) for g, _, d in expected] == [(0, -1), (1, 1), (1, -1), (2, 1)]
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant(c),
        p0,
        (0.0, 40.0),
        save_at=[40.0],
        extinction=ed.Extinction(0.4),
        solver=ed.Solver(method=method, rtol=1e-3, atol=0.0),
    )
    assert_same(crossings_of(run), expected, 1e-3)
    # A visit of 1e-3 around its peak, within steps of several units.
    highest = np.exp(curves_of(c, p0)(peaks(c, p0, 40.0))[1, 1]) * (1 - 1e-7)
    close = concave(c, p0, 40.0, np.log(highest))
    narrow = ed.solve(
        REPLICATOR,
        landscapes.Constant(c),
        p0,
        (0.0, 40.0),
        save_at=[40.0],
        extinction=ed.Extinction(float(highest)),
        solver=ed.Solver(method=method, rtol=1e-11, atol=0.0),
    )
    times = [t for g, t, _ in close if g == 1]
    assert len(times) == 2 and 1e-4 < times[1] - times[0] < 1e-2
    assert_same(crossings_of(narrow), close, 1e-4)


def test_steps_were_longer_than_the_visits() -> None:
    # The control: the signs at the ends of steps would not have shown them.
    c, p0 = np.array([0.0, 1.0, 2.0]), np.array([1.0, 1e-3, 1e-9])
    run = ed.solve(
        REPLICATOR, landscapes.Constant(c), p0, (0.0, 40.0), solver=ed.Solver(method="DOP853", rtol=1e-3)
    )
    assert 40.0 / run.stats.steps > 1.0


SEASONS = landscapes.Seasonal([0.0, 0.02, -0.02], [1.0, -0.6, 0.3], 4.0, [0.0, 1.0, 2.0])


@functools.cache
def seasonal_crossings() -> list[Crossing]:
    c, a, theta, w = SEASONS.contribution, SEASONS.amplitude, SEASONS.phase, 2 * np.pi / SEASONS.period

    def curves(t: FloatArray) -> FloatArray:
        s = t[:, None]
        logs = np.log([1.0, 0.6, 1.4]) + c * s + a * (np.cos(theta) - np.cos(w * s + theta)) / w
        out: FloatArray = logs - logsumexp(logs, axis=1, keepdims=True) + np.log(3.0)
        return out

    return sign_changes(curves, np.log(0.7), np.tile(np.linspace(0.0, 40.0, 801)[:, None], 3))


@by_every_method
def test_seasons_bring_groups_back(method: MethodName) -> None:
    expected = seasonal_crossings()
    assert len(expected) >= 20
    run = ed.solve(
        REPLICATOR,
        SEASONS,
        [1.0, 0.6, 1.4],
        (0.0, 40.0),
        save_at=[40.0],
        extinction=ed.Extinction(0.7),
        solver=solver(method, 1e-8),
    )
    assert_same(crossings_of(run), expected, 2e-6)
    # Down and up in turn, from the side on which each began.
    for group in range(3):
        directions = [d for g, _, d in crossings_of(run) if g == group]
        assert all(x == -y for x, y in itertools.pairwise(directions))
        assert not directions or run.extinct_at_end[group] == (directions[-1] < 0)
    assert run.extinction_time[1] == 0.0


@by_every_method
@pytest.mark.parametrize("threshold", [1e-200, 1e-12, 1e-4, 0.1, 0.3])
def test_mutation_brings_groups_back(threshold: float, method: MethodName) -> None:
    # From nothing, p = m (1 - e^{-µt}) if all are equally fit.
    rate, m = 0.3, np.array([0.5, 0.4, 0.2])
    run = ed.solve(
        ed.SelectionMutation(rate, m),
        landscapes.Constant(np.zeros(3)),
        [1.1, 0.0, 0.0],
        (0.0, 20.0),
        save_at=[20.0],
        extinction=ed.Extinction(threshold),
        solver=solver(method, 1e-8),
    )
    expected = [(g, float(-np.log1p(-threshold / m[g]) / rate), 1) for g in (1, 2) if threshold < m[g]]
    assert_same(crossings_of(run), expected, 1e-6)
    assert (run.extinction_time[1:] == 0).all() and np.isinf(run.extinction_time[0])
    np.testing.assert_array_equal(run.extinct_at_end, m < threshold)


@by_every_method
def test_on_the_threshold_is_not_below_it(method: MethodName) -> None:
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant([1.0, 0.0]),
        [1.0, 1.0],
        (0.0, 2.0),
        extinction=ed.Extinction(1.0),
        solver=solver(method),
    )
    # The one leaves the threshold downwards at once; the other never was below it.
    assert [(g, d) for g, _, d in crossings_of(run)] == [(1, -1)]
    assert run.extinction_time[1] == pytest.approx(0.0, abs=1e-9) and np.isinf(run.extinction_time[0])


@by_every_method
def test_who_starts_below_is_extinct_from_the_start(method: MethodName) -> None:
    run = ed.solve(
        REPLICATOR,
        landscapes.LinearDecay([1.0, 0.0, 5.0], 0.01),
        [1.0, 0.01, 0.0],
        (3.0, 5.0),
        extinction=ed.Extinction(0.1),
        solver=solver(method),
    )
    assert run.extinction_time.tolist() == [np.inf, 3.0, 3.0]
    assert run.extinct_at_end.tolist() == [False, True, True] and len(run.crossings) == 0


@by_every_method
def test_without_a_threshold_extinct_means_zero(method: MethodName) -> None:
    run = ed.solve(
        REPLICATOR,
        landscapes.LinearDecay([900.0, 0.0, 1.0], 0.01),
        [1.0, 1.0, 0.0],
        (0.0, 2.0),
        solver=solver(method, 1e-4),
    )
    assert run.masses[-1, 1] == 0 and run.log_masses[-1, 1] < -1700
    assert run.extinct_at_end.tolist() == [False, False, True]
    assert run.extinction_time.tolist() == [np.inf, np.inf, 0.0]


@by_every_method
def test_thresholds_below_the_smallest_float_of_a_mass_and_above_all_mass(method: MethodName) -> None:
    arguments = (REPLICATOR, landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 2000.0))
    run = ed.solve(*arguments, extinction=ed.Extinction(5e-324), solver=solver(method, 1e-8))
    assert_same(crossings_of(run), [(1, float(np.log(2.0) - np.log(5e-324)), -1)], 1e-8)
    run = ed.solve(*arguments, extinction=ed.Extinction(1e300), solver=solver(method))
    assert len(run.crossings) == 0 and run.extinct_at_end.all() and (run.extinction_time == 0).all()


@by_every_method
def test_observing_changes_nothing(method: MethodName) -> None:
    rng = np.random.default_rng(1)
    landscape = landscapes.LinearDecay(rng.normal(size=5), 0.3)
    p0 = rng.lognormal(size=5)
    blind = ed.solve(REPLICATOR, landscape, p0, (0.0, 20.0), solver=solver(method))
    seen = ed.solve(
        REPLICATOR, landscape, p0, (0.0, 20.0), extinction=ed.Extinction(0.1), solver=solver(method)
    )
    assert len(seen.crossings) > 0
    assert seen.native.tobytes() == blind.native.tobytes() and seen.stats.steps == blind.stats.steps


def test_crossings_do_not_depend_on_what_is_saved() -> None:
    c = landscapes.contributions("lognormal", n=50, heterogeneity=1.0, rng=3)
    runs = [
        ed.solve(
            REPLICATOR,
            landscapes.LinearDecay(c, 1e-4),
            np.ones(50),
            (0.0, 60.0),
            save_at=save_at,
            extinction=ed.Extinction(1e-3),
        )
        for save_at in ([0.0], [60.0], None)
    ]
    assert len(runs[0].crossings) > 20
    for run in runs[1:]:
        assert run.crossings.tobytes() == runs[0].crossings.tobytes()
        np.testing.assert_array_equal(run.extinction_time, runs[0].extinction_time)


def test_the_table_of_crossings() -> None:
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant([2.0, 1.0, 0.0]),
        np.ones(3),
        (0.0, 20.0),
        extinction=ed.Extinction(0.01),
    )
    assert run.crossings.dtype.names == ("group", "time", "direction")
    assert run.crossings.group.tolist() == [2, 1] and run.crossings.direction.tolist() == [-1, -1]
    assert (np.diff(run.crossings.time) > 0).all()
    assert run.extinction_time[[2, 1]].tolist() == run.crossings.time.tolist()


@given(st.lists(st.tuples(st.floats(0.1, 0.9), st.floats(1e-6, 0.05)), min_size=1, max_size=4))
@example([(0.55, 1e-3), (0.999, 1e-6)])
def test_pairs_of_crossings_within_an_interval_are_found(dips: list[tuple[float, float]]) -> None:
    centres = np.array([centre for centre, _ in dips])
    depths = np.array([depth for _, depth in dips])

    def curves(t: FloatArray) -> FloatArray:
        out: FloatArray = (t[:, None] - centres) ** 2 - depths**2
        return out

    found = find_crossings(curves, 0.0, 1.0)
    expected = sorted(
        [(float(c - d), k, -1) for k, (c, d) in enumerate(dips)]
        + [(float(c + d), k, 1) for k, (c, d) in enumerate(dips) if c + d < 1]
    )
    assert [(k, d) for _, k, d in sorted(found, key=lambda row: (row[1], row[0]))] == [
        (k, d) for _, k, d in sorted(expected, key=lambda row: (row[1], row[0]))
    ]


# Policies


def absorbing(c: FloatArray, p0: FloatArray, threshold: float, end: float) -> tuple[FloatArray, FloatArray]:
    """Return when each group is absorbed and with which mass, for constant fitness, one event at a time."""
    logs, t = np.log(p0), 0.0
    alive = np.ones(len(c), dtype=bool)
    times, booked = np.full(len(c), np.inf), np.zeros(len(c))
    while True:
        total = logsumexp(logs[alive])

        def height(s: float, i: int, total: float = total) -> float:
            now = logs[alive] + c[alive] * s
            return float(logs[i] + c[i] * s - logsumexp(now) + total - np.log(threshold))

        falls = {
            i: brentq(height, 0.0, end - t, (i,), xtol=1e-15, rtol=1e-14)
            for i in np.flatnonzero(alive).tolist()
            if height(end - t, i) < 0
        }
        if not falls:
            return times, booked
        first = min(falls, key=lambda i: falls[i])
        now = logs[alive] + c[alive] * falls[first]
        logs[alive] = now - logsumexp(now) + total
        t += falls[first]
        times[first], booked[first], alive[first] = t, np.exp(logs[first]), False


@by_every_method
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_absorption_restarts_everything_else(seed: int, method: MethodName) -> None:
    # Mass leaves with each group, and moves the mean and all later times.
    rng = np.random.default_rng(seed)
    c, p0 = rng.normal(size=12), rng.lognormal(size=12) + 0.2
    times, booked = absorbing(c, p0, 0.05, 30.0)
    assert np.isfinite(times).sum() > 6
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant(c),
        p0,
        (0.0, 30.0),
        extinction=ed.Extinction(0.05, "absorb"),
        solver=solver(method, 1e-8),
    )
    np.testing.assert_allclose(run.extinction_time, times, rtol=1e-6)
    np.testing.assert_allclose(run.absorbed_mass, booked, atol=1e-7)
    # The books balance at every saved time.
    for k, t in enumerate(run.t):
        removed = run.absorbed_mass[run.extinction_time <= t].sum()
        assert run.total_mass[k] + removed == pytest.approx(p0.sum(), rel=1e-11)
        np.testing.assert_array_equal(run.masses[k] == 0, run.extinction_time <= t)
    assert run.extinct_at_end.tolist() == np.isfinite(times).tolist()
    assert sorted(run.crossings.group.tolist()) == np.flatnonzero(np.isfinite(times)).tolist()
    # The control: without absorption, later ones go at other times.
    observed = ed.solve(REPLICATOR, landscapes.Constant(c), p0, (0.0, 30.0), extinction=ed.Extinction(0.05))
    assert np.nanmax(np.abs(np.where(np.isfinite(times), times, np.nan) - observed.extinction_time)) > 1e-3


@by_every_method
def test_ties_are_absorbed_together(method: MethodName) -> None:
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant([1.0, 0.0, 0.0, 0.0]),
        [1.0, 1.0, 1.0 + 1e-15, 1.0],
        (0.0, 10.0),
        extinction=ed.Extinction(0.1, "absorb"),
        solver=solver(method, 1e-8),
    )
    # Three of mass x each and the best with 4 - 3x: all at x = 0.1.
    assert len(set(run.extinction_time[1:].tolist())) == 1
    assert run.extinction_time[1] == pytest.approx(np.log(3.7 / 0.1), rel=1e-8)
    np.testing.assert_allclose(run.absorbed_mass, [0.0, 0.1, 0.1, 0.1], rtol=1e-8)
    assert run.total_mass[-1] == pytest.approx(3.7, rel=1e-8)


@by_every_method
@pytest.mark.parametrize("start", [0.0, 1e-300, 0.05])
def test_who_starts_below_is_absorbed_at_once_and_for_good(start: float, method: MethodName) -> None:
    # Without inflow from then on: the target of what is left is what counts.
    run = ed.solve(
        ed.SelectionMutation(0.1, 0.5),
        landscapes.Constant([1.0, 0.0]),
        [1.0, start],
        (0.0, 30.0),
        extinction=ed.Extinction(0.1, "absorb"),
        solver=solver(method),
    )
    assert (run.masses[:, 1] == 0).all() and run.extinct_at_end.tolist() == [False, True]
    assert run.absorbed_mass[1] == pytest.approx(start, rel=1e-12, abs=0) and run.extinction_time[1] == 0.0
    np.testing.assert_allclose(run.total_mass, 0.5 + 0.5 * np.exp(-0.1 * run.t), rtol=1e-9)


@by_every_method
def test_an_absorbed_group_receives_no_mutation(method: MethodName) -> None:
    run = ed.solve(
        ed.SelectionMutation(0.1, 0.5),
        landscapes.Constant([1.0, 0.5, -3.0]),
        np.ones(3),
        (0.0, 40.0),
        extinction=ed.Extinction(0.12, "absorb"),
        solver=solver(method, 1e-8),
    )
    gone = run.extinction_time
    assert np.isfinite(gone[2]) and np.isinf(gone[0])
    for k, t in enumerate(run.t):
        np.testing.assert_array_equal(run.masses[k] == 0, gone <= t)
    # Total mass relaxes to the target of those that are left.
    left = 0.5 * np.isinf(gone).sum()
    last = gone[np.isfinite(gone)].max()
    late = run.t > last
    after = left + (run.total_mass[late][0] - left) * np.exp(-0.1 * (run.t[late] - run.t[late][0]))
    np.testing.assert_allclose(run.total_mass[late], after, rtol=1e-9)


@by_every_method
def test_all_may_be_absorbed(method: MethodName) -> None:
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant([1.0, 0.0]),
        [1.0, 1.0],
        (0.0, 2.0),
        save_at=[0.0, 1.0, 2.0],
        extinction=ed.Extinction(5.0, "absorb"),
        solver=solver(method),
    )
    assert run.termination is ed.Termination.ALL_EXTINCT and run.succeeded
    assert (run.masses == 0).all() and run.total_mass.tolist() == [0.0, 0.0, 0.0]
    assert run.absorbed_mass.tolist() == [1.0, 1.0] and run.t.tolist() == [0.0, 1.0, 2.0]
    assert run.extinct_at_end.all() and (run.extinction_time == 0).all()


@by_every_method
def test_blocks_absorb_on_their_own(method: MethodName) -> None:
    layers = ed.Populations(ed.Replicator(), (2, 1, 2))
    run = ed.solve(
        layers,
        landscapes.Constant([1.0, 0.0, 7.0, 0.0, 2.0]),
        [1.0, 1.0, 0.05, 1.0, 1.0],
        (0.0, 20.0),
        extinction=ed.Extinction(0.1, "absorb"),
        solver=solver(method, 1e-8),
    )
    np.testing.assert_allclose(
        run.extinction_time, [np.inf, np.log(19), 0.0, np.log(19) / 2, np.inf], rtol=1e-7
    )
    np.testing.assert_allclose(run.total_mass[-1], [1.9, 0.0, 1.9], rtol=1e-8)
    assert run.termination is ed.Termination.COMPLETED
    assert np.isnan(run.mean_fitness[-1, 1]) and np.isfinite(run.mean_fitness[-1, [0, 2]]).all()


@by_every_method
def test_absorption_under_a_cap(method: MethodName) -> None:
    # At the cap mass stays; an absorption takes it below, and growth at the clip brings it back.
    run = ed.solve(
        ed.NormalizedGrowth(3.0, signal_clip=0.2),
        landscapes.Constant([5.0, -5.0, 4.0]),
        np.ones(3),
        (0.0, 40.0),
        save_at=np.linspace(0, 40, 401),
        extinction=ed.Extinction(0.3, "absorb"),
        solver=solver(method),
    )
    gone = run.extinction_time[1]
    assert np.isfinite(gone) and run.absorbed_mass[1] == pytest.approx(0.3, rel=1e-5)
    k = int(np.searchsorted(run.t, gone))
    assert run.total_mass[k - 1] == pytest.approx(3.0, rel=1e-12) and run.total_mass[k] < 2.8
    assert run.total_mass.max() <= 3.0 * (1 + 1e-13) and run.masses[k:, 1].max() == 0


@by_every_method
def test_stopping_at_the_first_extinction(method: MethodName) -> None:
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant([1.0, 0.0, -1.0]),
        np.ones(3),
        (0.0, 50.0),
        save_at=np.arange(0.0, 51.0),
        extinction=ed.Extinction(0.01, "stop"),
        solver=solver(method, 1e-8),
    )
    (expected,) = [
        t for g, t, _ in concave(np.array([1.0, 0.0, -1.0]), np.ones(3), 50.0, np.log(0.01)) if g == 2
    ]
    assert run.termination is ed.Termination.STOPPED_AT_EXTINCTION and run.succeeded
    assert run.t[-1] == run.t_span[1] == run.end_state.t == pytest.approx(expected, rel=1e-7)
    np.testing.assert_array_equal(run.t[:-1], np.arange(0.0, np.ceil(expected)))
    assert [(g, d) for g, _, d in crossings_of(run)] == [(2, -1)]
    assert run.masses[-1, 2] == pytest.approx(0.01, rel=1e-7) and run.absorbed_mass.sum() == 0
    assert run.total_mass[-1] == pytest.approx(3.0, rel=1e-13)


@by_every_method
def test_stop_records_what_happened_before(method: MethodName) -> None:
    # A group rises above the threshold before another falls below it.
    c, p0 = np.array([0.0, 1.0]), np.array([1.0, 0.01])
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant(c),
        p0,
        (0.0, 50.0),
        extinction=ed.Extinction(0.05, "stop"),
        solver=solver(method, 1e-8),
    )
    expected = concave(c, p0, 50.0, np.log(0.05))
    assert [(g, d) for g, _, d in expected] == [(0, -1), (1, 1)]
    assert_same(crossings_of(run), expected, 1e-7)
    assert run.extinct_at_end.tolist() == [True, False]


@by_every_method
def test_nothing_to_stop_at(method: MethodName) -> None:
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant([1.0, 0.9]),
        [1.0, 1.0],
        (0.0, 5.0),
        extinction=ed.Extinction(0.1, "stop"),
        solver=solver(method),
    )
    assert run.termination is ed.Termination.COMPLETED and run.t[-1] == 5.0


@by_every_method
def test_absorption_across_the_pieces_of_a_record(method: MethodName) -> None:
    record = landscapes.Recorded([0.0, 2.0, 4.0, 9.0], [[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [3.0, 0.0, -1.0]])
    runs = [
        ed.solve(
            REPLICATOR,
            record,
            [1.0, 1.0, 1.0],
            (0.0, 9.0),
            extinction=ed.Extinction(0.2, "absorb"),
            solver=solver(m, 1e-9),
        )
        for m in (method, "auto")
    ]
    assert np.isfinite(runs[1].extinction_time).sum() == 2
    np.testing.assert_allclose(runs[0].extinction_time, runs[1].extinction_time, rtol=1e-6)
    np.testing.assert_allclose(runs[0].masses, runs[1].masses, atol=1e-6)


def test_two_thousand_groups_in_closed_form() -> None:
    c = landscapes.contributions("pareto", n=2_000, heterogeneity=1.5, rng=0)
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant(c),
        np.ones(2_000),
        (0.0, 50.0),
        save_at=[50.0],
        extinction=ed.Extinction(1e-3),
    )
    sample = np.argsort(run.extinction_time)[::197]
    logs = np.outer(run.extinction_time[sample], c)
    at = c[sample] * run.extinction_time[sample] - logsumexp(logs, axis=1) + np.log(2_000)
    np.testing.assert_allclose(at[np.isfinite(run.extinction_time[sample])], np.log(1e-3), rtol=1e-9)
    assert (run.extinct_at_end == (run.log_masses[-1] < np.log(1e-3))).all()


def test_specification_of_extinction() -> None:
    extinction = ed.Extinction(1)
    assert extinction.same_as(ed.Extinction(1.0, "observe")) and not extinction.same_as(
        ed.Extinction(1.0, "stop")
    )
    with pytest.raises(dataclasses.FrozenInstanceError):
        extinction.threshold = 2.0  # type: ignore[misc]


@by_every_method
def test_a_run_without_survivors_reaches_its_end_and_goes_on(method: MethodName) -> None:
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant([1.0, 0.0]),
        [1.0, 1.0],
        (0.0, 2.0),
        save_at=[0.0, 2.0],
        extinction=ed.Extinction(5.0, "absorb"),
        solver=solver(method),
    )
    assert run.t_span == (0.0, 2.0) and run.end_state.t == 2.0
    longer = ed.extend(run, 3.0, save_at=[2.5, 3.0])
    assert longer.termination is ed.Termination.ALL_EXTINCT and longer.t_span == (0.0, 3.0)
    assert longer.t.tolist() == [0.0, 2.0, 2.5, 3.0] and (longer.masses == 0).all()


def test_rounding_takes_no_neutral_group_across_the_threshold() -> None:
    # Each starts at the threshold exactly, which is not below it.
    fitness = np.array([0.3, 0.3, 0.3, 9.0])  # and that of the absent does not matter
    start = np.array([0.1, 0.7, 0.4, 0.0])
    for threshold in start[:3]:
        run = ed.solve(
            REPLICATOR,
            landscapes.Constant(fitness),
            start,
            (0.0, 7.0),
            extinction=ed.Extinction(threshold),
        )
        below = start < threshold
        assert run.extinct_at_end.tolist() == below.tolist() and not len(run.crossings)
