"""One training by one of the methods that are compared, and the removals that belong to it."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import torch
import xarray as xr
from torch import nn

import evodyn as ed
from evodyn.core.labels import about, labelled
from nn_bridge.baselines import rankings
from nn_bridge.baselines.d_gating import DGating
from nn_bridge.baselines.early import removed_early
from nn_bridge.baselines.gates import gated
from nn_bridge.baselines.hard_concrete import HardConcrete
from nn_bridge.baselines.slimming import Slimming
from nn_bridge.datasets import Dataset, load_dataset
from nn_bridge.layers import population_layers, population_mlp
from nn_bridge.paper.experiment import Experiment
from nn_bridge.paper.runs import Source, train
from nn_bridge.prices import Priced
from nn_bridge.removal.prune import prune_to_sparsity
from nn_bridge.selector import Selector
from nn_bridge.shedding.course import Course
from nn_bridge.shedding.recipe import Recipe
from nn_bridge.signals import Benefit
from nn_bridge.training import accuracy

__all__ = ["CONTROLS", "DENSE", "EARLY", "METHODS", "READINGS", "STRENGTHS", "Training", "measured"]

DENSE = ("dense", "random", "magnitude", "taylor")
"""What one dense training gives: the network itself, and removals from it without any further training."""
STRENGTHS: dict[str, float] = {
    "l0": 1e-3,
    "slimming": 1e-3,
    "d_gating_3": 1e-3,
    "d_gating_4": 1e-3,
    "exponentiated": 3.0,
    "scratch_dropout": 0.1,
}
"""Penalty on gates, step size of masses, probability of dropout: for all fractions, by images held out."""
EARLY = ("magnitude_early", "l0", "slimming", "d_gating_3", "d_gating_4", "exponentiated")
"""Removal after `UNTIL` epochs, where selection ends at the latest; what is left goes on to the end."""
UNTIL = int(Recipe().stop)
CONTROLS = ("scratch", "scratch_dropout")
READINGS: dict[str, dict[str, Any]] = {
    "paper": {},
    "paper_reading": {"memory": 1.0, "standardise": False, "scaled_bias": False},
}
METHODS = ("selection", *DENSE, *EARLY, *READINGS, *CONTROLS)


@dataclasses.dataclass(frozen=True)
class Training:
    """One training, and the removals that belong to it."""

    method: str
    """One of `METHODS`; "dense" stands for all of `DENSE`."""
    widths: tuple[int, ...]
    seed: int
    fractions: tuple[float | None, ...]
    """What is to be removed; None: what the recipe finds by itself."""
    course: Course
    recipe: Recipe | None = None
    """Of selection, but for what is to be removed and the course."""
    until: int = UNTIL
    strength: float = 0.0
    dataset: str = "mnist"
    data_root: str | None = None
    held_out: int = 0
    """Number of training images that take the place of the test images."""
    train_samples: int | None = None
    test_samples: int | None = None

    def data(self) -> Dataset:
        """Return the samples."""
        whole = loaded(self.dataset, self.data_root)
        if self.held_out:
            kept = len(whole.train_images) - self.held_out
            whole = dataclasses.replace(
                whole,
                train_images=whole.train_images[:kept],
                train_labels=whole.train_labels[:kept],
                test_images=whole.train_images[kept:],
                test_labels=whole.train_labels[kept:],
            )
        return whole.first(self.train_samples, self.test_samples)

    def model(self) -> nn.Sequential:
        """Return the network as it is at first."""
        return population_mlp(self.widths, seed=self.seed)


@functools.lru_cache(maxsize=1)
def loaded(dataset: str, data_root: str | None) -> Dataset:
    """Return a data set."""
    return load_dataset(dataset, data_root)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one removal."""

    method: str
    asked: float
    """Fraction that was to be removed; NaN where nobody asked."""
    living: tuple[int, ...]
    before: float
    """Accuracy with all groups: when they were removed, or at the end where they are there no more."""
    after: float
    """Accuracy at the end of training, without those that were removed."""


def measured(point: Training) -> xr.Dataset:
    """Carry out one training and its removals, and return accuracies on the test images."""
    torch.set_num_threads(1)
    outcomes = list(TASKS[point.method](point))
    by_removal = {
        "asked": ([o.asked for o in outcomes], "fraction asked for"),
        "accuracy_before": ([o.before for o in outcomes], "accuracy with all groups"),
        "accuracy_after": ([o.after for o in outcomes], "accuracy without those that were removed"),
    }
    variables = labelled("removal", by_removal)
    variables["living"] = ("removal", "layer"), [o.living for o in outcomes], about("groups that are left")
    variables["method"] = "removal", [o.method for o in outcomes], about("method")
    return xr.Dataset(variables)


def widths_left(model: nn.Module) -> tuple[int, ...]:
    """Return the widths of the hidden layers of a network of plain modules."""
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    return tuple(layer.out_features for layer in layers[:-1])


