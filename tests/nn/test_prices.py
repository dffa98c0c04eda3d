"""Prices of groups: the landscape, its schedule, and costs counted by hand."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import evodyn as ed
import nn_bridge as nb

pytestmark = pytest.mark.nn


def grows(masses: Any, fitness: Any) -> Any:
    return fitness


def test_the_fitness_is_contribution_less_price_and_decay() -> None:
    contribution = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    masses = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    price = nb.Triangle(0.4, start=1.0, stop=3.0)
    fitness = nb.Priced(price, costs=[1.0, 0.0, 2.0], decay=0.1)(contribution)(1.5, masses)
    np.testing.assert_allclose(fitness, [1 - 0.2 - 0.05, 2 - 0.1, 3 - 0.4 - 0.2], rtol=1e-12)
    torch.testing.assert_close(nb.Priced(0.5)(contribution)(0.0, masses), contribution - 0.5)
    assert price.breakpoints((0.0, 9.0)) == [1.0, 2.0, 3.0]


def test_selection_by_benefit_less_price_descends_the_loss_plus_the_price_of_the_masses() -> None:
    model: Any = nb.population_mlp((6, 5, 4, 3), seed=1).double()
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(16, 6, generator=draw).double(), torch.randint(0, 3, (16,), generator=draw)
    costs, step = nb.group_costs(model, x), 1e-4
    selector = nb.Selector(
        model, ed.Selection(grows), nb.Benefit(), step, landscape=nb.Priced(0.01, costs=costs)
    )

    def objective() -> torch.Tensor:
        return nn.functional.cross_entropy(model(x), y) + 0.01 * (costs * selector.masses).sum()

    before, masses = objective(), selector.masses
    before.backward()
    selector.step()
    assert selector.contribution is not None
    phi = selector.contribution - 0.01 * costs
    expected = -step * float((masses * phi**2).sum())
    assert float((objective() - before).detach()) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("by", ["parameters", "macs"])
def test_costs_are_the_weights_that_go_with_a_group(by: Any) -> None:
    model = nb.population_mlp((7, 5, 4, 3))
    before = copy.deepcopy(model.state_dict())
    found = nb.group_costs(model, torch.ones(2, 7), by)
    bias = by == "parameters"
    expected = np.repeat([7 + bias + 4.0, 5 + bias + 3.0], (5, 4))
    np.testing.assert_allclose(found, expected / expected.mean(), rtol=1e-12)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert nb.group_costs(nb.population_mlp((7, 1, 4, 3)), torch.ones(1, 7)).tolist() == [0.0] + [1.25] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"price": -1.0}, "price is -1.0"),
        ({"price": 1.0, "costs": [1.0, -1.0]}, "costs is -1.0 at index 1"),
        ({"price": 1.0, "costs": [[1.0]]}, r"costs has shape \(1, 1\)"),
        ({"price": 1.0, "decay": -1.0}, "decay is -1.0"),
    ],
)
def test_impossible_prices_are_named(arguments: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        nb.Priced(**arguments)


def test_other_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match=r"costs has shape \(2,\); expected \(3,\)"):
        nb.Priced(1.0, costs=[1.0, 2.0])(torch.ones(3))
    with pytest.raises(ValueError, match=r"stop is 1\.0; expected a time after start"):
        nb.Triangle(1.0, start=1.0, stop=1.0)
    with pytest.raises(ValueError, match="by is 'bytes'"):
        nb.group_costs(nb.population_mlp((4, 3, 2)), torch.ones(1, 4), "bytes")  # type: ignore[arg-type]
