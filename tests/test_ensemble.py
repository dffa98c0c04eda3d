"""Ensembles: every member is what it is alone, and what does not fit together is named."""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import evodyn as ed
from evodyn.core.arrays import Array
from evodyn.simulate.members import Posed, cohorts_of

C = np.array([1.0, 0.4, 0.0, -0.5])
P0 = np.array([1.0, 2.0, 0.5, 0.25])
REPLICATOR = ed.Replicator()
LANDSCAPE = ed.landscapes.LinearDecay(C, 0.1)
LANDSCAPES = [ed.landscapes.LinearDecay(k * C, 0.1) for k in (1, 2, 3)]
STARTS = np.stack((P0, 2 * P0, 3 * P0))
ALONG = ("masses", "log_masses", "total_mass", "mean_fitness")
OF_MEMBERS = ("extinction_time", "extinct_at_end", "absorbed_mass")


def bare(t: float, masses: Array) -> Array:
    return C - 0.1 * masses


def fails_late(t: float, masses: Array) -> Array:
    return C - 0.1 * masses if t < 2 else np.full(4, np.nan)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_members_are_what_they_are_alone(workers: int) -> None:
    absorb = ed.Extinction(0.2, "absorb")
    ensemble = ed.solve_ensemble(
        REPLICATOR, LANDSCAPES, STARTS, (0.0, 5.0), extinction=absorb, workers=workers
    )
    alone = [
        ed.solve(REPLICATOR, landscape, start, (0.0, 5.0), extinction=absorb)
        for landscape, start in zip(LANDSCAPES, STARTS, strict=True)
    ]
    assert len(ensemble) == 3
    assert all(run.same_as(other) for run, other in zip(ensemble.runs, alone, strict=True))
    for name in (*ALONG, *OF_MEMBERS):
        np.testing.assert_array_equal(getattr(ensemble, name), [getattr(run, name) for run in alone])
        assert getattr(ensemble, name) is getattr(ensemble, name)  # stacked once
    assert ensemble.termination == tuple(run.termination for run in alone)
    assert ensemble.stats == tuple(run.stats for run in alone)


SCRIPT = """
import functools

import evodyn as ed


@functools.cache
def season(t):
    return 1 + 0.5 * t


def fitness(t, masses):
    return season(t) * masses[::-1]


if __name__ == "__main__":
    problem = ed.Replicator(), [fitness, fitness], [1.0, 2.0], (0.0, 1.0)
    found, alone = ed.solve_ensemble(*problem, workers=2), ed.solve_ensemble(*problem)
    assert (found.masses == alone.masses).all()
"""


