"""What selection removes from networks of several architectures, and what is left of their cost.

A convolutional network, a residual network and a transformer encoder are trained on MNIST, get masses for
their filters, neurons, heads and units, and go on training with selection. Half of the groups of every layer,
those of least mass, are then removed physically, and the smaller network is trained for another epoch.

Beside that, each network is trained from the beginning for as many epochs in all: whole, by the recipe, which
lets as many groups die, and, as a control, with no more groups than the recipe left.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
import torch
import typer
import xarray as xr
from rich.table import Table
from torch import nn

import _shared
import evodyn as ed
import nn_bridge as nb
from _shared import Row
from evodyn.core import validation
from evodyn.core.labels import coordinates, labelled

SCHEMA = 1
SPARSITIES = [0.0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75]
STAGES = ["trained", "selected", "removed", "trained again"]
WAYS = ["whole", "recipe", "from scratch"]
COSTS = {
    "parameters": "weights and biases",
    "macs": "multiply-accumulates for one image",
    "latency": "shortest processor time for a batch, in seconds",
    "file_bytes": "size of the weights in a file",
}
BATCH = 64
REPEATS = 50
SIZES = ["before", "after"]
SMOKE = {"epochs": 1, "samples": 640, "tests": 200}


class Residual(nn.Module):
    """Two convolutions beside a link, which samples down where the number of channels changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        stride = 1 if inputs == outputs else 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.link: nn.Module = nn.Identity()
        if inputs != outputs:
            self.link = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the sum of the link and of what the convolutions make of x."""
        z = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(z + self.link(x))


class Rows(nn.Module):
    """A transformer encoder that reads an image as a sequence of its 28 rows."""

    def __init__(self, width: int = 32, heads: int = 4, hidden: int = 64, layers: int = 2) -> None:
        super().__init__()
        self.embedding = nn.Linear(28, width)
        self.position = nn.Parameter(0.02 * torch.randn(28, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, hidden, dropout=0.0, batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.output = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ten outputs for images of shape (samples, 28, 28)."""
        z = self.encoder(self.embedding(x) + self.position)
        return self.output(z.mean(1))  # type: ignore[no-any-return]


