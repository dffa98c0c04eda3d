"""Seeds, generators and members: what is drawn anew, what is not, and what a result remembers of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import evodyn as ed
from evodyn import stochastic
from evodyn.core.arrays import FloatArray
from evodyn.core.generators import member_rng, seed_of

LANDSCAPE = ed.landscapes.Constant([1.0, 0.5, 0.0])


def draw(generator: np.random.Generator) -> ed.landscapes.Landscape:
    return ed.landscapes.Constant(generator.normal(size=3))


def ensemble(rng: Any, members: int = 3) -> FloatArray:
    made = ed.solve_ensemble(
        ed.Replicator(), draw, np.ones(3), (0.0, 1.0), save_at=[1.0], members=members, rng=rng
    )
    return made.masses


def white_noise(rng: Any, members: int = 3) -> FloatArray:
    return stochastic.fitness_noise(
        LANDSCAPE, np.ones(3), (0.0, 1.0), noise=0.5, calculus="ito", save_at=[1.0], members=members, rng=rng
    ).masses


def estimates(rng: Any, members: int = 3) -> FloatArray:
    return stochastic.noisy_iterate(
        ed.Replicator(), LANDSCAPE, np.ones(3), 5, 0.1, noise=0.5, members=members, rng=rng
    ).masses


def sampling(rng: Any, members: int = 3) -> FloatArray:
    return stochastic.wright_fisher(
        ed.Replicator(), LANDSCAPE, [40, 40, 40], 3, members=members, rng=rng
    ).masses


SAMPLERS = pytest.mark.parametrize("sample", [ensemble, white_noise, estimates, sampling])


@SAMPLERS
def test_members_draw_from_their_own_spawn_key(sample: Callable[..., FloatArray]) -> None:
    three, two = sample(5), sample(5, members=2)
    assert np.array_equal(three[:2], two)
    assert len(np.unique(three[:, -1, 0])) == 3
    assert np.array_equal(sample(np.random.SeedSequence(5)), three)
    assert not np.array_equal(sample(np.random.SeedSequence(5, spawn_key=(1,))), three)


def test_draws_of_members_are_those_of_the_spawned_sequences_in_order() -> None:
    children = np.random.SeedSequence(5).spawn(3)
    expected = [np.random.default_rng(child).normal(size=3) for child in children]
    made = ed.solve_ensemble(ed.Replicator(), draw, np.ones(3), (0.0, 1.0), members=3, rng=5)
    assert [np.asarray(run.landscape.contribution).tolist() for run in made.runs] == [  # type: ignore[attr-defined]
        row.tolist() for row in expected
    ]
    grandchild = np.random.SeedSequence(5, spawn_key=(2, 1))
    own = member_rng(seed_of(np.random.SeedSequence(5, spawn_key=(2,))), 1)
    assert own.random() == np.random.default_rng(grandchild).random()


@SAMPLERS
def test_a_generator_is_advanced_and_never_gives_the_same_twice(sample: Callable[..., FloatArray]) -> None:
    generator = np.random.default_rng(5)
    first, second = sample(generator), sample(generator)
    assert not np.array_equal(first, second)
    again = np.random.default_rng(5)
    assert np.array_equal(sample(again), first)
    again.random()
    assert not np.array_equal(sample(again), second)
    # What the user spawns is not what member 0 draws from.
    spawned = np.random.default_rng(5).spawn(1)[0]
    assert not np.array_equal(sample(spawned), first)


def test_results_remember_what_was_drawn() -> None:
    generator = np.random.default_rng(5)
    runs = stochastic.noisy_iterate(
        ed.Replicator(), LANDSCAPE, np.ones(3), 5, 0.1, noise=0.5, members=2, rng=generator
    )
    assert runs.seed is not None
    assert len(runs.seed.entropy) == 4
    again = stochastic.noisy_iterate(
        ed.Replicator(), LANDSCAPE, np.ones(3), 5, 0.1, noise=0.5, members=2, rng=runs.seed.sequence()
    )
    assert runs.same_as(again)
    made = ed.solve_ensemble(ed.Replicator(), draw, np.ones(3), (0.0, 1.0), members=2, rng=11)
    assert made.seed is not None and made.seed.entropy == (11,)
    given = ed.solve_ensemble(ed.Replicator(), LANDSCAPE, np.ones((2, 3)), (0.0, 1.0))
    assert given.seed is None


def test_contributions_advance_a_generator() -> None:
    generator = np.random.default_rng(0)
    a, b = (ed.landscapes.contributions("gaussian", n=3, heterogeneity=1.0, rng=generator) for _ in range(2))
    assert not np.array_equal(a, b)
