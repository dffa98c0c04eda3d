"""Iterating the maps: the references step by step, the record of extinction, nothing kept unasked."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import evodyn as ed
from evodyn import landscapes
from evodyn.core.arrays import Array, FloatArray
from evodyn.model.dynamics import Scheme
from tests import references, strategies

SCHEMES: tuple[Scheme, ...] = ("euler", "exponential")
by_scheme = pytest.mark.parametrize("scheme", SCHEMES)
REPLICATOR = ed.Replicator()


def stepped(
    dynamics: ed.Dynamics,
    landscape: Any,
    p0: FloatArray,
    n: int,
    h: float,
    scheme: Scheme,
    t_start: float = 0.0,
) -> FloatArray:
    """Return all states, by the dynamics' own step."""
    rows = [np.asarray(p0, dtype=float)]
    with np.errstate(all="ignore"):
        for k in range(n):
            t = t_start + k * h
            rows.append(dynamics.step(rows[-1], landscape(t, rows[-1]), h, time=t, scheme=scheme))
    return np.array(rows)


@given(st.data(), st.sampled_from(SCHEMES))
@settings(max_examples=50)
def test_steps_are_those_of_the_dynamics_bit_for_bit(data: st.DataObject, scheme: Scheme) -> None:
    n = data.draw(strategies.SIZES)
    dynamics = data.draw(strategies.dynamics(n))
    landscape = data.draw(strategies.any_landscapes(n))
    p0 = data.draw(strategies.vectors(n, 0.05, 2.0))
    with np.errstate(all="ignore"):
        expected = stepped(dynamics, landscape, p0, 12, 0.05, scheme)
    run = ed.iterate(dynamics, landscape, p0, 12, 0.05, scheme=scheme)
    np.testing.assert_array_equal(run.masses, expected)
    np.testing.assert_array_equal(run.t, 0.05 * np.arange(13))
    assert run.termination is ed.Termination.COMPLETED
    assert run.stats.steps == run.stats.evaluations == 12 and run.stats.method == scheme


@by_scheme
@pytest.mark.parametrize(
    "dynamics",
    [
        ed.Replicator(0.4),
        ed.NormalizedGrowth(4.2, 0.3),
        ed.SelectionMutation(lambda t: 0.1 + t, [0.5, 0.0, 0.2, 1.0]),
        ed.Populations((ed.SelectionMutation(0.2), ed.Replicator()), (2, 2)),
    ],
    ids=repr,
)
def test_steps_are_the_printed_equations(dynamics: ed.Dynamics, scheme: Scheme) -> None:
    # Twenty steps of Eqs. 12 to 14 with their order of clip, step, projection and cap, in 50 digits.
    landscape = landscapes.LinearDecay([1.0, -2.0, 0.5, 3.0], 0.7)
    p0 = np.array([1.0, 2.0, 0.0, 1.0])
    run = ed.iterate(dynamics, landscape, p0, 20, 0.3, scheme=scheme)
    p = references.exact(p0)
    for k in range(21):
        np.testing.assert_allclose(run.masses[k], references.rounded(p), rtol=1e-12, atol=1e-14)
        if k < 20:
            time = k * 0.3
            p = references.step(dynamics, p, references.fitness(landscape, time, p), 0.3, time, scheme)


@by_scheme
@pytest.mark.parametrize(("n_steps", "every"), [(100, 1), (100, 10), (100, 7), (5, 50), (1, 1)])
def test_what_is_saved(n_steps: int, every: int, scheme: Scheme) -> None:
    landscape = landscapes.LinearDecay([1.0, 0.3, 0.5], 0.1)
    p0 = np.array([1.0, 1.0, 0.2])
    expected = stepped(REPLICATOR, landscape, p0, n_steps, 0.01, scheme, t_start=2.0)
    run = ed.iterate(REPLICATOR, landscape, p0, n_steps, 0.01, save_every=every, scheme=scheme, t_start=2.0)
    kept = sorted({*range(0, n_steps + 1, every), n_steps})
    np.testing.assert_array_equal(run.masses, expected[kept])
    np.testing.assert_array_equal(run.t, 2.0 + 0.01 * np.array(kept))
    with np.errstate(divide="ignore"):
        np.testing.assert_array_equal(run.log_masses, np.log(run.masses))
    np.testing.assert_allclose(run.total_mass, run.masses.sum(axis=1), rtol=1e-15)
    for row, k in enumerate(kept):
        p = references.exact(expected[k])
        mean = float(references.mean_fitness(p, references.fitness(landscape, 0.0, p)))
        assert run.mean_fitness[row] == pytest.approx(mean, rel=1e-13)


