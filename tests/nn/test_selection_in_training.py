"""Selection as people train: signed fitness, extinction, accumulation, precision, compilation."""

from __future__ import annotations

import contextlib
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import evodyn as ed
import nn_bridge as nb
from nn_bridge.layers import PopulationLayer

pytestmark = pytest.mark.nn

GROUPS = 9
PER_SAMPLE = nb.Contribution(per_sample=True)


def network() -> Any:
    model = nb.population_mlp((6, 5, 4, 3), seed=1).double()
    for layer in nb.population_layers(model):
        layer.masses.uniform_(0.2, 2.0, generator=torch.Generator().manual_seed(2))
    return model


def batch(seed: int = 0, samples: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, 6, generator=draw, dtype=torch.float64)
    return x, torch.randint(0, 3, (samples,), generator=draw)


def loss_of(model: nn.Module, *data: torch.Tensor) -> torch.Tensor:
    x, y = data or batch()
    return nn.functional.cross_entropy(model(x), y)


def gradient_by_masses(model: nn.Module, *data: torch.Tensor) -> torch.Tensor:
    """Return ∂L/∂p with the masses as leaves of the graph, which the bridge never makes them."""
    x, y = data or batch()
    leaves = {name: buffer.clone().requires_grad_() for name, buffer in model.named_buffers()}
    loss = nn.functional.cross_entropy(torch.func.functional_call(model, leaves, (x,)), y)
    return torch.cat(torch.autograd.grad(loss, list(leaves.values())))


def raw(selector: nb.Selector, scale: Any = None) -> torch.Tensor:
    """Return the contributions of one more step."""
    selector.step(scale)
    assert selector.contribution is not None
    return selector.contribution


def selected(model: nn.Module, signal: nb.Signal | None = None, **options: Any) -> nb.Selector:
    return nb.Selector(model, ed.Replicator(), signal or nb.Benefit(), 1e-3, **options)


def only_the_benefit(c: torch.Tensor) -> Any:
    return ed.landscapes.Constant(c)


# Signed fitness


def test_the_benefit_is_the_gradient_with_its_sign() -> None:
    model = network()
    expected = -gradient_by_masses(model)
    selector = selected(model)
    loss_of(model).backward()
    torch.testing.assert_close(raw(selector), expected, rtol=1e-12, atol=0)
    assert (expected < 0).any() and (expected > 0).any()


@pytest.mark.parametrize("scheme", ["euler", "exponential"])
def test_the_loss_falls_by_the_variance_of_benefit(scheme: Any) -> None:
    # Fisher's theorem for the replicator, P·Var(φ); for growth by fitness itself Σ p φ².
    for grows in (False, True):
        model, step = network(), 1e-4
        dynamics = ed.Selection(lambda masses, fitness: fitness) if grows else ed.Replicator()
        selector = nb.Selector(model, dynamics, nb.Benefit(), step, landscape=only_the_benefit, scheme=scheme)
        before, masses = loss_of(model), selector.masses
        before.backward()
        phi = raw(selector)
        mean = 0.0 if grows else (masses * phi).sum() / masses.sum()
        expected = -step * float((masses * (phi - mean) ** 2).sum())
        assert float((loss_of(model) - before).detach()) == pytest.approx(expected, rel=1e-3)


def test_smoothing_of_the_benefit_keeps_its_sign() -> None:
    model = network()
    selector = selected(model, nb.Benefit(smoothing=0.5))
    seen = []
    for k in range(2):
        seen.append(-gradient_by_masses(model, *batch(k)))
        loss_of(model, *batch(k)).backward()
        smooth = raw(selector)
    torch.testing.assert_close(smooth, (seen[0] + 2 * seen[1]) / 3)


