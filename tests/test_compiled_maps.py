"""The quick ways to take steps of a map have the bits of the plain one, operation by operation."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest

import evodyn as ed
from evodyn import landscapes
from evodyn.core.arrays import FloatArray
from evodyn.model import comparison
from evodyn.model.normal_form import NormalForm
from evodyn.simulate import compiled_maps
from evodyn.solvers.compilation import prepare_if_possible

RNG = np.random.default_rng(8)
SIZES = [*range(1, 40), 127, 128, 129, 136, 264, 768, 8193, 16_385, 40_003]
# Older releases of NumPy add up parts of 8192 one after another, which differs in the last bit.
LONG = RNG.random(99_999)
BY_HALVES = bool(comparison.product_sum(np.ones_like(LONG), LONG) == LONG.sum())
iterating: Any = importlib.import_module("evodyn.simulate.iterate")


def dynamics_of(n: int) -> list[ed.Dynamics]:
    target = RNG.random(n)
    return [
        ed.Replicator(),
        ed.NormalizedGrowth(0.5 * n, 0.3),
        ed.SelectionMutation(0.02, target=1.0),
        ed.SelectionMutation(lambda t: 0.1 + t, target=target, signal_clip=0.4),
    ]


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "compiled_step", [])


def load() -> Any:
    """Return the compiled maps."""
    pytest.importorskip("numba")
    prepare_if_possible()
    maps = compiled_maps.load()
    return maps or pytest.skip("compiled code cannot be kept here")


def plain_step(dynamics: Any, p: FloatArray, phi: FloatArray, h: float, time: float = 0.0) -> FloatArray:
    """Return the step as it is defined: p + η_p·velocity, projected, capped."""
    new = p + h * dynamics.velocity(p, phi, time=time)
    capped: FloatArray = dynamics._capped(np.where(new < 0, 0.0, new))
    return capped


def check_steps() -> None:
    for n in SIZES if BY_HALVES else [n for n in SIZES if n <= 8192]:
        p, phi = RNG.random(n), RNG.normal(0.0, 2.0, n)
        absent = RNG.random(n) < 0.2
        p[absent], phi[absent] = 0.0, np.inf
        for dynamics in dynamics_of(n):
            found = dynamics.step(p, phi, 0.9, time=0.3)
            assert found.tobytes() == plain_step(dynamics, p, phi, 0.9, 0.3).tobytes(), (n, dynamics)


@pytest.mark.usefixtures("without")
def test_steps_in_parts_are_velocity_bit_for_bit() -> None:
    check_steps()


def test_compiled_steps_are_velocity_bit_for_bit() -> None:
    load()
    check_steps()


def test_who_grows_otherwise_is_asked() -> None:
    class Doubled(ed.Replicator):
        def growth_rates(self, masses: Any, fitness: Any, *, time: float = 0.0) -> Any:
            return 2 * super().growth_rates(masses, fitness, time=time)

    p, phi = np.array([1.0, 1.0]), np.array([1.0, 0.0])
    np.testing.assert_array_equal(Doubled().step(p, phi, 0.5), [1.5, 0.5])
    assert Doubled().comparison(2, 0.0) is None


def test_nothing_may_be_written_to_what_a_step_gets() -> None:
    load()
    p, phi = np.ones(6), np.arange(6.0)
    expected = ed.Replicator().step(p, phi, 0.1)
    for array in (p, phi):
        array.flags.writeable = False
    np.testing.assert_array_equal(ed.Replicator().step(p, phi, 0.1), expected)
    np.testing.assert_array_equal(ed.Replicator().step(p[::2], phi[::2], 0.0), np.ones(3))


@pytest.mark.parametrize("n", [1, 3, 150])
@pytest.mark.parametrize("policy", [None, "observe", "absorb", "stop"])
@pytest.mark.parametrize("decay", [0.3, 6.0])
def test_many_steps_in_a_call_are_steps_one_by_one(
    n: int, policy: Any, decay: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    load()
    monkeypatch.setattr(compiled_maps, "_WORTH", 0)
    taken = []
    whole = compiled_maps.ManySteps.__call__

    def counted(self: Any, *given: Any) -> Any:
        answer = whole(self, *given)
        taken.append(answer[1])
        return answer

    monkeypatch.setattr(compiled_maps.ManySteps, "__call__", counted)
    landscape = landscapes.LinearDecay(RNG.lognormal(size=n), decay)
    level = 0.05 if policy == "stop" else 0.3
    extinction = policy and ed.Extinction(level, policy)
    p0 = RNG.random(n) + 0.2
    for dynamics in dynamics_of(n)[:3]:
        for every in (1, 7):
            given = dynamics, landscape, p0, 200, 0.2
            runs = [ed.iterate(*given, save_every=every, extinction=extinction, throw=False)]
            with monkeypatch.context() as patch:
                patch.setattr(iterating, "many_steps", lambda *arguments: None)
                runs.append(ed.iterate(*given, save_every=every, extinction=extinction, throw=False))
            for name in ("t", "masses", "extinction_time", "extinct_at_end", "absorbed_mass", "crossings"):
                one, other = (getattr(run, name) for run in runs)
                assert one.tobytes() == other.tobytes(), name
            assert runs[0].termination is runs[1].termination
            assert runs[0].stats.projections == runs[1].stats.projections
    if decay < 1 and policy != "stop":
        assert sum(taken) > 200


@pytest.mark.parametrize("n", [3, 150, 769])
@pytest.mark.parametrize("blocks", [1, 3, 9])
def test_one_step_for_fitness_that_falls_with_mass_is_a_step(n: int, blocks: int) -> None:
    load()
    n = max(n, 2 * blocks)
    sizes = [n // blocks] * (blocks - 1) + [n - n // blocks * (blocks - 1)]
    p = RNG.random(n)
    p[0] = 0.0
    for dynamics in dynamics_of(n):
        if blocks > 1:
            dynamics = ed.Populations(dynamics, tuple(sizes))
        for landscape in (landscapes.LinearDecay(RNG.normal(0.0, 2.0, n), 0.3), landscapes.Constant(p)):
            found = compiled_maps.one_step(dynamics, landscape, p, 0.1, 0.3)
            expected = dynamics.step(p, landscape(0.3, p), 0.1, time=0.3)
            # Where mutation revives a group there is something to look at, and sums of many blocks differ.
            seen = (expected[0] > 0) or blocks > 8
            assert (found is None) == seen
            assert found is None or found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("mass", [0.0, 1.0])
def test_one_step_leaves_what_is_not_finite_to_others(value: float, mass: float) -> None:
    load()

    class Given(landscapes.Landscape):
        exact_kernel = True

        def __call__(self, t: float, masses: Any) -> Any:
            return contribution

        def kernel(self, t: float, n: int) -> Any:
            return NormalForm(contribution)

    contribution, p = np.zeros(40), np.ones(40)
    assert compiled_maps.one_step(ed.Replicator(0.1), Given(), p, 0.1, 0.0) is not None
    contribution[3], p[3] = value, mass
    assert compiled_maps.one_step(ed.Replicator(0.1), Given(), p, 0.1, 0.0) is None
    assert compiled_maps.one_step(ed.Replicator(0.1), lambda t, q: contribution, p, 0.1, 0.0) is None


def test_who_grows_otherwise_in_blocks_has_no_comparisons() -> None:
    class Doubled(ed.Populations):
        def growth_rates(self, masses: Any, fitness: Any, *, time: float = 0.0) -> Any:
            return 2 * super().growth_rates(masses, fitness, time=time)

    assert ed.Populations(ed.Replicator(), (2, 2)).comparisons(4, 0.0) is not None
    assert Doubled(ed.Replicator(), (2, 2)).comparisons(4, 0.0) is None
