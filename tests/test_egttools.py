"""Small games against EGTtools: velocities, rest points, and verdicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evodyn.equilibria.equilibrium import all_equilibria
from evodyn.equilibria.stability import Stability
from evodyn.model.equations import Replicator
from evodyn.model.games import MatrixGame
from evodyn.simulate.solve import solve

analytical: Any = pytest.importorskip("egttools.analytical")
tools: Any = pytest.importorskip("egttools.analytical.utils")
random: Any = pytest.importorskip("egttools").Random

Floats = npt.NDArray[np.float64]
GAMES = {
    "hawk and dove": [[-1.0, 4.0], [0.0, 2.0]],
    "coordination": [[2.0, 0.0], [0.0, 1.0]],
    "dominance": [[1.0, 5.0], [0.0, 3.0]],
    "inward spiral": [[0.0, -1.0, 1.5], [1.5, 0.0, -1.0], [-1.0, 1.5, 0.0]],
    "outward spiral": [[0.0, -1.0, 0.5], [0.5, 0.0, -1.0], [-1.0, 0.5, 0.0]],
    "three hawks": [[-1.0, 1.0, 1.0], [1.0, -1.0, 1.0], [1.0, 1.0, -1.0]],
}


def gradient(payoff: Floats) -> Any:
    return lambda shares: analytical.replicator_equation(np.asarray(shares, dtype=float), payoff)


@settings(max_examples=100, deadline=None)
@given(
    payoff=hnp.arrays(float, (4, 4), elements=st.floats(-10, 10)),
    masses=hnp.arrays(float, 4, elements=st.floats(1e-3, 1.0)),
)
def test_velocities_are_those_of_egttools(payoff: Floats, masses: Floats) -> None:
    shares = masses / masses.sum()
    ours = Replicator().velocity(shares, MatrixGame(payoff)(0.0, shares))
    np.testing.assert_allclose(ours, gradient(payoff)(shares), atol=1e-13)


@pytest.mark.parametrize("name", GAMES)
def test_the_rest_points_are_those_of_egttools(name: str) -> None:
    payoff = np.array(GAMES[name])
    ours = [point.masses for point in all_equilibria(Replicator(), MatrixGame(payoff))]
    random.seed(0)  # of its starts
    theirs = tools.find_roots(gradient(payoff), len(payoff), nb_initial_random_points=60)
    for mine in ours:
        assert np.abs(gradient(payoff)(mine)).max() < 1e-15
        # Of roots within 1e-4 of one another it keeps the first, which need not be the best.
        assert min(np.abs(root - mine).max() for root in theirs) < 2e-4
    for root in theirs:
        # Some are found twice, the second time no better than this.
        assert min(np.abs(root - mine).max() for mine in ours) < 1e-2


@pytest.mark.parametrize("name", GAMES)
def test_verdicts_are_those_of_the_slopes_of_its_velocity(name: str) -> None:
    payoff = np.array(GAMES[name])
    n = len(payoff)
    # Along the simplex: the last share is what the others leave.
    edges = np.vstack((np.eye(n - 1), -np.ones(n - 1)))
    for point in all_equilibria(Replicator(), MatrixGame(payoff)):
        width = 1e-6
        slopes = [
            (gradient(payoff)(point.masses + width * edge) - gradient(payoff)(point.masses - width * edge))
            / (2 * width)
            for edge in edges.T
        ]
        growth = np.linalg.eigvals(np.array(slopes).T[:-1]).real.max()
        assert point.stability is (Stability.STABLE if growth < -1e-6 else Stability.UNSTABLE)
        assert point.eigenvalues is not None
        assert point.eigenvalues.real.max() == pytest.approx(growth, abs=1e-6)


def test_it_calls_the_invaded_pure_states_of_hawk_and_dove_stable() -> None:
    payoff = np.array(GAMES["hawk and dove"])
    random.seed(0)
    roots, verdicts = tools.find_roots_and_stability(gradient(payoff), 2, nb_initial_random_points=5)
    called = {tuple(np.round(root, 6)): verdict for root, verdict in zip(roots, verdicts, strict=True)}
    for pure in ((1.0, 0.0), (0.0, 1.0)):
        assert called[pure] == 1
        start = np.abs(np.array(pure) - 1e-6)
        run = solve(Replicator(), MatrixGame(payoff), start, (0.0, 60.0))
        assert np.abs(run.masses[-1] / run.total_mass[-1] - [2 / 3, 1 / 3]).max() < 1e-9


def test_a_shift_of_all_payoffs_loses_mass_there_and_changes_nothing_here() -> None:
    payoff = np.array(GAMES["hawk and dove"])
    shifted = payoff - 3.0
    state = np.array([0.3, 0.7])
    for _ in range(40_000):
        state = state + 1e-3 * gradient(shifted)(state)
    assert state.sum() < 0.2  # from 1: an unstable constraint amplifies rounding
    runs = [solve(Replicator(), MatrixGame(a), np.array([0.3, 0.7]), (0.0, 300.0)) for a in (payoff, shifted)]
    for run in runs:
        np.testing.assert_allclose(run.total_mass, 1.0, rtol=1e-15)
    np.testing.assert_allclose(runs[0].masses, runs[1].masses, atol=1e-8)