def test_equations_12_and_13_agree_bit_for_bit() -> None:
    c = landscapes.contributions("lognormal", n=64, heterogeneity=1.0, rng=0)
    landscape = landscapes.LinearDecay(c, 1e-3)
    six = ed.iterate(ed.Replicator(), landscape, np.ones(64), 2000, 5e-3, save_every=100)
    seven = ed.iterate(ed.NormalizedGrowth(64.0), landscape, np.ones(64), 2000, 5e-3, save_every=100)
    assert six.masses.tobytes() == seven.masses.tobytes()
    assert np.ptp(six.masses[-1]) > 1
    np.testing.assert_allclose(six.total_mass, 64.0, rtol=1e-12)


def test_masses_above_a_cap_are_rescaled_by_the_first_step() -> None:
    run = ed.iterate(ed.NormalizedGrowth(1.0), landscapes.Constant([0.0, 0.0]), [3.0, 1.0], 2, 0.1)
    np.testing.assert_allclose(run.masses, [[3.0, 1.0], [0.75, 0.25], [0.75, 0.25]], rtol=1e-15)


def record_of(masses: FloatArray, threshold: float) -> list[tuple[int, int, int]]:
    """Return (step, group, direction) of every change of side."""
    below = masses < threshold
    return [
        (k + 1, g, -1 if below[k + 1, g] else 1)
        for k in range(len(masses) - 1)
        for g in range(masses.shape[1])
        if below[k + 1, g] != below[k, g]
    ]


@by_scheme
@pytest.mark.parametrize("every", [1, 13])
def test_every_crossing_is_recorded_whatever_is_saved(every: int, scheme: Scheme) -> None:
    landscape = landscapes.Seasonal([0.0, 0.0, 0.1], [2.0, -2.0, 0.0], 5.0)
    p0 = np.array([1.0, 1.0, 0.04])
    states = stepped(REPLICATOR, landscape, p0, 1000, 0.02, scheme)
    expected = record_of(states, 0.3)
    assert len(expected) >= 8 and {d for _, _, d in expected} == {-1, 1}
    run = ed.iterate(
        REPLICATOR,
        landscape,
        p0,
        1000,
        0.02,
        save_every=every,
        scheme=scheme,
        extinction=ed.Extinction(0.3),
    )
    found = [(round(t / 0.02), int(g), int(d)) for g, t, d in run.crossings]
    assert found == expected
    first = [next((0.02 * k for k, g, d in expected if g == i and d < 0), np.inf) for i in range(3)]
    first[2] = 0.0  # it starts below
    np.testing.assert_allclose(run.extinction_time, first, rtol=1e-15)
    np.testing.assert_array_equal(run.extinct_at_end, states[-1] < 0.3)


@by_scheme
def test_absorption(scheme: Scheme) -> None:
    landscape, p0 = landscapes.Constant([1.0, 0.0, 0.0, -1.0]), np.array([1.0, 1.0, 1.0, 0.5])
    run = ed.iterate(
        REPLICATOR, landscape, p0, 600, 0.01, extinction=ed.Extinction(0.1, "absorb"), scheme=scheme
    )
    # The same by hand.
    p, removed, times = p0.copy(), np.zeros(4), np.full(4, np.inf)
    for k in range(600):
        p = REPLICATOR.step(p, landscape(k * 0.01, p), 0.01, scheme=scheme)
        gone = (p < 0.1) & np.isinf(times)
        removed[gone], times[gone], p[gone] = p[gone], (k + 1) * 0.01, 0.0
        np.testing.assert_array_equal(run.masses[k + 1], p)
    assert np.isfinite(times).sum() == 3 and times[1] == times[2] < np.inf  # ties go together
    np.testing.assert_array_equal(run.absorbed_mass, removed)
    np.testing.assert_array_equal(run.extinction_time, times)
    if scheme == "euler":
        assert run.total_mass[-1] + run.absorbed_mass.sum() == pytest.approx(3.5, rel=1e-12)
    assert run.extinct_at_end.tolist() == [False, True, True, True] and len(run.crossings) == 3


@by_scheme
@pytest.mark.parametrize("start", [0.0, 1e-300, 0.05])
def test_who_starts_below_is_absorbed_at_once_and_for_good(start: float, scheme: Scheme) -> None:
    run = ed.iterate(
        ed.SelectionMutation(0.1, 0.5),
        landscapes.Constant([1.0, 0.0]),
        [1.0, start],
        400,
        0.05,
        extinction=ed.Extinction(0.1, "absorb"),
        scheme=scheme,
    )
    assert (run.masses[:, 1] == 0).all() and run.extinct_at_end.tolist() == [False, True]
    assert run.extinction_time[1] == 0.0 and run.absorbed_mass[1] == start
    assert run.total_mass[-1] < 0.8  # only one target is left


