"""Events of a user's own: dilution, invasion, removal against closed forms, and changes of sign."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evodyn as ed
from evodyn import landscapes
from evodyn.core import netcdf
from evodyn.core.arrays import FloatArray
from evodyn.simulate.method import MethodName

REPLICATOR = ed.Replicator()
METHODS: tuple[MethodName, ...] = ("auto", "RK45", "LSODA", "BDF")
by_method = pytest.mark.parametrize("method", METHODS)
TWO = landscapes.Constant([1.0, 0.0])


def halved(masses: FloatArray) -> FloatArray:
    return 0.5 * masses


def share_of_the_first(t: float, masses: FloatArray) -> float:
    return float(masses[0] / masses.sum() - 0.5)


# Times


@by_method
def test_dilution_at_times_changes_totals_and_no_share(method: MethodName) -> None:
    solver = ed.Solver(method=method)
    t = np.arange(0.0, 11.0)
    dilution = ed.Event(when=[7.0, 2.5, 4.0, 10.0], action=halved)
    run = ed.solve(REPLICATOR, TWO, [1.0, 1.0], (0.0, 10.0), save_at=t, events=[dilution], solver=solver)
    factor = 0.5 ** np.searchsorted([2.5, 4.0, 7.0, 10.0], t, side="right")
    odds = np.exp(t)
    expected = 2 * factor[:, None] * np.stack((odds, np.ones_like(t)), axis=1) / (1 + odds)[:, None]
    np.testing.assert_allclose(run.masses, expected, rtol=1e-12 if method == "auto" else 1e-6)
    np.testing.assert_allclose(run.total_mass, 2 * factor, rtol=1e-14)
    assert run.events.event.tolist() == [0] * 4 and run.events.time.tolist() == [2.5, 4.0, 7.0, 10.0]
    assert run.termination is ed.Termination.COMPLETED
    # The interpolant jumps with it.
    dense = ed.solve(REPLICATOR, TWO, [1.0, 1.0], (0.0, 10.0), events=[dilution], solver=solver, dense=True)
    assert dense.at([np.nextafter(4.0, 0.0), 4.0]).sum(axis=1) == pytest.approx([1.0, 0.5])
    assert dense.at(10.0).sum() == pytest.approx(2 / 16)


@pytest.mark.parametrize("solver", [None, ed.Solver(compiled=False), ed.Solver(method="LSODA")])
def test_density_regulated_growth_between_dilutions(solver: ed.Solver | None) -> None:
    # In shares of two groups with φ = c - λp, d/dt ln(x_1/x_2) = s - λP(x_1 - x_2), P halved at t = 3.
    from scipy.integrate import solve_ivp

    decay, s = 0.4, 0.5

    def slope(t: float, v: FloatArray) -> FloatArray:
        return s - decay * (2.0 if t < 3 else 1.0) * np.tanh(v / 2)

    pieces = [solve_ivp(slope, span, [0.0], rtol=1e-11, atol=1e-12) for span in ((0.0, 3 - 1e-12),)]
    last = solve_ivp(slope, (3.0, 8.0), pieces[0].y[:, -1], rtol=1e-11, atol=1e-12).y[0, -1]
    run = ed.solve(
        REPLICATOR,
        landscapes.LinearDecay([s, 0.0], decay),
        [1.0, 1.0],
        (0.0, 8.0),
        events=[ed.Event(3.0, halved)],
        solver=solver,
    )
    assert run.log_masses[-1, 0] - run.log_masses[-1, 1] == pytest.approx(last, abs=1e-7)


@by_method
def test_an_absent_group_invades_when_it_arrives(method: MethodName) -> None:
    arrival, seed = 3.0, 1e-6
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant([1.0, 0.0, 2.0]),
        [1.0, 1.0, 0.0],
        (0.0, 25.0),
        save_at=[1.0, 2.9, 3.0, 25.0],
        extinction=ed.Extinction(1e-3),
        events=[ed.Event([arrival], lambda masses: [*masses[:2], seed])],
        solver=ed.Solver(method=method),
    )
    assert np.isneginf(run.log_masses[:2, 2]).all() and run.masses[2, 2] == pytest.approx(seed, rel=1e-14)
    before = 2 * np.exp([arrival, 0.0]) / (math.exp(arrival) + 1)
    weights = np.log([*before, seed]) + np.array([1.0, 0.0, 2.0]) * (25.0 - arrival)
    logs = weights - np.logaddexp.reduce(weights) + math.log(2 + seed)
    np.testing.assert_allclose(run.log_masses[-1], logs, atol=1e-12 if method == "auto" else 1e-6)
    # It rises above its threshold where the record says; it was extinct from the start.
    (rise,) = run.crossings[(run.crossings.group == 2)].time
    at = np.log([*before, seed]) + np.array([1.0, 0.0, 2.0]) * (rise - arrival)
    assert at[2] - np.logaddexp.reduce(at) + math.log(2 + seed) == pytest.approx(math.log(1e-3), abs=1e-6)
    assert run.extinction_time[2] == 0.0 and not run.extinct_at_end[2]


@by_method
@pytest.mark.parametrize("policy", [None, "observe", "absorb"])
def test_a_group_that_is_removed_stays_away(method: MethodName, policy: Any) -> None:
    run = ed.solve(
        REPLICATOR,
        landscapes.Constant([1.0, 0.0, 0.5]),
        np.ones(3),
        (0.0, 4.0),
        save_at=[0.0, 1.0, 2.0, 4.0],
        extinction=None if policy is None else ed.Extinction(1e-3, policy),
        events=[ed.Event([2.0], lambda masses: masses * [0.0, 1.0, 1.0])],
        solver=ed.Solver(method=method),
    )
    assert run.extinction_time.tolist() == [2.0, np.inf, np.inf]
    assert run.extinct_at_end.tolist() == [True, False, False]
    assert (run.masses[2:, 0] == 0).all() and (run.masses[:2, 0] > 0).all()
    ratio = run.log_masses[-1, 2] - run.log_masses[-1, 1]
    assert ratio == pytest.approx(2.0, abs=1e-6)
    rows = [] if policy is None else [(0, 2.0, -1)]
    assert [(int(g), float(t), int(d)) for g, t, d in run.crossings] == rows


@by_method
def test_mutation_brings_back_who_was_removed(method: MethodName) -> None:
    # All equally fit: p = m + (p(0) - m) e^{-µt}, from 0 at the removal.
    rate, m = 0.4, np.array([1.0, 2.0])
    t = np.linspace(0.0, 10.0, 21)
    run = ed.solve(
        ed.SelectionMutation(rate, m),
        landscapes.LinearDecay([0.5, 0.5], 0.0),
        m,
        (0.0, 10.0),
        save_at=t,
        extinction=ed.Extinction(0.5),
        events=[ed.Event([4.0], lambda masses: masses * [1.0, 0.0])],
        solver=ed.Solver(method=method),
    )
    back = np.where(t < 4.0, 2.0, -2.0 * np.expm1(-rate * (t - 4.0)))
    np.testing.assert_allclose(run.masses, np.stack((np.ones(21), back), axis=1), rtol=1e-6)
    rise = 4.0 - math.log(1 - 0.5 / 2.0) / rate
    np.testing.assert_allclose(run.crossings.time, [4.0, rise], rtol=1e-6)


def test_a_group_that_was_absorbed_may_be_brought_back() -> None:
    run = ed.solve(
        REPLICATOR,
        TWO,
        [1.0, 1.0],
        (0.0, 10.0),
        extinction=ed.Extinction(0.1, "absorb"),
        events=[ed.Event([5.0, 9.5], lambda masses: [masses[0], masses[1] + 1.0])],
    )
    # Absorbed at ln 19, brought back with mass 1 at t = 5, absorbed again, and back once more.
    again = 5.0 + math.log((2.9 / 0.1 - 1) / 1.9)
    assert run.crossings.direction.tolist() == [-1, 1, -1, 1]
    np.testing.assert_allclose(run.crossings.time, [math.log(19), 5.0, again, 9.5], rtol=1e-9)
    assert run.absorbed_mass[1] == pytest.approx(0.2) and not run.extinct_at_end[1]
    assert run.extinction_time[1] == pytest.approx(math.log(19))


def test_falls_by_an_event_stop_a_run_that_stops_at_extinctions() -> None:
    run = ed.solve(
        REPLICATOR,
        TWO,
        [1.0, 1.0],
        (0.0, 10.0),
        extinction=ed.Extinction(0.1, "stop"),
        events=[ed.Event([1.0], lambda masses: [masses[0], 0.05])],
    )
    assert run.termination is ed.Termination.STOPPED_AT_EXTINCTION and run.t_span == (0.0, 1.0)
    assert run.masses[-1, 1] == pytest.approx(0.05)


def test_events_at_one_time_act_in_the_order_of_the_list() -> None:
    double, more = ed.Event([2.0], lambda m: 2 * m), ed.Event([2.0], lambda m: m + 1.0)
    for events, total in (([double, more], 6.0), ([more, double], 8.0)):
        run = ed.solve(REPLICATOR, TWO, [1.0, 1.0], (0.0, 3.0), events=events)
        assert run.total_mass[-1] == pytest.approx(total) and run.events.event.tolist() == [0, 1]
    first = ed.solve(REPLICATOR, TWO, [1.0, 1.0], (2.0, 3.0), events=[double])
    assert first.total_mass.tolist() == [4.0] * 101


@by_method
def test_a_terminal_event_ends_the_run_at_its_time(method: MethodName) -> None:
    run = ed.solve(
        REPLICATOR,
        TWO,
        [1.0, 1.0],
        (0.0, 10.0),
        save_at=np.arange(0.0, 11.0),
        events=[ed.Event([3.0], halved), ed.Event([4.5], halved, terminal=True), ed.Event([5.0])],
        solver=ed.Solver(method=method),
    )
    assert run.termination is ed.Termination.STOPPED_AT_EVENT and run.succeeded
    assert run.t.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 4.5] and run.t_span == (0.0, 4.5)
    assert run.total_mass[-1] == pytest.approx(0.5) and run.events.event.tolist() == [0, 1]
    with pytest.raises(ValueError, match="STOPPED_AT_EVENT"):
        ed.extend(run, 10.0)


def test_rest_waits_for_what_is_still_to_happen() -> None:
    for landscape in (TWO, landscapes.LinearDecay([1.0, 0.0], 0.01)):
        run = ed.solve(
            REPLICATOR,
            landscape,
            [1.0, 1.0],
            (0.0, 100.0),
            events=[ed.Event([40.0], lambda masses: [masses[0], masses[1] + 1])],
            settle=1e-3,
        )
        assert run.termination is ed.Termination.SETTLED and 40.0 < run.t_span[1] < 60.0
        assert run.total_mass[-1] == pytest.approx(3.0)


# Changes of sign


@by_method
def test_the_time_at_which_a_share_crosses_one_half(method: MethodName) -> None:
    # x_1/x_2 = e^t/10.
    run = ed.solve(
        REPLICATOR,
        TWO,
        [0.1, 1.0],
        (0.0, 10.0),
        events=[ed.Event(share_of_the_first)],
        solver=ed.Solver(method=method),
    )
    assert run.events.event.tolist() == [0] and run.termination is ed.Termination.COMPLETED
    assert run.events.time[0] == pytest.approx(math.log(10), rel=1e-7)


@by_method
def test_hawks_become_half_of_all(method: MethodName) -> None:
    # dx/dt = x(1 - x)(1 - 1.5x)/2 from 0.3, with payoffs V = 1 and C = 1.5: t = ∫ dx over that.
    from scipy.integrate import quad

    value, cost = 1.0, 1.5
    game = landscapes.MatrixGame([[(value - cost) / 2, value], [0.0, value / 2]])
    expected, _ = quad(lambda x: 1 / (x * (1 - x) * (value - cost * x) / 2), 0.3, 0.5, epsabs=1e-12)
    run = ed.solve(
        REPLICATOR,
        game,
        [0.3, 0.7],
        (0.0, 30.0),
        events=[ed.Event(share_of_the_first, terminal=True)],
        solver=ed.Solver(method=method),
    )
    assert run.termination is ed.Termination.STOPPED_AT_EVENT
    assert run.t_span[1] == run.events.time[0] == pytest.approx(expected, rel=1e-6)
    assert run.masses[-1].tolist() == pytest.approx([0.5, 0.5], rel=1e-6)


SEASONS = landscapes.Seasonal([0.0, 0.0], [1.0, 0.0], 2 * math.pi)


@by_method
@pytest.mark.parametrize("rtol", [1e-3, 1e-8])
def test_every_crossing_counts_in_both_directions(method: MethodName, rtol: float) -> None:
    # ln(x_1/x_2) = 1 - cos t - 1 where it begins at e^-1: zero at odd multiples of π/2.
    run = ed.solve(
        REPLICATOR,
        SEASONS,
        [math.exp(-1), 1.0],
        (0.0, 20.0),
        events=[ed.Event(share_of_the_first)],
        solver=ed.Solver(method=method, rtol=rtol),
    )
    expected = [(k + 0.5) * math.pi for k in range(6)]
    np.testing.assert_allclose(run.events.time, expected, atol=3 * rtol + 1e-6 if rtol < 1e-4 else 0.05)


@by_method
def test_an_action_at_every_crossing_is_done_once(method: MethodName) -> None:
    run = ed.solve(
        REPLICATOR,
        SEASONS,
        [math.exp(-1), 1.0],
        (0.0, 20.0),
        events=[ed.Event(share_of_the_first, halved)],
        solver=ed.Solver(method=method, rtol=1e-4),
    )
    assert len(run.events) == 6
    assert run.total_mass[-1] == pytest.approx((1 + math.exp(-1)) / 64, rel=1e-12)


@by_method
def test_a_chemostat_is_diluted_whenever_it_is_full(method: MethodName) -> None:
    # Both grow at 1 (no comparison with the mean), from total 1: full (2) after ln 2, again and again.
    growth = ed.Selection(lambda masses, fitness: np.ones_like(masses))
    full = ed.Event(lambda t, masses: masses.sum() - 2.0, halved)
    run = ed.solve(
        growth, TWO, [0.5, 0.5], (0.0, 5.0), events=[full], solver=ed.Solver(method=method, rtol=1e-9)
    )
    np.testing.assert_allclose(run.events.time, np.arange(1, 8) * math.log(2), rtol=1e-6)
    assert run.total_mass[-1] == pytest.approx(math.exp(5.0 - 7 * math.log(2)), rel=1e-6)


def test_what_happens_within_a_step_happens_in_order() -> None:
    # Recorded, altered, absorbed: x_2 = 1/(1 + e^t) falls through four levels within a long step.
    def level(x: float) -> Any:
        return lambda t, masses: masses[1] / masses.sum() - x

    events = [ed.Event(level(0.3)), ed.Event(level(0.2), halved), ed.Event(level(0.1))]
    run = ed.solve(
        REPLICATOR,
        TWO,
        [1.0, 1.0],
        (0.0, 10.0),
        extinction=ed.Extinction(0.15, "absorb"),
        events=events,
        solver=ed.Solver(method="DOP853", rtol=1e-7),
    )
    # Halved when its share is 0.2, it falls below a mass of 0.15 at a share of 0.15.
    assert run.events.event.tolist() == [0, 1]
    times = [math.log(1 / x - 1) for x in (0.3, 0.2, 0.15)]
    np.testing.assert_allclose([*run.events.time, run.extinction_time[1]], times, rtol=1e-6)


def test_a_jump_is_no_change_of_sign() -> None:
    over = ed.Event(lambda t, masses: masses.sum() - 1.5)
    run = ed.solve(
        REPLICATOR, TWO, [1.0, 1.0], (0.0, 5.0), events=[ed.Event([1.0], halved), over, ed.Event([2.0])]
    )
    assert run.events.event.tolist() == [0, 2]


def test_the_closed_form_and_the_compiled_methods_leave_functions_to_others() -> None:
    arguments: Any = (REPLICATOR, TWO, [1.0, 1.0], (0.0, 5.0))
    with pytest.raises(ValueError, match="no events where a function"):
        ed.solve(*arguments, events=[ed.Event(share_of_the_first)], solver=ed.Solver(method="closed_form"))
    assert ed.solve(*arguments, events=[ed.Event([1.0])]).stats.method == "closed_form"
    pytest.importorskip("numba")
    regulated = landscapes.LinearDecay([1.0, 0.0], 0.1)
    for event, method in ((ed.Event([1.0], halved), "Tsit5"), (ed.Event(share_of_the_first), "DOP853")):
        run = ed.solve(REPLICATOR, regulated, *arguments[2:], events=[event], solver=ed.Solver(compiled=True))
        assert run.stats.method == method


# Bad input, files, continuation


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (np.ones(3), r"events\[0\].action returned shape \(3,\) at t = 1"),
        ([1.0, -1.0], r"what events\[0\].action returned is -1.0 at index 1"),
        ([1.0, math.nan], r"what events\[0\].action returned is nan"),
        ([0.0, 0.0], r"what events\[0\].action returned has zero total mass"),
        ("much", r"events\[0\].action returned"),
    ],
)
@pytest.mark.parametrize("landscape", [TWO, landscapes.LinearDecay([1.0, 0.0], 0.1)])
def test_what_an_action_returns_is_checked(returned: Any, message: str, landscape: Any) -> None:
    event = ed.Event([1.0], lambda masses: returned)
    with pytest.raises(ed.SolveError, match=message) as caught:
        ed.solve(REPLICATOR, landscape, [1.0, 1.0], (0.0, 5.0), events=[event])
    run = caught.value.result
    assert run.termination is ed.Termination.SOLVER_FAILED and run.t_span == (0.0, 1.0)
    assert run.t[-1] == 1.0 and run.total_mass[-1] == pytest.approx(2.0)


def test_masses_above_the_cap_are_refused() -> None:
    with pytest.raises(ed.SolveError, match=r"action returned has total mass .* above mass_cap"):
        ed.solve(
            ed.NormalizedGrowth(mass_cap=3.0), TWO, [1.0, 1.0], (0.0, 5.0),
            events=[ed.Event([1.0], lambda m: 2 * m)],
        )  # fmt: skip


def test_events_are_checked_at_the_start() -> None:
    def solve(events: Any) -> ed.Run:
        return ed.solve(REPLICATOR, TWO, [1.0, 1.0], (0.0, 5.0), events=events)

    vector: Any = lambda t, masses: masses  # noqa: E731
    wrong_ones: list[tuple[Any, str]] = [
        (ed.Event([6.0]), r"events\[0\].when contains 6.0"),
        (ed.Event(vector), r"events\[0\].when returned"),
        (ed.Event(lambda t, masses: bool(masses[0] > 0.5)), r"events\[0\].when returned"),
        (ed.Event(lambda t, masses: math.nan), r"events\[0\].when returned"),
        (3.0, r"events\[0\] is 3.0"),
    ]
    for event, message in wrong_ones:
        with pytest.raises(ValueError, match=message):
            solve([event])
    with pytest.raises(ValueError, match="expected a list"):
        solve(ed.Event([1.0]))
    for wrong in ({"when": ["soon"]}, {"when": [math.inf]}, {"when": 1.0, "action": 2.0}):
        with pytest.raises(ValueError, match=r"when|action"):
            ed.Event(**wrong)
    with pytest.raises(ValueError, match="terminal is 1"):
        ed.Event(1.0, terminal=1)  # type: ignore[arg-type]


def test_what_happened_is_saved(tmp_path: Path) -> None:
    run = ed.solve(
        REPLICATOR, TWO, [1.0, 1.0], (0.0, 5.0), events=[ed.Event([1.0, 2.0]), ed.Event([1.5])], settle=1e-9
    )
    run.save(tmp_path / "run.nc")
    loaded = ed.load(tmp_path / "run.nc")
    assert loaded.same_as(run) and loaded.events.event.tolist() == [0, 1, 0]
    assert loaded.planned_events[1].when == (1.5,) and loaded.settle == 1e-9
    assert run.to_xarray().event_time.values.tolist() == [1.0, 1.5, 2.0]
    acted = ed.solve(REPLICATOR, TWO, [1.0, 1.0], (0.0, 5.0), events=[ed.Event([1.0], halved)])
    acted.save(tmp_path / "acted.nc")
    loaded = ed.load(tmp_path / "acted.nc")
    assert loaded.events.tobytes() == acted.events.tobytes()
    with pytest.raises(TypeError, match="stored by name only"):
        loaded.planned_events[0].action(np.ones(2))
    # Members of an ensemble may have had different ones.
    both = ed.Ensemble((run, ed.solve(REPLICATOR, TWO, [1.0, 1.0], (0.0, 5.0))), run.t)
    both.save(tmp_path / "both.nc")
    assert ed.load(tmp_path / "both.nc").same_as(both)


CRAFTED: dict[str, tuple[Any, str]] = {
    "unknown event": (lambda d: d.assign(event_index=d["event_index"] + 2), "event_index is outside"),
    "never": (lambda d: d.assign(event_time=d["event_time"] * np.inf), "event_time is outside"),
    "lengths": (lambda d: d.assign(event_time=("other", [1.0])), "event_time has shape"),
    "nothing planned": (lambda d: edited(d, '"planned_events": {', '"planned_event": {'), "event_index is"),
    "another thing planned": (lambda d: edited(d, '"type": "Event"', '"type": "Extinction"'), "Extinction"),
    "a negative rate": (lambda d: edited(d, '"settle": 1e-09', '"settle": -1.0'), "settle is -1.0"),
    "no times": (lambda d: edited(d, "1.5", '"x"'), "when cannot be read"),
    "thresholds": (lambda d: d.assign(specification_extinction_threshold=("x", [1.0])), "1 thresholds"),
}


def edited(data: Any, old: str, new: str) -> Any:
    assert old in data.attrs["specification"]
    return data.assign_attrs(specification=data.attrs["specification"].replace(old, new))


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_record_of_events_is_refused(name: str, tmp_path: Path) -> None:
    change, message = CRAFTED[name]
    events = [ed.Event([1.0]), ed.Event([1.5])]
    extinction = ed.Extinction([0.1, 0.2])
    ed.solve(REPLICATOR, TWO, [1.0, 1.0], (0.0, 5.0), events=events, settle=1e-9, extinction=extinction).save(
        tmp_path / "run.nc"
    )
    netcdf.write(change(netcdf.read(tmp_path / "run.nc")[0]), tmp_path / "crafted.nc")
    with pytest.raises(ValueError, match=rf"crafted\.nc.*{message}"):
        ed.load(tmp_path / "crafted.nc")


def test_events_go_on_when_a_run_is_continued() -> None:
    full = ed.Event(share_of_the_first, halved)

    def solve(end: float, *events: ed.Event) -> ed.Run:
        return ed.solve(REPLICATOR, SEASONS, [math.exp(-1), 1.0], (0.0, end), events=events)

    run = solve(10.0, full)
    longer = ed.extend(run, 20.0, events=[ed.Event([15.0])])
    whole = solve(20.0, full, ed.Event([15.0]))
    assert longer.events.event.tolist() == whole.events.event.tolist() == [0, 0, 0, 0, 0, 1, 0]
    np.testing.assert_allclose(longer.events.time, whole.events.time, rtol=1e-6)
    assert len(longer.planned_events) == 2
    assert all(a < b for a, b in itertools.pairwise(longer.t))


def test_an_interruption_at_an_event_leaves_a_record_that_goes_on() -> None:
    calls = 0

    def interrupt(masses: FloatArray) -> FloatArray:
        nonlocal calls
        calls += 1
        if calls % 3 == 1:
            raise KeyboardInterrupt
        return masses / 3

    for landscape in (TWO, landscapes.LinearDecay([1.0, 0.0], 0.1)):
        with pytest.raises(KeyboardInterrupt) as caught:
            ed.solve(
                REPLICATOR, landscape, [1.0, 1.0], (0.0, 5.0),
                events=[ed.Event([1.0], halved), ed.Event([2.0, 3.0], interrupt)],
            )  # fmt: skip
        part = caught.value.run  # type: ignore[attr-defined]
        assert part.t_span == (0.0, 2.0) and part.termination is ed.Termination.INTERRUPTED
        assert part.total_mass[-1] == pytest.approx(1.0) and part.events.time.tolist() == [1.0]
        # What was interrupted is done after all.
        longer = ed.extend(part, 5.0)
        assert longer.events.time.tolist() == [1.0, 2.0, 3.0]
        assert longer.total_mass[-1] == pytest.approx(1 / 9)
