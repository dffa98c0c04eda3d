"""The compiled methods, each by itself, and beside what they are tied to: SciPy's methods."""

from __future__ import annotations

import dataclasses
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import evodyn as ed
from evodyn import landscapes
from evodyn.core.arrays import FloatArray
from evodyn.landscapes import NormalForm
from evodyn.simulate import method, straight
from evodyn.solvers import compilation
from tests.problems import PROBLEMS, Problem

pytest.importorskip("numba")

REPLICATOR = ed.Replicator()
COMPILED = ed.Solver(compiled=True)
UNCOMPILED = ed.Solver(method="DOP853", rtol=1e-11, atol=1e-12)
N = 7
RNG = np.random.default_rng(5)
C, P0 = RNG.normal(size=N), RNG.uniform(0.2, 2.0, N)
SIMILARITY = np.eye(N) + 0.3
LANDSCAPES: dict[str, Any] = {
    "decay": landscapes.LinearDecay(C, 0.7),
    "entropic": landscapes.Entropic(C, 0.4),
    "seasonal": landscapes.Seasonal(C, np.linspace(0.0, 2.0, N), 3.0, np.linspace(0.0, 5.0, N)),
    "game": landscapes.MatrixGame(RNG.normal(size=(N, N))),
    "redundancy": landscapes.Redundancy(C, SIMILARITY, 0.5),
    "recorded": landscapes.Recorded([0.0, 1.3, 4.0, 6.0], RNG.normal(size=(3, N)), 0.2),
    "sum": landscapes.LinearDecay(C, 0.3)
    + landscapes.Entropic(np.zeros(N), 0.1)
    + landscapes.Seasonal(np.zeros(N), 1.0, 2.0, np.linspace(0.0, 3.0, N))
    + landscapes.Redundancy(np.zeros(N), SIMILARITY, 0.2),
    "two matrices": landscapes.MatrixGame(RNG.normal(size=(N, N)))
    + landscapes.Redundancy(C, SIMILARITY, 0.5),
}
DYNAMICS: dict[str, ed.Dynamics] = {
    "replicator": REPLICATOR,
    "mutation": ed.SelectionMutation(0.3, target=0.4),
    "blocks": ed.Populations((ed.Replicator(), ed.SelectionMutation(0.2)), sizes=(3, 4)),
}


def both(dynamics: ed.Dynamics, landscape: Any, p0: FloatArray, **how: Any) -> tuple[ed.Run, ed.Run]:
    """Return a run by the compiled methods, and one by SciPy's at a tighter tolerance."""
    runs = [ed.solve(dynamics, landscape, p0, (0.0, 6.0), solver=s, **how) for s in (COMPILED, UNCOMPILED)]
    return runs[0], runs[1]


