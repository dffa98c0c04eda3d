"""From masses to a smaller network: what is removed, and that its outputs stay."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnxruntime import InferenceSession  # type: ignore[attr-defined]
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from nn_bridge import (
    PopulationLinear,
    accuracy,
    compact,
    cost,
    export_onnx,
    load_compact,
    population_layers,
    population_mlp,
    prune,
    prune_to_sparsity,
    save_compact,
)
from nn_bridge.removal import files

pytestmark = pytest.mark.nn


def network(widths: tuple[int, ...] = (20, 12, 8, 5), seed: int = 0) -> Any:
    model = population_mlp(widths, seed=seed)
    draw = torch.Generator().manual_seed(seed)
    for layer in population_layers(model):
        layer.masses.uniform_(0.1, 2.0, generator=draw)
    return model


def inputs(samples: int = 32, features: int = 20) -> torch.Tensor:
    return torch.randn(samples, features, generator=torch.Generator().manual_seed(7))


def masses(model: nn.Module) -> list[float]:
    return torch.cat([layer.masses for layer in population_layers(model)]).tolist()


def set_masses(model: nn.Module, values: list[float]) -> None:
    parts = torch.tensor(values, dtype=torch.float64).split(
        [layer.groups for layer in population_layers(model)]
    )
    for layer, part in zip(population_layers(model), parts, strict=True):
        layer.masses.copy_(part)


# Which groups


def test_a_mass_equal_to_the_threshold_is_kept() -> None:
    model = network((2, 3, 2, 2))
    set_masses(model, [0.5, np.nextafter(0.5, 0), 0.6, 0.1, 0.7])
    report = prune(model, 0.5)
    assert masses(model) == [0.5, 0, 0.6, 0, 0.7]
    assert (report.removed, report.groups, report.living, report.sparsity) == (2, 5, (2, 1), 0.4)
    assert report.epsilon == 0.5


@pytest.mark.parametrize(("sparsity", "count"), [(0.35, 269), (0.40, 307), (0.45, 346), (0.50, 384)])
def test_the_papers_sparsities_remove_what_its_quantiles_cut_off(sparsity: float, count: int) -> None:
    model, other = network((4, 512, 256, 3)), network((4, 512, 256, 3))
    values = np.array(masses(model))
    report = prune_to_sparsity(model, sparsity)
    assert report.removed == count == round(sparsity * 768)
    assert report.epsilon == np.quantile(values, sparsity)
    prune(other, report.epsilon)
    assert masses(model) == masses(other)


@settings(deadline=None, max_examples=60)
@given(
    values=st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 2), min_size=7, max_size=7),
    sparsity=st.floats(0, 1),
)
@example(values=[0.5] * 7, sparsity=0.5)
def test_exactly_the_smallest_go_ties_by_index(values: list[float], sparsity: float) -> None:
    model = network((2, 4, 3, 2))
    set_masses(model, values)
    report = prune_to_sparsity(model, sparsity, allow_empty=True)
    due = sorted(range(7), key=lambda i: (values[i], i))[: round(sparsity * 7)]
    assert masses(model) == [0.0 if i in due else v for i, v in enumerate(values)]
    assert report.removed == sum(m == 0 for m in masses(model)) >= len(due)


def test_the_last_group_of_a_layer_is_kept_and_the_next_goes_in_its_place() -> None:
    model = network((2, 4, 3, 2))
    set_masses(model, [1.0, 1.1, 1.2, 1.3, 0.1, 0.3, 0.2])
    with pytest.warns(UserWarning, match="every group of hidden2 was due"):
        report = prune_to_sparsity(model, 3 / 7)
    assert masses(model) == [0, 1.1, 1.2, 1.3, 0, 0.3, 0]
    assert report.removed == 3 and report.protected == ("hidden2",)
    set_masses(model, [1.0, 1.1, 1.2, 1.3, 0.1, 0.3, 0.2])
    with pytest.warns(UserWarning, match="hidden2"):
        report = prune(model, 0.5)
    assert report.removed == 2 and report.living == (4, 1)
    with pytest.warns(UserWarning, match="hidden1, hidden2"):
        report = prune_to_sparsity(model, 1.0)
    assert report.living == (1, 1)
    assert prune(model, 5.0, allow_empty=True).living == (0, 0)
    # Nothing is left to protect, and nothing to warn of.
    assert prune(model, 5.0).living == (0, 0)


def test_removal_layer_by_layer_takes_the_fraction_of_each() -> None:
    model = network((2, 4, 10, 2))
    values = np.array(masses(model))
    report = prune_to_sparsity(model, 0.5, scope="layer")
    assert report.living == (2, 5) and np.isnan(report.epsilon)
    for part, left in zip(np.split(values, [4]), population_layers(model), strict=True):
        assert left.masses[left.masses > 0].min() > np.sort(part)[len(part) // 2 - 1]


@pytest.mark.parametrize("bad", [-0.1, 1.1, float("nan")])
def test_an_impossible_sparsity_is_named(bad: float) -> None:
    with pytest.raises(ValueError, match="sparsity"):
        prune_to_sparsity(network(), bad)
    with pytest.raises(ValueError, match="threshold"):
        prune(network(), -abs(bad))


# The smaller network


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.Sigmoid(), nn.Softplus(), nn.LeakyReLU(0.2)])
@pytest.mark.parametrize("bias", [True, False])
def test_outputs_are_those_of_the_masked_network(activation: nn.Module, bias: bool) -> None:
    # One activation used throughout, and nested containers: both are part of a chain.
    draw = torch.Generator().manual_seed(1)
    model = nn.Sequential(
        PopulationLinear(20, 12, bias, generator=draw),
        activation,
        nn.Sequential(PopulationLinear(12, 8, bias, generator=draw), activation),
        PopulationLinear(8, 6, bias, generator=draw),
        activation,
        nn.Linear(6, 4, bias),
    )
    set_masses(model, np.random.default_rng(0).uniform(0.1, 2, 26).tolist())
    prune_to_sparsity(model, 0.5)
    before, values = masses(model), copy.deepcopy(model.state_dict())
    small = compact(model)
    torch.testing.assert_close(small(inputs()), model(inputs()), atol=1e-5, rtol=1e-5)
    assert not any("masses" in name for name, _ in small.named_buffers())
    assert sum(p.numel() for p in small.parameters()) < 0.6 * sum(p.numel() for p in model.parameters())
    # The network it came from is as it was, and shares nothing with the new one.
    assert masses(model) == before
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert all(torch.equal(values[k], v) for k, v in model.state_dict().items())


def test_a_network_without_absent_groups_keeps_its_size() -> None:
    model = network()
    small: Any = compact(model)
    assert [m.out_features for m in small if isinstance(m, nn.Linear)] == [12, 8, 5]
    torch.testing.assert_close(small(inputs()), model(inputs()), atol=1e-6, rtol=1e-5)


def test_widths_can_be_rounded_up() -> None:
    model = network((20, 12, 8, 5))
    set_masses(model, [1.0] * 5 + [0.0] * 7 + [0.5] * 7 + [0.0])
    small: Any = compact(model, round_to=4)
    assert [m.out_features for m in small if isinstance(m, nn.Linear)] == [8, 8, 5]
    torch.testing.assert_close(small(inputs()), model(inputs()), atol=1e-6, rtol=1e-5)
    # Never wider than it was.
    widest: Any = compact(model, round_to=100)
    assert widest[0].out_features == 12


def test_an_optimiser_goes_on_with_sliced_momentum() -> None:
    model = network()
    set_masses(model, [1.0] * 20)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = inputs(), torch.randint(0, 5, (32,), generator=torch.Generator().manual_seed(0))
    set_masses(model, [1.0, 0.0] * 10)
    masked = copy.deepcopy(model)
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    momentum = optimizer.state[model[2].weight]["momentum_buffer"].clone()
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    small: Any = compact(model, optimizer)
    buffer = optimizer.state[small[2].weight]["momentum_buffer"]
    assert torch.equal(buffer, momentum[::2][:, ::2])
    assert schedule.optimizer is optimizer and len(optimizer.state) == 6
    # With masses of 1 both networks go on alike.
    other = torch.optim.SGD(masked.parameters(), lr=0.1, momentum=0.9)
    for _ in range(5):
        other.zero_grad()
        nn.functional.cross_entropy(masked(x), y).backward()
        other.step()
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(small(x), y).backward()
        optimizer.step()
    torch.testing.assert_close(small(x), masked(x), atol=1e-5, rtol=1e-5)


ELEMENTWISE = [
    torch.optim.SGD,
    torch.optim.Adam,
    torch.optim.AdamW,
    torch.optim.NAdam,
    torch.optim.RAdam,
    torch.optim.Adamax,
    torch.optim.ASGD,
    torch.optim.Adagrad,
    torch.optim.Adadelta,
    torch.optim.RMSprop,
    torch.optim.Rprop,
]


def halved() -> Any:
    model = network()
    set_masses(model, [1.0, 0.0] * 10)
    return model


def train(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: int = 3) -> None:
    y = torch.randint(0, 5, (32,), generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        for optimizer in optimizers:
            optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs()), y).backward()
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("kind", ELEMENTWISE)
def test_with_every_elementwise_optimiser_the_smaller_network_goes_on_as_the_masked_one(kind: Any) -> None:
    model, masked = halved(), halved()
    optimizer, other = kind(model.parameters(), lr=0.01), kind(masked.parameters(), lr=0.01)
    train(model, [optimizer])
    small = compact(model, optimizer)
    train(small, [optimizer])
    train(masked, [other], 6)
    torch.testing.assert_close(small(inputs()), masked(inputs()), atol=1e-5, rtol=1e-5)
    assert optimizer.state.keys() <= set(small.parameters())


def test_several_optimisers_follow_as_a_list_and_none_is_left_behind() -> None:
    def optimisers(model: Any) -> list[torch.optim.Optimizer]:
        named = list(model.named_parameters())
        return [
            torch.optim.SGD(named[:2], lr=0.1, momentum=0.9),
            torch.optim.Adam([p for _, p in named[2:]], lr=0.01),
        ]

    model, masked = halved(), halved()
    both, others = optimisers(model), optimisers(masked)
    train(model, both)
    with pytest.raises(
        ValueError, match=r"optimizer does not hold hidden2\.weight, hidden2\.bias, output\.w"
    ):
        compact(model, both[0])
    assert both[0].param_groups[0]["params"][0] is model.hidden1.weight
    small = compact(model, both)
    train(small, both)
    train(masked, others, 6)
    torch.testing.assert_close(small(inputs()), masked(inputs()), atol=1e-5, rtol=1e-5)
    frozen = halved()
    frozen.hidden2.requires_grad_(False)
    frozen.output.requires_grad_(False)
    compact(frozen, torch.optim.SGD(frozen.hidden1.parameters(), lr=0.1))


def test_names_of_parameters_follow_into_the_smaller_network() -> None:
    model = nn.Sequential(OrderedDict(body=halved(), head=nn.Linear(5, 2)))
    optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
    if "param_names" not in optimizer.param_groups[0]:
        pytest.skip("this torch keeps no names")
    small = compact(model, optimizer)
    assert optimizer.param_groups[0]["param_names"] == [name for name, _ in small.named_parameters()]


class Wrapping(torch.optim.SGD):
    """Keeps another optimiser of the same parameters inside, as sharpness-aware minimisation does."""

    def __init__(self, parameters: Any, lr: float) -> None:
        super().__init__(parameters, lr=lr)
        self.base = torch.optim.SGD(self.param_groups, lr=lr)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (torch.optim.LBFGS, "optimizer is LBFGS, which refers to the parameters in _params"),
        (
            torch.optim.Adafactor,
            r"optimizer is Adafactor, which keeps 'row_var' of hidden1\.weight, of shape",
        ),
        (Wrapping, "optimizer is Wrapping, which refers to the parameters in base"),
    ],
)
def test_an_optimiser_that_cannot_follow_is_refused_by_name_and_left_alone(kind: Any, message: str) -> None:
    model = halved()
    optimizer = kind(model.parameters(), lr=0.01)
    nn.functional.mse_loss(model(inputs()), torch.ones(32, 5)).backward()
    if kind is not torch.optim.LBFGS:
        optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        compact(model, optimizer)
    assert str(optimizer.state_dict()) == str(before)
    assert optimizer.param_groups[0]["params"] == list(model.parameters())


def test_a_list_in_the_state_is_refused_by_name() -> None:
    model = halved()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.state[model.hidden1.bias]["history"] = [torch.zeros(12)]
    with pytest.raises(ValueError, match=r"'history' of hidden1\.bias, a list"):
        compact(model, optimizer)


class Residual(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(PopulationLinear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), r"1 is a BatchNorm1d"),
        (nn.Sequential(PopulationLinear(3, 3), nn.Sequential(Residual())), r"1\.0 is a Residual"),
        (Residual(), "model is a Residual"),
    ],
)
def test_what_cannot_be_traced_is_refused_by_name(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compact(model)


def test_networks_that_cannot_shrink_are_refused() -> None:
    empty = network()
    prune(empty, 10.0, allow_empty=True)
    with pytest.raises(ValueError, match="hidden1 has no living group"):
        compact(empty)
    last: Any = nn.Sequential(PopulationLinear(3, 3))
    last[0].masses[0] = 0.0
    with pytest.raises(ValueError, match="last layer"):
        compact(last)
    flat: Any = nn.Sequential(PopulationLinear(3, 3), nn.Flatten(), nn.Linear(3, 2))
    flat[0].masses[0] = 0.0
    with pytest.raises(ValueError, match="1 is a Flatten"):
        compact(flat)
    with pytest.raises(ValueError, match="not the model's"):
        compact(network(), torch.optim.SGD(network().parameters(), lr=0.1))
    shared = PopulationLinear(3, 3)
    twice = nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(3, 2))
    with pytest.raises(ValueError, match="2 shares parameters"):
        compact(twice, torch.optim.SGD(twice.parameters(), lr=0.1))


@pytest.mark.parametrize("training", [True, False])
def test_a_smaller_network_is_in_the_mode_of_the_old_one(training: bool) -> None:
    model = network().train(training)
    assert all(module.training == training for module in compact(model).modules())


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_what_is_no_mass_is_neither_pruned_nor_dropped(value: float) -> None:
    model = network()
    population_layers(model)[1].masses[2] = value
    for removal_of in (compact, lambda model: prune(model, 0.5), lambda model: prune_to_sparsity(model, 0.5)):
        with pytest.raises(ValueError, match=r"masses of hidden2 is .* at index 2"):
            removal_of(model)


def test_a_layer_by_itself_is_called_model() -> None:
    with pytest.warns(UserWarning, match="every group of model was due"):
        prune(PopulationLinear(2, 2), 5.0)


def test_names_that_would_coincide_are_refused() -> None:
    nested = nn.Sequential(OrderedDict(b=PopulationLinear(6, 5)))
    model = nn.Sequential(OrderedDict([("a", nested), ("a_b", nn.ReLU()), ("o", nn.Linear(5, 3))]))
    with pytest.raises(ValueError, match="both be called a_b"):
        compact(model)


# Files


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_saved_and_loaded_networks_are_the_same(tmp_path: Path, dtype: torch.dtype) -> None:
    model = nn.Sequential(
        nn.Flatten(),
        PopulationLinear(20, 12),
        nn.LeakyReLU(0.3),
        nn.Dropout(0.2),
        PopulationLinear(12, 8, bias=False),
        nn.GELU("tanh"),
        nn.Linear(8, 5),
    ).to(dtype)
    set_masses(model, np.linspace(0.5, 1.5, 20).tolist())
    prune_to_sparsity(model, 0.4)
    small = compact(model).eval()
    save_compact(small, tmp_path / "small.safetensors")
    loaded = load_compact(tmp_path / "small.safetensors")
    assert str(loaded) == str(small)
    assert torch.equal(loaded(inputs().to(dtype)), small(inputs().to(dtype)))


def test_a_network_with_masses_is_not_a_compact_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="hidden1 still has masses"):
        save_compact(network(), tmp_path / "x.safetensors")
    assert not list(tmp_path.iterdir())


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    save_compact(compact(network()), path)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ValueError, match="cannot be read"):
        load_compact(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="cannot be read"):
        load_compact(path)
    save_file({"w": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="holds None"):
        load_compact(path)
    strange = '[{"name": "0", "type": "Evil", "arguments": {}}]'
    tensors = {"w": torch.ones(2)}
    metadata = {"format": "nn_bridge compact", "version": "1", "architecture": strange}
    save_file(tensors, path, metadata=metadata | {"sha256": files._digest(strange, tensors)})
    with pytest.raises(ValueError, match="'Evil'"):
        load_compact(path)


def crafted(path: Path, change: Any) -> None:
    """Change architecture and weights of a compact file and give it the right checksum."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    architecture = json.loads(metadata["architecture"])
    changed = change(architecture, tensors)
    text = changed if isinstance(changed, str) else json.dumps(architecture if changed is None else changed)
    metadata |= {"architecture": text, "sha256": files._digest(text, tensors)}
    save_file(tensors, path, metadata=metadata)


