"""The recipe: what was asked for is met, what is removed changes nothing, and the weights train as ever."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

import nn_bridge as nb
from nn_bridge.removal.cost import cost
from nn_bridge.shedding.price import AdaptivePrice
from nn_bridge.shedding.shed import fold, shed
from tests.nn.networks import network

pytestmark = pytest.mark.nn

SHORT = nb.Course(epochs=4, batch_size=32, warm_up=4, hold=2.0)
FAST: dict[str, Any] = {
    "course": SHORT,
    "step_size": 40.0,
    "price_rate": 0.1,
    "price_limit": 1.0,
    "start": 0.5,
    "stop": 3.0,
}


def samples(features: int = 8, count: int = 192) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(count, features, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0] * x[:, 1] > 0).long()


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    body = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 12), nn.ReLU()
    return nn.Sequential(*body, nn.Linear(12, 2))


def test_the_course_is_sgd_written_out() -> None:
    x, y = samples()
    course = nb.Course(
        epochs=2, batch_size=48, learning_rate=0.2, warm_up=3, hold=1.0, weight_decay=0.01, noise=0
    )
    model = nb.population_mlp((8, 6, 2), seed=1).double()
    own: Any = copy.deepcopy(model)
    losses = course.train(model, x.double(), y, seed=3)
    order = torch.Generator().manual_seed(3)
    speed = [torch.zeros_like(p) for p in own.parameters()]
    for epoch in range(2):
        seen = torch.randperm(192, generator=order)
        mean = 0.0
        for k in range(4):
            step, rows = 4 * epoch + k, seen[48 * k : 48 * (k + 1)]
            rate = 0.2 * min((step + 1) / 3, 1) * (1 + math.cos(math.pi * max(step - 4, 0) / 4)) / 2
            log_p = own(x.double()[rows]).log_softmax(1)
            target = nn.functional.one_hot(y[rows], 2).double() * 0.9 + 0.05
            loss = -(target * log_p).sum(1).mean()
            mean += float(loss.detach()) / 4
            for p, v, g in zip(
                own.parameters(), speed, torch.autograd.grad(loss, own.parameters()), strict=True
            ):
                g = g + 0.01 * p.detach()
                v.mul_(0.9).add_(g)
                p.data -= rate * (g + 0.9 * v)
        assert losses[epoch] == pytest.approx(mean, rel=1e-6)
    for p, q in zip(model.parameters(), own.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


def test_a_course_adds_a_penalty_and_noise_that_falls_with_the_rate() -> None:
    x, y = samples()
    seen: list[torch.Tensor] = []
    model: Any = nb.population_mlp((8, 6, 2))
    course = dataclasses.replace(SHORT, noise=0.5, warm_up=0)
    hook = model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    course.train(model, x, y, penalty=lambda: model.output.weight.square().sum())
    hook.remove()
    assert float(model.output.weight.detach().norm()) < 0.5
    order = torch.Generator().manual_seed(0)
    spreads = []
    for epoch in range(4):
        clean = x[torch.randperm(192, generator=order)]
        spreads.append(
            float((torch.cat(seen[6 * epoch : 6 * epoch + 6]) - clean).std() / x.std(correction=0))
        )
    assert spreads[:2] == pytest.approx([0.5, 0.5], rel=0.05)
    assert 0.5 > spreads[2] > spreads[3] > 0


def test_the_price_is_the_integral_of_how_much_is_in_excess() -> None:
    price = AdaptivePrice(capacity=4.0, rate=0.3, limit=2.0)
    for _ in range(100):
        price.update(8.0, 0.01)
    assert price.value == pytest.approx(0.3 * math.log(2))
    for _ in range(2000):
        price.update(8.0, 0.01)
    assert price.value == 2.0
    price.update(4.0, 0.01)
    assert price.value == 0.0


@pytest.mark.parametrize("remove", [0.0, 0.5, 0.87])
def test_the_asked_for_number_of_groups_is_met_exactly(remove: float) -> None:
    x, y = samples()
    model = nb.population_mlp((8, 32, 14, 2))
    given = copy.deepcopy(model.state_dict())
    trained = nb.Recipe(remove, **FAST).train(model, x, y)
    assert sum(trained.living) == round((1 - remove) * 46)
    assert trained.fraction_removed == pytest.approx(1 - sum(trained.living) / 46)
    linear = [part for part in trained.model.modules() if isinstance(part, nn.Linear)]
    assert [part.out_features for part in linear] == [*trained.living, 2]
    for name, value in model.state_dict().items():
        assert torch.equal(value, given[name]), name
    layers = nb.population_layers(trained.before)
    assert tuple(int((layer.masses > 0).sum()) for layer in layers) == trained.living
    torch.testing.assert_close(trained.before(x), trained.model(x))
    assert len(trained.history) == 4


def test_what_no_price_brought_about_is_cut_at_the_end() -> None:
    x, y = samples()
    trained = nb.Recipe(0.5, course=SHORT).train(nb.population_mlp((8, 32, 14, 2)), x, y)
    assert sum(trained.living) == 23 and trained.history[-1]["living"] == trained.living


@pytest.mark.parametrize("of", ["parameters", "macs"])
def test_an_asked_for_size_is_met_within_one_group(of: Any) -> None:
    x, y = samples()
    model = nb.population_mlp((8, 32, 14, 2))
    whole = getattr(cost(nb.compact(model), x[:2], repeats=1), of)
    trained = nb.Recipe(0.6, of=of, **FAST).train(model, x, y)
    size = getattr(cost(trained.model, x[:2], repeats=1), of)
    assert 0.4 * whole - 47 < size <= 0.4 * whole
    assert trained.fraction_removed == pytest.approx(1 - size / whole)


def test_without_a_number_the_price_is_a_triangle_and_finds_one() -> None:
    x, y = samples()
    settings = {**FAST, "price": 0.02}
    trained = nb.Recipe(**settings).train(nb.population_mlp((8, 48, 2)), x, y)
    assert trained.history[0]["price"] == pytest.approx(0.02 * 0.5 / 1.25)
    assert trained.history[1]["price"] == pytest.approx(0.02 * (1 - 0.25 / 1.25))
    assert trained.history[3]["price"] == 0.0
    assert 1 <= trained.living[0] < 48


def test_the_same_seed_is_the_same_training_to_the_last_bit() -> None:
    x, y = samples()
    recipe = nb.Recipe(0.5, **FAST)
    one, two, other = (recipe.train(nb.population_mlp((8, 24, 2)), x, y, seed=s).model for s in (1, 1, 2))
    assert torch.equal(one(x), two(x)) and not torch.equal(one(x), other(x))


def test_no_price_makes_a_layer_extinct() -> None:
    x, y = samples()
    settings = {**FAST, "price": 50.0}
    assert min(nb.Recipe(**settings).train(nb.population_mlp((8, 12, 6, 2)), x, y).living) == 2


def test_shedding_the_dead_changes_no_prediction_and_no_step_to_come() -> None:
    x, y = samples()
    models: list[Any] = [nb.population_mlp((8, 16, 12, 2), seed=1).double()]
    optimizers = [SHORT.optimizer(models[0])]
    nb.train_epoch(models[0], x.double(), y, optimizers[0])
    for layer in nb.population_layers(models[0]):
        layer.masses.copy_(torch.linspace(0.5, 2, len(layer.masses)))
        layer.masses[::3] = 0.0
    models.append(copy.deepcopy(models[0]))
    optimizers.append(SHORT.optimizer(models[1]))
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    alive = [layer.masses > 0 for layer in nb.population_layers(models[0])]
    models[1] = shed(models[1], x[:2].double(), optimizers[1])
    for _ in range(2):
        torch.testing.assert_close(models[0](x.double()), models[1](x.double()))
        for model, optimizer in zip(models, optimizers, strict=True):
            nb.train_epoch(model, x.double(), y, optimizer)
    for layer, small, kept in zip(*map(nb.population_layers, models), alive, strict=True):
        assert torch.equal(layer.masses[kept], small.masses)


def test_balancing_moves_the_masses_to_both_sides() -> None:
    x, _ = samples()
    model: Any = nb.population_mlp((8, 5, 4, 2), seed=1).double()
    for layer in nb.population_layers(model):
        layer.masses.copy_(torch.linspace(0.25, 4, len(layer.masses)))
    model.hidden1.masses[0] = 0.0
    outputs, old = model(x.double()), copy.deepcopy(model)
    fold(model)
    torch.testing.assert_close(model(x.double()), outputs)
    roots = old.hidden2.masses.sqrt()
    torch.testing.assert_close(model.output.weight, old.output.weight * roots)
    torch.testing.assert_close(model.hidden2.bias, old.hidden2.bias * roots)
    assert model.hidden1.masses.tolist() == [0, 1, 1, 1, 1]
    model.relu1, model.hidden2.masses[:] = nn.GELU(), 2.0
    fold(model)
    assert model.hidden2.masses.tolist() == [1.0] * 4


def test_what_becomes_of_steps_when_masses_become_weights_is_told_and_limited() -> None:
    model = nb.population_mlp((8, 5, 4, 2), seed=1)
    for layer, mass in zip(nb.population_layers(model), (0.25, 0.5), strict=True):
        layer.masses.fill_(mass)
    assert fold(copy.deepcopy(model)) == pytest.approx(0.25 * 0.5)  # of the layer between
    x, y = samples()

    def run(growth: float) -> tuple[nb.Trained, list[float]]:
        trained = nb.Recipe(0.5, growth=growth, **FAST).train(nb.population_mlp((8, 24, 2)), x, y)
        return trained, [row["loss"] for row in trained.history]

    (free, falls), (held, rests) = run(4.0), run(1e-6)
    assert free.living == held.living and free.history[-2]["price"] == 0.0
    assert rests[0] == falls[0]  # before masses become weights
    assert abs(rests[-1] - rests[-2]) < 1e-4 < falls[-2] - falls[-1]


def test_filters_are_shed_like_neurons_and_written_back_with_their_statistics() -> None:
    x, y = samples(16)
    images = x.view(-1, 1, 4, 4)
    model = nb.populate(convolutional(), images[:2])
    trained = nb.Recipe(0.5, **FAST).train(model, images, y)
    assert sum(trained.living) == 10
    after, before = (part.eval()(images) for part in (trained.model, trained.before))
    torch.testing.assert_close(after, before)


@pytest.mark.parametrize("kind", ["convolutional", "transformer", "sigmoid"])
def test_masses_become_weights_on_both_sides_of_any_group_that_is_read_in_proportion(kind: str) -> None:
    torch.manual_seed(0)
    if kind == "transformer":
        x: Any = torch.randn(5, 4, 12).double()
        model: Any = nn.TransformerEncoderLayer(12, 3, 16, dropout=0.0, batch_first=True)
    else:
        x, model = torch.randn(5, 1, 4, 4).double(), convolutional()
        model[2] = nn.Sigmoid() if kind == "sigmoid" else nn.ReLU()
    nb.populate(model.double().eval(), x)
    for layer in nb.population_layers(model):
        layer.masses.copy_(torch.linspace(0.25, 4, len(layer.masses)))
        layer.masses[1] = 0.0
    outputs, old = model(x), copy.deepcopy(model)
    fold(model)
    torch.testing.assert_close(model(x), outputs)
    masses = [set(layer.masses.tolist()) for layer in nb.population_layers(model)]
    if kind == "convolutional":
        assert masses == [{0.0, 1.0}] * 2
        filters, neurons = (layer.masses.sqrt() for layer in nb.population_layers(old))
        torch.testing.assert_close(model[1].weight, old[1].weight * filters)
        read = old[4].weight * filters.repeat_interleave(4) * neurons[:, None]
        torch.testing.assert_close(model[4].weight, read)
    elif kind == "sigmoid":
        assert masses[1] == {0.0, 1.0} and len(masses[0]) == 8
    else:
        assert masses == [{0.0, 1.0}] * 2
        roots = nb.population_layers(old)[0].masses.sqrt().repeat_interleave(4)
        assert torch.equal(model.self_attn.in_proj_weight[:24], old.self_attn.in_proj_weight[:24])
        torch.testing.assert_close(model.self_attn.out_proj.weight, old.self_attn.out_proj.weight * roots)


def test_heads_and_units_are_shed_again_and_again() -> None:
    torch.manual_seed(0)
    x, y = samples(48)
    body = nn.TransformerEncoderLayer(12, 6, 16, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Unflatten(1, (4, 12)), body, nn.Flatten(), nn.Linear(48, 2))
    sizes: list[tuple[int, ...]] = []
    trained = nb.Recipe(0.6, **{**FAST, "price_rate": 0.006}).train(
        nb.populate(model, x[:2]), x, y, progress=lambda epoch, row: sizes.append(row["living"])
    )
    heads, units = trained.living
    assert heads + units == 9 and 2 <= heads < 6 and len(set(sizes)) > 2
    left: Any = trained.model
    assert left[1].self_attn.num_heads == heads and left[1].linear1.out_features == units
    after, before = (part.eval()(x) for part in (trained.model, trained.before))
    torch.testing.assert_close(after, before)


def test_what_an_activation_makes_of_nothing_is_counted_once() -> None:
    x, y = samples()
    model = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 12), nn.Softplus(), nn.Linear(12, 2))
    trained = nb.Recipe(0.5, **FAST).train(nb.populate(model, x[:2]), x, y)
    torch.testing.assert_close(trained.before(x), trained.model(x))
    model = nn.Sequential(nn.Linear(8, 16), nn.Sigmoid(), nn.Linear(16, 2, bias=False))
    with pytest.raises(ValueError, match="2 has no bias; expected one"):
        nb.Recipe(0.5, **FAST).train(nb.populate(model, x[:2]), x, y)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"remove": 1.0}, "remove is 1"),
        ({"of": "bytes"}, "of is 'bytes'"),
        ({"start": 3.0, "stop": 2.0}, "stop is 2"),
        ({"signal": "benefit"}, "signal is 'benefit'; expected an instance of Signal"),
    ],
)
def test_recipes_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nb.Recipe(**settings)
    with pytest.raises(ValueError, match="expected a number in"):
        nb.Course(momentum=1.0)


def test_what_layers_cannot_give_is_refused_or_is_the_end() -> None:
    model, (x, y) = nb.population_mlp((8, 16, 2), seed=0), samples()
    with pytest.raises(
        ValueError, match=r"remove is 0\.95, which leaves 1 of 16 groups; expected at least 2"
    ):
        nb.Recipe(remove=0.95, **FAST).train(model, x, y)
    trained = nb.Recipe(remove=0.95, of="parameters", **FAST).train(model, x, y)
    assert trained.living == (2,) and trained.fraction_removed < 0.95


class Added(nn.Module):
    """Two layers of neurons whose outputs are added, so that none can go without another."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nb.PopulationLinear(8, 16), nb.PopulationLinear(8, 16)
        self.c = nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.c(torch.relu(self.a(x)) + torch.relu(self.b(x)))


def with_blocks() -> nn.Module:
    model, x = network("residual mlp")
    return nb.populate(model, x, blocks=True)


@pytest.mark.parametrize(
    ("made", "features", "message"),
    [
        (Added, 8, "a has no groups that could be removed"),
        (with_blocks, 6, r"1\.down has no groups that could be removed"),
        (lambda: nn.Sequential(nn.Linear(8, 2)), 8, "model is Sequential without a population layer"),
    ],
)
def test_what_cannot_become_smaller_is_refused_before_it_trains(
    made: Any, features: int, message: str
) -> None:
    model, (x, y) = made(), samples(features)
    epochs: list[int] = []
    with pytest.raises(ValueError, match=f"model cannot become smaller while it trains: {message}"):
        nb.Recipe(0.4, **FAST).train(model, x, y, progress=lambda epoch, row: epochs.append(epoch))
    assert epochs == []
