"""Branches of rest points: folds, exchanges of stability and Hopf points where closed forms have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import softmax

import evodyn as ed
from evodyn import landscapes

REPLICATOR = ed.Replicator()
STABLE, UNSTABLE = ed.Stability.STABLE, ed.Stability.UNSTABLE


def allee(a: float) -> tuple[ed.Dynamics, Any]:
    """At rest x(1 - x) = a: two rest points that meet at a = 1/4, and the second group alone."""
    return REPLICATOR, lambda t, p: np.stack([p[0] * p[1] / p.sum() ** 2, np.asarray(a)])


def hawk_dove(value: float) -> tuple[ed.Dynamics, Any]:
    """A share V/2 of hawks at a cost of 2, and hawks alone from V = 2 on."""
    return REPLICATOR, landscapes.MatrixGame([[(value - 2) / 2, value], [0.0, value / 2]])


def consistent(found: ed.Branch) -> None:
    """Every rest point is one, and stands for its parameter."""
    assert len(found.parameters) == len(found.equilibria) == len(found.stability)
    assert max(point.residual for point in found.equilibria) < 1e-9
    assert all(np.isfinite(point.masses).all() and (point.masses >= 0).all() for point in found.equilibria)


@pytest.mark.parametrize("share", [0.9, 0.1])
def test_a_fold_is_passed_and_found_where_the_closed_form_has_it(share: float) -> None:
    found = ed.branch(allee, (0.09, 0.5), start=[share, 1 - share])
    consistent(found)
    (fold,) = found.passages
    assert fold.kind == "fold" and fold.parameter == pytest.approx(0.25, abs=1e-10)
    assert fold.masses == pytest.approx([0.5, 0.5], abs=1e-4)  # a square root turns there
    x = found.masses[:, 0]
    assert x * (1 - x) == pytest.approx(found.parameters, abs=1e-9)
    assert x[-1] == pytest.approx(1 - x[0], abs=1e-9) and found.parameters[-1] == 0.09
    assert (found.stable == (x > 0.5)).all()
    assert (np.diff(x) < 0).all() or (np.diff(x) > 0).all()


def test_two_branches_exchange_their_stability() -> None:
    mixed = ed.branch(hawk_dove, (0.5, 4.0), start=[0.25, 0.75])
    consistent(mixed)
    assert mixed.masses[:, 0] == pytest.approx(np.minimum(mixed.parameters / 2, 1.0), abs=1e-9)
    (death,) = mixed.passages
    assert (death.kind, death.group) == ("extinction", 1)
    assert death.parameter == pytest.approx(2.0, abs=1e-9)
    assert mixed.stable[mixed.parameters != death.parameter].all()  # the stable one all along
    hawks = ed.branch(hawk_dove, (0.5, 4.0), start=[1.0, 0.0])
    (invasion,) = hawks.passages
    assert (invasion.kind, invasion.group) == ("invasion", 1)
    assert invasion.parameter == pytest.approx(2.0, abs=1e-9)
    assert (hawks.stable == (hawks.parameters > 2)).all()
    back = ed.branch(hawk_dove, (4.0, 0.5), start=[1.0, 0.0])
    assert back.passages[0].parameter == pytest.approx(2.0, abs=1e-9) and not back.stable[-1]


def test_groups_die_one_by_one_as_the_water_level_rises() -> None:
    c, total = np.sort(landscapes.contributions("gaussian", n=16, heterogeneity=0.3, rng=0)), 16.0

    def problem(decay: float) -> tuple[ed.Dynamics, Any]:
        return REPLICATOR, landscapes.LinearDecay(c, decay)

    found = ed.branch(problem, (2.0, 0.1), total_mass=total)
    consistent(found)
    # Group i is at the water level where Σ (c_j - c_i)_+ = λ P.
    levels = np.maximum(c - c[:, None], 0).sum(axis=1) / total
    expected = [level for level in levels if 0.1 < level < 2.0]
    assert [each.group for each in found.passages] == list(range(len(expected)))
    assert [each.parameter for each in found.passages] == pytest.approx(expected, rel=1e-9)
    for decay, masses in list(zip(found.parameters, found.masses, strict=True))[::5]:
        exact = ed.equilibrium(*problem(decay), total_mass=total).masses
        np.testing.assert_allclose(masses, exact, atol=1e-8)
    # Without the weakest group, which could live: it cannot from its own level on.
    rest = ed.equilibrium(*problem(1.0), total_mass=total, support=range(1, 16)).masses
    alone = ed.branch(problem, (1.0, 0.3), start=rest, longest_step=0.1)
    assert {each.kind for each in alone.passages} <= {"extinction", "invasion"}
    first = next(each for each in alone.passages if each.group == 0)
    assert first.kind == "invasion" and first.parameter == pytest.approx(levels[0], rel=1e-8)
    assert not alone.stable[0] and alone.stable[-1]


def test_mutation_and_temperature_keep_every_group() -> None:
    c = np.array([1.0, 0.5, 0.0])

    def mutation(rate: float) -> tuple[ed.Dynamics, Any]:
        return ed.SelectionMutation(rate), landscapes.Constant(c)

    found = ed.branch(mutation, (0.01, 1.0))
    consistent(found)
    assert found.stable.all() and not found.passages
    for rate, masses in zip(found.parameters, found.masses, strict=True):
        np.testing.assert_allclose(masses, ed.equilibrium(*mutation(rate)).masses, rtol=1e-8)
    warm = ed.branch(lambda t: (REPLICATOR, landscapes.Entropic(c, t)), (1.0, 0.01))
    for temperature, masses in zip(warm.parameters, warm.masses, strict=True):
        np.testing.assert_allclose(masses, softmax(c / temperature), rtol=1e-7)
    assert warm.masses.min() < 1e-40 and warm.stable.all()


def test_cycles_appear_where_a_pair_of_eigenvalues_crosses() -> None:
    def predator(capacity: float) -> tuple[ed.Dynamics, Any]:
        """Rosenzweig and MacArthur's: the pair crosses where the capacity is 2 p_1 + 1, and p_1 = 1."""
        grows = ed.Selection(lambda masses, fitness: fitness)
        return grows, lambda t, p: np.stack(
            [1 - p[0] / capacity - p[1] / (1 + p[0]), p[0] / (1 + p[0]) - 0.5]
        )

    found = ed.branch(predator, (1.5, 5.0), start=[1.0, 0.6])
    consistent(found)
    (hopf,) = found.passages
    assert hopf.kind == "hopf" and hopf.parameter == pytest.approx(3.0, abs=1e-7)
    assert hopf.masses == pytest.approx([1.0, 4 / 3], abs=1e-7)
    assert (found.stable == (found.parameters < 3)).all()

    def rock_paper_scissors(gain: float) -> tuple[ed.Dynamics, Any]:
        game = np.array([[0, -1, 1 + gain], [1 + gain, 0, -1], [-1, 1 + gain, 0]])
        return REPLICATOR, landscapes.MatrixGame(game)

    found = ed.branch(rock_paper_scissors, (0.5, -0.5), start=[0.3, 0.3, 0.4])
    assert [each.kind for each in found.passages] == ["hopf"]
    assert found.passages[0].parameter == pytest.approx(0.0, abs=1e-8)


