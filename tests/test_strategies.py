"""The strategies reach the corners they promise, and what they draw is valid."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import find, given
from hypothesis import strategies as st

import evodyn as ed
from evodyn import landscapes
from tests import strategies


@given(st.data(), st.integers(1, 6))
def test_masses_are_valid(data: st.DataObject, n: int) -> None:
    p = data.draw(strategies.masses(n))
    assert p.shape == (n,) and np.isfinite(p).all() and (p >= 0).all() and p.sum() > 0
    assert (data.draw(strategies.masses(n, faces=False)) > 0).all()
    assert sum(data.draw(strategies.partitions(n))) == n


@pytest.mark.slow
def test_corners_are_reached() -> None:
    assert find(strategies.masses(3), lambda p: (p == 0).sum() == 2).max() > 0
    assert find(strategies.masses(2), lambda p: 0 < p.min() < 1e-200).min() > 0
    assert find(strategies.masses(2), lambda p: p.max() > 1e5).max() > 1e5
    tied = find(strategies.fitness(3), lambda phi: len(set(phi)) == 1)
    assert tied[0] == tied[2]
    assert find(strategies.states(), lambda state: state.size == 1).size == 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", strategies.LANDSCAPES)
def test_every_landscape_is_reached(kind: str) -> None:
    wanted = getattr(landscapes, kind)
    found = find(strategies.single_landscapes(2), lambda landscape: isinstance(landscape, wanted))
    assert isinstance(found, wanted)


@pytest.mark.parametrize(
    "kind", [ed.Replicator, ed.NormalizedGrowth, ed.SelectionMutation, ed.Selection, ed.Populations]
)
def test_every_dynamics_is_reached(kind: type) -> None:
    assert isinstance(find(strategies.dynamics(3), lambda dynamics: isinstance(dynamics, kind)), kind)


@given(st.data())
def test_what_is_drawn_runs(data: st.DataObject) -> None:
    n = data.draw(strategies.SIZES)
    dynamics, landscape = data.draw(strategies.dynamics(n)), data.draw(strategies.any_landscapes(n))
    fitness = landscape(1.0, np.ones(n))
    assert dynamics.velocity(np.ones(n), fitness).shape == (n,)
    assert landscape.groups in (n, None) and not math.isnan(fitness.sum())
