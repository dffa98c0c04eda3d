"""The paper's experiment on MNIST: three dynamics, then Tables 1 and 2 beside the printed numbers.

By default section 8 in two readings: the literal one, and the one that gives the paper's masses. Both are of
a 784-512-256-10 network, 20 epochs, seed 0. With ``--seeds 10`` the tables get means, 95 % intervals of the
mean, and 95 % prediction intervals of one further run; the paper is a single run, so its numbers are to be
judged by the latter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import xarray as xr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import _shared
import nn_bridge as nb
from _shared import Row
from evodyn.analysis.intervals import interval
from evodyn.core.labels import labelled
from evodyn.model.descriptions import encode
from nn_bridge.paper.claims import steps
from nn_bridge.paper.experiment import SIGNAL_CLIP, Experiment
from nn_bridge.paper.named import Reading
from nn_bridge.paper.named import reading as named
from nn_bridge.paper.reports import EpochReport
from nn_bridge.paper.runs import Source, data_of, run_all, trained_network
from nn_bridge.paper.tables import comparison

SCHEMA = 2
SMOKE: dict[str, Any] = {"epochs": 2, "train_samples": 2560, "test_samples": 1000}
READINGS = ["literal", "paper"]
DYNAMICS = ["replicator", "normalized", "mutation"]
LEVEL = {1: "sparsity_percent", 2: "epsilon"}
MEASURED = {1: ("epsilon", "accuracy", "drop"), 2: ("sparsity_percent", "accuracy", "drop")}
HEADINGS = {"epsilon": "ε", "sparsity_percent": "%", "accuracy": "acc."}
SIDE_BY_SIDE, NARROW = 3, 9
"""Readings in one printed table, and characters of their names there."""
FITTING = "fitting"
"""What the reading "paper" is called beside the paper's own numbers."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One training run of the study.

    Parameters
    ----------
    reading : Reading
        Of what the paper leaves open.
    dynamics : str
        Column of the paper's tables.
    experiment : Experiment
        With its seed.
    """

    reading: Reading
    dynamics: str
    experiment: Experiment


def main(
    study: _shared.Study,
    reading: Annotated[
        list[str],
        typer.Option(
            help="literal, paper (the reading that gives the paper's masses), or where another one departs "
            "from the literal, such as 'memory 1, raw' (repeatable)."
        ),
    ] = READINGS,
    dataset: Annotated[str, typer.Option(help="mnist or fashion-mnist.")] = "mnist",
    data_root: Annotated[
        str | None,
        typer.Option(help="Data folder in torchvision's layout; MNIST itself is inside the package."),
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch Fashion-MNIST if it is missing.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of each run; the last bits of a result depend on it.")
    ] = 1,
    seed: _shared.Seed = 0,
    seeds: Annotated[
        int, typer.Option(min=1, max=_shared.MOST_SEEDS, help="How many seeds, counted up from --seed.")
    ] = 1,
) -> None:
    """Run the paper's experiment and print its two tables beside the paper's numbers.

    The paper leaves open how its signal is measured. Read literally, masses hardly move; with gradients of
    the masses that are never zeroed, pixels in [0, 1] and biases that masses do not scale, they end as
    printed. By default both readings are run.

    Writes table1.csv, table2.csv, summary.json, trajectories.nc (masses, histograms and curves of all runs)
    and half.safetensors (the network without half of its groups; half.onnx too, with the extra "onnx") to
    results/mnist_bridge. There is a checkpoint after every epoch: killed at any moment, the same command
    goes on from there, to the same numbers bit for bit. With --scheduler the folder has to be one that
    all machines of the cluster see.
    """
    source = Source(device, threads, data_root, download)
    base: Row = {"dataset": dataset, **(SMOKE if study.smoke else {})}
    readings = list({found.name: found for found in map(named, reading)}.values())
    runs = [
        Run(one, column, experiment)
        for k in range(seeds)
        for one in readings
        for column, experiment in one.experiments(seed=seed + k, **base).items()
    ]
    results = carried_out(study, runs, source)
    half = halved(runs, study.folder, source)
    rows = {number: compared(number, runs, results) for number in (1, 2)}
    intervals = {number: over_seeds(number, rows[number]) for number in (1, 2)} if seeds > 1 else {}
    common = {name: v for name, v in Experiment(**base).fields().items() if name not in ("dynamics", "seed")}
    moved = movements(runs, results)
    specification = {
        "schema": SCHEMA,
        "study": study.name,
        "experiment": common | {"signal_clip": SIGNAL_CLIP},
        "readings": {one.name: dict(one.changes) | {"target": one.target} for one in readings},
        "dynamics": DYNAMICS,
        "selection": {
            one.name: {
                column: encode(experiment.dynamics, {}, column)
                for column, experiment in one.experiments(**base).items()
            }
            for one in readings
        },
        "seeds": list(range(seed, seed + seeds)),
        "device": device,
        "threads": threads,
    }
    provenance = study.provenance()
    _shared.write_netcdf(
        joined(runs, results),
        study.folder / "trajectories.nc",
        specification=specification,
        provenance=provenance,
    )
    for number in (1, 2):
        _shared.write_csv(rows[number], study.folder / f"table{number}.csv")
        if intervals:
            _shared.write_csv(intervals[number], study.folder / f"table{number}_intervals.csv")
    summary = {
        "specification": specification,
        "dense": [
            labels(run) | {"accuracy": float(result["accuracy"][-1])}
            for run, result in zip(runs, results, strict=True)
        ],
        "masses": moved,
        "tables": rows,
        "intervals": intervals,
        "half_removed": half,
        "provenance": provenance,
    }
    _shared.write_json(summary, study.folder / "summary.json")

    console = Console(width=80, highlight=False)
    for number in (1, 2):
        for k in range(0, len(readings), SIDE_BY_SIDE):
            console.print(printed(number, rows[number], readings[k : k + SIDE_BY_SIDE], seed))
        for one in readings if intervals else ():
            console.print(printed_intervals(number, intervals[number], one, seeds))
    console.print(printed_movements(moved))
    if half["after"] is not None:
        console.print(printed_cost(half))
        onnx = half["same_in_onnxruntime"]
        also = "" if onnx is None else f"; in onnxruntime: {onnx:.2%}"
        console.print(f"Same test predictions as the masked network: {half['same_predictions']:.2%}{also}.")
    else:
        console.print(f"No smaller network without half of the groups: {half['why']}.")
    console.print(f"Saved in {_shared.shown(study.folder)}.", soft_wrap=True)


def carried_out(study: _shared.Study, runs: Sequence[Run], source: Source) -> list[xr.Dataset]:
    """Return the results of the runs, showing the progress of each."""
    with bars(runs) as show:
        results = run_all(
            [run.experiment for run in runs],
            study.folder / "runs",
            source,
            workers=study.workers,
            scheduler=study.scheduler,
            fresh=study.fresh,
            on_epoch=show,
        )
        for index, result in enumerate(results):  # those from file, and from a cluster
            masses = result["mass"].values[-1]
            loss, accuracy = float(result["loss"][-1]), float(result["accuracy"][-1])
            epochs, living = runs[index].experiment.epochs, int((masses > 0).sum())
            show(index, EpochReport(epochs, loss, accuracy, float(masses.sum()), living))
    return results


@contextlib.contextmanager
def bars(runs: Sequence[Run]) -> Iterator[Callable[[int, EpochReport], None]]:
    """Yield a callback (index, report) that draws one bar for each run on standard error."""
    shown = "{task.fields[accuracy]:6.2%} right  mass {task.fields[mass]:6.1f}  {task.fields[living]} living"
    columns = (TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TextColumn(shown))
    with Progress(*columns, console=_shared.NOTES) as progress:
        state: Row = {"accuracy": 0.0, "mass": 0.0, "living": "no"}
        tasks = [
            progress.add_task(
                f"{run.reading.name}: {run.dynamics}, seed {run.experiment.seed}",
                total=run.experiment.epochs,
                **state,
            )
            for run in runs
        ]

        def show(index: int, report: EpochReport) -> None:
            state: Row = {"accuracy": report.accuracy, "mass": report.total_mass, "living": report.living}
            progress.update(tasks[index], completed=report.epoch, **state)

        yield show


def halved(runs: Sequence[Run], folder: Path, source: Source) -> Row:
    """Remove half of the groups physically, save the smaller network, and return what both cost.

    Of the first run whose masses scale whole neurons: a bias that stays when its neuron's mass is gone goes
    on acting, so that no smaller network does the same.
    """
    whole = [run.experiment for run in runs if run.experiment.scaled_bias]
    nothing: Row = {"before": None, "after": None, "same_predictions": None, "same_in_onnxruntime": None}
    if not whole:
        return nothing | {"why": "masses that do not scale biases leave these behind"}
    experiment = whole[0]
    model = trained_network(experiment, folder / "runs", source).eval()
    batch = torch.zeros(experiment.batch_size, experiment.widths[0])
    before = dataclasses.asdict(nb.cost(model, batch))
    report = nb.prune_to_sparsity(model, 0.5, allow_empty=True)
    if not all(report.living):  # a layer died out: there is no smaller network
        return nothing | {"before": before, "why": "a whole layer died out"}
    nb.save_compact(nb.compact(model), folder / "half.safetensors")
    small = nb.load_compact(folder / "half.safetensors")
    images = data_of(experiment, dataclasses.replace(source, device="cpu")).test_images
    with torch.no_grad():
        predicted = model(images).argmax(1)
        same = (small(images).argmax(1) == predicted).double().mean()
    return {
        "before": before,
        "after": dataclasses.asdict(nb.cost(small, batch)),
        "same_predictions": float(same),
        "same_in_onnxruntime": exported(small, folder / "half.onnx", images, predicted.numpy()),
    }


def exported(small: torch.nn.Module, path: Path, images: torch.Tensor, predicted: np.ndarray) -> float | None:
    """Export the smaller network and return how many predictions onnxruntime shares; None without it."""
    if not importlib.util.find_spec("onnxruntime") or not importlib.util.find_spec("onnxscript"):
        return None
    runtime: Any = importlib.import_module("onnxruntime")
    nb.export_onnx(small, path, images[:2])
    (outputs,) = runtime.InferenceSession(path).run(None, {"input": images.numpy()})
    return float(np.mean(outputs.argmax(axis=1) == predicted))


def compared(number: int, runs: Sequence[Run], results: Sequence[xr.Dataset]) -> list[Row]:
    """Return a table's rows for every seed and reading: the paper's numbers, ours and the differences."""
    found: dict[tuple[int, str], dict[str, xr.Dataset]] = {}
    for run, result in zip(runs, results, strict=True):
        found.setdefault((run.experiment.seed, run.reading.name), {})[run.dynamics] = result
    return [
        {"seed": seed, "reading": name} | row
        for (seed, name), columns in found.items()
        for row in comparison(number, columns)
    ]


def labels(run: Run) -> Row:
    """Return what tells a run from the others."""
    return {"reading": run.reading.name, "dynamics": run.dynamics, "seed": run.experiment.seed}


def movements(runs: Sequence[Run], results: Sequence[xr.Dataset]) -> list[Row]:
    """Return how far the replicator moved the masses in each reading, over all seeds.

    The least and the largest final mass; and the mean of |ln p| in units of what a signal at its clip
    would have made of it: what part of the clip the selection signal used, on average over the steps.
    """
    found: dict[str, Row] = {}
    for run, result in zip(runs, results, strict=True):
        if run.dynamics == "replicator":
            e, masses = run.experiment, result["mass"].values[-1]
            with np.errstate(divide="ignore"):
                used = float(np.abs(np.log(masses)).mean()) / (steps(e) * e.step_size * SIGNAL_CLIP)
            row: Row = {"reading": run.reading.name, "departures": run.reading.departures}
            row |= {"lowest": float(masses.min()), "highest": float(masses.max()), "of_clip": used}
            former = found.setdefault(run.reading.name, row)
            former["lowest"] = min(former["lowest"], row["lowest"])
            former["highest"] = max(former["highest"], row["highest"])
    return list(found.values())


def over_seeds(number: int, rows: Sequence[Row]) -> list[Row]:
    """Return mean and intervals over the seeds for every cell of a table."""
    key, lines = LEVEL[number], []
    for which in dict.fromkeys((row["reading"], row[key], row["dynamics"]) for row in rows):
        cell = [row for row in rows if (row["reading"], row[key], row["dynamics"]) == which]
        for column in MEASURED[number]:
            found, paper = interval([row[f"ours_{column}"] for row in cell]), cell[0][f"paper_{column}"]
            line: Row = dict(zip(("reading", key, "dynamics"), which, strict=True)) | {"quantity": column}
            line |= {"paper": paper, "mean": found.mean}
            line |= dict(zip(("mean_low", "mean_high"), found.of_mean, strict=True))
            line |= dict(zip(("next_run_low", "next_run_high"), found.of_next, strict=True))
            lines.append(line | {"paper_within": found.of_next[0] <= paper <= found.of_next[1]})
    return lines


def joined(runs: Sequence[Run], results: Sequence[xr.Dataset]) -> xr.Dataset:
    """Return all runs as one dataset with dimension `run`."""
    data = xr.concat(
        results, dim="run", data_vars="all", coords="different", compat="equals", combine_attrs="drop"
    )
    coordinates = {
        "run": (np.arange(len(results)), "index of the run"),
        "reading": ([run.reading.name for run in runs], "reading of what the paper leaves open"),
        "dynamics": ([run.dynamics for run in runs], "dynamics"),
        "seed": ([run.experiment.seed for run in runs], "seed"),
    }
    return data.assign_coords(labelled("run", coordinates))


def narrow(table: Table) -> Table:
    """Return a table with one space between its columns, so that all of them fit."""
    table.padding = (0, 1, 0, 0)
    return table


def printed(number: int, rows: Sequence[Row], readings: Sequence[Reading], seed: int) -> Table:
    """Return the table of one seed: the paper's numbers and ours, with the difference from one reading."""
    key, columns, lines = LEVEL[number], MEASURED[number][:2], []
    found = {(row[key], row["dynamics"], row["reading"]): row for row in rows if row["seed"] == seed}
    for level, dynamics in dict.fromkeys((level, dynamics) for level, dynamics, _ in found):
        cells = [found[level, dynamics, one.name] for one in readings]
        line = [f"{level:g}", dynamics]
        for column in columns:
            digits = 1 if column == "sparsity_percent" else 4
            line += [f"{value:.{digits}f}" for value in (cells[0][f"paper_{column}"], *ours(cells, column))]
            if len(cells) == 1:
                line.append(f"{cells[0][f'difference_{column}']:+.{digits}f}")
        lines.append(line)
    names = [FITTING if one.name == "paper" else shortened(one.name) for one in readings]
    names += ["diff."] if len(readings) == 1 else []
    headings = [heading for c in columns for heading in (f"{HEADINGS[c]} paper", *names)]
    what = "given % of the groups removed" if number == 1 else "groups below ε removed (%)"
    title = f"Table {number}: {what}, seed {seed}"
    return narrow(_shared.table(title, (HEADINGS[key], "dynamics", *headings), lines, left=2))


