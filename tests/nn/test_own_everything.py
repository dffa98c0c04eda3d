"""A user's own layer, signal, dynamics and landscape in one training network: right, or refused by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import evodyn as ed
import nn_bridge as nb
from evodyn.core.arrays import Array

pytestmark = pytest.mark.nn

CAPACITY, HALF, STEP = 20.0, 0.5, 0.05


class PairedLinear(nb.PopulationLayer):
    """Neurons in pairs that share a mass."""

    def __init__(self, in_features: int, pairs: int) -> None:
        super().__init__(pairs, group_axis=-2)
        self.linear = nn.Linear(in_features, 2 * pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scaled(self.linear(x).unflatten(-1, (self.groups, 2))).flatten(-2)


class Doubled(nb.PopulationLinear):
    """A layer that says it is linear, and does something else."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Benefit(nb.Signal):
    """c_i = -∂L/∂p_i, with its sign."""

    smoothing: float = 0.0
    relative: bool = False

    def values(self, layers: Sequence[nb.PopulationLayer], totals: torch.Tensor) -> torch.Tensor:
        return -totals


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class SharedResource(ed.Dynamics):
    """g_i = φ_i - P/K."""

    capacity: float

    def growth_rates(self, masses: Array, fitness: Array, *, time: float = 0.0) -> Array:
        return fitness - masses.sum(-1)[..., None] / self.capacity


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Saturating(ed.landscapes.Landscape):
    """φ_i = c_i h/(h + p_i)."""

    contribution: Array
    half: float

    def __call__(self, t: float, masses: Array) -> Array:
        return self.contribution * (self.half / (self.half + masses))


class Training:
    """A small network of which every part is a user's own."""

    def __init__(self, *, scope: Any = "global") -> None:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Sequential(PairedLinear(5, 4), nn.ReLU(), PairedLinear(8, 3), nn.Linear(6, 2))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9)
        self.selector = nb.Selector(
            self.model,
            SharedResource(CAPACITY),
            Benefit(),
            STEP,
            landscape=lambda c: Saturating(c, HALF),
            scope=scope,
        )
        draw = torch.Generator().manual_seed(1)
        self.x = torch.randn(64, 5, generator=draw)
        self.y = (self.x[:, 0] * self.x[:, 1] > 0).long()

    def epoch(self) -> float:
        return nb.train_epoch(self.model, self.x, self.y, self.optimizer, self.selector, batch_size=16)

    def state(self) -> dict[str, bytes]:
        return {name: value.numpy().tobytes() for name, value in self.model.state_dict().items()}


def gradient_by_masses(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Return ∂L/∂p with the masses as leaves of the graph, which the bridge never makes them."""
    leaves = {name: buffer.clone().requires_grad_() for name, buffer in model.named_buffers()}
    loss = nn.functional.cross_entropy(torch.func.functional_call(model, leaves, (x,)), y)
    return torch.cat(torch.autograd.grad(loss, list(leaves.values())))


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_a_step_is_what_dynamics_landscape_signal_and_layer_say(scope: Any) -> None:
    training = Training(scope=scope)
    training.model.double()
    masses = torch.linspace(0.2, 1.4, 7, dtype=torch.float64)
    for layer, part in zip(nb.population_layers(training.model), masses.split((4, 3)), strict=True):
        layer.masses.copy_(part)
    x = training.x.double()
    c = -gradient_by_masses(training.model, x, training.y)
    training.selector.clear()  # which saw that pass too
    nn.functional.cross_entropy(training.model(x), training.y).backward()
    training.selector.step()
    assert training.selector.contribution is not None
    np.testing.assert_allclose(training.selector.contribution, c, rtol=1e-10)
    totals = [part.sum().expand(len(part)) for part in masses.split((4, 3) if scope == "layer" else (7,))]
    growth = c * HALF / (HALF + masses) - torch.cat(totals) / CAPACITY
    np.testing.assert_allclose(training.selector.masses, masses * (1 + STEP * growth), rtol=1e-12)


def test_training_learns_and_goes_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    whole = Training()
    losses = [whole.epoch() for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    assert (whole.selector.masses != 1).all()
    first, second = Training(), Training()
    for _ in range(10):
        first.epoch()
    parts = (first.model, first.optimizer, first.selector)
    nb.save_checkpoint(tmp_path / "run", *parts, progress=nb.Progress(10, 40, {}), config={})
    nb.load_checkpoint(tmp_path / "run", second.model, second.optimizer, second.selector, config={})
    for _ in range(20):
        second.epoch()
    assert second.state() == whole.state()


def test_pruning_takes_the_smallest_masses() -> None:
    training = Training()
    for _ in range(10):
        training.epoch()
    masses = training.selector.masses
    due = masses < masses.sort().values[3]
    report = nb.prune(training.model, float(masses.sort().values[3]))
    assert report.removed == 3
    assert torch.equal(training.selector.masses == 0, due)
    # A pair at mass 0 puts out nothing, in either neuron.
    first = nb.population_layers(training.model)[0]
    out = first(training.x).unflatten(-1, (4, 2))
    assert torch.equal((out == 0).all(dim=2).all(dim=0), due[:4])


def test_compaction_refuses_by_name_what_it_cannot_see_through() -> None:
    own = Training().model
    other = nn.Sequential(nn.Linear(4, 4), Doubled(4, 6), nn.ReLU(), nn.Linear(6, 2))
    for model, name in ((own, "0 is a PairedLinear"), (other, "1 is a Doubled")):
        nb.population_layers(model)[0].masses[0] = 0.0
        with pytest.raises(ValueError, match=f"{name}; expected"):
            nb.compact(model)


def test_the_worked_example_of_a_layer() -> None:
    """The code in CONTRIBUTING.md, whose filters are then measured, selected and pruned."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    (code,) = re.findall(r"(?s)```python\n(import torch\n.*?)```", text)
    names: dict[str, Any] = {}
    exec(code, names)
    model, selector, images = names["model"], names["selector"], names["images"]
    assert selector.steps == 1
    moved = selector.masses
    assert len(moved) == 8 and (moved != 1).any()
    np.testing.assert_allclose(moved.sum(), 8.0, rtol=1e-12)
    filters = model[0]
    with torch.no_grad():
        expected = filters.masses.float()[:, None, None] * filters.convolution(images)
        torch.testing.assert_close(filters(images), expected)
    filters.masses[3] = 1e-4
    nb.prune(model, 1e-3)
    assert not filters(images)[:, 3].any()
