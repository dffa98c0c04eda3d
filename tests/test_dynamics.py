"""Velocities (Eqs. 5-8) and maps (Eqs. 12-14) against references, and what the equations imply."""

from __future__ import annotations

import functools
import importlib.util
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import evodyn as ed
from evodyn.model.dynamics import Scheme
from tests import references, strategies
from tests.libraries import Library
from tests.strategies import State

EPS = float(np.finfo(float).eps)
TINY = 5e-324
SCHEMES: tuple[Scheme, ...] = ("euler", "exponential")
schemes = st.sampled_from(SCHEMES)
step_sizes = st.sampled_from([0.0, 1e-3, 0.5]) | st.floats(0.0, 2.0, allow_subnormal=False)


@st.composite
def cases(draw: st.DrawFn) -> tuple[State, ed.Dynamics, float]:
    state = draw(strategies.states())
    return state, draw(strategies.dynamics(state.size)), draw(strategies.numbers(0.0, 3.0))


def rounding(state: State, dynamics: ed.Dynamics, time: float) -> Any:
    """Return a bound on the rounding of a velocity: a few units of the size of its terms."""
    n = state.size
    p, phi = state.masses, np.abs(state.fitness)
    largest = 2 * phi.max() + p.max() * isinstance(dynamics, ed.Selection | ed.Populations)
    flow = np.zeros(n)
    for block, member in dynamics.blocks(n):
        if isinstance(member, ed.SelectionMutation):
            target = references.rounded(references.target_masses(member, block.stop - block.start))
            flow[block] = float(references.mutation_rate(member, time)) * (target + p[block])
    # Products of tiny masses round in units of the smallest subnormal number.
    living = p[p > 0].min()
    return 8 * n * (EPS * (p * largest + flow) + TINY * (1 + p / living))


@given(cases())
@example((State(np.array([0.0, 1.0, 2.0]), np.array([np.inf, 1.0, 2.0])), ed.Replicator(), 0.0))
def test_velocity_is_the_printed_equation(library: Library, case: tuple[State, ed.Dynamics, float]) -> None:
    state, dynamics, time = case
    found = library.read(
        dynamics.velocity(library.array(state.masses), library.array(state.fitness), time=time)
    )
    p, phi = references.exact(state.masses), references.exact(state.fitness)
    expected = references.rounded(references.velocity(dynamics, p, phi, time))
    living = State(state.masses, np.where(state.masses > 0, state.fitness, 0))
    assert (np.abs(found - expected) <= rounding(living, dynamics, time)).all(), (found, expected)


@given(cases(), step_sizes, schemes)
@example((State(np.zeros(2), np.zeros(2)), ed.SelectionMutation(1e-12, 1.0), 0.0), 1.0, "exponential")
def test_step_is_the_printed_equation(
    library: Library, case: tuple[State, ed.Dynamics, float], h: float, scheme: Scheme
) -> None:
    state, dynamics, time = case
    p, phi = references.exact(state.masses), references.exact(state.fitness)
    exact = references.step(dynamics, p, phi, h, time, scheme)
    expected = references.rounded(exact)
    assume(np.isfinite(expected).all() and expected.sum() < 1e150)
    found = library.read(
        dynamics.step(library.array(state.masses), library.array(state.fitness), h, time=time, scheme=scheme)
    )
    # Beside the velocity's own rounding: that of the sum and of the exponential's argument.
    growth = np.abs(state.fitness).max() + state.masses.max()
    terms = 8 * state.size * (1 + h * (1 + growth)) * (EPS * (state.masses + expected) + TINY)
    slack = terms + h * rounding(state, dynamics, time) if state.masses.any() else 8 * EPS * expected
    capped = any(getattr(member, "mass_cap", None) is not None for _, member in dynamics.blocks(state.size))
    if capped:
        # Rounding in any one mass moves all of them once they are rescaled.
        slack = slack + expected * slack.sum() / expected.sum()
    assert (np.abs(found - expected) <= slack).all(), (found, expected, slack)


def test_a_wrong_equation_is_noticed() -> None:
    # Negative control: an unweighted mean, the commonest misreading of Eq. 6, must not pass the reference.
    p, phi = np.array([1.0, 3.0]), np.array([2.0, 0.0])
    wrong = p * (phi - phi.mean())
    expected = references.rounded(references.replicator(references.exact(p), references.exact(phi)))
    bound = rounding(State(p, phi), ed.Replicator(), 0.0)
    assert (np.abs(wrong - expected) > bound).all()
    assert (np.abs(ed.Replicator().velocity(p, phi) - expected) <= bound).all()


