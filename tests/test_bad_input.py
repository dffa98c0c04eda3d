"""Every rule of the constructors, velocities and steps: the message names argument, value and expectation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import evodyn
from evodyn import landscapes
from evodyn.core import validation
from evodyn.model.structure import DiagonalPlusLowRank

# What is wrong on purpose is not for the type checker.
ed: Any = evodyn
L: Any = landscapes
NAN, INF = float("nan"), float("inf")
ONES = np.ones(3)
REPLICATOR = ed.Replicator()


def draw(kind: Any = "gaussian", n: Any = 3, heterogeneity: Any = 0.5, **options: Any) -> Any:
    return L.contributions(kind, n=n, heterogeneity=heterogeneity, rng=0, **options)


# What is called, and what its message must say: the argument, the value, the expectation.
RULES: list[tuple[Callable[[], object], tuple[str, ...]]] = [
    # Clips and caps
    (lambda: ed.Replicator(0.0), ("signal_clip is 0.0", "expected a number > 0")),
    (lambda: ed.Replicator(-1), ("signal_clip is -1.0", "> 0")),
    (lambda: ed.Replicator(NAN), ("signal_clip is NaN", "expected a real number")),
    (lambda: ed.Replicator("0.1"), ("signal_clip is '0.1'", "expected a real number")),
    (lambda: ed.Replicator(True), ("signal_clip is True", "expected a real number")),
    (lambda: ed.Replicator(1j), ("signal_clip is 1j", "expected a real number")),
    (lambda: ed.Replicator([0.1]), ("signal_clip is [0.1]", "expected a real number")),
    (lambda: ed.NormalizedGrowth(0.0), ("mass_cap is 0.0", "> 0")),
    (lambda: ed.NormalizedGrowth(-768), ("mass_cap is -768.0", "> 0")),
    (lambda: ed.NormalizedGrowth(NAN), ("mass_cap is NaN", "real number")),
    (lambda: ed.NormalizedGrowth(1.0, -0.1), ("signal_clip is -0.1", "> 0")),
    (lambda: ed.SelectionMutation(0.1, signal_clip=0.0), ("signal_clip is 0.0", "> 0")),
    # Mutation
    (lambda: ed.SelectionMutation(-1e-3), ("mutation_rate is -0.001", ">= 0")),
    (lambda: ed.SelectionMutation(INF), ("mutation_rate is inf", "finite")),
    (lambda: ed.SelectionMutation(NAN), ("mutation_rate is NaN", "real number")),
    (lambda: ed.SelectionMutation(None), ("mutation_rate is None", "real number")),
    (
        lambda: ed.SelectionMutation(0.1, "uniform"),
        ("target is 'uniform'", "expected one of 'uniform_share'"),
    ),
    (lambda: ed.SelectionMutation(0.1, -1.0), ("target is -1.0", ">= 0")),
    (lambda: ed.SelectionMutation(0.1, INF), ("target is inf", "finite")),
    (lambda: ed.SelectionMutation(0.1, [1.0, -2.0]), ("target is -2.0 at index 1", ">= 0")),
    (lambda: ed.SelectionMutation(0.1, [1.0, NAN]), ("target is nan at index 1", "finite")),
    (lambda: ed.SelectionMutation(0.1, [[1.0]]), ("target has shape (1, 1)", "1 dimension")),
    (lambda: ed.SelectionMutation(0.1, []), ("target is empty", "at least one group")),
    (lambda: ed.SelectionMutation(0.1, None), ("target is nan", "finite")),
    (
        lambda: ed.SelectionMutation(0.1, [1.0, 2.0]).velocity(ONES, ONES),
        ("target has 2 entries", "3 groups"),
    ),
    (lambda: ed.SelectionMutation(0.1, [1.0]).velocity(ONES, ONES), ("target has 1 entries", "3 groups")),
    (
        lambda: ed.SelectionMutation(0.1, ONES).step(ONES[:1], ONES[:1], 0.1),
        ("target has 3 entries", "1 groups"),
    ),
    (lambda: ed.SelectionMutation(lambda t: -1.0).velocity(ONES, ONES), ("mutation_rate(0) is -1.0", ">= 0")),
    (
        lambda: ed.SelectionMutation(lambda t: NAN).step(ONES, ONES, 0.1, time=2.5),
        ("mutation_rate(2.5) is NaN", "real number"),
    ),
    (
        lambda: ed.SelectionMutation(lambda t: "fast").velocity(ONES, ONES),
        ("mutation_rate(0) is 'fast'", "real number"),
    ),
    # Selection and blocks
    (lambda: ed.Selection(None), ("function is None", "expected a callable")),
    (lambda: ed.Selection(1.0), ("function is 1.0", "expected a callable")),
    (lambda: ed.Populations(REPLICATOR, ()), ("sizes is empty", "at least one block")),
    (lambda: ed.Populations(REPLICATOR, 3), ("sizes is 3", "sequence of whole numbers")),
    (lambda: ed.Populations(REPLICATOR, "12"), ("sizes is '12'", "sequence of whole numbers")),
    (lambda: ed.Populations(REPLICATOR, (2, 0)), ("sizes[1] is 0", "whole number >= 1")),
    (lambda: ed.Populations(REPLICATOR, (2, -1)), ("sizes[1] is -1", "whole number >= 1")),
    (lambda: ed.Populations(REPLICATOR, (2.0, 1)), ("sizes[0] is 2.0", "whole number >= 1")),
    (lambda: ed.Populations(REPLICATOR, (True, 1)), ("sizes[0] is True", "whole number >= 1")),
    (lambda: ed.Populations((REPLICATOR,), (1, 2)), ("dynamics has 1 entries and sizes 2", "one per block")),
    (lambda: ed.Populations(None, (1, 2)), ("dynamics is None", "expected Replicator")),
    (lambda: ed.Populations((REPLICATOR, 1), (1, 2)), ("dynamics is 1", "expected Replicator")),
    (
        lambda: ed.Populations((REPLICATOR, ed.Populations(REPLICATOR, (2,))), (1, 2)),
        ("dynamics is Populations", "not nested"),
    ),
    (lambda: ed.Populations(ed.SelectionMutation(0.1, ONES), (2, 2)), ("target has 3 entries", "4 groups")),
    (
        lambda: ed.Populations((REPLICATOR, ed.SelectionMutation(0.1, ONES)), (1, 2)),
        ("target has 3 entries", "2 groups"),
    ),
    (
        lambda: ed.Populations(REPLICATOR, (1, 1)).velocity(ONES, ONES),
        ("sizes (1, 1) sum to 2", "expected 3"),
    ),
    (
        lambda: ed.Populations(REPLICATOR, (1, 1)).step(ONES, ONES, 0.1),
        ("sizes (1, 1) sum to 2", "expected 3"),
    ),
    # Velocities and steps
    (lambda: REPLICATOR.velocity(np.array(1.0), np.array(1.0)), ("masses have shape ()", "N >= 1")),
    (lambda: REPLICATOR.velocity(np.ones((2, 0)), np.ones((2, 0))), ("masses have shape (2, 0)", "N >= 1")),
    (lambda: REPLICATOR.velocity(ONES, np.ones(2)), ("fitness has shape (2,)", "each of the 3 groups")),
    (lambda: REPLICATOR.velocity(ONES, 1.0), ("fitness has shape ()", "each of the 3 groups")),
    (lambda: REPLICATOR.velocity(ONES, np.ones(1)), ("fitness has shape (1,)", "each of the 3 groups")),
    (lambda: REPLICATOR.step(np.ones(1), ONES, 0.1), ("fitness has shape (3,)", "each of the 1 groups")),
    (lambda: REPLICATOR.step(np.ones((4, 3)), np.ones((2, 3)), 0.1), ("fitness has shape (2, 3)", "(4, 3)")),
    (
        lambda: ed.Populations(REPLICATOR, (1, 2)).velocity(ONES, 1.0),
        ("fitness has shape ()", "each of the 3 groups"),
    ),
    (lambda: REPLICATOR.step(ONES, ONES, -0.1), ("step_size is -0.1", ">= 0")),
    (lambda: REPLICATOR.step(ONES, ONES, np.float32(-0.5)), ("step_size is -0.5", ">= 0")),
    (lambda: REPLICATOR.step(ONES, ONES, INF), ("step_size is inf", "finite")),
    (lambda: REPLICATOR.step(ONES, ONES, NAN), ("step_size is NaN", "real number")),
    (lambda: REPLICATOR.step(ONES, ONES, "0.1"), ("step_size is '0.1'", "real number")),
    (
        lambda: REPLICATOR.step(ONES, ONES, 0.1, scheme="heun"),
        ("scheme is 'heun'", "expected one of 'euler', 'exponential'"),
    ),
    (lambda: REPLICATOR.step(ONES, ONES, 0.1, scheme=None), ("scheme is None", "expected one of")),
    # Arrays of landscapes
    (lambda: L.Constant([1.0, NAN]), ("contribution is nan at index 1", "finite", "remove or replace")),
    (lambda: L.Constant([[1.0, 2.0], [3.0, -INF]]), ("contribution is -inf at index (1, 1)", "finite")),
    (lambda: L.Constant([]), ("contribution is empty", "at least one group")),
    (lambda: L.Constant(None), ("contribution is nan", "finite")),
    (lambda: L.Constant(["a", "b"]), ("contribution cannot be read", "real numbers")),
    (lambda: L.Constant(["1", "2"]), ("contribution cannot be read", "real numbers")),
    (lambda: L.Constant(np.array([1j, 2.0])), ("contribution cannot be read", "real numbers", "complex")),
    (lambda: L.Constant([1j, 2.0]), ("contribution cannot be read", "real numbers", "complex")),
    (lambda: L.Constant([[1.0, 2.0], [3.0]]), ("contribution cannot be read", "real numbers")),
    (lambda: L.Constant({"a": 1.0}), ("contribution cannot be read", "real numbers")),
    (lambda: L.LinearDecay([INF], 0.1), ("contribution is inf at index 0", "finite")),
    (lambda: L.LinearDecay([1.0], -0.1), ("decay is -0.1", ">= 0")),
    (lambda: L.LinearDecay([1.0], INF), ("decay is inf", "finite")),
    (lambda: L.LinearDecay([1.0], [0.1]), ("decay is [0.1]", "real number")),
    (lambda: L.Entropic([NAN], 0.1), ("contribution is nan at index 0", "finite")),
    (lambda: L.Entropic([1.0], -1.0), ("temperature is -1.0", ">= 0")),
    (lambda: L.Entropic([1.0], NAN), ("temperature is NaN", "real number")),
    (lambda: L.MatrixGame([1.0, 2.0]), ("payoff has shape (2,)", "2 dimensions")),
    (lambda: L.MatrixGame(np.ones((2, 3))), ("payoff has shape (2, 3)", "square")),
    (lambda: L.MatrixGame([[1.0, NAN], [0.0, 0.0]]), ("payoff is nan at index (0, 1)", "finite")),
    (lambda: L.MatrixGame(np.ones((0, 0))), ("payoff is empty", "at least one group")),
    (lambda: L.Redundancy([NAN, 1.0], np.eye(2), 1.0), ("contribution is nan", "finite")),
    (lambda: L.Redundancy(ONES, np.eye(2), 1.0), ("contribution has 3 groups", "similarity has 2 groups")),
    (lambda: L.Redundancy([1.0], np.eye(2), 1.0), ("contribution has 1 groups", "similarity has 2 groups")),
    (lambda: L.Redundancy(ONES[:2], np.ones((2, 3)), 1.0), ("similarity has shape (2, 3)", "square")),
    (
        lambda: L.Redundancy(ONES[:2], [[1.0, -0.5], [-0.5, 1.0]], 1.0),
        ("similarity is -0.5 at index (0, 1)", ">= 0"),
    ),
    (
        lambda: L.Redundancy(ONES[:2], [[1.0, 0.2], [0.3, 1.0]], 1.0),
        ("similarity is 0.2 at (0, 1) and 0.3 at (1, 0)", "symmetric", "transpose"),
    ),
    (lambda: L.Redundancy(ONES[:2], np.eye(2), -1.0), ("strength is -1.0", ">= 0")),
    (lambda: L.Seasonal([NAN], 1.0, 1.0), ("contribution is nan", "finite")),
    (lambda: L.Seasonal(ONES, [1.0, INF, 0.0], 1.0), ("amplitude is inf at index 1", "finite")),
    (lambda: L.Seasonal(ONES, ONES[:2], 1.0), ("contribution has 3 groups", "amplitude has 2 groups")),
    (lambda: L.Seasonal(ONES, 1.0, 1.0, ONES[:2]), ("contribution has 3 groups", "phase has 2 groups")),
    (lambda: L.Seasonal(ONES, 1.0, 0.0), ("period is 0.0", "finite number > 0")),
    (lambda: L.Seasonal(ONES, 1.0, INF), ("period is inf", "finite number > 0")),
    (lambda: L.Seasonal(ONES, 1.0, 1.0, NAN), ("phase is nan", "finite")),
    (lambda: L.Recorded([0.0], np.ones((1, 2))), ("times has 1 entries", "at least two")),
    (lambda: L.Recorded(0.0, np.ones((1, 2))), ("times has shape ()", "1 dimension")),
    (lambda: L.Recorded([[0.0, 1.0]], np.ones((1, 2))), ("times has shape (1, 2)", "1 dimension")),
    (lambda: L.Recorded([0.0, 2.0, 1.0], np.ones((2, 2))), ("times is 1 at index 2, after 2", "increasing")),
    (lambda: L.Recorded([0.0, 1.0, 1.0], np.ones((2, 2))), ("times is 1 at index 2, after 1", "increasing")),
    (lambda: L.Recorded([0.0, NAN], np.ones((1, 2))), ("times is nan at index 1", "finite")),
    (lambda: L.Recorded("soon", np.ones((1, 2))), ("times cannot be read", "real numbers")),
    (lambda: L.Recorded([0.0, 1.0], np.ones(2)), ("contributions has shape (2,)", "2 dimensions")),
    (
        lambda: L.Recorded([0.0, 1.0], np.ones((3, 2))),
        ("contributions has 3 rows for 2 times", "expected 1", "or 2"),
    ),
    (lambda: L.Recorded([0.0, 1.0], [[1.0, NAN]]), ("contributions is nan at index (0, 1)", "finite")),
    (lambda: L.Recorded([0.0, 1.0], [[1.0]], -1.0), ("decay is -1.0", ">= 0")),
    (lambda: L.Recorded([0.0, 1.0], [[1.0]])(1.5, ONES[:1]), ("t is 1.5", "[0, 1]", "shorten t_span")),
    (lambda: L.Sum(()), ("terms is ()", "at least one landscape")),
    (lambda: L.Sum((L.Constant(ONES), 1.0)), ("terms is", "callable")),
    (lambda: L.Constant(ONES) + L.Constant(ONES[:2]), ("term 0 has 3 groups", "term 1 has 2 groups")),
    (
        lambda: DiagonalPlusLowRank(ONES, np.ones((2, 1)), np.ones((2, 1))),
        ("shapes (3,), (2, 1) and (2, 1)", "expected (N,), (N, r) and (N, r)"),
    ),
    # Laws
    (lambda: draw("cauchy"), ("kind is 'cauchy'", "expected one of 'uniform', 'gaussian'")),
    (lambda: draw(None), ("kind is None", "expected one of")),
    (lambda: draw(n=0), ("n is 0", "whole number >= 1")),
    (lambda: draw(n=2.0), ("n is 2.0", "whole number >= 1")),
    (lambda: draw(n=True), ("n is True", "whole number >= 1")),
    (lambda: draw(heterogeneity=-0.1), ("heterogeneity is -0.1", ">= 0")),
    (lambda: draw(heterogeneity=INF), ("heterogeneity is inf", "finite")),
    (lambda: draw(heterogeneity=NAN), ("heterogeneity is NaN", "real number")),
    (
        lambda: draw("neutral", heterogeneity=0.1),
        ("heterogeneity is 0.1", "'neutral'", "expected 0", "another kind"),
    ),
    (lambda: draw("two_class", fraction=0.0), ("fraction is 0.0", "> 0")),
    (lambda: draw("two_class", fraction=1.0), ("fraction is 1.0", "between 0 and 1")),
    (lambda: draw("two_class", fraction=NAN), ("fraction is NaN", "real number")),
]


@pytest.mark.parametrize(("call", "said"), RULES, ids=[said[0] for _, said in RULES])
def test_the_message_names_argument_value_and_expectation(
    call: Callable[[], object], said: tuple[str, ...]
) -> None:
    with pytest.raises(ValueError, match=re.escape(said[0])) as caught:
        call()
    message = str(caught.value)
    for part in said:
        assert part in message
    assert message.endswith(".") and "\n" not in message and len(message) < 300


def test_a_long_array_is_not_printed() -> None:
    with pytest.raises(ValueError, match=r"contribution is nan at index 5000") as caught:
        landscapes.Constant(np.where(np.arange(10_000) == 5000, np.nan, 1.0))
    assert len(str(caught.value)) < 120


def test_what_is_unusual_but_valid_passes() -> None:
    # Control: the rules above do not refuse everything.
    assert ed.Replicator(INF).signal_clip == INF
    assert ed.NormalizedGrowth(INF).mass_cap == INF
    assert ed.SelectionMutation(0, 0).mutation_rate == 0.0
    assert ed.SelectionMutation(np.array(0.5)).mutation_rate == 0.5
    assert landscapes.LinearDecay([-1.0, 2], decay=0).decay == 0.0
    assert landscapes.Constant(np.array([True, False])).groups == 2
    assert landscapes.Redundancy(1.0, np.eye(2), 0.0).groups == 2
    assert ed.Populations(ed.Replicator(), np.array([1, 2], dtype=np.int8)).sizes == (1, 2)


@given(st.floats(allow_nan=True) | st.none() | st.booleans() | st.text(max_size=3) | st.complex_numbers())
def test_a_number_is_returned_as_it_is_or_refused(value: Any) -> None:
    fine = isinstance(value, float) and value == value
    checks: list[tuple[Callable[[str, Any], float], bool]] = [
        (validation.numeric, fine),
        (validation.finite, fine and abs(value) < INF),
        (validation.non_negative, fine and 0 <= value < INF),
        (validation.positive, fine and 0 < value < INF),
    ]
    for check, passes in checks:
        if passes:
            assert check("x", value) == value and type(check("x", value)) is float
        else:
            with pytest.raises(ValueError, match=r"^x is .*; expected "):
                check("x", value)


@given(st.integers(-3, 3) | st.floats() | st.none() | st.booleans(), st.integers(0, 2))
def test_a_count_is_a_whole_number(value: Any, least: int) -> None:
    if type(value) is int and value >= least:
        assert validation.count("n", value, least=least) == value
    else:
        with pytest.raises(ValueError, match=rf"^n is .*; expected a whole number >= {least}\.$"):
            validation.count("n", value, least=least)
