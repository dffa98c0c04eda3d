"""Which parts of the recipe matter: each is left out or changed by itself, all else as it was.

The recipe (`Recipe`) trains one perceptron and removes most of its neurons on the way. Accuracies are those
of training images that were left out of training; no run sees the test images. Every run is compared with
the whole recipe of the same seed, and some with a small dense network of the widths that they ended with,
trained from scratch in the same way: weight decay, say, matters there as well.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

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
from evodyn.analysis.intervals import interval
from evodyn.core.labels import labelled
from nn_bridge.baselines.trials import Training, measured

SCHEMA = 1
WIDTHS = (784, 512, 256, 10)
SMALL = (784, 64, 32, 10)
SMOKE: Row = {"train_samples": 640, "test_samples": 200}
SHOWN = ["signal", "price: no price", "weight decay", "dynamics", "death: masses"]
CONTROLLED = ["the whole", "weight decay: none"]
WHOLE = "the whole recipe"
NOTHING = 1e-12  # a price that moves no mass
AT_ONCE = 1e6  # how fast a price rises that is at its limit after one step
MUTATION = 1e-3  # μ at first, in units of fitness: about as much as the price


# --- What is changed ------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class DecayedLayers(nb.Course):
    """A course with weight decay in some layers alone.

    Parameters
    ----------
    decayed : tuple of int
        Their numbers, from 0 on.
    """

    decayed: tuple[int, ...] = ()

    def optimizer(self, model: nn.Module) -> torch.optim.SGD:
        """Return the optimiser of the weights and biases of a chain, whose order it keeps."""
        optimizer = super().optimizer(model)
        (settings,) = optimizer.param_groups
        groups = [
            settings | {"params": [parameter], "weight_decay": self.weight_decay * (k // 2 in self.decayed)}
            for k, parameter in enumerate(settings["params"])  # a weight and a bias for every layer
        ]
        return torch.optim.SGD(groups)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A recipe with something changed.

    Parameters
    ----------
    part : str
        What the change is about.
    recipe : Recipe
        Its course is that of the training.
    remove : float or None
        What is asked for.
    """

    part: str
    recipe: nb.Recipe
    remove: float | None


def variants(recipe: nb.Recipe, epoch: float) -> dict[str, Variant]:
    """Return the recipe and what is compared with it, by name; an epoch takes so long in 1/fitness."""
    settings = {field.name: getattr(recipe.course, field.name) for field in dataclasses.fields(nb.Course)}
    undecayed = dataclasses.replace(recipe.course, weight_decay=0.0)
    mutation = ed.SelectionMutation(nb.Triangle(MUTATION, -2 * epoch, 2 * epoch), target=1.0)
    constant = recipe.price / 2  # on the average what the triangle is
    changes: dict[str, dict[str, Row]] = {
        "signal": {
            "absolute value": {"signal": nb.Contribution(smoothing=0.9)},
            "no smoothing": {"signal": nb.Benefit()},
        },
        "price": {
            f"constant price {constant:g}": {"price_limit": constant, "price_rate": AT_ONCE},
            "triangle, size of its own": {"remove": None},
            "no price, cut at the end": {"price_limit": NOTHING},
            "price per parameter": {"of": "parameters"},
        },
        "weight decay": {
            "none": {"course": undecayed},
            "in layers 1 and 3": {"course": DecayedLayers(**settings, decayed=(0, 2))},
            "in layer 2": {"course": DecayedLayers(**settings, decayed=(1,))},
        },
        "dynamics": {
            "replicator": {"dynamics": ed.Replicator()},
            "replicator, mutation at first": {"dynamics": mutation},
        },
        "death": {
            "threshold / 10": {"threshold": recipe.threshold / 10},
            "threshold × 3": {"threshold": recipe.threshold * 3},
            "masses into one side": {"balanced": False},
        },
        "schedule": {
            f"selection to epoch {recipe.stop / 4:g}": {"stop": recipe.stop / 4},
            "step size / 2": {"step_size": recipe.step_size / 2},
            "step size × 2": {"step_size": recipe.step_size * 2},
        },
    }
    found = {WHOLE: Variant("", recipe, recipe.remove)}
    for part, ways in changes.items():
        for name, change in ways.items():
            made = dataclasses.replace(recipe, **change)
            found[f"{part}: {name}"] = Variant(part, made, made.remove)
    return found


