"""What goes wrong silently elsewhere: samples that do not come first, mutation after pruning, replicas."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import evodyn as ed
import nn_bridge as nb

pytestmark = pytest.mark.nn


class Turned(nn.Module):
    """Puts time first inside, as recurrent and older attention code does."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 4, 6, dropout=0.0)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return self.last(self.encoder(x.transpose(0, 1)).mean(0))


def test_a_signal_of_single_samples_finds_them_behind_time() -> None:
    torch.manual_seed(0)
    model, x, y = Turned().double(), torch.randn(3, 5, 8).double(), torch.arange(3)
    nb.populate(model, x)
    for summed in (False, True):
        signal = nb.Contribution(per_sample=True, summed=summed)
        selector = nb.Selector(model, ed.Replicator(), signal, step_size=1e-9)
        nn.functional.cross_entropy(model(x), y).backward()
        selector.step()
        expected = torch.zeros(4 + 6, dtype=torch.float64)
        for k in range(3):
            alone = nb.Selector(model, ed.Replicator(), nb.Contribution(), step_size=1e-9)
            nn.functional.cross_entropy(model(x[k : k + 1]), y[k : k + 1]).backward()
            alone.step()
            assert alone.contribution is not None
            expected += alone.contribution * (1 if summed else 1 / 3)
        torch.testing.assert_close(selector.contribution, expected)


class Flattened(nn.Sequential):
    """Takes the elements of all sequences as samples."""

    def forward(self, x: torch.Tensor) -> Any:
        return super().forward(x.reshape(-1, 8))


def test_a_signal_of_single_samples_is_refused_where_there_are_none() -> None:
    flattened = Flattened(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    for model, name in ((flattened, "0"), (Turned().encoder, r"layers\.0\.self_attn")):
        nb.populate(model, torch.randn(3, 5, 8))
        nb.Selector(model, ed.Replicator(), nb.Contribution(), 0.1)
        with pytest.raises(ValueError, match=rf"of single samples, which {name} has not along one axis"):
            nb.Selector(model, ed.Replicator(), nb.Contribution(per_sample=True), 0.1)


def test_mutation_that_revives_is_told_before_it_does() -> None:
    mutation, x = ed.SelectionMutation(0.1, target=1.0), torch.eye(4)

    def started(dynamics: ed.Dynamics, **options: Any) -> tuple[nn.Module, nb.Selector]:
        model = nb.population_mlp((4, 3, 2))
        return model, nb.Selector(model, dynamics, nb.Contribution(), 0.1, **options)

    model, selector = started(mutation)
    with pytest.warns(UserWarning, match=r"further step .* bring groups of hidden1 back by mutation"):
        nb.prune_to_sparsity(model, 0.5)
    nn.functional.cross_entropy(model(x), torch.arange(4) % 2).backward()
    selector.step()
    assert bool((selector.masses > 0).all())  # so it does
    nb.prune_to_sparsity(copy.deepcopy(model), 0.5)  # a copy has no selector
    with pytest.warns(UserWarning, match=r"further step"):
        nb.prune(model, 0.5)
    with pytest.warns(UserWarning, match="groups of mass 0 come back by mutation"):
        nb.Selector(model, mutation, nb.Contribution(), 0.1)
    for dynamics, options in (
        (ed.Replicator(), {}),
        (ed.SelectionMutation(0.0), {}),
        (mutation, {"extinction": ed.Extinction(1e-3, "absorb")}),
    ):
        model, selector = started(dynamics, **options)
        nb.prune_to_sparsity(model, 0.5)
        nn.functional.cross_entropy(model(x), torch.arange(4) % 2).backward()
        selector.step()
        assert int((selector.masses == 0).sum()) == 2


def test_replicas_of_one_process_are_refused() -> None:
    model = nb.population_mlp((4, 3, 2))
    with pytest.raises(ValueError, match=r"holds torch\.nn\.DataParallel.*DistributedDataParallel"):
        nb.Selector(nn.DataParallel(model), ed.Replicator(), nb.Contribution(), 0.1)
    with pytest.raises(ValueError, match=r"model is a DataParallel.*pass model\.module"):
        nb.populate(nn.DataParallel(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))), torch.randn(2, 4))