# The map: its scheme, and extinction


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("scheme", ["euler", "exponential"])
@pytest.mark.parametrize(
    "dynamics",
    [ed.Selection(lambda p, f: f), ed.SelectionMutation(1e-3, target=1.0)],
    ids=["own", "mutation"],
)
def test_extinction_in_a_network_is_that_of_iterate_bit_for_bit(
    dynamics: ed.Dynamics, scheme: Any, scope: Any
) -> None:
    model, extinction = network(), ed.Extinction(0.3, "absorb")
    selector = nb.Selector(
        model,
        dynamics,
        nb.Benefit(smoothing=0.5),
        20.0,
        landscape=lambda c: ed.landscapes.LinearDecay(c - 0.005, 1e-3),
        scope=scope,
        scheme=scheme,
        extinction=extinction,
    )
    recorder = nb.Recorder(selector)
    steps, living = 30, []
    for k in range(steps):
        loss_of(model, *batch(k)).backward()
        selector.step()
        living.append(selector.masses > 0)
    record = recorder.record()
    shifted = ed.landscapes.Recorded(record.times, record.contributions - 0.005, 1e-3)
    run = ed.iterate(
        ed.Populations(dynamics, (5, 4)) if scope == "layer" else dynamics,
        shifted,
        record.initial_masses,
        steps,
        20.0,
        scheme=scheme,
        extinction=extinction,
    )
    assert run.masses[-1].tobytes() == selector.masses.numpy().tobytes()
    died = ~living[-1]
    assert 0 < int(died.sum()) < GROUPS and np.array_equal(run.extinct_at_end, died.numpy())
    assert all(bool((after <= before).all()) for before, after in itertools.pairwise(living))


def test_what_is_pruned_stays_pruned_under_mutation_where_extinction_is_for_good() -> None:
    for extinction in (None, ed.Extinction(1e-6, "absorb")):
        model = network()
        model[0].masses[2] = 0.0
        revives = pytest.warns(UserWarning, match="groups of mass 0 come back by mutation")
        with revives if extinction is None else contextlib.nullcontext():
            selector = nb.Selector(
                model, ed.SelectionMutation(0.1, target=1.0), nb.Magnitude(), 0.1, extinction=extinction
            )
        selector.step()
        assert bool(selector.masses[2] == 0) == (extinction is not None)


@pytest.mark.parametrize("policy", ["observe", "stop"])
def test_other_policies_of_extinction_are_refused(policy: Any) -> None:
    with pytest.raises(ValueError, match=r"extinction is .* expected evodyn\.Extinction"):
        selected(network(), extinction=ed.Extinction(0.1, policy))
    with pytest.raises(ValueError, match="scheme is 'heun'"):
        selected(network(), scheme="heun")


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("scheme", ["euler", "exponential"])
def test_extinction_and_prices_read_no_value_back_from_the_device(scheme: Any, scope: Any) -> None:
    with torch.device("meta"):  # where there are none
        model = nb.population_mlp((6, 5, 4, 3))
        x, y, scale = torch.ones(2, 6), torch.zeros(2, dtype=torch.int64), torch.tensor(2.0)
    selector = nb.Selector(
        model,
        ed.SelectionMutation(0.1, target=1.0),
        nb.Benefit(smoothing=0.5),
        0.1,
        landscape=nb.Priced(nb.Triangle(0.1, 0.0, 1.0), costs=np.ones(GROUPS)),
        scope=scope,
        scheme=scheme,
        extinction=ed.Extinction(0.01, "absorb"),
    )
    for _ in range(2):
        loss_of(model, x, y).backward()
        selector.step(scale)
    assert selector.masses.device.type == selector.skipped.device.type == "meta"


# Kinds of groups