@pytest.mark.parametrize("dynamics", DYNAMICS.values(), ids=DYNAMICS)
@pytest.mark.parametrize("landscape", LANDSCAPES)
def test_every_pair_agrees_with_integration_by_scipy(dynamics: ed.Dynamics, landscape: str) -> None:
    run, reference = both(dynamics, LANDSCAPES[landscape], P0)
    if landscape == "two matrices" and dynamics is not REPLICATOR:
        assert run.stats.method == "DOP853"  # on masses and on shares of a total that changes
    else:
        few = landscape in ("game", "redundancy", "two matrices") and dynamics is REPLICATOR
        assert run.stats.method.startswith("Taylor" if few else "Tsit5") and "compiled" in run.stats.reason
    np.testing.assert_allclose(run.log_masses, reference.log_masses, atol=1e-7)
    np.testing.assert_allclose(run.mean_fitness, reference.mean_fitness, atol=1e-6)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_every_problem_with_a_known_solution(problem: Problem) -> None:
    # Those that are not in the normal form, too: a run may be compiled in parts.
    run = ed.solve(
        problem.dynamics, problem.landscape, problem.p0, (0.0, problem.t_end), save_at=[problem.t_end],
        solver=COMPILED,
    )  # fmt: skip
    np.testing.assert_allclose(run.log_masses[-1], problem.log_masses(problem.t_end), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("policy", ["observe", "absorb", "stop"])
@pytest.mark.parametrize("name", ["decay", "seasonal", "redundancy"])
def test_extinctions_agree_with_integration_by_scipy(policy: Any, name: str) -> None:
    run, reference = both(
        DYNAMICS["replicator"], LANDSCAPES[name], P0, extinction=ed.Extinction(0.05, policy)
    )
    assert len(run.crossings) > 0
    np.testing.assert_array_equal(run.crossings.group, reference.crossings.group)
    np.testing.assert_array_equal(run.crossings.direction, reference.crossings.direction)
    np.testing.assert_allclose(run.crossings.time, reference.crossings.time, atol=1e-7)
    np.testing.assert_allclose(run.absorbed_mass, reference.absorbed_mass, atol=1e-12)
    assert run.termination is reference.termination


ABSORBING: dict[str, ed.Dynamics] = {
    "replicator": REPLICATOR,
    "blocks": ed.Populations(REPLICATOR, sizes=(5, 2)),
    "loss": ed.SelectionMutation(0.2, target=0.0),
}


@pytest.mark.parametrize("dynamics", ABSORBING.values(), ids=ABSORBING)
@pytest.mark.parametrize("name", ["decay", "seasonal", "game", "redundancy", "sum"])
def test_who_is_absorbed_leaves_the_state_and_the_others_feel_it(dynamics: ed.Dynamics, name: str) -> None:
    extinction = ed.Extinction(0.3, "absorb")
    run, reference = both(dynamics, LANDSCAPES[name], P0 + 0.3, extinction=extinction)
    assert "compiled" in run.stats.reason and run.stats.restarts == len(set(run.crossings.time)) > 0
    np.testing.assert_array_equal(run.crossings.group, reference.crossings.group)
    np.testing.assert_allclose(run.crossings.time, reference.crossings.time, atol=1e-6)
    np.testing.assert_allclose(run.absorbed_mass, reference.absorbed_mass, atol=1e-12)
    np.testing.assert_allclose(run.masses, reference.masses, atol=1e-6)
    np.testing.assert_allclose(run.total_mass, reference.total_mass, rtol=1e-7)
    np.testing.assert_array_equal(run.end_state.removed, reference.end_state.removed)
    np.testing.assert_allclose(run.end_state.masses, run.masses[-1], rtol=1e-13)


def test_a_population_may_be_absorbed_to_the_last_group() -> None:
    # Equal groups fall together, p = 2 exp(-μt); the fittest of the others waits for its own time.
    shrinking = ed.SelectionMutation(0.5, target=0.0)
    how: dict[str, Any] = {"extinction": ed.Extinction(0.1, "absorb"), "solver": COMPILED}
    run = ed.solve(shrinking, landscapes.LinearDecay(np.ones(3), 1.0), [2.0] * 3, (0.0, 20.0), **how)
    assert run.termination is ed.Termination.ALL_EXTINCT and run.t[-1] == 20.0
    np.testing.assert_allclose(run.extinction_time, np.log(20.0) / 0.5, atol=1e-7)
    np.testing.assert_array_equal(run.masses[-1], np.zeros(3))
    ensemble = ed.solve_ensemble(shrinking, [LANDSCAPES["decay"]] * 2, P0, (0.0, 20.0), **how)
    assert set(ensemble.termination) == {ed.Termination.ALL_EXTINCT} and not ensemble.masses[:, -1].any()


def test_absorption_goes_on_where_a_compiled_call_was_interrupted_by_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    how: dict[str, Any] = {"extinction": ed.Extinction(0.1, "absorb"), "solver": COMPILED}
    whole = ed.solve(ABSORBING["blocks"], LANDSCAPES["sum"], P0, (0.0, 6.0), **how)
    monkeypatch.setattr(straight, "most_steps", lambda forms: 7)
    parts = ed.solve(ABSORBING["blocks"], LANDSCAPES["sum"], P0, (0.0, 6.0), **how)
    np.testing.assert_array_equal(parts.crossings.group, whole.crossings.group)
    np.testing.assert_allclose(parts.crossings.time, whole.crossings.time, atol=1e-6)
    np.testing.assert_allclose(parts.masses, whole.masses, atol=1e-6)
    np.testing.assert_allclose(parts.absorbed_mass, whole.absorbed_mass, atol=1e-12)


def test_two_crossings_within_one_step_are_both_found() -> None:
    # ln(p_0/p_1) = -d + a (1 - cos ωt)/ω rises above the level for a while that shrinks with the margin.
    amplitude, period = 1.0, 20.0
    landscape = landscapes.Seasonal([0.0, 0.0], [amplitude, 0.0], period)
    omega = 2 * np.pi / period
    summit = 2 * amplitude / omega
    threshold = 0.5
    for margin in (1e-2, 1e-4, 1e-6):
        odds = np.log(threshold / (1 - threshold)) - summit + margin
        p0 = np.array([1 / (1 + np.exp(-odds)), 1 / (1 + np.exp(odds))])
        run = ed.solve(
            REPLICATOR, landscape, p0, (0.0, period), save_at=[period],
            extinction=ed.Extinction(threshold), solver=ed.Solver(rtol=1e-10, compiled=True),
        )  # fmt: skip
        half = np.arccos(1 - margin / (amplitude / omega)) / omega
        of_first = run.crossings[run.crossings.group == 0]
        np.testing.assert_array_equal(of_first.direction, [1, -1])
        np.testing.assert_allclose(
            of_first.time, [period / 2 - half, period / 2 + half], atol=2e-2 * half + 1e-5
        )


@dataclasses.dataclass(frozen=True)
class Kernel:
    """The compiled functions on a form with every term."""

    form: Any
    kernels: Any
    work: Any
    u: FloatArray

    def rates(self, t: float, u: FloatArray) -> FloatArray:
        out, sizes = np.empty(len(u)), np.empty(len(u))
        self.kernels.rates(self.form, self.work, t, np.array(u), sizes, out)
        return out

    def stepped(self, steps: int, *, stiff: bool) -> FloatArray:
        """Return the state at t = 1 after equal steps."""
        k, u, h = self.kernels, np.array(self.u), 1 / steps
        sizes, ahead = np.exp(u), np.empty(len(u))
        new = np.empty(len(u))
        for step in range(steps):
            t = step * h
            velocity = self.rates(t, u)
            k.rates(self.form, self.work, t, u, sizes, velocity)
            if stiff:
                k.linearize(self.form, self.work, t, sizes)
                k.implicit_step(self.form, self.work, t, h, u, velocity, sizes, 1e-8, new, ahead)
            else:
                self.work.stages[0] = velocity
                k.explicit_step(self.form, self.work, t, h, u, 1e-8, new, ahead)
            u = np.array(new)
        return u


@pytest.fixture(scope="module")
def kernel() -> Kernel:
    from evodyn.solvers import kernels

    n = 6
    rng = np.random.default_rng(1)
    u = np.concatenate([np.log(rng.dirichlet(np.ones(size))) for size in (4, 2)])
    form = kernels.Form(
        np.array([0, 4, 6]), rng.normal(size=n), 0.7, 0.3, np.array([2.0, 3.0]), rng.normal(size=(2, n)),
        rng.normal(size=(2, n)), np.zeros((0, 0)), False, rng.uniform(0.1, 0.3, n), np.log([3.0, 2.0]),
        np.array([0.4, 0.2]), np.array([1.0, 2.0]), 0.0,
    )  # fmt: skip
    return Kernel(form, kernels, kernels.memory(n, 2, 0), u)


@pytest.mark.parametrize("stiff", [False, True])
def test_both_methods_converge_at_order_five(kernel: Kernel, stiff: bool) -> None:
    exact = solve_ivp(kernel.rates, (0.0, 1.0), kernel.u, "DOP853", rtol=1e-13, atol=1e-14).y[:, -1]
    errors = np.array([np.abs(kernel.stepped(m, stiff=stiff) - exact).max() for m in (20, 40, 80)])
    orders = np.log2(errors[:-1] / errors[1:])
    assert ((orders > 4.7) & (orders < 6.3)).all()


def test_the_exponential_is_exact_to_rounding() -> None:
    from evodyn.solvers.vectors import exponential

    points = np.concatenate((np.linspace(-708.0, 700.0, 20_011), np.linspace(-1e-3, 1e-3, 1001)))
    values = np.array([exponential(x) for x in points])
    np.testing.assert_allclose(values, np.exp(points), rtol=5e-16)
    assert exponential(-np.inf) == 0 and exponential(-709.0) == 0 and np.isnan(exponential(np.nan))


def test_errors_follow_the_tolerance() -> None:
    reference = ed.solve(REPLICATOR, LANDSCAPES["sum"], P0, (0.0, 6.0), solver=UNCOMPILED).log_masses
    for tolerance in (1e-5, 1e-7, 1e-9):
        solver = ed.Solver(rtol=tolerance, atol=0.0, compiled=True)
        run = ed.solve(REPLICATOR, LANDSCAPES["sum"], P0, (0.0, 6.0), solver=solver)
        error = np.abs(run.log_masses - reference).max()
        assert 1e-3 * tolerance < error < 5 * tolerance


@pytest.mark.parametrize("n", [3, 10, 40])
def test_the_same_problem_has_the_same_bits_wherever_memory_lies(n: int) -> None:
    # Arrays that happened to lie near one another were once summed in another order.
    rng, kept = np.random.default_rng(0), []
    landscape = landscapes.LinearDecay(rng.normal(size=n), 1.0)
    found = set()
    for _ in range(150):
        kept.append([np.empty(size) for size in rng.integers(1, 3000, 8)][::3])
        run = ed.solve(
            ed.SelectionMutation(0.01, target=1.0), landscape, np.ones(n), (0.0, 9.0), solver=COMPILED
        )
        found.add(run.native.tobytes())
    assert len(found) == 1


def test_stiffness_is_seen_in_the_steps() -> None:
    landscape = landscapes.LinearDecay(C, 1e4)
    run = ed.solve(REPLICATOR, landscape, P0, (0.0, 1e6), save_at=[1e6], solver=COMPILED)
    assert run.stats.method == "Tsit5 and Rodas5P" and run.stats.steps < 500
    level = (C.sum() - 1e4 * P0.sum()) / N
    np.testing.assert_allclose(run.masses[-1], (C - level) / 1e4, rtol=1e-9)
    gentle = ed.solve(REPLICATOR, LANDSCAPES["decay"], P0, (0.0, 2.0), solver=COMPILED)
    assert gentle.stats.method == "Tsit5"


@pytest.mark.parametrize(
    ("n", "method"),
    [(7, "Taylor and Rodas5P"), (20, "Tsit5 and Rodas5P"), (301, "LSODA")],
)
def test_stiff_interactions(n: int, method: str) -> None:
    # Implicit steps with a dense matrix, which SciPy is left with where there are many groups.
    rng = np.random.default_rng(n)
    landscape = landscapes.Redundancy(rng.uniform(1.0, 1.1, n), np.eye(n) + 0.2, 1e4)
    p0 = rng.uniform(0.2, 2.0, n)
    run = ed.solve(REPLICATOR, landscape, p0, (0.0, 100.0), save_at=[100.0], solver=COMPILED)
    assert run.stats.method == method and run.stats.steps < 500
    point = ed.equilibrium(REPLICATOR, landscape, total_mass=p0.sum())
    np.testing.assert_allclose(run.masses[-1], point.masses, rtol=1e-7)


@pytest.mark.parametrize("extinction", [None, ed.Extinction(1e-9)])
def test_a_game_that_comes_to_rest_is_crossed_in_long_steps(extinction: ed.Extinction | None) -> None:
    # It spirals into the middle: explicit steps were held back by stability, and LSODA had to go on.
    game = landscapes.MatrixGame([[0.0, -1.0, 2.0], [2.0, 0.0, -1.0], [-1.0, 2.0, 0.0]])
    how: dict[str, Any] = {"extinction": extinction, "solver": COMPILED}
    runs = [ed.solve(REPLICATOR, game, [0.5, 0.3, 0.2], (0.0, end), **how) for end in (1e3, 1e6)]
    assert runs[1].stats.steps < runs[0].stats.steps + 20 < 600
    assert runs[1].stats.method == ("Taylor and Rodas5P" if extinction is None else "Tsit5 and Rodas5P")
    np.testing.assert_allclose(runs[1].masses[-1], 1 / 3, rtol=1e-14)


def test_implicit_steps_know_interactions_of_blocks_whose_totals_change() -> None:
    landscape = landscapes.Redundancy(C, np.eye(N) + 0.2, 1e3)
    run, reference = (
        ed.solve(DYNAMICS["blocks"], landscape, P0, (0.0, 30.0), solver=solver)
        for solver in (COMPILED, ed.Solver(method="LSODA", rtol=1e-11, atol=1e-12))
    )
    assert run.stats.method == "Tsit5 and Rodas5P" and run.stats.steps < 300
    np.testing.assert_allclose(run.log_masses, reference.log_masses, atol=5e-8)


@pytest.mark.parametrize("temperature", [0.0, 0.1])
def test_the_errors_of_series_follow_the_tolerance(temperature: float) -> None:
    # A game, with terms of every kind that few groups may have beside it.
    landscape = LANDSCAPES["game"] + landscapes.LinearDecay(C, 0.2) + landscapes.Entropic(C, temperature)
    reference = ed.solve(REPLICATOR, landscape, P0, (0.0, 6.0), solver=UNCOMPILED).log_masses
    for tolerance in (1e-4, 1e-6, 1e-8):
        solver = ed.Solver(rtol=tolerance, atol=0.0, compiled=True)
        run = ed.solve(REPLICATOR, landscape, P0, (0.0, 6.0), solver=solver)
        assert run.stats.method == "Taylor"
        error = np.abs(run.log_masses - reference).max()
        assert 1e-4 * tolerance < error < 5 * tolerance


def test_groups_far_below_all_others_do_not_hold_the_steps_back() -> None:
    # Their logarithms fall to -1e10, known to 1e-6 at best.
    run = ed.solve(
        REPLICATOR, landscapes.LinearDecay([1e10, 0.0], 1e9), [1.0, 1.0], (0.0, 1.0), save_at=[1.0],
        solver=COMPILED,
    )  # fmt: skip
    assert run.stats.steps < 1000
    np.testing.assert_allclose(run.log_masses[-1, 1], -8e9, rtol=1e-8)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Own(landscapes.Landscape):
    """A landscape of a user's that states its kernel."""

    autonomous = True
    slope: float

    def __call__(self, t: float, masses: Any) -> Any:
        return np.arange(masses.shape[-1]) - self.slope * masses

    def kernel(self, t: float, n: int) -> NormalForm:
        return NormalForm(np.arange(n, dtype=float), decay=self.slope)


def test_a_landscape_of_a_users_own_may_have_a_kernel() -> None:
    run, reference = both(REPLICATOR, Own(0.5), P0)
    assert run.stats.method.startswith("Tsit5")
    np.testing.assert_allclose(run.log_masses, reference.log_masses, atol=1e-7)
    # A sum with what has none has none, and neither has a subclass with another fitness.
    plain: Callable[..., Any] = lambda t, masses: 0.1 * masses  # noqa: E731
    assert (Own(0.5) + plain).kernel(0.0, N) is None

    class Other(Own):
        def __call__(self, t: float, masses: Any) -> Any:
            return 0.0 * masses

    assert Other(0.5).kernel(0.0, N) is None


def test_a_kernel_for_other_groups_is_refused() -> None:
    class Short(Own):
        def kernel(self, t: float, n: int) -> NormalForm:
            return NormalForm(np.zeros(2))

    with pytest.raises(
        ValueError, match=r"kernel of Short has contributions of shape \(2,\); expected \(7,\)"
    ):
        ed.solve(REPLICATOR, Short(0.5), P0, (0.0, 1.0), solver=COMPILED)


def test_a_kernel_that_is_not_finite_ends_the_run() -> None:
    class Broken(Own):
        def __call__(self, t: float, masses: Any) -> Any:
            return np.where(t > 0, np.nan, 0.0) + 0.0 * masses

        def kernel(self, t: float, n: int) -> NormalForm:
            return NormalForm(np.full(n, np.nan))

    run = ed.solve(REPLICATOR, Broken(0.0), P0, (0.0, 1.0), solver=COMPILED, throw=False)
    assert run.termination in (ed.Termination.FITNESS_NOT_FINITE, ed.Termination.SOLVER_FAILED)


def test_step_limits_hold_and_what_was_computed_is_kept() -> None:
    solver = ed.Solver(max_steps=10, compiled=True)
    run = ed.solve(REPLICATOR, LANDSCAPES["decay"], P0, (0.0, 6.0), solver=solver, throw=False)
    whole = ed.solve(REPLICATOR, LANDSCAPES["decay"], P0, (0.0, 6.0), solver=COMPILED)
    assert run.termination is ed.Termination.STEP_LIMIT and run.stats.steps == 10
    assert 0 < len(run.t) - 1 < len(whole.t)
    np.testing.assert_allclose(run.log_masses[:-1], whole.log_masses[: len(run.t) - 1], atol=1e-12)


def test_auto_compiles_only_what_lies_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    def name(solver: ed.Solver) -> str:
        return ed.solve(REPLICATOR, LANDSCAPES["decay"], P0, (0.0, 1.0), solver=solver).stats.method

    monkeypatch.setattr(method, "ready", lambda: False)
    assert name(ed.Solver()) == "DOP853" and name(COMPILED) == "Tsit5"
    monkeypatch.setattr(method, "ready", lambda: True)
    assert name(ed.Solver()) == "Tsit5" and name(ed.Solver(compiled=False)) == "DOP853"
    with pytest.raises(ValueError, match="compiled is 1"):
        ed.Solver(compiled=1)  # type: ignore[arg-type]


def test_kernels_are_compiled_in_a_process_of_their_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A process that used what it compiled itself had other last digits than those that loaded it.
    kept = compilation.folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    compilation.folder.cache_clear()
    asked: list[dict[str, str]] = []

    def process(command: list[str], *, check: bool, env: dict[str, str]) -> None:
        asked.append(env)
        there = Path(env["XDG_CACHE_HOME"], "evodyn", kept.name)
        there.mkdir(parents=True)
        (there / "kernel").write_text("compiled")

    monkeypatch.setattr(subprocess, "run", process)
    try:
        assert compilation.folder() == tmp_path / "evodyn" / kept.name and not compilation.ready()
        assert compilation.Kept.from_function(process, __file__) is None
        compilation.prepare()
        assert compilation.ready() and (compilation.folder() / "kernel").read_text() == "compiled"
        assert len(asked) == 1 and os.listdir(tmp_path / "evodyn") == [kept.name]
        compilation.prepare()  # as a process does that began before the first had ended
        assert os.listdir(tmp_path / "evodyn") == [kept.name]
    finally:
        compilation.folder.cache_clear()


OPTIONS: list[dict[str, Any]] = [{}, {"save_at": [1.0], "extinction": ed.Extinction(0.1, policy="absorb")}]


def test_kernels_that_were_imported_too_early_are_imported_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("vectors", "kernels", "members"):
        monkeypatch.setitem(sys.modules, f"evodyn.solvers.{name}", object())
    monkeypatch.setattr(compilation, "folder", lambda: tmp_path / "kept")
    assert not compilation.ready() and "evodyn.solvers.members" in sys.modules
    (tmp_path / "kept").mkdir()
    assert compilation.ready() and "evodyn.solvers.members" not in sys.modules
    assert "evodyn.solvers.compilation" in sys.modules


def test_what_runs_here_was_loaded_whatever_it_was_called_with() -> None:
    runs = [
        ed.solve(REPLICATOR, landscape, P0, (0.0, 2.0), solver=COMPILED, **options)
        for landscape in LANDSCAPES.values()
        for options in OPTIONS
    ]
    assert {run.termination for run in runs} <= {ed.Termination.COMPLETED}
    travel = importlib.import_module("evodyn.solvers.members").travel_all  # which needs numba
    assert sum(travel.stats.cache_misses.values()) == 0 < sum(travel.stats.cache_hits.values())


def test_what_needs_numba_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(ImportError, match="fast"):
        ed.solve(REPLICATOR, LANDSCAPES["decay"], P0, (0.0, 1.0), solver=COMPILED)


def test_an_extended_run_is_the_longer_one() -> None:
    half = ed.solve(REPLICATOR, LANDSCAPES["sum"], P0, (0.0, 3.0), save_at=[3.0], solver=COMPILED)
    whole = ed.solve(REPLICATOR, LANDSCAPES["sum"], P0, (0.0, 6.0), save_at=[6.0], solver=COMPILED)
    extended = ed.extend(half, 6.0, save_at=[6.0])
    np.testing.assert_allclose(extended.log_masses[-1], whole.log_masses[-1], atol=1e-7)
