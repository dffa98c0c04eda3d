"""Masses on models that exist: what they compute stays, and a selector measures what it should."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import evodyn as ed
import nn_bridge as nb
from tests.nn.networks import NETWORKS, GroupedAttention, InvertedResidual, ResidualBlock, network

pytestmark = pytest.mark.nn

EXPECTED = {
    "mlp": {"1": ("neuron", 12), "3": ("neuron", 8)},
    "residual mlp": {"1.up": ("neuron", 10), "2.up": ("neuron", 10)},
    "lenet": {"conv1": ("filter", 6), "conv2": ("filter", 8), "fc1": ("neuron", 12), "fc2": ("neuron", 10)},
    "resnet": {"3.bn1": ("filter", 4), "4.bn1": ("filter", 6)},
    "mobilenet": {"1.depthwise.1": ("filter", 8), "1.squeeze.1": ("filter", 2)},
    "encoder": {
        "0.layers.0.self_attn": ("head", 4),
        "0.layers.0.linear1": ("unit", 12),
        "0.layers.1.self_attn": ("head", 4),
        "0.layers.1.linear1": ("unit", 12),
    },
    "packed attention": {"0.attn.proj": ("head", 4), "0.gate": ("unit", 12)},
    "grouped attention": {"0.attn.wo": ("head", 4), "0.gate": ("unit", 12)},
}


def found(model: nn.Module) -> dict[str, tuple[str, int]]:
    named: dict[str, Any] = {
        name: module for name, module in model.named_modules() if hasattr(module, "masses")
    }
    return {name: (module.kind, len(module.masses)) for name, module in named.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_model_gets_masses_and_stays_what_it_is(name: str) -> None:
    model, x = network(name)
    plain = copy.deepcopy(model)
    parameters, kinds = dict(model.named_parameters()), [type(part) for part in model.modules()]
    state, modes = model.state_dict(), [part.training for part in model.modules()]
    random = torch.get_rng_state()
    assert nb.populate(model, x) is model
    assert torch.equal(torch.get_rng_state(), random)
    assert found(model) == EXPECTED[name]
    assert all(value is parameters[key] for key, value in model.named_parameters())
    assert [type(part) for part in model.modules()] == kinds
    assert [part.training for part in model.modules()] == modes
    assert model.state_dict().keys() - state.keys() == {f"{key}.masses" for key in EXPECTED[name]}
    assert all(torch.equal(model.state_dict()[key], value) for key, value in state.items())
    for training in (True, False):
        same = torch.testing.assert_close
        same(model.train(training)(x), plain.train(training)(x), atol=1e-6, rtol=1e-5)
    with torch.no_grad():  # in which a transformer computes by itself, without calling its parts
        torch.testing.assert_close(model(x), plain(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_signal_is_the_gradient_by_the_masses(name: str) -> None:
    model, x = network(name)
    nb.populate(model.double(), x.double())
    x, y = x.double(), torch.arange(len(x)) % 3
    layers = nb.population_layers(model)
    for layer in layers:
        layer.masses.uniform_(0.2, 1.5, generator=torch.Generator().manual_seed(1))
    leaves = {key: value.clone().requires_grad_() for key, value in model.named_buffers() if "masses" in key}
    model.eval()
    loss = nn.functional.cross_entropy(torch.func.functional_call(model, leaves, (x,)), y)
    expected = torch.cat(torch.autograd.grad(loss, list(leaves.values())))
    for signal in (nb.Contribution(), nb.Contribution(per_sample=True)):
        selector = nb.Selector(model, ed.Replicator(), signal, step_size=1e-9)
        nn.functional.cross_entropy(model(x), y).backward()
        selector.step()
        assert selector.contribution is not None
        if signal.per_sample:
            assert (selector.contribution >= expected.abs() - 1e-12).all()
        else:
            torch.testing.assert_close(selector.contribution, expected.abs(), rtol=1e-7, atol=1e-12)


def test_a_mass_of_zero_removes_what_it_scales() -> None:
    model, x = network("packed attention")
    other, _ = network("packed attention")
    nb.populate(model, x)
    model[0].attn.proj.masses[1] = 0.0
    model[0].gate.masses[2] = 0.0
    with torch.no_grad():
        other[0].attn.proj.weight[:, 2:4] = 0.0
        other[0].down.weight[:, 2] = 0.0
    torch.testing.assert_close(model(x), other(x))


def test_magnitude_is_that_of_the_groups_own_weights() -> None:
    model, x = network("grouped attention")
    nb.populate(model, x)
    selector = nb.Selector(model, ed.Replicator(), nb.Magnitude(), step_size=0.1)
    selector.step()
    attn = model[0].attn
    own = [attn.wq.weight.view(4, -1), attn.wk.weight.view(4, -1), attn.wv.weight.view(4, -1)]
    assert selector.contribution is not None
    torch.testing.assert_close(selector.contribution[:4], torch.cat(own, 1).norm(dim=1).detach())
    model, x = network("encoder")
    nb.populate(model, x)
    layer = model[0].layers[0].self_attn
    rows, _ = (part.detach() for part in layer.population.parameters())
    torch.testing.assert_close(rows[1], layer.in_proj_weight.view(3, 4, 2, 8)[:, 1].reshape(-1).detach())


@pytest.mark.parametrize("name", ["lenet", "encoder", "packed attention"])
def test_copies_precision_and_states(name: str) -> None:
    model, x = network(name)
    plain = model.state_dict()
    nb.populate(model.eval(), x)
    layers = nb.population_layers(model)
    for layer in layers:
        layer.masses.fill_(1 + 2.0**-50)
    layers[0].masses[0] = 0.0
    nb.Selector(model, ed.Replicator(), nb.Contribution(), step_size=0.1)
    out = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(twin(x), out)
        assert all(part.population.observer is None for part in nb.population_layers(twin))
        nb.population_layers(twin)[0].masses.fill_(0.0)
        assert not torch.allclose(twin(x), out) and torch.equal(model(x), out)
        assert nb.population_layers(twin)[0].population.module is nb.population_layers(twin)[0]
    state = copy.deepcopy(model.state_dict())
    model.half()
    assert all(layer.masses.dtype == torch.float64 for layer in layers)
    assert float(layers[0].masses[1]) == 1 + 2.0**-50
    model.float().load_state_dict(plain)
    assert all((layer.masses == 1).all() for layer in layers)
    model.load_state_dict({key: value.half() for key, value in state.items()}, assign=True)
    assert all(layer.masses.dtype == torch.float64 for layer in layers)
    model.load_state_dict(state)
    assert float(layers[0].masses[0]) == 0.0
    assert "masses" not in plain


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("same", [True, False])
def test_attention_is_that_of_torch(need_weights: bool, batch_first: bool, same: bool) -> None:
    torch.manual_seed(0)
    sizes = {} if same else {"kdim": 5, "vdim": 6}
    plain = nn.MultiheadAttention(8, 4, batch_first=batch_first, **sizes).eval()
    query, key, value = (
        torch.randn(3, 4, 8),
        torch.randn(3, 4, 8 if same else 5),
        torch.randn(3, 4, 8 if same else 6),
    )
    model = copy.deepcopy(plain)
    nb.populate(model, {"query": query, "key": key, "value": value, "need_weights": False})
    batch, length = (3, 4) if batch_first else (4, 3)
    padding = torch.zeros(batch, length, dtype=torch.bool)
    padding[0, -1] = True
    causal = torch.ones(length, length, dtype=torch.bool).triu(1)
    several = torch.zeros(batch * 4, length, length).masked_fill(causal, float("-inf"))
    for options in (
        {}, {"key_padding_mask": padding}, {"attn_mask": causal}, {"attn_mask": several},
        {"attn_mask": causal, "is_causal": True}, {"average_attn_weights": False},
    ):  # fmt: skip
        expected = plain(query, key, value, need_weights=need_weights, **options)
        out = model(query, key, value, need_weights=need_weights, **options)
        torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)
    if same:
        out, expected = (
            part(query[0], key[0], value[0], need_weights=need_weights) for part in (model, plain)
        )
        torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_padded_sequences_in_evaluation_mode_use_the_masses() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True)
    model, x = nn.TransformerEncoder(layer, 2), torch.randn(2, 3, 4)
    padding = torch.tensor([[False, False, True], [False] * 3])
    nb.populate(model, x)
    for part in nb.population_layers(model):
        part.masses.uniform_(0.0, 2.0)
    expected = model.train()(x, src_key_padding_mask=padding)
    with torch.no_grad():
        out = model.eval()(x, src_key_padding_mask=padding)
    torch.testing.assert_close(out[:, :2], expected[:, :2])


def test_a_checkpoint_holds_the_masses(tmp_path: Path) -> None:
    def trained() -> tuple[Any, ...]:
        model, x = network("lenet")
        nb.populate(model, x)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, nb.Selector(model, ed.Replicator(), nb.Contribution(), step_size=0.5), x

    model, optimizer, selector, x = trained()
    labels = torch.arange(len(x)) % 3
    nb.train_epoch(model, x, labels, optimizer, selector, batch_size=2)
    parts = (model, optimizer, selector)
    nb.save_checkpoint(tmp_path / "run", *parts, progress=nb.Progress(1, 2, {}), config={})
    other = trained()
    nb.load_checkpoint(tmp_path / "run", *other[:3], config={})
    for part in (model, other[0]):
        nb.train_epoch(part, x, labels, *(parts if part is model else other)[1:3], batch_size=2)
    assert (model.conv1.masses != 1).all()
    assert all(torch.equal(other[0].state_dict()[key], value) for key, value in model.state_dict().items())


def test_groups_and_exclude_name_modules() -> None:
    model, x = network("lenet")
    nb.populate(model, x, groups=["conv1", "fc1"])
    assert list(found(model)) == ["conv1", "fc1"]
    # What has masses keeps them, and the rest gets them afterwards.
    model.conv1.masses[0] = 0.5
    nb.populate(model, x, exclude=["fc2"])
    assert list(found(model)) == ["conv1", "conv2", "fc1"] and model.conv1.masses[0] == 0.5
    # A convolution's filters are found after their norm, also under the convolution's name.
    model, x = network("resnet")
    nb.populate(model, x, groups=["3.conv1"])
    assert list(found(model)) == ["3.bn1"]
    model, x = network("encoder")
    nb.populate(model, x, groups=["0.layers.1"])
    assert list(found(model)) == ["0.layers.1.self_attn", "0.layers.1.linear1"]


class Branching(nn.Module):
    """Fails on what it is not made for, and has what no mass can be put on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3)
        self.unused, self.recurrent = nn.Linear(4, 4), nn.LSTM(3, 3, batch_first=True)
        self.before, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> Any:
        self.unused(x)
        out, _ = self.recurrent(self.before(self.second(self.norm(self.first(x)))))
        return self.last(out)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["nothing"], r"groups holds 'nothing'; expected names of the model's modules, such as first"),
        (["first"], r"first has no groups .* they cannot be left out of native_layer_norm in norm"),
        (["unused"], r"unused has no groups .* nothing computes with them"),
        (["last"], r"last has no groups .* removed from the outputs"),
        (["before"], r"before has no groups .* traced through \w*(rnn|lstm)\w* in recurrent"),
        (["second", "recurrent"], r"recurrent has no groups .* groups of LSTM are not supported"),
    ],
)
def test_groups_without_effect_are_refused_by_name(groups: list[str], message: str) -> None:
    model = Branching()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        nb.populate(model, torch.randn(2, 5, 4), groups)
    untouched(model, before)