@by_scheme
def test_mutation_brings_groups_back(scheme: Scheme) -> None:
    run = ed.iterate(
        ed.SelectionMutation(0.3, [0.5, 0.4]),
        landscapes.Constant([0.0, 0.0]),
        [0.9, 0.0],
        200,
        0.1,
        extinction=ed.Extinction(0.1),
        scheme=scheme,
    )
    ((group, time, direction),) = run.crossings.tolist()
    assert (group, direction) == (1, 1) and time == pytest.approx(-np.log(0.75) / 0.3, abs=0.1)
    assert run.extinction_time.tolist() == [np.inf, 0.0] and not run.extinct_at_end.any()


@by_scheme
def test_stop(scheme: Scheme) -> None:
    landscape = landscapes.Constant([1.0, 0.0, -1.0])
    run = ed.iterate(
        REPLICATOR,
        landscape,
        np.ones(3),
        5000,
        0.01,
        save_every=100,
        extinction=ed.Extinction(0.01, "stop"),
        scheme=scheme,
    )
    states = stepped(REPLICATOR, landscape, np.ones(3), 1000, 0.01, scheme)
    k, group, _ = record_of(states, 0.01)[0]
    assert run.termination is ed.Termination.STOPPED_AT_EXTINCTION and run.succeeded
    assert run.t[-1] == run.t_span[1] == k * 0.01 and run.stats.steps == k
    np.testing.assert_array_equal(run.masses[-1], states[k])
    assert run.crossings.tolist() == [(group, k * 0.01, -1)]


def test_projections_are_counted() -> None:
    # Two steps: the first takes the group beyond zero, where the second finds it.
    run = ed.iterate(REPLICATOR, landscapes.Constant([0.0, -30.0, 0.0]), np.ones(3), 5, 0.1)
    assert run.stats.projections == 1 and run.masses[1].tolist()[1] == 0.0
    assert run.total_mass[-1] > 3.0
    assert run.extinct_at_end.tolist() == [False, True, False]
    assert run.extinction_time[1] == 0.1
    calm = ed.iterate(REPLICATOR, landscapes.Constant([0.0, -30.0, 0.0]), np.ones(3), 5, 0.01)
    assert calm.stats.projections == 0 and calm.total_mass[-1] == pytest.approx(3.0, rel=1e-14)
    positive = ed.iterate(
        REPLICATOR, landscapes.Constant([0.0, -30.0, 0.0]), np.ones(3), 5, 0.1, scheme="exponential"
    )
    assert positive.stats.projections == 0 and (positive.masses > 0).all()


def test_a_zero_stays_zero_and_is_no_extinction_of_this_run() -> None:
    run = ed.iterate(REPLICATOR, landscapes.Constant([0.0, 9.0]), [1.0, 0.0], 10, 0.1)
    assert (run.masses[:, 1] == 0).all() and run.extinction_time.tolist() == [np.inf, 0.0]


def test_everything_may_be_absorbed() -> None:
    run = ed.iterate(
        REPLICATOR,
        landscapes.Constant([1.0, 0.0]),
        [1.0, 1.0],
        10,
        0.1,
        save_every=2,
        extinction=ed.Extinction(5.0, "absorb"),
    )
    assert run.termination is ed.Termination.ALL_EXTINCT and run.succeeded
    assert run.absorbed_mass.tolist() == [1.0, 1.0] and (run.masses == 0).all()
    np.testing.assert_allclose(run.t, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0])


@by_scheme
def test_blocks(scheme: Scheme) -> None:
    layers = ed.Populations((ed.Replicator(), ed.NormalizedGrowth(1.5, 0.2)), (3, 2))
    c, p0 = np.array([1.0, 0.0, 0.5, 3.0, 0.0]), np.array([1.0, 1.0, 1.0, 0.7, 0.7])
    run = ed.iterate(layers, landscapes.Constant(c), p0, 300, 0.05, scheme=scheme)
    assert run.total_mass.shape == run.mean_fitness.shape == (301, 2)
    for block, member in zip(layers.slices, (ed.Replicator(), ed.NormalizedGrowth(1.5, 0.2)), strict=True):
        alone = ed.iterate(member, landscapes.Constant(c[block]), p0[block], 300, 0.05, scheme=scheme)
        np.testing.assert_array_equal(run.masses[:, block], alone.masses)
    assert run.total_mass[:, 1].max() <= 1.5 * (1 + 1e-14)