def lenet() -> nn.Module:
    """Return LeNet-5 with ReLU and max pooling, as it is usually built today."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        *(nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)),
    )


def resnet() -> nn.Module:
    """Return a residual network of 7 convolutions, two of which sample down along with their link."""
    return nn.Sequential(
        nn.Unflatten(1, (1, 28, 28)),
        *(nn.Conv2d(1, 16, 3, 2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(Residual(16, 16), Residual(16, 32), Residual(32, 64)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    )


def encoder() -> nn.Module:
    """Return the transformer encoder."""
    return nn.Sequential(nn.Unflatten(1, (28, 28)), Rows())


NETWORKS: dict[str, Callable[[], nn.Module]] = {"LeNet-5": lenet, "ResNet": resnet, "transformer": encoder}
NAMES = list(NETWORKS)


@dataclasses.dataclass(frozen=True)
class Case:
    """One network that is trained, selected and made smaller."""

    network: str
    seed: int
    epochs: int
    samples: int
    tests: int
    sparsity: float
    step_size: float
    decay: float


def images(samples: int, tests: int) -> nb.Dataset:
    """Return the first training and test images of MNIST."""
    return nb.load_mnist().first(samples, tests)


def case_of(case: Case) -> xr.Dataset:
    """Train a network, select, remove, train again; return accuracies, groups, masses and costs."""
    torch.set_num_threads(1)
    data = images(case.samples, case.tests)
    example, order = data.test_images[:BATCH], torch.Generator().manual_seed(case.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        model = NETWORKS[case.network]()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)

    def epoch(model: nn.Module, selector: nb.Selector | None = None) -> None:
        pairs = nb.shuffled(data.train_images, data.train_labels, order)
        nb.train_epoch(model, *pairs, optimizer, selector, batch_size=BATCH)

    def accuracy(model: nn.Module) -> float:
        return nb.accuracy(model, data.test_images, data.test_labels, batch_size=500)

    for _ in range(case.epochs):
        epoch(model)
    accuracies, whole, before = [accuracy(model)], copy.deepcopy(model), nb.cost(model, example, repeats=1)
    nb.populate(model, example[:2])
    signal = nb.Contribution(smoothing=0.9, relative=True)
    selector = nb.Selector(
        model,
        ed.Replicator(),
        signal,
        case.step_size,
        landscape=lambda c: ed.landscapes.LinearDecay(c, case.decay),
        scope="layer",
    )
    for _ in range(case.epochs):
        epoch(model, selector)
    accuracies.append(accuracy(model))
    by_mass = [accuracy(without(model, fraction)) for fraction in SPARSITIES]
    at_random = [accuracy(without(model, fraction, case.seed)) for fraction in SPARSITIES]
    masses, groups = selector.masses.numpy(), selector.masses.numel()
    report = nb.prune_to_sparsity(model, case.sparsity, scope="layer")
    small = nb.compact(model, example[:2], optimizer)
    accuracies.append(accuracy(small))
    after, times = nb.cost(small, example, repeats=1), latencies((whole, small), example)
    epoch(small)
    accuracies.append(accuracy(small))
    costs = {name: (dataclasses.asdict(before)[name], dataclasses.asdict(after)[name]) for name in COSTS}
    costs["latency"] = times
    return xr.Dataset(
        labelled(("stage",), {"accuracy": (accuracies, "test accuracy")})
        | labelled(
            ("sparsity",),
            {
                "by_mass": (by_mass, "test accuracy without the groups of least mass"),
                "at_random": (at_random, "test accuracy without random groups"),
            },
        )
        | labelled(
            ("size",),
            {"groups": (np.array([groups, sum(report.living)], dtype=float), "groups")}
            | {name: (np.array(costs[name], dtype=float), text) for name, text in COSTS.items()},
        )
        | labelled(("way",), {"in_one_training": (in_one_training(case, data), "test accuracy")})
        | labelled((), {"lowest": (masses.min(), "lowest mass"), "highest": (masses.max(), "highest mass")})
    )


def in_one_training(case: Case, data: nb.Dataset) -> list[float]:
    """Train the whole network, with the recipe, and what the recipe left from scratch; return accuracies."""
    images, labels, example = data.train_images, data.train_labels, data.train_images[:2]
    epochs = 2 * case.epochs + 1
    course = nb.Course(epochs=epochs, batch_size=BATCH, warm_up=len(images) // BATCH, hold=0.4 * epochs)

    def untrained() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(case.seed)
            return NETWORKS[case.network]()

    def trained(model: nn.Module) -> nn.Module:
        course.train(model, images, labels, seed=case.seed)
        return model

    recipe = nb.Recipe(case.sparsity, course=course, start=epochs / 7, stop=epochs * 4 / 7)
    shed = recipe.train(nb.populate(untrained(), example), images, labels, seed=case.seed)
    small = nb.populate(untrained(), example)
    draw = torch.Generator().manual_seed(case.seed)
    for layer, left in zip(nb.population_layers(small), shed.living, strict=True):
        layer.masses[torch.randperm(len(layer.masses), generator=draw)[left:]] = 0.0
    models = trained(untrained()), shed.model, trained(nb.compact(small, example))
    return [nb.accuracy(model, data.test_images, data.test_labels, batch_size=500) for model in models]


@torch.no_grad()
def latencies(models: tuple[nn.Module, nn.Module], batch: torch.Tensor) -> tuple[float, float]:
    """Return the shortest processor time of a forward pass of each network; they take turns."""
    found: list[list[float]] = [[], []]
    for _ in range(REPEATS):
        for model, times in zip(models, found, strict=True):
            model.eval()
            start = time.thread_time()
            model(batch)
            times.append(time.thread_time() - start)
    return min(found[0]), min(found[1])


def without(model: nn.Module, fraction: float, seed: int | None = None) -> nn.Module:
    """Return the network with a fraction of each layer's groups at mass 0: the least, or random ones."""
    twin = copy.deepcopy(model)
    layers = nb.population_layers(twin)
    ranks = [layer.masses.clone() for layer in layers]
    if seed is not None:
        draw = torch.Generator().manual_seed(seed)
        for layer in layers:
            layer.masses.copy_(torch.rand(layer.masses.shape, generator=draw) + 1)
    nb.prune_to_sparsity(twin, fraction, scope="layer")
    for layer, own in zip(layers, ranks, strict=True):
        layer.masses.copy_(torch.where(layer.masses > 0, own, 0.0))
    return twin


