"""Smaller networks of any graph: outputs stay, what is coupled goes together, and training goes on."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

import evodyn as ed
import nn_bridge as nb
from tests.nn.networks import NETWORKS, GroupedAttention, PackedAttention, ResidualBlock, network

pytestmark = pytest.mark.nn


def halve(model: nn.Module, x: torch.Tensor, values: tuple[float, float] = (0.5, 1.5)) -> Any:
    """Put masses on a model, and half of those of each layer to zero."""
    nb.populate(model, x)
    for layer in nb.population_layers(model):
        layer.masses.uniform_(*values, generator=torch.Generator().manual_seed(len(layer.masses)))
    nb.prune_to_sparsity(model, 0.5, scope="layer")
    return model


def close(model: nn.Module, other: nn.Module, x: torch.Tensor) -> None:
    torch.testing.assert_close(model.eval()(x), other.eval()(x), atol=1e-5, rtol=1e-5)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def steps(
    model: nn.Module, x: torch.Tensor, optimizer: torch.optim.Optimizer, *selectors: nb.Selector
) -> None:
    model.train()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), torch.arange(len(x)) % 3).backward()
        optimizer.step()
        for selector in selectors:
            selector.step()


@pytest.mark.parametrize("name", NETWORKS)
def test_from_a_trained_model_to_a_smaller_file(name: str) -> None:
    model, x = network(name)
    names = {key for key, _ in model.named_parameters()}
    nb.populate(model, x)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    steps(model, x, optimizer, nb.Selector(model, ed.Replicator(), nb.Contribution(relative=True), 0.1))
    nb.prune_to_sparsity(model, 0.5, scope="layer")
    before = copy.deepcopy(model.state_dict())
    small: Any = nb.compact(model, x, optimizer)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert type(small) is type(model) and {key for key, _ in small.named_parameters()} <= names
    assert not any("masses" in key for key, _ in small.named_buffers())
    assert all(part.training == model.training for part in small.modules())
    assert size(small) < 0.65 * size(model)
    # For other numbers of samples, and in the mode in which attention is fused, as well.
    other = torch.randn(3, *x.shape[1:], generator=torch.Generator().manual_seed(5))
    close(small, model, other)
    with torch.no_grad():
        close(small, model, other)
    if x.ndim == 3:
        close(small, model, torch.randn(2, 7, 8, generator=torch.Generator().manual_seed(5)))
    file = io.BytesIO()
    torch.save(small, file)
    file.seek(0)
    close(torch.load(file, weights_only=False), model, other)
    state = copy.deepcopy(small.state_dict())
    assert optimizer.param_groups[0]["params"] == list(small.parameters())
    steps(small, x, optimizer)
    assert any(not torch.equal(state[key], value) for key, value in small.state_dict().items())
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "lenet"])  # whose sigmoid sends on 1/2
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam])
def test_the_smaller_network_learns_as_the_masked_one(name: str, kind: Any) -> None:
    model, x = network(name)
    halve(model.double(), x.double(), (1.0, 1.0))
    masked, x = copy.deepcopy(model), x.double()
    options = {"momentum": 0.9} if kind is torch.optim.SGD else {}
    optimizer, other = (kind(part.parameters(), lr=0.05, **options) for part in (model, masked))
    steps(model, x, optimizer)
    small = nb.compact(model, x, optimizer)
    steps(small, x, optimizer)
    steps(masked, x, other)
    steps(masked, x, other)
    torch.testing.assert_close(small.eval()(x), masked.eval()(x), atol=1e-9, rtol=1e-9)


def test_half_precision_is_compared_within_its_own_rounding() -> None:
    model, x = network("encoder")
    halve(model.bfloat16().eval(), x.bfloat16())
    small = nb.compact(model, x.bfloat16())
    assert {value.dtype for value in small.state_dict().values()} == {torch.bfloat16}
    torch.testing.assert_close(small(x.bfloat16()), model(x.bfloat16()), atol=0.1, rtol=0.1)


def test_widths_can_be_rounded_up() -> None:
    model, x = network("lenet")
    halve(model, x)
    small: Any = nb.compact(model, x, round_to=4)
    assert (small.conv1.out_channels, small.conv2.out_channels) == (4, 4)
    assert (small.fc1.out_features, small.fc2.out_features, small.fc2.in_features) == (8, 8, 8)
    close(small, model, x)


def test_a_chain_needs_no_example_and_takes_the_optimiser_in_second_place() -> None:
    model, x = network("mlp")
    halve(model, x)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    small: Any = nb.compact(model, optimizer)
    close(small, model, x)
    assert optimizer.param_groups[0]["params"] == list(small.parameters())
    assert [part.out_features for part in small if isinstance(part, nn.Linear)] == [6, 4, 3]
    model, x = network("residual mlp")
    halve(model, x)
    with pytest.raises(ValueError, match=r"1 is a ResidualBlock.*without example_inputs"):
        nb.compact(model)


class Stream(nn.Module):
    """Two layers that write into one sum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nb.PopulationLinear(4, 6), nb.PopulationLinear(6, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> Any:
        x = self.first(x)
        return self.last(torch.relu(x + self.second(torch.relu(x))))


def test_a_channel_goes_when_all_that_write_into_it_are_dead() -> None:
    model, x = Stream(), torch.randn(5, 4)
    model.first.masses[:2] = 0.0
    model.second.masses[1:3] = 0.0
    small: Any = nb.compact(model, x)
    assert (small.first.out_features, small.second.out_features, small.last.in_features) == (5, 5, 5)
    assert type(small.first) is nn.Linear
    close(small, model, x)
    model.second.masses[0] = 0.0
    smaller: Any = nb.compact(model, x)
    assert smaller.last.in_features == 4


class Joined(nn.Module):
    """Branches that are put side by side, a packed gate, and a convolution that makes images larger."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(10)
        self.mix, self.larger = nn.Conv2d(10, 8, 1), nn.ConvTranspose2d(4, 5, 2, stride=2)
        self.head = nn.Linear(5 * 8 * 8, 4)
        self.head.requires_grad_(False).weight.requires_grad_()

    def forward(self, x: torch.Tensor) -> Any:
        x = torch.cat([torch.relu(self.left(x)), torch.tanh(self.right(x))], 1)
        x = nn.functional.glu(self.mix(x), 1)
        return self.head(torch.relu(self.larger(x)).flatten(1))


def test_branches_side_by_side_and_flattened_images() -> None:
    model, x = Joined(), torch.randn(3, 1, 4, 4)
    nb.populate(model, x, groups=["left", "right"])
    model.left.masses[[0, 2]] = 0.0  # type: ignore[operator]
    model.right.masses[5] = 0.0  # type: ignore[operator]
    small: Any = nb.compact(model, x)
    assert (small.left.out_channels, small.right.out_channels, small.mix.in_channels) == (2, 5, 7)
    assert not small.head.bias.requires_grad and small.head.weight.requires_grad
    close(small, model, x)


class Tied(nn.Module):
    """A layer used twice, and one whose weights another reads as well."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.out = nn.Linear(4, 6), nn.Linear(6, 4), nn.Linear(6, 4, bias=False)
        self.out.weight = nn.Parameter(self.up.weight.detach().t().clone())

    def forward(self, x: torch.Tensor) -> Any:
        for _ in range(2):
            x = x + self.down(torch.relu(self.up(x)))
        return x


def test_weights_used_twice_shrink_once_and_shared_ones_are_refused() -> None:
    model, x = Tied(), torch.randn(5, 4)
    halve(model, x)
    small: Any = nb.compact(model, x)
    assert small.up.out_features == 3
    close(small, model, x)
    shared: Any = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    shared[2].weight = shared[0].weight
    with pytest.raises(ValueError, match=r"0 .*model|model has no groups"):
        nb.populate(shared, x, ["0"])


@pytest.mark.parametrize(("heads", "size"), [(4, 3), (4, 4), (6, 2)])
def test_numbers_of_heads_in_attributes_follow(heads: int, size: int) -> None:
    model, x = GroupedAttention(8, heads, heads // 2, size), torch.randn(2, 5, 8)
    nb.populate(model, x)
    model.wo.masses[1] = 0.0  # type: ignore[operator]
    small: Any = nb.compact(model, x)
    assert (small.n_heads, small.n_kv_heads, small.size) == (heads - 2, heads // 2 - 1, size)
    close(small, model, torch.randn(3, 4, 8))


def test_code_that_divides_the_width_by_the_heads_becomes_a_graph() -> None:
    model: Any = PackedAttention(8, 4)
    x = torch.randn(2, 5, 8)
    nb.populate(model, x)
    model.proj.masses[:] = torch.tensor([0.0, 0.5, 0.0, 2.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrapped: Any = nn.Sequential(model)
    small: Any = nb.compact(wrapped, x, optimizer)
    assert isinstance(small[0], torch.fx.GraphModule)
    assert small[0].get_submodule("qkv").out_features == 12
    close(small, wrapped, torch.randn(3, 7, 8))
    assert [key for key, _ in small.named_parameters()] == [key for key, _ in wrapped.named_parameters()]
    assert model.heads == 4 and "forward" not in vars(model)


class Constant(nn.Module):
    """Attention whose number of heads stands in its code, which no graph can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.wv, self.proj = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> Any:
        v = self.wv(x).view(*x.shape[:2], 4, 2).transpose(1, 2)
        if float(x.sum()) > 1e9:
            return x
        out = nn.functional.scaled_dot_product_attention(v, v, v)
        return self.proj(out.transpose(1, 2).reshape(*x.shape[:2], -1))


def test_code_that_cannot_follow_is_refused_by_name_and_left_alone() -> None:
    model, x = nn.Sequential(Constant(), nn.Linear(8, 2)), torch.randn(2, 5, 8)
    nb.populate(model, x, ["0.proj"])
    assert nb.population_layers(model)[0].kind == "head"
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    nb.compact(model, x)  # nothing to remove
    nb.population_layers(model)[0].masses[1] = 0.0
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"0 computes with sizes that have changed .*expected the number of"):
        nb.compact(model, x, optimizer)
    assert all(torch.equal(state[key], value) for key, value in model.state_dict().items())
    assert optimizer.param_groups[0]["params"] == list(model.parameters())


class Recurrent(nn.Module):
    """A recurrent layer behind a layer with masses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.lstm, self.last = nb.PopulationLinear(4, 6), nn.LSTM(6, 5), nn.Linear(5, 2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.lstm(self.first(x))[0])


class Normalised(nn.Sequential):
    """A layer norm behind a layer with masses."""

    def __init__(self) -> None:
        super().__init__(nb.PopulationLinear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2))


class Last(nn.Sequential):
    """A layer with masses whose outputs are the network's."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 4), nn.ReLU(), nb.PopulationLinear(4, 2))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Recurrent, r"first has groups of mass 0 that cannot be traced through \w+ in lstm"),
        (Normalised, r"0 has groups of mass 0 that cannot be left out of native_layer_norm in 1"),
        (Last, r"2 has groups of mass 0 that cannot be removed from the outputs"),
    ],
)
def test_groups_that_cannot_go_are_refused_by_name(kind: Any, message: str) -> None:
    model, x = kind(), torch.randn(3, 5, 4)
    close(nb.compact(model, x), model, x)
    nb.population_layers(model)[0].masses[1] = 0.0
    with pytest.raises(ValueError, match=message):
        nb.compact(model, x)


def test_a_layer_of_ones_own_and_one_without_living_groups_are_refused_by_name() -> None:
    class Doubled(nb.PopulationLinear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    with pytest.raises(ValueError, match="0 is a Doubled; expected PopulationLinear"):
        nb.compact(nn.Sequential(Doubled(4, 3), nn.Linear(3, 2)), torch.randn(2, 4))
    model, x = network("lenet")
    nb.populate(model, x)
    model.conv2.masses.zero_()
    with pytest.raises(ValueError, match="conv2 has no living group"):
        nb.compact(model, x)


def test_what_a_filter_sends_on_through_a_sigmoid_is_part_of_the_next_bias() -> None:
    # Not where a convolution pads: at the border there is less of it.
    for padding, left in ((0, 3), (1, None)):
        parts = nn.Conv2d(1, 6, 3), nn.Sigmoid(), nn.Conv2d(6, 2, 3, padding=padding, bias=False)
        model: Any = nn.Sequential(*parts)
        x = torch.randn(2, 1, 8, 8)
        if left is None:
            with pytest.raises(ValueError, match="0 has no groups"):
                nb.populate(model, x, ["0"])
            continue
        small: Any = nb.compact(halve(model, x), x)
        assert small[2].in_channels == left and small[2].bias is not None
        close(small, model, x)


def test_a_bias_that_takes_what_is_sent_on_is_made_smaller_with_its_layer() -> None:
    body = nn.Linear(4, 6), nn.Sigmoid(), nn.Linear(6, 8, bias=False), nn.Sigmoid()
    model, x = nn.Sequential(*body, nn.Linear(8, 2, bias=False)), torch.randn(3, 4)
    small: Any = nb.compact(halve(model, x), x)
    assert (small[2].in_features, small[2].bias.shape, small[4].bias.shape) == (3, (4,), (2,))
    close(small, model, x)


def test_a_block_alone_can_be_made_smaller() -> None:
    block, x = ResidualBlock(4, 6), torch.randn(3, 4)
    small: Any = nb.compact(halve(block, x), x)
    assert small.up.out_features == small.down.in_features == 3
    close(small, block, x)


class Writing(nn.Module):
    """Writes into a part of a tensor that it goes on with."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> Any:
        z = torch.relu(self.second(torch.relu(self.first(x))))
        y = z.clone()
        y[:, 1:3] = z[:, 3:5]
        return self.third(y)


def test_a_write_into_a_part_hinders_what_it_touches_alone() -> None:
    model, x = Writing(), torch.randn(5, 4)
    with pytest.raises(ValueError, match=r"second has no groups .* traced through slice_scatter in the"):
        nb.populate(model, x, ["second"])
    small: Any = nb.compact(halve(model, x), x)
    assert (small.first.out_features, small.second.out_features) == (3, 6)
    close(small, model, x)


def test_a_model_with_masses_compiles_whole() -> None:
    model, x = network("encoder")
    nb.populate(model.eval(), x)
    compiled: Any = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    nb.population_layers(model)[0].masses[0] = 0.0
    torch.testing.assert_close(compiled(x), model(x))
