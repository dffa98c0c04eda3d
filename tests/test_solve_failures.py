"""What `solve` and `iterate` refuse at the entry, and what they keep when a run cannot be finished."""

from __future__ import annotations

import re
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import evodyn
from evodyn import landscapes
from evodyn.core.arrays import Array
from tests.test_solve import EVERY, METHODS

# What is wrong on purpose is not for the type checker.
ed: Any = evodyn
L: Any = landscapes
NAN, INF = float("nan"), float("inf")
R = ed.Replicator()
CONSTANT = L.Constant([1.0, 0.0, 0.5])
DENSITY = L.LinearDecay([1.0, 0.0, 0.5], 0.1)
ONES = np.ones(3)

by_every_method = pytest.mark.parametrize("method", EVERY)
by_method = pytest.mark.parametrize("method", METHODS)


def solve(**changes: Any) -> Any:
    arguments: dict[str, Any] = {"dynamics": R, "landscape": DENSITY, "p0": ONES, "t_span": (0.0, 5.0)}
    return ed.solve(**arguments | changes)


def iterate(**changes: Any) -> Any:
    arguments: dict[str, Any] = {
        "dynamics": R,
        "landscape": DENSITY,
        "p0": ONES,
        "n_steps": 10,
        "step_size": 0.1,
    }
    return ed.iterate(**arguments | changes)