@given(st.data(), schemes)
def test_a_batch_is_its_members(data: st.DataObject, scheme: Scheme) -> None:
    n = data.draw(strategies.SIZES)
    dynamics = data.draw(strategies.dynamics(n))
    masses = np.array([[data.draw(strategies.masses(n)) for _ in range(3)] for _ in range(2)])
    fitness = np.array([[data.draw(strategies.fitness(n)) for _ in range(3)] for _ in range(2)])
    with np.errstate(over="ignore", invalid="ignore"):
        velocity = dynamics.velocity(masses, fitness, time=0.5)
        stepped = dynamics.step(masses, fitness, 0.1, time=0.5, scheme=scheme)
        for i in range(2):
            for j in range(3):
                alone = dynamics.velocity(masses[i, j], fitness[i, j], time=0.5)
                np.testing.assert_array_equal(velocity[i, j], alone)
                alone = dynamics.step(masses[i, j], fitness[i, j], 0.1, time=0.5, scheme=scheme)
                np.testing.assert_array_equal(stepped[i, j], alone)


def test_a_large_batch_is_its_members(library: Library) -> None:
    rng = np.random.default_rng(1)
    masses, fitness = rng.lognormal(size=(3, 2, 257)), rng.normal(size=(3, 2, 257))
    dynamics = ed.Populations(
        (ed.NormalizedGrowth(50.0, 0.5), ed.SelectionMutation(0.1, 2.0), ed.Replicator()), (100, 56, 101)
    )
    for scheme in SCHEMES:
        batch = library.read(dynamics.step(library.array(masses), library.array(fitness), 0.1, scheme=scheme))
        assert batch.shape == masses.shape
        for index in np.ndindex(3, 2):
            alone = dynamics.step(masses[index], fitness[index], 0.1, scheme=scheme)
            np.testing.assert_allclose(batch[index], alone, rtol=1e-14)


@given(cases(), schemes)
def test_one_fitness_for_a_batch_of_masses_and_the_reverse(
    case: tuple[State, ed.Dynamics, float], scheme: Scheme
) -> None:
    state, dynamics, time = case
    masses = np.stack((state.masses, state.masses[::-1]))
    with np.errstate(over="ignore", invalid="ignore"):
        for p, phi in ((masses, state.fitness), (state.masses, np.stack((state.fitness, -state.fitness)))):
            both, each = np.broadcast_arrays(p, phi)
            np.testing.assert_array_equal(
                dynamics.velocity(p, phi, time=time), dynamics.velocity(both, each, time=time)
            )
            np.testing.assert_array_equal(
                dynamics.step(p, phi, 0.1, time=time, scheme=scheme),
                dynamics.step(both, each, 0.1, time=time, scheme=scheme),
            )


# Equations 6 and 7


@given(strategies.states(), strategies.CLIPS, step_sizes, schemes)
def test_equations_6_and_7_are_equal_bit_for_bit(
    state: State, clip: float | None, h: float, scheme: Scheme
) -> None:
    p, phi = state.masses, state.fitness
    with np.errstate(over="ignore", invalid="ignore"):
        six, seven = ed.Replicator(clip), ed.NormalizedGrowth(signal_clip=clip)
        np.testing.assert_array_equal(six.velocity(p, phi), seven.velocity(p, phi))
        stepped = six.step(p, phi, h, scheme=scheme)
        np.testing.assert_array_equal(stepped, seven.step(p, phi, h, scheme=scheme))
        assume(0 < stepped.sum() < np.inf)
        loose = ed.NormalizedGrowth(float(stepped.sum()), clip)
        np.testing.assert_array_equal(stepped, loose.step(p, phi, h, scheme=scheme))


def test_a_cap_at_the_initial_mass_never_acts_on_rounding() -> None:
    # The paper's set-up: 768 unit masses under a cap of 768.
    rng = np.random.default_rng(0)
    six = seven = np.ones(768)
    capped = ed.NormalizedGrowth(mass_cap=768.0)
    for _ in range(3000):
        phi = rng.lognormal(size=768)
        six, seven = ed.Replicator().step(six, phi, 5e-4), capped.step(seven, phi, 5e-4)
    np.testing.assert_array_equal(six, seven)
    assert np.ptp(six) > 0.01


def test_a_binding_cap_separates_them() -> None:
    p, phi = np.array([1.0, 1.0, 1.0]), np.array([5.0, 0.0, 0.0])
    free = ed.NormalizedGrowth(3.0, signal_clip=0.1).step(p, phi, 0.5)
    # The best gains as much as each of the others loses: mass falls, and the cap cannot bind.
    np.testing.assert_array_equal(free, ed.Replicator(signal_clip=0.1).step(p, phi, 0.5))
    bound = ed.NormalizedGrowth(3.0, signal_clip=0.1).step(p, -phi, 0.5)
    assert bound.sum() == pytest.approx(3.0, rel=1e-15)
    assert (bound < ed.Replicator(signal_clip=0.1).step(p, -phi, 0.5)).all()