class Halves(PopulationLayer):
    """Pairs of neurons, which are another kind of group."""

    kind = "pair"

    def __init__(self, features: int) -> None:
        super().__init__(features // 2, group_axis=-2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scaled(x.unflatten(-1, (self.groups, 2))).flatten(-2)


@pytest.mark.parametrize("scheme", ["euler", "exponential"])
@pytest.mark.parametrize("relative", [False, "zscore"])
def test_groups_compete_with_those_of_their_kind(relative: Any, scheme: Any) -> None:
    torch.manual_seed(0)
    parts = [nb.PopulationLinear(6, 4), Halves(4), nb.PopulationLinear(4, 2), Halves(2)]
    model = nn.Sequential(*parts, nn.Linear(2, 3)).double()
    signal = nb.Contribution(relative=relative)
    selector = nb.Selector(model, ed.Replicator(), signal, 0.1, landscape=only_the_benefit, scheme=scheme)
    assert selector.scope == "kind" and selector.sizes == (4, 2, 2, 1)
    expected = gradient_by_masses(model).abs()
    loss_of(model).backward()
    selector.step()
    kinds = torch.tensor([0, 0, 0, 0, 1, 1, 0, 0, 1])
    assert selector.contribution is not None and selector.order is not None
    assert torch.equal(selector.order, kinds.argsort(stable=True))
    for kind in (0, 1):
        values = expected[kinds == kind]
        if relative:
            values = (values - values.mean()) / values.std(correction=0)
        torch.testing.assert_close(selector.contribution[kinds == kind], values)
        masses = ed.Replicator().step(np.ones(len(values)), values.numpy(), 0.1, scheme=scheme)
        np.testing.assert_allclose(selector.masses[kinds == kind], masses, rtol=1e-12)
        assert np.ptp(masses) > 1e-4
    assert selected(network()).scope == "global"
    one_after_another = nn.Sequential(parts[0], parts[2], parts[1], parts[3])
    assert selected(one_after_another).order is None


# Right however the gradient comes about


@pytest.mark.parametrize("signal", [nb.Benefit(), PER_SAMPLE], ids=repr)
def test_gradients_add_up_over_minibatches_whatever_is_done_to_those_of_the_weights(signal: Any) -> None:
    model = network()
    selector = selected(model, signal)
    whole = batch(samples=16)
    loss_of(model, *whole).backward()
    expected = raw(selector)
    model = network()
    selector = selected(model, signal)
    for x, y in zip(whole[0].split(4), whole[1].split(4), strict=True):
        (loss_of(model, x, y) / 4).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
        model.zero_grad()
    torch.testing.assert_close(raw(selector), expected)


@pytest.mark.parametrize("signal", [nb.Benefit(), PER_SAMPLE], ids=repr)
@pytest.mark.parametrize("scale", [2.0**16, torch.tensor(2.0**16)], ids=["float", "tensor"])
def test_the_loss_scale_is_taken_out(signal: Any, scale: Any) -> None:
    model = network()
    selector = selected(model, signal)
    loss_of(model).backward()
    expected = raw(selector)
    selector = selected(network(), signal)
    (loss_of(nn.Sequential(*_chain(selector, network()))) * 2.0**16).backward()
    assert torch.equal(raw(selector, scale), expected)


def _chain(selector: nb.Selector, model: Any) -> list[nn.Module]:
    """Return the modules of the network that the selector's layers are of."""
    return [selector.layers[0], nn.ReLU(), selector.layers[1], nn.ReLU(), model[-1]]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), "a"])
def test_an_impossible_loss_scale_is_refused(scale: Any) -> None:
    selector = selected(network())
    with pytest.raises(ValueError, match="scale is"):
        selector.step(scale)


@pytest.mark.parametrize("signal", [nb.Benefit(), PER_SAMPLE], ids=repr)
def test_a_scaler_that_overflows_skips_weights_and_masses_and_goes_on(signal: Any) -> None:
    model = network().float()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**30)
    selector = selected(model, signal)
    x, y = batch()
    skipped = []
    for _ in range(24):
        before = selector.masses
        with torch.autocast("cpu", torch.float16):
            loss = nn.functional.cross_entropy(model(x.float()).float(), y)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        selector.step(scaler.get_scale())
        scaler.update()
        skipped.append(bool(torch.equal(before, selector.masses)))
        assert bool(torch.isfinite(selector.masses).all())
    taken = skipped.index(False)
    assert taken > 0 and int(selector.skipped) >= taken and not skipped[-1]


