"""Landscapes: their formulas, sums, Jacobians, log-masses beyond double precision, and the record."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import evodyn as ed
from evodyn import landscapes
from evodyn.core.arrays import Array, FloatArray
from tests import references, strategies
from tests.libraries import Library

EPS = float(np.finfo(float).eps)


@st.composite
def cases(draw: st.DrawFn) -> tuple[landscapes.Landscape, float, FloatArray]:
    n = draw(strategies.SIZES)
    t = draw(strategies.numbers(0.0, 10.0))
    return draw(strategies.any_landscapes(n)), t, draw(strategies.masses(n))


@given(cases())
@example((landscapes.Recorded([0.0, 5.0, 10.0], [[1.0], [2.0], [3.0]]), 10.0, np.array([1.0])))
@example((landscapes.Recorded([0.0, 5.0, 10.0], [[1.0], [2.0]]), 10.0, np.array([1.0])))
def test_fitness_is_the_formula(
    library: Library, case: tuple[landscapes.Landscape, float, FloatArray]
) -> None:
    landscape, t, masses = case
    found = library.read(landscape(t, library.array(masses)))
    expected = references.rounded(references.fitness(landscape, t, references.exact(masses)))
    scale = 10.0 + 3 * 700 + 12 * masses.sum()  # contributions, entropy, density and competition terms
    np.testing.assert_array_equal(np.isinf(found), np.isinf(expected))
    finite = np.isfinite(expected)
    assert (np.abs(found[finite] - expected[finite]) <= 32 * len(masses) * EPS * scale).all()


@given(st.data())
def test_a_batch_is_its_members(library: Library, data: st.DataObject) -> None:
    n = data.draw(strategies.SIZES)
    landscape = data.draw(strategies.any_landscapes(n))
    masses = np.array([[data.draw(strategies.masses(n)) for _ in range(2)] for _ in range(3)])
    batch = library.read(landscape(1.5, library.array(masses)))
    assert batch.shape == masses.shape
    for index in np.ndindex(3, 2):
        np.testing.assert_allclose(batch[index], landscape(1.5, masses[index]), rtol=1e-13, atol=1e-11)


@given(cases())
def test_masses_may_be_a_list(case: tuple[landscapes.Landscape, float, FloatArray]) -> None:
    landscape, t, masses = case
    np.testing.assert_array_equal(landscape(t, masses.tolist()), landscape(t, masses))


def test_contributions_of_a_batch_of_members() -> None:
    # One row of contributions for each member of an ensemble.
    c, p = np.arange(6.0).reshape(2, 3), np.ones((2, 3))
    np.testing.assert_array_equal(landscapes.Constant(c)(0.0, p), c)
    np.testing.assert_array_equal(landscapes.LinearDecay(c, 0.5)(0.0, p), c - 0.5)
    np.testing.assert_array_equal(landscapes.Entropic(c, 0.5)(0.0, p), c)
    assert landscapes.LinearDecay(c, 0.5).groups == 3


@given(cases())
def test_landscapes_and_their_inputs_stay_untouched(
    case: tuple[landscapes.Landscape, float, FloatArray],
) -> None:
    landscape, t, masses = case
    p = masses.copy()
    p.flags.writeable = False
    first = landscape(t, p)
    second = landscape(t, p)
    assert p.tobytes() == masses.tobytes() and first.tobytes() == second.tobytes()


@given(cases())
def test_absent_groups_do_not_reach_the_others(
    case: tuple[landscapes.Landscape, float, FloatArray],
) -> None:
    # Whatever fitness an absent group has, the velocity of all is finite, and its own is 0.
    landscape, t, masses = case
    velocity = ed.Replicator().velocity(masses, landscape(t, masses))
    assert np.isfinite(velocity).all() and (velocity[masses == 0] == 0).all()


# Sums


def slope(t: float, masses: Array) -> Array:
    return -t * masses


class Cost:
    """A landscape that shares nothing with the package but the protocol."""

    def __call__(self, t: float, masses: Array) -> Array:
        return 0.5 * masses**2

    def breakpoints(self, t_span: tuple[float, float]) -> npt.NDArray[np.float64]:
        return np.array([3.0, 1.0, 1.0, t_span[0], t_span[1], 99.0])

    def at_log_masses(self, t: float, log_masses: Array) -> Array:
        return 0.5 * np.exp(2 * log_masses) + (log_masses < -1000)

    def linearization(self, t: float, log_masses: FloatArray) -> landscapes.DiagonalPlusLowRank:
        return landscapes.DiagonalPlusLowRank.diagonal_only(np.exp(2 * log_masses))


def test_callables_add_on_either_side() -> None:
    p = np.array([1.0, 2.0])
    c: Any = landscapes.Constant([1.0, 5.0])
    cost = Cost()
    for total in (c + slope, slope + c):
        np.testing.assert_array_equal(total(2.0, p), [-1.0, 1.0])
    nested: Any = cost + (c + slope) + (slope + c)
    assert len(nested.terms) == 5 and nested.terms[0] is cost
    np.testing.assert_array_equal(nested(2.0, p), [-1.5, 4.0])
    assert nested.groups == 2
    with pytest.raises(TypeError):
        c + 5.0
    with pytest.raises(TypeError):
        5.0 + c


def test_a_sum_has_the_breakpoints_of_all_its_terms() -> None:
    record = landscapes.Recorded([0.0, 1.0, 2.5, 9.0], np.zeros((3, 2)))
    total = Cost() + record
    np.testing.assert_array_equal(landscapes.breakpoints(total, (0.0, 9.0)), [1.0, 2.5, 3.0])
    np.testing.assert_array_equal(landscapes.breakpoints(total, (1.0, 2.6)), [2.5])
    assert landscapes.breakpoints(slope, (0.0, 9.0)).size == 0
    assert landscapes.breakpoints(slope + record, (2.5, 9.0)).size == 0


def test_a_sum_uses_the_log_masses_of_its_terms() -> None:
    total = landscapes.Entropic([1.0, 1.0], 2.0) + Cost() + slope
    found = landscapes.fitness_at_log_masses(total, 1.0, np.array([-2000.0, 0.0]))
    np.testing.assert_allclose(found, [1 + 4000 + 1, 1 + 0.5 - 1], rtol=1e-15)


def test_a_sum_states_its_jacobian_only_if_all_terms_do() -> None:
    u = np.log([1.0, 2.0])
    both = landscapes.LinearDecay([1.0, 1.0], 0.5) + Cost()
    stated = landscapes.linearization(both, 0.0, u)
    assert stated is not None
    np.testing.assert_allclose(stated.to_dense(), np.diag([0.5, 3.0]))
    assert landscapes.linearization(both + slope, 0.0, u) is None
    assert landscapes.linearization(slope, 0.0, u) is None


# Log-masses and Jacobians


@given(st.data())
def test_log_masses_give_the_same_fitness(data: st.DataObject) -> None:
    n = data.draw(strategies.SIZES)
    landscape = data.draw(strategies.any_landscapes(n))
    masses = data.draw(strategies.vectors(n, 0.01, 100.0))
    found = landscapes.fitness_at_log_masses(landscape, 2.0, np.log(masses))
    np.testing.assert_allclose(found, landscape(2.0, masses), rtol=1e-11, atol=1e-10)


@given(st.data())
def test_log_masses_keep_their_meaning_where_masses_underflow(library: Library, data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 5))
    landscape = data.draw(strategies.any_landscapes(n))
    u = data.draw(strategies.vectors(n, -3.0, 3.0)) - 2000.0
    # Games see shares, which need one group with a mass.
    terms = getattr(landscape, "terms", (landscape,))
    assume(not any(isinstance(term, landscapes.BlockGame) for term in terms))  # which need one in each block
    games = any(isinstance(term, landscapes.MatrixGame) for term in terms)
    u[0] = 0.0 if games else data.draw(st.sampled_from([0.0, -2000.0]))
    found = library.read(landscapes.fitness_at_log_masses(landscape, 2.0, library.array(u)))
    exact = [mpmath.exp(mpmath.mpf(float(value))) for value in u]
    expected = references.rounded(references.fitness(landscape, 2.0, exact))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-10)


def test_absent_groups_in_log_masses() -> None:
    u = np.array([-np.inf, 0.0])
    entropic = landscapes.Entropic([1.0, 1.0], 0.5)
    np.testing.assert_array_equal(landscapes.fitness_at_log_masses(entropic, 0.0, u), [np.inf, 1.0])
    calm = landscapes.Entropic([1.0, 1.0], 0.0)
    np.testing.assert_array_equal(landscapes.fitness_at_log_masses(calm, 0.0, u), [1.0, 1.0])
    np.testing.assert_array_equal(calm(0.0, np.array([0.0, 1.0])), [1.0, 1.0])


def central_differences(landscape: Any, t: float, u: FloatArray) -> FloatArray:
    """Return ∂φ_i/∂ln p_j by differences in mpmath, where they lose nothing."""
    n, h = len(u), mpmath.mpf(10) ** -15
    columns = []
    for j in range(n):
        sides = []
        for sign in (1, -1):
            shifted = [mpmath.mpf(float(u[k])) + (sign * h if k == j else 0) for k in range(n)]
            sides.append(references.fitness(landscape, t, [mpmath.exp(value) for value in shifted]))
        columns.append([float((sides[0][i] - sides[1][i]) / (2 * h)) for i in range(n)])
    return np.array(columns).T


@given(st.data())
def test_linearization_is_the_jacobian(data: st.DataObject) -> None:
    n = data.draw(strategies.SIZES)
    landscape = data.draw(strategies.any_landscapes(n))
    u = data.draw(strategies.vectors(n, -8.0, 3.0))
    stated = landscapes.linearization(landscape, 2.0, u)
    assert stated is not None
    expected = central_differences(landscape, 2.0, u)
    np.testing.assert_allclose(stated.to_dense(), expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("kind", strategies.LANDSCAPES)
def test_every_landscape_is_drawn_and_states_its_jacobian(kind: str) -> None:
    assert kind in landscapes.__all__ and hasattr(getattr(landscapes, kind), "linearization")
    everything = {
        name
        for name in landscapes.__all__
        if isinstance(value := getattr(landscapes, name), type)
        and issubclass(value, landscapes.Landscape)
        and name not in ("Landscape", "Sum")
    }
    assert everything == set(strategies.LANDSCAPES)


def test_a_wrong_jacobian_is_noticed() -> None:
    # Negative control for the comparison above: derivatives by p in place of ln p.
    u = np.log([0.5, 2.0])
    landscape = landscapes.LinearDecay([1.0, 1.0], 0.5)
    expected = central_differences(landscape, 0.0, u)
    np.testing.assert_allclose(landscape.linearization(0.0, u).to_dense(), expected, rtol=1e-12)
    assert not np.allclose(np.diag([-0.5, -0.5]), expected, rtol=1e-2)


@given(st.data())
def test_diagonal_plus_low_rank_is_its_dense_matrix(data: st.DataObject) -> None:
    n, rank = data.draw(st.integers(1, 5)), data.draw(st.integers(0, 3))
    matrices = []
    for _ in range(2):
        diagonal = data.draw(strategies.vectors(n, 3.0, 9.0))
        left, right = (data.draw(strategies.vectors(n * rank, -0.3, 0.3)).reshape(n, rank) for _ in "lr")
        matrix = landscapes.DiagonalPlusLowRank(diagonal, left, right)
        dense = np.array(
            [
                [
                    diagonal[i] * (i == j) + sum(left[i, k] * right[j, k] for k in range(rank))
                    for j in range(n)
                ]
                for i in range(n)
            ]
        )
        np.testing.assert_allclose(matrix.to_dense(), dense, rtol=1e-13, atol=1e-15)
        vector = data.draw(strategies.vectors(n, -3.0, 3.0))
        np.testing.assert_allclose(matrix @ vector, dense @ vector, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(matrix.solve(dense @ vector), vector, rtol=1e-11, atol=1e-12)
        matrices.append(matrix)
    total = matrices[0] + matrices[1]
    np.testing.assert_allclose(total.to_dense(), matrices[0].to_dense() + matrices[1].to_dense())


def test_a_singular_system_is_refused() -> None:
    zero = landscapes.DiagonalPlusLowRank(np.array([0.0, 1.0]), np.ones((2, 1)), np.ones((2, 1)))
    with pytest.raises(ZeroDivisionError, match="diagonal has a zero"):
        zero.solve(np.ones(2))


# Single landscapes


def test_games_act_on_shares() -> None:
    game = landscapes.MatrixGame([[0.0, 3.0], [1.0, 2.0]])
    p = np.array([1.0, 3.0])
    np.testing.assert_allclose(game(0.0, 1e5 * p), game(0.0, p), rtol=1e-15)
    np.testing.assert_allclose(game(0.0, 1e-300 * p), game(0.0, p), rtol=1e-15)
    np.testing.assert_array_equal(game(0.0, np.zeros(2)), [0.0, 0.0])


def test_seasons_return() -> None:
    season = landscapes.Seasonal([1.0, 2.0], amplitude=[0.5, 1.0], period=4.0, phase=[0.0, np.pi / 2])
    p = np.ones(2)
    np.testing.assert_allclose(season(0.0, p), [1.0, 3.0], atol=1e-15)
    np.testing.assert_allclose(season(1.0, p), [1.5, 2.0], atol=1e-15)
    np.testing.assert_allclose(season(1.0 + 4.0 * 25, p), season(1.0, p), atol=1e-13)
    one = landscapes.Seasonal([1.0, 2.0], amplitude=0.5, period=4.0)
    np.testing.assert_allclose(one(3.0, p), [0.5, 1.5], atol=1e-15)


def test_a_record_holds_until_the_next_time() -> None:
    record = landscapes.Recorded([0.0, 1.0, 3.0], [[1.0, 0.0], [0.0, 1.0], [7.0, 8.0]], decay=0.5)
    p = np.array([2.0, 4.0])
    decay = 0.5 * p
    for t, row in ((0.0, 0), (np.nextafter(1, 0), 0), (1.0, 1), (2.999, 1), (3.0, 2)):
        np.testing.assert_array_equal(record(t, p), record.contributions[row] - decay)
    closed = landscapes.Recorded([0.0, 1.0, 3.0], [[1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_array_equal(closed(3.0, p), [0.0, 1.0])
    np.testing.assert_array_equal(landscapes.breakpoints(record, (0.0, 3.0)), [1.0])
    np.testing.assert_array_equal(landscapes.breakpoints(record, (1.0, 3.0)), [])


@pytest.mark.parametrize("t", [-1e-9, 3.0 + 1e-9, np.nan, np.inf])
def test_outside_its_record_a_landscape_knows_nothing(t: float) -> None:
    record = landscapes.Recorded([0.0, 1.0, 3.0], [[1.0], [2.0]])
    with pytest.raises(ValueError, match=r"outside the record, which covers \[0, 3\]"):
        record(t, np.ones(1))


def test_entropic_fitness_has_no_bound_at_zero(library: Library) -> None:
    landscape = landscapes.Entropic([1.0, 2.0, 3.0], temperature=0.5)
    found = library.read(landscape(0.0, library.array([0.0, 1.0, 1e-300])))
    np.testing.assert_allclose(found, [np.inf, 2.0, 3.0 + 0.5 * 300 * np.log(10)], rtol=1e-14)


def test_groups_of_a_landscape() -> None:
    assert landscapes.Constant(2.0).groups is None
    np.testing.assert_array_equal(landscapes.Constant(2.0)(0.0, np.ones(3)), [2.0, 2.0, 2.0])
    assert landscapes.Seasonal(0.0, [1.0, 2.0], 1.0).groups == 2
    assert landscapes.MatrixGame(np.eye(3)).groups == 3
    assert landscapes.Recorded([0.0, 1.0], np.ones((1, 4))).groups == 4
    assert (slope + landscapes.Constant([1.0])).groups == 1


def test_a_map_may_miss_the_end_of_a_record_by_rounding() -> None:
    assert 3 * 0.1 > 0.3  # the time of the third state
    record = landscapes.Recorded([0.0, 0.1, 0.2, 0.3], [[1.0], [2.0], [3.0]])
    assert record(3 * 0.1, np.ones(1)) == 3.0
    early = landscapes.Recorded([0.1 + 0.2, 1.0], [[1.0]])
    assert early(0.3, np.ones(1)) == 1.0
    for outside in (0.3 + 1e-12, -1e-12, float("nan")):
        with pytest.raises(ValueError, match="outside the record"):
            record(outside, np.ones(1))


def test_contributions_of_another_library_meet_masses_of_numpy(library: Library) -> None:
    c, masses = [1.0, 0.5, 0.0], np.array([1.0, 2.0, 3.0])
    if library.name == "strict":
        pytest.importorskip("array_api_strict")
    landscape = landscapes.LinearDecay(library.array(c), decay=0.1)
    if library.name != "strict":  # whose device refuses to be read, as here it must be
        assert landscape(0.0, masses).tolist() == landscapes.LinearDecay(c, 0.1)(0.0, masses).tolist()
        run = ed.iterate(ed.Replicator(), landscape, masses, 3, 0.1)
        assert run.masses.tolist() == (
            ed.iterate(ed.Replicator(), landscapes.LinearDecay(c, 0.1), masses, 3, 0.1).masses.tolist()
        )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 3)])
@pytest.mark.parametrize("name", ["torch", "array_api_strict"])
def test_masses_of_any_precision_and_shape_have_the_fitness_of_numpys(
    name: str, shape: tuple[int, ...], dtype: str
) -> None:
    library = pytest.importorskip(name)
    c, matrix = np.array([1.0, 2.0, 3.0]), np.array([[0.0, 2.0, 1.0], [2.0, 4.0, 0.5], [1.0, 0.5, 1.0]])
    values = np.broadcast_to(np.array([0.5, 0.0, 2.0]), shape)  # exact in single precision
    made: list[Any] = [
        landscapes.Constant(c),
        landscapes.LinearDecay(c, 0.5),
        landscapes.Entropic(c, 0.5),
        landscapes.MatrixGame(matrix),
        landscapes.Redundancy(c, matrix, 0.5),
        landscapes.Seasonal(c, c, 3.0),
        landscapes.Recorded([0.0, 1.0], [c], 0.5),
        landscapes.BlockGame({(0, 0): matrix[:2, :2], (0, 1): c[:2, None], (1, 0): c[None, :2]}, (2, 1)),
        landscapes.Constant(c) + landscapes.MatrixGame(matrix),
    ]
    if name == "torch":  # the landscape's precision is its own
        made += [
            landscapes.MatrixGame(library.asarray(matrix, dtype=library.float32)),
            landscapes.Redundancy(library.asarray(c), library.asarray(matrix, dtype=library.float32), 0.5),
        ]
    for landscape in made:
        masses = library.asarray(values.copy(), dtype=getattr(library, dtype))
        found = np.asarray(landscape(0.5, masses), dtype=np.float64)
        assert found.shape == shape
        np.testing.assert_allclose(found, landscape(0.5, values), rtol=1e-6)