@pytest.mark.slow
def test_functions_of_a_script_travel_with_their_caches(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(SCRIPT)
    paths = os.pathsep.join((str(Path(ed.__file__).parent.parent), os.environ.get("PYTHONPATH", "")))
    subprocess.run([sys.executable, file], env=os.environ | {"PYTHONPATH": paths}, check=True)


MUTANT = ed.Event(when=[2.0], action=lambda masses: masses + 0.1)
SECOND = ed.Event(when=lambda t, masses: float(masses[0] - 2 * masses[1]), terminal=True)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("solver", [None, ed.Solver(method="LSODA")])
def test_members_have_their_own_events_and_dense_output(workers: int, solver: ed.Solver | None) -> None:
    options: dict[str, Any] = {"solver": solver, "events": [MUTANT, SECOND], "dense": True}
    arguments = (REPLICATOR, LANDSCAPES, STARTS, (0.0, 5.0))
    ensemble = ed.solve_ensemble(*arguments, workers=workers, **options)
    alone = [
        ed.solve(REPLICATOR, landscape, start, (0.0, 5.0), **options)
        for landscape, start in zip(LANDSCAPES, STARTS, strict=True)
    ]
    for run, other in zip(ensemble, alone, strict=True):
        # From processes come copies, and functions are equal to no copy of theirs.
        assert run.same_as(other) or workers > 1
        np.testing.assert_array_equal(run.masses, other.masses)
        assert run.events.tolist() == other.events.tolist()
    assert len({run.t_span[1] for run in ensemble}) == 3
    early = min(run.t_span[1] for run in alone)
    np.testing.assert_array_equal(ensemble.at(early / 2), [run.at(early / 2) for run in alone])
    assert ensemble.at([0.0, early]).shape == (3, 2, 4)


def test_what_members_do_not_have_is_named() -> None:
    ensemble = ed.solve_ensemble(REPLICATOR, LANDSCAPES, STARTS, (0.0, 5.0))
    with pytest.raises(ValueError, match="dense=True"):
        ensemble.at(1.0)
    with pytest.raises(ValueError, match=r"events\[0\].when contains 9.0"):
        ed.solve_ensemble(REPLICATOR, LANDSCAPES, STARTS, (0.0, 5.0), events=[ed.Event(when=[9.0])])


GAMES = [ed.landscapes.MatrixGame(np.roll(np.diag(C), k, axis=1)) for k in (0, 1, 2)]
WAVES = [ed.landscapes.Seasonal(C, k * C, 3.0) + ed.landscapes.Entropic(C, 0.2) for k in (1, 2, 3)]
ABSENT = STARTS * np.array([[1, 0, 1, 1], [1, 1, 0, 0], [1, 0, 1, 1]])
MUTATION = ed.SelectionMutation(0.05)
IN_PART = ed.Populations((REPLICATOR, ed.SelectionMutation(0.05, 1.0)), (2, 2))
TOGETHER: dict[str, Any] = {
    "mutation": (MUTATION, LANDSCAPES, ed.Extinction(0.2)),
    "mutation in waves and blocks": (ed.Populations(MUTATION, (2, 2)), WAVES, None),
    "mutation until the first extinction": (MUTATION, LANDSCAPES, ed.Extinction(0.24, "stop")),
    "absent": (REPLICATOR, LANDSCAPES, None, ABSENT),
    "absent, observed": (REPLICATOR, WAVES, ed.Extinction(0.3), ABSENT),
    "absent, absorbed": (REPLICATOR, LANDSCAPES, ed.Extinction(0.3, "absorb"), ABSENT),
    "absent in games": (REPLICATOR, GAMES, ed.Extinction(0.3), ABSENT),
    "absent where nothing flows in": (IN_PART, LANDSCAPES, ed.Extinction(0.2), ABSENT[[0, 2, 0]]),
    "decay": (REPLICATOR, LANDSCAPES, ed.Extinction(0.2)),
    "stop": (REPLICATOR, LANDSCAPES, ed.Extinction(0.2, "stop")),
    "absorb": (REPLICATOR, LANDSCAPES, ed.Extinction(0.4, "absorb")),
    "absorb in blocks": (ed.Populations(REPLICATOR, (2, 2)), WAVES, ed.Extinction(0.4, "absorb")),
    "absorb in games": (REPLICATOR, GAMES, ed.Extinction(0.4, "absorb")),
    "games": (REPLICATOR, GAMES, None),
    "one game": (REPLICATOR, GAMES[0], ed.Extinction(0.3)),
    "waves": (REPLICATOR, WAVES, ed.Extinction(0.2)),
    "blocks": (ed.Populations(REPLICATOR, (1, 3)), LANDSCAPES, ed.Extinction(0.2)),
    "different": (REPLICATOR, [LANDSCAPE, GAMES[0], WAVES[0]], ed.Extinction(0.2)),
    "constant": (REPLICATOR, [ed.landscapes.Constant(k * C) for k in (1, 2, 3)], ed.Extinction(0.2)),
}


@pytest.mark.parametrize("kind", TOGETHER)
@pytest.mark.parametrize("save_at", [[0.0, 1.0, 5.0], [2.0, 4.0]], ids=["from the start", "later"])
def test_members_integrated_together_are_what_they_are_alone(kind: str, save_at: list[float]) -> None:
    dynamics, landscapes, extinction, *others = TOGETHER[kind]
    starts = others[0] if others else STARTS
    options: dict[str, Any] = {"save_at": save_at, "extinction": extinction}
    ensemble = ed.solve_ensemble(dynamics, landscapes, starts, (0.0, 5.0), **options)
    first = {name: getattr(ensemble, name) for name in (*ALONG, *OF_MEMBERS, "termination")}
    many = landscapes if isinstance(landscapes, list) else [landscapes] * 3
    alone = [ed.solve(dynamics, one, p0, (0.0, 5.0), **options) for one, p0 in zip(many, starts, strict=True)]
    for name in OF_MEMBERS:
        np.testing.assert_array_equal(first[name], [getattr(run, name) for run in alone])
    for k, run in enumerate(alone):
        saved = np.isin(run.t, ensemble.t)
        for name in ALONG:
            np.testing.assert_array_equal(first[name][k, : saved.sum()], getattr(run, name)[saved])
        assert np.isnan(first["masses"][k, saved.sum() :]).all()
        assert ensemble.runs[k].same_as(run)
    assert first["termination"] == tuple(run.termination for run in alone)
    assert len(ensemble) == 3 and "3 members, 4 groups" in repr(ensemble)


ALONE: dict[str, tuple[ed.Dynamics, Any, ed.Extinction | None, Any, list[int]]] = {
    "revived by mutation": (MUTATION, LANDSCAPES, None, [P0, *ABSENT[:2]], [1, 2]),
    "far below their floor": (MUTATION, LANDSCAPES, None, [P0, P0 * [1, 1, 1, 1e-9], P0], [1]),
    "closed form": (REPLICATOR, [LANDSCAPE, ed.landscapes.Constant(C), LANDSCAPE], None, ABSENT, [1]),
    "absorbed with mutation": (MUTATION, LANDSCAPES, ed.Extinction(0.2, "absorb"), STARTS, [0, 1, 2]),
    "clip": (ed.Replicator(signal_clip=0.1), LANDSCAPES, None, STARTS, [0, 1, 2]),
}


@pytest.mark.parametrize("kind", [*TOGETHER, *ALONE])
def test_all_members_that_compiled_methods_know_in_one_phase_go_together(kind: str) -> None:
    pytest.importorskip("numba")
    asked = (*TOGETHER.get(kind, ()), STARTS, [0, 1, 2] if kind == "constant" else [])
    dynamics, landscapes, extinction, starts, alone = ALONE.get(kind) or (*asked[:4], asked[-1])
    many = landscapes if isinstance(landscapes, list) else [landscapes] * 3
    solver, times = ed.Solver(compiled=True), np.array([0.0, 5.0])
    posed = Posed(dynamics, many, extinction, solver, np.array(starts), times, (0.0, 5.0))
    together = [member for cohort in cohorts_of(posed) for member in cohort.members.tolist()]
    assert sorted([*together, *alone]) == [0, 1, 2]
    ensemble = ed.solve_ensemble(dynamics, many, starts, (0.0, 5.0), extinction=extinction, solver=solver)
    run = ed.solve(dynamics, many[1], starts[1], (0.0, 5.0), extinction=extinction, solver=solver)
    assert ensemble[1].same_as(run)


def test_runs_are_made_when_somebody_looks_at_them() -> None:
    ensemble = ed.solve_ensemble(REPLICATOR, LANDSCAPES, STARTS, (0.0, 5.0))
    run = ensemble[1]
    assert ensemble[-2] is run and ensemble.runs[1] is run and ensemble[1:][0] is run
    stood = weakref.ref(ensemble[2])
    gc.collect()
    assert stood() is None or not ed.Solver().compiles  # nobody had it
    again = pickle.loads(pickle.dumps(ensemble))
    assert again.same_as(ensemble) and ensemble.same_as(again) and not again.same_as(ensemble[:2])
    assert again[1] is again.runs[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"solver": "RK45"}, r"solver is 'RK45'; expected Solver"),
        ({"landscape": []}, "landscape is empty; expected one landscape for each member"),
        ({"landscape": [LANDSCAPE, ed.landscapes.LinearDecay([1.0, 0.0], 0.1)]}, "is made for 2 groups"),
        ({"landscape": [LANDSCAPE, 3]}, "landscape is 3; expected a callable"),
        ({"landscape": LANDSCAPE, "p0": np.ones((0, 3))}, "the number of members is 0"),
    ],
)
def test_what_no_member_can_be_is_named(change: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"dynamics": REPLICATOR, "landscape": LANDSCAPES, "p0": P0, "t_span": (0.0, 1.0)}
    with pytest.raises(ValueError, match=message):
        ed.solve_ensemble(**(asked | change))