# Mass


@given(strategies.states(), st.floats(0.0, 2.0, allow_subnormal=False))
def test_the_replicator_conserves_mass(state: State, h: float) -> None:
    p, phi = state.masses, state.fitness
    largest = np.abs(phi).max()
    bound = 8 * state.size * (EPS * p.sum() * largest + state.size * TINY)
    assert abs(ed.Replicator().velocity(p, phi).sum()) <= bound
    new = ed.Replicator().step(p, phi, h)
    if (h * (ed.mean_fitness(p, phi) - phi) < 1).all():
        assert abs(new.sum() - p.sum()) <= 8 * state.size * EPS * p.sum() + h * bound


@given(strategies.states(least=2), st.floats(1.01, 10.0))
def test_projection_creates_mass(state: State, excess: float) -> None:
    p, phi = state.masses, state.fitness
    deficit = np.where(p > 0, ed.mean_fitness(p, phi) - phi, 0.0)
    worst = int(np.argmax(deficit))
    h = excess / deficit[worst] if deficit[worst] > 1e-3 else 0.0
    assume(h > 0)
    new = ed.Replicator().step(p, phi, h)
    assert new[worst] == 0
    # Exactly what was cut off: Σ p (h d - 1)_+, lost in rounding only if the group hardly has a mass.
    created = float(np.sum(p * np.maximum(h * deficit - 1, 0)))
    slack = 16 * state.size * EPS * (1 + h * np.abs(phi).max()) * p.sum() + TINY
    assert new.sum() - p.sum() == pytest.approx(created, abs=slack)


@given(st.data())
def test_mutation_relaxes_total_mass_to_that_of_the_target(data: st.DataObject) -> None:
    state = data.draw(strategies.states())
    dynamics = data.draw(strategies.mutations(state.size, clip=False))
    p, phi = state.masses, state.fitness
    rate = float(references.mutation_rate(dynamics, 0.0))
    targets = references.rounded(references.target_masses(dynamics, state.size))
    expected = rate * (targets.sum() - p.sum())
    slack = rounding(state, dynamics, 0.0).sum() + 8 * state.size * EPS * p.sum() * np.abs(phi).max()
    assert dynamics.velocity(p, phi).sum() == pytest.approx(expected, abs=slack)


def test_the_printed_target_is_a_sink() -> None:
    # From 768 unit masses Eq. 14 as printed leads to total mass 1, as 1 + 767 (1 - ηµ)^n.
    rng = np.random.default_rng(2)
    dynamics, p, h = ed.SelectionMutation(0.5), np.ones(768), 0.1
    for n in range(1, 401):
        p = dynamics.step(p, rng.normal(size=768), h)
        if n % 100 == 0:
            assert p.sum() == pytest.approx(1 + 767 * (1 - h * 0.5) ** n, rel=1e-12)
    assert p.sum() == pytest.approx(1.0, abs=1e-5)


def test_a_clip_breaks_the_conservation_of_mass() -> None:
    # Control for the two tests above: their bound is not so wide that anything passes.
    p, phi = np.array([1.0, 1.0, 1.0]), np.array([5.0, 0.0, 0.0])
    assert ed.Replicator(signal_clip=0.1).velocity(p, phi).sum() == pytest.approx(-0.1)


# Clip, positivity, cap


@given(st.data(), st.floats(1e-3, 0.9), st.floats(0.1, 1.0))
def test_the_clip_is_a_floor_and_a_ceiling(data: st.DataObject, clip: float, h: float) -> None:
    n, steps = data.draw(st.integers(1, 4)), 20
    start = p = data.draw(strategies.masses(n))
    dynamics = data.draw(st.sampled_from([ed.Replicator(clip), ed.NormalizedGrowth(signal_clip=clip)]))
    for _ in range(steps):
        p = dynamics.step(p, data.draw(strategies.fitness(n)), h)
    slack = 1 + 100 * EPS
    assert (p >= start * (1 - h * clip) ** steps / slack - steps * TINY).all()
    assert (p <= start * (1 + h * clip) ** steps * slack + steps * TINY).all()