# --- The study ------------------------------------------------------------------------------------------


def main(
    study: _shared.Study,
    variant: Annotated[
        list[str],
        typer.Option(
            help="Beginning of the name of what is compared with the whole recipe (repeatable): signal, "
            "price, weight decay, dynamics, death, schedule, or more of it."
        ),
    ] = SHOWN,
    control: Annotated[
        list[str],
        typer.Option(
            help="Beginning of the name of what is compared with a small network from scratch, too "
            "(repeatable)."
        ),
    ] = CONTROLLED,
    remove: Annotated[float, typer.Option(help="Fraction of the hidden neurons to be removed.")] = 0.87,
    held_out: Annotated[
        int,
        typer.Option(
            min=1, max=50000, help="Measure on so many training images, which are left out of training."
        ),
    ] = 5000,
    seed: _shared.Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=1, max=_shared.MOST_SEEDS, help="How many seeds, counted up from --seed.")
    ] = 2,
) -> None:
    """Leave out or change each part of the recipe, and compare accuracies with those of all of it.

    Writes results/ablations/ablations.csv (a row for every run; accuracies are fractions) and
    ablations_summary.csv (means over seeds). Finished trainings are kept: what was interrupted goes on.
    """
    if not 0 < remove < 1:
        raise ValueError(f"remove is {remove!r}; expected a fraction between 0 and 1.")
    widths, common, recipe = WIDTHS, {}, nb.Recipe(remove)
    if study.smoke:
        widths, common, seeds = SMALL, SMOKE, 1
        course = nb.Course(epochs=2, hold=1.0, warm_up=5)
        recipe = dataclasses.replace(recipe, course=course, start=0.25, stop=2.0)
    first = Training("selection", widths, seed, (remove,), recipe.course, held_out=held_out, **common)
    steps = -(-len(first.data().train_images) // recipe.course.batch_size)
    known = variants(recipe, steps * recipe.step_size)
    changed = {name: known[name] for name in (WHOLE, *begun(known, "variant", variant))}
    controlled = set(begun(known, "control", control))
    runs = [(name, number) for number in range(seed, seed + seeds) for name in changed]
    points = [training(first, changed[name], number) for name, number in runs]
    found = study.sweep("Recipes", measured, points)
    rows = [
        row_of(name, changed[name].part, point, result)
        for (name, _), point, result in zip(runs, points, found, strict=True)
    ]
    compared = [k for k, (name, _) in enumerate(runs) if name in controlled]
    small = [scratch(points[k], found[k]) for k in compared]
    for k, result in zip(compared, study.sweep("Controls", measured, small, "controls"), strict=True):
        rows[k]["accuracy_scratch"] = float(result.accuracy_after[0])
    whole = {row["seed"]: row["accuracy"] for row in rows if row["variant"] == WHOLE}
    for row in rows:
        row["over_whole"] = row["accuracy"] - whole[row["seed"]]
        row["over_scratch"] = row["accuracy"] - row["accuracy_scratch"]
    rows.sort(key=lambda row: (list(changed).index(row["variant"]), row["seed"]))
    summary = summarised(rows)
    specification = {
        "schema": SCHEMA,
        "widths": list(widths),
        "remove": remove,
        "held_out": held_out,
        "variants": list(changed),
        "epochs": recipe.course.epochs,
        "seeds": list(range(seed, seed + seeds)),
        **common,
    }
    study.save(as_dataset(rows), rows, specification)
    _shared.write_csv(summary, study.folder / f"{study.name}_summary.csv")
    study.show(*tables(summary, specification))


def begun(known: Mapping[str, Variant], option: str, beginnings: Sequence[str]) -> Iterator[str]:
    """Yield the names that begin with one of these, in their order."""
    for beginning in beginnings:
        if not any(name.startswith(beginning) for name in known):
            expected = "; ".join(known)
            raise ValueError(f"{option} is {beginning!r}; expected the beginning of one of: {expected}.")
    yield from (name for name in known if name.startswith(tuple(beginnings)))


def training(first: Training, variant: Variant, seed: int) -> Training:
    """Return the training of a recipe from a seed."""
    recipe, fractions = variant.recipe, (variant.remove,)
    return dataclasses.replace(first, seed=seed, fractions=fractions, course=recipe.course, recipe=recipe)


def scratch(point: Training, found: xr.Dataset) -> Training:
    """Return the training of a small dense network of the widths that a recipe ended with."""
    widths = (point.widths[0], *found.living.values[0].tolist(), point.widths[-1])
    return dataclasses.replace(point, method="scratch", widths=widths, recipe=None)


def row_of(name: str, part: str, point: Training, found: xr.Dataset) -> Row:
    """Return the row of a run, which has no control yet."""
    left = found.living.values[0].tolist()
    small = [point.widths[0], *left, point.widths[-1]]
    return {
        "variant": name,
        "part": part,
        "seed": point.seed,
        "living": "-".join(map(str, left)),
        "fraction_removed": round(1 - sum(left) / sum(point.widths[1:-1]), 6),
        "parameters": sum((inputs + 1) * outputs for inputs, outputs in itertools.pairwise(small)),
        "accuracy": float(found.accuracy_after[0]),
        "accuracy_scratch": float("nan"),
    }


def summarised(rows: Sequence[Row]) -> list[Row]:
    """Return means over seeds, and 95 % intervals of what is paired by seed."""
    cells: dict[str, list[Row]] = {}
    for row in rows:
        cells.setdefault(row["variant"], []).append(row)
    summary = []
    for name, cell in cells.items():
        means = {
            key: float(np.mean([row[key] for row in cell]))
            for key in ("fraction_removed", "parameters", "accuracy", "accuracy_scratch")
        }
        made: Row = {"variant": name, "part": cell[0]["part"], "runs": len(cell), **means}
        for key in ("over_whole", "over_scratch"):
            values = [row[key] for row in cell]
            made[key], made[f"{key}_low"], made[f"{key}_high"] = bounds(values)
        made["living"] = " ".join(row["living"] for row in cell)
        summary.append(made)
    return summary


def bounds(values: Sequence[float]) -> tuple[float, float, float]:
    """Return a mean and its interval, NaN where there is one value alone."""
    if len(values) < 2:
        return values[0], float("nan"), float("nan")
    found = interval(values)
    return found.mean, *found.of_mean


def as_dataset(rows: Sequence[Row]) -> xr.Dataset:
    """Return the rows as a dataset with one dimension."""
    names = {
        "variant": "what was changed",
        "part": "part of the recipe that the change is about",
        "seed": "seed",
        "living": "groups that are left in each layer",
        "fraction_removed": "fraction of the groups that is removed",
        "parameters": "weights and biases that are left",
        "accuracy": "accuracy on held-out training images",
        "accuracy_scratch": "accuracy of a dense network of the same widths from scratch",
        "over_scratch": "accuracy less that of the network from scratch",
        "over_whole": "accuracy less that of the whole recipe of the same seed",
    }
    return xr.Dataset(
        labelled("run", {name: (np.array([row[name] for row in rows]), what) for name, what in names.items()})
    )


def tables(summary: Sequence[Row], specification: Row) -> Iterator[Table | str]:
    """Return the table of the means."""
    columns = {
        "left out or changed": "{variant}",
        "living": "{shown}",
        "correct": "{accuracy:.2%}",
        "– whole": "{over_whole:+.2%}",
        "– small": "{over_scratch:+.2%}",
    }
    shown = [row | {"shown": row["living"].split()[0]} for row in summary]
    widths, seeds = "-".join(map(str, specification["widths"])), len(specification["seeds"])
    yield _shared.row_table(f"{widths}: means of {seeds} seeds", columns, shown)
    yield f"correct: of {specification['held_out']} training images that were left out of training;"
    yield "living: of the first seed; – whole: less the whole recipe of the same seed;"
    yield "– small: less a small dense network of the same widths, course and seed."
    yield ""


if __name__ == "__main__":
    _shared.command_line(main)()
