"""A user's own dynamics and landscape through the whole of evodyn: right, or refused by name.

Groups that share one resource: dp_i/dt = p_i (φ_i - P/K), whose total mass follows no law that evodyn knows.
With constant fitness c its solution is p_i(0) e^{c_i t} / (1 + Σ_j p_j(0) (e^{c_j t} - 1)/(c_j K)).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import xarray as xr
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

import evodyn as ed
from evodyn.core.arrays import Array, FloatArray

C = np.array([1.0, 0.7, 0.4])
P0 = np.array([0.2, 0.5, 1.0])
K = 3.0


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SharedResource(ed.Dynamics):
    """g_i = φ_i - P/K."""

    capacity: float

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        return fitness - masses.sum(-1)[..., None] / self.capacity


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Saturating(ed.landscapes.Landscape):
    """φ_i = c_i h/(h + p_i)."""

    contribution: FloatArray
    half: float

    def __call__(self, t: float, masses: Array) -> Array:
        return self.contribution * (self.half / (self.half + masses))


DYNAMICS = SharedResource(K)
LANDSCAPE = Saturating(C, half=2.0)
CONSTANT = ed.landscapes.Constant(C)


def bare(t: float, masses: Array) -> Array:
    """The same landscape as a function."""
    return C * (2.0 / (2.0 + masses))


def closed_form(t: npt.ArrayLike, p0: FloatArray = P0, c: FloatArray = C, capacity: float = K) -> FloatArray:
    times = np.asarray(t)[..., None]
    eaten = (p0 * np.expm1(c * times) / (c * capacity)).sum(-1, keepdims=True)
    result: FloatArray = p0 * np.exp(c * times) / (1 + eaten)
    return result


def reference(times: FloatArray, p0: FloatArray = P0, *, half: float = 2.0) -> FloatArray:
    """Return the masses by a general integrator that knows nothing of evodyn."""

    def velocity(t: float, p: FloatArray) -> FloatArray:
        result: FloatArray = p * (C * half / (half + p) - p.sum() / K)
        return result

    found = solve_ivp(velocity, (0.0, times[-1]), p0, "DOP853", times, rtol=1e-12, atol=1e-14)
    masses: FloatArray = found.y.T
    return masses


def rest(support: list[int], *, half: float = 2.0) -> FloatArray | None:
    """Return the masses at rest of these groups alone, where all of them can be there."""
    c = C[support]

    def surplus(level: float) -> float:
        return float((half * (c / level - 1)).sum() - K * level)

    level = brentq(surplus, 1e-3, c.max(), xtol=1e-15)
    masses = np.zeros(3)
    masses[support] = half * (c / level - 1)
    return masses if (masses[support] > 0).all() else None


# --- Runs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["auto", "RK45", "LSODA", "Radau"])
def test_a_flow_is_its_closed_form(method: Any) -> None:
    solver = ed.Solver(method=method)
    run = ed.solve(DYNAMICS, CONSTANT, P0, (0.0, 20.0), solver=solver)
    np.testing.assert_allclose(run.masses, closed_form(run.t), rtol=1e-6)
    np.testing.assert_allclose(run.total_mass, closed_form(run.t).sum(axis=1), rtol=1e-6)
    run = ed.solve(DYNAMICS, LANDSCAPE, P0, (0.0, 20.0), solver=solver)
    np.testing.assert_allclose(run.masses, reference(run.t), rtol=1e-6)


def test_a_function_is_a_landscape() -> None:
    own, function = (ed.solve(DYNAMICS, landscape, P0, (0.0, 5.0)) for landscape in (LANDSCAPE, bare))
    np.testing.assert_allclose(function.masses, own.masses, rtol=1e-9)
    # Fitness that is twice as large, with half of the resource, is the same flow twice as fast.
    twice = ed.solve(SharedResource(K / 2), LANDSCAPE + bare, P0, (0.0, 2.5))
    np.testing.assert_allclose(twice.masses, own.masses, rtol=1e-6)


@pytest.mark.parametrize("scheme", ["euler", "exponential"])
def test_a_map_is_what_it_says(scheme: Any) -> None:
    run = ed.iterate(DYNAMICS, LANDSCAPE, P0, 50, 0.1, scheme=scheme)
    masses = P0.copy()
    for row in run.masses[1:]:
        growth = C * 2.0 / (2.0 + masses) - masses.sum() / K
        masses = masses * (1 + 0.1 * growth) if scheme == "euler" else masses * np.exp(0.1 * growth)
        np.testing.assert_allclose(row, masses, rtol=1e-12)


def test_runs_go_on_where_they_ended() -> None:
    more = ed.extend(ed.solve(DYNAMICS, CONSTANT, P0, (0.0, 3.0)), 20.0)
    np.testing.assert_allclose(more.masses, closed_form(more.t), rtol=1e-6)
    steps = ed.extend(ed.iterate(DYNAMICS, LANDSCAPE, P0, 20, 0.25), 10.0)
    assert np.array_equal(steps.masses, ed.iterate(DYNAMICS, LANDSCAPE, P0, 40, 0.25).masses)


def test_extinction_is_seen_where_the_closed_form_crosses() -> None:
    watched, absorbed = (
        ed.solve(DYNAMICS, CONSTANT, P0, (0.0, 40.0), extinction=ed.Extinction(1e-3, policy))
        for policy in ("observe", "absorb")
    )

    def over(t: float, group: int) -> float:
        return float(closed_form(t)[group]) - 1e-3

    falls = [brentq(over, 1.0, 40.0, args=(group,), xtol=1e-13) for group in (1, 2)]
    np.testing.assert_allclose(watched.extinction_time, [np.inf, *falls], rtol=1e-7)
    assert absorbed.extinction_time[2] == pytest.approx(falls[1], rel=1e-7)
    assert absorbed.masses[-1, 1:].tolist() == [0.0, 0.0]


def test_blocks_have_a_resource_each() -> None:
    two = ed.Populations((DYNAMICS, SharedResource(1.0)), sizes=(3, 2))
    start = np.array([*P0, 0.1, 0.2])
    run = ed.solve(two, ed.landscapes.Constant([*C, 2.0, 1.0]), start, (0.0, 10.0))
    np.testing.assert_allclose(run.masses[:, :3], closed_form(run.t), rtol=1e-6)
    other = closed_form(run.t, np.array([0.1, 0.2]), np.array([2.0, 1.0]), 1.0)
    np.testing.assert_allclose(run.masses[:, 3:], other, rtol=1e-6)


def test_ensembles() -> None:
    save_at = np.linspace(0.0, 10.0, 11)
    halves = (0.5, 2.0, 8.0)
    ensemble = ed.solve_ensemble(
        DYNAMICS, [Saturating(C, half) for half in halves], P0, (0.0, 10.0), save_at=save_at
    )
    for masses, half in zip(ensemble.masses, halves, strict=True):
        np.testing.assert_allclose(masses, reference(save_at, half=half), rtol=1e-6)
    starts = np.array([P0, 2 * P0])
    ensemble = ed.solve_ensemble(DYNAMICS, CONSTANT, starts, (0.0, 10.0), save_at=save_at)
    for masses, start in zip(ensemble.masses, starts, strict=True):
        np.testing.assert_allclose(masses, closed_form(save_at, start), rtol=1e-6)


# --- Rest points ---------------------------------------------------------------------------------------


def test_rest_points() -> None:
    point = ed.equilibrium(DYNAMICS, CONSTANT, start=P0)
    np.testing.assert_allclose(point.masses, [K, 0.0, 0.0], rtol=1e-9)
    np.testing.assert_allclose(point.invasion_rates[1:], C[1:] - C[0], rtol=1e-9)
    assert point.stability is ed.Stability.STABLE
    assert point.eigenvalues is not None
    np.testing.assert_allclose(np.sort(point.eigenvalues.real), np.sort([-C[0], *(C[1:] - C[0])]), rtol=1e-6)
    supports = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]
    expected = [masses for support in supports if (masses := rest(support)) is not None]
    assert len(expected) > 3
    found = ed.all_equilibria(DYNAMICS, LANDSCAPE)
    assert len(found) == len(expected)
    for masses in expected:
        assert any(np.allclose(point.masses, masses, rtol=1e-8, atol=0.0) for point in found), masses
    (stable,) = [point for point in found if point.stability is ed.Stability.STABLE]
    end = ed.solve(DYNAMICS, LANDSCAPE, P0, (0.0, 300.0)).masses[-1]
    np.testing.assert_allclose(stable.masses, end, rtol=1e-6, atol=1e-9)


def test_extinction_rates_are_those_of_the_closed_form() -> None:
    rates = ed.extinction_rates(ed.solve(DYNAMICS, CONSTANT, P0, (0.0, 100.0)))
    np.testing.assert_allclose(rates.theoretical, C[0] - C, atol=1e-9)
    np.testing.assert_allclose(rates.measured, C[0] - C, atol=1e-6)


# --- Diagnostics ---------------------------------------------------------------------------------------


def test_diagnostics() -> None:
    run = ed.solve(DYNAMICS, CONSTANT, P0, (0.0, 10.0))
    p = closed_form(run.t)
    shares = p / p.sum(axis=1, keepdims=True)
    mean = shares @ C
    budget = ed.diagnostics.mass_budget(run)
    growth = p.sum(axis=1) * (mean - p.sum(axis=1) / K)
    np.testing.assert_allclose(budget.rate, growth, rtol=1e-6, atol=1e-7)
    fisher = ed.diagnostics.fisher_decomposition(run)
    np.testing.assert_allclose(fisher.selection, shares @ C**2 - mean**2, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(fisher.rate, fisher.selection, atol=1e-9)
    data = ed.diagnostics.diagnostics(run)
    np.testing.assert_allclose(data["mean_fitness"], mean, rtol=1e-6)
    np.testing.assert_allclose(data["entropy"], -(shares * np.log(shares)).sum(axis=1), rtol=1e-5)


def test_the_price_equation_of_fitness_that_the_masses_change() -> None:
    run = ed.solve(DYNAMICS, LANDSCAPE, P0, (0.0, 10.0))
    p = run.masses
    shares, fitness = p / p.sum(axis=1, keepdims=True), C * 2.0 / (2.0 + p)
    mean = (shares * fitness).sum(axis=1, keepdims=True)
    change = -C * 2.0 / (2.0 + p) ** 2 * p * (fitness - p.sum(axis=1, keepdims=True) / K)
    parts = ed.diagnostics.fisher_decomposition(run)
    np.testing.assert_allclose(parts.selection, (shares * (fitness - mean) ** 2).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(parts.transmission, (shares * change).sum(axis=1), rtol=1e-6, atol=1e-9)
    assert not parts.mutation.any()


# --- Noise ---------------------------------------------------------------------------------------------


def test_noise() -> None:
    with pytest.raises(ValueError, match=r"dynamics is SharedResource\(capacity=3.0\); expected Replicator"):
        ed.stochastic.fitness_noise(
            CONSTANT, P0, (0.0, 1.0), noise=0.1, calculus="ito", dynamics=DYNAMICS, rng=0
        )
    # Noise of size zero is none.
    flow = ed.stochastic.fitness_noise(
        LANDSCAPE, P0, (0.0, 2.0), noise=0.0, calculus="ito", step_size=1e-3, rng=0
    )
    np.testing.assert_allclose(
        flow.masses[0], ed.solve(ed.Replicator(), LANDSCAPE, P0, (0.0, 2.0)).masses, rtol=1e-3
    )
    still = ed.stochastic.noisy_iterate(DYNAMICS, LANDSCAPE, P0, 30, 0.1, noise=0.0, members=2, rng=0)
    expected = ed.iterate(DYNAMICS, LANDSCAPE, P0, 30, 0.1).masses
    np.testing.assert_allclose(still.masses, np.stack([expected, expected]), rtol=1e-12)
    # To first order in η, estimates without bias leave the mean where it was.
    noisy = ed.stochastic.noisy_iterate(DYNAMICS, CONSTANT, P0, 20, 0.02, noise=0.5, members=4000, rng=0)
    spread = noisy.masses[:, -1].std(axis=0) / np.sqrt(4000)
    assert (abs(noisy.masses[:, -1].mean(axis=0) - closed_form(0.4)) < 4 * spread + 5e-3).all()
    # A shared resource acts on all alike: who is drawn in a population of fixed size knows nothing of it.
    game = ed.landscapes.Constant([0.3, 0.0])
    own, replicator = (
        ed.stochastic.wright_fisher_matrix(dynamics, game, 10) for dynamics in (DYNAMICS, ed.Replicator())
    )
    np.testing.assert_allclose(own, replicator, rtol=1e-12)


# --- Sweeps and files ----------------------------------------------------------------------------------


def end_of(point: Any) -> xr.Dataset:
    run = ed.solve(point["dynamics"], Saturating(C, point["half"]), P0, (0.0, 5.0))
    return xr.Dataset({"mass": ("group", run.masses[-1])})


def test_sweeps_take_a_dynamics_as_a_setting(tmp_path: Path) -> None:
    points = [{"dynamics": SharedResource(k), "half": half} for k in (1.0, K) for half in (0.5, 2.0)]
    results = ed.sweep(end_of, points, tmp_path)
    np.testing.assert_allclose(results[2].mass, reference(np.array([0.0, 5.0]), half=0.5)[-1], rtol=1e-6)
    np.testing.assert_allclose(results[3].mass, reference(np.array([0.0, 5.0]))[-1], rtol=1e-6)
    assert not np.allclose(results[0].mass, results[2].mass)
    again = ed.sweep(end_of, points[::-1], tmp_path)
    assert all(one.identical(other) for one, other in zip(again[::-1], results, strict=True))
    assert len(list(tmp_path.glob("*.nc"))) == 4


RUNS: dict[str, Callable[..., ed.Run]] = {
    "flow": lambda dynamics, landscape: ed.solve(dynamics, landscape, P0, (0.0, 5.0)),
    "map": lambda dynamics, landscape: ed.iterate(dynamics, landscape, P0, 20, 0.25),
}


@pytest.mark.parametrize("kind", RUNS)
def test_files_bring_back_what_can_be_imported(kind: str, tmp_path: Path) -> None:
    run = RUNS[kind](DYNAMICS, LANDSCAPE)
    run.save(tmp_path / "run.nc")
    loaded = ed.load(tmp_path / "run.nc")
    assert loaded.same_as(run)
    assert isinstance(loaded.dynamics, SharedResource)
    assert ed.extend(loaded, 10.0).same_as(ed.extend(run, 10.0))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Twice(ed.Replicator):
    """Selection twice as fast, by the part of the growth rates that knows the mean."""

    def rates_against(self, fitness: Any, mean: Any, *, time: float = 0.0) -> Any:
        return 2.0 * (fitness - mean)


@pytest.mark.parametrize("solver", [ed.Solver(), ed.Solver(compiled=False), ed.Solver(method="RK45")])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_growth_against_the_mean_may_be_of_a_users_own(decay: float, solver: ed.Solver) -> None:
    # Neither the closed form of the replicator nor its compiled form is that of a subclass with other rates.
    fitness = ed.landscapes.LinearDecay([1.0, 0.0], decay) if decay else ed.landscapes.Constant([1.0, 0.0])
    run = ed.solve(Twice(), fitness, [1.0, 1.0], (0.0, 1.0), save_at=[1.0], solver=solver)
    plain = ed.solve(ed.Replicator(), fitness, [1.0, 1.0], (0.0, 2.0), save_at=[2.0])
    np.testing.assert_allclose(run.masses[-1], plain.masses[-1], rtol=1e-7)
    step = Twice().step(np.ones(2), np.array([1.0, 0.0]), 0.1)
    np.testing.assert_allclose(step, [1.1, 0.9])


@pytest.mark.parametrize("kind", RUNS)
def test_files_name_what_cannot_be_imported(kind: str, tmp_path: Path) -> None:
    class Hidden(SharedResource):
        pass

    run = RUNS[kind](Hidden(K), bare)
    run.save(tmp_path / "run.nc")
    loaded = ed.load(tmp_path / "run.nc")
    assert np.array_equal(loaded.masses, run.masses)
    assert "Hidden" in repr(loaded.dynamics)
    assert "bare" in repr(loaded.landscape)
    with pytest.raises((TypeError, ed.SolveError), match=r"Hidden|bare"):
        ed.extend(loaded, 10.0)
    again = dataclasses.replace(loaded, dynamics=run.dynamics, landscape=bare)
    assert np.array_equal(ed.extend(again, 10.0).masses, ed.extend(run, 10.0).masses)


def test_ensembles_are_saved(tmp_path: Path) -> None:
    ensemble = ed.solve_ensemble(DYNAMICS, [LANDSCAPE, Saturating(C, 1.0)], P0, (0.0, 5.0))
    ensemble.save(tmp_path / "ensemble.nc")
    assert ed.load(tmp_path / "ensemble.nc").same_as(ensemble)