def test_a_pitchfork_is_a_crossing_of_its_handle_and_a_fold_of_its_tines() -> None:
    def pitchfork(a: float) -> tuple[ed.Dynamics, Any]:
        def fitness(t: float, p: Any) -> Any:
            d = (p[0] - p[1]) / p.sum()
            return np.stack([d * (a - d**2), 0 * d])

        return REPLICATOR, fitness

    handle = ed.branch(pitchfork, (-0.5, 0.7), start=[0.5, 0.5])
    (crossing,) = handle.passages
    assert crossing.kind == "crossing" and crossing.parameter == pytest.approx(0.0, abs=1e-6)
    assert (handle.stable == (handle.parameters < 0)).all()
    d = np.sqrt(0.3)
    tines = ed.branch(pitchfork, (0.3, -0.5), start=[(1 + d) / 2, (1 - d) / 2])
    assert [each.kind for each in tines.passages] == ["fold"]
    # Where branches cross there is no one tangent: the place is known to less than a step.
    assert tines.passages[0].parameter == pytest.approx(0.0, abs=0.02)
    assert np.diff(tines.masses, axis=1)[:, 0] ** 2 == pytest.approx(tines.parameters, abs=1e-8)


def test_blocks_conserve_their_own_masses() -> None:
    c = [1.0, 0.8, 0.4, 1.0, 0.5, 0.2]
    blocks = ed.Populations(REPLICATOR, (3, 3))
    found = ed.branch(lambda a: (blocks, landscapes.LinearDecay(c, a)), (0.95, 0.1), total_mass=[1.0, 2.0])
    consistent(found)
    assert found.masses[:, :3].sum(axis=1) == pytest.approx(np.ones(len(found.parameters)))
    assert found.masses[:, 3:].sum(axis=1) == pytest.approx(2 * np.ones(len(found.parameters)))
    # Σ (c_j - c_i)_+ = λ P in each block: 1.0 - 0.4 + 0.8 - 0.4, 0.2; and (0.8 + 0.3)/2, 0.5/2.
    expected = [0.55, 0.25, 0.2]
    assert [each.parameter for each in found.passages] == pytest.approx(expected, rel=1e-8)
    assert [each.group for each in found.passages] == [5, 4, 1]


def test_what_cannot_be_followed_is_named() -> None:
    short = ed.branch(hawk_dove, (0.5, 4.0), start=[0.25, 0.75], most_points=5)
    assert len(short.parameters) == 5 and short.ended == "after 5 points"
    assert len(repr(short)) < 120
    with pytest.raises(ValueError, match="expected two different values of the parameter"):
        ed.branch(hawk_dove, (1.0, 1.0))
    with pytest.raises(ValueError, match=r"longest_step is 0\.0; expected a finite number > 0"):
        ed.branch(hawk_dove, (1.0, 2.0), longest_step=0.0)
    with pytest.raises(ValueError, match=r"interval\[1\] is inf"):
        ed.branch(hawk_dove, (1.0, np.inf))
    with pytest.raises(ValueError, match=r"expected groups that can coexist|did not converge"):
        ed.branch(allee, (0.3, 0.5), start=[0.5, 0.5])
    with pytest.raises(ValueError, match="total_mass is None"):
        ed.branch(lambda a: (REPLICATOR, landscapes.LinearDecay([1.0, 0.5], a)), (1.0, 2.0))