def test_the_floor_of_the_paper() -> None:
    # A group pinned at the floor for 20 epochs of 469 batches; the paper's text pins its own numbers.
    def pinned(dynamics: ed.Dynamics, groups: int = 2) -> float:
        p = np.ones(groups)
        phi = np.where(np.arange(groups) == 0, -1e9, 0.0)
        for _ in range(9380):
            p = dynamics.step(p, phi, 5e-4)
        return float(p[0])

    assert pinned(ed.Replicator(signal_clip=0.1)) == pytest.approx(0.6256, abs=5e-5)
    assert pinned(ed.SelectionMutation(2e-3, target=1.0, signal_clip=0.1)) == pytest.approx(0.6272, abs=5e-5)
    printed = ed.SelectionMutation(2e-3, target=1 / 768, signal_clip=0.1)
    assert pinned(printed) == pytest.approx(0.6197, abs=1e-4)
    # Under a binding cap: one falls at the clip while nearly all the mass rises at it.
    capped, p = ed.NormalizedGrowth(768.0, signal_clip=0.1), np.ones(768)
    phi = np.where(np.arange(768) == 0, -1e9, 1e3)
    for _ in range(9380):
        p = capped.step(p, phi, 5e-4)
    assert p.sum() == pytest.approx(768.0, rel=1e-12)
    assert p[0] == pytest.approx(((1 - 5e-5) / (1 + 5e-5)) ** 9380, rel=2e-3)
    assert p[0] == pytest.approx(0.391, abs=1e-3)


@given(strategies.states(least=2, faces=False), st.sampled_from([1 - 1e-9, 1 + 1e-9, 0.5, 2.0]))
def test_euler_is_positive_exactly_below_its_bound(state: State, ratio: float) -> None:
    p, phi = state.masses, state.fitness
    deficit = -references.rounded(references.signal(references.exact(p), references.exact(phi), None))
    worst = deficit.max()
    assume(worst > 1e-3)
    new = ed.Replicator().step(p, phi, ratio / worst)
    # h (φ̄ - φ_i) < 1 for every group: nothing is projected; beyond it, exactly the groups beyond it are.
    beyond = deficit * (ratio / worst) >= 1
    np.testing.assert_array_equal(new == 0, beyond)


@given(st.data(), st.sampled_from([1 - 1e-6, 1 + 1e-6, 0.5, 2.0]))
def test_euler_with_mutation_is_positive_exactly_below_its_bound(data: st.DataObject, ratio: float) -> None:
    n = data.draw(st.integers(2, 5))
    p, phi = data.draw(strategies.vectors(n, 0.1, 10.0)), data.draw(strategies.fitness(n, 10.0))
    rate, target = data.draw(st.floats(1e-3, 2.0)), data.draw(strategies.vectors(n, 0.0, 1.0))
    mean = float(references.mean_fitness(references.exact(p), references.exact(phi)))
    pull = mean - phi + rate * (1 - target / p)
    assume(pull.max() > 1e-2)
    h = ratio / pull.max()
    new = ed.SelectionMutation(rate, target).step(p, phi, h)
    np.testing.assert_array_equal(new == 0, h * pull >= 1)


@given(cases(), st.floats(0.0, 2.0, allow_subnormal=False))
def test_the_exponential_map_is_positive_where_there_was_mass(
    case: tuple[State, ed.Dynamics, float], h: float
) -> None:
    state, dynamics, time = case
    assume((state.masses[state.masses > 0] > 1e-150).all() and state.masses.max() < 100)
    new = dynamics.step(state.masses, state.fitness, h, time=time, scheme="exponential")
    assert (new[state.masses > 0] > 0).all()
    assert (new >= 0).all()


@given(cases(), schemes, st.floats(0.0, 100.0))
def test_no_step_returns_a_negative_mass(
    case: tuple[State, ed.Dynamics, float], scheme: Scheme, h: float
) -> None:
    state, dynamics, time = case
    with np.errstate(over="ignore", invalid="ignore"):
        new = dynamics.step(state.masses, state.fitness, h, time=time, scheme=scheme)
    assert not (new < 0).any()


@given(strategies.states(least=2, faces=False, greatest=5.0), st.floats(0.0, 2.0, allow_subnormal=False))
def test_the_exponential_map_is_the_flow_of_frozen_fitness_up_to_a_scalar(state: State, h: float) -> None:
    assume(state.masses.min() > 1e-200)
    new = ed.Replicator().step(state.masses, state.fitness, h, scheme="exponential")
    ratio = np.log(new) - np.log(state.masses) - h * state.fitness
    assert np.ptp(ratio) <= 1e-12 * (1 + h)


@given(st.data())
def test_a_cap_acts_only_beyond_rounding(data: st.DataObject) -> None:
    n = data.draw(strategies.SIZES)
    p = data.draw(strategies.masses(n))
    total = p.sum()
    still = np.zeros(n)
    within = ed.NormalizedGrowth(float(total / (1 + 0.4 * n * EPS)))
    np.testing.assert_array_equal(within.step(p, still, 1.0), p)
    beyond = ed.NormalizedGrowth(float(total / (1 + 3 * n * EPS)))
    capped = beyond.step(p, still, 1.0)
    assert capped.sum() < total
    half = ed.NormalizedGrowth(float(total / 2)).step(p, still, 1.0)
    np.testing.assert_allclose(half, p / 2, rtol=4 * n * EPS, atol=TINY)


