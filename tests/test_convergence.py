"""Orders of convergence: the maps and the flow, and SciPy's methods in logarithms of masses."""

from __future__ import annotations

import numpy as np
import pytest

import evodyn as ed
from evodyn.core.arrays import FloatArray
from evodyn.model.dynamics import Scheme
from tests.problems import PROBLEMS, Problem


def orders(errors: FloatArray) -> FloatArray:
    """Return the order measured between each step size and its half."""
    out: FloatArray = np.log2(errors[:-1] / errors[1:])
    return out


NOT_FOR_MAPS = {
    # Constant solutions have no error to measure; ends far below the smallest float have no masses; the
    # exponential map is exact where fitness is constant and mass conserved up to a scalar.
    "a fitness gap of 50",
    "a face with a tiny mass that wins",
    "one group",
    "a vertex",
    "neutral",
    "entropic, from a tiny mass",
}
MAPPED = [problem for problem in PROBLEMS if problem.name not in NOT_FOR_MAPS]


def map_errors(problem: Problem, scheme: Scheme, steps: list[int]) -> FloatArray:
    """Return the largest error of the masses at the end, over the total, for each number of steps."""
    end = min(problem.t_end, 5.0)
    expected = np.exp(problem.log_masses(end))
    errors = []
    for n in steps:
        run = ed.iterate(
            problem.dynamics, problem.landscape, problem.p0, n, end / n, save_every=n, scheme=scheme
        )
        assert run.stats.projections == 0
        errors.append(np.abs(run.masses[-1] - expected).max() / expected.sum())
    return np.array(errors)


@pytest.mark.parametrize("scheme", ["euler", "exponential"])
@pytest.mark.parametrize("problem", MAPPED, ids=lambda problem: problem.name)
def test_maps_converge_to_the_flow_at_first_order(problem: Problem, scheme: Scheme) -> None:
    # A record must be stepped from jump to jump for its full order: 1000 steps meet all of its times.
    errors = map_errors(problem, scheme, [1000, 2000, 4000])
    if errors[0] < 1e-10:
        # Some maps are exact: the exponential one at the clip, that of neutral mutation.
        assert scheme == "exponential"
        return
    if problem.name == "at the cap" and scheme == "euler":
        # One gains and one loses 0.1 h: the even powers of h cancel in their ratio.
        np.testing.assert_allclose(orders(errors), 2.0, atol=0.15)
        return
    np.testing.assert_allclose(orders(errors), 1.0, atol=0.15)


def test_some_maps_do_have_errors() -> None:
    inexact = [p.name for p in MAPPED if map_errors(p, "exponential", [200])[0] > 1e-6]
    assert len(inexact) > len(MAPPED) / 2


def fixed_steps(method: str, problem: Problem, n: int) -> float:
    """Return the error of ln p at the end after `n` equal steps of `solve`."""
    end = min(problem.t_end, 4.0)
    run = ed.solve(
        problem.dynamics,
        problem.landscape,
        problem.p0,
        (0.0, end),
        save_at=[end],
        solver=ed.Solver(method=method, rtol=1.0, atol=0.0, max_step=end / n),  # type: ignore[arg-type]
    )
    assert run.stats.steps >= n
    return float(np.abs(run.log_masses[-1] - problem.log_masses(end)).max())


@pytest.mark.parametrize(
    ("method", "order", "counts"),
    [("RK23", 3, [80, 160, 320]), ("RK45", 5, [32, 64, 128]), ("DOP853", 8, [8, 16])],
)
@pytest.mark.parametrize(
    "name", ["entropic", "hawks and doves", "redundancy with exclusion", "general selection"]
)
def test_runge_kutta_methods_keep_their_order_in_logarithms(
    name: str, method: str, order: int, counts: list[int]
) -> None:
    # At tolerances so loose that the longest step decides.
    problem = next(p for p in PROBLEMS if p.name == name)
    measured = orders(np.array([fixed_steps(method, problem, n) for n in counts]))
    np.testing.assert_allclose(measured, order, atol=0.3 if method == "DOP853" else 0.15)


def test_a_wrong_order_is_noticed() -> None:
    # Negative control: a first-order map does not pass for a second-order one.
    problem = next(p for p in PROBLEMS if p.name == "entropic")
    measured = orders(map_errors(problem, "euler", [500, 1000]))
    with pytest.raises(AssertionError):
        np.testing.assert_allclose(measured, 2.0, atol=0.15)
