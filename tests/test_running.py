"""What a run is asked for beside its trajectory: rest, progress, interruption, dense output, thresholds."""

from __future__ import annotations

import itertools
import math
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evodyn as ed
from evodyn import landscapes
from evodyn.core.arrays import FloatArray
from evodyn.core.progress import reporting
from evodyn.simulate.method import MethodName
from tests.problems import PROBLEMS, Problem

REPLICATOR = ed.Replicator()
METHODS: tuple[MethodName, ...] = ("auto", "RK45", "LSODA", "BDF")
by_method = pytest.mark.parametrize("method", METHODS)
TWO = landscapes.Constant([1.0, 0.0])
C = np.array([1.0, 0.9, 0.2])
REGULATED = landscapes.LinearDecay(C, 0.3)


def compiled(**options: Any) -> ed.Solver:
    pytest.importorskip("numba")
    return ed.Solver(compiled=True, **options)


# Rest


@by_method
@pytest.mark.parametrize("rate", [1e-2, 1e-4])
@pytest.mark.parametrize("threshold", [None, 0.2, 1e-3])
def test_two_groups_come_to_rest_when_the_closed_form_says(
    method: MethodName, rate: float, threshold: float | None
) -> None:
    # x_2 = 1/(1 + e^t): the best grows at x_2, the other falls at 1 - x_2, shares change by x_1 x_2.
    if threshold is None:
        expected = math.log(2 / (1 - math.sqrt(1 - 4 * rate)) - 1)
    else:
        expected = max(math.log(1 / rate - 1), math.log(2 / threshold - 1))
    run = ed.solve(
        REPLICATOR,
        TWO,
        [1.0, 1.0],
        (0.0, 100.0),
        save_at=np.arange(0.0, 101.0),
        extinction=None if threshold is None else ed.Extinction(threshold),
        solver=ed.Solver(method=method, max_step=0.25),
        settle=rate,
    )
    assert run.termination is ed.Termination.SETTLED and run.succeeded and run.settle == rate
    late = run.t_span[1] - expected
    assert abs(late) < 1e-9 if method == "auto" else -1e-6 < late < 0.25
    # The rows are those before, and the end.
    assert run.t.tolist() == [*range(math.ceil(run.t_span[1])), run.t_span[1]]
    assert run.end_state.t == run.t[-1]


@pytest.mark.parametrize("extinction", [None, ed.Extinction(1e-3)])
def test_a_compiled_run_settles_at_its_first_step_at_rest(extinction: ed.Extinction | None) -> None:
    rate, span = 1e-4, (0.0, 1000.0)
    run = ed.solve(
        REPLICATOR, REGULATED, np.ones(3), span, extinction=extinction, settle=rate, solver=compiled()
    )
    assert run.termination is ed.Termination.SETTLED and run.stats.method.startswith("Tsit5")

    def moves(masses: FloatArray) -> bool:
        shares = masses / masses.sum()
        slopes = REGULATED(0.0, masses) - shares @ REGULATED(0.0, masses)
        if extinction is None:
            return bool(np.abs(shares * slopes).max() > rate)
        return bool(slopes.max() > rate or slopes[masses >= 1e-3].min() < -rate)

    before = ed.solve(
        REPLICATOR, REGULATED, np.ones(3), span, throw=False, solver=compiled(max_steps=run.stats.steps - 1)
    )
    assert before.termination is ed.Termination.STEP_LIMIT
    assert moves(before.masses[-1]) and not moves(run.masses[-1])
    point = ed.equilibrium(REPLICATOR, REGULATED, total_mass=3.0)
    np.testing.assert_allclose(run.masses[-1], point.masses, atol=5e-3)


def test_mutation_is_not_at_rest_while_an_absent_group_comes() -> None:
    # All equally fit: p = m (1 - e^{-µt}) grows at µ m/p - µ, which is µ/(e^{µt} - 1).
    rate, settle = 0.5, 1e-3
    run = ed.solve(
        ed.SelectionMutation(rate, np.array([1.0, 1.0])),
        landscapes.Constant([0.0, 0.0]),
        [2.0, 0.0],
        (0.0, 100.0),
        extinction=ed.Extinction(1e-6),
        settle=settle,
        solver=ed.Solver(compiled=False, max_step=0.25),
    )
    assert run.termination is ed.Termination.SETTLED
    assert 0 <= run.t_span[1] - math.log(1 + rate / settle) / rate < 0.25


