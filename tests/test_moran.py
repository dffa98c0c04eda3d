"""The Moran process against its exact laws, the ratio map against closed forms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from scipy.stats import binomtest, chisquare

import evodyn as ed
from evodyn import stochastic

CONSTANT = ed.landscapes.Constant([1.2, 1.0])
REPLICATOR = ed.Replicator()
GAME = ed.landscapes.MatrixGame([[1.0, 3.0], [2.0, 1.5]])
MUTATING = ed.ReplicatorMutator([[0.95, 0.2], [0.05, 0.8]])


def test_constant_fitness_has_its_textbook_fixation_probability() -> None:
    n, r = 12, 1.2
    wanted = (1 - r ** -np.arange(n + 1.0)) / (1 - r**-n)
    found = stochastic.moran_fixation_probability(REPLICATOR, CONSTANT, n, scheme="ratio")
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    exponential = ed.landscapes.Constant(np.log([1.2, 1.0]))
    np.testing.assert_allclose(
        stochastic.moran_fixation_probability(REPLICATOR, exponential, n), wanted, rtol=1e-12
    )
    neutral = stochastic.moran_fixation_probability(REPLICATOR, ed.landscapes.Constant([0.0, 0.0]), n)
    np.testing.assert_allclose(neutral, np.arange(n + 1) / n, rtol=1e-12)


def test_fixation_of_a_game_solves_its_chain() -> None:
    chain = stochastic.moran_matrix(REPLICATOR, GAME, 9, scheme="ratio")
    found = stochastic.moran_fixation_probability(REPLICATOR, GAME, 9, scheme="ratio")
    np.testing.assert_allclose(chain @ found, found, rtol=1e-12)
    assert found[0] == 0 and found[-1] == 1


def test_runs_fix_as_often_as_they_should() -> None:
    runs = stochastic.moran(
        REPLICATOR, CONSTANT, [2, 4], 120, members=600, save_every=120, scheme="ratio", rng=1
    )
    last = runs.masses[:, -1, 0]
    assert ((last == 0) | (last == 1)).all()
    exact = stochastic.moran_fixation_probability(REPLICATOR, CONSTANT, 6, scheme="ratio")[2]
    interval = binomtest(int(last.sum()), 600).proportion_ci(0.999)
    assert interval.low < exact < interval.high
    assert not interval.low < 1 / 3 < interval.high  # as by drift alone
    few = stochastic.moran(REPLICATOR, CONSTANT, [2, 4], 3, members=3, scheme="ratio", rng=1)
    many = stochastic.moran(REPLICATOR, CONSTANT, [2, 4], 3, members=5, scheme="ratio", rng=1)
    np.testing.assert_array_equal(few.masses, many.masses[:3])


@pytest.mark.parametrize("matrix", [stochastic.moran_matrix, stochastic.wright_fisher_matrix])
def test_the_stationary_law_is_the_left_eigenvector(matrix: Any) -> None:
    chain = matrix(MUTATING, GAME, 20, scheme="ratio")
    np.testing.assert_allclose(chain.sum(axis=1), 1.0, rtol=1e-13)
    values, vectors = scipy.linalg.eig(chain.T)
    law = vectors[:, np.argmax(values.real)].real
    np.testing.assert_allclose(stochastic.stationary_law(chain), law / law.sum(), rtol=1e-8, atol=1e-14)


def test_runs_say_what_was_run_and_are_saved(tmp_path: Path) -> None:
    for process in (stochastic.moran, stochastic.wright_fisher):
        runs = process(REPLICATOR, CONSTANT, [3, 3], 5, members=2, rng=0)
        assert runs.dynamics is REPLICATOR and runs.landscape is CONSTANT
        runs.save(tmp_path / "runs.nc")
        assert ed.load(tmp_path / "runs.nc").same_as(runs)


def test_with_mutation_runs_have_the_stationary_law() -> None:
    n, members = 5, 800
    chain = stochastic.moran_matrix(MUTATING, GAME, n, scheme="ratio")
    law = stochastic.stationary_law(chain)
    # A chain of births and deaths: π_k+1/π_k is the chance to rise over that to fall.
    np.testing.assert_allclose(law[1:] / law[:-1], np.diag(chain, 1) / np.diag(chain, -1), rtol=1e-10)
    runs = stochastic.moran(MUTATING, GAME, [0, n], 40, members=members, save_every=40, scheme="ratio", rng=3)
    seen = np.bincount(np.rint(runs.masses[:, -1, 0] * n).astype(int), minlength=n + 1)
    after = np.linalg.matrix_power(chain, 40 * n)[0]
    np.testing.assert_allclose(after, law, atol=1e-4)
    assert chisquare(seen, law * members).pvalue > 1e-3
    assert chisquare(seen, np.full(n + 1, members / (n + 1))).pvalue < 1e-6


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ValueError, match="with mutation; expected none"):
        stochastic.moran_fixation_probability(MUTATING, CONSTANT, 5)
    with pytest.raises(ValueError, match="states that are never left"):
        stochastic.stationary_law(stochastic.moran_matrix(REPLICATOR, CONSTANT, 5))
    with pytest.raises(ValueError, match=r"step_size is 0.5; expected 1"):
        stochastic.moran(REPLICATOR, CONSTANT, [2, 2], 5, step_size=0.5, scheme="ratio")
    with pytest.raises(ValueError, match=r"Populations; expected one population"):
        stochastic.moran(ed.Populations(REPLICATOR, (1, 1)), CONSTANT, [2, 2], 5)


# --- The map p φ/φ̄ ----------------------------------------------------------------------------------------


def test_constant_fitness_is_raised_to_the_generation() -> None:
    f, start = np.array([1.2, 1.0, 0.3]), np.array([1.0, 2.0, 5.0])
    run = ed.iterate(REPLICATOR, ed.landscapes.Constant(f), start, 50, 1.0, scheme="ratio")
    powers = start * f ** np.arange(51.0)[:, None]
    np.testing.assert_allclose(run.masses, 8 * powers / powers.sum(axis=1, keepdims=True), rtol=1e-12)
    np.testing.assert_allclose(run.total_mass, 8.0, rtol=1e-13)
    lethal = ed.Replicator().step(np.array([1.0, 3.0]), np.array([2.0, 0.0]), 1.0, scheme="ratio")
    assert lethal.tolist() == [4.0, 0.0]


def test_generations_stay_in_their_blocks() -> None:
    blocks = ed.Populations((REPLICATOR, MUTATING), (2, 2))
    p, f = np.array([1.0, 3.0, 2.0, 2.0]), np.array([1.0, 2.0, 3.0, 1.0])
    new = blocks.step(p, f, 1.0, scheme="ratio")
    np.testing.assert_allclose(new[:2], 4 * np.array([1.0, 6.0]) / 7, rtol=1e-14)
    np.testing.assert_allclose(new[2:], 4 * (MUTATING.matrix @ [6.0, 2.0]) / 8, rtol=1e-14)


def test_other_libraries_and_empty_populations() -> None:
    torch: Any = pytest.importorskip("torch")
    p, f = np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([[1.0, 2.0], [1.0, 1.0]])
    for dynamics in (REPLICATOR, MUTATING):
        ours = dynamics.step(p, f, 1.0, scheme="ratio")
        theirs = dynamics.step(torch.tensor(p), torch.tensor(f), 1.0, scheme="ratio")
        np.testing.assert_allclose(theirs.numpy(), ours, rtol=1e-14)
        assert (ours[1] == 0).all()
        velocity = dynamics.velocity(torch.tensor(p), torch.tensor(f))
        np.testing.assert_allclose(velocity.numpy(), dynamics.velocity(p, f), rtol=1e-14)


@pytest.mark.parametrize(
    ("dynamics", "fitness", "step_size", "message"),
    [
        (REPLICATOR, [1.0, -0.5], 1.0, "fitness is -0.5 for group 1; expected fitness >= 0"),
        (REPLICATOR, [0.0, 0.0], 1.0, "fitness is 0 for all groups with mass"),
        (REPLICATOR, [1.0, 0.5], 0.1, "step_size is 0.1; expected 1"),
        (ed.Replicator(0.1), [1.0, 0.5], 1.0, "has no such map"),
        (ed.SelectionMutation(0.1), [1.0, 0.5], 1.0, "has no such map"),
    ],
)
def test_where_there_are_no_generations(
    dynamics: ed.Dynamics, fitness: list[float], step_size: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        ed.iterate(dynamics, ed.landscapes.Constant(fitness), [1.0, 1.0], 5, step_size, scheme="ratio")
