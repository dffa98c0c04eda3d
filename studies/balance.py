"""Whether signed selection comes to rest where theory says: c p = λ‖w_in‖² = λ‖w_out‖² for every neuron.

A small network at constant price and rate, trained with all samples at once until nothing moves any more.
With weight decay on both sides of a neuron its penalty is then 2√(λ c m) in its effective strength m; with
decay on the incoming side alone, the other fixed, it is (3/2) λ^⅓ (c m)^⅔.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated

import numpy as np
import torch
import typer
import xarray as xr
from torch import nn

import _shared
import evodyn as ed
import nn_bridge as nb
from _shared import Row
from evodyn.core.arrays import Array, FloatArray
from evodyn.core.labels import coordinates, labelled

SCHEMA = 1
SIDES = {"paid": "c p", "incoming": "λ‖w_in‖²", "outgoing": "λ‖w_out‖²"}


def by_fitness(masses: Array, fitness: Array) -> Array:
    """Grow by fitness itself (Eq. 5)."""
    return fitness


@dataclasses.dataclass(frozen=True)
class Rest:
    """A small network at constant price and rate, trained with all samples at once until it rests."""

    one_sided: bool = False
    """Weight decay on the incoming weights alone, the outgoing ones held fixed."""
    seed: int = 0
    samples: int = 400
    steps: int = 40_000
    learning_rate: float = 0.1
    weight_decay: float = 1e-3
    price: float = 5e-3
    step_size: float = 0.3
    threshold: float = 1e-2
    checks: int = 20

    @property
    def widths(self) -> tuple[int, ...]:
        """One hidden layer where the outgoing weights are fixed, else two."""
        return (49, 32, 10) if self.one_sided else (49, 24, 16, 10)


def at_rest(point: Rest) -> xr.Dataset:
    """Return the balance of every neuron along the way to rest."""
    torch.set_num_threads(1)
    data = nb.load_mnist().first(point.samples, 1)
    x = nn.functional.avg_pool2d(data.train_images.view(-1, 1, 28, 28), 4).flatten(1).double()
    x = (x - x.mean()) / x.std()
    model = nb.population_mlp(point.widths, seed=point.seed).double()
    if point.one_sided:
        model.get_submodule("output").requires_grad_(False)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(
        learning, lr=point.learning_rate, momentum=0.9, weight_decay=point.weight_decay
    )
    selector = nb.Selector(
        model,
        ed.Selection(by_fitness),
        nb.Benefit(),
        point.step_size,
        landscape=nb.Priced(point.price),
        scheme="exponential",
        extinction=ed.Extinction(point.threshold, "absorb"),
    )
    every = point.steps // point.checks
    sides: list[list[FloatArray]] = []
    for step in range(every * point.checks + 1):
        if step % every == 0:
            found = nb.balance(model, point.price, point.weight_decay)
            sides.append([found.masses, found.paid, found.incoming, found.outgoing])
        nb.train_epoch(model, x, data.train_labels, optimizer, selector, batch_size=point.samples)
    names = {"mass": "mass"} | SIDES
    described = {
        key: (values, text, "loss")
        for (key, text), values in zip(names.items(), np.array(sides).swapaxes(0, 1), strict=True)
    }
    return xr.Dataset(
        labelled(("check", "group"), described),
        coordinates(check=(every * np.arange(point.checks + 1), "steps so far")),
    )


def rest_rows(data: xr.Dataset, point: Rest) -> list[Row]:
    """Return the balance and the penalty of every living neuron at rest against theory."""
    last = data.isel(check=-1)
    balance = nb.Balance(*(last[name].values for name in ("mass", "paid", "incoming", "outgoing")))
    living = balance.masses > 0
    strength, paid = paid_at(balance, point)
    theory = nb.penalty(strength, point.price, point.weight_decay, one_sided=point.one_sided)
    part = "one side" if point.one_sided else "both sides"
    slope = np.polyfit(np.log(strength), np.log(paid), 1)[0]
    sides = [balance.incoming] if point.one_sided else [balance.incoming, balance.outgoing]
    ratio = max(float(np.abs(side[living] / balance.paid[living] - 1).max()) for side in sides)
    return [
        _shared.compared(0.0, ratio, part=part, quantity="c p against λ‖w‖², worst neuron"),
        _shared.compared(
            2 / 3 if point.one_sided else 0.5, float(slope), part=part, quantity="power of the penalty in m"
        ),
        _shared.compared(
            1.0, float((paid / theory).max()), part=part, quantity="penalty over the least, worst"
        ),
        {
            "part": part,
            "quantity": f"living of {len(living)}",
            "theory": np.nan,
            "simulation": float(living.sum()),
            "difference": np.nan,
        },
    ]


def paid_at(balance: nb.Balance, point: Rest) -> tuple[FloatArray, FloatArray]:
    """Return effective strength and penalty of the living."""
    living = balance.masses > 0
    p, incoming = balance.masses[living], balance.incoming[living]
    if point.one_sided:
        return p * np.sqrt(incoming / point.weight_decay), balance.paid[living] + 0.5 * incoming
    strength = p * np.sqrt(incoming * balance.outgoing[living]) / point.weight_decay
    return strength, balance.penalty[living]


def main(
    study: _shared.Study,
    steps: Annotated[int, typer.Option(min=100, help="Steps on the way to rest.")] = 40_000,
    price: Annotated[float, typer.Option(min=0.0, help="c, for each unit of mass.")] = 5e-3,
    weight_decay: Annotated[float, typer.Option(min=0.0, help="λ.")] = 1e-3,
    seed: _shared.Seed = 0,
    seeds: Annotated[int, typer.Option(min=1, max=_shared.MOST_SEEDS, help="Networks of each kind.")] = 1,
) -> None:
    """Check the balance of every neuron, and what it pays, in networks at rest under signed selection.

    Writes results/balance/balance.nc and balance.csv, the table theory | simulation.
    """
    if study.smoke:
        steps = min(steps, 400)
    rest = Rest(seed=seed, steps=steps, price=price, weight_decay=weight_decay)
    kinds = [rest, dataclasses.replace(rest, one_sided=True)]
    points = [dataclasses.replace(kind, seed=seed + k) for kind in kinds for k in range(seeds)]
    found = study.sweep("To rest", at_rest, points)
    # The neurons of all networks of a kind stand side by side.
    both = [xr.concat(part, "group") for part in (found[:seeds], found[seeds:])]
    rows = [row for data, kind in zip(both, kinds, strict=True) for row in rest_rows(data, kind)]
    data = xr.merge([named(one, kind) for one, kind in zip(both, kinds, strict=True)])
    specification = {"schema": SCHEMA, "rest": dataclasses.asdict(rest), "seeds": seeds}
    study.save(data, rows, specification)
    study.show(_shared.comparison("At rest under signed selection", rows, digits=4), "")


def named(data: xr.Dataset, point: Rest) -> xr.Dataset:
    """Return a network's data under names that tell it from the other one's."""
    sides = "one_side" if point.one_sided else "both_sides"
    return data.rename({str(key): f"{sides}_{key}" for key in (*data.data_vars, "group")})


if __name__ == "__main__":
    _shared.command_line(main)()