# Blocks


@given(st.data(), schemes)
def test_populations_are_their_blocks(data: st.DataObject, scheme: Scheme) -> None:
    n = data.draw(strategies.SIZES)
    layers = data.draw(strategies.populations(n))
    p, phi = data.draw(strategies.masses(n)), data.draw(strategies.fitness(n))
    members = layers.dynamics
    assert isinstance(members, tuple)
    with np.errstate(over="ignore", invalid="ignore"):
        velocity, stepped = (
            layers.velocity(p, phi, time=2.0),
            layers.step(p, phi, 0.3, time=2.0, scheme=scheme),
        )
        for part, member in zip(layers.slices, members, strict=True):
            np.testing.assert_array_equal(velocity[part], member.velocity(p[part], phi[part], time=2.0))
            alone = member.step(p[part], phi[part], 0.3, time=2.0, scheme=scheme)
            np.testing.assert_array_equal(stepped[part], alone)


def test_one_dynamics_serves_every_block_with_a_number_of_groups_of_its_own() -> None:
    p, phi = np.zeros(5), np.zeros(5)
    uniform = ed.Populations(ed.SelectionMutation(1.0), (2, 3))
    np.testing.assert_array_equal(uniform.velocity(p, phi), [1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3])
    listed = ed.Populations(ed.SelectionMutation(1.0, [1.0, 2.0, 3.0, 4.0, 5.0]), (2, 3))
    np.testing.assert_array_equal(listed.velocity(p, phi), [1.0, 2.0, 3.0, 4.0, 5.0])
    capped = ed.Populations(ed.NormalizedGrowth(2.0), (1, 2))
    np.testing.assert_allclose(capped.step(np.array([4.0, 1.0, 0.5]), np.zeros(3), 1.0), [2.0, 1.0, 0.5])


# Symmetries


@given(st.data(), schemes, st.floats(-1e6, 1e6))
def test_adding_a_constant_to_all_fitness_changes_nothing(
    data: st.DataObject, scheme: Scheme, shift: float
) -> None:
    state = data.draw(strategies.states(greatest=5.0))
    dynamics = data.draw(
        st.just(ed.Replicator()) | st.just(ed.Replicator(0.5)) | strategies.mutations(state.size)
    )
    p, phi = state.masses, state.fitness
    slack = 8 * state.size * EPS * (abs(shift) + 5)
    moved = dynamics.velocity(p, phi + shift) - dynamics.velocity(p, phi)
    assert (np.abs(moved) <= slack * p + 16 * state.size * EPS * np.abs(dynamics.velocity(p, phi))).all()
    before, after = (dynamics.step(p, f, 0.1, scheme=scheme) for f in (phi, phi + shift))
    assert (np.abs(after - before) <= (slack + 64 * EPS) * (p + before)).all()


@given(st.data(), schemes)
def test_permuting_groups_permutes_the_answer(data: st.DataObject, scheme: Scheme) -> None:
    state = data.draw(strategies.states())
    order = np.array(data.draw(st.permutations(range(state.size))))
    dynamics = data.draw(st.sampled_from([ed.Replicator(), ed.NormalizedGrowth(1.0, 0.2)]))
    targets = data.draw(strategies.vectors(state.size, 0.0, 3.0))
    mutated = ed.SelectionMutation(0.3, targets), ed.SelectionMutation(0.3, targets[order])
    p, phi = state.masses, state.fitness
    bound = 32 * state.size * EPS * (1 + np.abs(phi).max())
    for plain, permuted in ((dynamics, dynamics), mutated):
        slack = bound * (p + (0 if plain is dynamics else targets))[order] + 100 * TINY
        expected = plain.velocity(p, phi)[order]
        assert (np.abs(permuted.velocity(p[order], phi[order]) - expected) <= slack).all()
        expected = plain.step(p, phi, 1e-2, scheme=scheme)[order]
        found = permuted.step(p[order], phi[order], 1e-2, scheme=scheme)
        assert (np.abs(found - expected) <= slack + bound * expected).all()


@given(strategies.states(), st.integers(-8, 8), strategies.CLIPS)
@example(
    strategies.State(np.array([1e-162, 1.0, 1.0]), np.array([0.0, 0.0, 1.4402994410391385e-150])), 2, None
)
def test_fitness_sets_the_unit_of_time(state: State, power: int, clip: float | None) -> None:
    k = 2.0**power
    p, phi = state.masses, np.where(np.abs(state.fitness) < 1e-200, 0, state.fitness)
    assume(p[p > 0].min() > 1e-250)
    slow, fast = ed.Replicator(clip), ed.Replicator(None if clip is None else clip * k)
    # To the last bit, but for numbers that have fewer bits than others.
    same = functools.partial(np.testing.assert_allclose, rtol=0, atol=2000 * TINY)
    with np.errstate(over="ignore", invalid="ignore"):
        same(fast.velocity(p, phi * k), slow.velocity(p, phi) * k)
        for scheme in SCHEMES:
            same(fast.step(p, phi * k, 0.1 / k, scheme=scheme), slow.step(p, phi, 0.1, scheme=scheme))


