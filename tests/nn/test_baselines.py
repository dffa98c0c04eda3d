"""What selection is compared with, against closed forms: penalties, gates, rankings."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import nn_bridge as nb
from nn_bridge.baselines.d_gating import DGating
from nn_bridge.baselines.gates import balanced, folded, gated, penalty
from nn_bridge.baselines.hard_concrete import HIGH, LOW, TEMPERATURE, HardConcrete
from nn_bridge.baselines.rankings import at_random, by_gate, by_magnitude, by_sensitivity, remove_lowest
from nn_bridge.baselines.slimming import Slimming
from nn_bridge.layers import PopulationLinear

pytestmark = pytest.mark.nn

WIDTHS = (6, 5, 4, 3)
KINDS = [HardConcrete, Slimming, lambda layer: DGating(layer, depth=3)]


def layer(groups: int = 4) -> PopulationLinear:
    return PopulationLinear(3, groups, generator=torch.Generator().manual_seed(0))


def number(value: torch.Tensor) -> float:
    return float(value.detach())


def test_hard_concrete_gates_are_open_as_often_as_the_penalty_says() -> None:
    gates = HardConcrete(layer(20_000), seed=1)
    for start in (-2.0, 0.0, 1.5):
        gates.openness.data.fill_(start)
        drawn = gates.gates().detach()
        expected = 1 / (1 + math.exp(-start) * (-LOW / HIGH) ** TEMPERATURE)  # σ(a - β ln(-γ/ζ))
        assert number(gates.penalties()[0]) == pytest.approx(expected, rel=1e-6)
        error = math.sqrt(expected * (1 - expected) / 20_000)
        assert float((drawn > 0).double().mean()) == pytest.approx(expected, abs=4 * error)
        # They are at 1 where the stretched variable passes 1: σ(a - β ln((1 - γ)/(ζ - 1))).
        at_one = 1 / (1 + math.exp(-start) * ((1 - LOW) / (HIGH - 1)) ** TEMPERATURE)
        assert float((drawn == 1).double().mean()) == pytest.approx(at_one, abs=4 * error)


def test_hard_concrete_gates_are_certain_in_evaluation() -> None:
    gates = HardConcrete(layer()).eval()
    gates.openness.data.copy_(torch.tensor([-10.0, 0.0, 1.0, 10.0]))
    expected = np.clip(1.2 / (1 + np.exp([10.0, 0.0, -1.0, -10.0])) - 0.1, 0, 1)
    np.testing.assert_allclose(gates.gates().detach(), expected, rtol=1e-6)


def test_a_hard_concrete_gate_counts_as_closed_where_it_is_zero_in_evaluation() -> None:
    gates = HardConcrete(layer(200)).eval()
    gates.openness.data.copy_(torch.linspace(-3, -2, 200))  # closed below ln(1/11) = -2.398
    assert 0 < int((gates.gates() == 0).sum()) < 200
    assert torch.equal(gates.scores() < gates.closed, gates.gates() == 0)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_d_gating_is_a_group_penalty_of_power_two_over_d(depth: int) -> None:
    """Descent on the factors of y = (Σ z w) ends where min ½‖v - a‖² + λ D ‖v‖^(2/D) does."""
    strength, target = 0.1, torch.tensor([0.9, -1.2], dtype=torch.float64)  # ‖a‖ = 1.5
    plain = PopulationLinear(2, 1, bias=False, dtype=torch.float64)
    gates = DGating(plain, depth=depth)
    gates.factors.data = gates.factors.data.double()
    plain.weight.data.copy_(target)
    optimizer = torch.optim.SGD(gates.parameters(), lr=0.15)
    for _ in range(700):
        optimizer.zero_grad()
        v = gates.gates()[:, None] * gates.weight
        (0.5 * (v - target).square().sum() + strength * gates.penalties().sum()).backward()
        optimizer.step()
    norm = number(gates.scores()[0])
    # Stationary: s - ‖a‖ + 2 λ s^(2/D - 1) = 0.
    assert norm - 1.5 + 2 * strength * norm ** (2 / depth - 1) == pytest.approx(0, abs=1e-9)
    assert number(gates.penalties()[0]) == pytest.approx(depth * norm ** (2 / depth), rel=1e-9)
    other = copy.deepcopy(gates)
    other.weight.data *= 2
    other.factors.data[0] /= 2
    assert number(other.scores()[0]) == pytest.approx(norm)
    assert number(other.penalties()[0]) > number(gates.penalties()[0])


def test_the_penalty_of_slimming_is_a_soft_threshold() -> None:
    """Min ½(z - a)² + λ|z| is at max(a - λ, 0), to the step length where it is 0."""
    gates, a = Slimming(layer()), torch.tensor([0.02, 0.3, 1.0, -0.5])
    optimizer = torch.optim.SGD(gates.parameters(), lr=0.02)
    for _ in range(600):
        optimizer.zero_grad()
        (0.5 * (gates.gates() - a).square().sum() + 0.1 * gates.penalties().sum()).backward()
        optimizer.step()
    np.testing.assert_allclose(gates.scales.detach(), [0, 0.2, 0.9, -0.4], atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_folded_gates_give_the_same_outputs_and_the_same_smaller_network(kind: object) -> None:
    assert callable(kind)
    model = gated(nb.population_mlp(WIDTHS), kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.rpartition(".")[2] in ("openness", "scales", "factors"):
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    remove_lowest(model, by_gate(model), 4 / 9)
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(2))
    plain = folded(model)
    torch.testing.assert_close(plain(x), model.eval()(x))
    torch.testing.assert_close(nb.compact(plain)(x), plain(x))
    assert sum(int((part.masses > 0).sum()) for part in nb.population_layers(plain)) <= 5
    assert (
        number(penalty(model)) < number(penalty(gated(nb.population_mlp(WIDTHS), kind))) or kind is KINDS[2]
    )


def test_a_balanced_network_has_the_same_outputs_and_equal_norms_on_both_sides_of_a_neuron() -> None:
    model = nb.compact(nb.population_mlp(WIDTHS))
    first, second, third = (part for part in model.modules() if isinstance(part, nn.Linear))
    with torch.no_grad():
        for layer, scale in ((first, 1e-3), (third, 1e3)):
            layer.weight.mul_(scale)
        first.bias.mul_(1e-3)
        second.weight[:, 1] = 0.0  # nobody listens to it
    assert isinstance(model, nn.Sequential)
    after = balanced(model)
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(after(x), model(x), rtol=1e-4, atol=1e-4)
    first, second, third = (part for part in after.modules() if isinstance(part, nn.Linear))
    entering = torch.cat([first.weight, first.bias[:, None]], 1).norm(dim=1).detach()
    heard = torch.arange(5) != 1
    torch.testing.assert_close(entering[heard], second.weight.norm(dim=0).detach()[heard], rtol=1e-3, atol=0)
    entering = torch.cat([second.weight, second.bias[:, None]], 1).norm(dim=1).detach()
    torch.testing.assert_close(entering, third.weight.norm(dim=0).detach(), rtol=1e-3, atol=0)


def test_a_layer_whose_gates_are_all_closed_can_still_be_made_smaller() -> None:
    model = gated(nb.population_mlp(WIDTHS), HardConcrete)
    gates = model.get_parameter("hidden1.openness")
    gates.data.fill_(-10.0)
    small = nb.compact(folded(model))
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(small(x), model.eval()(x))


def test_gates_start_from_the_weights_of_the_dense_network_and_leave_it_alone() -> None:
    model = nb.population_mlp(WIDTHS)
    twin = gated(model, Slimming)
    x = torch.randn(7, 6, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(twin(x), model(x))
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in model.parameters()) + 9


def test_a_removed_group_pays_no_penalty() -> None:
    model = gated(nb.population_mlp(WIDTHS), Slimming)
    assert number(penalty(model)) == 9
    remove_lowest(model, torch.arange(1.0, 10.0), 4 / 9)
    assert number(penalty(model)) == 5


def test_sensitivity_is_the_derivative_of_each_samples_loss_by_the_mass() -> None:
    model = nb.population_mlp(WIDTHS).double()
    draw = torch.Generator().manual_seed(3)
    x, y = torch.randn(5, 6, generator=draw).double(), torch.randint(0, 3, (5,), generator=draw)

    def losses() -> torch.Tensor:
        return nn.functional.cross_entropy(model(x), y, reduction="none")

    expected = []
    with torch.no_grad():
        for part in nb.population_layers(model):
            for k in range(part.groups):
                part.masses[k] = 1 + 1e-6
                above = losses()
                part.masses[k] = 1 - 1e-6
                expected.append(float(((above - losses()) / 2e-6).abs().mean()))
                part.masses[k] = 1.0
    np.testing.assert_allclose(by_sensitivity(model, x, y, batch_size=2), expected, rtol=1e-6, atol=1e-9)


def test_magnitude_is_the_norm_of_weights_and_bias() -> None:
    model = nb.population_mlp((2, 2, 2))
    first = nb.population_layers(model)[0]
    with torch.no_grad():
        first.get_parameter("weight").copy_(torch.tensor([[3.0, 0.0], [1.0, 2.0]]))
        first.get_parameter("bias").copy_(torch.tensor([4.0, 2.0]))
    assert by_magnitude(model).tolist() == [5.0, 3.0]


def test_the_lowest_are_removed_and_a_random_order_is_one() -> None:
    model = nb.population_mlp(WIDTHS)
    report = remove_lowest(model, torch.tensor([3.0, 9, 1, 8, 2, 7, 6, 5, 4]), 3 / 9)
    assert report.living == (2, 4)
    assert nb.population_layers(model)[0].masses.tolist() == [0, 1, 0, 1, 0]
    assert sorted(at_random(model, 0).tolist()) == list(range(1, 10))
    assert not torch.equal(at_random(model, 0), at_random(model, 1))
