"""What theory says of signed selection on a network: the fall of the loss, the balance, the penalties."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn

import evodyn as ed
import nn_bridge as nb

pytestmark = pytest.mark.nn
GENERAL = ed.Selection(lambda masses, fitness: fitness)


def test_the_fall_is_fishers() -> None:
    rng = np.random.default_rng(0)
    p, phi = rng.lognormal(size=50), rng.normal(size=50)
    shares = p / p.sum()
    variance = shares @ phi**2 - (shares @ phi) ** 2
    assert nb.loss_fall(ed.Replicator(), p, phi) == pytest.approx(p.sum() * variance, rel=1e-12)
    assert nb.loss_fall(GENERAL, p, phi) == pytest.approx(p @ phi**2, rel=1e-12)
    assert nb.loss_fall(GENERAL, p, phi, fitness=phi - 0.3) == pytest.approx(p @ (phi * (phi - 0.3)))
    layers = ed.Populations(ed.Replicator(), (20, 30))
    parts = [nb.loss_fall(ed.Replicator(), p[b], phi[b]) for b in (slice(20), slice(20, 50))]
    assert nb.loss_fall(layers, p, phi) == pytest.approx(sum(parts))


@pytest.mark.parametrize("dynamics", [ed.Replicator(), GENERAL])
def test_a_step_lowers_the_loss_of_its_batch_by_as_much_to_first_order(dynamics: ed.Dynamics) -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(32, 6, generator=draw).double(), torch.randint(0, 3, (32,), generator=draw)
    errors = []
    for size in (0.1, 0.05):
        model = nb.population_mlp((6, 8, 5, 3)).double()
        selector = nb.Selector(model, dynamics, nb.Benefit(), size, landscape=ed.landscapes.Constant)
        before: Any = nn.functional.cross_entropy(model(x), y)
        before.backward()
        masses = selector.masses.numpy()
        selector.step()
        with torch.no_grad():
            fall = float(before - nn.functional.cross_entropy(model(x), y))
        assert selector.contribution is not None
        expected = size * nb.loss_fall(dynamics, masses, selector.contribution.numpy())
        assert fall == pytest.approx(expected, rel=0.1) and fall > 0
        errors.append(abs(fall - expected))
    assert 3.5 < errors[0] / errors[1] < 4.5


@pytest.mark.parametrize("one_sided", [True, False])
def test_penalties_are_the_least_cost_of_a_strength(one_sided: bool) -> None:
    cost, decay, strengths = 0.3, 0.02, np.array([0.01, 0.5, 4.0])
    least = []
    for m in strengths:

        def paid(logs: np.ndarray, m: float = m) -> float:
            a, b = np.exp(logs[0]), 1.0 if one_sided else np.exp(logs[1])
            squares = a**2 + (0.0 if one_sided else b**2)
            return float(cost * m / (a * b) + 0.5 * decay * squares)

        least.append(minimize(paid, [0.0, 0.0], method="BFGS", options={"gtol": 1e-9}).fun)
    np.testing.assert_allclose(nb.penalty(strengths, cost, decay, one_sided=one_sided), least, rtol=1e-6)


def test_a_network_at_rest_is_balanced_and_pays_the_least() -> None:
    cost, decay = 0.02, 0.01
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, generator=draw).double()
    y = (x[:, 0] * x[:, 1] > 0).long()
    model = nb.population_mlp((4, 6, 2)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3, momentum=0.9, weight_decay=decay)
    selector = nb.Selector(
        model,
        GENERAL,
        nb.Benefit(),
        0.3,
        landscape=nb.Priced(cost),
        scheme="exponential",
        extinction=ed.Extinction(1e-2, "absorb"),
    )
    assert np.nanmax(nb.balance(model, cost, decay).gap) > 1
    for _ in range(2500):
        nb.train_epoch(model, x, y, optimizer, selector, batch_size=64)
    found = nb.balance(model, cost, decay)
    living = found.masses > 0
    assert 0 < living.sum() < 6
    assert found.gap[living].max() < 5e-3 and np.isnan(found.gap[~living]).all()
    strength = np.sqrt(found.incoming * found.outgoing)[living] / decay * found.masses[living]
    np.testing.assert_allclose(found.penalty[living], nb.penalty(strength, cost, decay), rtol=1e-4)
    # A bias that is not decayed belongs to no side.
    hidden: Any = model[0]
    bare = nb.balance(model, cost, decay, decayed_bias=False)
    squares = hidden.weight.detach().square().sum(1).numpy()
    np.testing.assert_allclose(bare.incoming, decay * squares, rtol=1e-12)


@pytest.mark.parametrize(
    ("model", "cost", "told"),
    [
        (nb.population_mlp((4, 3, 2)), [1.0, 2.0], "cost has shape"),
        (nb.population_mlp((4, 3, 2)), -1.0, "cost"),
        (nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), 1.0, "0 modules with masses"),
        (nn.Sequential(nb.PopulationLinear(4, 3), nn.Linear(4, 2)), 1.0, "chain"),
        (nn.Sequential(nb.PopulationLinear(4, 3)), 1.0, "chain"),
    ],
)
def test_what_has_no_balance_is_refused(model: nn.Module, cost: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        nb.balance(model, cost, 0.1)