# Rules that both entries share: what changes, and what the message must say.
SHARED: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"dynamics": None}, ("dynamics is None", "expected an evodyn dynamics")),
    ({"dynamics": "replicator"}, ("dynamics is 'replicator'", "expected an evodyn dynamics")),
    ({"dynamics": ed.Replicator}, ("dynamics is", "expected an evodyn dynamics")),
    ({"landscape": None}, ("landscape is None", "expected a callable")),
    ({"landscape": [1.0, 0.0, 0.5]}, ("landscape is [1.0, 0.0, 0.5]", "expected a callable")),
    ({"p0": [1.0, NAN, 1.0]}, ("p0 is nan at index 1", "finite")),
    ({"p0": [1.0, INF, 1.0]}, ("p0 is inf at index 1", "finite")),
    ({"p0": [1.0, -1e-300, 1.0]}, ("p0 is -1e-300 at index 1", ">= 0")),
    ({"p0": [0.0, 0.0, 0.0]}, ("p0 has zero total mass", "at least one positive mass")),
    ({"p0": [1e308, 1e308, 1e308]}, ("p0 has a total mass that overflows", "finite")),
    ({"p0": []}, ("p0", "at least one group")),
    ({"p0": 1.0}, ("p0 has shape ()", "1 dimension")),
    ({"p0": np.ones((2, 3))}, ("p0 has shape (2, 3)", "1 dimension")),
    ({"p0": None}, ("p0",)),
    ({"p0": "abc"}, ("p0 cannot be read", "real numbers")),
    ({"p0": [1j, 1.0, 1.0]}, ("p0 cannot be read", "real numbers")),
    ({"p0": np.array([1j, 1.0, 1.0])}, ("p0 cannot be read", "real numbers")),
    ({"p0": ["1", "2", "3"]}, ("p0 cannot be read", "real numbers")),
    ({"p0": [[1.0], [1.0, 2.0]]}, ("p0 cannot be read", "real numbers")),
    ({"p0": np.ones(4)}, ("landscape is made for 3 groups", "p0 has 4")),
    ({"p0": [1.0]}, ("landscape is made for 3 groups", "p0 has 1")),
    ({"landscape": CONSTANT + L.LinearDecay(1.0, 0.1), "p0": np.ones(2)}, ("3 groups", "p0 has 2")),
    ({"landscape": L.Constant([1.0])}, ("landscape is made for 1 groups", "p0 has 3")),
    ({"landscape": L.Constant(np.ones((2, 3)))}, ("landscape returned shape (2, 3)", "(3,)")),
    ({"landscape": lambda t, m: np.ones(2)}, ("landscape returned shape (2,)", "(3,)")),
    ({"landscape": lambda t, m: 1.0}, ("landscape returned shape ()", "(3,)")),
    ({"landscape": lambda t, m: None}, ("landscape returned", "t = 0")),
    ({"landscape": lambda t, m: "fit"}, ("landscape returned 'fit'", "array of numbers")),
    ({"landscape": lambda t, m: m * 1j}, ("landscape returned", "numbers")),
    ({"landscape": lambda t, m: np.array([1.0, NAN, 0.0])}, ("fitness nan for group 1", "t = 0", "finite")),
    ({"landscape": lambda t, m: np.array([1.0, 0.0, -INF])}, ("fitness -inf for group 2", "finite")),
    ({"dynamics": ed.Populations(R, (2, 2))}, ("sizes (2, 2) sum to 4", "expected 3")),
    ({"dynamics": ed.Populations(R, (2, 1)), "p0": [1.0, 1.0, 0.0]}, ("zero total mass in block 1",)),
    ({"dynamics": ed.SelectionMutation(0.1, [1.0, 2.0])}, ("target has 2 entries", "3 groups")),
    ({"dynamics": ed.SelectionMutation(0.1, [1.0])}, ("target has 1 entries", "3 groups")),
    ({"dynamics": ed.SelectionMutation(lambda t: -1.0)}, ("mutation_rate(0) is -1.0", ">= 0")),
    ({"dynamics": ed.SelectionMutation(lambda t: NAN)}, ("mutation_rate(0) is NaN", "real number")),
    ({"dynamics": ed.Selection(lambda p, f: np.ones(2))}, ("(2,)", "3")),
    ({"extinction": 1e-3}, ("extinction is 0.001", "Extinction")),
    ({"extinction": "observe"}, ("extinction is 'observe'", "Extinction")),
]
SOLVE: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"t_span": 5.0}, ("t_span is 5.0", "pair")),
    ({"t_span": (0.0, 1.0, 2.0)}, ("t_span is (0.0, 1.0, 2.0)", "pair")),
    ({"t_span": None}, ("t_span is None", "pair")),
    ({"t_span": (0.0, 0.0)}, ("t_span is (0.0, 0.0)", "end after the start")),
    ({"t_span": (5.0, 0.0)}, ("t_span is (5.0, 0.0)", "end after the start")),
    ({"t_span": (0.0, INF)}, ("t_span[1] is inf", "finite")),
    ({"t_span": (NAN, 1.0)}, ("t_span[0] is NaN", "real number")),
    ({"t_span": ("a", 1.0)}, ("t_span[0] is 'a'", "real number")),
    ({"save_at": []}, ("save_at is empty", "at least one")),
    ({"save_at": [0.0, 6.0]}, ("save_at contains", "6.0", "t_span = (0.0, 5.0)")),
    ({"save_at": [-1e-9, 1.0]}, ("save_at contains", "-1e-09", "t_span = (0.0, 5.0)")),
    ({"save_at": [0.0, 2.0, 1.0]}, ("save_at is", "2.0", "1.0", "index 2", "increasing")),
    ({"save_at": [1.0, 1.0]}, ("save_at is", "index 1", "increasing")),
    ({"save_at": [0.0, NAN]}, ("save_at is nan at index 1", "finite")),
    ({"save_at": [[0.0, 1.0]]}, ("save_at has shape (1, 2)", "1 dimension")),
    ({"save_at": 3.0}, ("save_at has shape ()", "1 dimension")),
    ({"save_at": "all"}, ("save_at cannot be read", "real numbers")),
    ({"solver": "RK45"}, ("solver is 'RK45'", "Solver")),
    ({"dynamics": ed.NormalizedGrowth(2.9)}, ("total mass 3.0", "mass_cap = 2.9", "raise the cap")),
    ({"dynamics": ed.NormalizedGrowth(2.9, 0.1)}, ("total mass 3.0", "mass_cap = 2.9")),
    (
        {"dynamics": ed.Populations((R, ed.NormalizedGrowth(0.5)), (2, 1))},
        ("total mass 1.0 in block 1", "mass_cap = 0.5"),
    ),
    (
        {"solver": ed.Solver(method="closed_form")},
        ("method is 'closed_form'", "there is none", "use method='auto'"),
    ),
    ({"landscape": L.Recorded([1.0, 2.0, 9.0], np.ones((2, 3)))}, ("t is 0.0", "[1, 9]")),
]
ITERATE: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"n_steps": 0}, ("n_steps is 0", "whole number >= 1")),
    ({"n_steps": -3}, ("n_steps is -3", "whole number >= 1")),
    ({"n_steps": 2.0}, ("n_steps is 2.0", "whole number >= 1")),
    ({"step_size": 0.0}, ("step_size is 0.0", "> 0")),
    ({"step_size": -0.1}, ("step_size is -0.1", "> 0")),
    ({"step_size": INF}, ("step_size is inf", "finite")),
    ({"step_size": NAN}, ("step_size is NaN", "real number")),
    ({"step_size": None}, ("step_size is None", "real number")),
    ({"save_every": 0}, ("save_every is 0", "whole number >= 1")),
    ({"save_every": 1.5}, ("save_every is 1.5", "whole number >= 1")),
    ({"scheme": "heun"}, ("scheme is 'heun'", "expected one of 'euler', 'exponential'")),
    ({"t_start": INF}, ("t_start is inf", "finite")),
    ({"landscape": L.Recorded([1.0, 2.0, 9.0], np.ones((2, 3)))}, ("t is 0.0", "[1, 9]")),
]


