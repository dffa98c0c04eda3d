"""Flips, positivity and period doubling of the maps, against algebra on a cubic map."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evodyn.discrete_stability import flip_step_size, orbit_period, orbits, positivity_step_size
from evodyn.dynamics import Replicator, SelectionMutation
from evodyn.equilibria import equilibrium
from evodyn.landscapes import Constant, LinearDecay, MatrixGame

TWINS = LinearDecay([1.0, 1.0], 1.0)


@pytest.mark.parametrize(("n", "decay", "total"), [(2, 1.0, 2.0), (7, 0.3, 5.0), (50, 1e-3, 50.0)])
def test_the_uniform_point_flips_at_two(n: int, decay: float, total: float) -> None:
    landscape = LinearDecay(np.ones(n), decay)
    flip = flip_step_size(equilibrium(Replicator(), landscape, total_mass=total))
    assert flip == pytest.approx(2 * n / (decay * total), rel=1e-12)
    start = np.full(n, total / n)
    start[:2] += [1e-3 * total / n, -1e-3 * total / n]
    for factor, period in ((0.98, 1), (1.02, 2)):
        orbit = orbits(Replicator(), landscape, start, [factor * flip], transient=3000, keep=8)[0]
        assert orbit_period(orbit) == period


def test_the_flip_bounds_stability_of_unequal_groups_and_of_spirals() -> None:
    for landscape, total in (
        (LinearDecay([1.0, 0.8, 0.5], 1.0), 3.0),
        (MatrixGame([[0.0, -1.0, 2.0], [2.0, 0.0, -1.0], [-1.0, 2.0, 0.0]]), 1.0),
    ):
        point = equilibrium(Replicator(), landscape, total_mass=total)
        flip = flip_step_size(point)
        near = point.masses + 1e-4 * np.array([1.0, -1.5, 0.5])
        for factor, returns in ((0.95, True), (1.05, False)):
            orbit = orbits(Replicator(), landscape, near, [factor * flip], transient=4000, keep=2)[0]
            assert (np.abs(orbit[-1] - point.masses).max() < 1e-5) == returns


def test_amplitude_and_period_doubling_of_the_cubic_map() -> None:
    # With p = P(1 ± y)/2 the map is y -> (1 - a)y + ay³, a = ηλP/2: beyond a = 2 it alternates between
    # ±√((a - 2)/a); at a = 3 that cycle splits and then doubles its period without end.
    found = orbits(Replicator(), TWINS, [1.1, 0.9], [2.2, 2.8, 3.1, 3.26, 3.29, 3.9], transient=5000)
    for a, orbit in zip((2.2, 2.8), found, strict=False):
        np.testing.assert_allclose(np.ptp(orbit[:, 0]) / 2, np.sqrt((a - 2) / a), rtol=1e-9)
        assert orbit_period(orbit) == 2
    assert [orbit_period(orbit) for orbit in found[2:5]] == [2, 4, 8]
    assert orbit_period(found[5]) is None
    # The third orbit alternates, too, but no longer symmetrically.
    assert abs(found[2][:, 0].mean() - 1) > 0.01


@settings(max_examples=100, deadline=None)
@given(
    masses=hnp.arrays(float, 4, elements=st.floats(1e-3, 10)),
    fitness=hnp.arrays(float, 4, elements=st.floats(-5, 5)),
    rate=st.sampled_from([0.0, 0.3]),
    clip=st.sampled_from([None, 0.5]),
)
def test_positivity_is_lost_exactly_beyond_the_bound(
    masses: np.ndarray, fitness: np.ndarray, rate: float, clip: float | None
) -> None:
    dynamics = SelectionMutation(rate, target=1.0, signal_clip=clip) if rate else Replicator(signal_clip=clip)
    bound = positivity_step_size(dynamics, masses, fitness)
    if not np.isfinite(bound) or bound > 1e6:
        return
    inside, outside = (masses + f * bound * dynamics.velocity(masses, fitness) for f in (0.999, 1.001))
    assert (inside > 0).all() and (outside < 0).any()
    if clip is not None and not rate:
        assert bound >= 1 / clip * (1 - 1e-12)


def test_edges_and_errors() -> None:
    assert positivity_step_size(Replicator(), [1.0, 1.0], [2.0, 2.0]) == np.inf
    assert flip_step_size(equilibrium(Replicator(), Constant([1.0]))) == np.inf
    coordination = MatrixGame([[2.0, 0.0], [0.0, 1.0]])
    assert flip_step_size(equilibrium(Replicator(), coordination)) == 0.0
    zero_sum = MatrixGame([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    assert flip_step_size(equilibrium(Replicator(), zero_sum)) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(ValueError, match="eigenvalues=True"):
        flip_step_size(equilibrium(Replicator(), Constant([1.0, 2.0]), eigenvalues=False))
    with pytest.raises(ValueError, match=r"step_sizes\[1\]"):
        orbits(Replicator(), TWINS, [1.0, 1.0], [1.0, -1.0])
    with pytest.raises(ValueError, match="p0"):
        orbits(Replicator(), TWINS, [0.0, 0.0], [1.0])