def main(
    study: _shared.Study,
    network: Annotated[
        list[str], typer.Option(help=f"Any of {', '.join(NETWORKS)} (repeatable): what is trained.")
    ] = NAMES,
    sparsity: Annotated[
        float, typer.Option(min=0.0, max=0.95, help="Fraction of each layer's groups that is removed.")
    ] = 0.5,
    epochs: Annotated[int, typer.Option(min=1, help="Before selection, and as many with it.")] = 3,
    samples: Annotated[int, typer.Option(min=BATCH, max=60000, help="Training images.")] = 12800,
    tests: Annotated[int, typer.Option(min=1, max=10000, help="Test images.")] = 5000,
    step_size: Annotated[float, typer.Option(min=0.0, help="η_p, in units of 1/fitness.")] = 0.02,
    decay: Annotated[float, typer.Option(min=0.0, help="λ of Eq. 10.")] = 0.1,
    seed: _shared.Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=1, max=_shared.MOST_SEEDS, help="How many seeds, counted up from --seed.")
    ] = 3,
) -> None:
    """Remove half of the groups of three networks, and compare accuracy and cost before and after.

    Writes results/architectures/architectures.nc and architectures.csv (the table). Latency is the
    shortest of many for a batch of 64 images, in processor time of one thread.
    """
    options = {"epochs": epochs, "samples": samples, "tests": tests}
    if study.smoke:
        options = {name: min(value, SMOKE[name]) for name, value in options.items()}
        seeds = 1
    names = [validation.choice("network", name, tuple(NAMES)) for name in dict.fromkeys(network)]
    cases = [
        Case(name, number, **options, sparsity=sparsity, step_size=step_size, decay=decay)
        for name in names
        for number in range(seed, seed + seeds)
    ]
    axes = coordinates(network=(names, "network", "1"), seed=(np.arange(seed, seed + seeds), "seed", "1"))
    data = _shared.stacked(study.sweep("Networks", case_of, cases), axes).assign_coords(
        coordinates(
            stage=(STAGES, "after which the accuracy was measured", "1"),
            way=(WAYS, "what is trained from the beginning", "1"),
            sparsity=(SPARSITIES, "fraction of each layer's groups at mass 0", "1"),
            size=(SIZES, "before or after the removal", "1"),
        )
    )
    rows = table_rows(data)
    specification: dict[str, Any] = {"schema": SCHEMA, **options, "batch": BATCH, "smoke": study.smoke}
    specification |= {
        "sparsity": sparsity,
        "step_size": step_size,
        "decay": decay,
        "seed": seed,
        "seeds": seeds,
    }
    study.save(data, rows, specification)
    study.show(
        accuracies(rows), one_training(rows, options["epochs"]), costs(rows), *notes(options, sparsity)
    )


def table_rows(data: xr.Dataset) -> list[Row]:
    """Return one row for each network and seed."""
    rows: list[Row] = []
    for name in data.network.values:
        for seed in data.seed.values:
            run = data.sel(network=name, seed=seed)
            row: Row = {"network": str(name), "seed": int(seed)}
            row |= {stage.replace(" ", "_"): float(run.accuracy.sel(stage=stage)) for stage in STAGES}
            row |= {way.replace(" ", "_"): float(run.in_one_training.sel(way=way)) for way in WAYS}
            row |= {
                f"{quantity}_{size}": float(run[quantity].sel(size=size))
                for quantity in ("groups", *COSTS)
                for size in SIZES
            }
            rows.append(row | {"lowest_mass": float(run.lowest), "highest_mass": float(run.highest)})
    return rows


def accuracies(rows: Sequence[Row]) -> Table:
    """Return the table of accuracies."""
    columns = {
        "network": "{network}",
        "seed": "{seed}",
        "trained": "{trained:.4f}",
        "selected": "{selected:.4f}",
        "removed": "{removed:.4f}",
        "again": "{trained_again:.4f}",
        "masses": "{lowest_mass:.1e}–{highest_mass:.1f}",
    }
    return _shared.row_table("Test accuracy", columns, rows)


def one_training(rows: Sequence[Row], epochs: int) -> Table:
    """Return the table of what is trained from the beginning."""
    columns = {
        "network": "{network}",
        "seed": "{seed}",
        "whole": "{whole:.4f}",
        "recipe": "{recipe:.4f}",
        "from scratch": "{from_scratch:.4f}",
    }
    return _shared.row_table(f"Test accuracy after {2 * epochs + 1} epochs of one training", columns, rows)


def costs(rows: Sequence[Row]) -> Table:
    """Return the table of what the networks cost, before and after."""
    columns = {
        "network": "{network}",
        "groups": "{groups_before:.0f}→{groups_after:.0f}",
        "parameters": "{parameters_before:.0f}→{parameters_after:.0f}",
        "MACs (k)": "{macs_k_before:.0f}→{macs_k_after:.0f}",
        "ms": "{latency_k_before:.2f}→{latency_k_after:.2f}",
        "file (kB)": "{file_bytes_k_before:.1f}→{file_bytes_k_after:.1f}",
    }
    scales = {"macs": 1e-3, "latency": 1e3, "file_bytes": 1e-3}
    shown = [
        row
        | {f"{name}_k_{size}": row[f"{name}_{size}"] * by for name, by in scales.items() for size in SIZES}
        for row in rows
    ]
    return _shared.row_table("Cost before and after", columns, shown)


def notes(options: Row, sparsity: float) -> list[str]:
    """Return the lines that explain the tables."""
    return [
        f"trained: {options['samples']} images, {options['epochs']} times; selected: as many times more",
        f"with masses; removed: {100 * sparsity:g} % of every layer's groups, those of least mass;",
        "again: trained for one more epoch, the smaller network.",
        f"whole: all groups; recipe: {100 * sparsity:g} % of all groups die;",
        "from scratch: as many groups in each layer as the recipe left, random ones.",
        "",
    ]


if __name__ == "__main__":
    _shared.command_line(main)()
