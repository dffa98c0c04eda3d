"""The explicit pairs that turn to Rodas5P, in NumPy: orders, interpolants, and when they turn."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import evodyn as ed
from evodyn.core.arrays import FloatArray
from evodyn.model.structure import DiagonalPlusLowRank
from evodyn.simulate.flow import Flow, State
from evodyn.simulate.jacobian import Slopes
from evodyn.solvers.pairs import DOP853, TSIT5, Pair
from evodyn.solvers.protocol import RightHandSide, System
from evodyn.solvers.switching import Switching

RATE = 1.3
BEHIND = np.array([2.0, 0.5])


def velocity(t: float, y: FloatArray) -> FloatArray:
    """Logistic growth in logarithms, and what it drives: neither linear nor autonomous."""
    slopes: FloatArray = RATE * (1.0 - np.exp(y)) + np.sin(t) * BEHIND
    return slopes


def structure(t: float, y: FloatArray) -> DiagonalPlusLowRank:
    """The Jacobian, which is diagonal."""
    return DiagonalPlusLowRank.diagonal_only(-RATE * np.exp(y))


START, END = np.array([-1.5, 0.4]), 2.0


def steps(pair: Pair, n: int, tolerance: float = 1e6, *, stiff: bool = False, rhs: Any = velocity) -> Any:
    """Return the stepper, and interpolants, after steps of equal length."""
    system = System(
        RightHandSide(rhs, 10_000, rejects_nan=True),
        np.full(2, tolerance),
        np.zeros(2),
        END / n,
        None,
        False,
        structure=structure,
    )
    stepper = Switching(pair, stiff=stiff).start(system, 0.0, START, END, first=END / n)
    pieces = []
    while stepper.status == "running":
        # By itself it would leave the implicit method, where nothing is stiff.
        stepper.method, stepper.stiff, stepper._length = Switching(pair, stiff=stiff), stiff, 0.0
        stepper.step()
        pieces.append(stepper.interpolant())
    return stepper, pieces


def orders(errors: FloatArray) -> FloatArray:
    """Return the order measured between each step size and its half."""
    out: FloatArray = np.log2(errors[:-1] / errors[1:])
    return out


@functools.cache
def exact(t: float) -> FloatArray:
    found: FloatArray = solve_ivp(velocity, (0.0, t), START, "DOP853", rtol=2.3e-14, atol=1e-14).y[:, -1]
    return found


CASES = [(TSIT5, False, 5, [8, 16, 32]), (DOP853, False, 8, [2, 4]), (TSIT5, True, 5, [8, 16, 32])]


@pytest.mark.parametrize(("pair", "stiff", "order", "counts"), CASES, ids=["Tsit5", "DOP853", "Rodas5P"])
def test_steps_have_their_order_and_what_lies_within_them_hardly_less(
    pair: Pair, stiff: bool, order: int, counts: list[int]
) -> None:
    runs = [steps(pair, n, stiff=stiff) for n in counts]
    assert {run.name for run, _ in runs} == {"Rodas5P" if stiff else pair.name}
    errors = np.array([np.abs(run.y - exact(END)).max() for run, _ in runs])
    # More than its own where leading terms cancel.
    assert (orders(errors) > order - 0.5).all() and errors[0] > 1e-9
    inside = [
        np.abs(pieces[n // 2](np.array([t := END * (n // 2 + 0.4) / n]))[0] - exact(t)).max()
        for n, (_, pieces) in zip(counts, runs, strict=True)
    ]
    assert (orders(np.array(inside)) > order - 1.6).all()
    ends = runs[0][1][-1](np.array([END]))
    np.testing.assert_allclose(ends, runs[0][0].y[None], rtol=1e-13)


def test_the_error_is_of_the_size_of_the_tolerance() -> None:
    for pair in (TSIT5, DOP853):
        system = System(
            RightHandSide(velocity, 10_000, rejects_nan=True),
            np.full(2, 1e-8), np.zeros(2), math.inf, None, False,
        )  # fmt: skip
        stepper = Switching(pair).start(system, 0.0, START, END)
        while stepper.status == "running":
            stepper.step()
        assert 1e-14 < np.abs(stepper.y - exact(END)).max() < 3e-8


def flow(dynamics: ed.Dynamics, landscape: Any, p0: FloatArray) -> Flow:
    n = len(p0)
    inflow = dynamics.steady_inflow(n)
    assert inflow is not None
    return Flow.begin(
        dynamics, landscape, State(0.0, np.log(p0), np.zeros(n, dtype=bool)), floor=np.zeros(n),
        inflow=inflow > 0, last_time=9.0, capped=(False,) * len(dynamics.blocks(n)),
    )  # fmt: skip


N = 24
C, P0 = np.random.default_rng(1).normal(size=N), np.random.default_rng(2).uniform(0.5, 2.0, N)


@pytest.mark.parametrize("stated", [True, False])
@pytest.mark.parametrize(
    "dynamics",
    [
        ed.Replicator(),
        ed.SelectionMutation(0.3, target=0.7),
        ed.Populations((ed.Replicator(), ed.SelectionMutation(0.2)), sizes=(10, 14)),
    ],
    ids=["replicator", "mutation", "blocks"],
)
def test_the_jacobian_is_that_of_differences(dynamics: ed.Dynamics, stated: bool) -> None:
    both = ed.landscapes.LinearDecay(C, 0.7) + ed.landscapes.Entropic(C, 0.4)
    case = flow(dynamics, both if stated else (lambda t, p: both(t, p)), P0)
    y, width, slopes = case.initial + 0.1, 1e-6, Slopes(case)
    found = slopes.stated_or_measured(0.5, y)
    assert found is not None and (slopes.stated(0.5, y) is None) == (not stated)
    moved = [
        (case.velocity(0.5, y + width * e) - case.velocity(0.5, y - width * e)) / (2 * width)
        for e in np.eye(N)
    ]
    np.testing.assert_allclose(found.to_dense(), np.transpose(moved), atol=1e-6)
    np.testing.assert_allclose(case.fastest_velocity(0.5, y), case.velocity(0.5, y), rtol=1e-12, atol=1e-12)


def test_a_plain_function_turns_stiff_and_asks_little() -> None:
    # Competition that sets in for a while makes it stiff.
    def landscape(t: float, masses: FloatArray) -> FloatArray:
        return 0.1 * C - 300.0 * math.exp(-(((t - 10.0) / 4.0) ** 2)) * masses

    span = 0.0, 40.0
    run = ed.solve(ed.Replicator(), landscape, P0, span)
    assert run.stats.method == "DOP853 and Rodas5P" and "stiff from t =" in run.stats.reason
    close = ed.solve(ed.Replicator(), landscape, P0, span, solver=ed.Solver("DOP853", rtol=1e-10))
    np.testing.assert_allclose(run.log_masses, close.log_masses, atol=1e-6)
    assert run.stats.evaluations < close.stats.evaluations / 2


def test_what_groups_do_to_each_other_is_no_diagonal_and_is_left_to_another_method() -> None:
    A = -30.0 * (np.eye(N) + np.random.default_rng(3).uniform(0.0, 0.5, (N, N)))
    run = ed.solve(ed.Replicator(), lambda t, p: C + A @ p, P0, (0.0, 400.0), save_at=[400.0])
    assert run.stats.method == "LSODA" and "held back by stability" in run.stats.reason
    stated = ed.solve(
        ed.Replicator(), lambda t, p: C + A @ p, P0, (0.0, 400.0), save_at=[400.0],
        solver=ed.Solver("Radau", rtol=1e-9),
    )  # fmt: skip
    np.testing.assert_allclose(run.masses, stated.masses, atol=1e-6)


def test_a_season_is_no_change_that_was_overlooked() -> None:
    swing = ed.landscapes.Seasonal(C, np.full(N, 0.5), 10.0, np.linspace(0.0, 6.0, N))
    run = ed.solve(ed.Replicator(), lambda t, p: swing(t, p), P0, (0.0, 50.0), solver=ed.Solver(rtol=1e-5))
    assert run.stats.restarts == 0 and run.stats.steps < 40
    same = ed.solve(ed.Replicator(), swing, P0, (0.0, 50.0), solver=ed.Solver("DOP853", rtol=1e-10))
    np.testing.assert_allclose(run.log_masses, same.log_masses, atol=1e-5)
