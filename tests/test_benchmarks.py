"""The benchmarks: which setting is chosen, what is said of it, and one small contest without peers."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import draw, fields, libraries, own, rows, timing
from benchmarks.__main__ import save
from benchmarks.contest import Options, contest
from benchmarks.fields import Form
from benchmarks.methods import Method, masses_or_logs, relative
from benchmarks.peers import methods as peers_of
from benchmarks.problems import constant, density, games, seasonal
from benchmarks.references import error, reference
from benchmarks.rows import Outcome, Row, Verdict
from benchmarks.scan import Attempt, Patience, chosen, scan
from benchmarks.works.integration import compared
from benchmarks.works.sizes import exponent
from evodyn.core.arrays import FloatArray


def attempt(seconds: float, error: float) -> Attempt:
    return Attempt(1e-6, 1e-8, seconds, seconds, error)


def test_the_fastest_setting_that_reaches_the_target_is_chosen() -> None:
    loose, good, tight, lost = attempt(1, 1e-5), attempt(3, 9e-7), attempt(4, 1e-9), attempt(2, math.inf)
    assert chosen([loose, good, tight, lost], 1e-6) is good
    assert chosen([loose, attempt(5, 9e-7), tight, lost], 1e-6) is tight  # a tighter one may be faster
    assert chosen([loose, attempt(1, 1e-3), lost], 1e-6) is loose  # the closest, where none is good enough
    assert chosen([lost], 1e-6) is None


def solver_with(error_per_tolerance: float, tried: list[float]) -> Method:
    """Return a method that is off by a multiple of its tolerance, and notes what it was asked."""

    def solve(rtol: float, atol: float) -> FloatArray:
        if rtol not in tried:
            tried.append(rtol)
        return np.array([error_per_tolerance * rtol])

    return Method("a method", "a library", "log", lambda flow: solve, (relative(1.0),))


def scanned(method: Method, patience: Patience) -> list[Attempt]:
    return list(scan(method, method.start(None), lambda values: float(values[0]), patience))


def test_a_scan_goes_down_by_decades_to_the_target_and_half_a_decade_back() -> None:
    tried: list[float] = []
    found = scanned(solver_with(0.5, tried), Patience())
    assert np.log10(tried) == pytest.approx([-4, -5, -6, -5.5])
    best = chosen(found, 1e-6)
    assert best is not None and best.error <= 1e-6
    scanned(solver_with(0.2, tried := []), Patience())
    assert np.log10(tried) == pytest.approx([-4, -5, -6, -5.5])
    scanned(solver_with(0.2, tried := []), Patience(beyond=100.0))  # further, for the curve
    assert np.log10(tried) == pytest.approx([-4, -5, -6, -7, -8, -5.5])
    scanned(solver_with(1e30, tried := []), Patience())
    assert np.log10(tried) == pytest.approx(range(-4, -14, -1))


def test_a_method_that_is_ten_times_slower_before_it_is_good_enough_is_given_up() -> None:
    tried: list[float] = []
    assert len(scanned(solver_with(0.5, tried), Patience(rival=1e-12))) == 1
    assert len(tried) == 1


def test_a_method_that_fails_says_why_and_takes_others_with_it_no_further() -> None:
    def refuse(rtol: float, atol: float) -> FloatArray:
        raise ArithmeticError("no such luck")

    method = Method("a method", "a library", "log", lambda flow: refuse)
    (found,) = scanned(method, Patience())
    assert found.error == math.inf and found.failure == "ArithmeticError: no such luck"
    outcome = contest("a work", constant(3), [method], lambda values: 0.0, Options())
    (row,) = outcome.rows
    assert not row.reached and "no such luck" in row.note and math.isnan(row.median)
    assert "no such luck: a method" in rows.table(outcome)


def test_a_call_that_takes_too_long_is_ended() -> None:
    def busy() -> None:
        while time.process_time() < 1e9:
            pass

    with pytest.raises(timing.TooLongError, match="more than"), timing.limited(0.01):
        busy()


def test_calls_are_timed_in_turns() -> None:
    order: list[str] = []
    times = timing.in_turns({name: lambda name=name: order.append(name) for name in "ab"}, 5, short=0.0)  # type: ignore[misc]
    assert order == ["a", "b"] * 6  # the first tells how often a round repeats
    assert all(len(each.wall) == len(each.processors) == 5 for each in times.values())
    assert all(each.shortest <= each.median for each in times.values())


def test_verdicts() -> None:
    assert Verdict("a work", "ratio", 0.2, 0.2).outcome == "met"
    assert Verdict("a work", "ratio", 0.21, 0.2).outcome == "missed"
    assert Verdict("a work", "threads", 1.9, 1.8, at_least=True).outcome == "met"
    assert Verdict("a work", "threads", 1.7, 1.8, at_least=True).outcome == "missed"
    assert Verdict("a work", "ratio", math.nan, 0.2).outcome == "not measured"
    ours = Row("a work", "evodyn", "evodyn", median=1.0, shortest=0.5, processor=1.0)
    peer = Row("a work", "a method", "a library", median=4.0, shortest=4.0, processor=2.0)
    off = dataclasses.replace(peer, median=0.1, reached=False)
    best = rows.fastest([ours, peer, off])
    assert best is peer  # a result that is off is no result, however fast
    assert rows.ratio("a work", ours, best, 0.3).value == 0.25
    assert rows.ratio("a work", ours, best, 0.3, clock="processor").value == 0.5
    assert rows.ratio("a work", ours, best, 0.3, clock="processor").others == (0.25, 0.125)
    assert rows.ratio("a work", ours, None, 0.3).outcome == "not measured"
    assert rows.ratio("a work", dataclasses.replace(ours, reached=False), best, 0.3).outcome == "not measured"


def test_errors_are_those_of_masses_that_count() -> None:
    truth = np.log([[1.0, 1e-13]])
    assert error(truth + np.array([[1e-7, 1.0]]), truth) == pytest.approx(1e-7)
    assert error(np.array([[math.nan, 0.0]]), truth) == math.inf
    assert error(truth[0], truth) == math.inf
    assert exponent({10: 1.0, 1000: 100.0}) == pytest.approx(1.0)


@pytest.mark.parametrize("form", ["mass", "log"])
def test_peers_are_given_the_flow_and_its_jacobian(form: Form) -> None:
    for flow in (density(4, 0.7, 0.1), seasonal(4), games(5.0)):
        y = fields.start(flow, form) + 0.1 * np.arange(flow.n)
        masses = np.exp(y) if form == "log" else y
        velocity = flow.dynamics.velocity(masses, flow.landscape(1.2, masses))
        expected = velocity / masses if form == "log" else velocity
        field = fields.field(flow, form)
        assert field(1.2, y) == pytest.approx(expected, abs=1e-14)
        if not flow.is_game:
            differences = [(field(1.2, y + d) - field(1.2, y - d)) / 2e-6 for d in 1e-6 * np.eye(flow.n)]
            assert fields.dense_jacobian(flow, form)(1.2, y) == pytest.approx(
                np.transpose(differences), abs=1e-8
            )


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No peer but SciPy, which evodyn needs itself."""
    monkeypatch.setattr(libraries, "PEERS", dict.fromkeys(libraries.PEERS, "no_such_library"))
    fields.fastest.cache_clear()