def ours(cells: Sequence[Row], column: str) -> list[float]:
    """Return our numbers of one cell, one for each reading."""
    return [row[f"ours_{column}"] for row in cells]


def shortened(text: str) -> str:
    """Return text that fits into a narrow column."""
    return text if len(text) <= NARROW else f"{text[: NARROW - 1]}…"


def printed_intervals(number: int, intervals: Sequence[Row], reading: Reading, seeds: int) -> Table:
    """Return the table of means and 95 % intervals of one reading."""
    key, lines = LEVEL[number], []
    for row in intervals:
        if row["quantity"] != "drop" and row["reading"] == reading.name:
            digits = 1 if row["quantity"] == "sparsity_percent" else 4
            numbers = [f"{row[name]:.{digits}f}" for name in ("paper", "mean")]
            halves = [f"± {row[f'{of}_high'] - row['mean']:.{digits}f}" for of in ("mean", "next_run")]
            inside = "yes" if row["paper_within"] else "no"
            quantity = HEADINGS[row["quantity"]]
            lines.append((f"{row[key]:g}", row["dynamics"], quantity, *numbers, *halves, inside))
    title = f"Table {number}, {reading.departures}: {seeds} seeds, half-widths of 95 % intervals"
    columns = (HEADINGS[key], "dynamics", "", "paper", "mean", "of mean", "of a run", "paper within")
    return narrow(_shared.table(title, columns, lines, left=3))