def rows(t: float, masses: Array) -> Array:
    return [[1.0]][5]


CALLS: list[tuple[Callable[[], object], tuple[str, ...]]] = [
    (
        lambda: solve(landscape=L.Constant),
        ("landscape raised TypeError at t = 0", "expected the fitness of 3"),
    ),
    (lambda: iterate(landscape=lambda masses: masses), ("landscape raised TypeError", "expected")),
    (lambda: solve(landscape=rows), ("landscape raised IndexError at t = 0 (list index", "expected")),
    (lambda: solve(save_at=[0.5, 0.5]), ("save_at is 0.5 then 0.5 at index 1", "increasing")),
    (lambda: solve(save_at=[1e9]), ("save_at contains 1000000000.0", "within t_span")),
    (lambda: ed.extend("run.nc", 9.0), ("run is str", "expected a Run")),
    (lambda: ed.solve_ensemble(R, CONSTANT, [1j, 1, 1], (0, 1), members=2), ("p0 cannot be read", "complex")),
    (lambda: ed.solve_ensemble(R, CONSTANT, "ab", (0, 1), members=2), ("p0 cannot be read", "no numbers")),
    (lambda: ed.solve_ensemble(R, CONSTANT, [[1, 1, 1], [1, 1]], (0, 1)), ("p0 cannot be read", "shape")),
    (lambda: ed.solve_ensemble(R, CONSTANT, [[1, 1, 1], [1, -1, 1]], (0, 1)), ("p0 is -1.0", "(1, 1)")),
]
SETTINGS: list[tuple[Callable[[], object], tuple[str, ...]]] = [
    (lambda: ed.Solver(method="euler"), ("method is 'euler'", "expected one of 'auto', 'closed_form'")),
    (lambda: ed.Solver(method=None), ("method is None", "expected one of")),
    (lambda: ed.Solver(method="rk45"), ("method is 'rk45'", "expected one of")),
    (lambda: ed.Solver(rtol=-1e-8), ("rtol is -1e-08", ">= 0")),
    (lambda: ed.Solver(rtol=NAN), ("rtol is NaN", "real number")),
    (lambda: ed.Solver(atol=INF), ("atol is inf", "finite")),
    (lambda: ed.Solver(atol="tight"), ("atol is 'tight'", "real number")),
    (lambda: ed.Solver(rtol=0.0, atol=0.0), ("rtol + atol is 0", "expected between")),
    (lambda: ed.Solver(rtol=2.0), ("rtol + atol is 2", "expected between")),
    (lambda: ed.Solver(rtol=1e-16, atol=0.0), ("rtol + atol is 1e-16", "expected between")),
    (lambda: ed.Solver(max_step=0.0), ("max_step is 0.0", "> 0")),
    (lambda: ed.Solver(max_step=-1.0), ("max_step is -1.0", "> 0")),
    (lambda: ed.Solver(max_step=NAN), ("max_step is NaN", "real number")),
    (lambda: ed.Solver(max_steps=0), ("max_steps is 0", "whole number >= 1")),
    (lambda: ed.Solver(max_steps=1e5), ("max_steps is 100000.0", "whole number >= 1")),
    (lambda: ed.Extinction(0.0), ("threshold is 0.0", "> 0")),
    (lambda: ed.Extinction(-1e-3), ("threshold is -0.001", "> 0")),
    (lambda: ed.Extinction(INF), ("threshold is inf", "finite")),
    (lambda: ed.Extinction(NAN), ("threshold is NaN", "real number")),
    (lambda: ed.Extinction("small"), ("threshold is 'small'", "real number")),
    (
        lambda: ed.Extinction(1e-3, "kill"),
        ("policy is 'kill'", "expected one of 'observe', 'absorb', 'stop'"),
    ),
    (lambda: ed.Extinction(1e-3, None), ("policy is None", "expected one of")),
]
RULES = [
    *(
        (f"{name} {said[0]}", (lambda c=change, f=call: f(**c)), said)
        for name, call in (("solve", solve), ("iterate", iterate))
        for change, said in SHARED
    ),
    *((f"solve {said[0]}", (lambda c=change: solve(**c)), said) for change, said in SOLVE),
    *((f"iterate {said[0]}", (lambda c=change: iterate(**c)), said) for change, said in ITERATE),
    *((said[0], call, said) for call, said in (*CALLS, *SETTINGS)),
]