def test_the_member_that_fails_is_raised_with_what_it_reached() -> None:
    short = ed.Solver(max_steps=3)
    with pytest.raises(ed.SolveError, match="step limit") as caught:
        ed.solve_ensemble(REPLICATOR, LANDSCAPES, STARTS, (0.0, 50.0), solver=short)
    assert 0 < caught.value.time < 50
    ensemble = ed.solve_ensemble(REPLICATOR, LANDSCAPES, STARTS, (0.0, 50.0), solver=short, throw=False)
    assert {t.name for t in ensemble.termination} == {"STEP_LIMIT"}
    wrong = [LANDSCAPES[0], ed.landscapes.LinearDecay(1e200 * np.ones(4), 1e200)]
    with pytest.raises(ValueError, match="fitness"):
        ed.solve_ensemble(REPLICATOR, wrong, 1e200 * STARTS[:2], (0.0, 1.0))


@pytest.mark.parametrize("landscape", [LANDSCAPE, bare], ids=["landscape", "function"])
def test_members_may_share_one_landscape(landscape: Any) -> None:
    ensemble = ed.solve_ensemble(REPLICATOR, landscape, P0, (0.0, 5.0), members=2)
    alone = ed.solve(REPLICATOR, landscape, P0, (0.0, 5.0))
    assert len(ensemble) == 2 and all(run.same_as(alone) for run in ensemble.runs)


