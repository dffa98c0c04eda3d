"""Basins of attraction against separatrices that are known."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import evodyn as ed
from evodyn import landscapes

REPLICATOR = ed.Replicator()
CYCLE = np.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])


def test_a_coordination_game_is_decided_at_its_threshold() -> None:
    found = ed.basins(
        REPLICATOR, landscapes.MatrixGame(np.diag([3.0, 1.0])), starts=30, rng=1, total_mass=5.0
    )
    assert found.starts.sum(axis=1) == pytest.approx(np.full(30, 5.0))
    first = [int(point.masses.argmax()) for point in found.equilibria].index(0)
    # The first convention wins from a share of 1/4 on: 3/4 of all starts.
    assert ((found.ends == first) == (found.starts[:, 0] > 5 / 4)).all()
    low, high = found.intervals[first]
    assert low < 0.75 < high
    exact = stats.binomtest(int(found.counts[first]), 30).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((exact.low, exact.high))
    assert found.shares.sum() == 1 and found.cycles == found.unsettled == 0
    assert all(point.stability is ed.Stability.STABLE for point in found.equilibria)
    assert len(repr(found)) < 120


def test_starts_are_uniform_and_follow_from_the_seed() -> None:
    constant = landscapes.Constant([1.0, 0.5, 0.0])
    one, same, other = (ed.basins(REPLICATOR, constant, starts=200, rng=rng).starts for rng in (3, 3, 4))
    assert np.array_equal(one, same) and not np.array_equal(one, other)
    # A share of three, uniform on the triangle, is 1 - √u.
    assert stats.kstest(one[:, 0], lambda x: 1 - (1 - x) ** 2).pvalue > 1e-3
    found = ed.basins(REPLICATOR, constant, starts=5, rng=0)
    assert found.counts.tolist() == [5] and found.intervals[0][1] == 1.0
    (low, _), half = found.intervals[0], stats.norm.ppf(0.975) ** 2
    assert low == pytest.approx(5 / (5 + half))


def test_two_populations_meet_on_their_diagonal() -> None:
    """Battle of the sexes with equal stakes: whoever is ahead in sum of the odds wins."""
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(2, 8))
    starts = np.column_stack((x, 1 - x, y, 1 - y))
    blocks = ed.Populations(REPLICATOR, (2, 2))

    def coordination(t: float, p: np.ndarray) -> np.ndarray:
        return np.concatenate((p[2:] / p[2:].sum(), p[:2] / p[:2].sum()))

    found = ed.basins(blocks, coordination, starts=starts, rng=0)
    first = [point.masses[0] > 0.5 for point in found.equilibria].index(True)
    # dx/dt = x(1 - x)(2y - 1), and likewise y: x(1 - x) - y(1 - y) is constant, so x + y = 1 separates.
    assert ((found.ends == first) == (x + y > 1)).all()
    assert np.array_equal(found.starts, starts)
    game = landscapes.Constant([1.0, 0.0, 0.0, 1.0])
    assert ed.basins(blocks, game, starts=4, rng=0, total_mass=[1.0, 2.0]).counts.tolist() == [4]


@pytest.mark.slow
def test_orbits_that_close_and_orbits_that_never_do_are_told_apart() -> None:
    neutral = ed.basins(REPLICATOR, landscapes.MatrixGame(CYCLE), starts=[[0.5, 0.3, 0.2]], rng=0)
    assert (neutral.cycles, neutral.unsettled, neutral.ends.tolist()) == (1, 0, [-1])
    outwards = landscapes.MatrixGame(CYCLE - 0.5 * (CYCLE > 0))
    wandering = ed.basins(REPLICATOR, outwards, starts=[[0.5, 0.3, 0.2]], rng=0)
    assert (wandering.cycles, wandering.unsettled, wandering.ends.tolist()) == (0, 1, [-2])
    inwards = landscapes.MatrixGame(CYCLE + 0.5 * (CYCLE > 0))
    assert ed.basins(REPLICATOR, inwards, starts=3, rng=0).counts.tolist() == [3]


def test_a_continuum_is_one_and_other_dynamics_are_as_good() -> None:
    tied = ed.basins(REPLICATOR, landscapes.Constant([1.0, 1.0, 0.0]), starts=6, rng=0)
    assert tied.counts.tolist() == [6] and tied.equilibria[0].stability is ed.Stability.NEUTRAL
    grows = ed.Selection(lambda masses, fitness: fitness)
    competition = landscapes.Redundancy([1.0, 1.0], [[1.0, 2.0], [2.0, 1.0]], 1.0)
    found = ed.basins(grows, competition, starts=[[0.3, 0.2], [0.1, 0.4]], rng=0)
    # Each limits the other more than itself: whoever is ahead stays alone, at mass 1.
    assert [point.masses.round(9).tolist() for point in found.equilibria] == [[1.0, 0.0], [0.0, 1.0]]


def test_bad_input_is_named() -> None:
    game = landscapes.MatrixGame(np.eye(2))
    with pytest.raises(ValueError, match="starts is 0; expected a whole number >= 1"):
        ed.basins(REPLICATOR, game, starts=0, rng=0)
    with pytest.raises(ValueError, match=r"starts is -1\.0 at index \(0, 1\)"):
        ed.basins(REPLICATOR, game, starts=[[1.0, -1.0]], rng=0)
    with pytest.raises(ValueError, match=r"level is 2; expected a probability"):
        ed.basins(REPLICATOR, game, rng=0, level=2)
    with pytest.raises(ValueError, match="total_mass is None"):
        ed.basins(REPLICATOR, landscapes.LinearDecay([1.0, 2.0], 1.0), rng=0)
    grows = ed.Selection(lambda masses, fitness: fitness)
    with pytest.raises(ValueError, match="expected the total mass with which to start"):
        ed.basins(grows, landscapes.LinearDecay([1.0, 2.0], 1.0), rng=0)