@pytest.mark.parametrize(("call", "said"), [rule[1:] for rule in RULES], ids=[rule[0] for rule in RULES])
def test_the_message_names_argument_value_and_expectation(
    call: Callable[[], object], said: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=re.escape(said[0])) as caught:
        call()
    message = str(caught.value)
    for part in said:
        assert part in message
    assert message.endswith(".") and "\n" not in message and len(message) < 400


@pytest.mark.parametrize("call", [solve, iterate])
def test_a_landscape_that_raises_at_the_start_is_heard(call: Callable[..., Any]) -> None:
    # With its own traceback behind: nothing has been computed that could be kept.
    def broken(t: float, masses: Array) -> Array:
        raise KeyError("no such file")

    with pytest.raises(ValueError, match=r"landscape raised KeyError .*no such file") as caught:
        call(landscape=broken)
    lines = "".join(traceback.format_exception(caught.value))
    assert "in broken" in lines


def test_absent_groups_may_have_any_fitness() -> None:
    def wild(t: float, masses: Array) -> Array:
        return np.where(masses > 0, -0.1 * masses, [NAN, INF, -INF])

    for p0 in ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0]):
        assert solve(landscape=wild, p0=p0).succeeded and iterate(landscape=wild, p0=p0).succeeded


def test_memory_is_checked_before_running() -> None:
    # Far beyond any machine, and refused at once.
    with pytest.raises(MemoryError, match=r"saving .* times of 3 groups .* needs about .* GiB"):
        iterate(n_steps=10**15)
    assert iterate(n_steps=10, save_every=10).succeeded


def test_rounding_above_the_cap_is_no_error() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        p0 = rng.lognormal(size=100)
        cap = float(np.sum(p0[::-1]))  # the same sum in another order
        run = solve(
            dynamics=ed.NormalizedGrowth(cap, 0.1),
            landscape=L.LinearDecay(np.linspace(0, 1, 100), 0.1),
            p0=p0,
            t_span=(0.0, 0.5),
        )
        assert run.succeeded


# Failing later


def stops_being_finite(t: float, masses: Array) -> Array:
    fitness = np.array([1.0, 0.0, 0.5]) - 0.1 * masses
    return np.where((t > 3) & (np.arange(3) == 1), NAN, fitness)