def test_a_run_at_rest_goes_on_when_asked() -> None:
    run = ed.solve(REPLICATOR, REGULATED, np.ones(3), (0.0, 1000.0), settle=1e-3)
    longer = ed.extend(run, 200.0)
    assert longer.termination is ed.Termination.COMPLETED and longer.t_span == (0.0, 200.0)
    whole = ed.solve(REPLICATOR, REGULATED, np.ones(3), (0.0, 200.0))
    np.testing.assert_allclose(longer.log_masses[-1], whole.log_masses[-1], atol=1e-6)
    assert (np.diff(longer.t) > 0).all()


def test_what_follows_the_rest_of_a_member_is_nan() -> None:
    ensemble = ed.solve_ensemble(
        REPLICATOR,
        [landscapes.Constant([1.0, 0.0]), landscapes.Constant([0.1, 0.0])],
        [1.0, 1.0],
        (0.0, 60.0),
        save_at=np.arange(0.0, 61.0),
        settle=0.01,
    )
    assert ensemble.termination == (ed.Termination.SETTLED,) * 2
    # x_1 x_2 s falls to the rate, where x_2 = 1/(1 + e^{st}).
    for k, s in enumerate((1.0, 0.1)):
        end = math.log(2 / (1 - math.sqrt(1 - 0.04 / s)) - 1) / s
        np.testing.assert_array_equal(np.isnan(ensemble.masses[k, :, 0]), ensemble.t > end)


class ByClock(ed.landscapes.Landscape):
    def __call__(self, t: float, masses: Any) -> Any:
        return masses * (1 + t)


@pytest.mark.parametrize(
    ("dynamics", "landscape"),
    [
        (REPLICATOR, landscapes.Seasonal([1.0, 0.0], 0.1, 3.0)),
        (REPLICATOR, landscapes.Recorded([0.0, 5.0, 11.0], np.eye(2), 0.1)),
        (REPLICATOR, TWO + landscapes.Seasonal([1.0, 0.0], 0.1, 3.0)),
        (REPLICATOR, ByClock()),
        (REPLICATOR, lambda t, masses: -masses * (t > 9)),
        (ed.SelectionMutation(lambda t: 0.1 * t), TWO),
    ],
)
def test_rest_is_refused_where_anything_depends_on_time(dynamics: ed.Dynamics, landscape: Any) -> None:
    with pytest.raises(ValueError, match=r"settle is 0.01 and .* depend.? on time"):
        ed.solve(dynamics, landscape, [1.0, 1.0], (0.0, 10.0), settle=0.01)


def test_settle_is_a_rate() -> None:
    for wrong in (0.0, -1.0, math.nan, "soon"):
        with pytest.raises(ValueError, match="settle is"):
            ed.solve(REPLICATOR, TWO, [1.0, 1.0], (0.0, 10.0), settle=wrong)  # type: ignore[arg-type]
    bare = ed.solve(REPLICATOR, lambda t, masses: -masses, [1.0, 2.0], (0.0, 99.0), settle=1e-3)
    assert bare.termination is ed.Termination.SETTLED


# Progress


def a_sweep(listener: Any, folder: Path) -> Any:
    return ed.sweep(_extinct, [{"h": 0.0}, {"h": 1.0}], folder, progress=listener)


def _extinct(point: Any) -> Any:
    import xarray as xr

    return xr.Dataset({"h": point["h"]})


def noisy(listener: Any) -> Any:
    return ed.stochastic.fitness_noise(
        REGULATED, np.ones(3), (0.0, 3.0), noise=0.1, calculus="ito", step_size=0.01, rng=0, progress=listener
    )


