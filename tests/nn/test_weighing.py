"""Masses that act on weights, where there are fewer of them than of activations: the same numbers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import evodyn as ed
import nn_bridge as nb
from nn_bridge import population
from tests.nn.networks import NETWORKS, network

pytestmark = pytest.mark.nn


def massive(name: str) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Return a network with masses, one of which is 0, with many samples and their labels."""
    model, x = network(name)
    nb.populate(model.double(), x.double())
    for layer in nb.population_layers(model):
        layer.masses.uniform_(0.2, 1.5, generator=torch.Generator().manual_seed(1))
        layer.masses[0] = 0.0
    x = torch.randn(16, *x.shape[1:], dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    return model.train(), x, torch.arange(len(x)) % 3


def loss_of(model: nn.Module, x: torch.Tensor, y: torch.Tensor, leaves: Any = None) -> torch.Tensor:
    out = model(x) if leaves is None else torch.func.functional_call(model, leaves, (x,))
    return nn.functional.cross_entropy(out.double(), y)


def selected(model: nn.Module) -> nb.Selector:
    return nb.Selector(model, ed.Replicator(), nb.Benefit(), 1e-9)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return the populations whose masses scale activations, as they come."""
    seen: list[Any] = []
    scaled = population.scaled

    def counted(groups: Any, z: torch.Tensor) -> torch.Tensor:
        seen.append(groups)
        return scaled(groups, z)

    monkeypatch.setattr(population, "scaled", counted)
    return seen


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_and_statistics_are_those_of_scaled_activations(name: str, passes: list[Any]) -> None:
    model, x, y = massive(name)
    twin = copy.deepcopy(model)
    leaves = {key: value.clone().requires_grad_() for key, value in twin.named_buffers() if "masses" in key}
    loss = loss_of(twin, x, y, leaves)  # without a selector, so on activations
    loss.backward()
    assert len(passes) >= len(leaves)
    passes.clear()
    selector = selected(model)
    found = loss_of(model, x, y)
    found.backward()
    selector.step()
    if name in ("lenet", "resnet", "encoder", "packed attention"):
        assert len(passes) < len(leaves)
    torch.testing.assert_close(found, loss, rtol=1e-10, atol=0)
    expected = -torch.cat([leaf.grad for leaf in leaves.values() if leaf.grad is not None])
    torch.testing.assert_close(selector.contribution, expected, rtol=1e-8, atol=1e-12)
    for part, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(part.grad, other.grad, rtol=1e-8, atol=1e-12)
    for key, value in model.named_buffers():
        if "masses" not in key:
            torch.testing.assert_close(value, twin.get_buffer(key), rtol=1e-10, atol=0)


@pytest.mark.parametrize("momentum", [None, 0.3])
@pytest.mark.parametrize("tracks", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_a_normalisation_keeps_its_statistics(momentum: Any, tracks: bool, training: bool) -> None:
    def made() -> tuple[Any, Any]:
        torch.manual_seed(0)
        norm = nn.BatchNorm2d(3, momentum=momentum, track_running_stats=tracks)
        parts = nn.Conv2d(1, 3, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(48, 3)
        return nn.Sequential(*parts).double(), norm

    x = torch.randn(8, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    plain, norm = made()
    model, own = made()
    nb.populate(model, x)
    selector = selected(model)
    for part in (plain, model):
        part.train(training)
    for k in range(3):
        torch.testing.assert_close(model(x + k), plain(x + k), rtol=1e-10, atol=1e-12)
    for key, value in norm.named_buffers():
        torch.testing.assert_close(own.get_buffer(key), value, rtol=1e-12, atol=0)
    assert selector.layers[0].module is own


@pytest.mark.parametrize("why", ["few", "frozen", "half", "autocast", "samples"])
def test_activations_are_scaled_where_weights_may_not_be(why: str, passes: list[Any]) -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    x, y = torch.randn(8, 1, 6, 6), torch.arange(8) % 3
    nb.populate(model, x)
    signal = nb.Contribution(per_sample=why == "samples")
    if why == "half":
        model.bfloat16()
        x = x.bfloat16()
    for parameter in model[0].parameters():
        parameter.requires_grad_(why != "frozen")
    selector = nb.Selector(model, ed.Replicator(), signal, 1e-3)
    passes.clear()
    if why == "few":
        model[0](x[:1, :, :3, :3]).sum().backward()
    else:
        with torch.autocast("cpu", torch.bfloat16, enabled=why == "autocast"):
            loss = loss_of(model, x, y)
        loss.backward()
    assert [groups.module for groups in passes] == [model[0]]
    selector.step()
    assert not bool(selector.skipped)


def test_a_layer_over_sequences_scales_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = nb.PopulationLinear(3, 2, generator=torch.Generator().manual_seed(0)).double()
    layer.masses[:] = torch.tensor([0.5, 0.0])
    x = torch.randn(16, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    z = nn.functional.linear(x, layer.weight, layer.bias).detach()
    selector = selected(layer)
    monkeypatch.setattr(layer, "scaled", None)  # nobody asks for it
    y = layer(x)
    torch.testing.assert_close(y, z * layer.masses, rtol=1e-12, atol=1e-14)
    y.pow(2).sum().backward()
    expected = -(2 * z * z * layer.masses).sum((0, 1))
    selector.step()
    torch.testing.assert_close(selector.contribution, expected, rtol=1e-12, atol=0)


def test_a_forward_of_ones_own_is_called_and_stays() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double()
    x, calls = torch.randn(8, 1, 6, 6, dtype=torch.float64), []
    plain: Any = model[0].forward

    def forward(x: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return plain(x)  # type: ignore[no-any-return]

    model[0].forward = forward
    nb.populate(model, x)
    selector = selected(model)
    calls.clear()
    loss_of(model, x, torch.arange(8) % 3).backward()
    selector.step()
    assert calls == [8]
    population.detach(model[0])
    assert model[0].forward is forward


@pytest.mark.slow
def test_weights_with_masses_compile_into_one_graph() -> None:
    model, x, y = massive("resnet")
    twin = copy.deepcopy(model)
    own = selected(twin)
    loss_of(twin, x, y).backward()
    own.step()
    selector = selected(model)
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    loss_of(compiled, x, y).backward()
    selector.step()
    torch.testing.assert_close(selector.contribution, own.contribution, rtol=1e-9, atol=1e-13)