def raises(t: float, masses: Array) -> Array:
    if t > 3:
        raise KeyError("no such epoch")
    fitness: Array = np.array([1.0, 0.0, 0.5]) - 0.1 * masses
    return fitness


def changes_shape(t: float, masses: Array) -> Array:
    fitness: Array = np.array([1.0, 0.0, 0.5]) - 0.1 * masses
    return fitness if t <= 3 else fitness[:2]


def returns_nothing(t: float, masses: Array) -> Any:
    return np.array([1.0, 0.0, 0.5]) - 0.1 * masses if t <= 3 else None


FAILURES = {
    stops_being_finite: evodyn.Termination.FITNESS_NOT_FINITE,
    raises: evodyn.Termination.SOLVER_FAILED,
    changes_shape: evodyn.Termination.SOLVER_FAILED,
    returns_nothing: evodyn.Termination.SOLVER_FAILED,
}


@by_every_method
@pytest.mark.parametrize("landscape", FAILURES, ids=lambda landscape: landscape.__name__)
def test_a_later_failure_keeps_what_there_is(landscape: Any, method: str) -> None:
    solver = ed.Solver(method=method, rtol=1e-6)
    save_at = np.linspace(0.0, 10.0, 41)
    with pytest.raises(evodyn.SolveError) as caught:
        solve(landscape=landscape, t_span=(0.0, 10.0), save_at=save_at, solver=solver)
    error, run = caught.value, caught.value.result
    assert issubclass(evodyn.SolveError, RuntimeError)
    assert run.termination is FAILURES[landscape] and not run.succeeded
    assert run.termination.value in str(error) and len(str(error)) < 600
    # Up to where fitness was known, within one step.
    assert 2.0 < error.time <= 3.0 + 1e-6
    assert run.t_span == (0.0, error.time) and run.end_state.t == error.time
    assert run.t[-1] == error.time
    np.testing.assert_array_equal(run.t[:-1], save_at[save_at < error.time])
    reference = solve(t_span=(0.0, 3.0), save_at=run.t[run.t <= 3.0], solver=ed.Solver(rtol=1e-10))
    np.testing.assert_allclose(run.log_masses[: len(reference.t)], reference.log_masses, atol=1e-4)
    assert np.isfinite(run.mean_fitness[:-1]).all()
    if landscape is stops_being_finite:
        assert error.groups == (1,)
        assert "Groups: 1" in str(error)
    elif landscape is raises:
        assert isinstance(error.__cause__, KeyError) and "no such epoch" in str(error)
    returned = solve(landscape=landscape, t_span=(0.0, 10.0), save_at=save_at, solver=solver, throw=False)
    assert returned.same_as(run)


@by_method
def test_a_step_limit_keeps_what_there_is(method: str) -> None:
    solver = ed.Solver(method=method, max_steps=9)
    with pytest.raises(evodyn.SolveError, match="step limit") as caught:
        solve(t_span=(0.0, 500.0), solver=solver)
    run = caught.value.result
    assert run.termination is evodyn.Termination.STEP_LIMIT and run.stats.steps == 9
    assert 0 < caught.value.time == run.t[-1] < 500 and caught.value.groups == ()
    assert "max_steps" in str(caught.value)
    returned = solve(t_span=(0.0, 500.0), solver=solver, throw=False)
    assert returned.same_as(run)
    enough = solve(t_span=(0.0, 5.0), solver=ed.Solver(method=method, max_steps=2000))
    assert enough.succeeded


@by_method
def test_an_explosion_in_finite_time_is_a_failure(method: str) -> None:
    # dp/dt = p²: from 1, infinite at t = 1. No method may step over the pole.
    dynamics = ed.Selection(lambda masses, fitness: masses)
    arguments = {
        "dynamics": dynamics,
        "landscape": L.Constant([0.0, 0.0]),
        "p0": [1.0, 1.0],
        "t_span": (0.0, 2.0),
    }
    with pytest.raises(evodyn.SolveError) as caught:
        ed.solve(**arguments, solver=ed.Solver(method=method, rtol=1e-6))
    run = caught.value.result
    assert caught.value.time == pytest.approx(1.0, abs=1e-3)
    early = run.t < 0.9
    np.testing.assert_allclose(run.masses[early], 1 / (1 - run.t[early])[:, None] * [1.0, 1.0], rtol=1e-3)


