"""Flips, positivity and period doubling of the maps, against algebra on a cubic map."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.integrate
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evodyn.analysis.discrete_stability import (
    error_constant,
    flip_step_size,
    orbit_period,
    orbits,
    positivity_step_size,
)
from evodyn.equilibria.equilibrium import equilibrium
from evodyn.model.dynamics import Dynamics, Scheme
from evodyn.model.equations import NormalizedGrowth, Replicator, SelectionMutation
from evodyn.model.games import MatrixGame
from evodyn.model.landscapes import Constant, LinearDecay, Recorded, Seasonal
from evodyn.model.populations import Populations
from evodyn.simulate.iterate import iterate
from evodyn.simulate.method import Solver
from evodyn.simulate.solve import solve

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


def test_absent_groups_are_projected_before_they_could_flip() -> None:
    landscape = LinearDecay([1.0, 0.9, -3.0], 1.0)
    point = equilibrium(Replicator(), landscape, total_mass=1.0)
    assert list(point.survivors) == [True, True, False]
    flip = flip_step_size(point)
    assert flip == flip_step_size(equilibrium(Replicator(), LinearDecay([1.0, 0.9], 1.0), total_mass=1.0))
    level = point.mean_fitness
    near = np.append(point.masses[:2] * [1.001, 0.999], 1e-6)
    projected = positivity_step_size(Replicator(), near, landscape(0.0, near))
    assert projected == pytest.approx(1 / (level + 3.0), rel=1e-3)
    assert flip > 2.1 * projected  # beyond the step at which the rare group's multiplier would be -1
    orbit = orbits(Replicator(), landscape, near, [0.98 * flip], transient=2000, keep=2)[0]
    np.testing.assert_allclose(orbit[-1], [*(point.masses[:2] * near[:2].sum()), 0.0], atol=1e-4)


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


# --- Global error --------------------------------------------------------------------------------------

C = np.array([1.0, 0.6, 0.1, -0.4])
START = np.array([0.5, 1.0, 1.5, 2.0])


def shares_under_constant_fitness(t: npt.ArrayLike) -> np.ndarray:
    raw = START * np.exp(np.multiply.outer(np.asarray(t), C))
    shares: np.ndarray = raw / raw.sum(axis=-1, keepdims=True)
    return shares


def test_error_constants_under_constant_fitness_are_integrals_of_the_shares() -> None:
    t = 1.5
    shares = shares_under_constant_fitness(t)
    # The exponential map has the exact shares; its mass grows by h²Var/2 a step, and Var = dφ̄/dt.
    gained = (shares @ C - START @ C / START.sum()) / 2
    exponential = error_constant(
        Replicator(), Constant(C), START, (0.0, t), save_at=[t], scheme="exponential"
    )
    np.testing.assert_allclose(exponential[0], START.sum() * shares * gained, rtol=1e-7)
    # ln(1 + hs) = hs - h²s²/2: Euler's log-ratios err by the integral of half the squared excess.
    lost = [
        scipy.integrate.quad(
            lambda s, i=i: -0.5 * (C[i] - shares_under_constant_fitness(s) @ C) ** 2, 0, t, epsabs=1e-13
        )[0]
        for i in range(4)
    ]
    euler = error_constant(Replicator(), Constant(C), START, (0.0, t), save_at=[0.0, t])
    np.testing.assert_allclose(euler[1], START.sum() * shares * (lost - shares @ lost), rtol=1e-7)
    assert (euler[0] == 0).all()
    # A cap at the initial mass takes the gain away: the rescaled exponential map is exact here.
    capped = NormalizedGrowth(mass_cap=float(START.sum()))
    none = error_constant(capped, Constant(C), START, (0.0, t), save_at=[t], scheme="exponential")
    np.testing.assert_allclose(none, 0.0, atol=1e-8)


@pytest.mark.parametrize("scheme", ["euler", "exponential"])
def test_error_constant_of_relaxing_mass(scheme: Scheme) -> None:
    # One group and nothing but mutation: Euler gives 1 - hμ for e^{-hμ}, the exponential map is exact.
    rate, target, p, t = 0.7, 0.5, 2.0, 1.3
    found = error_constant(
        SelectionMutation(rate, target=target), Constant([3.0]), [p], (0.0, t), save_at=[t], scheme=scheme
    )
    expected = -(rate**2) * t * (p - target) * np.exp(-rate * t) / 2 if scheme == "euler" else 0.0
    assert found.item() == pytest.approx(expected, rel=1e-7, abs=1e-8)


SEASONS = Seasonal(C, amplitude=[0.5, 0.0, 0.3, 0.1], period=2.0, phase=0.4) + LinearDecay(np.zeros(4), 0.3)


@pytest.mark.parametrize("scheme", ["euler", "exponential"])
@pytest.mark.parametrize(
    "dynamics",
    [
        Replicator(),
        Replicator(signal_clip=0.5),
        NormalizedGrowth(mass_cap=5.0),
        SelectionMutation(lambda t: 0.2 + 0.1 * np.sin(t), target=[0.0, 1.0, 2.0, 0.5]),
        Populations((Replicator(), SelectionMutation(0.3)), sizes=(2, 2)),
    ],
)
def test_error_constants_are_the_limit_of_the_maps_error(dynamics: Dynamics, scheme: Scheme) -> None:
    end = 2.0
    flow = solve(
        dynamics, SEASONS, START, (0.0, end), save_at=[end], solver=Solver(rtol=1e-12, atol=1e-13)
    ).masses[-1]
    quotients = [
        (iterate(dynamics, SEASONS, START, n, end / n, scheme=scheme, save_every=n).masses[-1] - flow)
        * n
        / end
        for n in (800, 1600)
    ]
    limit = 2 * quotients[1] - quotients[0]
    found = error_constant(dynamics, SEASONS, START, (0.0, end), save_at=[end], scheme=scheme)[0]
    # A clip has kinks, whose times the map meets to within a step only.
    np.testing.assert_allclose(limit, found, atol=5e-3 if isinstance(dynamics, Replicator) else 2e-4)
    assert np.abs(found).max() > 0.02
    # The checker can fail: the other scheme's constants are others.
    other: Scheme = "exponential" if scheme == "euler" else "euler"
    wrong = error_constant(dynamics, SEASONS, START, (0.0, end), save_at=[end], scheme=other)[0]
    assert np.abs(limit - wrong).max() > 0.02


@pytest.mark.slow
def test_absent_groups_have_no_error_and_what_has_no_expansion_is_refused() -> None:
    found = error_constant(Replicator(), TWINS, [1.5, 0.0], (0.0, 1.0))
    assert found.shape == (101, 2)
    assert (found[:, 1] == 0).all()
    record = Recorded([0.0, 1.0, 2.0], [[1.0, 0.0], [0.0, 1.0]])
    for dynamics, landscape, start, words in (
        (Replicator(), record, [1.0, 1.0], "breakpoint at t = 1"),
        (SelectionMutation(0.1), TWINS, [1.0, 0.0], "mutation revives"),
        (NormalizedGrowth(mass_cap=3.0, signal_clip=0.1), TWINS, [1.0, 1.0], "a clip and a cap"),
    ):
        with pytest.raises(ValueError, match=words):
            error_constant(dynamics, landscape, start, (0.0, 2.0))
    with pytest.raises(ValueError, match="scheme"):
        error_constant(Replicator(), TWINS, [1.0, 1.0], (0.0, 2.0), scheme="heun")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="shorter t_span"):
        error_constant(Replicator(), LinearDecay([1.0, 1.0], 1e6), [1.0, 1.5], (0.0, 1.0))