@given(strategies.states(), st.integers(-40, 40), strategies.CLIPS)
def test_the_unit_of_mass_is_arbitrary(state: State, power: int, clip: float | None) -> None:
    k = 2.0**power
    p, phi = state.masses, np.where(np.abs(state.fitness) < 1e-20, 0, state.fitness)
    assume(p[p > 0].min() > 1e-250)
    pairs: list[tuple[ed.Dynamics, ed.Dynamics]] = [
        (ed.Replicator(clip), ed.Replicator(clip)),
        (ed.NormalizedGrowth(1.0, clip), ed.NormalizedGrowth(k, clip)),
        (ed.SelectionMutation(0.1, 2.0, clip), ed.SelectionMutation(0.1, 2.0 * k, clip)),
    ]
    with np.errstate(over="ignore", invalid="ignore"):
        for one, other in pairs:
            np.testing.assert_array_equal(other.velocity(k * p, phi), k * one.velocity(p, phi))
            for scheme in SCHEMES:
                np.testing.assert_array_equal(
                    other.step(k * p, phi, 0.1, scheme=scheme), k * one.step(p, phi, 0.1, scheme=scheme)
                )


# The step and the velocity


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(
    "dynamics",
    [
        ed.Replicator(),
        ed.Replicator(0.3),
        ed.NormalizedGrowth(100.0),
        ed.SelectionMutation(0.4, [1.0, 0.0, 2.0, 1.0, 0.5]),
        ed.SelectionMutation(lambda t: 1 + t, signal_clip=0.3),
        ed.Selection(lambda p, phi: phi * (1 - p)),
        ed.Populations((ed.Replicator(), ed.SelectionMutation(0.2)), (2, 3)),
    ],
    ids=repr,
)
def test_a_step_is_the_velocity_to_first_order(dynamics: ed.Dynamics, scheme: Scheme) -> None:
    p, phi = np.array([0.0, 0.5, 1.0, 2.0, 3.0]), np.array([1.0, -1.0, 2.0, 0.5, 0.0])
    velocity = dynamics.velocity(p, phi, time=0.7)
    error = np.array(
        [
            np.abs((dynamics.step(p, phi, h, time=0.7, scheme=scheme) - p) / h - velocity).max()
            for h in (1e-3, 5e-4)
        ]
    )
    if scheme == "euler":
        assert (error < 1e-11).all()
    else:
        assert error[0] > 1e-6
        assert np.log2(error[0] / error[1]) == pytest.approx(1.0, abs=0.05)


# Extremes


@given(st.data(), schemes)
def test_without_mass_there_is_nothing_but_the_inflow(
    library: Library, data: st.DataObject, scheme: Scheme
) -> None:
    n = data.draw(strategies.SIZES)
    dynamics = data.draw(strategies.dynamics(n))
    phi = np.full(n, data.draw(st.sampled_from([0.0, 1.0, np.inf, np.nan])))
    if isinstance(dynamics, ed.Selection | ed.Populations):
        phi = np.ones(n)  # a user's own function may not take infinities
    velocity = library.read(dynamics.velocity(library.array(np.zeros(n)), library.array(phi), time=1.0))
    inflow = np.zeros(n)
    for block, member in dynamics.blocks(n):
        if isinstance(member, ed.SelectionMutation):
            m = references.rounded(references.target_masses(member, block.stop - block.start))
            inflow[block] = float(references.mutation_rate(member, 1.0)) * m
    np.testing.assert_allclose(velocity, inflow, rtol=1e-15)
    new = library.read(
        dynamics.step(library.array(np.zeros(n)), library.array(phi), 0.5, time=1.0, scheme=scheme)
    )
    assert ((new > 0) == (inflow > 0)).all() and np.isfinite(new).all()