def entry(k: int, **fields: Any) -> Any:
    return lambda architecture, tensors: architecture[k].update(fields)


def argument(k: int, **values: Any) -> Any:
    return lambda architecture, tensors: architecture[k]["arguments"].update(values)


def weight(name: str, value: torch.Tensor) -> Any:
    return lambda architecture, tensors: tensors.update({name: value})


def without(name: str) -> Any:
    def change(architecture: Any, tensors: dict[str, torch.Tensor]) -> None:
        del tensors[name]

    return change


def again(k: int) -> Any:
    return lambda architecture, tensors: architecture.append(architecture[k])


# The file holds Linear(6, 5), LeakyReLU, GELU, Dropout, Softplus, Linear(5, 3).
CRAFTED = {
    "no JSON": (lambda *_: "[", "Expecting value"),
    "nothing": (lambda *_: "", "Expecting value"),
    "deep": (lambda *_: "[" * 100_000 + "]" * 100_000, "recursion"),
    "a dict": (lambda *_: {"name": "a"}, "the architecture is no list"),
    "no entry": (lambda *_: [], "it holds first.bias, first.weight, last.bias, last.weight"),
    "entries that are numbers": (lambda *_: [1, 2], "entry 0 of the architecture is 1"),
    "an entry without a name": (lambda a, _: a[0].pop("name") and None, "entry 0 of the architecture is"),
    "an entry with more": (entry(0, code="x"), "entry 0 of the architecture is"),
    "a name with dots": (entry(0, name="a.b"), "the name 'a.b'"),
    "no name": (entry(0, name=""), "the name ''"),
    "an attribute's name": (entry(0, name="training"), "the name 'training'"),
    "a number for a name": (entry(0, name=3), "the name 3"),
    "two of one name": (again(1), "two modules are called act"),
    "a list for a type": (entry(1, type=["ReLU"]), r"act is of the type \['ReLU'\]"),
    "an unknown type": (entry(1, type="Sequential"), "act is of the type 'Sequential'"),
    "arguments as a list": (entry(1, arguments=[0.1]), r"act has the arguments \[0.1\]"),
    "an argument too many": (argument(1, inplace=True), "act has the arguments"),
    "an argument missing": (entry(1, arguments={}), "act has the arguments {}; expected negative_slope"),
    "a slope in words": (argument(1, negative_slope="steep"), "negative_slope of act is 'steep'"),
    "a slope without end": (
        lambda a, _: json.dumps(a).replace("0.25", "Infinity"),
        "negative_slope of act is",
    ),
    "another GELU": (argument(2, approximate="erf"), "approximate of gelu is 'erf'"),
    "a probability of 2": (argument(3, p=2), "p of drop is 2; expected a probability"),
    "a Softplus by 0": (argument(4, beta=0), "beta of soft is 0"),
    "half a feature": (argument(0, in_features=6.5), "in_features of first is 6.5"),
    "a feature less than none": (argument(0, out_features=-5), "out_features of first is -5"),
    "features beyond memory": (
        argument(0, out_features=10**15),
        r"first.weight is a tensor of shape \(5, 6\)",
    ),
    "bias in words": (argument(0, bias="yes"), "bias of first is 'yes'"),
    "a bias that is not described": (argument(0, bias=False), "it holds first.bias; expected"),
    "layers that do not fit": (
        entry(5, arguments={"in_features": 4, "out_features": 3, "bias": True}),
        "last takes 4",
    ),
    "weights missing": (without("last.weight"), "last.weight is missing"),
    "bias missing": (without("last.bias"), "last.bias is missing"),
    "weights too many": (weight("more", torch.ones(2)), "it holds more; expected"),
    "weights of another shape": (
        weight("last.weight", torch.ones(5, 3)),
        r"last.weight is a tensor of shape",
    ),
    "weights NaN": (weight("last.weight", torch.full((3, 5), np.nan)), "last.weight is not finite"),
    "bias infinite": (weight("last.bias", torch.full((3,), np.inf)), "last.bias is not finite"),
    "weights in whole numbers": (weight("last.weight", torch.ones(3, 5).int()), "last.weight is .*int32"),
    "complex weights": (weight("last.weight", torch.ones(3, 5) * 1j), "last.weight is .*complex64"),
    "a bias of another type": (weight("last.bias", torch.zeros(3).double()), "last.bias is .*float64"),
}


