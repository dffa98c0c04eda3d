"""How much accuracy a perceptron keeps as its neurons are removed: selection, other methods, and a control.

Every method but the paper's own trains in the same loop, with the same samples, and all with as many epochs.
The control is a small dense network of the widths that selection ended with, trained from scratch: what a
method gains is what it has over that one. Settings of the methods were chosen on training images that were
left out of training (``--held-out``).
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
import xarray as xr
from rich.table import Table

import _shared
import nn_bridge as nb
from _shared import Row
from evodyn.analysis.intervals import interval
from evodyn.core.checksums import read_text
from evodyn.core.labels import labelled
from nn_bridge.baselines import trials
from nn_bridge.baselines.trials import Training, measured
from nn_bridge.paper.tables import printed_table

SCHEMA = 1
WIDTHS = ["784,512,256,10", "784,500,300,10", "784,300,100,10"]
FRACTIONS = (0.5, 0.8, 0.87, 0.92)
METHODS = list(trials.METHODS)
QUOTED = Path(__file__).parent / "data" / "pruned_mnist_perceptrons.csv"
SMALL = (784, 64, 32, 10)
SMOKE: Row = {"epochs": 3, "until": 2, "train_samples": 1280, "test_samples": 500}


# --- The study ------------------------------------------------------------------------------------------


def main(
    study: _shared.Study,
    widths: Annotated[
        list[str], typer.Option(help="Inputs, hidden layers and outputs of a network (repeatable).")
    ] = WIDTHS,
    remove: Annotated[
        list[float] | None,
        typer.Option(
            help="Fraction of the hidden neurons to be removed (repeatable). By default "
            f"{', '.join(f'{f:g}' for f in FRACTIONS)}, and what selection finds by itself.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[list[str], typer.Option(help=f"Any of {', '.join(METHODS)} (repeatable).")] = METHODS,
    dataset: Annotated[str, typer.Option(help="mnist or fashion-mnist.")] = "mnist",
    data_root: Annotated[
        str | None,
        typer.Option(help="Data folder in torchvision's layout; MNIST itself is inside the package."),
    ] = None,
    held_out: Annotated[
        int, typer.Option(min=0, help="Measure on so many training images, which are left out of training.")
    ] = 0,
    strength: Annotated[
        float | None,
        typer.Option(min=0.0, help="In place of each method's own setting.", show_default=False),
    ] = None,
    seed: _shared.Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=1, max=_shared.MOST_SEEDS, help="How many seeds, counted up from --seed.")
    ] = 5,
) -> None:
    """Say how accurate networks are without part of their neurons, by selection and by other methods.

    Writes results/lossless/lossless.csv (a row for every run; accuracies are fractions),
    lossless_summary.csv (means with 95 % intervals) and quoted.csv (what others print). Controls of the
    widths that selection ends with need selection, which is run for them. Finished trainings are kept: what
    was interrupted goes on.
    """
    if unknown := set(method) - set(METHODS):
        raise ValueError(f"method is {', '.join(sorted(unknown))}; expected any of {', '.join(METHODS)}.")
    if held_out and (printed := [name for name in method if name in trials.READINGS]):
        raise ValueError(
            f"method is {', '.join(printed)} with held_out {held_out}; expected others: the paper's "
            "experiment has its own training and test images."
        )
    for fraction in remove or ():
        if not 0 < fraction < 1:
            raise ValueError(f"remove is {fraction!r}; expected a fraction between 0 and 1.")
    dataset = dataset.replace("_", "-")
    trials.loaded(dataset, data_root)  # says what is missing, before anything is trained
    networks = [network(text) for text in dict.fromkeys(widths)]
    fractions = tuple(sorted(set(remove))) if remove else FRACTIONS
    course, until = nb.Course(), trials.UNTIL
    common: Row = {"dataset": dataset, "data_root": data_root, "held_out": held_out}
    if study.smoke:
        seeds, fractions = min(seeds, 2), fractions if remove else fractions[-2:]
        networks = [SMALL] if widths == WIDTHS else networks
        course = nb.Course(epochs=SMOKE["epochs"], hold=1.0, warm_up=10)
        common |= {name: SMOKE[name] for name in ("train_samples", "test_samples")}
        until = SMOKE["until"]
    asked = fractions if remove else (*fractions, None)

    def training(
        name: str, layers: tuple[int, ...], number: int, removed: Sequence[float | None]
    ) -> Training:
        force = trials.STRENGTHS.get(name, 0.0)
        if force and strength is not None:
            force = strength
        recipe = nb.Recipe(stop=float(until)) if name == "selection" else None
        return Training(name, layers, number, tuple(removed), course, recipe, until, force, **common)

    runs = list(itertools.product(networks, range(seed, seed + seeds)))
    names = dict.fromkeys("dense" if name in trials.DENSE else name for name in METHODS if name in method)
    whole = [name for name in names if name not in ("selection", *trials.CONTROLS)]
    points = [training(name, *run, fractions) for run in runs for name in whole]
    rows = gathered(points, study.sweep("Other methods", measured, points))
    if "selection" in names or set(trials.CONTROLS) & set(names):
        points = [training("selection", *run, [fraction]) for run in runs for fraction in asked]
        selected = study.sweep("Selection", measured, points, "selection")
        rows += gathered(points, selected)
        rows += controls(
            study, training, points, selected, [name for name in trials.CONTROLS if name in names]
        )
    rows = [row for row in rows if row["method"] in method]
    rows.sort(key=ranked)
    summary = summarised(rows)
    specification = {
        "schema": SCHEMA,
        "widths": ["-".join(map(str, layers)) for layers in networks],
        "fractions": list(fractions),
        "methods": [name for name in METHODS if name in method],
        "dataset": dataset,
        "held_out": held_out,
        "strengths": trials.STRENGTHS if strength is None else strength,
        "epochs": course.epochs,
        "seeds": list(range(seed, seed + seeds)),
    }
    study.save(as_dataset(rows), rows, specification)
    _shared.write_csv(summary, study.folder / f"{study.name}_summary.csv")
    _shared.write_csv(quoted(), study.folder / "quoted.csv")
    study.show(*tables(summary, held_out))


def ranked(row: Row) -> tuple[Any, ...]:
    """Return what rows are ordered by; what nobody asked for comes last."""
    asked = row["asked"] if np.isfinite(row["asked"]) else np.inf
    return row["widths"], METHODS.index(row["method"]), asked, row["seed"]


def network(text: str) -> tuple[int, ...]:
    """Return the widths in a text such as 784,512,256,10."""
    try:
        layers = tuple(int(part) for part in text.split(","))
    except ValueError:
        layers = ()
    if len(layers) < 3 or min(layers) < 1:
        raise ValueError(f"widths is {text!r}; expected whole numbers such as 784,512,256,10.")
    return layers


def controls(
    study: _shared.Study,
    training: Callable[..., Training],
    points: Sequence[Training],
    selected: Sequence[xr.Dataset],
    names: Sequence[str],
) -> list[Row]:
    """Train small dense networks of the widths that each selection ended with, and return their rows."""
    small, of = [], []
    for name in names:
        for point, found in zip(points, selected, strict=True):
            layers = (point.widths[0], *found.living.values[0].tolist(), point.widths[-1])
            small.append(training(name, layers, point.seed, point.fractions))
            of.append(point)
    results = study.sweep("Controls", measured, small, "controls") if small else []
    # A control is a row of the network that it is compared with.
    return gathered(of, results)


def gathered(points: Sequence[Training], results: Sequence[xr.Dataset]) -> list[Row]:
    """Return the rows of all trainings."""
    return [row for point, found in zip(points, results, strict=True) for row in rows_of(point, found)]


def rows_of(point: Training, found: xr.Dataset) -> list[Row]:
    """Return the rows of a training."""
    groups = sum(point.widths[1:-1])
    return [
        {
            "method": str(found.method.values[k]),
            "widths": "-".join(map(str, point.widths)),
            "dataset": point.dataset,
            "seed": point.seed,
            "asked": float(found.asked[k]),
            "living": "-".join(map(str, found.living.values[k])),
            "fraction_removed": round(1 - int(found.living[k].sum()) / groups, 6),
            "accuracy_before": float(found.accuracy_before[k]),
            "accuracy_after": float(found.accuracy_after[k]),
        }
        for k in range(found.sizes["removal"])
    ]


def summarised(rows: Sequence[Row]) -> list[Row]:
    """Return means over seeds with 95 % intervals, and what there is over the control, seed by seed."""
    cells: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["widths"], row["method"], f"{row['asked']:g}"), []).append(row)
    summary = []
    for (layers, method, asked), cell in cells.items():
        control = {row["seed"]: row["accuracy_after"] for row in cells.get((layers, "scratch", asked), ())}
        over = [row["accuracy_after"] - control[row["seed"]] for row in cell if row["seed"] in control]
        # Student's t knows no bounds, accuracies have them.
        after = [min(max(x, 0.0), 1.0) for x in bounds([row["accuracy_after"] for row in cell])]
        gained = bounds(over)
        if method == "scratch":
            gained = (float("nan"),) * 3
        summary.append(
            {
                "method": method,
                "widths": layers,
                "dataset": cell[0]["dataset"],
                "asked": float(asked),
                "runs": len(cell),
                "fraction_removed": float(np.mean([row["fraction_removed"] for row in cell])),
                "accuracy_before": float(np.mean([row["accuracy_before"] for row in cell])),
                **dict(zip(("accuracy_after", "low", "high"), after, strict=True)),
                **dict(zip(("over_scratch", "over_scratch_low", "over_scratch_high"), gained, strict=True)),
            }
        )
    return summary


def bounds(values: Sequence[float]) -> tuple[float, float, float]:
    """Return a mean and its interval; NaN where there are too few values."""
    if len(values) < 2:
        return (*values, *[float("nan")] * (3 - len(values)))  # type: ignore[return-value]
    found = interval(values)
    return found.mean, *found.of_mean


def quoted() -> list[Row]:
    """Return what others print, and the paper, in the columns of the figure; nothing of it was run here."""
    text, _ = read_text(QUOTED)
    others = [
        {
            "method": row["method"],
            "widths": f"784-{row['network']}-10",
            "living": row["living"],
            "fraction_removed": float(row["fraction_removed"]),
            "accuracy_after": round(1 - float(row["error_after"]) / 100, 6),
            "epochs": row["epochs"],
            "epoch_chosen": row["epoch_chosen"],
            "source": row["source"],
        }
        for row in csv.DictReader(text.splitlines())
    ]
    paper = [
        {
            "method": "Pruning as Evolution",
            "widths": "784-512-256-10",
            "living": "",
            "fraction_removed": row["sparsity_percent"] / 100,
            "accuracy_after": row["accuracy"],
            "epochs": "20",
            "epoch_chosen": "last",
            "source": "Table 1, replicator",
        }
        for row in printed_table(1)
        if row["dynamics"] == "replicator"
    ]
    return [*paper, *others]


def as_dataset(rows: Sequence[Row]) -> xr.Dataset:
    """Return the rows as a dataset with one dimension."""
    names = {
        "method": "method",
        "widths": "widths of the whole network",
        "seed": "seed",
        "asked": "fraction asked for",
        "living": "groups that are left in each layer",
        "fraction_removed": "fraction of the groups that is removed",
        "accuracy_before": "accuracy with all groups",
        "accuracy_after": "accuracy without those that were removed",
    }
    return xr.Dataset(
        labelled("run", {name: (np.array([row[name] for row in rows]), what) for name, what in names.items()})
    )


def tables(summary: Sequence[Row], held_out: int) -> Iterator[Table | str]:
    """Return a table for each network."""
    columns = {
        "method": "{method}",
        "removed": "{fraction_removed:.1%}",
        "before": "{accuracy_before:.2%}",
        "after": "{accuracy_after:.2%}",
        "95 % CI": "{low:.2%}–{high:.2%}",
        "over scratch": "{over_scratch:+.2%}",
    }
    images = f"{held_out} held-out training images" if held_out else "test images"
    for (layers, dataset), part in itertools.groupby(summary, lambda row: (row["widths"], row["dataset"])):
        cells = list(part)
        title = f"{layers}, {dataset}, {cells[0]['runs']} seeds: accuracy on {images}"
        yield _shared.row_table(title, columns, cells, merge=True)
    yield "Before: with all groups; after: at the end of training, without those removed;"
    yield "over scratch: less a small dense network of the same widths and seed."
    yield ""


if __name__ == "__main__":
    _shared.command_line(main)()
