"""SymPy's derivations against the code."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from evodyn.equilibria.equilibrium import all_equilibria, equilibrium
from evodyn.model.equations import NormalizedGrowth, Replicator, SelectionMutation
from evodyn.model.games import MatrixGame
from evodyn.model.landscapes import Constant, Entropic, LinearDecay, Redundancy
from evodyn.model.structure import DiagonalPlusLowRank

sympy: Any = pytest.importorskip("sympy")
symbolic: Any = pytest.importorskip("evodyn.symbolic")

N = 3
P, C = symbolic.masses(N), symbolic.parameters("c", N)
VALUES = np.array([0.7, 1.9, 0.4])
CONTRIBUTION = np.array([1.0, 0.3, -0.5])
PAYOFF = [[0, 3, -1], [-2, 1, 2], [1, -1, 0]]
SIMILARITY = [[2, 1, 0], [1, 3, 1], [0, 1, 1]]
NUMBERS = dict(zip(C, map(sympy.Float, CONTRIBUTION), strict=True))
HALF = sympy.Rational(1, 2)
LANDSCAPES: dict[str, tuple[Any, Any]] = {
    "constant": (symbolic.linear_decay(P, C, 0), Constant(CONTRIBUTION)),
    "decay": (symbolic.linear_decay(P, C, HALF), LinearDecay(CONTRIBUTION, 0.5)),
    "entropic": (symbolic.entropic(P, C, HALF), Entropic(CONTRIBUTION, 0.5)),
    "game": (symbolic.matrix_game(P, PAYOFF), MatrixGame(PAYOFF)),
    "redundancy": (symbolic.redundancy(P, C, SIMILARITY, HALF), Redundancy(CONTRIBUTION, SIMILARITY, 0.5)),
}


def numbers(expression: Any) -> np.ndarray:
    values = dict(zip(P, map(sympy.Float, VALUES), strict=True))
    return np.array(expression.subs(NUMBERS).subs(values).tolist(), dtype=float)


@pytest.mark.parametrize("name", LANDSCAPES)
def test_fitness_velocities_and_linearization(name: str) -> None:
    expression, landscape = LANDSCAPES[name]
    fitness = landscape(0.0, VALUES)
    np.testing.assert_allclose(numbers(expression)[:, 0], fitness, rtol=1e-13)
    targets = [sympy.Rational(1, 5), 1, 0]
    rate = sympy.Rational(3, 10)
    for derived, dynamics in (
        (symbolic.replicator(P, expression), Replicator()),
        (symbolic.normalized_growth(P, expression), NormalizedGrowth()),
        (
            symbolic.replicator(P, expression) + symbolic.mutation(P, rate, targets),
            SelectionMutation(0.3, target=[0.2, 1.0, 0.0]),
        ),
    ):
        np.testing.assert_allclose(numbers(derived)[:, 0], dynamics.velocity(VALUES, fitness), atol=1e-14)
    slopes: DiagonalPlusLowRank = landscape.linearization(0.0, np.log(VALUES))
    in_logs = expression.jacobian(sympy.Matrix(P)) * sympy.diag(*P)
    np.testing.assert_allclose(slopes.to_dense(), numbers(in_logs), atol=1e-13)


def test_conservation_laws() -> None:
    fitness = sympy.Matrix(symbolic.parameters("f", N))
    velocity = symbolic.replicator(P, fitness)
    assert symbolic.total_mass_rate(velocity) == 0
    assert (symbolic.normalized_growth(P, fitness) - velocity).applyfunc(sympy.simplify) == sympy.zeros(N, 1)
    assert symbolic.log_ratio_rate(P, velocity, 0, 1) == fitness[0] - fitness[1]
    mu, targets = sympy.Symbol("mu"), symbolic.parameters("m", N)
    with_mutation = symbolic.total_mass_rate(velocity + symbolic.mutation(P, mu, targets))
    assert sympy.simplify(with_mutation - mu * (sum(targets) - sum(P))) == 0
    assert symbolic.closed_form_defect(1, rate=mu) == 0
    assert symbolic.closed_form_defect(N) == sympy.zeros(N, 1)
    # A zero-sum game conserves Σ x_i* ln x_i; another one does not.
    for win, conserved in ((1, True), (2, False)):
        game = symbolic.matrix_game(P, [[0, -1, win], [win, 0, -1], [-1, win, 0]])
        change = sum(v / p for v, p in zip(symbolic.replicator(P, game), P, strict=True))
        assert (sympy.simplify(change) == 0) == conserved


def test_fisher_with_density_regulation() -> None:
    decay = sympy.Symbol("lambda")
    fitness = symbolic.linear_decay(P, C, decay)
    velocity = symbolic.replicator(P, fitness)
    mean = symbolic.mean_fitness(P, fitness)
    variance = symbolic.mean_fitness(P, fitness.multiply_elementwise(fitness)) - mean**2
    environment = -decay * sum(p * v for p, v in zip(P, velocity, strict=True)) / sum(P)
    rate = symbolic.mean_fitness_rate(P, fitness, velocity)
    assert sympy.simplify(rate - variance - environment) == 0


GAMES = [
    [[-1, 4], [0, 2]],
    [[2, 0], [0, 1]],
    [[0, -1, 2], [2, 0, -1], [-1, 2, 0]],
    [[0, 3, 1], [1, 0, 3], [3, 1, 0]],
]


@pytest.mark.parametrize("payoff", GAMES)
def test_rest_points_and_eigenvalues_of_games(payoff: list[list[int]]) -> None:
    p = symbolic.masses(len(payoff))
    velocity = symbolic.replicator(p, symbolic.matrix_game(p, payoff))
    derived = {
        tuple(float(v) for v in point.values()): symbolic.tangent_eigenvalues(p, velocity, point)
        for point in symbolic.rest_points(p, velocity, 2)
        if all(v >= 0 for v in point.values())
    }
    found = all_equilibria(Replicator(), MatrixGame(payoff), total_mass=2.0)
    assert len(found) == len(derived)
    for point in found:
        key = min(derived, key=lambda masses: float(np.abs(np.array(masses) - point.masses).max()))
        np.testing.assert_allclose(key, point.masses, atol=1e-13)
        assert point.eigenvalues is not None
        expected = np.sort_complex(np.array([complex(v) for v in derived[key]]))
        np.testing.assert_allclose(np.sort_complex(point.eigenvalues), expected, atol=1e-13)


def test_the_water_level_and_its_stability() -> None:
    p = symbolic.masses(2)
    velocity = symbolic.replicator(p, symbolic.linear_decay(p, [3, 2], 1))
    points = symbolic.rest_points(p, velocity, 2)
    interior = next(point for point in points if all(v > 0 for v in point.values()))
    code = equilibrium(Replicator(), LinearDecay([3.0, 2.0], 1.0), total_mass=2.0)
    np.testing.assert_allclose([float(interior[s]) for s in p], code.masses)
    assert code.eigenvalues is not None
    derived = symbolic.tangent_eigenvalues(p, velocity, interior)
    np.testing.assert_allclose([complex(v) for v in derived], code.eigenvalues)


def test_compiled_expressions() -> None:
    velocity = symbolic.compiled(symbolic.replicator(P, LANDSCAPES["game"][0]), P)
    expected = Replicator().velocity(VALUES, MatrixGame(PAYOFF)(0.0, VALUES))
    np.testing.assert_allclose(velocity(*VALUES), expected, atol=1e-14)
    with pytest.raises(ValueError, match="n is 0"):
        symbolic.masses(0)


def test_importing_evodyn_does_not_import_sympy() -> None:
    code = "import sys, evodyn, evodyn.diagnostics, evodyn.stochastic; sys.exit('sympy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