@given(cases(), schemes)
def test_without_mutation_a_zero_stays_exactly_zero(
    case: tuple[State, ed.Dynamics, float], scheme: Scheme
) -> None:
    state, dynamics, time = case
    inflow = np.zeros(state.size, dtype=bool)
    for block, member in dynamics.blocks(state.size):
        inflow[block] = isinstance(member, ed.SelectionMutation)
    absent = (state.masses == 0) & ~inflow
    phi = np.where(absent & (np.arange(state.size) % 2 == 0), 1e300, state.fitness)
    with np.errstate(over="ignore", invalid="ignore"):
        assert (dynamics.velocity(state.masses, phi, time=time)[absent] == 0).all()
        assert (dynamics.step(state.masses, phi, 1.0, time=time, scheme=scheme)[absent] == 0).all()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    "dynamics",
    [
        ed.Replicator(),
        ed.Replicator(0.1),
        ed.NormalizedGrowth(1.0, 0.1),
        ed.SelectionMutation(0.1, 1.0, 0.1),
        ed.Selection(lambda p, phi: phi),
        ed.Populations(ed.NormalizedGrowth(1.0, 0.1), (3, 1)),
    ],
    ids=repr,
)
def test_a_living_group_without_finite_fitness_stays_visible(
    library: Library, dynamics: ed.Dynamics, bad: float, scheme: Scheme
) -> None:
    p, phi = np.array([1.0, 0.0, 2.0, 1.0]), np.array([0.0, bad, bad, 0.5])
    with np.errstate(invalid="ignore"):
        velocity = library.read(dynamics.velocity(library.array(p), library.array(phi)))
        new = library.read(dynamics.step(library.array(p), library.array(phi), 0.1, scheme=scheme))
    assert not np.isfinite(velocity[2])
    # An infinite loss of an unnormalised growth rate (Eq. 5) may bring a mass to its true limit, 0.
    lost = isinstance(dynamics, ed.Selection) and bad == -np.inf
    assert new[2] == 0 if lost else not np.isfinite(new[2])
    # A bad fitness where there is no mass is nobody's.
    calm = np.where(np.arange(4) == 2, 0.0, phi)
    assert np.isfinite(library.read(dynamics.velocity(library.array(p), library.array(calm)))).all()
    assert np.isfinite(library.read(dynamics.step(library.array(p), library.array(calm), 0.1))).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_mass_that_is_not_a_number_stays_visible(library: Library, scheme: Scheme) -> None:
    p, phi = np.array([1.0, np.nan]), np.array([0.0, 1.0])
    for dynamics in (ed.Replicator(0.1), ed.NormalizedGrowth(1.0), ed.SelectionMutation(0.1)):
        assert np.isnan(library.read(dynamics.velocity(library.array(p), library.array(phi)))).any()
        new = library.read(dynamics.step(library.array(p), library.array(phi), 0.1, scheme=scheme))
        assert np.isnan(new[1])


@given(cases(), schemes)
def test_inputs_are_untouched(case: tuple[State, ed.Dynamics, float], scheme: Scheme) -> None:
    state, dynamics, time = case
    p, phi = state.masses.copy(), state.fitness.copy()
    p.flags.writeable = phi.flags.writeable = False
    with np.errstate(over="ignore", invalid="ignore"):
        velocity = dynamics.velocity(p, phi, time=time)
        new = dynamics.step(p, phi, 0.0, time=time, scheme=scheme)
    for result in (velocity, new):
        assert result.flags.writeable
        assert not np.shares_memory(result, p) and not np.shares_memory(result, phi)
    assert p.tobytes() == state.masses.tobytes() and phi.tobytes() == state.fitness.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "int32", "int64"])
def test_state_is_float64_whatever_comes_in(library: Library, dtype: str) -> None:
    p, phi = np.array([1, 3], dtype=dtype), np.array([2, 0], dtype=dtype)
    for dynamics in (
        ed.Replicator(0.25),
        ed.NormalizedGrowth(3.0),
        ed.SelectionMutation(0.1, [1.0, 2.0]),
        ed.Populations(ed.SelectionMutation(0.1, [1.0, 2.0]), (1, 1)),
    ):
        expected = dynamics.step(p.astype(float), phi.astype(float), 0.1)
        found = dynamics.step(library.array(p), library.array(phi), 0.1)
        assert str(found.dtype).removeprefix("torch.").endswith("float64")
        np.testing.assert_allclose(library.read(found), expected, rtol=4 * EPS)
        velocity = library.read(dynamics.velocity(library.array(p), library.array(phi)))
        assert velocity.dtype == np.float64


def test_small_increments_survive_single_precision_input() -> None:
    # 5e-8 a step vanishes in float32: a thousand of them must add up.
    p = np.ones(2, dtype=np.float32)
    for _ in range(1000):
        p = ed.Replicator().step(p, np.array([1e-4, -1e-4], dtype=np.float32), 5e-4)
    assert p[0] - 1 == pytest.approx(5e-5, rel=1e-4)


def test_lists_and_numbers_will_do() -> None:
    np.testing.assert_array_equal(ed.Replicator().velocity([1, 3], [2, 0]), [1.5, -1.5])
    np.testing.assert_array_equal(ed.Replicator().step([1, 3], [2, 0], float(np.float32(0.5))), [1.75, 2.25])
    np.testing.assert_array_equal(ed.Replicator().step([1, 3], [2, 0], 1), [2.5, 1.5])