def untouched(model: nn.Module, before: dict[str, Any]) -> None:
    """Check that nothing of a refused attempt is left."""
    state = model.state_dict()
    assert state.keys() == before.keys() and all(torch.equal(before[key], state[key]) for key in state)
    for module in model.modules():
        assert not module._forward_hooks and not module._forward_pre_hooks
        assert not module._load_state_dict_pre_hooks and not module._load_state_dict_post_hooks
        assert not {"population", "kind", "_apply", "forward"} & module.__dict__.keys()


def test_what_does_not_run_is_refused_with_the_module_that_failed() -> None:
    model, _ = network("lenet")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"fc1 cannot be run on example_inputs of shape \(4, 1, 20, 20\)"):
        nb.populate(model, torch.randn(4, 1, 20, 20))
    with pytest.raises(ValueError, match="example_inputs is str"):
        nb.populate(model, "image")
    with pytest.raises(ValueError, match=r"'missing'.*groups|exclude holds 'missing'"):
        nb.populate(model, torch.randn(4, 1, 12, 12), exclude=["missing"])
    with pytest.raises(ValueError, match="model has no groups"):
        nb.populate(nn.Sequential(nn.Linear(3, 2)), torch.randn(4, 3))
    untouched(model, before)
    with pytest.raises(ValueError, match=r"DataParallel, which wraps .* pass model\.module"):
        nb.populate(nn.DataParallel(model), torch.randn(4, 1, 12, 12))
    compiled: Any = torch.compile(model, backend="eager")
    with pytest.raises(ValueError, match=r"OptimizedModule, which wraps .* pass model\._orig_mod"):
        nb.populate(compiled, torch.randn(4, 1, 12, 12))
    model.conv1.kind = "mine"
    with pytest.raises(ValueError, match="conv1 has an attribute 'kind' already"):
        nb.populate(model, torch.randn(4, 1, 12, 12))
    del model.conv1.kind
    untouched(model, before)