@by_method
def test_growth_without_bound_is_no_failure(method: str) -> None:
    # Masses beyond 1e308 are infinite; their logarithms are not.
    dynamics = ed.Selection(lambda masses, fitness: fitness)
    run = ed.solve(
        dynamics, L.Constant([1.0, 2.0]), [1.0, 1.0], (0.0, 1000.0), solver=ed.Solver(method=method)
    )
    np.testing.assert_allclose(run.log_masses, np.outer(run.t, [1.0, 2.0]), rtol=1e-6, atol=1e-6)


@by_method
def test_every_step_has_a_limit_on_its_evaluations(method: str) -> None:
    # Fitness that is noise: no step is ever accepted at this tolerance.
    rng = np.random.default_rng(0)
    calls = []

    def noise(t: float, masses: Array) -> Array:
        calls.append(t)
        return rng.normal(size=3) * 1e3

    with pytest.raises(evodyn.SolveError):
        ed.solve(R, noise, ONES, (0.0, 10.0), solver=ed.Solver(method=method, max_steps=200))
    assert len(calls) < 1_000_000


def test_terminations_say_what_to_do() -> None:
    names = {
        "COMPLETED",
        "STOPPED_AT_EXTINCTION",
        "ALL_EXTINCT",
        "STEP_LIMIT",
        "SOLVER_FAILED",
        "FITNESS_NOT_FINITE",
    }
    assert {member.name for member in evodyn.Termination} >= names
    for member in evodyn.Termination:
        assert member.value.endswith(".") and " " in member.value


def test_the_step_limit_does_not_advise_what_was_done() -> None:
    limited = ed.Solver(method="LSODA", max_steps=3)
    with pytest.raises(ed.SolveError) as caught:
        ed.solve(
            ed.Replicator(),
            ed.landscapes.LinearDecay([1.0, 0.5], 1.0),
            [1.0, 1.0],
            (0.0, 50.0),
            solver=limited,
        )
    assert "LSODA' takes" not in str(caught.value)
    assert "max_steps" in str(caught.value)
    with pytest.raises(ed.SolveError, match="method='LSODA' takes longer steps"):
        ed.solve(
            ed.Replicator(),
            ed.landscapes.LinearDecay([1.0, 0.5], 1.0),
            [1.0, 1.0],
            (0.0, 50.0),
            solver=ed.Solver(method="RK45", max_steps=3),
        )


def test_growth_that_is_not_a_number_at_the_start_is_named() -> None:
    wrong = ed.Selection(lambda masses, fitness: np.where(masses > 1.5, np.nan, fitness))
    runs: list[Callable[[], ed.Run]] = [
        lambda: ed.solve(wrong, ed.landscapes.Constant([1.0, 0.0]), [1.0, 2.0], (0.0, 1.0)),
        lambda: ed.iterate(wrong, ed.landscapes.Constant([1.0, 0.0]), [1.0, 2.0], 3, 0.1),
    ]
    for run in runs:
        with pytest.raises(ValueError, match=r"nan for group 1.*Selection"):
            run()


@pytest.mark.parametrize("later", [np.array([[1.0, 0.0]]), np.array([1.0 + 2j, 0.0]), 1.0, "fitness"])
def test_what_a_landscape_returns_later_is_checked_as_at_the_start(later: object) -> None:
    def landscape(t: float, masses: object) -> object:
        return np.array([1.0, 0.0]) if t < 0.55 else later

    runs: list[Callable[[], ed.Run]] = [
        lambda: ed.solve(ed.Replicator(), landscape, [1.0, 1.0], (0.0, 1.0), save_at=[0.0, 0.1, 1.0]),
        lambda: ed.iterate(ed.Replicator(), landscape, [1.0, 1.0], 10, 0.1),
    ]
    for run in runs:
        with pytest.raises(ed.SolveError) as caught:
            run()
        partial = caught.value.result
        assert partial.termination is ed.Termination.SOLVER_FAILED
        assert 0.1 <= partial.t[-1] <= 0.7
        assert np.isfinite(partial.masses).all() and partial.masses.shape[1] == 2