@pytest.mark.parametrize("signal", [nb.Benefit(), PER_SAMPLE], ids=repr)
def test_signals_of_a_network_in_half_precision_are_summed_in_single_precision(signal: Any) -> None:
    model, (x, y) = network(), batch(samples=64)
    selector = selected(model, signal)
    loss_of(model, x, y).backward()
    exact = raw(selector)
    model = network().float()
    selector = selected(model, signal)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(x.float())
    nn.functional.cross_entropy(out.float(), y).backward()
    found = raw(selector)
    assert found.dtype == torch.float32
    # Rounding errors of single products are 2⁻⁹ and average out; a sum in bfloat16 is itself off by 2⁻⁸.
    torch.testing.assert_close(found.double(), exact, rtol=0.05, atol=float(exact.abs().max()) * 0.01)
    assert int((found.bfloat16().float() != found).sum()) > GROUPS / 2


class Recomputed(nn.Module):
    def __init__(self, model: nn.Module, *, reentrant: bool) -> None:
        super().__init__()
        self.model, self.reentrant = model, reentrant

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = checkpoint(self.model, x, use_reentrant=self.reentrant)
        return out


@pytest.mark.parametrize("signal", [nb.Benefit(), PER_SAMPLE], ids=repr)
@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputed_activations_are_seen_once(signal: Any, reentrant: bool) -> None:
    model = network()
    selector = selected(model, signal)
    loss_of(model).backward()
    expected = raw(selector)
    model = Recomputed(network(), reentrant=reentrant)
    selector = selected(model, signal)
    x, y = batch()
    loss_of(model, x.requires_grad_(), y).backward()
    torch.testing.assert_close(raw(selector), expected, rtol=1e-12, atol=0)


def test_a_layer_that_is_used_twice_counts_both_uses() -> None:
    layer = nb.PopulationLinear(6, 6, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(layer, nn.Tanh(), layer, nn.Linear(6, 3)).double()
    expected = -gradient_by_masses(model)
    selector = selected(model)
    assert selector.sizes == (6,)
    loss_of(model).backward()
    torch.testing.assert_close(raw(selector), expected, rtol=1e-12, atol=0)


def test_a_network_that_moves_to_another_precision_keeps_its_selector() -> None:
    model = network().float()
    selector = selected(model)
    expected = -gradient_by_masses(network())
    model.double().load_state_dict(network().state_dict())
    loss_of(model).backward()
    torch.testing.assert_close(raw(selector), expected, rtol=1e-12, atol=0)


@pytest.mark.slow
def test_a_compiled_network_has_one_graph_and_the_same_signal() -> None:
    model = network()
    expected = -gradient_by_masses(model)
    selector = selected(model)
    compiled: Any = torch.compile(model, backend="aot_eager", fullgraph=True)
    loss_of(compiled).backward()
    torch.testing.assert_close(raw(selector), expected, rtol=1e-12, atol=0)
    expected = -gradient_by_masses(model)  # at the masses after the step, which the graph reads
    loss_of(compiled).backward()
    torch.testing.assert_close(raw(selector), expected, rtol=1e-12, atol=0)


# Steps that do not count


def test_the_end_of_an_epoch_tells_of_skipped_steps(caplog: pytest.LogCaptureFixture) -> None:
    model = network()
    selector, optimizer = selected(model), torch.optim.SGD(model.parameters(), lr=0.0)
    x, y = batch(samples=12)
    x[11] = torch.nan
    nb.train_epoch(model, x[:8], y[:8], optimizer, selector, batch_size=4)
    assert not caplog.messages
    nb.train_epoch(model, x, y, optimizer, selector, batch_size=4)
    assert int(selector.skipped) == 1
    (message,) = caplog.messages
    assert message.startswith("1 of 3 steps of the selector were skipped")