def test_a_member_that_ends_early_has_no_masses_after_that() -> None:
    both: tuple[Any, ...] = (REPLICATOR, [LANDSCAPE, fails_late], P0, (0.0, 5.0))
    with pytest.raises(ed.SolveError) as caught:
        ed.solve_ensemble(*both)
    assert caught.value.result.termination is ed.Termination.FITNESS_NOT_FINITE
    ensemble = ed.solve_ensemble(*both, throw=False)
    assert [t.name for t in ensemble.termination] == ["COMPLETED", "FITNESS_NOT_FINITE"]
    ended = ensemble.t > ensemble.runs[1].t_span[1]
    assert 0 < ended.sum() < len(ensemble.t)
    for name in ALONG:
        assert not np.isnan(getattr(ensemble, name)[0]).any()
        gone = np.isnan(getattr(ensemble, name)[1]).reshape(len(ensemble.t), -1)
        np.testing.assert_array_equal(gone, np.repeat(ended[:, None], gone.shape[1], axis=1))
    assert repr(ensemble) == (
        "Ensemble(2 members, 4 groups, 101 saved times, {'COMPLETED': 1, 'FITNESS_NOT_FINITE': 1})"
    )


def test_labelled_ensembles() -> None:
    ensemble = ed.solve_ensemble(REPLICATOR, LANDSCAPES, P0, (0.0, 5.0), save_at=[0.0, 5.0])
    data = ensemble.to_xarray()
    assert dict(data.sizes) == {"member": 3, "time": 2, "group": 4}
    assert data["mass"].dims == ("member", "time", "group")
    np.testing.assert_array_equal(data["mass"], ensemble.masses)
    np.testing.assert_array_equal(data["log_mass"], ensemble.log_masses)
    np.testing.assert_array_equal(data["mean_fitness"], ensemble.mean_fitness)
    assert data["termination"].values.tolist() == ["COMPLETED"] * 3
    assert data["evaluations"].values.tolist() == [stats.evaluations for stats in ensemble.stats]


RULES: list[tuple[Callable[[], object], str]] = [
    (lambda: ensemble_of(LANDSCAPE, P0), r"members is None, p0 has shape \(4,\) and there are 1 landscapes"),
    (lambda: ensemble_of(LANDSCAPES[:2], STARTS), r"p0 has shape \(3, 4\) and there are 2 landscapes"),
    (lambda: ensemble_of(LANDSCAPE, STARTS, members=2), "members is 2.*expected one number of members"),
    (lambda: ensemble_of(LANDSCAPES, P0, members=2), "members is 2.* there are 3 landscapes"),
    (lambda: ensemble_of(LANDSCAPE, 1.0, members=2), r"p0 has shape \(\); expected \(N,\), or \(M, N\)"),
    (lambda: ensemble_of(LANDSCAPE, STARTS[None]), r"p0 has shape \(1, 3, 4\)"),
    (lambda: ensemble_of(3.0, STARTS), r"landscape is 3\.0; expected a landscape, a sequence"),
    (lambda: ensemble_of(LANDSCAPE, STARTS, workers=0), "workers is 0"),
    (lambda: ensemble_of(LANDSCAPE, P0, members=0), "members is 0"),
]


def ensemble_of(landscape: Any, p0: Any, **options: Any) -> ed.Ensemble:
    return ed.solve_ensemble(REPLICATOR, landscape, p0, (0.0, 1.0), **options)


@pytest.mark.parametrize(("call", "message"), RULES)
def test_what_does_not_fit_together_is_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