def test_fitness_that_overflows_blames_its_own_group() -> None:
    def landscape(t: float, masses: object) -> object:
        return np.array([1.0, 1e308 if t > 0.45 else 0.5, 0.0])

    with pytest.raises(ed.SolveError) as caught:
        ed.iterate(ed.Replicator(), landscape, [100.0, 100.0, 100.0], 10, 0.1)
    assert caught.value.groups == (1,)


def test_save_times_may_miss_an_end_by_rounding() -> None:
    end = 0.1 + 0.2  # one rounding above 0.3
    run = ed.solve(
        ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 0.3), save_at=[0.1, end]
    )
    assert run.t.tolist() == [0.1, 0.3]
    start = float(np.nextafter(0.3, 0.0))
    run = ed.solve(
        ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.3, 1.0), save_at=[start, 1.0]
    )
    assert run.t.tolist() == [0.3, 1.0]
    with pytest.raises(ValueError, match="within t_span"):
        ed.solve(
            ed.Replicator(), ed.landscapes.Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 0.3), save_at=[0.1, 0.3001]
        )


def test_no_extinction_is_before_the_start() -> None:
    run = ed.solve(
        ed.Replicator(),
        ed.landscapes.Constant([1.0, 0.0]),
        [1.0, 0.1],
        (0.0, 5.0),
        extinction=ed.Extinction(0.1, policy="stop"),
    )
    assert run.t_span[1] == 0.0 == run.extinction_time[1]
    for policy in ("observe", "absorb"):
        for solver in (None, ed.Solver(method="RK45")):
            run = ed.solve(
                ed.Replicator(),
                ed.landscapes.Constant([1.0, 0.0]),
                [1.0, 0.1],
                (3.0, 5.0),
                extinction=ed.Extinction(0.1, policy=policy),
                solver=solver,
            )
            assert 3.0 <= run.extinction_time[1] < 3.0 + 1e-6


def test_memory_is_counted_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three arrays of float64 for each saved time and group."""
    needed = 3 * 8 * 50 * 4

    def machine(bytes_installed: float) -> None:
        monkeypatch.setattr("os.sysconf", lambda name: 1 if name == "SC_PAGE_SIZE" else bytes_installed)

    arguments = (ed.Replicator(), ed.landscapes.Constant(np.arange(4.0)), np.ones(4), (0.0, 1.0))
    machine(needed)
    ed.solve(*arguments, save_at=np.linspace(0.0, 1.0, 50))
    machine(needed - 1)
    with pytest.raises(MemoryError, match="save fewer times"):
        ed.solve(*arguments, save_at=np.linspace(0.0, 1.0, 50))
    with pytest.raises(MemoryError):
        ed.solve_ensemble(*arguments[:2], np.ones((2, 4)), (0.0, 1.0), save_at=np.linspace(0.0, 1.0, 25))


def test_an_extended_run_has_the_evaluations_of_both() -> None:
    landscape = ed.landscapes.LinearDecay([1.0, 0.5], 1.0)
    calls = 0

    def counted(t: float, masses: object) -> object:
        nonlocal calls
        calls += 1
        return landscape(t, masses)

    first = ed.solve(ed.Replicator(), counted, [1.0, 1.0], (0.0, 5.0), solver=ed.Solver(method="RK45"))
    longer = ed.extend(first, 10.0)
    alone = ed.solve(ed.Replicator(), counted, first.masses[-1], (5.0, 10.0), solver=ed.Solver(method="RK45"))
    assert longer.stats.evaluations > first.stats.evaluations + 0.5 * alone.stats.evaluations
    assert longer.stats.steps > first.stats.steps
    mapped = ed.iterate(ed.Replicator(), landscape, [1.0, 1.0], 10, 0.1)
    assert ed.extend(mapped, 2.0).stats.evaluations == 20