LONG: dict[str, Callable[[Any], Any]] = {
    "closed form": lambda f: ed.solve(REPLICATOR, TWO, [1.0, 1.0], (0.0, 9.0), progress=f),
    "scipy": lambda f: ed.solve(
        REPLICATOR, REGULATED, np.ones(3), (0.0, 9.0), progress=f, solver=ed.Solver(method="RK23")
    ),
    "auto": lambda f: ed.solve(REPLICATOR, REGULATED, np.ones(3), (0.0, 9.0), progress=f),
    "map": lambda f: ed.iterate(REPLICATOR, REGULATED, np.ones(3), 1000, 0.1, progress=f),
    "estimates": lambda f: ed.stochastic.noisy_iterate(
        REPLICATOR, REGULATED, np.ones(3), 300, 0.1, noise=0.1, rng=0, progress=f
    ),
    "generations": lambda f: ed.stochastic.wright_fisher(REPLICATOR, TWO, [9, 9], 300, rng=0, progress=f),
    "births": lambda f: ed.stochastic.moran(REPLICATOR, TWO, [9, 9], 30, rng=0, progress=f),
    "basins": lambda f: ed.basins(
        REPLICATOR, landscapes.MatrixGame(np.diag([1.0, 2.0])), starts=3, rng=0, progress=f
    ),
    "ensemble": lambda f: ed.solve_ensemble(
        REPLICATOR, REGULATED, np.ones((4, 3)) + np.eye(4, 3), (0.0, 9.0), progress=f
    ),
    "noise": noisy,
}


@pytest.mark.parametrize("name", LONG)
def test_progress_rises_to_one_and_changes_nothing(name: str) -> None:
    heard: list[float] = []
    told, silent = LONG[name](heard.append), LONG[name](None)
    assert told.same_as(silent)
    assert heard[-1] == 1.0 and heard[0] < 0.3 and len(heard) <= 201
    assert all(later > earlier for earlier, later in itertools.pairwise(heard))
    if name in ("map", "noise", "scipy", "estimates", "generations"):
        assert len(heard) > 20