def test_inputs_are_untouched() -> None:
    p0 = np.array([1.0, 2.0])
    run = ed.iterate(REPLICATOR, landscapes.Constant([1.0, 0.0]), p0, 10, 0.1)
    assert p0.tolist() == [1.0, 2.0] and p0.flags.writeable and not np.shares_memory(p0, run.native)


def test_many_steps_need_no_memory_but_that_of_what_is_saved() -> None:
    c = landscapes.contributions("lognormal", n=768, heterogeneity=1.0, rng=0)
    landscape = landscapes.LinearDecay(c, 1e-3)
    ed.iterate(REPLICATOR, landscape, np.ones(768), 4, 5e-4)  # which may load compiled code
    tracemalloc.start()
    run = ed.iterate(
        REPLICATOR, landscape, np.ones(768), 4_000, 5e-4, save_every=2_000, extinction=ed.Extinction(1e-3)
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(run.t) == 3 and run.stats.steps == 4_000
    assert peak < 400 * 768 * 8  # a tenth of what all states take; the record of extinctions takes most of it


# Failure


def dies_late(t: float, masses: Array) -> Array:
    fitness = np.array([1.0, 0.0, 0.5]) - 0.1 * masses
    return np.where((t > 3) & (np.arange(3) == 1), np.nan, fitness)


def raises_late(t: float, masses: Array) -> Array:
    if t > 3:
        raise KeyError("no such epoch")
    fitness: Array = np.array([1.0, 0.0, 0.5]) - 0.1 * masses
    return fitness


@by_scheme
@pytest.mark.parametrize(
    ("landscape", "termination"),
    [(dies_late, ed.Termination.FITNESS_NOT_FINITE), (raises_late, ed.Termination.SOLVER_FAILED)],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_later_failure_keeps_what_there_is(
    landscape: Any, termination: ed.Termination, scheme: Scheme
) -> None:
    arguments = (REPLICATOR, landscape, np.ones(3), 100, 0.1)
    with pytest.raises(ed.SolveError) as caught:
        ed.iterate(*arguments, scheme=scheme, save_every=4)
    error = caught.value
    run = error.result
    # The step from t = 3.1 on is the first that cannot be made.
    assert error.time == run.t[-1] == run.t_span[1] == pytest.approx(3.1)
    assert run.termination is termination and not run.succeeded
    assert termination.value in str(error)
    expected = stepped(REPLICATOR, landscape, np.ones(3), 31, 0.1, scheme)
    np.testing.assert_array_equal(run.masses, expected[[0, 4, 8, 12, 16, 20, 24, 28, 31]])
    if termination is ed.Termination.FITNESS_NOT_FINITE:
        assert error.groups == (1,)
    else:
        assert isinstance(error.__cause__, KeyError) and "no such epoch" in str(error)
    returned = ed.iterate(*arguments, scheme=scheme, save_every=4, throw=False)
    assert returned.termination is termination
    np.testing.assert_array_equal(returned.masses, run.masses)


def test_a_record_of_a_run_is_replayed_row_by_row() -> None:
    rng = np.random.default_rng(0)
    h, rows = 0.1, rng.normal(size=(50, 3))
    record = landscapes.Recorded(h * np.arange(51), rows)
    run = ed.iterate(REPLICATOR, record, np.ones(3), 50, h)
    p = np.ones(3)
    for k in range(50):
        p = REPLICATOR.step(p, rows[k], h)
    np.testing.assert_array_equal(run.masses[-1], p)


def test_a_map_beyond_its_record_fails_with_what_there_is() -> None:
    record = landscapes.Recorded(0.1 * np.arange(51), np.zeros((50, 3)))
    with pytest.raises((ValueError, ed.SolveError), match="outside the record"):
        ed.iterate(REPLICATOR, record, np.ones(3), 60, 0.1)


def test_a_table_with_one_row_for_each_step_is_enough() -> None:
    table = np.array([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]])

    def logged(t: float, masses: Array) -> Array:
        return table[round(t / 0.1)]

    run = ed.iterate(REPLICATOR, logged, [1.0, 1.0], 3, 0.1)
    assert run.termination is ed.Termination.COMPLETED
    assert np.isfinite(run.mean_fitness[:3]).all() and np.isnan(run.mean_fitness[3])
    replayed = landscapes.Recorded([0.0, 0.1, 0.2, 0.3], table)
    again = ed.iterate(REPLICATOR, replayed, [1.0, 1.0], 3, 0.1)
    assert again.masses.tolist() == run.masses.tolist() and np.isfinite(again.mean_fitness).all()
