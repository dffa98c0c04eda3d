"""Whether pruning heuristics are special choices of fitness, and relative fitness suppresses redundancy.

Section 9 of the paper says both. A network learns MNIST under the replicator with a heuristic's score as the
fitness; its final masses are ranked against the scores at the end, and against their means over time, of
which theory makes ln p a monotone function. And some of its neurons are made twins, with equal incoming
weights: whether they lose mass to the others more than the same neurons do when they are no twins.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer
import xarray as xr
from rich.table import Table
from scipy.stats import spearmanr
from torch import nn

import _shared
import evodyn as ed
import nn_bridge as nb
from _shared import Row
from evodyn.analysis.intervals import interval
from evodyn.core.arrays import FloatArray
from evodyn.core.labels import coordinates, labelled
from evodyn.model.fitness import LandscapeFunction

SCHEMA = 1
SIGNALS: dict[str, nb.Signal] = {
    "magnitude": nb.Magnitude(relative=True),
    "Taylor": nb.Taylor(relative=True),
    "gradient": nb.Contribution(relative=True),
    "benefit": nb.Benefit(),
}
SCORES = ("own, mean over time", "own, at the end", "magnitude", "Taylor", "gradient")
STEP_SIZES = {"magnitude": 5e-3, "Taylor": 5e-3, "gradient": 5e-3, "benefit": 1.0}
"""η_p: larger steps with the magnitude let a few neurons take all mass, and training stops."""
TWINS = ("gradient", "benefit", "gradient, redundancy priced")
PRICED = 0.5
"""κ of the redundancy in the positive control, in units of the mean contribution."""


@dataclasses.dataclass(frozen=True)
class Training:
    """One training with a score as the fitness."""

    signal: str
    seed: int = 0
    twins: bool = False
    priced: bool = False
    """Whether what a twin adds to the other is taken off its fitness, as a positive control."""
    widths: tuple[int, ...] = (784, 64, 32, 10)
    pairs: int = 8
    samples: int = 4000
    epochs: int = 4
    batch: int = 64

    def landscape(self, contribution: torch.Tensor) -> LandscapeFunction:
        """Return the fitness of one step: the score, less redundancy where that is priced."""
        if not self.priced:
            return ed.landscapes.Constant(contribution)
        partner = torch.arange(len(contribution))
        partner[: self.pairs], partner[self.pairs : 2 * self.pairs] = (
            partner[self.pairs : 2 * self.pairs].clone(),
            partner[: self.pairs].clone(),
        )
        paired = torch.arange(len(contribution)) < 2 * self.pairs
        return lambda time, masses: contribution - PRICED * masses[partner] * paired


def trained(point: Training) -> xr.Dataset:
    """Train, and return the final masses and all scores."""
    torch.set_num_threads(1)
    data = nb.load_mnist().first(point.samples, 1)
    model = nb.population_mlp(point.widths, seed=point.seed)
    if point.twins:
        first: Any = model[0]
        with torch.no_grad():
            for parameter in (first.weight, first.bias):
                parameter[point.pairs : 2 * point.pairs] = parameter[: point.pairs]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    selector = nb.Selector(
        model,
        ed.Replicator(),
        SIGNALS[point.signal],
        STEP_SIZES[point.signal],
        landscape=point.landscape,
        scheme="exponential",
        scope="layer",
    )
    recorder = nb.Recorder(selector)
    order = torch.Generator().manual_seed(point.seed)
    for _ in range(point.epochs):
        samples = nb.shuffled(data.train_images, data.train_labels, order)
        nb.train_epoch(model, *samples, optimizer, selector, batch_size=point.batch)
    recorder.stop()
    record = recorder.record().contributions.astype(float)
    batch = data.train_images[:1024], data.train_labels[:1024]
    ends = {name: score(model, *batch, signal) for name, signal in SIGNALS.items()}
    values = [record.mean(0), ends[point.signal], *(ends[name] for name in SCORES[2:])]
    layer = np.repeat(np.arange(len(selector.sizes)), selector.sizes)
    return xr.Dataset(
        labelled("group", {"mass": (selector.masses.numpy(), "mass"), "layer": (layer, "layer")})
        | labelled(("score", "group"), {"value": (np.array(values), "score")})
    )


def score(model: nn.Module, x: torch.Tensor, y: torch.Tensor, signal: nb.Signal) -> FloatArray:
    """Return what a signal measures on one large batch; the masses stay as they are."""
    frozen = ed.Selection(lambda masses, fitness: 0 * fitness)
    selector = nb.Selector(model, frozen, signal, 1.0, landscape=ed.landscapes.Constant, scope="layer")
    loss: Any = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    recorder = nb.Recorder(selector)
    selector.step()
    (found,) = recorder.record().contributions
    return np.asarray(found, dtype=float)


def correlations(data: xr.Dataset) -> list[float]:
    """Return the rank correlation of the final masses with every score, mean over the layers."""
    layers = data["layer"].values
    found = []
    for values in data["value"].values:
        within = [layers == k for k in np.unique(layers)]
        found.append(float(np.mean([spearmanr(data["mass"].values[w], values[w]).statistic for w in within])))
    return found


def gained(twins: xr.Dataset, control: xr.Dataset, pairs: int) -> float:
    """Return by how much twins gained ln p on the others of their layer, less the same neurons untwinned."""

    def lead(data: xr.Dataset) -> float:
        first = np.log(data["mass"].values[data["layer"].values == 0])
        return float(first[: 2 * pairs].mean() - first[2 * pairs :].mean())

    return lead(twins) - lead(control)


def main(
    study: _shared.Study,
    seed: _shared.Seed = 0,
    seeds: Annotated[int, typer.Option(min=2, max=_shared.MOST_SEEDS, help="Networks for each fitness.")] = 6,
) -> None:
    """Rank masses against pruning heuristics, and measure what relative fitness does to twins.

    Writes results/heuristics/heuristics.nc and heuristics.csv, means with their 95 % intervals.
    """
    small: Row = {"samples": 512, "epochs": 1, "widths": (784, 24, 12, 10)} if study.smoke else {}
    seeds = min(seeds, 2) if study.smoke else seeds
    numbers = range(seed, seed + seeds)
    ranked = [Training(signal, number, **small) for signal in SIGNALS for number in numbers]
    paired = [
        Training(name.split(",")[0], number, twins=twins, priced=twins and "priced" in name, **small)
        for name in TWINS
        for number in numbers
        for twins in (True, False)
    ]
    points = list(dict.fromkeys([*ranked, *paired]))
    found = dict(zip(points, study.sweep("Training", trained, points), strict=True))
    ranks = np.array([correlations(found[point]) for point in ranked]).reshape(len(SIGNALS), seeds, -1)
    losses = np.array(
        [
            gained(found[one], found[other], one.pairs)
            for one, other in zip(paired[::2], paired[1::2], strict=True)
        ]
    ).reshape(len(TWINS), seeds)
    rows = [
        row_of("rank", f"{signal}: {name}", ranks[i, :, j])
        for i, signal in enumerate(SIGNALS)
        for j, name in enumerate(SCORES)
    ]
    rows += [row_of("twins", name, losses[i]) for i, name in enumerate(TWINS)]
    data = xr.Dataset(
        labelled(("signal", "seed", "score"), {"rank_correlation": (ranks, "of masses with scores")})
        | labelled(("twins", "seed"), {"ln_mass_of_twins": (losses, "twins less controls")}),
        coordinates(
            signal=(list(SIGNALS), "fitness"),
            score=(list(SCORES), "score"),
            twins=(list(TWINS), "fitness"),
            seed=(list(numbers), "seed"),
        ),
    )
    study.save(data, rows, {"schema": SCHEMA, "training": dataclasses.asdict(ranked[0]), "seeds": seeds})
    study.show(table(rows), "")


def row_of(part: str, quantity: str, values: Sequence[float] | FloatArray) -> Row:
    """Return a mean over seeds with the interval of the mean."""
    found = interval(values)
    low, high = found.of_mean
    return {"part": part, "quantity": quantity, "mean": found.mean, "low": low, "high": high}


def table(rows: Sequence[Row]) -> Table:
    """Return the table of all means."""
    columns = {
        "": "{part}",
        "fitness: score": "{quantity}",
        "mean": "{mean:.3f}",
        "from": "{low:.3f}",
        "to": "{high:.3f}",
    }
    return _shared.row_table("Heuristics as fitness, and twins", columns, rows, left=2, merge=True)


if __name__ == "__main__":
    _shared.command_line(main)()