def chain() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(
        OrderedDict(
            first=nn.Linear(6, 5),
            act=nn.LeakyReLU(0.25),
            gelu=nn.GELU(),
            drop=nn.Dropout(0.5),
            soft=nn.Softplus(),
            last=nn.Linear(5, 3),
        )
    )


@pytest.mark.parametrize("case", CRAFTED)
def test_what_save_compact_never_wrote_is_refused_by_name(tmp_path: Path, case: str) -> None:
    path, (change, message) = tmp_path / "small.safetensors", CRAFTED[case]
    save_compact(chain(), path)
    crafted(path, lambda *_: None)  # the checksum is right
    load_compact(path)
    crafted(path, change)
    with pytest.raises(ValueError, match=rf"(?s)small\.safetensors holds no network .*{message}"):
        load_compact(path)


def test_what_could_not_be_loaded_is_not_saved(tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    model = chain()
    with torch.no_grad():
        model[5].weight[1, 2] = np.nan
    with pytest.raises(ValueError, match=r"last\.weight is not finite.*nothing was saved"):
        save_compact(model, path)
    model = chain()
    model[3].p = torch.tensor(0.5)
    with pytest.raises(ValueError, match="not JSON serializable; nothing was saved"):
        save_compact(model, path)
    assert not list(tmp_path.iterdir())


def test_equal_networks_give_equal_bytes(tmp_path: Path) -> None:
    paths = [tmp_path / f"{k}.safetensors" for k in range(8)]
    for path in paths:
        save_compact(chain(), path)
    assert len({path.read_bytes() for path in paths}) == 1
    # In order, so that another process, too, writes them so; and as aligned as the library writes them.
    content = paths[0].read_bytes()
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    assert size % 8 == 0
    assert list(header) == sorted(header) and list(header["__metadata__"]) == sorted(header["__metadata__"])


def test_a_file_as_the_library_orders_it_is_read(tmp_path: Path) -> None:
    path, model = tmp_path / "small.safetensors", chain()
    save_compact(model, path)
    crafted(path, lambda *_: None)
    assert torch.equal(load_compact(path)(inputs(4, 6)), model.eval()(inputs(4, 6)))


def test_shared_weights_are_saved_for_each_layer(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    save_compact(model, tmp_path / "small.safetensors")
    loaded = load_compact(tmp_path / "small.safetensors")
    assert torch.equal(loaded(inputs(4, 4)), model(inputs(4, 4)))


@settings(deadline=None, max_examples=60)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
@example(where=0.999, bit=0)  # in the last weight, of which safetensors itself knows nothing
@example(where=0.2, bit=1)
def test_no_flipped_bit_goes_unnoticed(compact_file: bytes, where: float, bit: int) -> None:
    content = bytearray(compact_file)
    content[int(where * len(content))] ^= 1 << bit
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.safetensors"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"small\.safetensors"):
            load_compact(path)


@pytest.fixture(scope="module")
def compact_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("file") / "small.safetensors"
    save_compact(compact(network()), path)
    return path.read_bytes()


def test_a_halved_paper_network_costs_less_and_predicts_the_same(tmp_path: Path) -> None:
    model = network((784, 512, 256, 10))
    x = inputs(256, 784)
    prune_to_sparsity(model, 0.5)
    save_compact(compact(model), tmp_path / "half.safetensors")
    small: Any = load_compact(tmp_path / "half.safetensors")
    assert torch.equal(small(x).argmax(1), model(x).argmax(1))
    before, after = cost(model, x, repeats=3), cost(small, x, repeats=3)
    assert before.macs == 784 * 512 + 512 * 256 + 256 * 10
    assert before.parameters == before.macs + 512 + 256 + 10
    widths = [784, *(layer.out_features for layer in small if isinstance(layer, nn.Linear))]
    assert after.macs == sum(a * b for a, b in itertools.pairwise(widths))
    assert after.macs < 0.6 * before.macs
    assert after.file_bytes < 0.6 * before.file_bytes and after.latency > 0


def test_shared_weights_are_measured_once_and_saved_by_every_name(tmp_path: Path) -> None:
    first, second, third = (nn.Linear(4, 4) for _ in range(3))
    tied = nn.Linear(4, 4)
    tied.weight = second.weight  # each with its own bias
    x = inputs(3, 4)
    apart = cost(nn.Sequential(first, second, nn.ReLU(), third), x, repeats=1)
    for last, shared in ((second, 20), (tied, 16)):
        model = nn.Sequential(first, second, nn.ReLU(), last)
        measured = cost(model, x, repeats=1)
        assert measured.parameters == apart.parameters - shared
        assert measured.file_bytes <= apart.file_bytes - 4 * shared
        save_compact(model, tmp_path / "shared.safetensors")
        assert torch.equal(load_compact(tmp_path / "shared.safetensors")(x), model(x))


class Failing(nn.Sequential):
    """Raises in the middle of a measurement, and has a part in a mode of its own."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if getattr(self, "fails", True):
            raise OSError("in the middle")
        return super().forward(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("measure", ["cost", "accuracy", "export_onnx"])
def test_every_module_is_in_its_own_mode_after_a_measurement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measure: str, fails: bool
) -> None:
    def export(model: nn.Module, arguments: tuple[torch.Tensor], path: str, **_: Any) -> None:
        model(*arguments)
        Path(path).touch()

    monkeypatch.setattr(torch.onnx, "export", export)  # itself it takes seconds
    model: Any = Failing(nn.Linear(4, 3), nn.Dropout().eval())
    model.fails = fails
    x = inputs(3, 4)
    run: Any = {
        "cost": lambda: cost(model, x, repeats=1),
        "accuracy": lambda: accuracy(model, x, torch.zeros(3)),
        "export_onnx": lambda: export_onnx(model, tmp_path / "model.onnx", x),
    }[measure]
    with pytest.raises(OSError, match="in the middle") if fails else contextlib.nullcontext():
        run()
    assert [module.training for module in model.modules()] == [True, True, False]


@pytest.mark.parametrize("small", [True, False])
def test_onnxruntime_agrees(tmp_path: Path, small: bool) -> None:
    model = network()
    prune_to_sparsity(model, 0.5)
    model = compact(model) if small else model
    export_onnx(model, tmp_path / "made" / "model.onnx", inputs(3))
    session: Any = InferenceSession(str(tmp_path / "made" / "model.onnx"))
    for samples in (1, 32):
        x = inputs(samples)
        (out,) = session.run(None, {"input": x.numpy()})
        np.testing.assert_allclose(out, model(x).detach().numpy(), atol=1e-5)
    assert model.training
    assert [f.name for f in (tmp_path / "made").iterdir()] == ["model.onnx"]
