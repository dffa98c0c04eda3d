"""Population layers: Eq. 3, and masses that neither precision nor optimisers touch."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nn_bridge import PopulationLinear, population_layers, population_mlp

pytestmark = pytest.mark.nn


def layer_with_masses(masses: list[float], inputs: int = 5) -> PopulationLinear:
    layer = PopulationLinear(inputs, len(masses), generator=torch.Generator().manual_seed(3))
    layer.masses[:] = torch.tensor(masses, dtype=torch.float64)
    return layer


def test_masses_scale_weight_row_and_bias() -> None:
    layer = layer_with_masses([2.0, 0.5, 0.0])
    x = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    p = layer.masses.float()
    assert layer.bias is not None
    expected = x @ (p[:, None] * layer.weight).T + p * layer.bias
    torch.testing.assert_close(layer(x), expected)
    assert (layer(x)[:, 2] == 0).all()


def test_masses_are_one_float64_buffer_and_no_parameter() -> None:
    model = population_mlp((6, 4, 3, 2))
    names = {name for name, _ in model.named_parameters()}
    assert not any("masses" in name for name in names)
    assert {name for name, _ in model.named_buffers()} == {"hidden1.masses", "hidden2.masses"}
    for layer in population_layers(model):
        assert layer.masses.dtype == torch.float64 and (layer.masses == 1).all()
        assert not layer.masses.requires_grad


@pytest.mark.parametrize("change", ["half", "bfloat16", "float", "to_half", "to_bfloat16_device"])
def test_no_change_of_precision_rounds_a_mass(change: str) -> None:
    value = 1.0 + 2.0**-50  # not a number of any smaller type
    layer = layer_with_masses([value, 1e-300])
    changed = {
        "half": lambda: layer.half(),
        "bfloat16": lambda: layer.bfloat16(),
        "float": lambda: layer.float(),
        "to_half": lambda: layer.to(torch.float16),
        "to_bfloat16_device": lambda: layer.to("cpu", torch.bfloat16),
    }[change]()
    assert changed.masses.dtype == torch.float64
    assert changed.masses.tolist() == [value, 1e-300]
    assert changed.weight.dtype != torch.float64
    out = changed(torch.ones(1, 5, dtype=changed.weight.dtype))
    assert out.dtype == changed.weight.dtype


def test_masses_move_with_the_device() -> None:
    assert layer_with_masses([1.0, 2.0]).to("meta").masses.device.type == "meta"


def test_the_same_seed_gives_the_same_network_and_no_global_generator_moves() -> None:
    before = torch.get_rng_state()
    networks: Any = [population_mlp(seed=seed) for seed in (5, 5, 6)]
    first, again, other = networks
    assert torch.equal(before, torch.get_rng_state())
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first[0].weight, other[0].weight)
    assert [layer.groups for layer in population_layers(first)] == [512, 256]


@pytest.mark.parametrize(("device", "dtype"), [("meta", torch.float32), ("cpu", torch.float64)])
def test_the_whole_network_is_where_torch_makes_its_tensors_by_default(
    device: str, dtype: torch.dtype
) -> None:
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = population_mlp((6, 4, 3, 2))
            out = model(torch.ones(1, 6))
    finally:
        torch.set_default_dtype(before)
    assert {parameter.dtype for parameter in model.parameters()} == {out.dtype} == {dtype}
    assert {value.device.type for value in model.state_dict().values()} == {out.device.type} == {device}


def test_initial_weights_have_the_law_of_a_plain_linear_layer() -> None:
    model: Any = population_mlp((400, 300, 10))
    weight = model[0].weight.detach()
    bound = 1 / np.sqrt(400)
    assert float(weight.abs().max()) <= bound
    # 120,000 draws: the standard deviation of a uniform law to 1 %.
    assert float(weight.std()) == pytest.approx(bound / np.sqrt(3), rel=0.01)


def test_copies_do_not_carry_the_observer() -> None:
    layer = layer_with_masses([1.0, 2.0])
    layer.observer = lambda gradient, z: None
    assert copy.deepcopy(layer).observer is None
    assert layer.observer is not None


def test_states_round_trip() -> None:
    layer, other = layer_with_masses([0.25, 3.0]), layer_with_masses([1.0, 1.0])
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.masses, layer.masses)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_state_in_another_precision_leaves_masses_in_double(dtype: torch.dtype) -> None:
    layer = layer_with_masses([0.25, 3.0])
    state = {name: value.to(dtype) for name, value in layer.state_dict().items()}
    other = layer_with_masses([1.0, 1.0])
    other.load_state_dict(state, assign=True)
    assert other.weight.dtype == dtype
    assert other.masses.dtype == torch.float64 and torch.equal(other.masses, layer.masses)


@pytest.mark.parametrize("widths", [(784, 10), (784, 0, 10), (784, 2.5, 10)])
def test_impossible_widths_are_refused(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="widths"):
        population_mlp(widths)


def test_a_model_without_population_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="population layer"):
        population_layers(nn.Linear(2, 2))


# Modules of torch that compute with the weights of their parts


def encoder_layer(bias: bool = True) -> Any:
    torch.manual_seed(0)
    layer: Any = nn.TransformerEncoderLayer(4, 2, dim_feedforward=6, dropout=0.0, batch_first=True)
    draw = torch.Generator().manual_seed(1)
    layer.linear1 = PopulationLinear(4, 6, bias, generator=draw)
    layer.linear2 = PopulationLinear(6, 4, bias, generator=draw)
    for linear in (layer.linear1, layer.linear2):
        linear.masses.uniform_(0.0, 2.0, generator=draw)
    return layer


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("copied", [False, True])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("stacked", [False, True])
def test_a_transformer_in_evaluation_mode_uses_the_masses(stacked: bool, bias: bool, copied: bool) -> None:
    model = encoder_layer(bias)
    if stacked:
        model = nn.TransformerEncoder(model, 2)
    if copied:
        model = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    x = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(2))
    options = {"src_key_padding_mask": torch.tensor([[False, False, True], [False] * 3])} if stacked else {}
    expected = model.train()(x, **options)  # without dropout the same
    with torch.no_grad():
        found = model.eval()(x, **options)
    seen = slice(0, 2) if stacked else slice(None)
    torch.testing.assert_close(found[:, seen], expected[:, seen])
    population_layers(model)[0].masses.zero_()
    with torch.no_grad():
        assert not torch.allclose(model(x, **options)[:, seen], found[:, seen])


def test_the_projection_of_an_attention_is_refused_which_never_calls_it() -> None:
    model: Any = nn.Sequential(encoder_layer())
    model[0].self_attn.out_proj = PopulationLinear(4, 4)
    with pytest.raises(ValueError, match=r"^0\.self_attn\.out_proj is a PopulationLinear; expected a plain"):
        population_layers(model)