@pytest.mark.usefixtures("alone")
def test_a_contest_without_peers(tmp_path: Path) -> None:
    assert libraries.absent() == list(libraries.PEERS)
    outcome = compared(constant(5), 1e6, Options(quick=True, rounds=5))
    assert {row.library for row in outcome.rows} == {"evodyn", "SciPy"}
    reached = [row for row in outcome.rows if row.reached]
    assert {"evodyn", "evodyn, NumPy"} <= {row.method for row in reached}
    assert all(row.error <= 1e-6 and row.rounds in (1, 5) for row in reached)
    (verdict,) = outcome.verdicts
    assert verdict.outcome == "met" and verdict.quantity.startswith("evodyn / SciPy")
    printed = rows.table(outcome)
    assert "MET: evodyn / SciPy" in printed and "nothing stiff is on the diagonal" in printed
    assert "1 targets: 1 met" in rows.verdict_table(outcome.verdicts)
    save(tmp_path, [outcome], {"target": "1e-6", "quick": "True"})
    with (tmp_path / "scans.csv").open(newline="") as file:
        saved = [row for row in csv.DictReader(file) if row["method"] == "evodyn"]
    assert min(float(row["error"]) for row in saved) <= 1e-6
    assert draw.drawn(tmp_path, tmp_path) is None  # two libraries make no figure


@pytest.mark.usefixtures("alone")
def test_references_are_closer_than_what_they_judge() -> None:
    flow = constant(5)
    integrated = reference(dataclasses.replace(flow, exact=None))
    assert error(integrated, reference(flow)) < 1e-11


def test_the_figure_shows_the_best_of_each_library(tmp_path: Path) -> None:
    points = [(1e-3, 1.0), (1e-4, 3.0), (1e-5, 2.0), (1e-9, 9.0), (1e-8, 10.0)]
    assert draw.front(points) == [(1e-3, 1.0), (1e-5, 2.0), (1e-9, 9.0)]
    names = ("evodyn", "SciPy", "CyRK")
    outcome = Outcome(
        "a work",
        [Row("a work", name, name) for name in names],
        attempts=[(name, attempt(seconds, off)) for name in names for off, seconds in points],
    )
    about = {
        "target": "1e-6",
        "quick": "False",
        "date": "2026-01-01",
        "processor": "a processor",
        "cores": "2",
    }
    save(tmp_path, [outcome], about)
    path = draw.drawn(tmp_path, tmp_path)
    assert path is not None and path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    assert "a processor, 2 cores" in path.with_suffix(".txt").read_text()
    assert json.loads((tmp_path / "machine.json").read_text()) == about


def test_every_method_has_a_name_of_its_own() -> None:
    names = [method.name for method in [*peers_of(), *own.methods()]]
    assert len(names) == len(set(names))
    assert len(masses_or_logs("mass")) == 2  # small masses count, or do not