def selection(point: Training) -> Iterator[Outcome]:
    """Train with the recipe, which removes while it trains."""
    data = point.data()
    for fraction in point.fractions:
        recipe = point.recipe or Recipe()
        recipe = dataclasses.replace(recipe, remove=fraction, course=point.course)
        trained = recipe.train(point.model(), data.train_images, data.train_labels, seed=point.seed)
        before, after = (right(model, data) for model in (trained.before, trained.model))
        yield Outcome("selection", nan_if_none(fraction), trained.living, before, after)


def dense(point: Training) -> Iterator[Outcome]:
    """Train with all groups, and remove some at the end: random, small, or of little effect."""
    data, model = point.data(), point.model()
    point.course.train(model, data.train_images, data.train_labels, seed=point.seed)
    before = right(model, data)
    yield Outcome("dense", 0.0, point.widths[1:-1], before, before)
    scores = {
        "random": rankings.at_random(model, point.seed),
        "magnitude": rankings.by_magnitude(model),
        "taylor": rankings.by_sensitivity(model, data.train_images, data.train_labels),
    }
    for (name, values), fraction in itertools.product(scores.items(), point.fractions):
        living = rankings.remove_lowest(model, values, fraction or 0.0).living
        yield Outcome(name, nan_if_none(fraction), living, before, right(model, data))
        for layer in population_layers(model):
            layer.masses.fill_(1.0)


def early(point: Training) -> Iterator[Outcome]:
    """Train under a penalty on gates (or another pressure), remove, and go on to the last epoch."""
    data, model = point.data(), point.model()
    kinds: dict[str, Callable[[Any], Any]] = {
        "l0": functools.partial(HardConcrete, seed=point.seed),
        "slimming": Slimming,
        "d_gating_3": functools.partial(DGating, depth=3),
        "d_gating_4": functools.partial(DGating, depth=4),
    }
    how: dict[str, Any] = {"scores": rankings.by_magnitude}
    if point.method in kinds:
        model = gated(model, kinds[point.method])
        how = {"scores": rankings.by_gate, "strength": point.strength}
    elif point.method == "exponentiated":
        how = {"scores": rankings.by_mass, "selector": functools.partial(ascent, step_size=point.strength)}
    fractions = sorted(fraction for fraction in point.fractions if fraction is not None)
    removals = removed_early(
        model,
        data.train_images,
        data.train_labels,
        fractions,
        course=point.course,
        until=point.until,
        seed=point.seed,
        **how,
    )
    for fraction, (middle, small) in zip(fractions, removals, strict=True):
        yield Outcome(point.method, fraction, widths_left(small), right(middle, data), right(small, data))


def ascent(model: nn.Module, step_size: float) -> Selector:
    """Return exponentiated gradients, p ← p exp(-η ∂L/∂p): no cost, comparison, smoothing, extinction."""
    return Selector(
        model,
        ed.Selection(lambda masses, fitness: fitness),
        Benefit(),
        step_size,
        landscape=Priced(0.0),
        scheme="exponential",
    )


def reading(point: Training) -> Iterator[Outcome]:
    """Carry out the paper's experiment, and remove the smallest masses of all."""
    experiment = Experiment(
        seed=point.seed,
        dataset=point.dataset,  # type: ignore[arg-type]
        widths=point.widths,
        epochs=point.course.epochs,
        train_samples=point.train_samples,
        test_samples=point.test_samples,
        sparsities=tuple(fraction for fraction in point.fractions if fraction is not None),
        **READINGS[point.method],
    )
    model, found = train(experiment, Source(data_root=point.data_root))
    masses = [layer.masses.clone() for layer in population_layers(model)]
    for k, fraction in enumerate(experiment.sparsities):
        for layer, mass in zip(population_layers(model), masses, strict=True):
            layer.masses.copy_(mass)
        living = prune_to_sparsity(model, fraction, allow_empty=True).living
        after = float(found["accuracy_at_sparsity"][k])
        yield Outcome(point.method, fraction, living, float(found["accuracy"][-1]), after)


def from_scratch(point: Training) -> Iterator[Outcome]:
    """Train a dense network of the widths that are given."""
    data, model = point.data(), point.model()
    if point.strength:
        parts = [
            (part, nn.Dropout(point.strength)) if isinstance(part, nn.ReLU) else (part,) for part in model
        ]
        model = nn.Sequential(*itertools.chain(*parts))
        torch.manual_seed(point.seed)
    point.course.train(model, data.train_images, data.train_labels, seed=point.seed)
    found = right(model, data)
    (fraction,) = point.fractions
    yield Outcome(point.method, nan_if_none(fraction), point.widths[1:-1], found, found)


TASKS: dict[str, Callable[[Training], Iterator[Outcome]]] = {
    "selection": selection,
    "dense": dense,
    **dict.fromkeys(EARLY, early),
    **dict.fromkeys(READINGS, reading),
    **dict.fromkeys(CONTROLS, from_scratch),
}


def right(model: nn.Module, data: Dataset) -> float:
    """Return the accuracy on the test images."""
    return accuracy(model, data.test_images, data.test_labels)


def nan_if_none(value: float | None) -> float:
    """Return NaN for None."""
    return float("nan") if value is None else value
