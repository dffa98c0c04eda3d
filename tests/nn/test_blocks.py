"""Whole residual blocks: a mass for each branch, and networks without those that died."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import evodyn as ed
import nn_bridge as nb
from tests.nn.networks import network

pytestmark = pytest.mark.nn

BLOCKS = {
    "residual mlp": ["1.down", "2.down"],
    "resnet": ["3.bn2", "4.bn2"],
    "mobilenet": ["1.project.1"],
    "packed attention": ["0.down"],
}


def populated(name: str) -> tuple[Any, torch.Tensor, dict[str, Any]]:
    model, x = network(name)
    nb.populate(model, x, blocks=True)
    found = {key: part for key, part in model.named_modules() if getattr(part, "kind", "") == "block"}
    return model, x, found


@pytest.mark.parametrize("name", BLOCKS)
def test_a_block_has_a_mass_and_is_taken_out_at_zero(name: str) -> None:
    plain, x = network(name)
    model, _, blocks = populated(name)
    assert list(blocks) == BLOCKS[name] and all(len(part.masses) == 1 for part in blocks.values())
    torch.testing.assert_close(model.eval()(x), plain.eval()(x))
    first = next(iter(blocks.values()))
    first.masses.fill_(0.5)
    expected, cut = model(x), copy.deepcopy(plain)
    with torch.no_grad():
        last = cut.get_submodule(next(iter(blocks)))
        last.weight.mul_(0.5)
        last.bias.mul_(0.5)
    torch.testing.assert_close(expected, cut(x))
    torch.testing.assert_close(nb.compact(model, x)(x), expected, atol=1e-5, rtol=1e-5)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    nn.functional.cross_entropy(model.train()(x), torch.arange(len(x)) % 3).backward()
    optimizer.step()
    for part in blocks.values():
        part.masses.zero_()
    names = dict(model.named_parameters())
    small = nb.compact(model, x, optimizer)
    left = dict(small.named_parameters())
    gone = {key for key in names if key not in left}
    assert set(blocks) <= {key.rpartition(".")[0] for key in gone} and left.keys() < names.keys()
    torch.testing.assert_close(small.eval()(x), model.eval()(x), atol=1e-5, rtol=1e-5)
    assert nb.cost(small, x, repeats=1).macs < nb.cost(plain, x, repeats=1).macs
    assert optimizer.param_groups[0]["params"] == list(small.parameters())
    assert set(optimizer.state) == set(small.parameters())
    assert dict(model.named_parameters()).keys() == names.keys()  # the model is left as it is
    nn.functional.cross_entropy(small.train()(x), torch.arange(len(x)) % 3).backward()
    optimizer.step()


def test_a_block_without_anything_but_its_link_is_an_identity() -> None:
    model, x, blocks = populated("residual mlp")
    blocks["2.down"].masses.zero_()
    model[1].up.masses[:5] = 0.0  # and neurons of the other block go with it
    small: Any = nb.compact(model, x)
    assert type(small[2]) is nn.Identity and small[1].up.out_features == 5
    torch.testing.assert_close(small.eval()(x), model.eval()(x), atol=1e-5, rtol=1e-5)


def test_the_signal_of_a_block_is_the_gradient_by_its_mass() -> None:
    model, x, blocks = populated("resnet")
    model.double().eval()
    x, y = x.double(), torch.arange(len(x)) % 3
    selector = nb.Selector(model, ed.Replicator(), nb.Benefit(), step_size=1e-9)
    nn.functional.cross_entropy(model(x), y).backward()
    selector.step()
    losses = []
    for mass in (1 + 1e-5, 1 - 1e-5):
        blocks["4.bn2"].masses.fill_(mass)
        losses.append(nn.functional.cross_entropy(model(x), y).item())
    assert selector.contribution is not None
    last = selector.contribution[-1]
    assert float(last) == pytest.approx((losses[1] - losses[0]) / 2e-5, rel=1e-6)


def test_blocks_are_ranked_among_themselves_and_the_last_can_go() -> None:
    model, _, blocks = populated("residual mlp")
    for part in nb.population_layers(model):
        part.masses.copy_(torch.arange(1.0, len(part.masses) + 1))
    blocks["1.down"].masses.fill_(0.01)
    report = nb.prune_to_sparsity(model, 0.5)  # 10 of 20 neurons, 1 of 2 blocks
    assert report.living == (5, 0, 5, 1) and report.protected == ()
    with pytest.warns(UserWarning, match=r"every group of 1\.up, 2\.up was due"):  # and no block
        nb.prune_to_sparsity(model, 1.0)
    assert not blocks["2.down"].masses.any()


class Twice(nn.Module):
    """A branch whose end is added to two links."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> Any:
        z = self.down(torch.relu(self.up(x)))
        return (x + z) * (torch.tanh(x) + z)


def test_what_is_no_block_is_refused_by_name() -> None:
    model, x = network("encoder")
    with pytest.raises(ValueError, match=r"0\.layers\.0\.linear2: torch\.fx cannot trace the code of 0\.lay"):
        nb.populate(model, x, ["0.layers.0.linear2"], blocks=True)
    with pytest.raises(ValueError, match=r"down has no groups"):
        nb.populate(Twice(), torch.randn(3, 4), ["down"], blocks=True)
    assert not [key for key, _ in model.named_buffers() if "masses" in key]
