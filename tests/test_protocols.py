"""Dynamics and landscapes of a user's own: what they say of themselves, and what is then asked of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

import evodyn as ed
from evodyn.core.arrays import Array


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LotkaVolterra(ed.Dynamics):
    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        return fitness


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Immigration(ed.Dynamics):
    """With an inflow of the older form, which does not ask for fitness."""

    inflow_rate: float = 0.5

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        return 0 * fitness - 1.0

    def inflow(self, masses: Array, *, time: float = 0.0) -> Array | float:  # type: ignore[override]
        return self.inflow_rate * (1 + time)


def test_an_inflow_without_fitness_goes_on_working() -> None:
    dynamics = Immigration()
    assert np.array_equal(dynamics.velocity(np.array([1.0, 0.0]), np.zeros(2), time=1.0), [0.0, 1.0])
    asked: ed.Dynamics = dynamics
    assert asked.inflow(np.ones(2), np.ones(2), time=1.0) == 1.0
    two = ed.Populations((dynamics, ed.Replicator()), sizes=(1, 2))
    assert np.array_equal(two.velocity(np.ones(3), np.array([0.0, 1.0, 0.0])), [-0.5, 0.5, -0.5])


def test_an_inflow_takes_fitness_under_any_name() -> None:
    class Fed(LotkaVolterra):
        def inflow(self, m: Array, phi: Array, time: float = 0.0) -> Array | float:
            return phi * m

    assert Fed().velocity(np.array([2.0, 0.0]), np.array([3.0, 1.0])).tolist() == [12.0, 0.0]


def test_a_dynamics_promises_nothing_unless_it_says_so() -> None:
    own = LotkaVolterra()
    assert own.mass_law(3) is None
    assert (own.mass_cap, own.signal_clip, own.compares_with_mean) == (None, None, False)
    nothing = own.steady_inflow(2)
    assert nothing is not None and not nothing.any()
    assert Immigration().steady_inflow(2) is None


def test_what_a_base_says_of_its_flow_is_not_said_of_another() -> None:
    class Doubled(ed.SelectionMutation):
        def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
            return 2 * super().growth_rates(masses, fitness, time=time)

    base, doubled = ed.SelectionMutation(0.1, target=1.0), Doubled(0.1, target=1.0)
    assert base.mass_law(2) == (0.1, 2.0)
    assert base.compares_with_mean
    assert doubled.mass_law(2) is None
    assert not doubled.compares_with_mean

    class Crowded(ed.landscapes.Entropic):
        def __call__(self, t: float, masses: Array) -> Array:
            return super().__call__(t, masses) - masses**2

    masses = np.array([1.0, 2.0])
    crowded = Crowded([1.0, 0.0], temperature=1.0)
    assert crowded.separable(2) is None
    assert np.array_equal(
        ed.landscapes.fitness_at_log_masses(crowded, 0.0, np.log(masses)), crowded(0.0, masses)
    )
    assert ed.landscapes.linearization(crowded, 0.0, np.log(masses)) is None


def test_laws_of_total_mass() -> None:
    assert ed.Replicator().mass_law(3) == (0.0, 0.0)
    assert ed.Replicator(signal_clip=1.0).mass_law(3) is None
    assert ed.SelectionMutation(lambda t: 0.1).mass_law(3) is None
    both = ed.Populations((ed.Replicator(), ed.SelectionMutation(0.2, target=[1.0, 2.0])), sizes=(3, 2))
    assert both.mass_law(5) == ((0.0, 0.0), (0.2, 3.0))
    inflow = both.steady_inflow(5)
    assert inflow is not None
    assert inflow.tolist() == [0.0, 0.0, 0.0, 0.2, 0.4]


@pytest.mark.parametrize(
    ("landscape", "autonomous"),
    [
        (ed.landscapes.Constant([1.0]), True),
        (ed.landscapes.Seasonal([1.0], amplitude=1.0, period=1.0), False),
        (ed.landscapes.Constant([1.0]) + ed.landscapes.Seasonal([1.0], amplitude=1.0, period=1.0), False),
        (ed.landscapes.Constant([1.0]) + (lambda t, masses: masses), None),
    ],
)
def test_landscapes_say_whether_they_depend_on_time(
    landscape: ed.landscapes.Landscape, autonomous: bool | None
) -> None:
    assert landscape.autonomous is autonomous


def test_forms_add_up() -> None:
    landscape = ed.landscapes.LinearDecay([1.0, 2.0], decay=0.5) + ed.landscapes.Constant([0.5, 0.0])
    form = landscape.separable(2)
    assert form is not None
    assert (form.contribution.tolist(), form.decay, form.temperature) == ([1.5, 2.0], 0.5, 0.0)
    game = landscape + ed.landscapes.MatrixGame([[0.0, 1.0], [1.0, 0.0]])
    assert game.separable(2) is None
    masses = np.array([1.0, 3.0])
    affine = game.affine(2, 4.0)
    assert affine is not None
    assert np.allclose(affine[0] + affine[1] @ masses, game(0.0, masses))


def test_a_map_of_its_own_leaves_what_a_base_says_of_the_flow() -> None:
    class Steps(ed.Replicator):
        def step(self, masses: Any, fitness: Any, step_size: Any, **options: Any) -> Any:
            return super().step(masses, fitness, step_size / 2, **options)

    class Grows(ed.Replicator):
        def growth_rates(self, masses: Any, fitness: Any, *, time: float = 0.0) -> Any:
            return super().growth_rates(masses, fitness, time=time) / 2

        def comparison(self, n: int, time: float) -> None:
            return None

    assert Steps().autonomous is True and Steps().mass_law(2) == (0.0, 0.0)
    assert Steps().comparison(2, 0.0) is None and ed.Replicator().comparison(2, 0.0) is not None
    assert Grows().autonomous is None and Grows().mass_law(2) is None
    run = ed.solve(Steps(), ed.landscapes.LinearDecay([1.0, 0.5], 1.0), [0.5, 0.5], (0.0, 1e3), settle=1e-6)
    assert run.termination is ed.Termination.SETTLED