def printed_movements(moved: Sequence[Row]) -> Table:
    """Return the table of how far each reading moved the masses, and why."""
    columns = {
        "reading": "{reading}",
        "departs in": "{departures}",
        "lowest": "{lowest:.4f}",
        "highest": "{highest:.4f}",
        "of the clip": "{of_clip:.1%}",
    }
    table = _shared.row_table("Final masses of the replicator", columns, moved, left=2)
    table.columns[1].no_wrap = False
    table.caption = (
        "of the clip: mean of |ln p| against that of a signal at its clip in every step. Read literally the "
        "gradient of a batch is too small to move a mass; gradients that are never zeroed add up until the "
        "clip binds. fitting: the reading 'paper', which gives the paper's masses."
    )
    return table


def printed_cost(half: Row) -> Table:
    """Return the table of what the network costs before and after half of its groups are gone."""
    lines = []
    for name, before in half["before"].items():
        after = half["after"][name]
        shown = [f"{1e3 * v:.3f} ms" if name == "latency" else f"{v:,}" for v in (before, after)]
        lines.append((name.replace("_", " "), *shown, f"{after / before:.1%}"))
    columns = ("cost", "before", "after", "ratio")
    return _shared.table("Half of the groups removed (replicator)", columns, lines)


if __name__ == "__main__":
    _shared.command_line(main)()
