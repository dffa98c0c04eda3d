"""Diagnostics along runs against finite differences of the trajectories, conservation and by hand."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import numpy.typing as npt
import pytest
import xarray
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from evodyn import diagnostics as dg
from evodyn.core.arrays import Array
from evodyn.equilibria.equilibrium import equilibrium
from evodyn.model.dynamics import Dynamics
from evodyn.model.equations import NormalizedGrowth, Replicator, Selection, SelectionMutation
from evodyn.model.fitness import Landscape, LandscapeFunction
from evodyn.model.games import MatrixGame
from evodyn.model.landscapes import Constant, Entropic, LinearDecay, Recorded, Redundancy, Seasonal
from evodyn.model.populations import Populations
from evodyn.simulate.extinction import Extinction
from evodyn.simulate.method import Solver
from evodyn.simulate.run import Run
from evodyn.simulate.solve import solve

Floats = npt.NDArray[np.float64]
C = np.array([1.0, 0.4, -0.3, 0.8])
START = np.array([0.5, 1.5, 1.0, 0.25])
ACCURATE = Solver(method="DOP853", rtol=1e-11, atol=1e-12)
SYMMETRIC = np.array([[1.0, 0.5, 0.2, 0.0], [0.5, 0.8, 0.1, 0.3], [0.2, 0.1, 1.2, 0.4], [0.0, 0.3, 0.4, 0.9]])
GAME = [[0.0, 2.0, -1.0, 0.5], [-1.0, 0.0, 2.0, 0.1], [2.0, -1.0, 0.0, 0.7], [0.3, 0.2, 0.1, 0.0]]
LANDSCAPES: dict[str, LandscapeFunction] = {
    "constant": Constant(C),
    "decay": LinearDecay(C, 0.5),
    "entropic": Entropic(C, 0.3),
    "game": MatrixGame(GAME),
    "redundancy": Redundancy(C, SYMMETRIC, 0.4),
    "seasonal": Seasonal(C, [0.5, -0.5, 0.2, 0.0], period=3.0, phase=0.4),
    "callable": lambda t, masses: C * np.cos(t) - masses**2,
}
DYNAMICS: dict[str, Dynamics] = {
    "replicator": Replicator(),
    "clipped": Replicator(signal_clip=0.2),
    "mutation": SelectionMutation(0.3, target=[0.1, 0.5, 0.7, 0.2]),
    "clipped mutation": SelectionMutation(lambda t: 0.1 + 0.05 * t, target=0.5, signal_clip=0.3),
    "general": Selection(lambda masses, fitness: fitness * (2 - masses)),
    "blocks": Populations((Replicator(), SelectionMutation(0.2)), sizes=(2, 2)),
}


def run_of(dynamics: Dynamics, landscape: LandscapeFunction, t_end: float = 2.0) -> Run:
    width = 1e-3
    centres = np.linspace(0.1, t_end - 0.1, 9)
    times = np.sort(np.concatenate((centres - width, centres, centres + width)))
    return solve(dynamics, landscape, START, (0.0, t_end), save_at=times, solver=ACCURATE)


def central(values: Floats) -> Floats:
    """Central differences at every middle one of the triples of saved times."""
    difference: Floats = (values[2::3] - values[0::3]) / 2e-3
    return difference


@pytest.mark.parametrize(("dynamics", "landscape"), list(itertools.product(DYNAMICS, LANDSCAPES)))
def test_fisher_price_and_mass_add_up_to_what_the_trajectory_does(dynamics: str, landscape: str) -> None:
    run = run_of(DYNAMICS[dynamics], LANDSCAPES[landscape])
    fisher = dg.fisher_decomposition(run)
    np.testing.assert_allclose(fisher.mean, run.mean_fitness, atol=1e-12)
    np.testing.assert_allclose(fisher.rate[1::3], central(fisher.mean), atol=3e-5)
    trait = np.array([1.0, -2.0, 0.5, 3.0])
    price = dg.price_decomposition(run, trait)
    assert (price.transmission == 0).all()
    np.testing.assert_allclose(price.rate[1::3], central(price.mean), atol=3e-5)
    budget = dg.mass_budget(run)
    np.testing.assert_allclose(budget.rate[1::3], central(budget.total), atol=3e-5)


def test_fisher_by_hand() -> None:
    run = run_of(Replicator(), LANDSCAPES["decay"])
    fitness = C - 0.5 * run.masses
    shares = run.masses / run.total_mass[:, None]
    mean = (shares * fitness).sum(axis=1)
    fisher = dg.fisher_decomposition(run)
    np.testing.assert_allclose(fisher.selection, (shares * (fitness - mean[:, None]) ** 2).sum(axis=1))
    environment = (shares * -0.5 * run.masses * (fitness - mean[:, None])).sum(axis=1)
    np.testing.assert_allclose(fisher.transmission, environment, atol=1e-10)
    assert (fisher.mutation == 0).all()
    mutating = run_of(SelectionMutation(0.3, target=0.7), LANDSCAPES["constant"])
    by_mutation = 0.3 * 2.8 / mutating.total_mass * (C.mean() - mutating.mean_fitness)
    np.testing.assert_allclose(dg.fisher_decomposition(mutating).mutation, by_mutation, atol=1e-12)


def test_recorded_landscapes_do_not_differ_across_their_jumps() -> None:
    record = Recorded([0.0, 1.0, 2.0], [C, -C], decay=0.1)
    run = solve(Replicator(), record, START, (0.0, 2.0), save_at=[0.0, 0.5, 1.0, 1.5, 2.0])
    fisher = dg.fisher_decomposition(run)
    assert np.abs(fisher.transmission).max() < 1.0  # a difference across the jump would be 1e6


@pytest.mark.parametrize("name", ["constant", "decay", "entropic", "redundancy", "symmetric game", "sum"])
def test_potential_rises_at_the_rate_of_the_variance(name: str) -> None:
    extra: dict[str, LandscapeFunction] = {
        "symmetric game": MatrixGame(SYMMETRIC),
        "sum": LinearDecay(C, 0.5) + Redundancy(C, SYMMETRIC, 0.4) + Entropic(C, 0.1),
    }
    run = run_of(Replicator(), (LANDSCAPES | extra)[name])
    potential = dg.potential(run)
    expected = run.total_mass * dg.fisher_decomposition(run).selection
    np.testing.assert_allclose(central(potential), expected[1::3], rtol=1e-4, atol=1e-6)
    assert (np.diff(potential) >= -1e-13).all()


def test_potential_with_mutation_needs_the_mass_of_its_target() -> None:
    target = START / 2 + START.sum() / 8
    run = run_of(SelectionMutation(0.3, target=target), LANDSCAPES["decay"])
    assert (np.diff(dg.potential(run)) >= -1e-13).all()
    fitness = C - 0.5 * run.masses
    rates = fitness - (run.masses * fitness).sum(axis=1, keepdims=True) / run.total_mass[:, None]
    rates += 0.3 * (target / run.masses - 1)
    np.testing.assert_allclose(
        central(dg.potential(run)), (run.masses * rates**2).sum(axis=1)[1::3], rtol=1e-4, atol=1e-6
    )
    for dynamics, landscape in (
        (SelectionMutation(0.3, target=2 * target), LANDSCAPES["decay"]),
        (Replicator(signal_clip=0.1), LANDSCAPES["decay"]),
        (DYNAMICS["general"], LANDSCAPES["decay"]),
        (Replicator(), LANDSCAPES["game"]),
        (Replicator(), LANDSCAPES["callable"]),
    ):
        with pytest.raises(ValueError, match="potential"):
            dg.potential(run_of(dynamics, landscape))


def test_divergence_falls_to_equilibrium_and_is_constant_in_zero_sum_games() -> None:
    landscape = LANDSCAPES["decay"]
    point = equilibrium(Replicator(), landscape, total_mass=float(START.sum()))
    run = solve(Replicator(), landscape, START, (0.0, 60.0))
    falling = dg.divergence(run, point)
    assert (np.diff(falling) <= 1e-12).all() and falling[-1] < 1e-9 < falling[0]
    game = MatrixGame([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    cycle = solve(Replicator(), game, [0.2, 0.5, 0.3], (0.0, 50.0), solver=ACCURATE)
    constant = dg.divergence(cycle, equilibrium(Replicator(), game))
    np.testing.assert_allclose(constant, constant[0], rtol=1e-7)
    assert dg.divergence(cycle, [1.0, 1.0, 0.0]).std() > 0.01
    with pytest.raises(ValueError, match="2 groups and run 3"):
        dg.divergence(cycle, [1.0, 1.0])


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(float, (3, 6), elements=st.floats(0, 10)).filter(lambda m: bool((m.sum(axis=1) > 0.1).all()))
)
def test_diversity_of_any_dataset_against_direct_formulas(masses: Floats) -> None:
    masses = masses.copy()
    masses[:, 0] += 0.1
    data = xarray.Dataset({"mass": (("time", "group"), masses)}, {"time": [0.0, 1.0, 2.0]})
    shares = masses / masses.sum(axis=1, keepdims=True)
    present = np.where(shares > 0, shares, 1.0)
    np.testing.assert_allclose(dg.entropy(data), -(shares * np.log(present)).sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(dg.effective_number(data, order=2), 1 / (shares**2).sum(axis=1), rtol=1e-10)
    np.testing.assert_array_equal(dg.effective_number(data, order=0), (masses > 0).sum(axis=1))
    differences = np.abs(shares[:, :, None] - shares[:, None, :]).sum(axis=(1, 2)) / 12
    np.testing.assert_allclose(dg.gini(data), differences, atol=1e-12)
    numbers = [dg.effective_number(data, order=q) for q in (0.0, 0.5, 1.0, 2.0, 5.0)]
    assert all((a >= b - 1e-9).all() for a, b in itertools.pairwise(numbers))


def test_half_life_by_hand_and_at_its_limits() -> None:
    run = solve(Replicator(), Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 9.0), save_at=np.linspace(0, 9, 2001))
    x = (3 + 3**0.5) / 6
    assert dg.diversity_half_life(run, order=2) == pytest.approx(np.log(x / (1 - x)), rel=1e-5)
    short = solve(Replicator(), Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 0.1))
    assert dg.diversity_half_life(short) == np.inf
    alone = solve(Replicator(), Constant([1.0]), [1.0], (0.0, 0.1))
    assert dg.diversity_half_life(alone) == 0.0
    blocks = run_of(DYNAMICS["blocks"], LANDSCAPES["constant"])
    assert np.shape(dg.diversity_half_life(blocks)) == (2,)


def test_absent_groups_and_underflow() -> None:
    run = solve(Replicator(), Entropic([1.0, 0.0, 2.0], 0.5), [1.0, 0.0, 2.0], (0.0, 1.0))
    data = dg.diagnostics(run)
    assert all(np.isfinite(data[name]).all() for name in data.data_vars)
    far = solve(Replicator(), Constant([1.0, 0.0]), [1.0, 1.0], (0.0, 2000.0), save_at=[0.0, 2000.0])
    assert dg.divergence(far, [1.0, 1.0])[-1] == pytest.approx(1000 - np.log(2), rel=1e-12)


def test_dataset_of_diagnostics_is_labelled_and_the_same_from_a_dataset() -> None:
    run = run_of(DYNAMICS["blocks"], LANDSCAPES["decay"])
    data = dg.diagnostics(run)
    assert data["entropy"].dims == ("time", "block")
    assert all({"long_name", "units"} <= set(data[name].attrs) for name in data.data_vars)
    again = dg.diagnostics(run.to_xarray())
    xarray.testing.assert_allclose(again, data)
    with pytest.raises(ValueError, match="without a specification"):
        dg.diagnostics(run.to_xarray().drop_attrs())
    with pytest.raises(ValueError, match="trait has 2"):
        dg.price_decomposition(run, [1.0, 2.0])


def test_a_dataset_says_itself_which_axis_is_time() -> None:
    masses = np.array([[1.0, 1.0, 1.0], [0.5, 1.0, 1.5], [0.1, 1.0, 1.9]])
    rows = xarray.Dataset({"mass": (("time", "group"), masses)}, {"time": [0.0, 1.0, 2.0]})
    columns = xarray.Dataset({"mass": (("group", "time"), masses.T)}, {"time": [0.0, 1.0, 2.0]})
    assert dg.entropy(columns).tolist() == dg.entropy(rows).tolist()
    assert dg.entropy(rows)[0] == pytest.approx(np.log(3))


def test_a_dataset_with_negative_masses_is_refused() -> None:
    wrong = xarray.Dataset({"mass": (("time", "group"), [[1.0, -1.0]])}, {"time": [0.0]})
    with pytest.raises(ValueError, match="non-negative"):
        dg.entropy(wrong)


def test_means_have_no_value_where_no_mass_is_left() -> None:
    run = solve(
        Replicator(),
        LinearDecay(C, 0.1),
        START,
        (0.0, 1.0),
        save_at=[0.0, 1.0],
        extinction=Extinction(9.0, "absorb"),
    )
    found = dg.diagnostics(run)
    assert (found["total_mass"] == 0).all() and (dg.effective_number(run, order=0) == 0).all()
    for name in ("mean_fitness", "fitness_variance", "entropy", "gini"):
        assert np.isnan(found[name]).all()


def test_at_its_cap_a_block_loses_what_selection_would_add() -> None:
    dynamics = NormalizedGrowth(mass_cap=4.0, signal_clip=0.5)
    run = solve(dynamics, Constant([1.0, 1.0, -9.0]), [1.9, 1.9, 0.1], (0.0, 2.0), save_at=[0.0, 1.0, 2.0])
    budget = dg.mass_budget(run)
    np.testing.assert_allclose(run.total_mass[1:], 4.0, rtol=1e-13)
    assert budget.selection[0] > 0.1
    assert budget.selection[1:].tolist() == [0.0, 0.0]


def test_environmental_change_is_that_of_one_side_of_a_jump() -> None:
    class Switched(Landscape):
        def __call__(self, t: float, masses: Array) -> Array:
            return np.array([1.0, 0.0]) * (1.0 if t < 1.0 else -5.0) + 0.25 * t * np.array([0.0, 1.0])

        def breakpoints(self, t_span: tuple[float, float]) -> list[float]:
            return [1.0]

    times = [0.5, 1.0 - 1e-9, 1.0, 1.0 + 1e-9, 1.5]
    run = solve(Replicator(), Switched(), [1.0, 1.0], (0.0, 2.0), save_at=times)
    expected = 0.25 * run.masses[:, 1] / 2
    np.testing.assert_allclose(dg.fisher_decomposition(run).transmission, expected, atol=1e-6)


def test_rates_of_a_dynamics_of_ones_own_add_up_to_its_velocity() -> None:
    @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    class Offspring(Dynamics):
        strayed: float

        def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
            return (1 - self.strayed) * fitness - masses.sum()

        def inflow(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array | float:
            return self.strayed * (masses * fitness)[::-1]

    landscape, trait = LinearDecay([2.0, 1.0, 0.5], decay=0.1), np.array([1.0, -2.0, 0.5])
    run = solve(Offspring(0.2), landscape, [1.0, 0.5, 0.25], (0.0, 1.0), save_at=[0.0, 0.4, 1.0])
    velocity = np.array([run.dynamics.velocity(masses, landscape(0.0, masses)) for masses in run.masses])
    budget, price = dg.mass_budget(run), dg.price_decomposition(run, trait)
    np.testing.assert_allclose(budget.rate, velocity.sum(axis=1), rtol=1e-12)
    assert (budget.inflow > 0.1).all()
    expected = (velocity @ trait - price.mean * velocity.sum(axis=1)) / run.total_mass
    np.testing.assert_allclose(price.rate, expected, rtol=1e-12)
    with pytest.raises(ValueError, match="Offspring"):
        dg.potential(run)