def test_a_group_alone_does_not_move() -> None:
    for value in (0.1, -1e300, 3.7e8):
        assert ed.Replicator().velocity(np.array([0.7]), np.array([value])) == pytest.approx(
            0, abs=2 * EPS * abs(value)
        )


def test_time_reaches_the_mutation_rate() -> None:
    dynamics = ed.SelectionMutation(lambda t: 2 * t, target=1.0)
    p, phi = np.zeros(1), np.zeros(1)
    assert dynamics.velocity(p, phi, time=0.25) == 0.5
    assert dynamics.step(p, phi, 0.5, time=0.25) == 0.25
    layers = ed.Populations(dynamics, (1, 1))
    np.testing.assert_array_equal(layers.velocity(np.zeros(2), np.zeros(2), time=0.25), [0.5, 0.5])


def test_mean_fitness_weighs_by_mass() -> None:
    p = np.array([[3.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    phi = np.array([1.0, 5.0, np.inf])
    np.testing.assert_array_equal(ed.mean_fitness(p, phi), [[2.0], [0.0]])
    np.testing.assert_array_equal(ed.mean_fitness([3.0, 1.0], [1.0, 5.0]), [2.0])


if importlib.util.find_spec("torch"):

    @pytest.mark.nn
    @pytest.mark.parametrize("scheme", SCHEMES)
    def test_no_step_waits_for_its_device(scheme: Scheme) -> None:
        # A tensor on the meta device has no values: to read one is an error.
        import torch

        p, phi = (torch.ones(3, 4, device="meta") for _ in range(2))
        sizes: tuple[Any, ...] = (0.1, torch.tensor(0.1, device="meta"))
        for dynamics in (
            ed.Replicator(0.1),
            ed.NormalizedGrowth(1.0, 0.1),
            ed.SelectionMutation(0.1, [1.0, 2.0, 3.0, 4.0], 0.1),
            ed.Populations(ed.SelectionMutation(0.1, [1.0, 2.0, 3.0, 4.0]), (1, 3)),
            ed.Populations((ed.NormalizedGrowth(1.0), ed.Selection(lambda m, f: f * m)), (3, 1)),
        ):
            for size in sizes:
                new = dynamics.step(p, phi, size, scheme=scheme)
                assert new.device.type == "meta" and new.dtype == torch.float64 and new.shape == (3, 4)
            assert dynamics.velocity(p, phi).device.type == "meta"

    @pytest.mark.nn
    def test_tensors_given_to_a_specification_stay_where_they_are() -> None:
        import torch

        target = torch.tensor([1.0, 2.0], dtype=torch.float64)
        dynamics = ed.SelectionMutation(0.5, target)
        assert dynamics.target is target
        velocity = dynamics.velocity(torch.zeros(2), torch.zeros(2))
        np.testing.assert_array_equal(velocity.numpy(), [0.5, 1.0])


@pytest.mark.parametrize(
    "shared",
    [
        ed.Replicator(),
        ed.Replicator(signal_clip=0.3),
        ed.NormalizedGrowth(mass_cap=2.0, signal_clip=0.5),
        ed.SelectionMutation(0.2),
        ed.SelectionMutation(lambda t: 0.1 + t, target=np.arange(18.0)),
    ],
    ids=repr,
)
def test_blocks_that_share_a_dynamics_are_what_they_are_one_by_one(shared: ed.Dynamics) -> None:
    sizes = (1, 3, 2) * 3  # more than are evaluated one by one
    masses = np.array([[2.0, 1.0, 0.0, 0.5, 0.3, 0.7], [0.0, 2.0, 0.0, 0.1, 1e-3, 0.0]])
    masses = np.concatenate((masses, 2 * masses, masses / 3), axis=-1)
    fitness = np.tile([1.0, -1.0, np.inf, 0.3, 2.0, 1.9], 3)
    layers = ed.Populations(shared, sizes)
    for scheme in SCHEMES:
        together = layers.step(masses, fitness, 0.1, time=0.5, scheme=scheme)
        for block, member in layers.blocks(18):
            alone = member.step(masses[:, block], fitness[block], 0.1, time=0.5, scheme=scheme)
            np.testing.assert_allclose(together[:, block], alone, rtol=4 * EPS, atol=4 * EPS)
    velocity = layers.velocity(masses, fitness, time=0.5)
    for block, member in layers.blocks(18):
        alone = member.velocity(masses[:, block], fitness[block], time=0.5)
        np.testing.assert_allclose(velocity[:, block], alone, rtol=4 * EPS, atol=4 * EPS)


def test_growth_rates_may_come_as_a_list() -> None:
    logistic = ed.Selection(lambda masses, fitness: [0.5, -1.0])
    assert logistic.velocity([1.0, 2.0], [0.0, 0.0]).tolist() == [0.5, -2.0]
