"""The dynamics in SymPy: derived from their definitions, independently of the code that computes them.

Velocities, conservation laws, Jacobians, rest points and closed forms come out as SymPy expressions; the
tests compare them with `evodyn.model.dynamics`. Needs the ``symbolic`` extra.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evodyn.core import validation
from evodyn.core.arrays import FloatArray
from evodyn.core.extras import extra

with extra("symbolic", user="evodyn.symbolic"):
    sympy: Any = importlib.import_module("sympy")

__all__ = [
    "closed_form_defect",
    "compiled",
    "entropic",
    "jacobian",
    "linear_decay",
    "log_ratio_rate",
    "masses",
    "matrix_game",
    "mean_fitness",
    "mean_fitness_rate",
    "mutation",
    "normalized_growth",
    "parameters",
    "redundancy",
    "replicator",
    "rest_points",
    "tangent_eigenvalues",
    "total_mass_rate",
]

Expression = Any
"""A SymPy expression."""


def masses(n: int) -> tuple[Expression, ...]:
    """Return the symbols p_1, ..., p_n, positive.

    Examples
    --------
    >>> masses(2)
    (p1, p2)
    """
    return parameters("p", n, positive=True)


def parameters(name: str, n: int, *, positive: bool = False) -> tuple[Expression, ...]:
    """Return n real symbols of one name, numbered from 1.

    Examples
    --------
    >>> parameters("c", 3)
    (c1, c2, c3)
    """
    n = validation.count("n", n)
    assumptions: dict[str, bool] = {"positive": True} if positive else {"real": True}
    return tuple(sympy.Symbol(f"{name}{k}", **assumptions) for k in range(1, n + 1))


# --- Fitness -------------------------------------------------------------------------------------------


def linear_decay(p: Sequence[Expression], c: Sequence[Expression], decay: Expression) -> Expression:
    """Return the fitness c_i - λp_i of Eq. 10 as a column; constant fitness for λ = 0.

    Examples
    --------
    >>> linear_decay(masses(2), parameters("c", 2), 0).T
    Matrix([[c1, c2]])
    """
    return sympy.Matrix([ci - decay * pi for pi, ci in zip(p, c, strict=True)])


def entropic(p: Sequence[Expression], c: Sequence[Expression], temperature: Expression) -> Expression:
    """Return the fitness c_i - T ln p_i as a column.

    Examples
    --------
    >>> entropic(masses(1), [0], 2).T
    Matrix([[-2*log(p1)]])
    """
    return sympy.Matrix([ci - temperature * sympy.log(pi) for pi, ci in zip(p, c, strict=True)])


def matrix_game(p: Sequence[Expression], payoff: Any) -> Expression:
    """Return the fitness Ax, with shares x = p/Σp, as a column.

    Examples
    --------
    >>> matrix_game(masses(2), [[1, 0], [0, 1]]).T
    Matrix([[p1/(p1 + p2), p2/(p1 + p2)]])
    """
    return sympy.Matrix(payoff) * sympy.Matrix(p) / sum(p)


def redundancy(
    p: Sequence[Expression], c: Sequence[Expression], similarity: Any, strength: Expression
) -> Expression:
    """Return the fitness c - κSp as a column.

    Examples
    --------
    >>> redundancy(masses(1), [1], [[2]], 3).T
    Matrix([[1 - 6*p1]])
    """
    return sympy.Matrix(c) - strength * sympy.Matrix(similarity) * sympy.Matrix(p)


# --- Dynamics ------------------------------------------------------------------------------------------


def mean_fitness(p: Sequence[Expression], fitness: Expression) -> Expression:
    """Return φ̄ = Σ p_i φ_i/Σ p_i.

    Examples
    --------
    >>> mean_fitness(masses(2), sympy.Matrix([1, 1])).simplify()
    1
    """
    return sum(pi * fi for pi, fi in zip(p, fitness, strict=True)) / sum(p)


def replicator(p: Sequence[Expression], fitness: Expression) -> Expression:
    """Return the velocities of Eq. 6, p_i(φ_i - φ̄), as a column.

    Examples
    --------
    >>> replicator(masses(2), sympy.Matrix([1, 0]))[0].factor()
    p1*p2/(p1 + p2)
    """
    mean = mean_fitness(p, fitness)
    return sympy.Matrix([pi * (fi - mean) for pi, fi in zip(p, fitness, strict=True)])


def normalized_growth(p: Sequence[Expression], fitness: Expression) -> Expression:
    """Return the velocities of Eq. 7, p_i φ_i - (p_i/Z)Σ p_j φ_j with Z = Σ p_j, as a column.

    Examples
    --------
    >>> p, f = masses(3), sympy.Matrix(parameters("f", 3))
    >>> (normalized_growth(p, f) - replicator(p, f)).applyfunc(sympy.simplify).T
    Matrix([[0, 0, 0]])
    """
    total = sum(p)
    produced = sum(pi * fi for pi, fi in zip(p, fitness, strict=True))
    return sympy.Matrix([pi * fi - pi / total * produced for pi, fi in zip(p, fitness, strict=True)])


def mutation(p: Sequence[Expression], rate: Expression, targets: Sequence[Expression]) -> Expression:
    """Return what mutation adds to the velocities (Eq. 8), μ(m_i - p_i), as a column.

    Examples
    --------
    >>> mutation(masses(1), sympy.Symbol("mu"), [1]).T
    Matrix([[mu*(1 - p1)]])
    """
    return sympy.Matrix([rate * (mi - pi) for pi, mi in zip(p, targets, strict=True)])


# --- What follows from them ----------------------------------------------------------------------------


def total_mass_rate(velocity: Expression) -> Expression:
    """Return dP/dt = Σ dp_i/dt, simplified: 0 is a conservation law.

    Examples
    --------
    >>> p = masses(3)
    >>> total_mass_rate(replicator(p, sympy.Matrix(parameters("f", 3))))
    0
    """
    return sympy.simplify(sum(velocity))


def log_ratio_rate(p: Sequence[Expression], velocity: Expression, i: int, j: int) -> Expression:
    """Return d ln(p_i/p_j)/dt, simplified; groups are numbered from 0.

    Examples
    --------
    >>> p = masses(3)
    >>> log_ratio_rate(p, replicator(p, sympy.Matrix(parameters("f", 3))), 0, 2)
    f1 - f3
    """
    return sympy.simplify(velocity[i] / p[i] - velocity[j] / p[j])


def mean_fitness_rate(p: Sequence[Expression], fitness: Expression, velocity: Expression) -> Expression:
    """Return dφ̄/dt along the velocities, by the chain rule.

    Examples
    --------
    Fisher's theorem: with constant fitness it is the variance.

    >>> p, f = masses(2), sympy.Matrix(parameters("f", 2))
    >>> variance = mean_fitness(p, f.multiply_elementwise(f)) - mean_fitness(p, f) ** 2
    >>> sympy.simplify(mean_fitness_rate(p, f, replicator(p, f)) - variance)
    0
    """
    mean = mean_fitness(p, fitness)
    return sum(sympy.diff(mean, pi) * vi for pi, vi in zip(p, velocity, strict=True))


def jacobian(p: Sequence[Expression], velocity: Expression) -> Expression:
    """Return the matrix ∂(dp_i/dt)/∂p_j.

    Examples
    --------
    >>> p = masses(1)
    >>> jacobian(p, mutation(p, 2, [1]))
    Matrix([[-2]])
    """
    return velocity.jacobian(sympy.Matrix(p))


def rest_points(
    p: Sequence[Expression], velocity: Expression, total: Expression
) -> tuple[dict[Expression, Expression], ...]:
    """Return the rest points with total mass `total`, as solved by SymPy; continua have free symbols.

    Zero masses are found too, although the symbols of `masses` are positive.

    Examples
    --------
    Hawk and dove:

    >>> p = masses(2)
    >>> velocity = replicator(p, matrix_game(p, [[-1, 4], [0, 2]]))
    >>> [tuple(point.values()) for point in rest_points(p, velocity, 3)]
    [(0, 3), (2, 1), (3, 0)]
    """
    # Of any sign: SymPy drops solutions that contradict its assumptions, and faces have zeros.
    free = [sympy.Symbol(f"q{k}") for k in range(len(p))]
    replaced = velocity.subs(dict(zip(p, free, strict=True)), simultaneous=True)
    numerators = [sympy.numer(sympy.together(entry)) for entry in replaced]
    equations = [sympy.expand(entry) for entry in numerators if entry != 0]
    solutions = sympy.solve([*equations, sum(free) - total], free, dict=True)
    back = dict(zip(free, p, strict=True))
    points = [{back[s]: sympy.simplify(point.get(s, s)).subs(back) for s in free} for point in solutions]
    return tuple(sorted(points, key=lambda point: [sympy.default_sort_key(v) for v in point.values()]))


def tangent_eigenvalues(
    p: Sequence[Expression], velocity: Expression, point: dict[Expression, Expression]
) -> tuple[Expression, ...]:
    """Return the eigenvalues of the Jacobian at a rest point on the tangent space Σ dp_i = 0.

    Examples
    --------
    >>> p = masses(2)
    >>> velocity = replicator(p, matrix_game(p, [[-1, 4], [0, 2]]))
    >>> tangent_eigenvalues(p, velocity, {p[0]: 2, p[1]: 1})
    (-2/3,)
    """
    # Differences with the last group are a basis; their first n - 1 coordinates describe the image.
    n = len(p)
    whole = jacobian(p, velocity).subs(point)
    basis = sympy.Matrix(n, n - 1, lambda i, j: int(i == j) - int(i == n - 1))
    reduced = (whole * basis)[: n - 1, :].applyfunc(sympy.simplify)
    return tuple(value for value, count in reduced.eigenvals().items() for _ in range(count))


def closed_form_defect(n: int, *, rate: Expression | None = None) -> Expression:
    """Return dp/dt less the velocity, along the closed form of Eq. 6 with constant fitness: zeros.

    Parameters
    ----------
    n : int
        Number of groups.
    rate : optional
        With a mutation rate μ, the total mass P(t) = M + (P_0 - M)e^{-μt} of Eq. 8 is put to the test
        instead, and the defect is a single expression.

    Examples
    --------
    >>> closed_form_defect(3).T
    Matrix([[0, 0, 0]])
    >>> closed_form_defect(1, rate=sympy.Symbol("mu"))
    0
    """
    t = sympy.Symbol("t", real=True)
    if rate is not None:
        target, start = sympy.symbols("M P0", positive=True)
        total = target + (start - target) * sympy.exp(-rate * t)
        return sympy.simplify(sympy.diff(total, t) - rate * (target - total))
    c, start = parameters("c", n), parameters("q", n, positive=True)
    weights = [q * sympy.exp(ci * t) for q, ci in zip(start, c, strict=True)]
    path = sympy.Matrix([sum(start) * w / sum(weights) for w in weights])
    velocity = replicator(list(path), sympy.Matrix(c))
    return (path.diff(t) - velocity).applyfunc(sympy.simplify)


def compiled(expression: Expression, symbols: Sequence[Expression]) -> Callable[..., FloatArray]:
    """Return a NumPy function of the symbols' values, in order.

    Examples
    --------
    >>> p = masses(2)
    >>> velocity = compiled(replicator(p, sympy.Matrix([1, 0])), p)
    >>> velocity(1.0, 1.0)
    array([ 0.5, -0.5])
    """
    function = sympy.lambdify(list(symbols), expression, modules="numpy")

    def evaluated(*values: float) -> FloatArray:
        result = np.asarray(function(*values), dtype=np.float64)
        return result[:, 0] if result.ndim == 2 and result.shape[1] == 1 else result

    return evaluated
