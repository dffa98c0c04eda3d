"""Specifications: frozen, with read-only copies of their arrays, compared by value, and short to print."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import evodyn as ed
from evodyn import landscapes
from evodyn.core.arrays import Array, FloatArray
from evodyn.core.specifications import OWN, Specification, summary
from evodyn.sweeps.points import configuration
from tests import strategies


def double(t: float, masses: Array) -> Array:
    return 2 * masses


def examples() -> list[Specification]:
    """Return specifications of every kind with arrays of 100 groups; equal each time, but never the same."""
    c = np.linspace(0.0, 1.0, 100)
    square = np.outer(c, c)
    return [
        ed.Replicator(),
        ed.Replicator(0.1),
        ed.NormalizedGrowth(3, 0.1),
        ed.SelectionMutation(0.1),
        ed.SelectionMutation(0.1, target=c, signal_clip=1.0),
        ed.SelectionMutation(math.exp, target=1.0),
        ed.Selection(np.multiply),
        ed.Populations(ed.SelectionMutation(0.1, target=c), (40, 60)),
        ed.Populations((ed.Replicator(), ed.NormalizedGrowth(2.0)), (40, 60)),
        landscapes.Constant(c),
        landscapes.LinearDecay(c, 0.5),
        landscapes.Entropic(c, 0.5),
        landscapes.MatrixGame(square),
        landscapes.Redundancy(c, square, 2.0),
        landscapes.Seasonal(c, c, 4.0, phase=c),
        landscapes.Recorded(np.arange(3.0), np.outer([1.0, 2.0], c), 0.1),
        landscapes.Constant(c) + double + landscapes.LinearDecay(c, 1.0),
    ]


def arrays_of(value: object) -> list[FloatArray]:
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, Specification):
        return [array for inner in vars(value).values() for array in arrays_of(inner)]
    if isinstance(value, tuple):
        return [array for inner in value for array in arrays_of(inner)]
    return []


everything = pytest.mark.parametrize("k", range(len(examples())), ids=[repr(x)[:40] for x in examples()])


@everything
def test_equal_by_value_and_by_nothing_less(k: int) -> None:
    mine = examples()[k]
    for j, other in enumerate(examples()):
        assert mine.same_as(other) is (j == k)
        assert other.same_as(mine) is (j == k)
    assert not mine.same_as(None) and not mine.same_as(1.0)


@everything
def test_frozen_with_read_only_arrays(k: int) -> None:
    specification = examples()[k]
    for name in specification.fields():
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(specification, name, 1.0)
    for array in arrays_of(specification):
        assert array.dtype == np.float64
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0.0


@everything
def test_copies_are_equal_and_read_only_too(k: int) -> None:
    specification = examples()[k]
    for other in (
        copy.copy(specification),
        copy.deepcopy(specification),
        pickle.loads(pickle.dumps(specification)),
        dataclasses.replace(specification),
    ):
        assert specification.same_as(other)
        assert not any(array.flags.writeable for array in arrays_of(other))


@everything
def test_representation_is_short(k: int) -> None:
    assert len(repr(examples()[k])) < 250
    assert repr(examples()[k]).startswith(type(examples()[k]).__name__ + "(")


def test_representations() -> None:
    assert repr(ed.Replicator(0.5)) == "Replicator(signal_clip=0.5)"
    assert repr(landscapes.Constant([1.0, 2.5])) == "Constant(contribution=[1. , 2.5])"
    assert "<100 array in [0, 1]>" in repr(landscapes.Constant(np.linspace(0, 1, 100)))
    assert "<3×3 array in [0, 1]>" in repr(landscapes.MatrixGame(np.eye(3)))
    total = landscapes.Constant([1.0]) + double
    assert repr(total) == "Sum(terms=(Constant(contribution=[1.]), double))"

    class Trained:
        def __init__(self) -> None:
            self.weights = np.zeros(10_000)

        def __call__(self, t: float, masses: Array) -> Array:
            return masses

        def __repr__(self) -> str:
            return f"Trained({self.weights.tolist()})"

    partial = functools.partial(np.multiply, np.zeros(10_000))
    for callable_ in (Trained(), partial):
        assert len(repr(landscapes.Constant([1.0]) + callable_)) < 150
    assert summary(()) == "()" and summary((1.0,)) == "(1.0,)"
    assert summary(np.float64(0.5)) == "0.5" and summary((np.int64(2), np.True_)) == "(2, True)"


@given(st.data())
def test_arrays_are_copied(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 5))
    c = data.draw(strategies.vectors(n, 0.0, 3.0))
    similarity = np.outer(c, c)
    made: list[Any] = [
        landscapes.Constant(c),
        landscapes.Seasonal(c, c, 1.0, c),
        landscapes.Redundancy(c, similarity, 1.0),
        landscapes.Recorded(np.arange(n + 1.0), similarity),
        ed.SelectionMutation(0.1, c),
        ed.Populations(ed.SelectionMutation(0.1, c), (1, n - 1)),
    ]
    before = [landscape(0.5, np.ones(n)) for landscape in made[:4]]
    velocity = [dynamics.velocity(np.ones(n), np.ones(n)) for dynamics in made[4:]]
    c += 1.0
    similarity += 1.0
    assert c.flags.writeable and similarity.flags.writeable
    for landscape, fitness in zip(made[:4], before, strict=True):
        np.testing.assert_array_equal(landscape(0.5, np.ones(n)), fitness)
    for dynamics, expected in zip(made[4:], velocity, strict=True):
        np.testing.assert_array_equal(dynamics.velocity(np.ones(n), np.ones(n)), expected)


def test_a_name_and_an_array_differ() -> None:
    # They could once not be compared at all.
    named, listed = ed.SelectionMutation(0.1), ed.SelectionMutation(0.1, [1.0, 2.0])
    assert not named.same_as(listed) and not listed.same_as(named)
    assert not listed.same_as(ed.SelectionMutation(0.1, 1.0))


@given(st.data())
def test_any_difference_counts(data: st.DataObject) -> None:
    c = data.draw(strategies.vectors(3, -3.0, 3.0))
    k = data.draw(st.integers(0, 2))
    nudged = c.copy()
    nudged[k] = np.nextafter(c[k], np.inf)
    assert landscapes.Constant(c).same_as(landscapes.Constant(c.copy()))
    assert not landscapes.Constant(c).same_as(landscapes.Constant(nudged))
    assert not landscapes.Constant(c).same_as(landscapes.LinearDecay(c, 0.0))
    assert not landscapes.LinearDecay(c, 0.0).same_as(landscapes.LinearDecay(c, 1e-300))


def test_values_are_what_counts_not_how_they_were_given() -> None:
    assert ed.Replicator(1).same_as(ed.Replicator(np.float64(1.0)))
    given: list[tuple[Any, Any]] = [([1, 2], np.array([1, 2])), (iter((1, 2)), (1, 2))]
    for sizes, same in given:
        assert ed.Populations(ed.Replicator(), sizes).same_as(ed.Populations(ed.Replicator(), same))
    members: Any = [ed.Replicator(), ed.Replicator()]
    assert ed.Populations(members, (1, 2)).same_as(ed.Populations(tuple(members), (1, 2)))
    single = np.array([1.0, 2.0], dtype=np.float32)
    assert landscapes.Constant(single).same_as(landscapes.Constant([1, 2]))
    assert not ed.Replicator().same_as(ed.NormalizedGrowth())
    assert not ed.Selection(np.add).same_as(ed.Selection(np.subtract))
    signed = landscapes.Constant([0.0, 1.0]), landscapes.Constant([-0.0, 1.0])
    assert not signed[0].same_as(signed[1])


def test_specifications_are_told_apart_by_identity_elsewhere() -> None:
    # `==` on arrays has no single answer; hashing and sets go by object.
    one, other = examples()[9], examples()[9]
    assert one.same_as(other) and one != other and len({one, other}) == 2
    assert {"Extinction", "Ensemble", "Lost", "LostDynamics", "Replicator", "Run", "Seed"} <= set(OWN)
    for cls in OWN.values():
        assert cls.__eq__ is object.__eq__ and cls.__hash__ is object.__hash__, cls


class Own(ed.Dynamics):
    """A dynamics whose state is in an attribute, as one writes it who does not think of dataclasses."""

    def __init__(self, speed: Any, **others: Any) -> None:
        self.speed = speed
        self._others = others

    @functools.cached_property
    def costly(self) -> object:
        return object()

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        return self.speed * fitness


class OwnLandscape(landscapes.Constant):
    """A landscape with a field of its base and an attribute of its own."""

    def __init__(self, contribution: Any, scale: float) -> None:
        super().__init__(contribution)
        self.scale = scale


class Slotted(Own):
    """A dynamics with part of its state in a slot."""

    __slots__ = ("extra",)

    def __init__(self, speed: float, extra: float) -> None:
        super().__init__(speed)
        self.extra = extra


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (Own(1.0), Own(1.0), Own(2.0)),
        (Own(1.0), Own(1.0), Own(1)),
        (Own(math.nan), Own(math.nan), Own(1.0)),
        (Own(np.array([1.0, 2.0])), Own(np.array([1.0, 2.0])), Own(np.array([1.0, 3.0]))),
        (Own(1.0, a=[np.zeros(2)]), Own(1.0, a=[np.zeros(2)]), Own(1.0, a=[np.ones(2)])),
        (Own(1.0, a={"b": 1}), Own(1.0, a={"b": 1}), Own(1.0, a={"c": 1})),
        (OwnLandscape([1.0], 2.0), OwnLandscape([1.0], 2.0), OwnLandscape([1.0], 3.0)),
        (Slotted(1.0, 2.0), Slotted(1.0, 2.0), Slotted(1.0, 3.0)),
        (
            ed.Populations(Own(1.0), (1, 2)),
            ed.Populations(Own(1.0), (1, 2)),
            ed.Populations(Own(2.0), (1, 2)),
        ),
        (
            landscapes.Constant([1.0]) + OwnLandscape([1.0], 2.0),
            landscapes.Constant([1.0]) + OwnLandscape([1.0], 2.0),
            landscapes.Constant([1.0]) + OwnLandscape([1.0], 3.0),
        ),
    ],
)
def test_attributes_beside_the_fields_count(one: Any, same: Any, other: Any) -> None:
    assert one.same_as(same) and same.same_as(one)
    assert not one.same_as(other) and not other.same_as(one)
    assert repr(one) == repr(same) != repr(other)
    assert copy.deepcopy(one).same_as(one) and pickle.loads(pickle.dumps(one)).same_as(one)


def test_caches_are_no_state() -> None:
    one, other = Own(1.0), Own(1.0)
    assert one.costly is not other.costly
    assert one.same_as(other) and repr(one) == "Own(_others={}, speed=1.0)"
    blocks = ed.Populations(ed.SelectionMutation(0.1, target=1.0), (4,) * 10)
    blocks.velocity(np.ones(40), np.ones(40))
    assert blocks.same_as(ed.Populations(ed.SelectionMutation(0.1, target=1.0), (4,) * 10))
    assert set(blocks.fields()) == {"dynamics", "sizes"}


def test_large_attributes_print_short() -> None:
    assert len(repr(Own(list(range(10_000)), table={str(k): k for k in range(10_000)}))) < 250


def test_attributes_beside_the_fields_tell_points_of_sweeps_apart() -> None:
    one, other = (configuration(Own(speed)) for speed in (2.0, 3.0))
    assert one != other