@pytest.mark.parametrize("name", [*LONG, "sweep"])
def test_bars_are_drawn_on_standard_error(
    name: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("rich")
    a_sweep(True, tmp_path) if name == "sweep" else LONG[name](True)
    out, err = capsys.readouterr()
    assert "100%" in err and not out


def test_a_bar_without_rich_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(ImportError, match=r'progress=True needs rich, .* "evodyn\[studies\]"'):
        LONG["map"](True)
    LONG["map"](False)


def test_progress_is_refused_by_name() -> None:
    for name in LONG:
        with pytest.raises(ValueError, match="progress is 'yes'"):
            LONG[name]("yes")


def test_a_block_that_raises_is_not_finished() -> None:
    heard: list[float] = []

    def fail(report: Any) -> None:
        report(0.0)
        raise KeyError

    with pytest.raises(KeyError), reporting(heard.append, "Failing") as report:
        fail(report)
    assert heard == [0.0]


# Interruption


def halfway(fraction: float) -> None:
    if 0.4 < fraction < 1:
        raise KeyboardInterrupt


@pytest.mark.parametrize("policy", ["observe", "absorb"])
@pytest.mark.parametrize("name", ["scipy", "map"])
def test_an_interrupted_run_goes_on_where_it_stands(name: str, policy: Any, tmp_path: Path) -> None:
    def run(**options: Any) -> ed.Run:
        options["extinction"] = ed.Extinction(0.5, policy)
        if name == "map":
            return ed.iterate(REPLICATOR, REGULATED, np.ones(3), 200, 0.05, save_every=7, **options)
        return ed.solve(
            REPLICATOR, REGULATED, np.ones(3), (0.0, 10.0), solver=ed.Solver(method="RK23"), **options
        )

    with pytest.raises(KeyboardInterrupt) as caught:
        run(progress=halfway)
    part = caught.value.run  # type: ignore[attr-defined]
    assert part.termination is ed.Termination.INTERRUPTED and not part.succeeded
    assert 4.0 < part.t_span[1] < 6.0 and part.t[-1] == part.t_span[1] == part.end_state.t
    assert run(progress=halfway, throw=False).same_as(part)
    part.save(tmp_path / "part.nc")
    longer = ed.extend(ed.load(tmp_path / "part.nc"), 10.0)
    whole = run()
    assert longer.termination is ed.Termination.COMPLETED and (np.diff(longer.t) > 0).all()
    np.testing.assert_allclose(longer.extinction_time, whole.extinction_time, rtol=1e-5)
    if name == "map":
        assert longer.native.tobytes() == whole.native.tobytes()
        assert longer.crossings.tobytes() == whole.crossings.tobytes()
    else:
        np.testing.assert_allclose(longer.log_masses[-1], whole.log_masses[-1], atol=1e-6)


@pytest.mark.parametrize("after", range(1, 40, 3))
def test_a_landscape_may_be_interrupted_anywhere(after: int) -> None:
    calls = 0

    def landscape(t: float, masses: FloatArray) -> FloatArray:
        nonlocal calls
        calls += 1
        if calls == after + 2:
            raise KeyboardInterrupt
        return C - masses

    runs: list[Callable[[], ed.Run]] = [
        lambda: ed.solve(REPLICATOR, landscape, np.ones(3), (0.0, 50.0), extinction=ed.Extinction(0.9)),
        lambda: ed.iterate(REPLICATOR, landscape, np.ones(3), 50, 0.1, extinction=ed.Extinction(0.9)),
    ]
    for run in runs:
        calls = 0
        with pytest.raises(KeyboardInterrupt) as caught:
            run()
        part = caught.value.run  # type: ignore[attr-defined]
        assert part.t[-1] == part.t_span[1] and part.t[0] == 0.0
        assert (part.crossings.time <= part.t_span[1]).all()
        np.testing.assert_array_equal(part.extinct_at_end, part.masses[-1] < 0.9)
        np.testing.assert_array_equal(
            np.isfinite(part.extinction_time), np.isin(range(3), part.crossings.group)
        )


def test_an_interrupted_continuation_keeps_what_was_there() -> None:
    run = ed.iterate(REPLICATOR, REGULATED, np.ones(3), 10, 0.1)
    with pytest.raises(KeyboardInterrupt) as caught:
        ed.extend(run, 2.0, progress=halfway)
    part = caught.value.run  # type: ignore[attr-defined]
    assert part.t_span[0] == 0.0 and 1.0 < part.t_span[1] < 2.0
    assert part.t.tolist() == pytest.approx(np.arange(len(part.t)) * 0.1)


@pytest.mark.parametrize("solver", [None, ed.Solver(method="RK23")])
def test_an_interrupted_ensemble_has_the_members_that_are_finished(solver: ed.Solver | None) -> None:
    arguments: Any = (REPLICATOR, REGULATED, np.ones((5, 3)) + np.eye(5, 3), (0.0, 9.0))
    with pytest.raises(KeyboardInterrupt) as caught:
        ed.solve_ensemble(*arguments, solver=solver, progress=halfway)
    part = caught.value.run  # type: ignore[attr-defined]
    whole = ed.solve_ensemble(*arguments, solver=solver)
    names = [t.name for t in part.termination]
    assert names == ["COMPLETED"] * 3 + ["INTERRUPTED"] * 2
    np.testing.assert_array_equal(part.masses[:3], whole.masses[:3])
    assert np.isnan(part.masses[3:, 1:]).all()
    assert ed.solve_ensemble(*arguments, solver=solver, progress=halfway, throw=False).same_as(part)
    # Members that were not begun go on, too.
    assert ed.extend(part.runs[4], 9.0).masses[-1] == pytest.approx(whole.masses[4, -1], rel=1e-7)


def test_a_compiled_run_hears_a_signal_within_seconds() -> None:
    if sys.platform == "win32":
        pytest.skip("signals to a process of one's own are another thing there")
    sent = math.nan

    def send() -> None:
        nonlocal sent
        sent = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)

    landscape = landscapes.Seasonal([0.0, 0.1], [1.0, 0.5], 1.0, [0.0, 1.0])
    arguments: Any = (REPLICATOR, landscape, [1.0, 1.0], (0.0, 1e7))
    ed.solve(REPLICATOR, landscape, [1.0, 1.0], (0.0, 1.0), solver=compiled())
    clock = threading.Timer(0.1, send)
    clock.start()
    with pytest.raises(KeyboardInterrupt) as caught:
        ed.solve(*arguments, solver=compiled(max_steps=10**9))
    assert time.monotonic() - sent < 10.0  # a busy machine takes its time
    clock.join()
    part = caught.value.run  # type: ignore[attr-defined]
    assert part.stats.method == "Tsit5" and 0 < part.t_span[1] < 1e7