def test_weights_that_start_at_zero_are_not_dead() -> None:
    block = ResidualBlock(4, 6)
    nn.init.zeros_(block.down.weight)
    nn.init.zeros_(block.down.bias)
    model = nn.Sequential(nn.Linear(3, 4), block, nn.Linear(4, 2))
    assert found(nb.populate(model, torch.randn(5, 3))) == {"1.up": ("neuron", 6)}


class Sorting(nn.Sequential):
    """Puts its neurons in an order that depends on the data."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))

    def forward(self, x: torch.Tensor) -> Any:
        z = self[1](self[0](x))
        return self[2](z.index_select(1, z.sum(0).argsort()))


def test_an_order_that_depends_on_the_data_is_not_taken_for_that_of_the_example() -> None:
    with pytest.raises(
        ValueError, match=r"0 has no groups .* traced through (index_select|sum|argsort|sort)"
    ):
        nb.populate(Sorting(), torch.randn(3, 4), ["0"])


def test_filters_that_are_normalised_together_are_left_alone() -> None:
    conv, norm, last = nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.Conv2d(6, 1, 3)
    with pytest.raises(ValueError, match=r"0 has no groups .* native_group_norm in 1, which mixes them"):
        nb.populate(nn.Sequential(conv, norm, last), torch.randn(2, 1, 8, 8), ["0"])
    # Grouped convolutions: the channels of one of its groups go together.
    parts = (conv, nn.Conv2d(6, 9, 3, groups=3), nn.BatchNorm2d(9), nn.ReLU(), nn.Conv2d(9, 1, 1))
    model: Any = nb.populate(nn.Sequential(*parts), torch.randn(2, 1, 8, 8))
    assert found(model) == {"2": ("filter", 3)} and model[2].population.unit == 3


def test_heads_whose_weights_are_given_out_are_left_alone() -> None:
    model, x = nn.MultiheadAttention(8, 4, batch_first=True), torch.randn(2, 3, 8)
    with pytest.raises(ValueError, match="model has no groups"):
        nb.populate(model, (x, x, x))
    assert not hasattr(model, "masses")


def test_modules_of_blocks_can_be_populated_by_themselves() -> None:
    block = nb.populate(InvertedResidual(4, 8), torch.randn(2, 4, 6, 6))
    assert found(block) == {"depthwise.1": ("filter", 8), "squeeze.1": ("filter", 2)}
    attn: Any = nb.populate(GroupedAttention(8, 4, 2, 3), torch.randn(2, 5, 8))
    assert found(attn) == {"wo": ("head", 2)} and attn.wo.population.unit == 6
