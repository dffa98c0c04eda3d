"""The signal against autograd, and the selector against evodyn's own map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import evodyn as ed
from evodyn.core import netcdf
from nn_bridge import (
    Contribution,
    Magnitude,
    PopulationLayer,
    PopulationLinear,
    Record,
    Recorder,
    Selector,
    Signal,
    Taylor,
    population_layers,
    population_mlp,
    prune,
)

pytestmark = pytest.mark.nn

WIDTHS = (6, 5, 4, 3)
GROUPS = 9


def network(seed: int = 0, *, masses: bool = True) -> Any:
    model = population_mlp(WIDTHS, seed=seed)
    if masses:
        draw = torch.Generator().manual_seed(seed + 100)
        for layer in population_layers(model):
            layer.masses.uniform_(0.2, 2.0, generator=draw)
    return model


def batch(seed: int = 0, samples: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return (
        torch.randn(samples, WIDTHS[0], generator=draw),
        torch.randint(0, WIDTHS[-1], (samples,), generator=draw),
    )


def backward(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    nn.functional.cross_entropy(model(x), y).backward()


def selected(model: nn.Module, signal: Signal, **options: Any) -> Selector:
    return Selector(model, ed.Replicator(), signal, 1e-3, **options)


def contribution(model: nn.Module, signal: Signal, *batches: tuple[torch.Tensor, torch.Tensor]) -> np.ndarray:
    """Return the contributions that the selector hands to the landscape."""
    selector = selected(model, signal)
    for x, y in batches:
        backward(model, x, y)
    selector.step()
    assert selector.contribution is not None
    return selector.contribution.numpy()


def autograd(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """Return ∂L/∂p by making the masses leaves of the graph: an independent way to the signal."""
    names = [name for name, _ in model.named_buffers()]
    leaves = {name: buffer.clone().requires_grad_() for name, buffer in model.named_buffers()}
    out = torch.func.functional_call(model, leaves, (x,))
    gradients = torch.autograd.grad(nn.functional.cross_entropy(out, y), [leaves[name] for name in names])
    return torch.cat(gradients).numpy()


def test_the_contribution_is_the_gradient_of_the_loss_by_the_mass() -> None:
    model, (x, y) = network().double(), batch()
    x = x.double()
    expected = np.abs(autograd(model, x, y))
    np.testing.assert_allclose(contribution(model, Contribution(), (x, y)), expected, rtol=1e-12)


def test_the_contribution_is_exact_for_absent_groups_too() -> None:
    model, (x, y) = network().double(), batch()
    model[0].masses[1] = 0.0
    expected = np.abs(autograd(model, x.double(), y))
    got = contribution(model, Contribution(), (x.double(), y))
    np.testing.assert_allclose(got, expected, rtol=1e-12)


def test_mass_times_contribution_is_weight_times_gradient() -> None:
    model, (x, y) = network().double(), batch()
    masses = selected(model, Contribution()).masses.numpy()
    got = masses * contribution(model, Contribution(), (x.double(), y))
    expected = []
    for layer in population_layers(model):
        assert isinstance(layer, PopulationLinear)
        assert layer.bias is not None and layer.weight.grad is not None and layer.bias.grad is not None
        expected.append((layer.weight * layer.weight.grad).sum(1) + layer.bias * layer.bias.grad)
    np.testing.assert_allclose(got, torch.cat(expected).abs().detach().numpy(), rtol=1e-10, atol=1e-15)


def test_per_sample_values_are_means_of_absolute_gradients_of_single_samples() -> None:
    model, (x, y) = network().double(), batch()
    x = x.double()
    single = [np.abs(autograd(model, x[k : k + 1], y[k : k + 1])) for k in range(len(x))]
    got = contribution(model, Contribution(per_sample=True), (x, y))
    np.testing.assert_allclose(got, np.mean(single, axis=0), rtol=1e-12)
    assert (got > 1.5 * contribution(model, Contribution(), (x, y))).any()


def test_the_summed_signal_is_the_gradient_of_the_summed_loss() -> None:
    x, y = batch()
    mean, total = (contribution(network(), Contribution(summed=s), (x, y)) for s in (False, True))
    np.testing.assert_allclose(total, 16 * mean, rtol=1e-6)


def test_accumulated_passes_add_before_the_absolute_value() -> None:
    model, first, second = network().double(), batch(1), batch(2)
    first, second = ((x.double(), y) for x, y in (first, second))
    expected = np.abs(autograd(model, *first) + autograd(model, *second))
    np.testing.assert_allclose(contribution(model, Contribution(), first, second), expected, rtol=1e-12)


def test_layers_over_sequences_sum_over_positions_within_a_sample() -> None:
    layer = PopulationLinear(3, 2, generator=torch.Generator().manual_seed(0)).double()
    model = nn.Sequential(layer)
    x = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(1)).double()
    values = []
    for part in (x, *x.split(1)):
        selector = selected(model, Contribution(per_sample=True))
        model(part).pow(3).sum().backward()
        selector.step()
        assert selector.contribution is not None
        layer.masses.fill_(1.0)
        values.append(selector.contribution)
    torch.testing.assert_close(values[0], torch.stack(values[1:]).sum(0))


def test_taylor_and_magnitude() -> None:
    model, (x, y) = network().double(), batch()
    masses = selected(model, Contribution()).masses.numpy()
    expected = masses * np.abs(autograd(model, x.double(), y))
    np.testing.assert_allclose(contribution(model, Taylor(), (x.double(), y)), expected, rtol=1e-6)
    layer = network()[0]
    norms = np.sqrt((layer.weight.detach().numpy() ** 2).sum(1) + layer.bias.detach().numpy() ** 2)
    np.testing.assert_allclose(contribution(network(), Magnitude())[:5], norms, rtol=1e-6)


def test_smoothing_is_the_weighted_mean_of_all_values_so_far() -> None:
    beta, models = 0.7, (network(), network())
    plain = selected(models[0], Contribution())
    smooth = selected(models[1], Contribution(smoothing=beta))
    seen: list[np.ndarray] = []
    for k in range(5):
        models[0].load_state_dict(models[1].state_dict())  # the same masses see the same gradients
        for model, selector in zip(models, (plain, smooth), strict=True):
            backward(model, *batch(k))
            selector.step()
        assert plain.contribution is not None and smooth.contribution is not None
        seen.append(plain.contribution.numpy())
        expected = np.average(seen, axis=0, weights=beta ** np.arange(k, -1, -1))
        np.testing.assert_allclose(smooth.contribution.numpy(), expected, rtol=1e-5)
    assert not np.allclose(seen[-1], expected, rtol=0.1)


@pytest.mark.parametrize("per_sample", [True, False])
def test_an_input_without_the_axis_of_samples_is_one_sample(per_sample: bool) -> None:
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(1))
    values = []
    for sample in (x, x[0]):
        model = nn.Sequential(PopulationLinear(3, 2, generator=torch.Generator().manual_seed(0)))
        selector = selected(model, Contribution(per_sample=per_sample, summed=True))
        model(sample).pow(3).sum().backward()
        selector.step()
        assert selector.contribution is not None
        values.append(selector.contribution)
    torch.testing.assert_close(values[0], values[1])


@pytest.mark.parametrize("frozen", [["hidden1"], ["hidden1", "hidden2", "output"]])
def test_masses_evolve_where_weights_are_frozen(frozen: list[str]) -> None:
    expected = contribution(network(), Contribution(), batch())
    model = network()
    for name in frozen:
        model.get_submodule(name).requires_grad_(False)
    assert np.array_equal(contribution(model, Contribution(), batch()), expected)
    assert all(parameter.grad is None for parameter in model.get_submodule(frozen[0]).parameters())
    with torch.no_grad():
        assert not model(batch()[0]).requires_grad


def test_a_step_spoils_no_backward_pass_to_come() -> None:
    model = network().double()  # where the masses need no conversion
    x, y = batch()
    selector = selected(model, Contribution())
    first, second = (nn.functional.cross_entropy(model(x.double()), y) for _ in range(2))
    first.backward()
    selector.step()
    one = selector.contribution
    second.backward()
    selector.step()
    assert one is not None and selector.contribution is not None
    assert torch.equal(one, selector.contribution)  # both at the masses of the forward pass


@pytest.mark.parametrize("given", ["scope", "dynamics"])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("relative", [True, "zscore"])
def test_relative_values_over_the_groups_that_compete(scope: str, relative: Any, given: str) -> None:
    x, y = batch()
    raw_model, model = network(), network()
    for each in (raw_model, model):
        each[0].masses[2] = 0.0  # absent: no part of mean and deviation
    raw = contribution(raw_model, Contribution(), (x, y))
    apart = ed.Populations(ed.Replicator(), (5, 4))
    if given == "scope" or scope == "global":
        selector = selected(model, Contribution(relative=relative), scope=scope)
    else:
        selector = Selector(model, apart, Contribution(relative=relative), 1e-3)
    present = selector.masses.numpy() > 0
    backward(model, x, y)
    selector.step()
    assert selector.contribution is not None and not present.all()
    expected = np.empty(GROUPS)
    for block in (slice(0, 5), slice(5, 9)) if scope == "layer" else (slice(0, 9),):
        values = raw[block][present[block]]
        centre = values.mean() if relative == "zscore" else 0.0
        scale = values.std() if relative == "zscore" else values.mean()
        expected[block] = (raw[block] - centre) / scale
    np.testing.assert_allclose(selector.contribution.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_relative_values_of_a_signal_that_is_zero_are_zero() -> None:
    model = network()
    selector = selected(model, Contribution(relative=True))
    (model(batch()[0]) * 0).sum().backward()
    selector.step()
    assert selector.contribution is not None and (selector.contribution == 0).all()


DYNAMICS = [
    ed.Replicator(),
    ed.Replicator(signal_clip=1e-3),
    ed.NormalizedGrowth(mass_cap=8.0, signal_clip=1e-3),
    ed.SelectionMutation(0.1, signal_clip=1e-3),
    ed.SelectionMutation(lambda t: 0.1 * t, target=1.0),
    ed.SelectionMutation(0.1, target=np.linspace(0.5, 1.5, GROUPS)),
    ed.SelectionMutation(0.1, target=torch.linspace(0.5, 1.5, GROUPS, dtype=torch.float64)),
]


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("dynamics", DYNAMICS, ids=repr)
def test_steps_are_bit_for_bit_those_of_evodyn_in_numpy(dynamics: ed.Dynamics, scope: Any) -> None:
    model = network()
    selector = Selector(
        model,
        dynamics,
        Contribution(),
        0.5,
        scope=scope,
        landscape=lambda c: ed.landscapes.LinearDecay(c, decay=0.3),
    )
    reference = ed.Populations(dynamics, (5, 4)) if scope == "layer" else dynamics
    for k in range(4):
        before = selector.masses.numpy()
        backward(model, *batch(k))
        selector.step()
        assert selector.contribution is not None
        fitness = selector.contribution.numpy().astype(np.float64) - 0.3 * before
        expected = reference.step(before, fitness, 0.5, time=0.5 * k)
        assert selector.masses.numpy().tobytes() == expected.tobytes()
        assert not np.array_equal(before, expected)


def test_masses_stay_float64_and_small_increments_survive_in_a_half_precision_network() -> None:
    model = network(masses=False).to(torch.bfloat16)
    selector = Selector(model, ed.Replicator(), Contribution(), 1e-7)
    for k in range(3):
        before = selector.masses
        x, y = batch(k)
        nn.functional.cross_entropy(model(x.bfloat16()).float(), y).backward()
        selector.step()
        moved = (selector.masses - before).abs()
        assert (moved > 0).any() and float(moved.max()) < 1e-6
    assert all(layer.masses.dtype == torch.float64 for layer in selector.layers)


def test_a_group_pinned_at_the_clip_ends_at_its_floor() -> None:
    # One group whose fitness is far below the mean, at the paper's step size and clip: Table 2's row 0.6.
    model = network(masses=False)
    low = torch.full((GROUPS,), 5.0)
    low[0] = -100.0
    selector = Selector(
        model,
        ed.Replicator(signal_clip=0.10),
        Magnitude(),
        5e-4,
        landscape=lambda c: ed.landscapes.Constant(low),
    )
    for _ in range(9380):
        selector.step()
    assert float(selector.masses[0]) == pytest.approx((1 - 5e-4 * 0.10) ** 9380, rel=1e-12)
    assert float(selector.masses[0]) == pytest.approx(0.6256, abs=5e-5)


def test_a_step_needs_a_backward_pass() -> None:
    model = network()
    selector = selected(model, Contribution())
    with pytest.raises(RuntimeError, match=r"loss\.backward\(\)"):
        selector.step()
    backward(model, *batch())
    selector.clear()
    with pytest.raises(RuntimeError, match="backward"):
        selector.step()
    # A layer that the loss does not depend on is named.
    model[0](batch()[0]).sum().backward()
    with pytest.raises(RuntimeError, match=r"^hidden2 saw no backward pass"):
        selector.step()


def test_the_latest_selector_has_the_model() -> None:
    model = network()
    first, second = selected(model, Contribution()), selected(model, Contribution())
    backward(model, *batch())
    second.step()
    with pytest.raises(RuntimeError, match="latest selector"):
        first.step()


def test_evaluation_leaves_no_trace() -> None:
    model = network()
    selector = selected(model, Contribution())
    with torch.no_grad():
        model(batch()[0])
    with pytest.raises(RuntimeError, match="backward"):
        selector.step()


def test_states_round_trip_with_smoothing() -> None:
    signal = Contribution(smoothing=0.9, relative=True)
    one, two = network(), network()
    first = selected(one, signal)
    for k in range(3):
        backward(one, *batch(k))
        first.step()
    two.load_state_dict(one.state_dict())
    second = selected(two, signal)
    second.load_state_dict(first.state_dict())
    for k in range(3, 6):
        for model, selector in ((one, first), (two, second)):
            model.zero_grad()
            backward(model, *batch(k))
            selector.step()
    assert first.steps == second.steps == 6
    assert torch.equal(first.masses, second.masses)
    with pytest.raises(ValueError, match="state lacks remembered, weight"):
        second.load_state_dict({"steps": 1, "smoothed": None})
    with pytest.raises(ValueError, match="another model"):
        selected(population_mlp((6, 3, 2)), signal).load_state_dict(first.state_dict())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((nn.Linear(2, 2), ed.Replicator(), Contribution(), 1e-3), "population layer"),
        ((network(), "replicator", Contribution(), 1e-3), "dynamics is 'replicator'"),
        ((network(), ed.Replicator(), "contribution", 1e-3), "signal is 'contribution'"),
        ((network(), ed.Replicator(), Contribution(), 0.0), "step_size is 0.0"),
        ((network(), ed.SelectionMutation(0.1, target=[1.0]), Contribution(), 0.1), "target has 1"),
    ],
)
def test_bad_arguments_are_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Selector(*arguments)


@pytest.mark.parametrize("options", [{"smoothing": 1.0}, {"smoothing": -0.1}, {"relative": "median"}])
def test_bad_options_of_a_signal_are_named(options: Any) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Contribution(**options)


def recorded(tmp_path: Any, dynamics: ed.Dynamics, steps: int = 200) -> tuple[Record, np.ndarray]:
    model = network(masses=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    selector = Selector(model, dynamics, Contribution(smoothing=0.5), 5e-3)
    recorder = Recorder(selector)
    for k in range(steps):
        optimizer.zero_grad()
        backward(model, *batch(k))
        optimizer.step()
        selector.step()
    recorder.record().save(tmp_path / "record.nc")
    return Record.load(tmp_path / "record.nc"), selector.masses.numpy()


def test_a_record_replayed_by_the_map_is_the_training_run_bit_for_bit(tmp_path: Any) -> None:
    dynamics = ed.SelectionMutation(0.1, target=1.0, signal_clip=0.1)
    record, masses = recorded(tmp_path, dynamics)
    assert record.contributions.dtype == np.float32 and record.contributions.shape == (200, GROUPS)
    run = ed.iterate(dynamics, record.landscape(1e-3), record.initial_masses, record.steps, record.step_size)
    assert run.masses[-1].tobytes() == masses.tobytes()


def test_a_record_replayed_by_the_flow_is_the_training_run_to_first_order(tmp_path: Any) -> None:
    record, masses = recorded(tmp_path, ed.Replicator())
    span = (float(record.times[0]), float(record.times[-1]))
    run = ed.solve(ed.Replicator(), record.landscape(1e-3), record.initial_masses, span)
    moved = np.abs(masses - 1).max()
    # Euler's error over a time T with rates of at most m is below η_p·m²·T/2 in each ln p.
    rate = 2 * float(record.contributions.max())
    bound = record.step_size * rate**2 * span[1] / 2 * masses.max()
    assert np.abs(run.masses[-1] - masses).max() < bound < 0.2 * moved


def test_a_stopped_recorder_records_no_more() -> None:
    model = network()
    selector = selected(model, Magnitude())
    recorder = Recorder(selector)
    selector.step()
    recorder.stop()
    selector.step()
    assert recorder.record().steps == 1
    late = Recorder(selector)
    selector.step()
    assert late.record().first_step == 2 and late.record().times[0] == 2 * selector.step_size


def test_a_late_record_is_replayed_bit_for_bit_too(tmp_path: Any) -> None:
    # Times from 3 · 0.1 on, which in floating point are not those of the steps counted from zero.
    model = network(masses=False)
    selector = Selector(model, ed.Replicator(), Contribution(), 0.1)
    for k in range(40):
        if k == 3:
            recorder = Recorder(selector)
        model.zero_grad()
        backward(model, *batch(k))
        selector.step()
    recorder.record().save(tmp_path / "late.nc")
    record = Record.load(tmp_path / "late.nc")
    run = ed.iterate(
        ed.Replicator(),
        record.landscape(1e-3),
        record.initial_masses,
        record.steps,
        record.step_size,
        t_start=float(record.times[0]),
    )
    assert run.masses[-1].tobytes() == selector.masses.numpy().tobytes()
    assert np.array_equal(run.t, record.times)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "mass"])
def test_a_damaged_record_is_refused_by_name(tmp_path: Any, damage: str) -> None:
    model = network()
    selector = selected(model, Magnitude())
    recorder, path = Recorder(selector), tmp_path / "record.nc"
    selector.step()
    recorder.record().save(path)
    content = path.read_bytes()
    mass = float(recorder.record().initial_masses[4])
    spoilt = {
        "truncated": content[:-20],
        "empty": b"",
        "text": b"hello",
        "mass": content.replace(np.float64(mass).tobytes(), np.float64(mass + 1).tobytes()),
    }[damage]
    assert spoilt != content
    path.write_bytes(spoilt)
    with pytest.raises(ValueError, match=r"record\.nc"):
        Record.load(path)


def test_a_record_with_a_flipped_bit_is_the_same_or_refused(tmp_path: Any) -> None:
    record = Record(np.linspace(-1, 1, 15).reshape(5, 3).astype(np.float32), np.ones(3), 0.1, 2)
    path = tmp_path / "record.nc"
    record.save(path)
    whole, named = path.read_bytes(), []
    for flip in np.random.default_rng(2).choice(8 * len(whole), 25, replace=False):
        damaged = bytearray(whole)
        damaged[flip // 8] ^= 1 << (flip % 8)
        path.write_bytes(damaged)
        try:
            found = Record.load(path)
        except ValueError as error:
            named.append("record.nc" in str(error))
        else:
            assert found.contributions.tobytes() == record.contributions.tobytes()
            assert (found.step_size, found.first_step) == (0.1, 2)
    assert all(named) and len(named) > 20


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("step_size", -0.1), ("step_size", float("nan")), ("step_size", "a"), ("first_step", -1), ("schema", 3)],
)
def test_a_record_of_impossible_numbers_is_refused(tmp_path: Any, attribute: str, value: Any) -> None:
    Record(np.ones((5, 3)), np.ones(3), 0.1).save(tmp_path / "record.nc")
    data, _ = netcdf.read(tmp_path / "record.nc")
    netcdf.write(data.assign_attrs({attribute: value}), tmp_path / "record.nc")
    with pytest.raises(ValueError, match=rf"record\.nc.*{attribute}"):
        Record.load(tmp_path / "record.nc")
    # Changed by other means, it has no right checksum.
    data.assign_attrs({attribute: value}).to_netcdf(tmp_path / "record.nc", engine="h5netcdf")
    with pytest.raises(ValueError, match=r"record\.nc"):
        Record.load(tmp_path / "record.nc")


def test_a_record_of_impossible_masses_is_refused(tmp_path: Any) -> None:
    for mass in (np.nan, -1.0):
        Record(np.ones((5, 3)), np.array([1.0, mass, 1.0]), 0.1).save(tmp_path / "record.nc")
        with pytest.raises(ValueError, match=r"record\.nc.*initial_mass"):
            Record.load(tmp_path / "record.nc")


def test_a_record_of_schema_1_loads_and_says_what_its_checksum_leaves_out() -> None:
    path = Path(__file__).parent.parent / "data" / "record_schema_1.nc"
    with pytest.warns(UserWarning, match=r"record_schema_1\.nc .* checksum"):
        record = Record.load(path)
    assert (record.steps, record.step_size, record.first_step) == (5, 0.1, 2)
    expected = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    assert record.contributions.tobytes() == expected.tobytes()


def test_any_layer_that_scales_its_groups_can_take_part() -> None:
    class Channels(PopulationLayer):
        def __init__(self) -> None:
            super().__init__(3, group_axis=1)
            self.convolution = nn.Conv2d(1, 3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scaled(self.convolution(x))

    torch.manual_seed(0)
    model = nn.Sequential(Channels(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).double()
    x = torch.randn(8, 1, 5, 5, dtype=torch.float64)
    model(x)
    y = torch.randint(0, 2, (8,))
    expected = np.abs(autograd(model, x, y))
    np.testing.assert_allclose(contribution(model, Contribution(), (x, y)), expected, rtol=1e-12)


# Losses that contain gradients


def penalised(model: nn.Module, x: torch.Tensor, y: torch.Tensor, leaves: Any) -> torch.Tensor:
    """Return a loss with the gradient by the inputs in it."""
    x = x.clone().requires_grad_()
    out = torch.func.functional_call(model, leaves, (x,))
    (slope,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    return nn.functional.cross_entropy(out, y) + slope.square().sum()


def test_a_loss_that_contains_gradients_is_measured_whole() -> None:
    model, (x, y) = network().double(), batch()
    x = x.double()
    leaves = {name: buffer.clone().requires_grad_() for name, buffer in model.named_buffers()}
    loss = penalised(model, x, y, leaves)
    expected = torch.cat(torch.autograd.grad(loss, list(leaves.values()))).abs().numpy()
    selector = selected(model, Contribution())
    penalised(model, x, y, {}).backward()
    selector.step()
    assert selector.contribution is not None
    np.testing.assert_allclose(selector.contribution.numpy(), expected, rtol=1e-11)
    assert not np.allclose(expected, np.abs(autograd(model, x, y)), rtol=0.1)


@pytest.mark.parametrize("how", ["penalty", "functional"])
def test_single_samples_of_a_loss_that_contains_gradients_are_refused_by_name(how: str) -> None:
    model = network()
    selector = selected(model, Contribution(per_sample=True))
    x, y = batch()
    if how == "penalty":
        penalised(model, x, y, {}).backward()
    else:
        weights = dict(model.named_parameters())
        torch.func.grad(lambda w: torch.func.functional_call(model, w, (x,)).sum())(weights)
        backward(model, x, y)
    before = selector.masses
    with pytest.raises(RuntimeError, match=r"^hidden1 saw a backward pass with create_graph=True"):
        selector.step()
    assert torch.equal(selector.masses, before)


@pytest.mark.parametrize("signal", [Contribution(), Contribution(per_sample=True)], ids=repr)
@pytest.mark.parametrize("second", [False, True])
def test_gradients_for_something_else_can_be_forgotten(second: bool, signal: Signal) -> None:
    model = network()
    expected = contribution(network(), signal, batch())
    selector = selected(model, signal)
    x, y = batch()
    (slope,) = torch.autograd.grad(model(x.requires_grad_()).sum(), x, create_graph=second)
    if second:
        slope.sum().backward()
    selector.clear()
    backward(model, x.detach(), y)
    selector.step()
    assert selector.contribution is not None and np.array_equal(selector.contribution.numpy(), expected)


# Batches that are not finite

SIGNALS = [
    Contribution(),
    Contribution(per_sample=True),
    Contribution(smoothing=0.7, relative=True),
    Contribution(memory=0.5, relative="zscore"),
    Contribution(memory=0.5, smoothing=0.5, relative="max"),
    Taylor(smoothing=0.5),
]


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("signal", SIGNALS, ids=repr)
def test_a_batch_that_is_not_finite_leaves_no_trace(signal: Signal, value: float, scope: Any) -> None:
    dynamics = ed.SelectionMutation(0.1, target=1.0, signal_clip=0.1)
    selectors = [Selector(network(), dynamics, signal, 0.1, scope=scope) for _ in range(2)]
    spoilt, whole = (selector.layers for selector in selectors)
    x, y = batch()
    bad = x.clone()
    bad[3, 2] = value
    for k in range(5):
        for selector, layers in zip(selectors, (spoilt, whole), strict=True):
            model = nn.Sequential(layers[0], nn.ReLU(), layers[1])
            if k in (0, 2) and layers is spoilt:  # the very first one, where nothing is remembered, too
                nn.functional.cross_entropy(model(bad), y).backward()
                before = selector.masses
                selector.step()
                assert selector.contribution is not None and bool(selector.contribution.isnan().all())
                assert torch.equal(selector.masses, before)
            nn.functional.cross_entropy(model(batch(k)[0]), y).backward()
            selector.step()
        assert torch.equal(selectors[0].masses, selectors[1].masses)
    assert [int(selector.skipped) for selector in selectors] == [2, 0]
    assert [selector.steps for selector in selectors] == [7, 5]
    states = [selector.state_dict() for selector in selectors]
    assert torch.equal(states[0].pop("skipped"), torch.tensor(2)) and states[1].pop("skipped") == 0
    for name in ("remembered", "smoothed", "weight"):
        one, other = (state[name] for state in states)
        assert one is other is None or np.array_equal(one, other)


def test_a_step_reads_no_value_back_from_the_device() -> None:
    with torch.device("meta"):  # where there are none
        model = population_mlp(WIDTHS)
        x, y = torch.ones(2, WIDTHS[0]), torch.zeros(2, dtype=torch.int64)
    for dynamics in (ed.NormalizedGrowth(9.0, 0.1), ed.SelectionMutation(0.1, target=1.0)):
        selector = Selector(model, dynamics, Contribution(memory=0.5, smoothing=0.5, relative=True), 0.1)
        recorder = Recorder(selector)
        for _ in range(2):
            backward(model, x, y)
            selector.step()
        recorder.stop()
        assert selector.skipped.device.type == selector.masses.device.type == "meta"


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("index", [0, 2])
def test_fitness_that_is_not_finite_counts_for_living_groups_alone(index: int) -> None:
    model = network()
    model[0].masses[2] = 0.0
    added = torch.zeros(GROUPS, dtype=torch.float64)
    added[index] = -torch.inf  # a user's dynamics may turn it into a mass of 0
    grows = ed.Selection(lambda masses, fitness: fitness)
    selector = Selector(
        model, grows, Magnitude(), 0.1, landscape=lambda c: ed.landscapes.LinearDecay(c + added, decay=0.0)
    )
    before = selector.masses
    selector.step()
    assert int(selector.skipped) == (index == 0)
    assert torch.equal(selector.masses, before) == (index == 0)


def test_the_count_of_skipped_steps_is_saved_and_absent_from_older_states() -> None:
    signal = Contribution(smoothing=0.5)
    model = network()
    one, two = selected(model, signal), selected(network(), signal)
    x, y = batch()
    backward(model, x * torch.nan, y)
    one.step()
    two.load_state_dict(one.state_dict())
    assert int(two.skipped) == 1 and two.steps == 1
    older = {name: value for name, value in one.state_dict().items() if name != "skipped"}
    two.load_state_dict(older)
    assert int(two.skipped) == 0
    for name, value in (
        ("smoothed", torch.full((GROUPS,), torch.nan)),
        ("remembered", torch.zeros(2)),
        ("remembered", "text"),
        ("steps", -1),
        ("steps", 1.5),
        ("skipped", -1),
        ("weight", float("nan")),
    ):
        with pytest.raises(ValueError, match=f"{name} of the state"):
            two.load_state_dict({**one.state_dict(), name: value})
    assert two.steps == 1 and int(two.skipped) == 0


# Records of what does not follow


@pytest.mark.parametrize("change", ["prune", "prune first", "step_size", "dynamics", "landscape", "state"])
def test_a_record_notices_what_else_changes_masses_or_rule(change: str) -> None:
    model = network()
    selector = selected(model, Magnitude())
    recorder = Recorder(selector)
    state = selector.state_dict()
    replaced: dict[str, Any] = {
        "step_size": 2e-3,
        "dynamics": ed.NormalizedGrowth(),
        "landscape": ed.landscapes.Constant,
    }
    for k in range(4):
        if change == "prune" and k == 2:
            prune(model, 0.5)
        elif change == "prune first" and k == 0:
            model[2].masses[0] += 1e-15
        elif change == "state" and k == 2:
            selector.load_state_dict(state)
        elif change in ("step_size", "dynamics", "landscape") and k == 2:
            setattr(selector, change, replaced[change])
        selector.step()
    message = {
        "prune": "masses were changed by something else before step 2",
        "prune first": "masses were changed by something else before step 0",
        "step_size": "step_size of the selector is 0.002 after step 2, not 0.001",
        "state": "steps of the selector is 1 after step 2, not 3",
    }.get(change, f"{change} of the selector is .* after step 2, not")
    with pytest.raises(ValueError, match=message):
        recorder.record()
    assert Recorder(selector).record().steps == 0


def test_a_record_that_ends_before_the_change_stays_good() -> None:
    model = network()
    selector = selected(model, Magnitude())
    recorder = Recorder(selector)
    selector.step()
    recorder.stop()
    prune(model, 0.5)
    selector.step_size = 0.1
    selector.step()
    assert recorder.record().steps == 1 and recorder.record().step_size == 1e-3


def test_a_skipped_step_is_in_the_record_and_cannot_be_replayed() -> None:
    model = network()
    selector = selected(model, Contribution())
    recorder = Recorder(selector)
    for k in range(3):
        x, y = batch(k)
        backward(model, x * (torch.nan if k == 1 else 1.0), y)
        selector.step()
    record = recorder.record()
    assert np.isnan(record.contributions).all(axis=1).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="step 1 of the record was skipped, as 1 of 3 were"):
        record.landscape(1e-3)