# Between saved times


def exact(t: FloatArray) -> FloatArray:
    odds = np.exp(t)
    masses: FloatArray = 2 * np.stack((odds, np.ones_like(t)), axis=-1) / (1 + odds)[..., None]
    return masses


@by_method
def test_masses_at_any_time(method: MethodName) -> None:
    run = ed.solve(
        REPLICATOR,
        TWO,
        [1.0, 1.0],
        (0.0, 20.0),
        save_at=np.linspace(0.0, 20.0, 41),
        dense=True,
        solver=ed.Solver(method=method),
    )
    t = np.random.default_rng(0).uniform(0.0, 20.0, (5, 40))
    np.testing.assert_allclose(run.at(t), exact(t), rtol=1e-14 if method == "auto" else 3e-7)
    np.testing.assert_allclose(run.at(run.t), run.masses, rtol=1e-13)
    assert run.at(3.0).shape == (2,) and run.at([]).shape == (0, 2)
    for outside in (-1.0, [1.0, 20.1]):
        with pytest.raises(ValueError, match="expected times within the run"):
            run.at(outside)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_dense_output_of_every_problem(problem: Problem) -> None:
    span = (0.0, problem.t_end)
    run = ed.solve(problem.dynamics, problem.landscape, problem.p0, span, dense=True)
    np.testing.assert_allclose(run.at(run.t), run.masses, rtol=1e-12, atol=1e-300)
    t = np.random.default_rng(1).uniform(*span, 20)
    with np.errstate(under="ignore"):
        expected = np.exp([problem.log_masses(s) for s in t])
    np.testing.assert_allclose(run.at(t), expected, rtol=1e-6, atol=1e-300)


def test_dense_output_is_not_compiled() -> None:
    run = ed.solve(REPLICATOR, REGULATED, np.ones(3), (0.0, 9.0), dense=True, solver=compiled())
    assert run.stats.method == "DOP853" and "dense output" in run.stats.reason
    plain = ed.solve(REPLICATOR, REGULATED, np.ones(3), (0.0, 9.0), solver=ed.Solver(compiled=False))
    assert plain.native.tobytes() == run.native.tobytes()


@pytest.mark.parametrize("landscape", [landscapes.Constant(C), REGULATED])
def test_masses_at_an_absorption_are_those_behind_it(landscape: Any) -> None:
    run = ed.solve(
        REPLICATOR, landscape, np.ones(3), (0.0, 30.0), extinction=ed.Extinction(0.2, "absorb"), dense=True
    )
    gone = run.extinction_time[2]
    assert run.at(gone)[2] == 0.0 and run.at(np.nextafter(gone, 0.0))[2] == pytest.approx(0.2, rel=1e-6)
    longer = ed.extend(run, 40.0)
    np.testing.assert_allclose(longer.at(longer.t), longer.masses, rtol=1e-12)


def test_dense_output_travels_but_is_not_saved(tmp_path: Path) -> None:
    run = ed.solve(
        REPLICATOR, REGULATED, np.ones(3), (0.0, 9.0), dense=True, solver=ed.Solver(method="LSODA")
    )
    again = pickle.loads(pickle.dumps(run))
    assert again.at(4.3).tolist() == run.at(4.3).tolist()
    run.save(tmp_path / "run.nc")
    loaded = ed.load(tmp_path / "run.nc")
    assert loaded.same_as(run)
    for without in (loaded, ed.iterate(REPLICATOR, REGULATED, np.ones(3), 3, 0.1)):
        with pytest.raises(ValueError, match="dense=True"):
            without.at(1.0)


# A threshold for each group


@by_method
@pytest.mark.parametrize("policy", ["observe", "stop"])
def test_every_group_has_its_own_threshold(method: MethodName, policy: Any) -> None:
    thresholds = np.array([1.5, 0.9, 0.01, 2.0])
    arguments: Any = (REPLICATOR, landscapes.Constant([1.0, 0.8, 0.0, 0.9]), np.ones(4), (0.0, 30.0))
    solver = ed.Solver(method=method)
    run = ed.solve(*arguments, extinction=ed.Extinction(thresholds, policy), solver=solver)
    alone = [ed.solve(*arguments, extinction=ed.Extinction(float(e)), solver=solver) for e in thresholds]
    rows = sorted(
        (float(t), int(g), int(d)) for k, one in enumerate(alone) for g, t, d in one.crossings if g == k
    )
    if policy == "stop":
        end = next(k for k, row in enumerate(rows) if row[2] < 0)
        rows = rows[: end + 1]
    assert len(rows) >= 2
    assert [(int(g), int(d)) for g, _, d in run.crossings] == [(g, d) for _, g, d in rows]
    np.testing.assert_allclose(run.crossings.time, [t for t, _, _ in rows], rtol=1e-6)
    # Who has made the run stop is at its threshold.
    below = run.log_masses[-1] < np.log(thresholds) + 1e-6 * (policy == "stop")
    np.testing.assert_array_equal(run.extinct_at_end, below)


def test_absorption_at_thresholds_of_their_own_by_two_roads() -> None:
    extinction = ed.Extinction([1e-3, 0.3, 0.05], "absorb")
    arguments: Any = (REPLICATOR, landscapes.Constant([1.0, 0.5, 0.0]), np.ones(3), (0.0, 30.0))
    runs = [
        ed.solve(*arguments, extinction=extinction, solver=ed.Solver(method=m)) for m in ("auto", "DOP853")
    ]
    assert np.isfinite(runs[0].extinction_time).tolist() == [False, True, True]
    np.testing.assert_allclose(runs[0].extinction_time, runs[1].extinction_time, rtol=1e-7)
    np.testing.assert_allclose(runs[0].absorbed_mass, [0.0, 0.3, 0.05], rtol=1e-7)


def test_thresholds_of_their_own_are_not_compiled() -> None:
    run = ed.solve(
        REPLICATOR, REGULATED, np.ones(3), (0.0, 9.0), extinction=ed.Extinction([0.1] * 3), solver=compiled()
    )
    same = ed.solve(REPLICATOR, REGULATED, np.ones(3), (0.0, 9.0), extinction=ed.Extinction(0.1))
    assert run.stats.method == "DOP853" and "several thresholds" in run.stats.reason
    np.testing.assert_allclose(run.extinction_time, same.extinction_time, rtol=1e-6)


def test_maps_and_files_and_ensembles_know_thresholds_of_their_own(tmp_path: Path) -> None:
    extinction = ed.Extinction([0.5, 0.9, 0.01], "absorb")
    run = ed.iterate(
        REPLICATOR, landscapes.Constant([1.0, 0.8, 0.0]), np.ones(3), 300, 0.1, extinction=extinction
    )
    order = np.argsort(run.extinction_time)
    assert order.tolist() == [1, 2, 0] and (run.absorbed_mass < [0.5, 0.9, 0.01]).all()
    ensemble = ed.solve_ensemble(REPLICATOR, REGULATED, np.ones((2, 3)), (0.0, 9.0), extinction=extinction)
    for name, result in (("run", run), ("ensemble", ensemble)):
        result.save(tmp_path / f"{name}.nc")
        assert ed.load(tmp_path / f"{name}.nc").same_as(result)


def test_thresholds_are_checked() -> None:
    for wrong in ([1.0, 0.0], [1.0, -1.0], [1.0, math.nan], [[1.0]], []):
        with pytest.raises(ValueError, match="threshold"):
            ed.Extinction(wrong)
    runs: list[Callable[[ed.Extinction], ed.Run]] = [
        lambda e: ed.solve(REPLICATOR, TWO, [1.0, 1.0], (0.0, 1.0), extinction=e),
        lambda e: ed.iterate(REPLICATOR, TWO, [1.0, 1.0], 3, 0.1, extinction=e),
    ]
    for run in runs:
        with pytest.raises(ValueError, match="3 thresholds and p0 has 2 groups"):
            run(ed.Extinction([1.0, 1.0, 1.0]))
